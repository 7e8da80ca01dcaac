//! Connections that come from a worker that retires.
//!
//! What it says is taken as what a hijacked one might say: what it hands over as a
//! connection is looked at; it is believed about the connections that it hands over, and of each of them it could have said
//! the same to the client itself; and about backends that fail, which makes the
//! new one leave them alone for a minute at most.

use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::limits::{MOVED_BYTES_MAX, MOVES_PER_TURN};
use crate::metrics::Count;
use crate::net::conn::Conn;
use crate::net::token::{self, Kind};
use crate::proto::command::Command;
use crate::proto::line::{join, Word};
use crate::session::moved::{Moved, What};
use crate::session::{Event, Server, Session, Side, Target};
use crate::slab::Key;
use crate::state::{Address, Change, Timeouts};
use crate::sys::pipe::Pipe;
use crate::sys::{epoll, passing, socket};
use crate::worker::admit::entered;
use crate::worker::drive::Slot;
use crate::worker::lend::{Lane, Lanes};
use crate::worker::pool::legacy;
use crate::worker::Worker;

impl Worker {
    /// Another worker hands over what rests there, by that socket.
    pub(super) fn inherit(&mut self, link: OwnedFd) {
        let key = self.legacies.insert(link);
        let Some(link) = self.legacies.get(key) else {
            return;
        };
        let token = token::pack(Kind::Legacy, key);
        if let Err(e) = self.poll.add(link.as_fd(), epoll::IN, token) {
            log::error!("epoll_ctl for the link from the last worker: {e}");
            self.legacies.remove(key);
        }
    }

    /// There are connections, or it has ended.
    pub(super) fn legacy_ready(&mut self, key: Key) {
        // Of these pages only those take memory that a message was written to.
        let mut buffer = vec![0; MOVED_BYTES_MAX];
        for _ in 0..MOVES_PER_TURN {
            let Some(link) = self.legacies.get(key) else {
                break;
            };
            let mut fds: Vec<OwnedFd> = Vec::new();
            match passing::receive(link, &mut buffer, &mut fds) {
                Ok(received) if received.bytes == 0 => {
                    self.legacies.remove(key);
                }
                Ok(received) => {
                    let line = std::str::from_utf8(&buffer[..received.bytes]).unwrap_or_default();
                    if line.starts_with(legacy::SUBJECT) {
                        self.backs.take_legacy(line, self.now_us / 1000);
                        continue;
                    }
                    let moved = Moved::decode(line).filter(|_| received.whole);
                    if moved.and_then(|moved| self.arrive(moved, fds)).is_none() {
                        log::error!(
                            "a connection from the last worker is lost: not all of it came"
                        );
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    log::error!("the link from the last worker: {e}");
                    self.legacies.remove(key);
                }
            }
        }
    }

    /// `None`: it cannot be taken over, and is closed.
    fn arrive(&mut self, moved: Moved, fds: Vec<OwnedFd>) -> Option<()> {
        let mut fds = fds.into_iter();
        let door = self.door_for(moved.listener, moved.protocol)?;
        let mut connection = |unix| {
            let stream = TcpStream::from(fds.next()?);
            socket::is_connection(&stream, unix).then_some(stream)
        };
        let front = Conn::new(connection(false)?, false);
        let (mut back, mut lanes, mut whither) = (None, None, None);
        if let What::Tunnel(tunnel) = &moved.what {
            let stream = connection(matches!(tunnel.address, Address::Unix(_)))?;
            let mut both = Lanes::default();
            for (from, way) in [(Side::Front, &tunnel.up), (Side::Back, &tunnel.down)] {
                if let Some(ended) = way.pipe {
                    let pipe = Pipe::of(fds.next()?, fds.next()?).ok()?;
                    both.put(from, Lane::of(pipe, ended));
                }
            }
            lanes = (!both.is_empty()).then(|| Box::new(both));
            let target = self.backs.target_or_stray(&tunnel.cluster)?;
            let (key, server) = self.backs.take_over(stream, tunnel)?;
            back = Some(key);
            whither = Some((target, server));
        }
        let installed = self.install(&moved, door, front, whither);
        if let (None, Some(back)) = (&installed, back) {
            self.backs.close(back);
        }
        let (key, came) = installed?;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.back = back;
            slot.lanes = lanes;
        }
        if let Some(back) = back.and_then(|back| self.backs.conns.get_mut(back)) {
            back.owner = Some(key);
        }
        self.with_turn(key, |turn| {
            if came > 0 {
                turn.on(Event::Received(Side::Front, came));
            }
            turn.run();
        });
        Some(())
    }

    /// Its slot, and how many bytes of a head were put into its room.
    fn install(
        &mut self,
        moved: &Moved,
        door: Key,
        front: Conn,
        whither: Option<(Rc<Target>, Rc<Server>)>,
    ) -> Option<(Key, usize)> {
        let entrance = self.doors.get_mut(door)?;
        let mut world = self.tools.world(&entrance.door, self.now_us, self.stay);
        let (session, came) = Session::arrives(moved, whither, &mut world)?;
        entrance.enter();
        self.tally.row(entrance.door.series).add(Count::Open, 1);
        let place = entered(&entrance.door.listener, moved.peer, &self.tally);
        let mut slot = Slot::new(session, front, door, moved.accepted_us);
        slot.place = place;
        slot.inherited = true;
        let key = self.insert(slot);
        let load = self.slots.get(key).and_then(|slot| self.load_of(slot));
        self.recount(None, load);
        Some((key, came))
    }
}

/// What is not configured here any more, as the command says that would add it.
pub fn made_up(noun: &str, pairs: &[(&str, String)]) -> Option<Change> {
    let pairs = pairs.iter().map(|(key, value)| Word::Pair {
        key: key.to_string(),
        value: value.clone(),
    });
    let add = [noun, "add"].map(|word| Word::Bare(word.to_string()));
    let words: Vec<Word> = add.into_iter().chain(pairs).collect();
    match Command::decode(&join(&words), &ANY_TIMEOUTS).ok()? {
        Command::Change(change) => Some(change),
        _ => None,
    }
}

/// Of a listener alone; who makes one up puts its own in their place.
const ANY_TIMEOUTS: Timeouts = Timeouts {
    front: 1,
    back: 1,
    connect: 1,
    request: 1,
    keepalive: 1,
    tunnel: 1,
};
