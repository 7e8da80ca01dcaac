//! A connection without a kernel: two queues of bytes and what befell them.
//!
//! Owns what `net::conn` and the kernel do together: short reads and writes,
//! readiness that is believed until a call says otherwise, interest that is
//! changed lazily, half-closes, and resets that take unread bytes with them.

use crate::dice::Dice;

/// What the proxy may be told by its poll.
pub const IN: u8 = 1;
pub const OUT: u8 = 2;
pub const ERR: u8 = 4;

/// Bytes on their way in one direction.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
    /// The sender has shut its side.
    pub ended: bool,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }

    pub fn peek(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Takes some of the bytes, at most `most`.
    pub fn push(&mut self, bytes: &[u8], most: usize) -> usize {
        let n = bytes.len().min(self.room()).min(most);
        self.bytes.extend_from_slice(&bytes[..n]);
        n
    }

    /// Makes room for so many bytes.
    pub fn widen(&mut self, n: usize) {
        self.capacity = self.capacity.max(self.len() + n);
    }

    pub fn take(&mut self, n: usize) {
        self.start += n;
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}

/// What a call of the proxy came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Bytes(usize),
    End,
    Block,
    Gone,
}

/// How a side ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No more bytes from here; what comes is still read.
    Shut,
    /// Nothing is read any more either.
    Close,
    Reset,
}

pub struct Wire {
    pub to_proxy: Queue,
    pub from_proxy: Queue,
    /// The peer reads no more: what the proxy sends is answered with a reset.
    peer_closed: bool,
    /// The connection was reset by the peer, or in its name.
    peer_reset: bool,
    pub proxy_closed: bool,
    /// The peer sees a reset.
    pub proxy_reset: bool,
    // What the proxy's side of the descriptor knows.
    pub readable: bool,
    pub blocked: bool,
    interest: u8,
}

impl Wire {
    pub fn new(readable: bool, dice: &mut Dice) -> Wire {
        let mut queue = || Queue {
            capacity: dice.pick(&[2, 16, 300, 3000, 20_000, 100_000]),
            ..Queue::default()
        };
        Wire {
            to_proxy: queue(),
            from_proxy: queue(),
            peer_closed: false,
            peer_reset: false,
            proxy_closed: false,
            proxy_reset: false,
            readable,
            blocked: false,
            interest: 0,
        }
    }

    // ---- the proxy's side -----------------------------------------------

    pub fn receive(&mut self, room: &mut [u8], dice: &mut Dice) -> Io {
        let mut n = self.to_proxy.len().min(room.len());
        if n == 0 {
            if self.peer_reset {
                return Io::Gone;
            }
            self.readable = self.to_proxy.ended;
            return if self.to_proxy.ended {
                Io::End
            } else {
                Io::Block
            };
        }
        if dice.percent(25) {
            // The rest has not arrived yet.
            n = dice.between(1, n);
        }
        room[..n].copy_from_slice(&self.to_proxy.peek()[..n]);
        self.to_proxy.take(n);
        self.readable = n == room.len();
        Io::Bytes(n)
    }

    pub fn send(&mut self, bytes: &[u8], dice: &mut Dice) -> Io {
        assert!(!self.from_proxy.ended, "sent behind its own end");
        if self.peer_reset {
            return Io::Gone;
        }
        if self.peer_closed {
            // The kernel takes the bytes; the peer's answers with a reset.
            self.reset_by_peer(dice);
            return Io::Bytes(bytes.len());
        }
        let most = match dice.percent(25) {
            true => dice.between(1, bytes.len()),
            false => bytes.len(),
        };
        let n = self.from_proxy.push(bytes, most);
        self.blocked = n < bytes.len();
        match n {
            0 => Io::Block,
            n => Io::Bytes(n),
        }
    }

    pub fn shut(&mut self) {
        self.from_proxy.ended = true;
    }

    /// The descriptor is closed; with bytes unread that is a reset.
    pub fn close(&mut self, reset: bool) {
        self.proxy_closed = true;
        self.from_proxy.ended = true;
        if reset || !self.to_proxy.is_empty() {
            self.proxy_reset = true;
            self.from_proxy.clear();
        }
    }

    /// What the poll has to say.
    pub fn fires(&self) -> u8 {
        if self.proxy_closed {
            return 0;
        }
        let mut events = 0;
        if !self.to_proxy.is_empty() || self.to_proxy.ended || self.peer_reset {
            events |= IN;
        }
        if self.from_proxy.room() > 0 || self.peer_closed || self.peer_reset {
            events |= OUT;
        }
        events &= self.interest;
        if self.peer_reset && self.interest != 0 {
            events |= ERR;
        }
        events
    }

    pub fn fired(&mut self, events: u8) {
        self.readable |= events & (IN | ERR) != 0;
        self.blocked &= events & (OUT | ERR) == 0;
    }

    /// Interest changes when something wanted is missing or something unwanted fires again and again.
    pub fn watch(&mut self, read: bool, write: bool) {
        let want = (u8::from(read) * IN) | (u8::from(write) * OUT);
        let missing = want & !self.interest != 0;
        let noisy =
            self.interest & OUT != 0 && !write || self.interest & IN != 0 && !read && self.readable;
        if missing || noisy {
            self.interest = want;
        }
    }

    // ---- the peer's side ------------------------------------------------

    /// Returns how many bytes went.
    pub fn push(&mut self, bytes: &[u8], most: usize) -> usize {
        if self.proxy_closed {
            self.proxy_reset = true;
            self.from_proxy.clear();
            return bytes.len().min(most);
        }
        self.to_proxy.push(bytes, most)
    }

    /// Nothing more comes from the proxy, and all that came was read.
    pub fn is_over(&self) -> bool {
        self.proxy_reset || self.from_proxy.ended && self.from_proxy.is_empty()
    }

    pub fn end(&mut self, ending: Ending, dice: &mut Dice) {
        match ending {
            Ending::Shut => self.to_proxy.ended = true,
            Ending::Close => {
                self.to_proxy.ended = true;
                self.peer_closed = true;
                if !self.from_proxy.is_empty() {
                    self.reset_by_peer(dice);
                }
            }
            Ending::Reset => self.reset_by_peer(dice),
        }
    }

    fn reset_by_peer(&mut self, dice: &mut Dice) {
        self.peer_closed = true;
        self.peer_reset = true;
        self.from_proxy.clear();
        if dice.percent(50) {
            self.to_proxy.clear();
        }
    }
}
