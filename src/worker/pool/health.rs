//! Which backends are used, and what is learnt of that: from requests by this worker itself,
//! from checks by what main tells all.

use std::io;
use std::net::TcpStream;
use std::rc::Rc;

use crate::health::{question, whose, Verdict};
use crate::metrics::Count;
use crate::net::conn::Conn;
use crate::net::tls::backend::Identity;
use crate::proto::line::{split, value_of};
use crate::slab::Key;
use crate::state::{self, Check};
use crate::worker::pool::{Backend, Backs, NOWHERE};

/// A backend that went down, or came up again.
pub struct Report {
    pub conf: Rc<state::Backend>,
    /// Why it is down; `None`: it is up.
    pub down: Option<String>,
}

/// How far the check of a backend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// The next one has its time.
    #[default]
    Not,
    /// It is due, once another one is over.
    Waits,
    /// It is made.
    Made(Key),
}

/// A backend as it is to be checked now.
pub struct Subject {
    pub conf: Rc<state::Backend>,
    /// A hash of its name.
    pub name: u64,
    pub cluster: Rc<state::Cluster>,
}

impl Subject {
    pub fn interval_ms(&self) -> u64 {
        self.seconds(|check| check.interval)
    }

    pub fn timeout_ms(&self) -> u64 {
        self.seconds(|check| check.timeout)
    }

    fn seconds(&self, which: impl Fn(&Check) -> u32) -> u64 {
        u64::from(self.cluster.check.as_ref().map_or(1, which)) * 1000
    }
}

impl Backend {
    /// Its checks fail.
    pub(super) fn is_sick(&self) -> bool {
        self.checks.verdict() == Verdict::Down
    }
}

impl Backs {
    // ---- from requests --------------------------------------------------

    /// A connect succeeded.
    pub fn connected(&mut self, backend: Key) {
        let server = self.backends.get_mut(backend);
        // As it nearly always is.
        if let Some(server) = server.filter(|server| server.down || !server.health.is_well()) {
            server.health.connected();
            self.came_back(backend);
            self.restand(backend);
        }
    }

    /// A connect failed.
    pub fn failed(&mut self, backend: Key, why: &str, now_ms: u64) {
        let Some(server) = self.backends.get_mut(backend) else {
            return;
        };
        let row = self.tally.row(server.server.series);
        row.add(Count::ConnectFailed, 1);
        let conf = server.conf();
        log::debug!(
            "backend {} of cluster {} at {}: {why}",
            conf.id,
            conf.cluster,
            conf.address
        );
        if server.health.failed(now_ms) {
            self.went_down(backend, why.to_string());
            self.restand(backend);
        }
    }

    /// A response of it has come. `most`: so many 5xx in a row are borne.
    pub fn answered(&mut self, key: Key, status: u16, most: u32, now_ms: u64) {
        let Some(server) = self.backends.get_mut(key) else {
            return;
        };
        if status < 500 {
            server.health.answered();
            self.came_back(key);
            self.restand(key);
        } else if server.health.erred(most, now_ms) {
            self.went_down(key, format!("{most} responses in a row were 5xx"));
            self.restand(key);
        }
    }

    fn went_down(&mut self, key: Key, why: String) {
        let server = self.backends.get_mut(key).filter(|server| !server.down);
        if let Some(server) = server {
            server.down = true;
            server.why = why;
            self.changed(key);
        }
    }

    fn came_back(&mut self, key: Key) {
        let server = self.backends.get_mut(key);
        let well = |server: &&mut Backend| server.down && !server.health.is_doubtful();
        if let Some(server) = server.filter(well) {
            server.down = false;
            self.warm_up(key);
            self.changed(key);
        }
    }

    fn changed(&mut self, key: Key) {
        self.show_avoided(key);
        let Some(server) = self.backends.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut server.has_news, true) {
            self.news.add(key);
        }
    }

    pub(super) fn show_avoided(&self, key: Key) {
        if let Some(server) = self.backends.get(key) {
            let avoided = server.down || server.is_sick();
            let row = self.tally.row(server.server.series);
            row.set(Count::Avoided, avoided.into());
        }
    }

    /// The next backend that is not any more what main was told it is.
    pub fn report(&mut self, now_ms: u64) -> Option<Report> {
        while let Some(key) = self.news.next(now_ms) {
            let Some(backend) = self.backends.get_mut(key) else {
                continue;
            };
            backend.has_news = false;
            if backend.down != backend.told_down {
                backend.told_down = backend.down;
                let conf = Rc::clone(&backend.server.backend);
                let down = backend.down.then(|| backend.why.clone());
                return Some(Report { conf, down });
            }
        }
        None
    }

    // ---- from checks ----------------------------------------------------

    /// A cluster was changed: what was found out by another question counts no more.
    pub(super) fn ask_anew(&mut self, cluster: Key, before: &state::Cluster) {
        let Some(changed) = self.clusters.get_mut(cluster) else {
            return;
        };
        let now = changed.lead.target();
        let asked = question(&now.cluster);
        let is_other = asked != std::mem::replace(&mut changed.question, asked);
        if !is_other && before.check == now.cluster.check {
            return;
        }
        let backends: Vec<Key> = changed.backends.values().copied().collect();
        for key in &backends {
            if is_other {
                self.settle(*key, Verdict::Unknown);
            }
        }
        self.unchecked.extend(backends);
    }

    /// A check was made. What main should be told.
    pub fn checked(&mut self, key: Key, result: &Result<(), String>) -> Option<Verdict> {
        let server = self.backends.get_mut(key)?;
        let target = self.clusters.get(server.cluster)?.lead.target();
        let check = target.cluster.check.as_ref()?;
        let row = self.tally.row(server.server.series);
        row.add(
            match result {
                Ok(()) => Count::ChecksPassed,
                Err(_) => Count::ChecksFailed,
            },
            1,
        );
        server.checks.result(result.is_ok(), check)
    }

    /// All workers are to know this of a backend.
    pub fn settle(&mut self, key: Key, verdict: Verdict) {
        let Some(server) = self.backends.get_mut(key) else {
            return;
        };
        if !server.checks.settle(verdict) {
            return;
        }
        if verdict == Verdict::Up {
            // It can be connected to: what failed did so before.
            server.health.connected();
            self.came_back(key);
            self.warm_up(key);
        }
        self.show_avoided(key);
        self.restand(key);
    }

    /// `health cluster=C id=B address=A question=Q state=up|down`, as main tells it, if it is about
    /// what there is and is asked here.
    pub fn hear_verdict(&mut self, line: &str) {
        if let Some((key, verdict)) = self.verdict_in(line) {
            self.settle(key, verdict);
        }
    }

    fn verdict_in(&self, line: &str) -> Option<(Key, Verdict)> {
        let words = split(line).ok()?;
        let text = |key| value_of(&words, key);
        let verdict = match text("state")? {
            "up" => Verdict::Up,
            "down" => Verdict::Down,
            _ => return None,
        };
        let cluster = self.clusters.get(*self.by_id.get(text("cluster")?)?)?;
        let asked = text("question")?.parse().ok();
        let key = self.backend_key(text("cluster")?, text("id")?)?;
        let server = self.backends.get(key)?;
        let same = server.conf().address.to_string() == text("address")?;
        let meant = asked.is_some() && asked == cluster.question && same && server.is_ready();
        meant.then_some((key, verdict))
    }

    /// The pairs by which a backend is named in such a line.
    pub fn subject_pairs(&self, key: Key) -> Option<Vec<(&'static str, String)>> {
        let server = self.backends.get(key)?;
        let (conf, cluster) = (server.conf(), self.clusters.get(server.cluster)?);
        Some(vec![
            ("cluster", conf.cluster.to_string()),
            ("id", conf.id.to_string()),
            ("address", conf.address.to_string()),
            ("question", cluster.question?.to_string()),
        ])
    }

    /// Other workers check than did, `own` among them or not: some backends change hands.
    pub fn share_out(&mut self, before: &[usize], now: &[usize], own: usize) {
        let is_ours = |rows: &[usize], name| whose(rows, name) == Some(own);
        let changes = |(key, backend): (Key, &Backend)| {
            (is_ours(before, backend.name) != is_ours(now, backend.name)).then_some(key)
        };
        let others = self.backends.iter().filter_map(changes);
        self.unchecked.extend(others);
    }

    /// `None`: it is not checked, or not by this worker. `rows`: who checks, `own` among them or not.
    pub fn subject(&self, key: Key, rows: &[usize], own: usize) -> Option<Subject> {
        let server = self.backends.get(key)?;
        if whose(rows, server.name) != Some(own) || !server.is_ready() {
            return None;
        }
        let target = self.clusters.get(server.cluster)?.lead.target();
        target.cluster.check.as_ref()?;
        Some(Subject {
            conf: Rc::clone(&server.server.backend),
            name: server.name,
            cluster: Rc::clone(&target.cluster),
        })
    }

    /// The connection of a check, as one for a request would be made.
    pub fn dial_check(
        &self,
        key: Key,
        subject: &Subject,
        stream: TcpStream,
    ) -> io::Result<(Conn, Option<Identity>)> {
        let cluster = self.backends.get(key).map(|server| server.cluster);
        let dialer = match self.dialer(cluster.unwrap_or(NOWHERE)) {
            Ok(None) => return Ok((Conn::new(stream, false), None)),
            Ok(Some(dialer)) => dialer,
            Err(_) => return Err(io::Error::other("its TLS settings do not work")),
        };
        let host = subject.cluster.check.as_ref();
        let host = host.and_then(|check| check.host.as_deref());
        let name = dialer.name_for(host.unwrap_or_default());
        let (tls, identity) = dialer.dial(stream, key, name)?;
        Ok((Conn::dialed(tls), Some(identity)))
    }

    pub fn asking(&mut self, key: Key) -> Option<&mut Asking> {
        Some(&mut self.backends.get_mut(key)?.probe)
    }

    /// The backend in that slot.
    pub fn backend_at(&self, index: u32) -> Option<Key> {
        self.backends.key_at(index)
    }
}
