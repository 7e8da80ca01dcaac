//! Bytes from socket to socket through a pipe, unseen (splice(2)).
//!
//! The session only says how many may pass; whether they are worth it, and
//! where they wait when the receiver is slow, is decided here. Bytes in a pipe
//! are counted when they leave it.

use std::io::ErrorKind::WouldBlock;

use crate::limits::{PIPE_BYTES, SPLICE_BYTES_MIN};
use crate::session::{Event, Side};
use crate::sys::pipe::Pipe;
use crate::worker::drive::Turn;
use std::os::fd::BorrowedFd;

/// The pipe of one direction.
pub struct Lane {
    pipe: Pipe,
    /// The sender has shut its side; what is in the pipe goes first.
    ended: bool,
}

impl Lane {
    /// One that came with a connection from another worker.
    pub fn of(pipe: Pipe, ended: bool) -> Lane {
        Lane { pipe, ended }
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        self.pipe.ends()
    }
}

/// The pipes of one connection, by where the bytes come from.
#[derive(Default)]
pub struct Lanes {
    front: Option<Lane>,
    back: Option<Lane>,
}

impl Lanes {
    fn lane(&mut self, from: Side) -> &mut Option<Lane> {
        match from {
            Side::Front => &mut self.front,
            Side::Back => &mut self.back,
        }
    }

    pub fn get(&self, from: Side) -> Option<&Lane> {
        match from {
            Side::Front => self.front.as_ref(),
            Side::Back => self.back.as_ref(),
        }
    }

    pub fn put(&mut self, from: Side, lane: Lane) {
        *self.lane(from) = Some(lane);
    }

    pub fn is_empty(&self) -> bool {
        self.front.is_none() && self.back.is_none()
    }

    /// Whether bytes from that side wait in a pipe.
    pub fn holds(&self, from: Side) -> bool {
        self.get(from)
            .is_some_and(|lane| lane.pipe.held() > 0 || lane.ended)
    }
}

impl Turn<'_> {
    /// Moves bytes from that side to the other if that is worth it. `None`: they are to be copied.
    pub fn lend(&mut self, from: Side) -> Option<usize> {
        let unseen = self.slot.session.unseen(from);
        let bulky = unseen >= SPLICE_BYTES_MIN && (unseen < u64::MAX || self.slot.bulk(from));
        let holds = self
            .slot
            .lanes
            .as_ref()
            .is_some_and(|lanes| lanes.holds(from));
        let mut plain = |side| self.conn(side).is_none_or(|conn| conn.plain().is_some());
        if !plain(from) || !plain(from.other()) {
            return None;
        }
        // Bytes in the pipe for a side that takes no more are lost; to try again would never end.
        if unseen == 0 || !bulky && !holds {
            self.end_lane(from);
            return None;
        }
        let mut lane = match self.take_lane(from) {
            Some(lane) => lane,
            None => Lane {
                pipe: Pipe::new(PIPE_BYTES).ok()?,
                ended: false,
            },
        };
        let moved = self.pump(from, &mut lane, unseen);
        if lane.pipe.held() == 0 && lane.ended {
            self.on(Event::Ended(from));
            return Some(1);
        }
        if !self.slot.session.is_closed() {
            self.slot.lanes.get_or_insert_default().put(from, lane);
        }
        Some(moved)
    }

    fn take_lane(&mut self, from: Side) -> Option<Lane> {
        self.slot.lanes.as_mut()?.lane(from).take()
    }

    fn end_lane(&mut self, from: Side) {
        self.take_lane(from);
        if self
            .slot
            .lanes
            .as_ref()
            .is_some_and(|lanes| lanes.is_empty())
        {
            self.slot.lanes = None;
        }
    }

    /// Into the pipe and out of it, once each.
    fn pump(&mut self, from: Side, lane: &mut Lane, unseen: u64) -> usize {
        let held = lane.pipe.held();
        let max = usize::try_from(unseen)
            .unwrap_or(usize::MAX)
            .saturating_sub(held);
        if held == 0 && max > 0 && !lane.ended {
            let Some(conn) = self.conn(from).filter(|conn| conn.readable) else {
                return 0;
            };
            match conn.plain().map(|stream| lane.pipe.fill(stream, max)) {
                Some(Ok(0)) => lane.ended = true,
                Some(Ok(n)) => self.slot.set_bulk(from, n as u64 >= SPLICE_BYTES_MIN / 8),
                Some(Err(e)) if e.kind() == WouldBlock => conn.readable = false,
                _ => {
                    self.on(Event::Lost(from));
                    return 1;
                }
            }
        }
        self.drain(from, lane)
    }

    fn drain(&mut self, from: Side, lane: &mut Lane) -> usize {
        let to = from.other();
        let Some(conn) = self.conn(to).filter(|conn| !conn.blocked) else {
            return 0;
        };
        if lane.pipe.held() == 0 {
            return 0;
        }
        match conn.plain().map(|stream| lane.pipe.drain(stream)) {
            Some(Ok(n)) => {
                conn.blocked = lane.pipe.held() > 0;
                self.on(Event::Lent(from, n as u64));
                n
            }
            Some(Err(e)) if e.kind() == WouldBlock => {
                conn.blocked = true;
                0
            }
            _ => {
                self.on(Event::Unsendable(to));
                1
            }
        }
    }
}
