//! Drives sessions as the worker does, without descriptors: reads, tells the
//! session, writes. `acts` does what the session asks for.
//!
//! Where this differs from `worker::drive`, the simulation proves nothing.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use crate::backends::Backends;
use crate::client::Client;
use crate::dice::Dice;
use crate::rate::Bucket;
use crate::server::{Server, Truth};
use crate::wire::{Io, Wire};
use sozu_lib::buf::Pool;
use sozu_lib::http::basic_auth::Proofs;
use sozu_lib::http::challenge::Challenges;
use sozu_lib::quota::Clients;
use sozu_lib::random::Random;
use sozu_lib::session::record::End;
use sozu_lib::session::{self, Door, Event, Scratch, Session, Side, Spare, Stay, World};

/// What sessions are lent.
pub struct Tools {
    pub random: Random,
    pub scratch: Scratch,
    pub pool: Pool,
    pub spare: Spare,
    pub trash: Vec<u8>,
    pub challenges: Challenges,
    /// Counters of clients.
    pub clients: Vec<AtomicU64>,
    pub proofs: Proofs,
}

/// A record as it was logged.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub end: End,
}

/// A connection on which a request was, or may have been, sent.
#[derive(Debug)]
pub struct Attempt {
    /// Which request of the client.
    pub request: usize,
    pub conn: usize,
    pub reused: bool,
    /// Bytes that went to the backend, and that came from it.
    pub up: u64,
    pub down: u64,
}

/// Bytes that go from side to side unseen.
#[derive(Default)]
pub struct Lane {
    pub held: Vec<u8>,
    ended: bool,
}

pub struct Slot {
    pub session: Session,
    pub wire: Wire,
    pub client: Client,
    pub tcp: bool,
    pub back: Option<usize>,
    /// Backends to which this request found no connection.
    pub tried: Vec<usize>,
    pub lanes: [Lane; 2],
    pub reset: bool,
    pub starving: bool,
    pub closed: bool,
    pub records: Vec<Seen>,
    pub attempts: Vec<Attempt>,
    /// Requests at which a connection was asked for; those at which none was had.
    pub connects: Vec<usize>,
    pub unconnected: Vec<usize>,
    /// Requests that were held; those for which there was no place.
    pub held: Vec<usize>,
    pub turned_away: Vec<usize>,
    /// Requests for which no backend became free in time.
    pub too_late: Vec<usize>,
    /// Requests that led to a cluster so far; those that came too often for it.
    pub led: usize,
    pub limited: Vec<usize>,
    /// Requests at which a deadline came.
    pub timeouts: Vec<usize>,
    /// Bytes since the last record.
    pub up: u64,
    pub down: u64,
    /// The proxy has shut its side towards the client.
    pub shut: bool,
    /// A deadline came while it only waited for the client's end, or for a request.
    pub lapsed: bool,
}

pub struct Back {
    pub wire: Wire,
    pub server: Server,
    /// Whose it is among the backends.
    pub place: usize,
    pub owner: Option<usize>,
    pub connecting: bool,
    /// A connect that never comes to an end.
    pub hangs: bool,
    pub closed: bool,
    pub idle_since_ms: u64,
}

/// Bytes that one connection may move in one turn.
const TURN_BYTES: usize = 60_000;

pub struct Sim {
    pub now_us: u64,
    pub dice: Dice,
    pub truth: Truth,
    pub tools: Tools,
    pub doors: [Door; 2],
    /// What clients may ask the HTTP cluster for.
    pub bucket: Option<Bucket>,
    pub server: Rc<session::Server>,
    pub backends: Backends,
    pub slots: Vec<Slot>,
    pub backs: Vec<Back>,
    pub stay: Stay,
    /// The clusters are paused until then, in microseconds.
    pub paused_until_us: Option<u64>,
    /// Who waits for the end of it, in order, and how many may.
    pub held: VecDeque<usize>,
    pub held_max: usize,
    /// How many in a hundred connects go wrong.
    pub connect_faults: usize,
    pub trace: bool,
}

pub fn lend<'w>(tools: &'w mut Tools, door: &'w Door, now_us: u64, stay: Stay) -> World<'w> {
    World {
        now_us,
        door,
        challenges: &tools.challenges,
        clients: Clients(&tools.clients),
        proofs: &mut tools.proofs,
        random: &mut tools.random,
        scratch: &mut tools.scratch,
        pool: &mut tools.pool,
        spare: &mut tools.spare,
        trash: &mut tools.trash,
        trace: None,
        stay,
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Front => 0,
        Side::Back => 1,
    }
}

impl Lane {
    fn holds(&self) -> bool {
        !self.held.is_empty() || self.ended
    }
}

impl Slot {
    pub fn new(session: Session, wire: Wire, client: Client, tcp: bool) -> Slot {
        Slot {
            session,
            wire,
            client,
            tcp,
            back: None,
            tried: Vec::new(),
            lanes: Default::default(),
            reset: false,
            starving: false,
            closed: false,
            records: Vec::new(),
            attempts: Vec::new(),
            connects: Vec::new(),
            unconnected: Vec::new(),
            held: Vec::new(),
            turned_away: Vec::new(),
            too_late: Vec::new(),
            led: 0,
            limited: Vec::new(),
            timeouts: Vec::new(),
            up: 0,
            down: 0,
            shut: false,
            lapsed: false,
        }
    }
}

impl Sim {
    pub fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    pub fn say(&self, s: usize, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12} us, client {s}: {}", self.now_us, what());
        }
    }

    pub fn on(&mut self, s: usize, event: Event) {
        if self.trace {
            self.say(s, || told(&event));
        }
        let slot = &mut self.slots[s];
        let door = &self.doors[usize::from(slot.tcp)];
        let mut world = lend(&mut self.tools, door, self.now_us, self.stay);
        match event {
            Event::Sent(Side::Back, n) => slot.count_up(n as u64),
            Event::Lent(Side::Front, n) => slot.count_up(n),
            Event::Sent(Side::Front, n) => slot.down += n as u64,
            Event::Lent(Side::Back, n) => slot.down += n,
            _ => {}
        }
        slot.session.on(event, &mut world);
        if let Some(x) = slot.session.exchange() {
            x.up.check();
            x.down.check();
        }
        self.look_at_rate(s);
    }

    /// Each request that leads to a cluster with a rate has been let through or not, once.
    fn look_at_rate(&mut self, s: usize) {
        let slot = &mut self.slots[s];
        let Some((x, bucket)) = slot.session.exchange().zip(self.bucket.as_mut()) else {
            return;
        };
        let request = slot.records.len();
        let target = x.target.as_ref();
        let rated = target.is_some_and(|target| target.cluster.quota.rate.is_some());
        if !rated || slot.led > request {
            return;
        }
        slot.led = request + 1;
        let passed = x.record.status != 429;
        bucket.judge(passed, self.now_us);
        if !passed {
            slot.limited.push(request);
        }
    }

    /// Goes on until nothing moves, or until others must have their turn.
    pub fn run(&mut self, s: usize) {
        let mut budget = TURN_BYTES;
        for round in 0.. {
            assert!(round < 2000, "a turn that does not end");
            self.acts(s);
            let mut moved = self.read(s, Side::Front);
            self.acts(s);
            moved += self.write(s, Side::Back);
            moved += self.read(s, Side::Back);
            self.acts(s);
            moved += self.write(s, Side::Front);
            self.acts(s);
            if moved == 0 || self.is_quiet(s) {
                break;
            }
            budget = budget.saturating_sub(moved);
            if budget == 0 {
                break;
            }
        }
        self.settle(s);
    }

    /// Nothing more can move before the poll says so.
    fn is_quiet(&mut self, s: usize) -> bool {
        let (front, back) = (Side::Front, Side::Back);
        let readable = |wire: Option<&mut Wire>| wire.is_some_and(|wire| wire.readable);
        let comes = readable(self.wire(s, front)) || readable(self.wire(s, back));
        let slot = &self.slots[s];
        let pending = |side| !slot.session.pending(side).is_empty();
        let holds = slot.lanes.iter().any(Lane::holds);
        !comes && !holds && !pending(front) && !pending(back)
    }

    /// The wire on that side, once there is a connection.
    pub fn wire(&mut self, s: usize, side: Side) -> Option<&mut Wire> {
        match side {
            Side::Front => Some(&mut self.slots[s].wire),
            Side::Back => {
                let back = &mut self.backs[self.slots[s].back?];
                (!back.connecting).then_some(&mut back.wire)
            }
        }
    }

    /// Returns how many bytes came, or 1 for an end.
    fn read(&mut self, s: usize, side: Side) -> usize {
        if let Some(moved) = self.pass(s, side) {
            return moved;
        }
        let readable = self.wire(s, side).is_some_and(|wire| wire.readable);
        let slot = &mut self.slots[s];
        if !readable || !slot.session.wants(side) {
            return 0;
        }
        let wire = match (side, slot.back) {
            (Side::Front, _) => &mut slot.wire,
            (Side::Back, Some(b)) => &mut self.backs[b].wire,
            (Side::Back, None) => return 0,
        };
        let door = &self.doors[usize::from(slot.tcp)];
        let mut world = lend(&mut self.tools, door, self.now_us, self.stay);
        let room = slot.session.room(side, &mut world);
        if room.is_empty() {
            slot.starving = true;
            return 0;
        }
        match wire.receive(room, &mut self.dice) {
            Io::End => self.on(s, Event::Ended(side)),
            Io::Bytes(n) => {
                if side == Side::Back {
                    slot.count_down(n as u64);
                }
                self.on(s, Event::Received(side, n));
                return n;
            }
            Io::Block => return 0,
            Io::Gone => self.on(s, Event::Lost(side)),
        }
        1
    }

    /// Returns how many bytes went, or 1 for an end.
    fn write(&mut self, s: usize, side: Side) -> usize {
        let slot = &mut self.slots[s];
        let wire = match (side, slot.back) {
            (Side::Front, _) => &mut slot.wire,
            (Side::Back, Some(b)) if !self.backs[b].connecting => &mut self.backs[b].wire,
            _ => return 0,
        };
        let pending = slot.session.pending(side);
        if pending.is_empty() || wire.blocked {
            return 0;
        }
        match wire.send(pending, &mut self.dice) {
            Io::Block | Io::End => 0,
            Io::Bytes(n) => {
                self.on(s, Event::Sent(side, n));
                n
            }
            Io::Gone => {
                wire.readable = true;
                self.on(s, Event::Unsendable(side));
                1
            }
        }
    }

    // ---- bytes unseen ---------------------------------------------------

    /// Moves bytes from that side to the other if the session allows. `None`: they are to be copied.
    fn pass(&mut self, s: usize, from: Side) -> Option<usize> {
        let slot = &self.slots[s];
        let unseen = usize::try_from(slot.session.unseen(from)).unwrap_or(usize::MAX);
        let lane = &slot.lanes[index(from)];
        let (held, ended) = (lane.held.len(), lane.ended);
        let chosen = held > 0 || ended || self.dice.percent(40);
        if unseen == 0 || !chosen {
            self.slots[s].lanes[index(from)] = Lane::default();
            return None;
        }
        if held == 0 && !ended {
            let most = unseen.min(self.dice.pick(&[7, 500, 50_000]));
            if let Some(moved) = self.fill(s, from, most) {
                return Some(moved);
            }
        }
        let moved = self.drain_lane(s, from);
        let lane = &mut self.slots[s].lanes[index(from)];
        if lane.held.is_empty() && lane.ended {
            lane.ended = false;
            self.on(s, Event::Ended(from));
            return Some(1);
        }
        Some(moved)
    }

    fn fill(&mut self, s: usize, from: Side, most: usize) -> Option<usize> {
        let mut bytes = vec![0; most];
        let slot = &mut self.slots[s];
        let wire = match (from, slot.back) {
            (Side::Front, _) => &mut slot.wire,
            (Side::Back, Some(b)) => &mut self.backs[b].wire,
            (Side::Back, None) => return Some(0),
        };
        if !wire.readable {
            return Some(0);
        }
        match wire.receive(&mut bytes, &mut self.dice) {
            Io::End => slot.lanes[index(from)].ended = true,
            Io::Bytes(n) => {
                bytes.truncate(n);
                slot.lanes[index(from)].held = bytes;
                if from == Side::Back {
                    slot.count_down(n as u64);
                }
            }
            Io::Block => {}
            Io::Gone => {
                self.on(s, Event::Lost(from));
                return Some(1);
            }
        }
        None
    }

    fn drain_lane(&mut self, s: usize, from: Side) -> usize {
        let slot = &mut self.slots[s];
        let wire = match (from.other(), slot.back) {
            (Side::Front, _) => &mut slot.wire,
            (Side::Back, Some(b)) => &mut self.backs[b].wire,
            (Side::Back, None) => return 0,
        };
        let lane = &mut slot.lanes[index(from)];
        if wire.blocked || lane.held.is_empty() {
            return 0;
        }
        match wire.send(&lane.held, &mut self.dice) {
            Io::Bytes(n) => {
                lane.held.drain(..n);
                self.on(s, Event::Lent(from, n as u64));
                n
            }
            Io::Gone => {
                self.on(s, Event::Unsendable(from.other()));
                1
            }
            Io::Block | Io::End => 0,
        }
    }

    // ---- the end of a turn ----------------------------------------------

    fn settle(&mut self, s: usize) {
        let slot = &mut self.slots[s];
        if !slot.session.is_closed() {
            let door = &self.doors[usize::from(slot.tcp)];
            let mut world = lend(&mut self.tools, door, self.now_us, self.stay);
            let held = slot.lanes.each_ref().map(Lane::holds);
            slot.session.set_held(held[1], held[0]);
            slot.session.settle(&mut world);
        }
        for side in [Side::Front, Side::Back] {
            let slot = &mut self.slots[s];
            let holds = |from| slot.lanes[index(from)].holds();
            let read = slot.session.wants(side) && !holds(side) && !slot.starving;
            let pending = !slot.session.pending(side).is_empty() || holds(side.other());
            if let Some(wire) = self.wire(s, side) {
                wire.watch(read, pending && wire.blocked);
            }
        }
    }

    /// Closes a slot whose session is.
    pub fn after(&mut self, s: usize) {
        if !self.slots[s].session.is_held() {
            self.held.retain(|held| *held != s);
        }
        let slot = &mut self.slots[s];
        assert!(
            !slot.reset || slot.session.is_closed(),
            "a reset that does not come"
        );
        if !slot.session.is_closed() || slot.closed {
            return;
        }
        assert!(slot.back.is_none(), "closed with a backend connection");
        slot.closed = true;
        slot.starving = false;
        slot.wire.close(slot.reset);
        self.say(s, || "closed".to_owned());
    }
}

impl Slot {
    fn count_up(&mut self, n: u64) {
        self.up += n;
        self.attempts.last_mut().expect("a connection").up += n;
    }

    fn count_down(&mut self, n: u64) {
        self.attempts.last_mut().expect("a connection").down += n;
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Received(side, n) => format!("received {n} from {side:?}"),
        Event::Ended(side) => format!("{side:?} ended"),
        Event::Lost(side) => format!("{side:?} lost"),
        Event::Unsendable(side) => format!("{side:?} unsendable"),
        Event::Sent(side, n) => format!("sent {n} to {side:?}"),
        Event::Lent(side, n) => format!("lent {n} from {side:?}"),
        Event::Connected { reused, .. } => format!("connected, reused: {reused}"),
        Event::Unconnected(why) => format!("unconnected: {why:?}"),
        Event::Secured(_) => "secured".to_owned(),
        Event::Unsecured => "unsecured".to_owned(),
        Event::Told(_) => "a piece of the metrics".to_owned(),
        Event::Held => "held".to_owned(),
        Event::Called(_) => "called".to_owned(),
        Event::Resumed(_) => "resumed".to_owned(),
        Event::Logged => "logged".to_owned(),
        Event::Timeout => "timeout".to_owned(),
        Event::Drain => "drain".to_owned(),
    }
}
