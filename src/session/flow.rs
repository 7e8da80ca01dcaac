//! One direction's bytes in one buffer.
//!
//! ```text
//!   0        hold     out.start    out.end   raw.start     raw.end      end
//!   | headroom |  sent   |  to be sent |  gap    |  received   |  room    | tailroom
//! ```
//! `hold ≤ out.start ≤ out.end ≤ raw.start ≤ raw.end ≤ end`. What was received
//! is raw until it is passed on, replaced (a head) or framed (chunks); all that
//! is to be sent lies together, so that it goes with one send.

use crate::buf::{Buf, Pool};
use crate::limits::{BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};
use crate::parser::chunked;

/// Room that framing may need before what is to be sent: two chunks' size lines.
pub const FRAME_BYTES: usize = 48;

#[derive(Default)]
pub struct Flow {
    buf: Option<Buf>,
    out_start: usize,
    out_end: usize,
    raw_start: usize,
    raw_end: usize,
    /// From here on bytes are kept, sent or not, to be sent again.
    hold: Option<usize>,
    /// Bytes of room before received ones that are needed beyond what everybody needs.
    aside: usize,
}

impl Flow {
    /// So many bytes more are to find room before received ones: so many less are received.
    /// For a flow in which nothing lies; another one stays as it is.
    pub fn set_aside(&mut self, aside: usize) {
        if self.aside != aside && self.is_empty() {
            self.aside = aside;
            self.rewind();
        }
    }

    /// Where received bytes go; takes a buffer if there is none. Empty: full, or the pool is.
    pub fn room(&mut self, pool: &mut Pool) -> &mut [u8] {
        if self.buf.is_none() {
            self.buf = pool.take();
            self.rewind();
        }
        self.make_room();
        let end = self.end();
        match &mut self.buf {
            Some(buf) => &mut buf[self.raw_end..end],
            None => &mut [],
        }
    }

    /// Whether `room` would give any; a pool that is empty is not asked.
    pub fn has_room(&self) -> bool {
        self.buf.is_none() || self.raw_end < self.end() || self.can_compact()
    }

    /// What was received fills the buffer: it must go on, or nothing more comes.
    pub fn is_stuck(&self) -> bool {
        self.out_start == self.out_end && !self.has_room()
    }

    /// `n` bytes were put into the room.
    pub fn received(&mut self, n: usize) {
        self.raw_end += n;
        self.check();
    }

    pub fn raw(&self) -> &[u8] {
        self.buf
            .as_ref()
            .map_or(&[], |buf| &buf[self.raw_start..self.raw_end])
    }

    pub fn raw_mut(&mut self) -> &mut [u8] {
        match &mut self.buf {
            Some(buf) => &mut buf[self.raw_start..self.raw_end],
            None => &mut [],
        }
    }

    /// What is to be sent now.
    pub fn out(&self) -> &[u8] {
        self.buf
            .as_ref()
            .map_or(&[], |buf| &buf[self.out_start..self.out_end])
    }

    pub fn sent(&mut self, n: usize) {
        self.out_start += n;
        if self.out_start == self.out_end && self.raw_start == self.raw_end {
            self.rewind();
        }
        self.check();
    }

    /// Neither bytes nor a claim on some.
    pub fn is_empty(&self) -> bool {
        self.out_start == self.out_end && self.raw_start == self.raw_end && self.hold.is_none()
    }

    /// The first `n` received bytes go on as they are.
    pub fn pass(&mut self, n: usize) {
        self.join(self.raw_start);
        self.raw_start += n;
        self.out_end = self.raw_start;
        self.check();
    }

    /// The first `n` received bytes are done with.
    pub fn skip(&mut self, n: usize) {
        self.raw_start += n;
        if self.out_start == self.out_end && self.raw_start == self.raw_end {
            self.rewind();
        }
        self.check();
    }

    /// `text` goes on instead of the first `n` received bytes. False: it is too long for
    /// the room before them, of which `spare` bytes are to be left.
    #[must_use]
    pub fn replace(&mut self, n: usize, text: &[u8], spare: usize) -> bool {
        let end = self.raw_start + n;
        let pending = self.out_end - self.out_start;
        if self.buf.is_none() || end < text.len() + pending + spare {
            return false;
        }
        let start = end - text.len();
        self.join(start);
        if let Some(buf) = &mut self.buf {
            buf[start..end].copy_from_slice(text);
        }
        self.out_end = end;
        self.raw_start = end;
        self.check();
        true
    }

    /// Whether one more chunk can be framed, and after it all the rest as another: each
    /// size line pushes what is to be sent towards the start of the buffer.
    pub fn has_frame_room(&self) -> bool {
        self.raw_start >= self.out().len() + 2 * FRAME_BYTES
    }

    /// Of the first `n` received bytes those in `data` go on, as one chunk if `framed`.
    pub fn pass_data(&mut self, n: usize, data: std::ops::Range<usize>, framed: bool) {
        let (start, end) = (self.raw_start + data.start, self.raw_start + data.end);
        self.raw_start += n;
        if start == end {
            self.skip(0);
            return;
        }
        let mut line = [0; 18];
        let line = if framed {
            chunked::write_size(end - start, &mut line)
        } else {
            &[]
        };
        self.join(start - line.len());
        let Some(buf) = &mut self.buf else { return };
        buf[start - line.len()..start].copy_from_slice(line);
        self.out_end = end;
        if framed {
            // Room: the line end of the chunk that the data came in, or the tailroom.
            buf[end..end + 2].copy_from_slice(b"\r\n");
            self.out_end = end + 2;
        }
        if self.raw_start == self.raw_end {
            self.raw_start = self.out_end;
            self.raw_end = self.out_end;
        }
        self.check();
    }

    /// Bytes of our own, put behind what is to be sent. Nothing received is left before.
    pub fn append(&mut self, text: &[u8], pool: &mut Pool) -> bool {
        debug_assert_eq!(self.raw_start, self.raw_end);
        if self.buf.is_none() {
            self.buf = pool.take();
            self.rewind();
        }
        let (start, end) = (self.raw_end, self.raw_end + text.len());
        let Some(buf) = &mut self.buf else {
            return false;
        };
        let Some(room) = buf.get_mut(start..end) else {
            return false;
        };
        room.copy_from_slice(text);
        self.join(start);
        self.out_end = end;
        self.raw_start = end;
        self.raw_end = end;
        self.check();
        true
    }

    /// Bytes from another worker, to be told as received. False: they are more than there is room for.
    #[must_use]
    pub fn load_raw(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        self.buf.get_or_insert_with(|| pool.take_beyond());
        self.rewind();
        let room = self.room(pool).get_mut(..bytes.len());
        room.map(|room| room.copy_from_slice(bytes)).is_some()
    }

    /// Bytes from another worker, to be sent. False: they are more than there is room for.
    #[must_use]
    pub fn load(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let buf = self.buf.get_or_insert_with(|| pool.take_beyond());
        // A head that was put before them may have grown into the headroom.
        let end = (BUFFER_HEADROOM_BYTES + bytes.len()).min(buf.len());
        let Some(start) = end.checked_sub(bytes.len()) else {
            return false;
        };
        buf[start..end].copy_from_slice(bytes);
        (self.out_start, self.out_end) = (start, end);
        (self.raw_start, self.raw_end) = (end, end);
        self.check();
        true
    }

    /// Keeps what is to be sent from now on until `release`.
    pub fn hold(&mut self) {
        self.hold = Some(self.out_start);
    }

    pub fn release(&mut self) {
        if self.hold.take().is_some() {
            self.sent(0);
        }
    }

    /// What was kept is to be sent again.
    pub fn send_again(&mut self) {
        if let Some(hold) = self.hold {
            self.out_start = hold;
        }
        self.check();
    }

    /// What was to be sent is not any more.
    pub fn clear_out(&mut self) {
        self.hold = None;
        self.sent(self.out_end - self.out_start);
    }

    /// What was received is not to go on.
    pub fn clear_raw(&mut self) {
        self.raw_start = self.out_end;
        self.raw_end = self.out_end;
        self.sent(0);
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.hold = None;
        self.out_start = self.out_end;
        self.raw_start = self.raw_end;
        self.aside = 0;
        self.rewind();
    }

    /// Gives an empty buffer back.
    pub fn settle(&mut self, pool: &mut Pool) {
        if self.is_empty() {
            if let Some(buf) = self.buf.take() {
                pool.give(buf);
            }
        }
    }

    /// Everything there is to know of the cursors. Called by tests and the simulation.
    pub fn check(&self) {
        debug_assert!(self.hold.unwrap_or(self.out_start) <= self.out_start);
        debug_assert!(self.out_start <= self.out_end);
        debug_assert!(self.out_end <= self.raw_start);
        debug_assert!(self.raw_start <= self.raw_end);
        debug_assert!(self.raw_end <= self.buf.as_ref().map_or(usize::MAX, |buf| buf.len()));
    }

    fn end(&self) -> usize {
        self.buf
            .as_ref()
            .map_or(0, |buf| buf.len() - BUFFER_TAILROOM_BYTES)
    }

    /// Where received bytes begin in a buffer in which nothing lies.
    fn start(&self) -> usize {
        BUFFER_HEADROOM_BYTES + self.aside
    }

    /// Cursors of such a buffer.
    fn rewind(&mut self) {
        if self.hold.is_none() {
            let start = self.start();
            (self.out_start, self.out_end) = (start, start);
            (self.raw_start, self.raw_end) = (start, start);
        }
    }

    /// Moves what is to be sent so that it ends at `to`.
    fn join(&mut self, to: usize) {
        let len = self.out_end - self.out_start;
        let start = to - len;
        if len > 0 && start != self.out_start {
            debug_assert!(self.hold.is_none());
            if let Some(buf) = &mut self.buf {
                buf.copy_within(self.out_start..self.out_end, start);
            }
        }
        self.out_start = start;
        self.out_end = to;
    }

    fn can_compact(&self) -> bool {
        self.hold.is_none() && self.out_start == self.out_end && self.raw_start > self.start()
    }

    /// Received bytes move to the front when they have come to the end.
    fn make_room(&mut self) {
        if self.raw_end < self.end() || !self.can_compact() {
            return;
        }
        let raw = self.raw_start..self.raw_end;
        let (len, start) = (raw.len(), self.start());
        if let Some(buf) = &mut self.buf {
            buf.copy_within(raw, start);
        }
        self.rewind();
        self.raw_end = self.raw_start + len;
    }
}
