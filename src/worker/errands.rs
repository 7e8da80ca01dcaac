//! Connections to unix sockets, which this worker's sandbox neither makes nor finds: the connector makes them.
//!
//! ```text
//!   worker: a stand-in, "connect" ──▶ connector: connect(2) ──"connected", descriptor──▶ worker: it takes the stand-in's place
//! ```
//! A stand-in is a socket that is connected to nothing. It has a descriptor, so that all goes on as with one
//! that is being connected, TLS that waits for it and limits of time among them; epoll is not told of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::connector::{cancellation, question, read_answer};
use crate::net::token::{self, Kind};
use crate::state::Address;
use crate::sys::epoll::{self, Epoll};
use crate::sys::{passing, socket};

/// Longest answer, in bytes.
const ANSWER_BYTES: usize = 512;

struct Wanted {
    path: Rc<str>,
    /// When nobody will wait for it any more.
    until_ms: u64,
    asked: bool,
}

#[derive(Default)]
pub struct Errands {
    /// Where the connector is asked.
    desk: Option<OwnedFd>,
    /// What is wanted, by the tokens of the stand-ins.
    wanted: BTreeMap<u64, Wanted>,
    /// Of these, what was not asked yet.
    unasked: VecDeque<u64>,
    /// What was asked and is not wanted any more.
    cancelled: VecDeque<(u64, Rc<str>)>,
    /// It takes no question now; epoll says when it does.
    blocked: bool,
}

impl Errands {
    /// A socket that is being connected, and the path if the connector has still to be asked for it. Where there is
    /// none, as between two programs, what is asked waits for the next one.
    pub fn dial(address: &Address) -> io::Result<(TcpStream, Option<Rc<str>>)> {
        match address {
            Address::Inet(address) => Ok((socket::connect(*address)?, None)),
            Address::Unix(path) => Ok((socket::stand_in()?, Some(Rc::clone(path)))),
            Address::Name { .. } => Err(io::Error::other("a name is no address")),
        }
    }

    /// For the stand-in that is known by this token.
    pub fn ask(&mut self, token: u64, path: Rc<str>, until_ms: u64) {
        let wanted = Wanted {
            path,
            until_ms,
            asked: false,
        };
        self.wanted.insert(token, wanted);
        self.unasked.push_back(token);
    }

    /// Nobody waits for it any more.
    pub fn forget(&mut self, token: u64) {
        if self.wanted.is_empty() {
            return;
        }
        if let Some(wanted) = self.wanted.remove(&token).filter(|wanted| wanted.asked) {
            self.cancelled.push_back((token, wanted.path));
        }
    }

    /// Another connector from now on, or the same one by another way: it is asked all that is still wanted.
    pub fn open(&mut self, desk: OwnedFd, poll: &Epoll) {
        if let Some(old) = self.desk.take() {
            let _ = poll.remove(old.as_fd());
        }
        let token = token::pack_single(Kind::Desk);
        if let Err(e) = poll.add(desk.as_fd(), epoll::IN, token) {
            return log::error!("epoll_ctl for the connector: {e}");
        }
        self.desk = Some(desk);
        self.wanted
            .values_mut()
            .for_each(|wanted| wanted.asked = false);
        self.unasked = self.wanted.keys().copied().collect();
        self.cancelled.clear();
        self.blocked = false;
    }

    /// Asks what was not asked.
    pub fn send(&mut self, poll: &Epoll) {
        let Some(desk) = &self.desk else { return };
        let was_blocked = std::mem::take(&mut self.blocked);
        let takes = |line: &str| {
            let sent = passing::send(desk, line.as_bytes(), &[]);
            !sent.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
        };
        while let Some((ticket, path)) = self.cancelled.front() {
            self.blocked = !takes(&cancellation(*ticket, path));
            if self.blocked {
                break;
            }
            self.cancelled.pop_front();
        }
        while let Some(ticket) = self.unasked.front().filter(|_| !self.blocked) {
            if let Some(wanted) = self.wanted.get_mut(ticket) {
                self.blocked = !takes(&question(*ticket, &wanted.path, wanted.until_ms));
                wanted.asked = !self.blocked;
            }
            if !self.blocked {
                self.unasked.pop_front();
            }
        }
        if self.blocked != was_blocked {
            let out = if self.blocked { epoll::OUT } else { 0 };
            let token = token::pack_single(Kind::Desk);
            // An error: it is gone, which the next read says.
            let _ = poll.modify(desk.as_fd(), epoll::IN | out, token);
        }
    }

    pub fn has_unasked(&self) -> bool {
        let idle = self.unasked.is_empty() && self.cancelled.is_empty();
        !self.blocked && !idle
    }

    /// The next answer that is still wanted. Where the connector has gone, what is wanted waits for the next one.
    pub fn next_answer(&mut self, poll: &Epoll) -> Option<(u64, Result<OwnedFd, String>)> {
        loop {
            let (mut room, mut fds) = ([0; ANSWER_BYTES], Vec::<OwnedFd>::new());
            match passing::receive(self.desk.as_ref()?, &mut room, &mut fds) {
                Ok(received) if received.bytes > 0 => {
                    let line = std::str::from_utf8(&room[..received.bytes]).unwrap_or_default();
                    let answer = read_answer(line, fds.pop());
                    let wanted = |(ticket, _): &(u64, _)| self.wanted.remove(ticket).is_some();
                    if let Some(answer) = answer.filter(wanted) {
                        return Some(answer);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                _ => {
                    let desk = self.desk.take()?;
                    let _ = poll.remove(desk.as_fd());
                }
            }
        }
    }
}
