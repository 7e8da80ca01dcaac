//! One connection's share of a turn: reads, tells the session, performs its acts, writes.
//!
//! The session decides, this obeys. A kept-alive request costs a receive and a
//! send on each side, and no epoll_ctl.

use std::io::ErrorKind::WouldBlock;
use std::rc::Rc;

use crate::limits::{METRICS_PIECE_BYTES, TURN_BYTES_MAX};
use crate::metrics::Count;
use crate::net::board::{Board, Cell};
use crate::net::conn::Conn;
use crate::net::ledger::Tally;
use crate::net::tls::identity_of;
use crate::net::token::{self, Kind};
use crate::quota::crowd::Place;
use crate::session::{BackAct, Event, Secured, Session, Side, Target, World};
use crate::slab::{Key, Slab};
use crate::sys::epoll::{self, Epoll};
use crate::worker::access::{AccessLog, Complaints};
use crate::worker::certificates::Certificates;
use crate::worker::count::{self, Figures};
use crate::worker::doors::Entrance;
use crate::worker::hold::Holds;
use crate::worker::intro::Intro;
use crate::worker::lend::Lanes;
use crate::worker::line::Line;
use crate::worker::pool::Backs;

/// A client's connection, and what it borrows.
pub struct Slot {
    pub session: Session,
    pub front: Conn,
    /// The backend connection that the session uses.
    pub back: Option<Key>,
    /// When it was accepted, in microseconds of the worker's clock.
    pub accepted_us: u64,
    /// The listener that it came in by.
    pub door: Key,
    /// Where the connection is counted, if there is a limit for its client.
    pub place: Option<Place>,
    /// What a proxy before this one says of the client, where one does.
    pub intro: Option<Box<Intro>>,
    /// Backends to which this request found no connection.
    pub tried: Vec<Key>,
    /// The paused cluster that it waits for.
    pub held: Option<Rc<Target>>,
    /// The cluster in whose queue it waits, and until when.
    pub queued: Option<(Key, u64)>,
    /// The same, once this request was called from there: if it has to wait again, it is the first.
    pub waited: Option<(Key, u64)>,
    pub lanes: Option<Box<Lanes>>,
    /// Directions in which much comes at once.
    pub bulk: u8,
    /// Another worker has handed it over, and may have the same sockets open still: epoll forgets them only if it
    /// is told to, and would report for ever what nobody here reads.
    pub inherited: bool,
    /// The client will see a reset.
    pub reset: bool,
    /// It waits for a buffer.
    pub starving: bool,
    /// It had more to do than fits a turn, of which epoll does not know: bytes already decrypted.
    pub unfinished: bool,
    /// It waits for its turn to take a step of the handshake; epoll need not say so again and again.
    pub lined_up: bool,
}

impl Slot {
    pub fn new(session: Session, front: Conn, door: Key, accepted_us: u64) -> Slot {
        Slot {
            session,
            front,
            back: None,
            accepted_us,
            door,
            place: None,
            intro: None,
            tried: Vec::new(),
            held: None,
            queued: None,
            waited: None,
            lanes: None,
            bulk: 0,
            inherited: false,
            reset: false,
            starving: false,
            unfinished: false,
            lined_up: false,
        }
    }

    pub fn bulk(&self, from: Side) -> bool {
        self.bulk & from.bit() != 0
    }

    pub fn set_bulk(&mut self, from: Side, bulk: bool) {
        self.bulk = self.bulk & !from.bit() | if bulk { from.bit() } else { 0 };
    }
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Front => Side::Back,
            Side::Back => Side::Front,
        }
    }

    fn bit(self) -> u8 {
        match self {
            Side::Front => 1,
            Side::Back => 2,
        }
    }
}

/// For who speaks HTTP where TLS is spoken.
const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 59\r\nConnection: close\r\n\r\n\
    This port speaks HTTPS: use https:// in front of the name.\n";

/// SSL_R_HTTP_REQUEST and SSL_R_HTTPS_PROXY_REQUEST (sslerr.h).
const HTTP_REASONS: [i32; 2] = [156, 155];

fn spoke_http(error: &openssl::ssl::Error) -> bool {
    let mut reasons = error.ssl_error().into_iter().flat_map(|all| all.errors());
    reasons.any(|one| HTTP_REASONS.contains(&one.reason_code()))
}

/// Everything that one connection's share of a turn needs.
pub struct Turn<'w> {
    pub key: Key,
    pub slot: &'w mut Slot,
    pub world: World<'w>,
    pub backs: &'w mut Backs,
    pub holds: &'w mut Holds,
    pub poll: &'w Epoll,
    pub access: &'w mut AccessLog,
    pub complaints: &'w mut Complaints,
    pub board: &'w Board,
    pub worker: usize,
    pub tally: &'w Tally,
    pub doors: &'w Slab<Entrance>,
    pub certificates: &'w Certificates,
    pub line: &'w mut Line,
}

impl Turn<'_> {
    /// Goes on until nothing moves, or until others must have their turn.
    pub fn run(&mut self) {
        let mut budget = TURN_BYTES_MAX;
        loop {
            self.acts();
            let mut moved = self.read(Side::Front);
            self.acts();
            moved += self.write(Side::Back);
            moved += self.read(Side::Back);
            self.acts();
            moved += self.write(Side::Front);
            self.acts();
            if moved == 0 || self.is_quiet() {
                break;
            }
            budget = budget.saturating_sub(moved);
            if budget == 0 {
                let mut more = |side| self.conn(side).is_some_and(|conn| conn.hides_more());
                self.slot.unfinished = more(Side::Front) || more(Side::Back);
                break;
            }
        }
        self.settle();
    }

    /// Nothing more can move before epoll says so.
    fn is_quiet(&mut self) -> bool {
        let readable = |conn: Option<&mut Conn>| conn.is_some_and(|conn| conn.readable);
        let (front, back) = (Side::Front, Side::Back);
        let comes = readable(self.conn(front)) || readable(self.conn(back));
        let session = &self.slot.session;
        let goes = !session.pending(front).is_empty() || !session.pending(back).is_empty();
        !comes && !goes && self.slot.lanes.is_none()
    }

    pub fn on(&mut self, event: Event) {
        self.slot.session.on(event, &mut self.world);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.world.now_us / 1000
    }

    /// The connection on that side, once it is made.
    pub fn conn(&mut self, side: Side) -> Option<&mut Conn> {
        match side {
            Side::Front => Some(&mut self.slot.front),
            Side::Back => {
                let back = self.backs.conns.get_mut(self.slot.back?)?;
                (!back.connecting).then_some(&mut back.conn)
            }
        }
    }

    /// Returns how many bytes came, or 1 for an end.
    fn read(&mut self, side: Side) -> usize {
        if side == Side::Front && self.slot.is_being_introduced() {
            return self.introduce();
        }
        if side == Side::Front && self.slot.front.is_shaking() {
            return match self.may_shake() {
                true => self.shake(),
                false => 0,
            };
        }
        let readable = self.conn(side).is_some_and(|conn| conn.readable);
        if !readable && self.slot.lanes.is_none() {
            return 0;
        }
        if let Some(moved) = self.lend(side) {
            return moved;
        }
        if !readable || !self.slot.session.wants(side) {
            return 0;
        }
        let (slot, backs) = (&mut *self.slot, &mut *self.backs);
        let conn = match (side, slot.back) {
            (Side::Front, _) => &mut slot.front,
            (Side::Back, Some(key)) => match backs.conns.get_mut(key) {
                Some(back) => &mut back.conn,
                None => return 0,
            },
            (Side::Back, None) => return 0,
        };
        let room = slot.session.room(side, &mut self.world);
        if room.is_empty() {
            slot.starving = true;
            return 0;
        }
        let most = room.len();
        match conn.receive(room) {
            Ok(0) => self.on(Event::Ended(side)),
            Ok(n) => {
                self.slot.set_bulk(side, n == most);
                self.on(Event::Received(side, n));
                return n;
            }
            Err(e) if e.kind() == WouldBlock => return 0,
            Err(_) => self.on(Event::Lost(side)),
        }
        1
    }

    /// Whether a step of the handshake can be taken, and is not somebody else's now.
    fn may_shake(&mut self) -> bool {
        if self.slot.lined_up || !self.slot.front.can_shake() {
            return false;
        }
        let admitted = self.line.admits();
        if !admitted {
            self.slot.lined_up = true;
            self.line.wait(self.key);
        }
        admitted
    }

    /// One step of the client's handshake. Returns 1 for its end.
    fn shake(&mut self) -> usize {
        let secured = match self.slot.front.shake() {
            Ok(false) => return 0,
            Ok(true) => self.secured(),
            Err(e) => {
                if let Some(tls) = self.slot.front.tls().filter(|_| spoke_http(&e)) {
                    tls.plain_answer(PLAIN_ON_TLS);
                }
                let unproven = self.slot.front.tls().and_then(|tls| tls.unproven());
                Err(match unproven {
                    Some(why) => format!("{e}: {why}"),
                    None => e.to_string(),
                })
            }
        };
        let event = secured.unwrap_or_else(|why| {
            let row = self.tally.row(self.world.door.series);
            row.add(Count::HandshakesFailed, 1);
            log::debug!("{}: no TLS: {why}", self.slot.session.peer());
            Event::Unsecured
        });
        self.on(event);
        1
    }

    /// What the handshake has shown. An error: it is of no use.
    fn secured(&mut self) -> Result<Event, String> {
        let doorman = self.doors.get(self.slot.door).and_then(Entrance::doorman);
        let Some(tls) = self.slot.front.tls() else {
            return Ok(Event::Secured(Secured::default()));
        };
        let identity = identity_of(tls)?;
        let kind = match tls.ssl().session_reused() {
            true => Count::HandshakesResumed,
            false => Count::HandshakesFull,
        };
        self.tally.row(self.world.door.series).add(kind, 1);
        let names = doorman.and_then(|man| man.names_of(tls));
        Ok(Event::Secured(Secured { names, identity }))
    }

    /// Returns how many bytes went, or 1 for an end.
    fn write(&mut self, side: Side) -> usize {
        let (slot, backs) = (&mut *self.slot, &mut *self.backs);
        let conn = match (side, slot.back) {
            (Side::Front, _) => &mut slot.front,
            (Side::Back, Some(key)) => match backs.conns.get_mut(key) {
                Some(back) if !back.connecting => &mut back.conn,
                _ => return 0,
            },
            (Side::Back, None) => return 0,
        };
        let pending = slot.session.pending(side);
        if pending.is_empty() || conn.blocked {
            return 0;
        }
        match conn.send(pending) {
            Ok(0) => 0,
            Ok(n) => {
                self.on(Event::Sent(side, n));
                n
            }
            Err(_) => {
                // What the peer sent before it went may still be read.
                conn.readable = true;
                self.on(Event::Unsendable(side));
                1
            }
        }
    }

    /// Performs what the session asks for, until it asks for nothing.
    fn acts(&mut self) {
        loop {
            let acts = self.slot.session.take_acts();
            if acts == Default::default() {
                return;
            }
            self.slot.reset |= acts.reset_front;
            self.end_back(acts.back);
            if acts.shut_back {
                if let Some(conn) = self.conn(Side::Back) {
                    conn.shut();
                }
            }
            if acts.shut_front {
                self.slot.front.shut();
            }
            if acts.log {
                self.log();
                self.on(Event::Logged);
            }
            if let Some(reuse) = acts.connect {
                self.connect(reuse);
            }
            if acts.tell {
                self.tell();
            }
        }
    }

    /// Writes the record of the exchange under way.
    pub fn log(&mut self) {
        if let Some(x) = self.slot.session.exchange() {
            let now_us = self.world.now_us;
            count::exchange(self.tally, self.world.door, x, now_us);
            if let Some((server, us)) = x.server.as_ref().zip(x.record.answered_after(now_us)) {
                self.backs.took(server.key, us, now_us);
            }
            if x.record.start_us != 0 {
                self.access.write(
                    x,
                    self.slot.session.peer(),
                    self.world.door,
                    self.world.now_us,
                );
            }
            let most = x.target.as_ref().map_or(0, |it| it.cluster.eject_5xx);
            if let Some(server) = x
                .server
                .as_ref()
                .filter(|_| most > 0 && x.came_from_backend())
            {
                let now_ms = self.world.now_us / 1000;
                let status = x.record.status;
                self.backs.answered(server.key, status, most, now_ms);
            }
            self.complaints
                .tell(x, self.slot.session.peer(), self.world.now_us);
            if x.record.surplus {
                self.board.add(self.worker, Cell::Surplus, 1);
            }
        }
        self.board.add(self.worker, Cell::Requests, 1);
        self.slot.tried.clear();
        self.slot.waited = None;
    }

    /// The next piece of the metrics.
    fn tell(&mut self) {
        let told = self.slot.session.exchange().and_then(|x| x.told);
        let Some(mut cursor) = told else { return };
        let source = Figures {
            board: self.board,
            ledger: self.tally.ledger(),
            certificates: self.certificates,
            doors: self.doors,
            backs: self.backs,
        };
        let mut text = String::new();
        let more = cursor.write(&source, METRICS_PIECE_BYTES, &mut text);
        self.world.scratch.head.clear();
        self.world.scratch.head.extend_from_slice(text.as_bytes());
        self.on(Event::Told(more.then_some(cursor)));
    }

    fn end_back(&mut self, act: BackAct) {
        if act == BackAct::Keep {
            return;
        }
        let Some(key) = self.slot.back.take() else {
            return;
        };
        self.slot.lanes = None;
        if let Some(back) = self
            .backs
            .conns
            .get_mut(key)
            .filter(|_| self.slot.inherited)
        {
            back.conn.forget(self.poll);
        }
        match act {
            BackAct::Release => self.release(key),
            BackAct::Reset => {
                if let Some(back) = self.backs.conns.get_mut(key) {
                    back.conn.reset();
                }
                self.backs.close(key);
            }
            BackAct::GiveUp => {
                if let Some(backend) = self.backs.conns.get(key).map(|back| back.backend) {
                    self.slot.tried.push(backend);
                    let now_ms = self.world.now_us / 1000;
                    self.backs.failed(backend, "not connected in time", now_ms);
                }
                self.backs.close(key);
            }
            BackAct::Keep | BackAct::Close => self.backs.close(key),
        }
    }

    /// To the pool, unless more has come than the response: whoever took the connection
    /// before epoll says so would take that for the answer to a request of its own.
    fn release(&mut self, key: Key) {
        let Some(back) = self.backs.conns.get_mut(key) else {
            return;
        };
        if back.speaks_for_one() {
            return self.backs.close(key);
        }
        if back.conn.is_silent() {
            self.backs.release(key, self.world.now_us / 1000, self.poll);
        } else {
            self.board.add(self.worker, Cell::Surplus, 1);
            self.backs.close(key);
        }
    }

    /// The end of this share: empty buffers go back, epoll learns what changed.
    fn settle(&mut self) {
        if !self.slot.session.is_closed() {
            let lanes = self.slot.lanes.as_deref();
            let holds = |from| lanes.is_some_and(|lanes| lanes.holds(from));
            let (front, back) = (holds(Side::Back), holds(Side::Front));
            self.slot.session.set_held(front, back);
            self.slot.session.settle(&mut self.world);
        }
        self.watch(Side::Front);
        self.watch(Side::Back);
    }

    fn watch(&mut self, side: Side) {
        let slot = &mut *self.slot;
        let holds = |from| slot.lanes.as_ref().is_some_and(|lanes| lanes.holds(from));
        // With bytes in the pipe no more are taken; they wait for the other side.
        let waits = side == Side::Front && slot.lined_up;
        let read = slot.session.wants(side) && !holds(side) && !slot.starving && !waits;
        let shakes = side == Side::Front && slot.front.shakes_out() && !waits;
        let pending = !slot.session.pending(side).is_empty() || holds(side.other()) || shakes;
        let (conn, token) = match (side, slot.back) {
            (Side::Front, _) => (&mut slot.front, token::pack(Kind::Front, self.key)),
            (Side::Back, Some(key)) => match self.backs.conns.get_mut(key) {
                Some(back) if !back.connecting => (&mut back.conn, token::pack(Kind::Back, key)),
                _ => return,
            },
            (Side::Back, None) => return,
        };
        let when = |wanted, events| if wanted { events } else { 0 };
        let ends = side == Side::Front && !read && slot.session.heeds_end();
        let want = when(read, epoll::IN) | when(pending, epoll::OUT) | when(ends, epoll::RDHUP);
        // What is pending was refused, or the budget was spent: either way epoll says when to go on.
        if let Err(e) = conn.watch_for(self.poll, token, want) {
            log::error!("epoll_ctl: {e}");
        }
    }
}
