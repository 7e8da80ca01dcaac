//! How a request comes by a connection to a backend: chosen, taken from the
//! pool or made, and under TLS made for one name, once TLS is agreed upon.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::balance::Ask;
use crate::limits::TLS_SILENCE_MS;
use crate::metrics::Count;
use crate::net::conn::Conn;
use crate::net::tls::backend::{reason, Dialer, NO_NAME};
use crate::net::token::{self, Kind};
use crate::session::{Reuse, Server, Unconnected};
use crate::slab::Key;
use crate::state::Cluster;
use crate::sys::epoll::Epoll;
use crate::sys::socket;
use crate::worker::errands::Errands;
use crate::worker::pool::choice::Chosen;
use crate::worker::pool::{Back, Backs};

/// A pooled connection that went idle less than this ago is not taken for dead.
const RECENT_MS: u64 = 500;

/// What a connection is wanted for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub cluster: Key,
    /// The host that is asked for, as routes spell it.
    pub host: &'a str,
    pub reuse: Reuse,
    /// The client's slot.
    pub owner: Key,
    /// What is said first on a connection that is made: then it is nobody else's.
    pub preface: Option<&'a [u8]>,
    /// By what a backend is chosen.
    pub ask: Ask,
    /// The backend that its cookie names; empty: none.
    pub sticky: &'a str,
    /// It has waited in the queue, and its turn has come.
    pub called: bool,
    /// When it waits for a connection no more.
    pub until_ms: u64,
}

/// What came of asking for a connection.
pub enum Found {
    Ready(Key, Rc<Server>),
    Started(Key),
    /// All backends have as many requests as they may.
    Busy,
    Nothing(Unconnected),
}

/// What came of a step in the making of a connection.
pub enum Made {
    Yes,
    /// It goes on when epoll says so.
    NotYet,
    No(Unconnected),
}

/// Under TLS: by whom a connection is made, and for whom.
type Wanted<'a> = Option<(&'a Rc<Dialer>, &'a str)>;

impl Backs {
    // ---- TLS ------------------------------------------------------------

    pub(super) fn dialer_of(&mut self, cluster: &Cluster) -> Option<Rc<Dialer>> {
        let made = self.dialers.dialer(cluster.tls.as_ref()?, cluster.protocol);
        let told = |e: &String| log::error!("cluster {}: no TLS with backends: {e}", cluster.id);
        made.inspect_err(told).ok().map(Rc::new)
    }

    /// What was made by other rules is used no more; requests that are under way finish.
    pub(super) fn update_dialer(&mut self, key: Key, new: &Cluster) {
        let old = self.clusters.get(key);
        if old.is_none_or(|old| old.lead.target().cluster.tls == new.tls) {
            return;
        }
        let dialer = self.dialer_of(new);
        let Some(cluster) = self.clusters.get_mut(key) else {
            return;
        };
        cluster.dialer = dialer;
        let mut outdated = Vec::new();
        for backend in cluster.backends.values() {
            if let Some(backend) = self.backends.get_mut(*backend) {
                outdated.append(&mut backend.pool);
            }
        }
        for conn in outdated {
            self.drop_conn(conn);
        }
    }

    /// By whom connections are made. An error: TLS is wanted, and cannot be had.
    pub(super) fn dialer(&self, cluster: Key) -> Result<Option<Rc<Dialer>>, Unconnected> {
        let Some(cluster) = self.clusters.get(cluster) else {
            return Ok(None);
        };
        match (&cluster.dialer, &cluster.lead.target().cluster.tls) {
            (None, Some(_)) => Err(Unconnected::NoTls("its settings do not work")),
            (dialer, _) => Ok(dialer.clone()),
        }
    }

    /// epoll has something to say of a connection that is being made.
    pub fn goes_on(&mut self, key: Key, failed: bool, now_ms: u64, poll: &Epoll) -> Made {
        let Some(back) = self.conns.get_mut(key) else {
            return Made::NotYet;
        };
        let backend = back.backend;
        // Inside the handshake reading says more than the socket's error does.
        let error = (failed && !back.shook).then(|| back.conn.connect_error());
        if let Some(error) = error.flatten() {
            self.failed(backend, &error.to_string(), now_ms);
            return Made::No(Unconnected::Refused);
        }
        // Said, it is empty.
        let preface = back.preface.as_mut().map(std::mem::take);
        let unsaid = preface.filter(|preface| !preface.is_empty());
        if unsaid.is_some_and(|preface| !back.conn.say_first(&preface)) {
            self.failed(backend, "it takes no PROXY header", now_ms);
            return Made::No(Unconnected::Refused);
        }
        back.shook = true;
        match back.conn.shake() {
            Ok(true) => {
                back.connecting = false;
                if let Some(identity) = &back.identity {
                    identity.proven();
                }
                self.connected(backend);
                Made::Yes
            }
            Ok(false) => {
                let (token, out) = (token::pack(Kind::Back, key), back.conn.shakes_out());
                let watched = back.conn.watch(poll, token, !out, out);
                let Err(e) = watched else {
                    return Made::NotYet;
                };
                self.failed(backend, &e.to_string(), now_ms);
                Made::No(Unconnected::Refused)
            }
            Err(e) => Made::No(Unconnected::NoTls(self.no_tls(key, &e, now_ms))),
        }
    }

    /// The handshake has failed. It counts against the backend, unless the name is one that
    /// a client may have made up: others are served under theirs.
    fn no_tls(&mut self, key: Key, error: &openssl::ssl::Error, now_ms: u64) -> &'static str {
        let unknown = "the handshake failed";
        let Some(back) = self.conns.get_mut(key) else {
            return unknown;
        };
        let Some((tls, identity)) = back.conn.tls().zip(back.identity.as_ref()) else {
            return unknown;
        };
        let (few, all) = reason(tls.ssl(), error);
        let (name, counts) = (identity.name().to_string(), identity.is_configured());
        let backend = back.backend;
        let all = format!("no TLS with it as {name:?}: {all}");
        let Some(server) = self.backends.get_mut(backend) else {
            return few;
        };
        if now_ms >= server.tls_silent_until_ms {
            server.tls_silent_until_ms = now_ms + TLS_SILENCE_MS;
            let conf = server.conf();
            log::warn!(
                "backend {} of cluster {} at {}: {all}",
                conf.id,
                conf.cluster,
                conf.address
            );
        }
        match counts {
            true => self.failed(backend, &all, now_ms),
            false => {
                let row = self.tally.row(server.server.series);
                row.add(Count::ConnectFailed, 1);
            }
        }
        few
    }

    /// Idle and yet it speaks, or is closed: of no use any more. Under TLS it may say
    /// something that is no data.
    pub fn weed(&mut self, key: Key) {
        let idle = self.conns.get_mut(key).filter(|back| back.owner.is_none());
        let Some(back) = idle else { return };
        back.conn.readable = true;
        if back.identity.is_none() || !back.conn.is_silent() {
            self.close(key);
        }
    }

    /// It will not end in order.
    pub fn cut(&mut self, key: Key) {
        if let Some(back) = self.conns.get_mut(key) {
            back.conn.cut();
        }
    }

    // ---- chosen, taken, made --------------------------------------------

    /// A connection for a client: pooled if it may be, else a new one. `tried` are not tried again.
    pub fn find(&mut self, asked: Asked, tried: &mut Vec<Key>, now_ms: u64, poll: &Epoll) -> Found {
        let dialer = match self.dialer(asked.cluster) {
            Ok(dialer) => dialer,
            Err(why) => return Found::Nothing(why),
        };
        let by = dialer.as_ref();
        let wanted = by.map(|dialer| (dialer, dialer.name_for(asked.host)));
        if wanted.is_some_and(|(dialer, name)| !dialer.takes(name)) {
            return Found::Nothing(Unconnected::NoTls(NO_NAME));
        }
        loop {
            let by = (asked.ask, asked.sticky, asked.called);
            let chosen = match self.choose(asked.cluster, by, tried, now_ms) {
                Chosen::Backend(key) => key,
                Chosen::Busy => return Found::Busy,
                Chosen::Nobody => return Found::Nothing(Unconnected::NoBackend),
            };
            if let Some(key) = self.take_pooled(chosen, wanted, asked.reuse, now_ms) {
                if let Some(back) = self.conns.get_mut(key) {
                    back.owner = Some(asked.owner);
                    back.busy = true;
                    self.begin(chosen);
                }
                let Some(server) = self.server(key) else {
                    continue;
                };
                return Found::Ready(key, server);
            }
            match self.start(chosen, wanted, asked, poll) {
                Ok(key) => return Found::Started(key),
                // No fault of the backend's.
                Err(e) if socket::out_of_descriptors(&e) && self.give_up_idle() => {}
                Err(e) => {
                    tried.push(chosen);
                    self.failed(chosen, &e.to_string(), now_ms);
                    return Found::Nothing(Unconnected::Refused);
                }
            }
        }
    }

    fn take_pooled(
        &mut self,
        backend: Key,
        wanted: Wanted,
        reuse: Reuse,
        now_ms: u64,
    ) -> Option<Key> {
        if reuse == Reuse::Never {
            return None;
        }
        let conns = &self.conns;
        let pool = &mut self.backends.get_mut(backend)?.pool;
        let fit = |key: &Key| conns.get(*key).is_some_and(|back| back.is_for(wanted));
        let at = pool.iter().rposition(fit)?;
        let since = conns.get(pool[at]).map_or(0, |back| back.idle_since_ms);
        if reuse == Reuse::Recent && now_ms >= since + RECENT_MS {
            return None;
        }
        Some(pool.remove(at))
    }

    /// Closes every pooled connection, so that others can be made. False: there is none.
    fn give_up_idle(&mut self) -> bool {
        let idle = |(key, back): (Key, &Back)| back.owner.is_none().then_some(key);
        let idle: Vec<Key> = self.conns.iter().filter_map(idle).collect();
        idle.iter().for_each(|key| self.close(*key));
        !idle.is_empty()
    }

    fn start(
        &mut self,
        backend: Key,
        wanted: Wanted,
        asked: Asked,
        poll: &Epoll,
    ) -> io::Result<Key> {
        let Some(server) = self.backends.get_mut(backend) else {
            return Err(io::Error::other("the backend is gone"));
        };
        let address = &server.server.backend.address;
        let (stream, elsewhere) = Errands::dial(address)?;
        let (conn, identity) = match wanted {
            None => (Conn::new(stream, false), None),
            Some((dialer, name)) => {
                let (tls, identity) = dialer.dial(stream, backend, name)?;
                (Conn::dialed(tls), Some(identity))
            }
        };
        server.connections += 1;
        let row = self.tally.row(server.server.series);
        row.add(Count::Connections, 1);
        row.add(Count::Open, 1);
        self.watches.gained(&server.watchers);
        let key = self.conns.insert(Back {
            conn,
            owner: Some(asked.owner),
            backend,
            connecting: true,
            shook: false,
            identity,
            preface: asked.preface.map(Box::from),
            busy: true,
            idle_since_ms: 0,
        });
        self.begin(backend);
        match elsewhere {
            Some(path) => {
                let token = token::pack(Kind::Back, key);
                self.errands.ask(token, path, asked.until_ms);
            }
            None => self
                .watch_made(key, poll)
                .inspect_err(|_| self.drop_conn(key))?,
        }
        Ok(key)
    }

    /// epoll says when it is made.
    fn watch_made(&mut self, key: Key, poll: &Epoll) -> io::Result<()> {
        let token = token::pack(Kind::Back, key);
        match self.conns.get_mut(key) {
            Some(back) => back.conn.watch(poll, token, false, true),
            None => Ok(()),
        }
    }

    /// The connector has made a connection, or says why not. Who waits for it, and what it is to hear if there is none.
    pub fn made_elsewhere(
        &mut self,
        key: Key,
        made: Result<OwnedFd, String>,
        poll: &Epoll,
    ) -> Option<(Key, Result<(), Unconnected>)> {
        // Nobody may wait for it any more.
        let back = self.conns.get(key).filter(|back| back.connecting)?;
        let (owner, backend) = (back.owner?, back.backend);
        let placed = made.and_then(|fd| {
            let placed = socket::take_place(back.conn.tcp(), fd);
            placed.map_err(|e| e.to_string())
        });
        let watched = placed.and_then(|()| {
            let watched = self.watch_made(key, poll);
            watched.map_err(|e| e.to_string())
        });
        let made = watched.map_err(|why| {
            self.failed(backend, &why, self.now_ms);
            Unconnected::Refused
        });
        Some((owner, made))
    }
}

impl Back {
    /// The backend was told for which client, and takes all that comes for that one's.
    pub fn speaks_for_one(&self) -> bool {
        self.preface.is_some()
    }

    /// Made for what is wanted, and for nothing else.
    fn is_for(&self, wanted: Wanted) -> bool {
        match (&self.identity, wanted) {
            (None, None) => true,
            (Some(identity), Some((dialer, name))) => identity.is(dialer, name),
            _ => false,
        }
    }
}
