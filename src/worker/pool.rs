//! Clusters, their backends, and the connections to them.
//!
//! A backend connection lives in one slot with one token for life, whoever
//! borrows it: a session, or nobody while it waits in its backend's pool. So a
//! kept-alive request costs no epoll_ctl. (It is not kept inside the session's
//! slot: it would have to move with every request.)

mod choice;
mod configured;
mod dial;
mod health;
pub mod legacy;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::balance::Seat;
use crate::health::{Checks, Health};
use crate::limits::POOLED_PER_BACKEND_MAX;
use crate::metrics::{Count, Series};
use crate::net::conn::Conn;
use crate::net::ledger::Tally;
use crate::net::tls::backend::{Dialer, Dialers, Identity};
use crate::net::token::{self, Kind};
use crate::random::{hash_of, Random};
use crate::session::{Lead, Server, Target};
use crate::slab::{Key, Slab};
use crate::state::{self, BackendState};
use crate::sys::epoll::Epoll;
use crate::timer::Wheel;
use crate::worker::errands::Errands;
use crate::worker::watch::{News, Watches};

use choice::Choice;
pub use choice::Waiting;
pub use dial::{Asked, Found, Made};
pub use health::{Asking, Report, Subject};

/// The place of a cluster that has none.
const NOWHERE: Key = Key {
    index: u32::MAX,
    generation: 0,
};

/// A connection to a backend.
pub struct Back {
    pub conn: Conn,
    /// The client's slot that uses it; `None` in the pool.
    pub owner: Option<Key>,
    pub backend: Key,
    /// Not made yet, be it that TLS is not agreed upon.
    pub connecting: bool,
    /// Its handshake has begun.
    shook: bool,
    /// What it was made for, under TLS.
    identity: Option<Identity>,
    /// What is said first on it, of the client for whom it speaks; empty once it is said.
    preface: Option<Box<[u8]>>,
    /// It carries a request or a tunnel, which counts at its backend.
    busy: bool,
    idle_since_ms: u64,
}

/// A server and what this worker knows of it.
struct Backend {
    server: Rc<Server>,
    /// Its place in the cluster.
    cluster: Key,
    seat: Option<Seat>,
    health: Health,
    /// It had as many requests as it may.
    full: bool,
    /// When it was added, or came back; from then on it warms up.
    back_ms: Option<u64>,
    /// Until when it is left alone, as its cluster knows it.
    returns_ms: u64,
    /// Idle connections, the one that was used last at the end.
    pool: Vec<Key>,
    /// It was removed: its connections end with what they carry.
    removed: bool,
    /// Connections, pooled or not.
    connections: u32,
    /// Orders of main to watch it.
    watchers: Vec<u64>,
    /// What its checks have shown, and of whose name they are told apart.
    checks: Checks,
    name: u64,
    /// Its check that is being made, by its place among all, or that it waits for one.
    pub probe: Asking,
    /// It was left alone, and nothing since has shown that it is well; why.
    down: bool,
    why: String,
    /// That TLS fails was said; not again before then.
    tls_silent_until_ms: u64,
    /// What main was told of that, and whether there is news.
    told_down: bool,
    has_news: bool,
    /// The change with which it came.
    since: u64,
}

impl Backend {
    fn new(backend: Rc<state::Backend>, series: Series, cluster: Key, since: u64) -> Backend {
        let name = hash_of(&[backend.cluster.as_bytes(), backend.id.as_bytes()]);
        Backend {
            server: Rc::new(Server {
                key: NOWHERE,
                backend,
                series,
            }),
            cluster,
            seat: None,
            health: Health::default(),
            full: false,
            back_ms: None,
            returns_ms: 0,
            pool: Vec::new(),
            removed: false,
            connections: 0,
            watchers: Vec::new(),
            checks: Checks::default(),
            name,
            probe: Asking::default(),
            down: false,
            why: String::new(),
            tls_silent_until_ms: 0,
            told_down: false,
            has_news: false,
            since,
        }
    }

    fn conf(&self) -> &state::Backend {
        &self.server.backend
    }

    fn is_ready(&self) -> bool {
        !self.removed && self.conf().state == BackendState::Ready
    }

    fn takes_requests(&self) -> bool {
        self.is_ready() && self.conf().weight > 0
    }
}

struct Cluster {
    lead: Lead,
    /// By their ids.
    backends: HashMap<Rc<str>, Key>,
    /// By what the cookies of sticky sessions call them.
    by_cookie: HashMap<Box<str>, Key>,
    choice: Choice,
    /// What its checks ask.
    question: Option<u64>,
    /// Of one whose backends speak TLS.
    dialer: Option<Rc<Dialer>>,
    /// The change with which it came.
    since: u64,
}

impl Cluster {
    fn slow_start_ms(&self) -> u64 {
        u64::from(self.lead.target().cluster.balancing.slow_start) * 1000
    }
}

pub struct Backs {
    clusters: Slab<Cluster>,
    by_id: HashMap<Rc<str>, Key>,
    dialers: Dialers,
    backends: Slab<Backend>,
    pub conns: Slab<Back>,
    pub timers: Wheel,
    random: Random,
    tally: Tally,
    /// Clusters for whose backends somebody waits, and of these those in which a request has ended.
    queues: Vec<Key>,
    freed: Vec<Key>,
    queues_looked_ms: u64,
    waiting: usize,
    waiting_max: usize,
    /// Who waited for a cluster that is gone.
    pub stranded: Vec<Key>,
    /// Of the worker's clock, at the start of this turn.
    pub now_ms: u64,
    /// Changes of the configuration so far.
    moment: u64,
    /// How long an idle connection is kept.
    keepalive_ms: u64,
    /// Backends with connections that the last changes have taken requests from.
    departed: Vec<Key>,
    /// Of those of them that go by name: cluster and backend.
    departed_names: BTreeSet<(Rc<str>, Box<str>)>,
    pub watches: Watches,
    pub news: News,
    pub errands: Errands,
    /// Backends whose checks begin, or are other ones now.
    pub unchecked: Vec<Key>,
}

impl Backs {
    /// `waiting_max`: so many requests wait at most, for all clusters together.
    pub fn new(
        now_ms: u64,
        keepalive_ms: u64,
        tally: Tally,
        dialers: Dialers,
        random: Random,
        waiting_max: usize,
    ) -> Backs {
        Backs {
            clusters: Slab::default(),
            by_id: HashMap::new(),
            dialers,
            backends: Slab::default(),
            conns: Slab::default(),
            timers: Wheel::new(now_ms),
            random,
            tally,
            queues: Vec::new(),
            freed: Vec::new(),
            queues_looked_ms: 0,
            waiting: 0,
            waiting_max,
            stranded: Vec::new(),
            now_ms,
            moment: 0,
            keepalive_ms,
            departed: Vec::new(),
            departed_names: BTreeSet::new(),
            watches: Watches::default(),
            news: News::default(),
            errands: Errands::default(),
            unchecked: Vec::new(),
        }
    }

    // ---- what main is told ----------------------------------------------

    /// Changes follow that belong together.
    pub fn begin_changes(&mut self) {
        self.departed.clear();
        self.departed_names.clear();
    }

    /// Main wants to know how many connections are left to those that the last changes
    /// have taken requests from.
    pub fn watch(&mut self, order: u64) {
        let mut connections = 0;
        let mut departed = std::mem::take(&mut self.departed);
        departed.extend(self.departed_before());
        for key in departed {
            let backend = self.backends.get_mut(key);
            // Drained and then removed, it stands there twice.
            if let Some(backend) = backend.filter(|b| !b.watchers.contains(&order)) {
                connections += backend.connections;
                let watches = &self.watches;
                backend.watchers.retain(|order| watches.knows(*order));
                backend.watchers.push(order);
            }
        }
        self.watches.add(order, connections);
    }

    /// Of backends by name the servers as well that they had lost already, and that finish what they have.
    fn departed_before(&mut self) -> Vec<Key> {
        let names = std::mem::take(&mut self.departed_names);
        if names.is_empty() {
            return Vec::new();
        }
        let lost = self.backends.iter().filter(|(_, backend)| {
            let name = backend.conf().name();
            backend.removed && name.is_some_and(|name| names.contains(&name))
        });
        lost.map(|(key, _)| key).collect()
    }

    // ---- connections ----------------------------------------------------

    /// The server at the other end.
    pub fn server(&self, conn: Key) -> Option<Rc<Server>> {
        let back = self.conns.get(conn)?;
        Some(Rc::clone(&self.backends.get(back.backend)?.server))
    }

    /// A session has done with it: it waits for the next one.
    pub fn release(&mut self, key: Key, now_ms: u64, poll: &Epoll) {
        let Some(back) = self.conns.get_mut(key) else {
            return;
        };
        back.owner = None;
        back.idle_since_ms = now_ms;
        let (backend, was_busy) = (back.backend, std::mem::take(&mut back.busy));
        let watched = back
            .conn
            .watch(poll, token::pack(Kind::Back, key), true, false);
        let fits = match self.backends.get_mut(back.backend) {
            Some(server)
                if server.takes_requests() && server.pool.len() < POOLED_PER_BACKEND_MAX =>
            {
                server.pool.push(key);
                true
            }
            _ => false,
        };
        if was_busy {
            self.end(backend);
        }
        if !fits || watched.is_err() {
            self.close(key);
            return;
        }
        self.timers.set(key.index, now_ms + self.keepalive_ms);
    }

    /// Closes a connection, pooled or not.
    pub fn close(&mut self, key: Key) {
        let Some(back) = self.conns.get(key) else {
            return;
        };
        let backend = back.backend;
        if back.owner.is_none() {
            if let Some(server) = self.backends.get_mut(backend) {
                server.pool.retain(|pooled| *pooled != key);
            }
        }
        self.drop_conn(key);
        self.forget_if_empty(backend);
    }

    fn drop_conn(&mut self, key: Key) {
        let Some(mut back) = self.conns.remove(key) else {
            return;
        };
        self.errands.forget(token::pack(Kind::Back, key));
        back.conn.part();
        self.timers.cancel(key.index);
        if let Some(server) = self.backends.get_mut(back.backend) {
            server.connections -= 1;
            self.tally.row(server.server.series).take_one(Count::Open);
            self.watches.lost(&server.watchers);
        }
        if back.busy {
            self.end(back.backend);
        }
    }

    // ---- to be told -----------------------------------------------------

    /// The first cluster at that place or behind it that is counted, and has been
    /// there since that moment.
    pub fn cluster_from(&self, from: u32, moment: u64) -> Option<(u32, Rc<Target>)> {
        let told = |c: &Cluster| c.since <= moment && c.lead.target().series.is_some();
        let mut clusters = self.clusters.iter_from(from);
        let (key, cluster) = clusters.find(|(_, cluster)| told(cluster))?;
        Some((key.index, cluster.lead.target()))
    }

    /// The same of backends.
    pub fn backend_from(&self, from: u32, moment: u64) -> Option<(u32, &Server)> {
        let told = |b: &Backend| !b.removed && b.since <= moment && b.server.series.is_some();
        let mut backends = self.backends.iter_from(from);
        let (key, backend) = backends.find(|(_, backend)| told(backend))?;
        Some((key.index, &backend.server))
    }

    /// Idle connections whose time is over.
    pub fn expire(&mut self, now_ms: u64, expired: &mut Vec<u32>) {
        expired.clear();
        self.timers.advance(now_ms, expired);
        for index in expired.drain(..) {
            let Some(key) = self.conns.key_at(index) else {
                continue;
            };
            if self.conns.get(key).is_some_and(|back| back.owner.is_none()) {
                self.close(key);
            }
        }
    }
}
