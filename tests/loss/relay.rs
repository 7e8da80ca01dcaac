//! A road of 30 ms: what comes in at one end goes out at the other 15 ms later, a close as well. So a request and a close
//! can cross each other, which they never do on loopback. It can also be told to spoil one thing, once: the counting is
//! tried on that.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::reactor::{Actor, Next};
use super::wire::{End, Wire};

const DELAY_US: u64 = 15_000;
/// Silent for so long, it is idle, and will be for some time.
const IDLE_US: u64 = 150_000;

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A connection is closed instead of handing on what goes up.
    Cut,
    /// An idle connection is closed.
    Close,
    /// A bit of what comes down is another one.
    Flip,
}

const FAULTS: [Fault; 4] = [Fault::None, Fault::Cut, Fault::Close, Fault::Flip];

/// The fault that is still to come.
#[derive(Default)]
pub struct Spoiler(AtomicU8);

impl Spoiler {
    pub fn set(&self, fault: Fault) {
        self.0.store(fault as u8, Ordering::Relaxed);
    }

    pub fn get(&self) -> Fault {
        FAULTS[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Whether it is that one and nobody else has taken it.
    fn takes(&self, fault: Fault) -> bool {
        let taken = self.0.compare_exchange(
            fault as u8,
            Fault::None as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        fault != Fault::None && taken.is_ok()
    }
}

enum Item {
    Bytes(Vec<u8>),
    Close,
    Reset,
}

/// One direction.
#[derive(Default)]
struct Way {
    items: VecDeque<(u64, Item)>,
    closed: bool,
}

impl Way {
    /// Takes what has come in.
    fn take(&mut self, from: &mut Wire, now_us: u64) {
        let due_us = now_us + DELAY_US;
        if !from.input.is_empty() {
            let bytes = std::mem::take(&mut from.input);
            self.items.push_back((due_us, Item::Bytes(bytes)));
        }
        if let Some(end) = from.end().filter(|_| !self.closed) {
            let item = if *end == End::Closed {
                Item::Close
            } else {
                Item::Reset
            };
            self.items.push_back((due_us, item));
            self.closed = true;
        }
    }

    /// What has been on its way long enough.
    fn due(&mut self, now_us: u64) -> Option<Item> {
        let (due_us, _) = self.items.front()?;
        if *due_us > now_us {
            return None;
        }
        self.items.pop_front().map(|(_, item)| item)
    }
}

pub struct Road {
    pub to: SocketAddr,
    pub aliases: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>,
    pub spoiler: Arc<Spoiler>,
    /// What may be spoilt there.
    pub faults: &'static [Fault],
}

pub struct Relay {
    road: Arc<Road>,
    front: Wire,
    back: Option<Wire>,
    up: Way,
    down: Way,
    heard_us: u64,
}

impl Relay {
    pub fn new(stream: TcpStream, road: Arc<Road>) -> Relay {
        let front = Wire::accepted(stream);
        let back = Wire::connect(road.to, None).ok();
        let known = (front.peer(), back.as_ref().and_then(Wire::local));
        if let ((Some(client), Some(alias)), Ok(mut aliases)) =
            ((known.0, known.1), road.aliases.lock())
        {
            aliases.insert(client, alias);
        }
        Relay {
            road,
            front,
            back,
            up: Way::default(),
            down: Way::default(),
            heard_us: u64::MAX,
        }
    }

    fn spoils(&self, fault: Fault) -> bool {
        self.road.faults.contains(&fault) && self.road.spoiler.takes(fault)
    }

    /// Whether both are still there.
    fn carry(&mut self, now_us: u64) -> bool {
        let Some(back) = &mut self.back else {
            return false;
        };
        self.front.pump();
        back.pump();
        if !self.front.input.is_empty() || !back.input.is_empty() {
            self.heard_us = now_us;
        }
        self.up.take(&mut self.front, now_us);
        self.down.take(back, now_us);
        while let Some(item) = self.up.due(now_us) {
            match item {
                Item::Bytes(_) if self.spoils(Fault::Cut) => return false,
                Item::Bytes(bytes) => self.back.iter_mut().for_each(|back| back.send(&bytes)),
                Item::Close => self.back.iter_mut().for_each(Wire::finish),
                Item::Reset => {
                    self.back.iter().for_each(Wire::reset);
                    return false;
                }
            }
        }
        while let Some(item) = self.down.due(now_us) {
            match item {
                Item::Bytes(mut bytes) => {
                    if self.spoils(Fault::Flip) {
                        bytes[0] ^= 1;
                    }
                    self.front.send(&bytes);
                }
                Item::Close => self.front.finish(),
                Item::Reset => {
                    self.front.reset();
                    return false;
                }
            }
        }
        self.front.flush();
        self.back.iter_mut().for_each(Wire::flush);
        let idle = self.heard_us.saturating_add(IDLE_US) < now_us;
        if idle && self.spoils(Fault::Close) {
            return false;
        }
        let ended = self.up.closed && self.down.closed;
        let empty = self.up.items.is_empty() && self.down.items.is_empty();
        !(ended && empty && self.front.is_flushed())
    }
}

impl Actor for Relay {
    fn turn(&mut self, now_us: u64) -> Next {
        if !self.carry(now_us) {
            return Next::Done;
        }
        let due = [&self.up, &self.down].map(|way| way.items.front().map(|(due_us, _)| *due_us));
        match due.into_iter().flatten().min() {
            Some(due_us) => Next::At(due_us),
            // To be found idle, if that is what is waited for.
            None if self.road.spoiler.get() == Fault::Close => Next::At(now_us + IDLE_US / 2),
            None => Next::Ready,
        }
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [Some(&mut self.front), self.back.as_mut()]
    }
}
