//! Health checks: this worker's part of them, made beside the traffic and counted apart from it.
//!
//! Each worker has a timer for every backend that is its own to check (`health::whose`), and looks
//! anew which these are when main says that another worker came or went. What is found so often that
//! it counts is told main, which tells all. Without main, each worker asks for itself.
//!
//! A check has a connection of its own, as a client has that comes now: one that is kept says nothing
//! of the socket that listens, may lead to a process that drains, and holds a place in a backend that
//! has few. What a check costs is that connection, so all else is kept small.

use std::collections::VecDeque;
use std::io::{self, ErrorKind::WouldBlock};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::health::answer::{request, Answer, Judgement};
use crate::health::spread;
use crate::limits::{CHECKS_AT_ONCE_MAX, CHECK_FIRST_MS, VERDICTS_PER_SECOND_MAX};
use crate::net::conn::Conn;
use crate::net::tls::backend::{reason, Identity};
use crate::net::token::{self, Kind};
use crate::parser::proxy_protocol::write_local;
use crate::proto::reply;
use crate::role::value;
use crate::slab::{Key, Slab};
use crate::state::{Address, Ask, Check, Cluster};
use crate::sys::{epoll, socket};
use crate::timer::Wheel;
use crate::worker::errands::Errands;
use crate::worker::pool::{Asking, Subject};
use crate::worker::Worker;

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// Under TLS its handshake is under way.
    Shaking,
    /// The request is sent.
    Asking,
    Listening,
}

/// A check that is being made.
struct Probe {
    backend: Key,
    cluster: Rc<Cluster>,
    conn: Conn,
    identity: Option<Identity>,
    stage: Stage,
    /// What is said before TLS, and in it.
    preface: Vec<u8>,
    unsent: Vec<u8>,
    answer: Answer,
    /// When the next one of this backend begins.
    next_ms: u64,
}

pub struct Probes {
    /// The rows of all who check, as main has told.
    rows: Vec<usize>,
    /// By the place of a backend of ours: when it is checked next, or when its check has lasted too long.
    timers: Wheel,
    made: Slab<Probe>,
    /// Backends that are due.
    waiting: VecDeque<Key>,
    /// What main is to be told, and how much it was in this second.
    news: Vec<String>,
    told: (u64, u32),
}

impl Probes {
    pub fn new(now_ms: u64) -> Probes {
        Probes {
            rows: Vec::new(),
            timers: Wheel::new(now_ms),
            made: Slab::default(),
            waiting: VecDeque::new(),
            news: Vec::new(),
            told: (0, 0),
        }
    }

    pub fn due_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// The check of a backend that is being made.
    fn of(&self, backend: Key) -> Option<Key> {
        let mut made = self.made.iter();
        made.find(|(_, probe)| probe.backend == backend)
            .map(|(key, _)| key)
    }

    fn may_tell(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.told.0 != second {
            self.told = (second, 0);
        }
        self.told.1 += 1;
        self.told.1 <= VERDICTS_PER_SECOND_MAX
    }
}

impl Probe {
    fn check(&self) -> Option<&Check> {
        self.cluster.check.as_ref()
    }

    /// Goes on as far as it can.
    fn step(&mut self, broken: bool) -> Judgement {
        loop {
            match self.stage {
                Stage::Connecting => {
                    let error = broken.then(|| self.conn.connect_error()).flatten();
                    if let Some(error) = error {
                        return Some(Err(error.to_string()));
                    }
                    if !self.preface.is_empty() && !self.conn.say_first(&self.preface) {
                        return Some(Err("it takes no PROXY header".into()));
                    }
                    self.stage = Stage::Shaking;
                }
                Stage::Shaking => match self.conn.shake() {
                    Ok(false) => return None,
                    Ok(true) => {
                        self.identity.iter().for_each(Identity::proven);
                        self.stage = Stage::Asking;
                    }
                    Err(e) => {
                        let why = self.conn.ssl().map(|ssl| reason(ssl, &e).1);
                        return Some(Err(format!("no TLS with it: {}", why.unwrap_or_default())));
                    }
                },
                Stage::Asking if self.unsent.is_empty() => match self.check()?.ask {
                    Ask::Tcp => return Some(Ok(())),
                    Ask::Http { .. } => self.stage = Stage::Listening,
                },
                Stage::Asking => match self.conn.send(&self.unsent) {
                    Ok(0) => return None,
                    Ok(n) => drop(self.unsent.drain(..n)),
                    Err(e) => return Some(Err(format!("it takes no request: {e}"))),
                },
                Stage::Listening => {
                    if !self.conn.readable {
                        return None;
                    }
                    if let Some(judged) = self.listen() {
                        return Some(judged);
                    }
                }
            }
        }
    }

    fn listen(&mut self) -> Judgement {
        let mut room = [0; 4096];
        let ask = &self.cluster.check.as_ref()?.ask;
        match self.conn.receive(&mut room) {
            Ok(n) => {
                // epoll has told of all that was there, of an end too: it is read until there is no more.
                self.conn.readable = true;
                self.answer.take(&room[..n], n == 0, ask)
            }
            Err(e) if e.kind() == WouldBlock => None,
            Err(e) => Some(Err(format!("its answer was cut: {e}"))),
        }
    }

    fn too_late(&self) -> String {
        let seconds = self.check().map_or(0, |check| check.timeout);
        match self.stage {
            Stage::Connecting => format!("not connected in {seconds} s"),
            Stage::Shaking => format!("no TLS with it in {seconds} s"),
            Stage::Asking | Stage::Listening => format!("no whole answer in {seconds} s"),
        }
    }
}

impl Worker {
    /// `probers rows=0,1`, as main tells it.
    pub(super) fn hear_probers(&mut self, line: &str) {
        let rows = value(line, "rows").unwrap_or_default();
        let rows = rows.split(',').filter_map(|row| row.parse().ok());
        self.share_checks(rows.collect());
    }

    /// Who checks from now on.
    pub(super) fn share_checks(&mut self, rows: Vec<usize>) {
        let before = std::mem::replace(&mut self.probes.rows, rows);
        self.backs.share_out(&before, &self.probes.rows, self.id);
    }

    /// Part of every turn.
    pub(super) fn look_at_checks(&mut self) {
        for key in std::mem::take(&mut self.backs.unchecked) {
            self.begin_checks(key);
        }
        let mut expired = std::mem::take(&mut self.expired);
        expired.clear();
        self.probes.timers.advance(self.now_us / 1000, &mut expired);
        for index in expired.drain(..) {
            if let Some(key) = self.backs.backend_at(index) {
                self.check_is_due(key);
            }
        }
        self.expired = expired;
    }

    /// It is new, or ours, or what it is asked is; or it is asked no more.
    fn begin_checks(&mut self, key: Key) {
        if let Some(probe) = self.probes.of(key) {
            self.probes.made.remove(probe);
            self.set_asking(key, Asking::Not);
            self.make_waiting();
        }
        match self.subject(key) {
            Some(subject) => {
                let in_ms = subject.name % CHECK_FIRST_MS;
                self.probes.timers.set(key.index, self.now_ms() + in_ms);
            }
            None => self.probes.timers.cancel(key.index),
        }
    }

    fn subject(&self, key: Key) -> Option<Subject> {
        self.backs.subject(key, &self.probes.rows, self.id)
    }

    /// Its time has come: for a check, or for the end of one.
    fn check_is_due(&mut self, key: Key) {
        match self.backs.asking(key).copied() {
            Some(Asking::Made(probe)) => {
                let late = self.probes.made.get(probe).map(Probe::too_late);
                if let Some(why) = late {
                    self.check_ends(probe, Err(why));
                }
            }
            Some(Asking::Not) => self.check(key),
            Some(Asking::Waits) | None => {}
        }
    }

    fn check(&mut self, key: Key) {
        let Some(subject) = self.subject(key) else {
            return;
        };
        let now_ms = self.now_ms();
        let next_ms = now_ms + spread(subject.interval_ms(), subject.name, now_ms);
        if self.probes.made.len() >= CHECKS_AT_ONCE_MAX {
            self.set_asking(key, Asking::Waits);
            return self.probes.waiting.push_back(key);
        }
        let due_ms = now_ms + subject.timeout_ms();
        match self.dial(key, subject, (next_ms, due_ms)) {
            Ok(probe) => {
                self.set_asking(key, Asking::Made(probe));
                self.probes.timers.set(key.index, due_ms);
            }
            Err(e) => {
                self.probes.timers.set(key.index, next_ms);
                // That we ran out of something says nothing of it.
                if !socket::out_of_descriptors(&e) {
                    self.judge(key, Err(e.to_string()));
                }
            }
        }
    }

    /// `times`: when the next one begins, and when this one has lasted too long.
    fn dial(&mut self, backend: Key, subject: Subject, times: (u64, u64)) -> io::Result<Key> {
        let (next_ms, until_ms) = times;
        let (stream, elsewhere) = Errands::dial(&subject.conf.address)?;
        let (conn, identity) = self.backs.dial_check(backend, &subject, stream)?;
        let (cluster, conf) = (subject.cluster, subject.conf);
        let check = cluster.check.as_ref();
        let host = |host: Option<&str>| match (host, &conf.address) {
            (Some(host), _) => host.to_string(),
            (None, Address::Unix(_)) => "localhost".to_string(),
            (None, address) => address.to_string(),
        };
        let unsent = match check.map(|check| (&check.ask, check.host.as_deref())) {
            Some((Ask::Http { path, .. }, named)) => request(path, &host(named)),
            _ => String::new(),
        };
        let probe = self.probes.made.insert(Probe {
            backend,
            conn,
            identity,
            stage: Stage::Connecting,
            preface: cluster.send_proxy.map(write_local).unwrap_or_default(),
            cluster,
            unsent: unsent.into_bytes(),
            answer: Answer::default(),
            next_ms,
        });
        match elsewhere {
            Some(path) => {
                let token = token::pack(Kind::Probe, probe);
                self.backs.errands.ask(token, path, until_ms);
            }
            None => self
                .watch_check(probe)
                .inspect_err(|_| drop(self.probes.made.remove(probe)))?,
        }
        Ok(probe)
    }

    fn watch_check(&self, probe: Key) -> io::Result<()> {
        let Some(made) = self.probes.made.get(probe) else {
            return Ok(());
        };
        // Told once: a check goes on as far as it can whenever there is something new.
        let (interest, token) = (
            epoll::IN | epoll::OUT | epoll::EDGE,
            token::pack(Kind::Probe, probe),
        );
        self.poll.add(made.conn.as_fd(), interest, token)
    }

    /// The connector has made its connection, or says why not.
    pub(super) fn check_made_elsewhere(&mut self, key: Key, made: Result<OwnedFd, String>) {
        let Some(probe) = self.probes.made.get(key) else {
            return;
        };
        let placed = made.and_then(|fd| {
            let placed = socket::take_place(probe.conn.tcp(), fd);
            placed
                .and_then(|()| self.watch_check(key))
                .map_err(|e| e.to_string())
        });
        if placed.is_err() {
            self.check_ends(key, placed);
        }
    }

    pub(super) fn probe_ready(&mut self, key: Key, ready: u32) {
        let Some(probe) = self.probes.made.get_mut(key) else {
            return;
        };
        probe.conn.fired(ready);
        if let Some(result) = probe.step(ready & (epoll::ERR | epoll::HUP) != 0) {
            self.check_ends(key, result);
        }
    }

    fn check_ends(&mut self, key: Key, result: Result<(), String>) {
        let Some(mut probe) = self.probes.made.remove(key) else {
            return;
        };
        self.backs.errands.forget(token::pack(Kind::Probe, key));
        match (probe.stage, probe.conn.plain()) {
            // It has answered, and was asked to close: whatever it has still to say is not read. So no
            // more packets are needed, and nothing is left here that waits for a minute (TIME_WAIT).
            (Stage::Listening, Some(_)) => probe.conn.reset(),
            _ => probe.conn.part(),
        }
        let next_ms = probe.next_ms.max(self.now_ms() + 1);
        self.probes.timers.set(probe.backend.index, next_ms);
        self.set_asking(probe.backend, Asking::Not);
        self.judge(probe.backend, result);
        self.make_waiting();
    }

    /// Those that are due, as long as there is a place.
    fn make_waiting(&mut self) {
        while self.probes.made.len() < CHECKS_AT_ONCE_MAX {
            let Some(next) = self.probes.waiting.pop_front() else {
                return;
            };
            if self.backs.asking(next).copied() == Some(Asking::Waits) {
                self.set_asking(next, Asking::Not);
                self.check(next);
            }
        }
    }

    fn set_asking(&mut self, backend: Key, asking: Asking) {
        if let Some(known) = self.backs.asking(backend) {
            *known = asking;
        }
    }

    /// A check of a backend has passed, or not; main is told if that counts.
    fn judge(&mut self, key: Key, result: Result<(), String>) {
        let found = self.backs.checked(key, &result);
        if found.is_none() && result.is_ok() {
            return;
        }
        let Some(mut pairs) = self.backs.subject_pairs(key) else {
            return;
        };
        if let Err(why) = &result {
            log::debug!(
                "a check of backend {} of cluster {} has failed: {why}",
                pairs[1].1,
                pairs[0].1
            );
        }
        let Some(verdict) = found else {
            return;
        };
        let now_ms = self.now_ms();
        if self.channel.is_none() {
            self.backs.settle(key, verdict);
        } else if self.may_tell() && self.probes.may_tell(now_ms) {
            pairs.push(("state", verdict.name().to_string()));
            pairs.extend(result.err().map(|why| ("why", why)));
            self.probes.news.push(reply::data("health", &pairs));
        }
    }
}
