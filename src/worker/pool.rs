//! Clusters, their backends, and the connections to them.
//!
//! A backend connection lives in one slot with one token for life, whoever
//! borrows it: a session, or nobody while it waits in its backend's pool. So a
//! kept-alive request costs no epoll_ctl. (It is not kept inside the session's
//! slot: it would have to move with every request.)

mod dial;
mod health;
pub mod legacy;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use crate::balance::Smooth;
use crate::health::{hash_of, question, Checks, Health, Verdict};
use crate::limits::POOLED_PER_BACKEND_MAX;
use crate::metrics::{Count, Series};
use crate::net::conn::Conn;
use crate::net::ledger::Tally;
use crate::net::tls::backend::{Dialer, Dialers, Identity};
use crate::net::token::{self, Kind};
use crate::session::moved::Tunnel;
use crate::session::{Lead, Server, Target};
use crate::slab::{Key, Slab};
use crate::state::{self, BackendState, Change};
use crate::sys::epoll::Epoll;
use crate::timer::Wheel;
use crate::worker::inherit::made_up;
use crate::worker::watch::{News, Watches};

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
    idle_since_ms: u64,
}

/// A server and what this worker knows of it.
struct Backend {
    server: Rc<Server>,
    smooth: Smooth,
    health: Health,
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
    fn new(backend: Rc<state::Backend>, series: Series, since: u64) -> Backend {
        let name = hash_of(&[backend.cluster.as_bytes(), backend.id.as_bytes()]);
        Backend {
            server: Rc::new(Server {
                key: NOWHERE,
                backend,
                series,
            }),
            smooth: Smooth::default(),
            health: Health::default(),
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
    backends: Vec<Key>,
    /// What its checks ask.
    question: Option<u64>,
    /// Too few are well: nobody is left alone.
    panics: bool,
    /// Whether that is so is to be looked at.
    unsettled: bool,
    /// Of one whose backends speak TLS.
    dialer: Option<Rc<Dialer>>,
    /// The change with which it came.
    since: u64,
}

pub struct Backs {
    clusters: Slab<Cluster>,
    by_id: HashMap<Rc<str>, Key>,
    dialers: Dialers,
    backends: Slab<Backend>,
    pub conns: Slab<Back>,
    pub timers: Wheel,
    tally: Tally,
    /// Changes of the configuration so far.
    moment: u64,
    /// How long an idle connection is kept.
    keepalive_ms: u64,
    /// Backends with connections that the last changes have taken requests from.
    departed: Vec<Key>,
    pub watches: Watches,
    pub news: News,
    /// Backends whose checks begin, or are other ones now.
    pub unchecked: Vec<Key>,
    /// Clusters of which it is to be looked at whether too few are well.
    unsettled: Vec<Key>,
}

impl Backs {
    pub fn new(now_ms: u64, keepalive_ms: u64, tally: Tally, dialers: Dialers) -> Backs {
        Backs {
            clusters: Slab::default(),
            by_id: HashMap::new(),
            dialers,
            backends: Slab::default(),
            conns: Slab::default(),
            timers: Wheel::new(now_ms),
            tally,
            moment: 0,
            keepalive_ms,
            departed: Vec::new(),
            watches: Watches::default(),
            news: News::default(),
            unchecked: Vec::new(),
            unsettled: Vec::new(),
        }
    }

    // ---- what is configured ---------------------------------------------

    /// Another change is about to be made.
    pub fn changes(&mut self) {
        self.moment += 1;
    }

    pub fn moment(&self) -> u64 {
        self.moment
    }

    pub fn add_cluster(&mut self, cluster: Rc<state::Cluster>, series: Series) {
        let id = cluster.id.clone();
        let lead = Lead::new(Target {
            key: NOWHERE,
            cluster: Rc::clone(&cluster),
            series,
        });
        let dialer = self.dialer_of(&cluster);
        let key = self.clusters.insert(Cluster {
            lead: lead.clone(),
            backends: Vec::new(),
            question: question(&cluster),
            panics: false,
            unsettled: false,
            dialer,
            since: self.moment,
        });
        lead.turn(Target {
            key,
            cluster,
            series,
        });
        self.by_id.insert(id, key);
    }

    pub fn update_cluster(&mut self, cluster: Rc<state::Cluster>) {
        let Some(key) = self.by_id.get(&cluster.id).copied() else {
            return;
        };
        self.update_dialer(key, &cluster);
        let Some(updated) = self.clusters.get_mut(key) else {
            return;
        };
        let before = updated.lead.target();
        updated.lead.turn(Target {
            key,
            cluster,
            series: before.series,
        });
        self.ask_anew(key, &before.cluster);
    }

    pub fn remove_cluster(&mut self, id: &str) {
        if let Some(key) = self.by_id.remove(id) {
            self.clusters.remove(key);
        }
    }

    pub fn target(&self, id: &str) -> Option<Rc<Target>> {
        self.lead(id).map(|lead| lead.target())
    }

    /// Where a connection leads that came from another worker; its cluster may be gone.
    pub fn target_or_stray(&self, id: &str) -> Option<Rc<Target>> {
        self.target(id).or_else(|| {
            let made = made_up("cluster", &[("id", id.to_string())])?;
            let Change::ClusterAdd(cluster) = made else {
                return None;
            };
            Some(Rc::new(Target {
                key: NOWHERE,
                cluster,
                series: None,
            }))
        })
    }

    /// A connection to a backend that another worker has made. A backend that is gone, or has
    /// become another one, has this connection and gets no more.
    pub fn take_over(&mut self, stream: TcpStream, tunnel: &Tunnel) -> Option<(Key, Rc<Server>)> {
        let (cluster, id, address) = (&tunnel.cluster, &tunnel.backend, tunnel.address);
        let same = |key: &Key| {
            let backend = self.backends.get(*key);
            backend.is_some_and(|backend| backend.conf().address == address)
        };
        let backend = match self.backend_key(cluster, id).filter(same) {
            Some(known) => known,
            None => self.stray_backend(cluster, id, address)?,
        };
        let server = self.backends.get_mut(backend)?;
        server.connections += 1;
        self.tally.row(server.server.series).add(Count::Open, 1);
        self.watches.gained(&server.watchers);
        let conn = self.conns.insert(Back {
            conn: Conn::new(stream, false),
            owner: None,
            backend,
            connecting: false,
            shook: false,
            identity: None,
            preface: None,
            idle_since_ms: 0,
        });
        Some((conn, Rc::clone(&server.server)))
    }

    fn stray_backend(&mut self, cluster: &str, id: &str, address: SocketAddr) -> Option<Key> {
        let pairs = [
            ("cluster", cluster.to_string()),
            ("id", id.to_string()),
            ("address", address.to_string()),
        ];
        let Change::BackendAdd(conf) = made_up("backend", &pairs)? else {
            return None;
        };
        let gone = Backend::new(conf, None, self.moment);
        Some(self.backends.insert(Backend {
            removed: true,
            ..gone
        }))
    }

    pub fn lead(&self, id: &str) -> Option<Lead> {
        let cluster = self.clusters.get(*self.by_id.get(id)?)?;
        Some(cluster.lead.clone())
    }

    pub fn add_backend(&mut self, backend: Rc<state::Backend>, series: Series) {
        let cluster = self.by_id.get(&backend.cluster).copied();
        let Some(cluster) = cluster.and_then(|key| self.clusters.get_mut(key)) else {
            return;
        };
        let server = Rc::clone(&backend);
        let key = self
            .backends
            .insert(Backend::new(backend, series, self.moment));
        cluster.backends.push(key);
        if let Some(backend) = self.backends.get_mut(key) {
            backend.server = Rc::new(Server {
                key,
                backend: server,
                series,
            });
        }
        self.unchecked.push(key);
        self.unsettle(key);
    }

    /// One that takes nothing new gives its idle connections up.
    pub fn update_backend(&mut self, conf: Rc<state::Backend>) {
        let Some(key) = self.backend_key(&conf.cluster, &conf.id) else {
            return;
        };
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let idle = match conf.state {
            BackendState::Ready => Vec::new(),
            BackendState::Drain | BackendState::Down => std::mem::take(&mut backend.pool),
        };
        if conf.state != BackendState::Ready {
            self.departed.push(key);
        }
        backend.server = Rc::new(Server {
            key,
            backend: conf,
            series: backend.server.series,
        });
        if !backend.is_ready() {
            self.settle(key, Verdict::Unknown);
        }
        self.unchecked.push(key);
        self.unsettle(key);
        for conn in idle {
            self.drop_conn(conn);
        }
    }

    fn backend_key(&self, cluster: &str, id: &str) -> Option<Key> {
        let cluster = self.clusters.get(*self.by_id.get(cluster)?)?;
        let of_id = |key: &&Key| {
            self.backends
                .get(**key)
                .is_some_and(|b| *b.conf().id == *id)
        };
        // What was added last is asked for first.
        cluster.backends.iter().rev().find(of_id).copied()
    }

    /// A server as it is configured here.
    pub fn backend(&self, cluster: &str, id: &str) -> Option<Rc<state::Backend>> {
        let backend = self.backends.get(self.backend_key(cluster, id)?)?;
        Some(Rc::clone(&backend.server.backend))
    }

    /// New requests go elsewhere; running ones finish.
    pub fn remove_backend(&mut self, cluster: &str, id: &str) {
        let Some(key) = self.backend_key(cluster, id) else {
            return;
        };
        let cluster = self.by_id.get(cluster).copied();
        if let Some(cluster) = cluster.and_then(|key| self.clusters.get_mut(key)) {
            cluster.backends.retain(|backend| *backend != key);
        }
        self.unsettle(key);
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        backend.removed = true;
        self.unchecked.push(key);
        self.departed.push(key);
        for conn in std::mem::take(&mut backend.pool) {
            self.drop_conn(conn);
        }
        self.forget_if_empty(key);
    }

    fn forget_if_empty(&mut self, backend: Key) {
        if self
            .backends
            .get(backend)
            .is_some_and(|b| b.removed && b.connections == 0)
        {
            self.backends.remove(backend);
        }
    }

    // ---- what main is told ----------------------------------------------

    /// Changes follow that belong together.
    pub fn begin_changes(&mut self) {
        self.departed.clear();
    }

    /// Main wants to know how many connections are left to those that the last changes
    /// have taken requests from.
    pub fn watch(&mut self, order: u64) {
        let mut connections = 0;
        for key in std::mem::take(&mut self.departed) {
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
        back.conn.part();
        self.timers.cancel(key.index);
        if let Some(server) = self.backends.get_mut(back.backend) {
            server.connections -= 1;
            self.tally.row(server.server.series).take_one(Count::Open);
            self.watches.lost(&server.watchers);
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
