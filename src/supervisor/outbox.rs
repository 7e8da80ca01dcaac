//! What a control client has still to read.
//!
//! Long pieces are shared: a dump among all who asked for the same one, an
//! event among all who listen. So what nobody reads costs little.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::rc::Rc;

use crate::limits::{
    CONTROL_REPLY_BYTES_MAX, EVENTS_ALL_BYTES_MAX, EVENTS_BYTES_MAX, EVENTS_PIECES_MAX,
};

/// Pieces handed to the kernel at once.
const PIECES_MAX: usize = 64;

enum Piece {
    Own(Vec<u8>),
    Shared(Rc<str>),
    Event(Rc<Event>),
}

/// What an event takes beside its text, in bytes.
const EVENT_BYTES: usize = 96;

/// Bytes of the events that somebody has still to read.
#[derive(Clone, Default)]
pub struct Unread(Rc<Cell<usize>>);

/// What has happened, as it is told to all who listen.
pub struct Event {
    text: String,
    unread: Unread,
}

impl Unread {
    pub fn event(&self, text: &str) -> Rc<Event> {
        self.0.set(self.0.get() + text.len() + EVENT_BYTES);
        Rc::new(Event {
            text: text.to_string(),
            unread: self.clone(),
        })
    }

    /// Whoever has something to read hears of nothing more.
    pub fn is_too_much(&self) -> bool {
        self.0.get() > EVENTS_ALL_BYTES_MAX
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let all = &self.unread.0;
        all.set(all.get() - self.text.len() - EVENT_BYTES);
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(text) => text.as_bytes(),
            Piece::Event(event) => event.text.as_bytes(),
        }
    }
}

/// Bytes to be sent, in order.
#[derive(Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent.
    sent: usize,
    len: usize,
}

impl Outbox {
    /// Bytes that are not sent.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, text: &str) {
        self.len += text.len();
        match self.pieces.back_mut() {
            Some(Piece::Own(bytes)) => bytes.extend_from_slice(text.as_bytes()),
            _ if text.is_empty() => {}
            _ => self.pieces.push_back(Piece::Own(text.into())),
        }
    }

    /// Of what was somebody else's to send: a piece of its own, which goes away once it is sent.
    pub fn push_piece(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push_back(Piece::Own(bytes));
        }
    }

    /// What is not sent, piece by piece.
    pub fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        let rest = move |piece| {
            let bytes = Piece::bytes(piece);
            bytes.get(std::mem::take(&mut skip)..).unwrap_or_default()
        };
        self.pieces.iter().map(rest)
    }

    pub fn push_shared(&mut self, text: Rc<str>) {
        if !text.is_empty() {
            self.len += text.len();
            self.pieces.push_back(Piece::Shared(text));
        }
    }

    /// False: there is too much already.
    pub fn push_event(&mut self, event: &Rc<Event>) -> bool {
        let full = self.len > EVENTS_BYTES_MAX
            || self.pieces.len() >= EVENTS_PIECES_MAX
            || !self.is_empty() && event.unread.is_too_much();
        if !full {
            self.len += event.text.len();
            self.pieces.push_back(Piece::Event(Rc::clone(event)));
        }
        !full
    }

    /// Sends what the other side takes now. That it takes no more is no error.
    pub fn send(&mut self, mut to: impl Write) -> io::Result<()> {
        while !self.is_empty() {
            let slices: Vec<IoSlice> = self.unsent().take(PIECES_MAX).map(IoSlice::new).collect();
            match to.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.drop_sent(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A piece that is never read to its end, because more comes behind it, does not grow.
    fn forget_sent(&mut self) {
        if let Some(Piece::Own(bytes)) = self.pieces.front_mut() {
            if self.sent >= CONTROL_REPLY_BYTES_MAX {
                bytes.drain(..self.sent);
                self.sent = 0;
            }
        }
    }

    fn drop_sent(&mut self, n: usize) {
        self.len -= n;
        self.sent += n;
        while let Some(first) = self.pieces.front() {
            let length = first.bytes().len();
            if self.sent < length {
                self.forget_sent();
                return;
            }
            self.sent -= length;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and now and then none.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.1 % 7);
            self.0.extend_from_slice(&bytes[..n.max(1)]);
            Ok(n.max(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_goes_out_in_order() {
        let mut outbox = Outbox::default();
        let mut wanted = String::new();
        let long: Rc<str> = "abcdefghijklmnopqrstuvwxyz".repeat(3).into();
        let mut slow = Slow(Vec::new(), 0);
        for n in 0..200 {
            let own = format!("{n} ");
            outbox.push(&own);
            outbox.push("");
            outbox.push_shared(long.clone());
            wanted = wanted + &own + &long;
            outbox.send(&mut slow).unwrap();
            assert_eq!(slow.0.len() + outbox.len(), wanted.len());
        }
        while !outbox.is_empty() {
            outbox.send(&mut slow).unwrap();
        }
        assert_eq!(slow.0, wanted.as_bytes());
        assert_eq!(Rc::strong_count(&long), 1);
    }

    /// Takes all but the last byte, then nothing.
    struct AllButOne(bool);

    impl Write for AllButOne {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = !self.0;
            match self.0 && bytes.len() > 1 {
                true => Ok(bytes.len() - 1),
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_read_takes_no_room() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.push(&"x".repeat(1000));
            outbox.send(&mut AllButOne(false)).unwrap();
            assert!(!outbox.is_empty());
        }
        let room = outbox.pieces.iter().map(|piece| piece.bytes().len());
        assert!(room.sum::<usize>() <= 2 * CONTROL_REPLY_BYTES_MAX);
    }

    #[test]
    fn events_that_nobody_reads_have_a_bound() {
        let unread = Unread::default();
        let (mut slow, mut late) = (Outbox::default(), Outbox::default());
        let kept = |event: &str, outbox: &mut Outbox| outbox.push_event(&unread.event(event));
        let small = (0..).take_while(|_| kept("x", &mut slow)).count();
        assert_eq!(small, EVENTS_PIECES_MAX);
        let long = "x".repeat(EVENTS_BYTES_MAX);
        let mut others: Vec<Outbox> = Vec::new();
        while !unread.is_too_much() {
            let mut other = Outbox::default();
            assert!(kept(&long, &mut other));
            others.push(other);
        }
        // Who has read everything hears of it, and then of no more.
        assert!(kept("x", &mut late) && !kept("x", &mut late));
        drop((slow, others));
        assert!(kept("x", &mut late));
        drop(late);
        assert_eq!(unread.0.get(), 0);
    }
}
