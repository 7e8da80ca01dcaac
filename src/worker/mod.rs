//! A worker: one thread, one epoll, all the traffic that comes its way.
//!
//! Owns its connections and a copy of the configuration. Takes orders from main
//! over its channel (`link`); if main dies it goes on serving. One turn of the
//! loop: wait, read the clock once, serve who is ready, look at the timers.

mod accept;
mod access;
mod admit;
mod boot;
mod certificates;
mod count;
mod doors;
mod drive;
mod errands;
mod farewell;
mod hold;
mod holdings;
mod inherit;
mod intro;
mod lend;
mod line;
mod link;
mod pool;
mod probe;
mod retire;
mod roll;
mod seek;
mod trace;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use crate::buf::Pool;
use crate::channel::Channel;
use crate::config::Settings;
use crate::http::basic_auth::Proofs;
use crate::http::challenge::Challenges;
use crate::limits::{BUFFERS_DEFAULT, EVENTS_PER_TURN};
use crate::net::board::{Board, Cell, Fate, Load};
use crate::net::ledger::{Ledger, Tally};
use crate::net::sink::Sink;
use crate::net::tls::backend::Dialers;
use crate::net::token::{self, Kind};
use crate::parser::http11;
use crate::proto::digest::Digest;
use crate::random::Random;
use crate::session::{Door, Event, Scratch, Side, Spare, Stay, World};
use crate::slab::{Key, Slab};
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process;
use crate::sys::process::Signals;
use crate::timer::Wheel;
use accept::Queue;
use access::{AccessLog, Complaints};
use certificates::Certificates;
use doors::Entrance;
use drive::{Slot, Turn};
use hold::Holds;
use line::Line;
use pool::Backs;
use probe::Probes;
use retire::Retirement;

pub use boot::main;

/// What sessions are lent, and nothing else.
struct Tools {
    random: Random,
    scratch: Scratch,
    pool: Pool,
    spare: Spare,
    trash: Vec<u8>,
    challenges: Challenges,
    tally: Tally,
    proofs: Proofs,
}

impl Tools {
    fn world<'w>(&'w mut self, door: &'w Door, now_us: u64, stay: Stay) -> World<'w> {
        World {
            now_us,
            door,
            challenges: &self.challenges,
            clients: self.tally.clients(),
            proofs: &mut self.proofs,
            random: &mut self.random,
            scratch: &mut self.scratch,
            pool: &mut self.pool,
            spare: &mut self.spare,
            trash: &mut self.trash,
            trace: log::log_enabled!(target: http11::LOG, log::Level::Trace)
                .then_some(trace::trace),
            stay,
        }
    }
}

pub struct Worker {
    /// Its row on the board.
    id: usize,
    settings: Settings,
    max_connections: usize,
    poll: Epoll,
    channel: Option<Channel>,
    /// Without main, signals are its own business.
    signals: Signals,
    /// Changes since the last commit.
    batch: link::Batch,
    board: Board,
    tally: Tally,
    now_us: u64,
    doors: Slab<Entrance>,
    certificates: Certificates,
    /// Of what is configured here.
    digest: Digest,
    queue: Queue,
    /// Doors are shut until then: out of descriptors.
    paused_until_ms: Option<u64>,
    at_limit: bool,
    /// The log says so once; not again before then.
    limit_silent_until_ms: u64,
    slots: Slab<Slot>,
    timers: Wheel,
    backs: Backs,
    probes: Probes,
    holds: Holds,
    tools: Tools,
    access: AccessLog,
    complaints: Complaints,
    /// Slots that wait for a buffer.
    starving: VecDeque<Key>,
    /// Slots that go on in the next turn, whatever epoll says.
    unfinished: Vec<Key>,
    /// Who may take a step of a handshake.
    line: Line,
    /// Not welcome: it serves what it has, and takes no more.
    stay: Stay,
    /// What becomes of its connections, once it takes no more.
    retirement: Option<Retirement>,
    /// Links from workers that hand theirs over to this one.
    legacies: Slab<OwnedFd>,
    /// Idle clients are told to go then.
    farewell_ms: Option<u64>,
    /// The time is over: what is left is cut.
    stop: bool,
    /// Without main, it is over then.
    stop_at_ms: Option<u64>,
    /// Somebody starts another main in the place of one that dies.
    supervised: bool,
    expired: Vec<u32>,
    /// When free buffers are given back; `None`: there is nothing.
    shrink_at_ms: Option<u64>,
    /// TLS connections have ended, which took much more than their slot, and no buffer if they
    /// never got beyond the handshake.
    litter: bool,
}

/// Free memory is given back this long after the last time.
const SHRINK_MS: u64 = 1000;
/// Where bytes are read to that nobody wants.
const TRASH_BYTES: usize = 16 * 1024;

/// What a worker is given at its start.
struct Outfit {
    channel: Channel,
    board: Board,
    ledger: Ledger,
    poll: Epoll,
    signals: Signals,
    /// Where lines about requests go.
    access: Option<Sink>,
    /// The system's roots, for TLS with backends.
    roots: Option<OwnedFd>,
    /// Where the connector is asked.
    connector: Option<OwnedFd>,
    seed: u64,
    /// A number that nobody else knows.
    secret: [u8; 32],
}

impl Worker {
    fn new(id: usize, max_connections: usize, settings: Settings, outfit: Outfit) -> Worker {
        let now_us = clock::monotonic_us();
        let tally = Tally::new(outfit.ledger, id);
        let buffers = settings.max_buffers.map_or(BUFFERS_DEFAULT, |n| n as usize);
        let mut backs = Backs::new(
            now_us / 1000,
            u64::from(settings.back_keepalive_timeout) * 1000,
            tally.clone(),
            Dialers::new(outfit.roots),
            Random::new(outfit.seed.rotate_left(32)),
            // Half of the buffers is for those who do not wait.
            (buffers / 2).max(1),
        );
        let open = |desk| backs.errands.open(desk, &outfit.poll);
        outfit.connector.into_iter().for_each(open);
        Worker {
            id,
            max_connections,
            poll: outfit.poll,
            channel: Some(outfit.channel),
            signals: outfit.signals,
            batch: link::Batch::default(),
            board: outfit.board,
            now_us,
            doors: Slab::default(),
            certificates: Certificates::default(),
            digest: Digest::default(),
            queue: Queue::new(id),
            paused_until_ms: None,
            at_limit: false,
            limit_silent_until_ms: 0,
            slots: Slab::default(),
            timers: Wheel::new(now_us / 1000),
            backs,
            probes: Probes::new(now_us / 1000),
            tally: tally.clone(),
            // Half of the buffers is for those who do not wait for a paused cluster.
            holds: Holds::new((buffers / 2).max(1)),
            tools: Tools {
                random: Random::new(outfit.seed),
                scratch: Scratch::default(),
                pool: Pool::new(settings.buffer_size as usize, buffers),
                spare: Vec::new(),
                trash: vec![0; TRASH_BYTES],
                challenges: Challenges::default(),
                tally,
                proofs: Proofs::new(outfit.secret),
            },
            access: AccessLog::new(outfit.access, now_us),
            complaints: Complaints::default(),
            starving: VecDeque::new(),
            unfinished: Vec::new(),
            line: Line::default(),
            stay: Stay::Welcome,
            retirement: None,
            legacies: Slab::default(),
            farewell_ms: None,
            stop: false,
            stop_at_ms: None,
            supervised: false,
            expired: Vec::new(),
            shrink_at_ms: None,
            litter: false,
            settings,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    /// Serves until told to end.
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.is_over() {
            self.poll.wait(&mut events, self.timeout_ms())?;
            self.now_us = clock::monotonic_us();
            self.backs.now_ms = self.now_ms();
            self.board.add(self.id, Cell::Turns, 1);
            self.weed_pool(&events);
            self.shake_first();
            for key in std::mem::take(&mut self.unfinished) {
                self.drive(key, None);
            }
            for i in 0..events.len() {
                let (token, ready) = events.get(i);
                self.dispatch(token, ready);
            }
            self.look_at_timers();
            self.look_at_checks();
            self.serve_queues();
            self.sweep_on();
            self.say_good_bye();
            self.feed_starving();
            if self.backs.errands.has_unasked() {
                self.backs.errands.send(&self.poll);
            }
            self.tell_news();
            self.access.flush_if_due(self.now_ms());
        }
        self.cut_all();
        self.access.flush();
        Ok(())
    }

    /// Told to end, or nobody is left, nor anybody who hands over more.
    fn is_over(&self) -> bool {
        let empty = self.slots.is_empty() && self.legacies.is_empty();
        let late = self.stop_at_ms.is_some_and(|due| due <= self.now_ms());
        self.stop || late || self.stay != Stay::Welcome && empty
    }

    /// -1 if nothing will happen by itself.
    fn timeout_ms(&self) -> i32 {
        let busy = self.retirement.as_ref().is_some_and(Retirement::is_busy);
        if !self.unfinished.is_empty() || !self.line.is_empty() || busy {
            return 0;
        }
        let mut due = self.timers.next_ms();
        let mut earlier = |other: Option<u64>| {
            due = match (due, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        earlier(self.backs.timers.next_ms());
        earlier(self.backs.queues_due_ms());
        earlier(self.probes.due_ms());
        earlier(self.holds.over_ms());
        if self.may_tell() {
            earlier(self.backs.watches.due_ms());
            earlier(self.backs.news.due_ms());
            earlier(self.holds.tell_at_ms());
        }
        earlier(self.access.due_ms());
        earlier(self.queue.back_at_us().map(|us| us.div_ceil(1000)));
        earlier(self.paused_until_ms);
        earlier(self.farewell_ms);
        earlier(self.stop_at_ms);
        earlier(self.shrink_at_ms);
        match due {
            None => -1,
            Some(due) => {
                let now_ms = clock::monotonic_us() / 1000;
                i32::try_from(due.saturating_sub(now_ms)).unwrap_or(i32::MAX)
            }
        }
    }

    /// A step of a handshake is to hold nobody up for longer than it takes itself: there is one in a
    /// turn, that of whoever waits for it longest.
    fn shake_first(&mut self) {
        self.line.open();
        while let Some(key) = self.line.next() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.lined_up = false;
                return self.drive(key, None);
            }
        }
    }

    fn dispatch(&mut self, token: u64, ready: u32) {
        match token::unpack(token) {
            Some((Kind::Front, key)) => {
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.front.fired(ready);
                    self.drive(key, gone(ready, Side::Front));
                }
            }
            Some((Kind::Back, key)) => self.back_ready(key, ready),
            Some((Kind::Listener, key)) => self.door_ready(key),
            Some((Kind::Channel, _)) => self.channel_ready(),
            Some((Kind::Signals, _)) => self.take_signals(),
            Some((Kind::Heir, _)) => self.heir_ready(ready),
            Some((Kind::Legacy, key)) => self.legacy_ready(key),
            Some((Kind::Probe, key)) => self.probe_ready(key, ready),
            Some((Kind::Desk, _)) => self.desk_ready(),
            _ => {}
        }
    }

    /// Idle and yet it speaks, or is closed: of no use any more. Before anyone may be given it.
    fn weed_pool(&mut self, events: &Events) {
        for i in 0..events.len() {
            let (token, _) = events.get(i);
            if let Some((Kind::Back, key)) = token::unpack(token) {
                self.backs.weed(key);
            }
        }
    }

    fn back_ready(&mut self, key: Key, ready: u32) {
        let Some(back) = self.backs.conns.get_mut(key) else {
            return;
        };
        back.conn.fired(ready);
        let connecting = back.connecting;
        match back.owner {
            // Given back in this very turn: what was reported, its last owner has read.
            None => {}
            Some(owner) if connecting => {
                let failed = ready & (epoll::ERR | epoll::HUP) != 0;
                self.with_turn(owner, |turn| {
                    turn.connected(failed);
                    turn.run();
                });
            }
            // If it is broken, reading says so once all that it sent was taken.
            Some(owner) => self.drive(owner, gone(ready, Side::Back)),
        }
    }

    /// Gives a slot its share of the turn. `gone`: a side of it is, or has ended, which is told if
    /// nobody would find it by reading.
    fn drive(&mut self, key: Key, gone: Option<Event>) {
        self.with_turn(key, |turn| {
            let session = &turn.slot.session;
            let unseen = |event: &Event| match event {
                Event::Lost(side) => session.overlooks(*side),
                _ => session.heeds_end(),
            };
            if let Some(event) = gone.filter(unseen) {
                turn.on(event);
            }
            turn.run();
        });
    }

    fn with_turn(&mut self, key: Key, act: impl FnOnce(&mut Turn)) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let Some(entrance) = self.doors.get(slot.door) else {
            return;
        };
        let was_starving = slot.starving;
        let listener = &entrance.door.listener;
        let moves = self.retirement.as_ref();
        let before = moves.map(|_| slot.load(listener.protocol));
        // Whose connection can move need not go, and come back elsewhere.
        let stays = !moves.is_some_and(Retirement::has_heir) || slot.front.plain().is_none();
        let stay = if stays { self.stay } else { Stay::Welcome };
        let mut turn = Turn {
            key,
            slot,
            world: self.tools.world(&entrance.door, self.now_us, stay),
            backs: &mut self.backs,
            holds: &mut self.holds,
            poll: &self.poll,
            access: &mut self.access,
            complaints: &mut self.complaints,
            board: &self.board,
            worker: self.id,
            tally: &self.tally,
            doors: &self.doors,
            certificates: &self.certificates,
            line: &mut self.line,
        };
        act(&mut turn);
        if slot.session.is_closed() {
            self.close(key, before, Fate::Drained);
            return;
        }
        if !slot.session.is_held() {
            if let Some(target) = slot.held.take() {
                self.holds.leave(&target.cluster.id, key);
            }
            if let Some((cluster, _)) = slot.queued.take() {
                self.backs.leave_line(cluster, key);
            }
        }
        let due = slot.session.deadline_ms(&entrance.door.listener);
        self.timers.set(key.index, due);
        if slot.starving && !was_starving {
            self.starving.push_back(key);
        }
        if std::mem::take(&mut slot.unfinished) {
            self.unfinished.push(key);
        }
        if before.is_some() {
            let now = self.slots.get(key).and_then(|slot| self.load_of(slot));
            self.recount(before, now);
            self.move_if_resting(key);
        }
    }

    /// The one place where a client's slot is freed.
    fn close(&mut self, key: Key, load: Option<Load>, fate: Fate) {
        let Some(mut slot) = self.slots.remove(key) else {
            return;
        };
        self.timers.cancel(key.index);
        self.litter |= slot.front.plain().is_none();
        if let Some(target) = slot.held {
            self.holds.leave(&target.cluster.id, key);
        }
        if let Some((cluster, _)) = slot.queued {
            self.backs.leave_line(cluster, key);
        }
        if slot.inherited {
            slot.front.forget(&self.poll);
            let back = slot.back.and_then(|back| self.backs.conns.get_mut(back));
            back.into_iter()
                .for_each(|back| back.conn.forget(&self.poll));
        }
        if let Some(back) = slot.back {
            if slot.reset {
                self.backs.cut(back);
            }
            self.backs.close(back);
        }
        match slot.reset {
            true => slot.front.reset(),
            false => slot.front.part(),
        }
        self.left(slot.door, slot.place, slot.front.is_shaking());
        self.count_end(load, fate);
    }

    fn insert(&mut self, slot: Slot) -> Key {
        let key = self.slots.insert(slot);
        self.board
            .set(self.id, Cell::Connections, self.slots.len() as u64);
        key
    }

    fn look_at_timers(&mut self) {
        let now_ms = self.now_ms();
        for cluster in self.holds.over(now_ms) {
            self.resume_cluster(&cluster);
        }
        let mut expired = std::mem::take(&mut self.expired);
        self.timers.advance(now_ms, &mut expired);
        for index in expired.drain(..) {
            if let Some(key) = self.slots.key_at(index) {
                self.with_turn(key, |turn| {
                    turn.on(Event::Timeout);
                    turn.run();
                });
            }
        }
        self.backs.expire(now_ms, &mut expired);
        self.expired = expired;
        self.open_again();
        self.give_memory_back(now_ms);
        self.board.set(
            self.id,
            Cell::LogLost,
            self.access.lost + crate::net::logging::lost(),
        );
    }

    /// Of the buffers that nobody uses half, now and then, until there are none; then also what
    /// the allocator keeps of connections that are gone.
    fn give_memory_back(&mut self, now_ms: u64) {
        let pool = &mut self.tools.pool;
        let due = self.shrink_at_ms.is_some_and(|at| at <= now_ms);
        if due {
            pool.shrink();
            if !pool.has_free() {
                process::release_memory();
                self.litter = false;
            }
        }
        let next = self.shrink_at_ms.filter(|_| !due);
        let more = pool.has_free() || self.litter;
        self.shrink_at_ms = more.then(|| next.unwrap_or(now_ms + SHRINK_MS));
    }

    /// Buffers came back: those who wait for one are served, first come, first served.
    fn feed_starving(&mut self) {
        for _ in 0..self.starving.len() {
            if self.tools.pool.is_low() {
                return;
            }
            let Some(key) = self.starving.pop_front() else {
                return;
            };
            if let Some(slot) = self.slots.get_mut(key) {
                slot.starving = false;
                slot.front.readable = true;
                self.drive(key, None);
            }
        }
    }
}

/// The connection on that side is broken, or it is half-closed and this was asked for.
fn gone(ready: u32, side: Side) -> Option<Event> {
    match ready {
        _ if ready & epoll::ERR != 0 => Some(Event::Lost(side)),
        _ if ready & epoll::RDHUP != 0 => Some(Event::Ended(side)),
        _ => None,
    }
}
