//! The sockets that clients come in by, and the moment when they come.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::limits::{ACCEPT_PAUSE_MS, LIMIT_SILENCE_MS};
use crate::metrics::{Count, Series};
use crate::net::board::Cell;
use crate::net::conn::Conn;
use crate::net::tls::Doorman;
use crate::net::token::{self, Kind};
use crate::quota::crowd::Place;
use crate::route::Router;
use crate::session::{Door, Rule, Session, Stay};
use crate::slab::Key;
use crate::state::{self, Change, Protocol, Tls};
use crate::sys::{epoll, socket};
use crate::worker::accept::Verdict;
use crate::worker::admit::{entry, Entry};
use crate::worker::drive::Slot;
use crate::worker::inherit::made_up;
use crate::worker::intro::Intro;
use crate::worker::Worker;

/// A listener as this worker has it.
pub struct Entrance {
    pub door: Door,
    /// Of one where TLS is spoken.
    tls: Option<Doorman>,
    /// `None`: nobody comes in, as long as it is disabled, or for ever.
    socket: Option<TcpListener>,
    /// It is gone from the configuration; who came in by it still finishes.
    removed: bool,
    /// epoll watches it.
    watched: bool,
    /// Clients that came in by it.
    clients: usize,
    /// The change with which it came.
    since: u64,
}

impl Entrance {
    /// Whether it is counted, and has been there since that moment.
    pub fn was_there(&self, moment: u64) -> bool {
        !self.removed && self.since <= moment && self.door.series.is_some()
    }

    /// A client that has connected has mostly spoken as well: worth a read, but under TLS, where others may
    /// wait for a step of the handshake that would find nothing.
    fn conn_of(&self, stream: TcpStream, peer: SocketAddr) -> Option<Conn> {
        match (&self.tls, self.door.listener.protocol) {
            (Some(doorman), _) => {
                let made = doorman.accept(stream);
                let told = |e: &std::io::Error| log::error!("{peer}: no TLS: {e}");
                let stream = made.inspect_err(told).ok()?;
                Some(Conn::secure(stream, false))
            }
            // It has no policy that OpenSSL takes: what is meant to be secret is not told in the open.
            (None, Protocol::Https) => None,
            (None, _) => Some(Conn::new(stream, true)),
        }
    }

    /// A client comes in by it.
    pub fn enter(&mut self) {
        self.clients += 1;
    }

    pub fn doorman(&self) -> Option<&Doorman> {
        self.tls.as_ref()
    }

    /// From the next handshake on; with the certificates that are there.
    fn take_policy(&mut self, listener: &state::Listener) {
        let (Some(doorman), Some(tls)) = (&self.tls, &listener.tls) else {
            return;
        };
        match doorman.with_policy(listener.address, tls) {
            Ok(new) => self.tls = Some(new),
            // Main has tried it.
            Err(e) => log::error!("{} keeps its TLS policy: {e}", listener.address),
        }
    }
}

impl Worker {
    /// Takes a change of the configuration; main has checked it. Returns a socket that it gives up.
    pub(super) fn apply(
        &mut self,
        change: Change,
        series: Series,
        socket: Option<TcpListener>,
    ) -> Option<(SocketAddr, TcpListener)> {
        let before = self.before(&change);
        let given_up = self.do_change(&change, series, socket);
        self.account(before, &change);
        given_up
    }

    fn do_change(
        &mut self,
        change: &Change,
        series: Series,
        socket: Option<TcpListener>,
    ) -> Option<(SocketAddr, TcpListener)> {
        // One that retires must not keep an address open that nobody else has.
        let socket = socket.filter(|_| self.stay == Stay::Welcome);
        self.backs.changes();
        match change {
            Change::ListenerAdd(listener) => self.add_listener(listener.clone(), series, socket),
            Change::ListenerUpdate(listener) => {
                let given_up = self.update_listener(listener.clone(), socket);
                return given_up.map(|socket| (listener.address, socket));
            }
            Change::ListenerRemove { address } => {
                let given_up = self.remove_listener(*address);
                return given_up.map(|socket| (*address, socket));
            }
            Change::ClusterAdd(cluster) => self.backs.add_cluster(cluster.clone(), series),
            Change::ClusterUpdate(cluster) => self.backs.update_cluster(cluster.clone()),
            Change::ClusterRemove { id } => self.backs.remove_cluster(id),
            Change::BackendAdd(backend) => self.backs.add_backend(backend.clone(), series),
            Change::BackendUpdate(backend) => self.backs.update_backend(backend.clone()),
            Change::BackendRemove { cluster, id } => self.backs.remove_backend(cluster, id),
            Change::FrontendAdd(frontend) => {
                let lead = self.backs.lead(&frontend.cluster);
                let identity = &frontend.identity;
                let router = self.router(identity.listener);
                if let (Some(lead), Some(router)) = (lead, router) {
                    let method = identity.method.as_deref();
                    let actions = frontend.actions.clone();
                    let rule = Rule { lead, actions };
                    router.insert(&identity.hostname, &identity.path, method, rule);
                }
            }
            Change::CertificateAdd(certificate) => self.add_certificate(certificate),
            Change::CertificateReplace { fingerprint, by } => {
                self.remove_certificate(by.listener, fingerprint);
                self.add_certificate(by);
            }
            Change::CertificateRemove {
                listener,
                fingerprint,
            } => self.remove_certificate(*listener, fingerprint),
            Change::FrontendRemove { identity } => {
                if let Some(router) = self.router(identity.listener) {
                    let method = identity.method.as_deref();
                    router.remove(&identity.hostname, &identity.path, method);
                }
            }
        }
        None
    }

    fn router(&mut self, address: SocketAddr) -> Option<&mut Router<Rule>> {
        let key = self.door_at(address)?;
        Some(&mut self.doors.get_mut(key)?.door.router)
    }

    /// The open door of an address.
    pub(super) fn door_at(&self, address: SocketAddr) -> Option<Key> {
        let open =
            |entrance: &Entrance| !entrance.removed && entrance.door.listener.address == address;
        self.doors
            .iter()
            .find(|(_, entrance)| open(entrance))
            .map(|(key, _)| key)
    }

    /// The door by which a connection came in at another worker. Where it is not
    /// configured any more, one that is closed.
    pub(super) fn door_for(&mut self, address: SocketAddr, protocol: Protocol) -> Option<Key> {
        let open = self.door_at(address);
        let same = |key: &Key| {
            self.doors
                .get(*key)
                .is_some_and(|entrance| entrance.door.listener.protocol == protocol)
        };
        if let Some(key) = open.filter(same) {
            return Some(key);
        }
        let pairs = [
            ("address", address.to_string()),
            ("protocol", protocol.name().to_string()),
        ];
        let Change::ListenerAdd(listener) = made_up("listener", &pairs)? else {
            return None;
        };
        let mut listener = (*listener).clone();
        listener.timeouts = self.settings.timeouts;
        Some(self.doors.insert(Entrance {
            door: Door {
                listener: Rc::new(listener),
                series: None,
                router: Router::default(),
            },
            tls: None,
            socket: None,
            removed: true,
            watched: false,
            clients: 0,
            since: self.backs.moment(),
        }))
    }

    fn add_listener(
        &mut self,
        listener: Rc<state::Listener>,
        series: Series,
        socket: Option<TcpListener>,
    ) {
        let tls = listener
            .tls
            .as_ref()
            .and_then(|tls| doorman(&listener, tls));
        let door = Door {
            listener,
            series,
            router: Router::default(),
        };
        self.doors.insert(Entrance {
            door,
            tls,
            socket,
            removed: false,
            watched: false,
            clients: 0,
            since: self.backs.moment(),
        });
    }

    /// Who is in goes on by the new time limits.
    fn update_listener(
        &mut self,
        listener: Rc<state::Listener>,
        socket: Option<TcpListener>,
    ) -> Option<TcpListener> {
        let key = self.door_at(listener.address)?;
        if !listener.enabled {
            self.unwatch(key);
        }
        let entrance = self.doors.get_mut(key)?;
        let given_up = match listener.enabled {
            false => entrance.socket.take(),
            true => {
                entrance.socket = entrance.socket.take().or(socket);
                None
            }
        };
        if entrance.door.listener.tls != listener.tls {
            entrance.take_policy(&listener);
        }
        entrance.door.listener = listener;
        given_up
    }

    fn remove_listener(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let key = self.door_at(address)?;
        self.unwatch(key);
        let entrance = self.doors.get_mut(key)?;
        let given_up = entrance.socket.take();
        entrance.removed = true;
        if entrance.clients == 0 {
            self.doors.remove(key);
        }
        given_up
    }

    /// A client that came in by that door has gone.
    pub(super) fn left(&mut self, key: Key, place: Option<Place>, shaking: bool) {
        self.tally.leave(place);
        self.board
            .set(self.id, Cell::Connections, self.slots.len() as u64);
        if let Some(entrance) = self.doors.get_mut(key) {
            entrance.clients -= 1;
            let row = self.tally.row(entrance.door.series);
            row.take_one(Count::Open);
            // It has come to no end: given up, or too slow.
            row.add(Count::HandshakesFailed, u64::from(shaking));
            if entrance.clients == 0 && entrance.removed {
                self.doors.remove(key);
            }
        }
        if self.at_limit && self.slots.len() < self.max_connections {
            self.at_limit = false;
            self.open_doors_if_open();
        }
    }

    // ---- waiting --------------------------------------------------------

    pub(super) fn open_doors(&mut self) {
        for key in self.doors.keys() {
            self.watch_door(key);
        }
    }

    pub(super) fn shut_doors(&mut self) {
        for key in self.doors.keys() {
            self.unwatch(key);
        }
    }

    /// For ever: who came in still finishes, by the configuration as it changes.
    pub(super) fn close_doors(&mut self) {
        self.shut_doors();
        for key in self.doors.keys() {
            if let Some(entrance) = self.doors.get_mut(key) {
                entrance.socket = None;
            }
        }
    }

    /// To the end of the queue of workers that wait for this socket.
    fn watch_door(&mut self, key: Key) {
        let Some(entrance) = self.doors.get_mut(key) else {
            return;
        };
        let (Some(socket), false) = (&entrance.socket, entrance.watched) else {
            return;
        };
        let interest = epoll::IN | epoll::EXCLUSIVE;
        match self
            .poll
            .add(socket.as_fd(), interest, token::pack(Kind::Listener, key))
        {
            Ok(()) => entrance.watched = true,
            Err(e) => log::error!("epoll_ctl for {}: {e}", entrance.door.listener.address),
        }
    }

    fn unwatch(&mut self, key: Key) {
        let Some(entrance) = self.doors.get_mut(key) else {
            return;
        };
        if let (Some(socket), true) = (&entrance.socket, entrance.watched) {
            entrance.watched = false;
            if let Err(e) = self.poll.remove(socket.as_fd()) {
                log::error!("epoll_ctl for {}: {e}", entrance.door.listener.address);
            }
        }
    }

    /// Takes part again after a pause.
    pub(super) fn open_again(&mut self) {
        let rested = self
            .paused_until_ms
            .is_some_and(|until| until <= self.now_ms());
        if rested {
            self.paused_until_ms = None;
        }
        if self.queue.comes_back(self.now_us) || rested {
            self.open_doors_if_open();
        }
    }

    /// Watches the doors that are not watched, unless there is a reason not to.
    pub(super) fn open_doors_if_open(&mut self) {
        if self.stay == Stay::Welcome && !self.at_limit && self.paused_until_ms.is_none() {
            self.open_doors();
        }
    }

    // ---- accepting ------------------------------------------------------

    pub(super) fn door_ready(&mut self, key: Key) {
        let most = match self.queue.ready(&self.board, self.now_us) {
            Verdict::StepAside => return self.shut_doors(),
            Verdict::Accept(most) => most,
        };
        for _ in 0..most {
            if !self.accept_one(key) {
                break;
            }
        }
        if self.queue.is_ahead(&self.board) && !self.at_limit {
            self.unwatch(key);
            self.watch_door(key);
        }
    }

    /// Takes a connection that somebody else was woken for, who then was stopped or
    /// killed: the kernel wakes nobody a second time for it.
    pub(super) fn look_at_doors(&mut self) {
        for key in self.doors.keys() {
            let room = self.slots.len() < self.max_connections;
            if room && self.doors.get(key).is_some_and(|entrance| entrance.watched) {
                self.accept_one(key);
            }
        }
    }

    /// Everyone who is in a queue, as far as there is room: closed sockets would turn them away.
    pub(super) fn accept_waiting(&mut self) {
        for key in self.doors.keys() {
            while self.accept_one(key) {}
        }
    }

    /// Who comes now waits in the kernel's queue, until somebody goes.
    fn be_full(&mut self) {
        self.at_limit = true;
        self.board.add(self.id, Cell::AtLimit, 1);
        let now_ms = self.now_ms();
        if now_ms >= self.limit_silent_until_ms {
            self.limit_silent_until_ms = now_ms + LIMIT_SILENCE_MS;
            let most = self.max_connections;
            log::warn!(
                "{most} connections, the limit (max_connections): new ones wait until others end"
            );
            self.tell(&format!("full connections={most}"));
        }
        self.shut_doors();
    }

    /// False: there is no more to be had now.
    fn accept_one(&mut self, key: Key) -> bool {
        if self.slots.len() >= self.max_connections {
            self.be_full();
            return false;
        }
        let Some(entrance) = self.doors.get_mut(key) else {
            return false;
        };
        let Some(socket) = &entrance.socket else {
            return false;
        };
        let (stream, peer) = match socket::accept(socket) {
            Ok(accepted) => accepted,
            Err(e) if socket::nobody_waits(&e) => return false,
            // Out of descriptors; or it does not listen any more, which main sees too and mends.
            Err(e) => {
                log::error!(
                    "accept on {}: {e}; trying again shortly",
                    entrance.door.listener.address
                );
                self.paused_until_ms = Some(self.now_ms() + ACCEPT_PAUSE_MS);
                self.unwatch(key);
                return false;
            }
        };
        // Of whom a proxy speaks for, it is asked later.
        let place = match entrance.door.listener.expects_proxy(peer.ip()) {
            true => None,
            false => match entry(&entrance.door, peer, &self.tally) {
                Entry::Yes(place) => place,
                Entry::No => return true,
            },
        };
        let Some(front) = entrance.conn_of(stream, peer) else {
            self.tally.leave(place);
            return true;
        };
        entrance.enter();
        let row = self.tally.row(entrance.door.series);
        row.add(Count::Connections, 1);
        row.add(Count::Open, 1);
        let mut world = self.tools.world(&entrance.door, self.now_us, self.stay);
        let mut slot = Slot::new(Session::new(peer, &mut world), front, key, self.now_us);
        slot.place = place;
        slot.intro = Intro::of(&entrance.door.listener, peer);
        self.board.add(self.id, Cell::Accepted, 1);
        let slot = self.insert(slot);
        self.drive(slot, None);
        true
    }
}

/// Main has tried the policy: that OpenSSL does not take it here is no fault of a user's.
fn doorman(listener: &state::Listener, tls: &Tls) -> Option<Doorman> {
    let made = Doorman::new(listener.address, tls);
    let told = |e: &String| log::error!("no TLS on {}: {e}", listener.address);
    made.inspect_err(told).ok()
}
