//! A client connection as a value: it takes events and asks for acts.
//!
//! It cannot fail: a failure is a phase. It holds no descriptor and no clock;
//! the worker reads into its `room`, tells it what happened, sends what is
//! `pending`, performs the acts, and calls `settle` when the turn is over.
//!
//! ```text
//!            first byte        head complete, route     connected
//!   Idle ───────────────▶ Head ──────────────▶ Waiting ───────────▶ Running ──▶ Tunnel
//!    ▲                     │ refused             │ no backend          │  101      │
//!    │                     └──────▶ Answering ◀──┴─────────────────────┤           │
//!    │      keep-alive                 │ sent                          │ done      │ shut
//!    └──────────────────────────── Logging ◀───────────────────────────┴───────────┘
//!                                      │ close        half-closed, waits for the client
//!                                      └──▶ Lingering ──▶ Closed
//! ```
//! From Waiting it goes to Held while its cluster is paused, and back when that is over.
//! A TCP session begins in Waiting and has no Head; where TLS passes through, its ClientHello is
//! one. One under TLS, or behind a PROXY header, begins in Shaking, and goes there from it.

pub mod action;
pub mod body;
mod door;
mod exchange;
pub mod flow;
mod hello;
mod lead;
mod metrics;
pub mod moved;
mod pace;
mod phase;
mod quota;
pub mod record;
mod request;
mod response;
mod tunnel;
mod waiting;

use std::net::SocketAddr;
use std::rc::Rc;

use crate::buf::Pool;
use crate::http::basic_auth::Proofs;
use crate::http::challenge::Challenges;
use crate::http::fields::Head;
use crate::limits::{LINGER_MS, SPARE_EXCHANGES_MAX};
use crate::metrics::text::Cursor;
use crate::quota::Clients;
use crate::random::Random;
use crate::state::{Listener, Names, Protocol};

pub use body::Scratch;
pub use door::{Door, Lead, Rule, Server, Target};
pub use exchange::Exchange;
use phase::Phase;

/// Exchanges that nobody uses. In boxes: a session takes one over without copying it.
pub type Spare = Vec<Box<Exchange>>;

/// What a session is lent for the time of one event.
pub struct World<'w> {
    pub now_us: u64,
    pub door: &'w Door,
    /// What certificate authorities are answered.
    pub challenges: &'w Challenges,
    /// What each client has taken.
    pub clients: Clients<'w>,
    /// Which passwords were right.
    pub proofs: &'w mut Proofs,
    pub random: &'w mut Random,
    pub scratch: &'w mut Scratch,
    pub pool: &'w mut Pool,
    /// Exchanges that nobody uses.
    pub spare: &'w mut Spare,
    /// Where bytes go that nobody reads.
    pub trash: &'w mut [u8],
    /// Is shown every head that was parsed.
    pub trace: Option<fn(Head)>,
    pub stay: Stay,
}

/// What a client is told, and what it can rely on, while its worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    Welcome,
    /// Each answer says that it is the last one. Who was promised another one before is waited for.
    Told,
    /// The same, and nobody is waited for any more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Front,
    Back,
}

/// Why there is no connection to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// Refused, unreachable: the address was tried.
    Refused,
    TimedOut,
    /// Connected, and yet there is no TLS with it; why.
    NoTls(&'static str),
    /// None of the cluster can be used.
    NoBackend,
    /// Too many wait for the cluster already; after so many seconds it is worth another try.
    QueueFull {
        seconds: u32,
    },
    /// It has waited for a backend for as long as it may.
    QueueTimedOut,
}

/// What happened.
pub enum Event {
    /// Bytes were put into the room of that side.
    Received(Side, usize),
    /// The peer has shut its side of the connection.
    Ended(Side),
    /// The connection is gone.
    Lost(Side),
    /// The peer takes no more bytes; what it sent may still be read.
    Unsendable(Side),
    /// Pending bytes went out to that side.
    Sent(Side, usize),
    /// Bytes went from that side to the other without coming here.
    Lent(Side, u64),
    Connected {
        server: Rc<Server>,
        reused: bool,
    },
    Unconnected(Unconnected),
    /// The next piece of the metrics lies in `scratch.head`; where the one after it
    /// begins, if there is one.
    Told(Option<Cursor>),
    /// The cluster is paused, or its backends are full: it will be told when that is over.
    Held,
    /// It is the first of those who wait for a free backend. Where its cluster leads now, if there is one.
    Called(Option<Rc<Target>>),
    /// The pause is over. Where the cluster of that name leads now, if there is one.
    Resumed(Option<Rc<Target>>),
    /// The act `LOG` was performed.
    Logged,
    /// TLS is agreed upon, where it is spoken, and it is known who the client is.
    Secured(Secured),
    /// There will be no TLS: the client has been told so.
    Unsecured,
    /// The deadline has come.
    Timeout,
    /// The worker wants to end.
    Drain,
}

/// What is known of a client under TLS.
#[derive(Default)]
pub struct Secured {
    /// The names of the certificate that it was shown.
    pub names: Option<Names>,
    /// Of the certificate that it has shown: field lines for every request of its.
    pub identity: Option<Rc<[u8]>>,
}

/// Which pooled connection will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Any,
    /// One that went idle just now: the request cannot be sent twice.
    Recent,
    Never,
}

/// What the worker is asked to do, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acts {
    /// Write the record of the exchange into the access log, then say `Logged`.
    pub log: bool,
    pub back: BackAct,
    /// Find a backend connection.
    pub connect: Option<Reuse>,
    /// Write the next piece of the metrics, then say `Told`.
    pub tell: bool,
    /// Shut the sending side once nothing is pending.
    pub shut_front: bool,
    pub shut_back: bool,
    /// The client sees a reset, not an end.
    pub reset_front: bool,
}

/// What becomes of the backend connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackAct {
    #[default]
    Keep,
    /// To the pool.
    Release,
    /// It was not made in time.
    GiveUp,
    Close,
    Reset,
}

/// All of a session but its phase.
struct Common {
    peer: SocketAddr,
    /// Microseconds of the worker's clock: the last byte, or the start of a head or of lingering.
    since_us: u64,
    acts: Acts,
    /// The client has shut its side.
    front_ended: bool,
    secured: Secured,
}

pub struct Session {
    phase: Phase,
    common: Common,
}

impl Session {
    pub fn new(peer: SocketAddr, world: &mut World) -> Session {
        let mut common = Common {
            peer,
            since_us: world.now_us,
            acts: Acts::default(),
            front_ended: false,
            secured: Secured::default(),
        };
        let listener = &world.door.listener;
        let phase = match listener.protocol {
            Protocol::Https => Phase::Shaking,
            _ if listener.expects_proxy(peer.ip()) => Phase::Shaking,
            _ => common.begin(world),
        };
        Session { phase, common }
    }

    pub fn on(&mut self, event: Event, world: &mut World) {
        use Event::*;
        use Side::*;
        self.move_on(&event, world);
        let c = &mut self.common;
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        self.phase = match (phase, event) {
            (Phase::Shaking, event) => c.shaken(event, world),

            (Phase::Head(x), event) if world.door.reads_hello() => hello::on(c, x, event, world),
            (Phase::Head(x), Received(Front, n)) => request::received_head(c, x, n, world),
            (Phase::Head(x), Ended(Front) | Lost(Front)) => request::head_cut(c, x, world),
            (Phase::Head(x), Timeout) => request::head_timeout(c, x, world),

            (Phase::Waiting(x), Received(Front, n)) => request::received(c, x, n, world),
            (Phase::Waiting(x), Connected { server, reused }) => {
                waiting::connected(c, x, server, reused, world)
            }
            (Phase::Waiting(x), Unconnected(why)) => waiting::unconnected(c, x, why, world),
            (Phase::Waiting(x), Timeout) => {
                c.acts.back = BackAct::GiveUp;
                waiting::unconnected(c, x, self::Unconnected::TimedOut, world)
            }
            (Phase::Waiting(x), Held) => waiting::held(c, x, world),
            (Phase::Held(x), event) => waiting::while_held(c, x, event, world),

            (Phase::Running(x), Received(Front, n)) => request::received(c, x, n, world),
            (Phase::Running(x), Received(Back, n)) => response::answered(c, x, n, world),
            (Phase::Running(x), Sent(side, n)) => request::sent(c, x, side, n, world),
            (Phase::Running(x), Lent(side, n)) => request::lent(c, x, side, n),
            (Phase::Running(x), Ended(Back)) => response::back_ended(c, x, world),
            (Phase::Running(x), Lost(Back)) => response::back_lost(c, x, world),
            (Phase::Running(x), Unsendable(Back)) => response::back_full(x),
            (Phase::Running(x), Timeout) => response::timeout(c, x, world),
            (Phase::Waiting(x) | Phase::Running(x), Ended(Front)) => {
                response::front_ended(c, x, world)
            }
            (Phase::Waiting(x) | Phase::Running(x), Lost(Front) | Unsendable(Front)) => {
                response::front_lost(c, x)
            }

            (Phase::Answering(x), Sent(Front, n)) => request::answer_sent(c, x, n),
            (Phase::Answering(x), Told(next)) => metrics::told(c, x, next, world),
            (Phase::Answering(x), Ended(Front)) => {
                c.front_ended = true;
                Phase::Answering(x)
            }
            (Phase::Answering(x), Lost(Front) | Unsendable(Front)) => response::front_lost(c, x),
            (Phase::Answering(x), Timeout) => request::answer_timeout(c, x),

            (Phase::Logging(x), Logged) => response::logged(c, x, world),

            (Phase::Tunnel(x), Received(side, n)) => tunnel::received(x, side, n, world),
            (Phase::Tunnel(x), Sent(side, n)) => tunnel::sent(c, x, side, n),
            (Phase::Tunnel(x), Lent(side, n)) => tunnel::lent(x, side, n),
            (Phase::Tunnel(x), Ended(side)) => tunnel::ended(c, x, side, world),
            (Phase::Tunnel(x), Lost(side) | Unsendable(side)) => tunnel::lost(c, x, side),
            (Phase::Tunnel(x), Timeout) => tunnel::timeout(c, x),

            (Phase::Idle, Timeout | Drain) => c.linger(world.now_us),
            (Phase::Idle | Phase::Lingering, Ended(Front) | Lost(Front) | Unsendable(Front)) => {
                Phase::Closed
            }
            (Phase::Lingering, Timeout) => Phase::Closed,
            // What comes late means nothing any more.
            (phase, _) => phase,
        };
    }

    /// Bytes that move put the deadline off, and are counted where they have to be many.
    fn move_on(&mut self, event: &Event, world: &World) {
        let moving = matches!(
            self.phase,
            Phase::Running(_) | Phase::Answering(_) | Phase::Tunnel(_)
        );
        if moving
            && matches!(
                event,
                Event::Received(..) | Event::Sent(..) | Event::Lent(..)
            )
        {
            self.common.since_us = world.now_us;
            self.count_pace(event, world);
        }
    }

    /// What the worker is to do now. Each is told once.
    pub fn take_acts(&mut self) -> Acts {
        std::mem::take(&mut self.common.acts)
    }

    /// Where bytes from that side go. Empty: there is no room now.
    pub fn room<'r>(&'r mut self, side: Side, world: &'r mut World) -> &'r mut [u8] {
        if matches!(self.phase, Phase::Idle) {
            if world.pool.is_low() {
                return &mut [];
            }
            let mut x = world.spare.pop().unwrap_or_default();
            let aside = self.common.identity().len() + world.door.aside;
            x.up.set_aside(aside);
            self.common.since_us = world.now_us;
            self.phase = Phase::Head(x);
        }
        match (&mut self.phase, side) {
            (Phase::Lingering, _) => world.trash,
            (phase, Side::Front) => phase
                .exchange_mut()
                .map_or(&mut [], |x| x.up.room(world.pool)),
            (phase, Side::Back) => phase
                .exchange_mut()
                .map_or(&mut [], |x| x.down.room(world.pool)),
        }
    }

    /// Whether bytes from that side are welcome.
    pub fn wants(&self, side: Side) -> bool {
        let open = !self.common.front_ended;
        match (&self.phase, side) {
            (Phase::Shaking | Phase::Idle | Phase::Lingering, Side::Front) => true,
            (Phase::Head(x) | Phase::Waiting(x) | Phase::Held(x), Side::Front) => {
                open && x.up.has_room()
            }
            (Phase::Running(x), Side::Front) => open && !x.up_broken && x.up.has_room(),
            (Phase::Running(x), Side::Back) => !x.back_done && x.down.has_room(),
            (Phase::Tunnel(x), Side::Front) => !x.up_body.is_done() && x.up.has_room(),
            (Phase::Tunnel(x), Side::Back) => !x.down_done() && x.down.has_room(),
            _ => false,
        }
    }

    /// Whether nobody would find by reading that this side is gone.
    pub fn overlooks(&self, side: Side) -> bool {
        match (&self.phase, side) {
            // What it sent before goes on first.
            (Phase::Tunnel(x), Side::Front) => x.up_body.is_done(),
            (Phase::Tunnel(x), Side::Back) => x.down_done(),
            (_, Side::Front) => !self.wants(side),
            (_, Side::Back) => false,
        }
    }

    /// Whether it is to be told at once that its client has shut its side, though bytes
    /// before that are not read yet.
    pub fn heeds_end(&self) -> bool {
        matches!(&self.phase, Phase::Held(x) if !request::is_tcp(x))
    }

    /// Bytes that are to be sent to that side.
    pub fn pending(&self, side: Side) -> &[u8] {
        match (&self.phase, side) {
            (Phase::Running(x) | Phase::Tunnel(x), Side::Back) if !x.back_done && !x.up_broken => {
                x.up.out()
            }
            (Phase::Running(x) | Phase::Tunnel(x) | Phase::Answering(x), Side::Front) => {
                x.down.out()
            }
            _ => &[],
        }
    }

    /// How many bytes from that side may pass to the other unseen. 0 while some lie here.
    pub fn unseen(&self, from: Side) -> u64 {
        match (&self.phase, from) {
            (Phase::Running(x) | Phase::Tunnel(x), Side::Front) => {
                let free = x.up.is_empty() && !x.up_broken && !x.back_done;
                if free {
                    x.up_body.unseen()
                } else {
                    0
                }
            }
            (Phase::Running(x) | Phase::Tunnel(x), Side::Back) => match x.down_state {
                exchange::Down::Body(body) if x.down.is_empty() => body.unseen(),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Whether bytes for a side wait outside: who makes them wait is to blame for a time-out.
    pub fn set_held(&mut self, front: bool, back: bool) {
        if let Some(x) = self.phase.exchange_mut() {
            x.held_front = front;
            x.held_back = back;
        }
    }

    /// The turn is over: empty buffers go back.
    pub fn settle(&mut self, world: &mut World) {
        self.go_on_pace(world);
        if let Some(x) = self.phase.exchange_mut() {
            x.up.settle(world.pool);
            x.down.settle(world.pool);
        }
        if matches!(&self.phase, Phase::Head(x) if x.up.is_empty()) {
            self.forget(world);
            self.phase = Phase::Idle;
        } else if matches!(self.phase, Phase::Lingering | Phase::Closed) {
            debug_assert!(self.phase.exchange_mut().is_none());
        }
    }

    /// The session ends now; its memory goes back.
    pub fn forget(&mut self, world: &mut World) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        if let Some(x) = phase.into_exchange() {
            retire(x, world);
        }
    }

    /// When `Timeout` is due, in milliseconds of the worker's clock.
    pub fn deadline_ms(&self, listener: &Listener) -> u64 {
        let t = &listener.timeouts;
        let (seconds, extra_ms) = match &self.phase {
            Phase::Idle => (t.keepalive, 0),
            Phase::Shaking | Phase::Head(_) => (t.request, 0),
            Phase::Waiting(_) => (t.connect, 0),
            // Whoever paused its cluster has set the time.
            Phase::Held(_) => return u64::MAX,
            Phase::Running(x) if request::waits_for_client(x) => (t.front, 0),
            Phase::Running(_) => (t.back, 0),
            Phase::Answering(_) => (t.front, 0),
            Phase::Tunnel(_) => (t.tunnel, 0),
            Phase::Lingering => (0, LINGER_MS),
            Phase::Logging(_) | Phase::Closed => (0, 0),
        };
        let silent_ms = self.common.since_us / 1000 + u64::from(seconds) * 1000 + extra_ms;
        let slow_us = match &self.phase {
            Phase::Running(x) => listener.quota.pace.and_then(|_| x.pace.due_us()),
            _ => None,
        };
        slow_us.map_or(silent_ms, |us| silent_ms.min(us.div_ceil(1000)))
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// It waits for the end of a pause.
    pub fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held(_))
    }

    pub fn is_tunnel(&self) -> bool {
        matches!(self.phase, Phase::Tunnel(_))
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// The name of its phase, as the picture above has it.
    pub fn phase(&self) -> &'static str {
        self.phase.name()
    }

    pub fn peer(&self) -> SocketAddr {
        self.common.peer
    }

    /// Who has connected speaks for it.
    pub fn speaks_for(&mut self, client: SocketAddr) {
        self.common.peer = client;
    }

    /// The exchange under way: what the access log tells, where it leads.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.phase.exchange()
    }

    /// The worker ends before the exchange does. True: there is something to log.
    pub fn cut(&mut self, end: record::End) -> bool {
        let Some(x) = self.phase.exchange_mut() else {
            return false;
        };
        x.record.end = end;
        x.record.start_us != 0
    }
}

/// Buffers and memory of an exchange go back.
fn retire(mut x: Box<Exchange>, world: &mut World) {
    x.up.clear();
    x.down.clear();
    x.up.settle(world.pool);
    x.down.settle(world.pool);
    if world.spare.len() < SPARE_EXCHANGES_MAX {
        x.renew();
        world.spare.push(x);
    }
}

impl Common {
    /// What every backend is told of the client.
    fn identity(&self) -> &[u8] {
        self.secured.identity.as_deref().unwrap_or_default()
    }

    /// The client asks for nothing more: it has shut its side, and no bytes of a next request lie here.
    fn is_last(&self, x: &Exchange) -> bool {
        self.front_ended && x.up.raw().is_empty()
    }

    fn begin(&mut self, world: &mut World) -> Phase {
        match world.door.listener.protocol {
            Protocol::Tcp => tunnel::begin(self, world),
            _ => Phase::Idle,
        }
    }

    /// What came of the handshake, or came instead.
    fn shaken(&mut self, event: Event, world: &mut World) -> Phase {
        match event {
            Event::Secured(secured) => {
                self.secured = secured;
                self.since_us = world.now_us;
                self.begin(world)
            }
            // With a plain end, what it was told would be lost to what it goes on to say.
            Event::Unsecured => self.linger(world.now_us),
            Event::Ended(_) | Event::Lost(_) | Event::Unsendable(_) => Phase::Closed,
            Event::Timeout => Phase::Closed,
            _ => Phase::Shaking,
        }
    }

    /// Says that nothing more comes, and waits for the client to say so too: a
    /// close with unread bytes would be a reset, which destroys what was sent.
    fn linger(&mut self, now_us: u64) -> Phase {
        self.acts.shut_front = true;
        self.since_us = now_us;
        if self.front_ended {
            Phase::Closed
        } else {
            Phase::Lingering
        }
    }
}
