//! The loop that all clients share, and another one that all backends share: who has something to do has a turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

use sozu_lib::sys::epoll::{self, Epoll, Events};
use sozu_lib::sys::socket;

use super::wire::Wire;

const EVENTS: usize = 512;
/// So often it asks whether to go on.
const WAIT_MS_MAX: u64 = 20;
const DOORS: u64 = 1 << 48;

/// When a turn is wanted, beside those for what its connections have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    At(u64),
    Ready,
    Done,
}

/// A client or backend. A turn may come without any reason.
pub trait Actor: Send {
    /// Microseconds since the start.
    fn turn(&mut self, now_us: u64) -> Next;
    fn wires(&mut self) -> [Option<&mut Wire>; 2];
}

struct Seat {
    actor: Box<dyn Actor>,
    due_us: Option<u64>,
}

type Greeter = Box<dyn FnMut(TcpStream) -> Box<dyn Actor> + Send>;

pub struct Reactor {
    poll: Epoll,
    start: Instant,
    seats: Vec<Option<Seat>>,
    free: Vec<usize>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    doors: Vec<(TcpListener, Greeter)>,
    /// Is told when a turn was due, and when it was had.
    watch: Option<Box<dyn Fn(u64, u64) + Send>>,
}

impl Reactor {
    pub fn new(start: Instant) -> Result<Reactor, String> {
        Ok(Reactor {
            poll: Epoll::new().map_err(|e| format!("epoll_create1: {e}"))?,
            start,
            seats: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            doors: Vec::new(),
            watch: None,
        })
    }

    /// Has every turn reported that was due at a time: how late it was is how busy the machine is.
    pub fn watch(&mut self, watch: impl Fn(u64, u64) + Send + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// Who comes in there becomes what `greeter` makes of it.
    pub fn listen(
        &mut self,
        listener: TcpListener,
        greeter: impl FnMut(TcpStream) -> Box<dyn Actor> + Send + 'static,
    ) -> Result<(), String> {
        let token = DOORS + self.doors.len() as u64;
        let added = self.poll.add(listener.as_fd(), epoll::IN, token);
        added.map_err(|e| format!("epoll_ctl: {e}"))?;
        self.doors.push((listener, Box::new(greeter)));
        Ok(())
    }

    /// Its first turn comes then.
    pub fn seat(&mut self, actor: Box<dyn Actor>, first_us: u64) {
        let index = self.free.pop().unwrap_or(self.seats.len());
        let seat = Seat {
            actor,
            due_us: Some(first_us),
        };
        match self.seats.get_mut(index) {
            Some(free) => *free = Some(seat),
            None => self.seats.push(Some(seat)),
        }
        self.due.push(Reverse((first_us, index)));
    }

    /// How many have not come to their end.
    pub fn seated(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    /// Everybody has a turn.
    pub fn wake_all(&mut self) -> Result<(), String> {
        (0..self.seats.len()).try_for_each(|index| self.turn(index))
    }

    /// Until `going` says no, or nobody is left of those who would come to an end.
    pub fn run(&mut self, going: impl Fn() -> bool) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS);
        while going() && (self.seated() > 0 || !self.doors.is_empty()) {
            let wait = self.poll.wait(&mut events, self.wait_ms());
            wait.map_err(|e| format!("epoll_wait: {e}"))?;
            for (token, _) in (0..events.len()).map(|i| events.get(i)) {
                match token.checked_sub(DOORS) {
                    Some(door) => self.accept(door as usize),
                    None => self.turn((token >> 1) as usize)?,
                }
            }
            let now_us = self.now_us();
            while let Some(Reverse((due_us, index))) = self.due.peek().copied() {
                if due_us > now_us {
                    break;
                }
                self.due.pop();
                // Another time has taken the place of one that was given up.
                let seat = self.seats[index].as_mut();
                if let Some(seat) = seat.filter(|seat| seat.due_us == Some(due_us)) {
                    seat.due_us = None;
                    if let Some(watch) = &self.watch {
                        watch(due_us, now_us);
                    }
                    self.turn(index)?;
                }
            }
        }
        Ok(())
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn wait_ms(&self) -> i32 {
        let due = self.due.peek().map(|Reverse((due_us, _))| *due_us);
        let left_us = due.map_or(u64::MAX, |due_us| due_us.saturating_sub(self.now_us()));
        left_us.div_ceil(1000).min(WAIT_MS_MAX) as i32
    }

    fn accept(&mut self, door: usize) {
        let mut come = Vec::new();
        let Some((listener, greeter)) = self.doors.get_mut(door) else {
            return;
        };
        while let Ok((stream, _)) = socket::accept(listener) {
            come.push(greeter(stream));
        }
        let now_us = self.now_us();
        for actor in come {
            self.seat(actor, now_us);
        }
    }

    fn turn(&mut self, index: usize) -> Result<(), String> {
        let now_us = self.now_us();
        let Some(seat) = self.seats.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        let due_us = match seat.actor.turn(now_us) {
            Next::At(due_us) => Some(due_us),
            Next::Ready => None,
            Next::Done => {
                self.seats[index] = None;
                self.free.push(index);
                return Ok(());
            }
        };
        if let Some(due_us) = due_us.filter(|due_us| seat.due_us != Some(*due_us)) {
            self.due.push(Reverse((due_us, index)));
        }
        seat.due_us = due_us;
        for (side, wire) in seat.actor.wires().into_iter().enumerate() {
            if let Some(wire) = wire {
                let token = (index << 1 | side) as u64;
                let watched = wire.watch(&self.poll, token);
                watched.map_err(|e| format!("epoll_ctl: {e}"))?;
            }
        }
        Ok(())
    }
}
