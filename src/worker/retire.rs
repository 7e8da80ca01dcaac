//! A worker that takes nothing new: what it holds goes to its heir, or ends here.
//!
//! Main starts another worker in its place and gives both an end of a socket
//! (`retire`, `inherit`). What rests is sent over it, a message each: a line
//! (`session::moved`) with the descriptors. A message that was taken by the
//! kernel is the heir's; one that was not leaves the connection as it was. So
//! a connection is always served by one of the two, and no byte is in neither.
//!
//! What does not rest goes on here, and moves when it comes to rest: after its
//! answer. What cannot move (TLS, whose state lies in this process) ends here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::limits::MOVES_PER_TURN;
use crate::net::board::{Cell, Fate, Load};
use crate::net::token::{self, Kind};
use crate::session::moved::{Moved, What};
use crate::session::{Session, Side, Stay};
use crate::slab::Key;
use crate::state::Protocol;
use crate::sys::epoll;
use crate::sys::passing;
use crate::worker::drive::Slot;
use crate::worker::Worker;

/// Who takes what rests.
struct Heir {
    link: OwnedFd,
    /// Its row on the board.
    row: usize,
    /// It takes nothing now; epoll says when it does again.
    blocked: bool,
}

/// How far a worker that ends has come.
#[derive(Default)]
pub struct Retirement {
    heir: Option<Heir>,
    /// Slots that were not tried yet.
    sweep: Vec<Key>,
    /// Main waits to hear that all were.
    swept: bool,
}

impl Retirement {
    /// There is more to do at once, whatever epoll says.
    pub fn is_busy(&self) -> bool {
        let open = self.heir.as_ref().is_some_and(|heir| !heir.blocked);
        open && !self.sweep.is_empty()
    }

    /// Clients whose connections can move need not be told to go.
    pub fn has_heir(&self) -> bool {
        self.heir.is_some()
    }
}

/// Why a connection has not moved.
enum Stays {
    /// It does not rest, or is none that can.
    Here,
    /// The heir takes nothing now.
    ForNow,
    /// There is no heir any more.
    Alone,
}

impl Slot {
    /// What it is doing, as the report has it.
    pub fn load(&self, protocol: Protocol) -> Load {
        match (
            protocol.behind(),
            self.session.is_tunnel(),
            self.session.is_idle(),
        ) {
            (Protocol::Tcp, _, _) => Load::Tcp,
            (_, true, _) => Load::Websocket,
            (_, false, true) => Load::Idle,
            (_, false, false) => Load::Request,
        }
    }
}

impl Worker {
    /// Takes nothing new. What rests goes to the heir, if there is one; who cannot move
    /// finishes here, and is told with its next answer to come back to somebody else.
    /// Nobody idle is closed. Told again: there is another heir.
    pub(super) fn retire(&mut self, link: Option<OwnedFd>, row: usize) {
        let first = self.stay == Stay::Welcome;
        if first {
            self.stay = Stay::Told;
            // First out of the queues, then everyone who waits: for who comes from then on
            // the kernel wakes somebody else.
            self.shut_doors();
            self.accept_waiting();
            self.close_doors();
        }
        self.count_down();
        let heir = link.and_then(|link| {
            let token = token::pack_single(Kind::Heir);
            // Only to hear of room when there was none, and of its end.
            match self.poll.add(link.as_fd(), epoll::OUT | epoll::EDGE, token) {
                Ok(()) => Some(Heir {
                    link,
                    row,
                    blocked: false,
                }),
                Err(e) => {
                    log::error!("epoll_ctl for the link to the next worker: {e}");
                    None
                }
            }
        });
        if let Some(heir) = heir.as_ref().filter(|_| first) {
            // Later it is no news, and the heir of the heir knows better.
            for message in self.backs.legacy() {
                // What the heir does not hear it finds out.
                let _ = passing::send(&heir.link, message.as_bytes(), &[]);
            }
        }
        let sweep = self.slots.keys();
        if let Some(retirement) = &mut self.retirement {
            retirement.heir = heir;
            retirement.sweep = sweep;
            retirement.swept = false;
        }
        self.sweep();
    }

    /// From now on it is counted what becomes of every connection.
    pub(super) fn count_down(&mut self) {
        if self.retirement.is_some() {
            return;
        }
        self.retirement = Some(Retirement::default());
        for (_, slot) in self.slots.iter() {
            if let Some(load) = self.load_of(slot) {
                self.board.add_fate(self.id, load, Fate::Draining, 1);
            }
        }
    }

    pub(super) fn load_of(&self, slot: &Slot) -> Option<Load> {
        let entrance = self.doors.get(slot.door)?;
        Some(slot.load(entrance.door.listener.protocol))
    }

    /// It was `before` and is something else now.
    pub(super) fn recount(&mut self, before: Option<Load>, now: Option<Load>) {
        if self.retirement.is_none() || before == now {
            return;
        }
        if let Some(load) = before {
            self.board.add_fate(self.id, load, Fate::Draining, -1);
        }
        if let Some(load) = now {
            self.board.add_fate(self.id, load, Fate::Draining, 1);
        }
    }

    /// A connection is no longer here.
    pub(super) fn count_end(&mut self, load: Option<Load>, fate: Fate) {
        if let (Some(load), Some(_)) = (load, &self.retirement) {
            self.board.add_fate(self.id, load, Fate::Draining, -1);
            self.board.add_fate(self.id, load, fate, 1);
        }
    }

    /// epoll has something to say of the link: there is room, or nobody reads it any more.
    pub(super) fn heir_ready(&mut self, ready: u32) {
        let Some(heir) = self.retirement.as_mut().and_then(|r| r.heir.as_mut()) else {
            return;
        };
        heir.blocked = false;
        if ready & (epoll::HUP | epoll::ERR) != 0 {
            self.disinherit();
        }
    }

    /// Nobody takes anything any more: all that is here ends here.
    pub(super) fn disinherit(&mut self) {
        if let Some(retirement) = &mut self.retirement {
            if let Some(heir) = retirement.heir.take() {
                let _ = self.poll.remove(heir.link.as_fd());
                log::debug!("the next worker takes no more connections");
            }
            retirement.sweep.clear();
        }
    }

    /// Part of every turn.
    pub(super) fn sweep_on(&mut self) {
        if self.retirement.as_ref().is_some_and(Retirement::is_busy) {
            self.sweep();
        }
    }

    /// Some of those that were not tried yet; says so to main when all were.
    fn sweep(&mut self) {
        for _ in 0..MOVES_PER_TURN {
            let Some(retirement) = self.retirement.as_mut().filter(|r| r.is_busy()) else {
                break;
            };
            let Some(key) = retirement.sweep.pop() else {
                break;
            };
            if self.move_if_resting(key) {
                continue;
            }
            // Refused for now, it is the first one when there is room again.
            if let Some(retirement) = &mut self.retirement {
                if retirement.heir.as_ref().is_some_and(|heir| heir.blocked) {
                    retirement.sweep.push(key);
                }
            }
        }
        let over =
            |r: &mut Retirement| r.sweep.is_empty() && !std::mem::replace(&mut r.swept, true);
        if self.retirement.as_mut().is_some_and(over) {
            self.tell("swept");
        }
    }

    /// At the end of a connection's turn. True: it is gone.
    pub(super) fn move_if_resting(&mut self, key: Key) -> bool {
        match self.try_to_move(key) {
            Ok(()) => true,
            Err(Stays::Here) => false,
            Err(Stays::ForNow) => {
                let heir = self.retirement.as_mut().and_then(|r| r.heir.as_mut());
                if let Some(heir) = heir {
                    heir.blocked = true;
                }
                false
            }
            Err(Stays::Alone) => {
                self.disinherit();
                false
            }
        }
    }

    fn try_to_move(&mut self, key: Key) -> Result<(), Stays> {
        let retirement = self.retirement.as_ref().ok_or(Stays::Alone)?;
        let heir = retirement.heir.as_ref().ok_or(Stays::Here)?;
        let slot = self.slots.get(key).ok_or(Stays::Here)?;
        let load = self.load_of(slot);
        let (moved, fds) = self.departure(slot).ok_or(Stays::Here)?;
        let taken = self.board.get(heir.row, Cell::Connections);
        if heir.blocked || taken >= self.max_connections as u64 {
            return Err(if heir.blocked {
                Stays::ForNow
            } else {
                Stays::Here
            });
        }
        match passing::send(&heir.link, moved.encode().as_bytes(), &fds) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(Stays::ForNow),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(Stays::Alone),
            Err(e) => {
                log::debug!("{} stays: {e}", moved.peer);
                return Err(Stays::Here);
            }
        }
        self.depart(key);
        self.count_end(load, Fate::Moved);
        Ok(())
    }

    /// What goes along with a connection that rests: the client's socket, the backend's,
    /// the ends of the pipes upwards and downwards.
    fn departure<'w>(&'w self, slot: &'w Slot) -> Option<(Moved, Vec<BorrowedFd<'w>>)> {
        let listener = &self.doors.get(slot.door)?.door.listener;
        let front = slot.front.plain().filter(|_| !slot.reset)?;
        let mut what = slot.session.departs()?;
        let mut fds = vec![front.as_fd()];
        if let What::Tunnel(tunnel) = &mut what {
            let back = self.backs.conns.get(slot.back?)?;
            fds.push(back.conn.plain().filter(|_| !back.connecting)?.as_fd());
            let ways = [
                (Side::Front, &mut tunnel.up),
                (Side::Back, &mut tunnel.down),
            ];
            for (from, way) in ways {
                let lane = slot.lanes.as_ref().and_then(|lanes| lanes.get(from));
                way.pipe = lane.map(|lane| lane.ended());
                fds.extend(lane.iter().flat_map(|lane| lane.ends()));
            }
        }
        let moved = Moved {
            listener: listener.address,
            protocol: listener.protocol,
            peer: slot.session.peer(),
            accepted_us: slot.accepted_us,
            since_us: slot.session.since_us(),
            what,
        };
        Some((moved, fds))
    }

    /// It is the heir's: what is ours of it goes, and nobody at its ends notices.
    fn depart(&mut self, key: Key) {
        let Some(mut slot) = self.slots.remove(key) else {
            return;
        };
        self.timers.cancel(key.index);
        // The sockets live on elsewhere: epoll would go on telling us of them.
        slot.front.forget(&self.poll);
        if let Some(back) = slot.back.take() {
            if let Some(back) = self.backs.conns.get_mut(back) {
                back.conn.forget(&self.poll);
            }
            self.backs.close(back);
        }
        self.forget_session(&mut slot.session, slot.door);
        self.left(slot.door, slot.place, false);
    }

    fn forget_session(&mut self, session: &mut Session, door: Key) {
        if let Some(entrance) = self.doors.get(door) {
            let mut world = self.tools.world(&entrance.door, self.now_us, Stay::Welcome);
            session.forget(&mut world);
        }
    }
}
