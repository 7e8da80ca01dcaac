//! Who is counted where: main gives rows of the ledger to objects as they come
//! and go, and answers `metrics`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use crate::limits::SERIES_MAX;
use crate::metrics::{quantile, Count, Series, Totals};
use crate::net::ledger::{Ledger, Note};
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Change, Code, Refused};
use crate::supervisor::handover::Record;
use crate::supervisor::Supervisor;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Object {
    Listener(SocketAddr),
    Cluster(Rc<str>),
    Backend(Rc<str>, Rc<str>),
}

/// Which row each object has.
#[derive(Clone, Default)]
pub struct Roster {
    rows: HashMap<Object, Key>,
    /// Rows that were ever given away, and how often each.
    generations: Vec<u32>,
    /// Rows that are free again, the one that has been for longest first.
    free: VecDeque<u32>,
    /// Objects without a row.
    missing: u64,
}

impl Roster {
    /// A change is about to be told to workers; of an object that comes, its row.
    pub fn follow(&mut self, change: &Change, ledger: &Ledger) -> Series {
        let series = match change {
            Change::ListenerAdd(listener) => self.add(Object::Listener(listener.address), ledger),
            Change::ClusterAdd(cluster) => self.add(Object::Cluster(cluster.id.clone()), ledger),
            Change::BackendAdd(backend) => {
                let object = Object::Backend(backend.cluster.clone(), backend.id.clone());
                self.add(object, ledger)
            }
            Change::ListenerRemove { address } => self.remove(&Object::Listener(*address)),
            Change::ClusterRemove { id } => self.remove(&Object::Cluster(id.clone())),
            Change::BackendRemove { cluster, id } => {
                self.remove(&Object::Backend(cluster.clone(), id.clone()))
            }
            Change::ListenerUpdate(_)
            | Change::ClusterUpdate(_)
            | Change::BackendUpdate(_)
            | Change::CertificateAdd(_)
            | Change::CertificateReplace { .. }
            | Change::CertificateRemove { .. }
            | Change::FrontendAdd(_)
            | Change::FrontendRemove { .. } => None,
        };
        ledger.set_note(Note::Missing, self.missing);
        series
    }

    /// The row of an object that is there.
    pub fn of(&self, change: &Change) -> Series {
        let object = match change {
            Change::ListenerAdd(listener) => Object::Listener(listener.address),
            Change::ClusterAdd(cluster) => Object::Cluster(cluster.id.clone()),
            Change::BackendAdd(backend) => {
                Object::Backend(backend.cluster.clone(), backend.id.clone())
            }
            _ => return None,
        };
        self.rows.get(&object).copied()
    }

    pub fn listeners(&self) -> impl Iterator<Item = Key> + '_ {
        let rows = self.rows.iter();
        let listeners = rows.filter(|(object, _)| matches!(object, Object::Listener(_)));
        listeners.map(|(_, series)| *series)
    }

    pub fn all(&self) -> impl Iterator<Item = Key> + '_ {
        self.rows.values().copied()
    }

    /// For the next program: all of it, in an order of its own.
    pub fn lines(&self) -> String {
        let list = |numbers: &mut dyn Iterator<Item = u32>| {
            let words: Vec<String> = numbers.map(|n| n.to_string()).collect();
            words.join(",")
        };
        let mut pairs = vec![
            ("generations", list(&mut self.generations.iter().copied())),
            ("missing", self.missing.to_string()),
        ];
        if !self.free.is_empty() {
            pairs.push(("free", list(&mut self.free.iter().copied())));
        }
        let mut lines = reply::data("rows", &pairs);
        let mut rows: Vec<(&Object, &Key)> = self.rows.iter().collect();
        rows.sort_by_key(|(_, series)| series.index);
        for (object, series) in rows {
            let mut pairs = vec![("index", series.index.to_string())];
            match object {
                Object::Listener(address) => pairs.push(("listener", address.to_string())),
                Object::Cluster(id) => pairs.push(("cluster", id.to_string())),
                Object::Backend(cluster, id) => {
                    pairs.push(("cluster", cluster.to_string()));
                    pairs.push(("backend", id.to_string()));
                }
            }
            lines += &reply::data("row", &pairs);
        }
        lines
    }

    /// A line `rows`; the rows themselves follow it.
    pub fn take(it: &mut Record) -> Result<Roster, String> {
        let roster = Roster {
            rows: HashMap::new(),
            generations: it.list("generations")?,
            free: it.list("free")?.into(),
            missing: it.value("missing")?,
        };
        let count = roster.generations.len();
        if count > SERIES_MAX || roster.free.iter().any(|index| *index as usize >= count) {
            return Err("rows: there are too many".into());
        }
        Ok(roster)
    }

    /// A line `row`.
    pub fn take_row(&mut self, it: &mut Record) -> Result<(), String> {
        let index: u32 = it.value("index")?;
        let object = match it.value_or_none("listener")? {
            Some(address) => Object::Listener(address),
            None => {
                let cluster = it.text("cluster")?.into();
                match it.text_or_none("backend") {
                    Some(id) => Object::Backend(cluster, id.into()),
                    None => Object::Cluster(cluster),
                }
            }
        };
        let generation = self.generations.get(index as usize);
        let generation = *generation.ok_or("row: there are not so many")?;
        self.rows.insert(object, Key { index, generation });
        Ok(())
    }

    /// Rows that were never used come first: what still counts for an object that
    /// has gone disturbs nobody for as long as possible.
    fn add(&mut self, object: Object, ledger: &Ledger) -> Series {
        let index = match self.generations.len() < SERIES_MAX {
            true => {
                self.generations.push(0);
                self.generations.len() as u32 - 1
            }
            false => match self.free.pop_front() {
                Some(index) => index,
                None => {
                    if self.missing == 0 {
                        log::warn!("more than {SERIES_MAX} listeners, clusters and backends: the others work, and are not counted");
                    }
                    self.missing += 1;
                    return None;
                }
            },
        };
        let generation = &mut self.generations[index as usize];
        // 0 is a row that never was anybody's.
        *generation = generation.wrapping_add(1).max(1);
        let series = Key {
            index,
            generation: *generation,
        };
        ledger.begin(series);
        self.rows.insert(object, series);
        Some(series)
    }

    fn remove(&mut self, object: &Object) -> Series {
        match self.rows.remove(object) {
            Some(series) => self.free.push_back(series.index),
            None => self.missing = self.missing.saturating_sub(1),
        }
        None
    }
}

/// What a worker is told of a change: the row first. The keys of certificates only where there is no key process;
/// the hashes of a frontend's users always, since no other process looks at passwords.
pub fn told(series: Series, change: &Change, secrets: bool) -> String {
    let line = match secrets || change.basic_auth().is_some() {
        true => change.encode_with_secrets(),
        false => change.encode(),
    };
    let Some(Key { index, generation }) = series else {
        return line;
    };
    let pairs = [
        ("index", index.to_string()),
        ("generation", generation.to_string()),
    ];
    reply::data("series", &pairs) + &line
}

impl Supervisor {
    /// The data lines of `metrics`: all, or those of one cluster and its backends.
    pub(super) fn metrics(&mut self, cluster: Option<&str>, key: Key) -> Result<String, Refused> {
        if let Some(id) = cluster.filter(|id| self.state.cluster(id).is_none()) {
            let what = format!("cluster {id} does not exist");
            return Err(Refused::new(Code::Missing, what));
        }
        self.once(|main| main.metric_lines(cluster), key)
    }

    fn metric_lines(&self, cluster: Option<&str>) -> String {
        let named = |id: &str| cluster.is_none_or(|wanted| wanted == id);
        let mut text = String::new();
        if cluster.is_none() {
            text += &self.worker_lines();
        }
        for listener in self.state.listeners().filter(|_| cluster.is_none()) {
            let name = [("address", listener.address.to_string())];
            text += &self.line_of(&Object::Listener(listener.address), &name);
        }
        for cluster in self.state.clusters().filter(|cluster| named(&cluster.id)) {
            let name = [("id", cluster.id.to_string())];
            text += &self.line_of(&Object::Cluster(cluster.id.clone()), &name);
        }
        for backend in self.state.servers().filter(|b| named(&b.cluster)) {
            let name = [
                ("cluster", backend.cluster.to_string()),
                ("id", backend.id.to_string()),
                ("address", backend.address.to_string()),
                ("state", backend.state.name().to_string()),
            ];
            let object = Object::Backend(backend.cluster.clone(), backend.id.clone());
            text += &self.line_of(&object, &name);
        }
        text
    }

    /// Empty for what is not counted.
    fn line_of(&self, object: &Object, name: &[(&'static str, String)]) -> String {
        let Some(series) = self.roster.rows.get(object) else {
            return String::new();
        };
        let totals = self.ledger.totals(Some(*series));
        let noun = match object {
            Object::Listener(_) => "listener",
            Object::Cluster(_) => "cluster",
            Object::Backend(..) => "backend",
        };
        let mut pairs = name.to_vec();
        let mut count = |name, count| pairs.push((name, totals.get(count).to_string()));
        match object {
            Object::Cluster(_) => count("retries", Count::Retried),
            Object::Listener(_) => {
                count("connections", Count::Open);
                count("accepted", Count::Connections);
                count("handshakes", Count::HandshakesFull);
                count("resumed", Count::HandshakesResumed);
                count("handshakes_failed", Count::HandshakesFailed);
            }
            Object::Backend(..) => {
                count("connections", Count::Open);
                count("connects", Count::Connections);
                count("connect_failures", Count::ConnectFailed);
                count("avoided_by", Count::Avoided);
                count("checks_passed", Count::ChecksPassed);
                count("checks_failed", Count::ChecksFailed);
            }
        }
        pairs.push(("requests", totals.answered().to_string()));
        pairs.extend(figures(&totals));
        reply::data(noun, &pairs)
    }
}

/// What all kinds of objects have.
fn figures(totals: &Totals) -> Vec<(&'static str, String)> {
    let count = |name, count| (name, totals.get(count).to_string());
    let quantile = |name, share| {
        let us = quantile(totals.buckets(), share);
        let ms = us.map(|us| format!("{}.{:02}", us / 1000, us % 1000 / 10));
        (name, ms.unwrap_or_else(|| "-".into()))
    };
    let buckets: Vec<String> = totals.buckets().iter().map(u64::to_string).collect();
    vec![
        count("1xx", Count::Answered1xx),
        count("2xx", Count::Answered2xx),
        count("3xx", Count::Answered3xx),
        count("4xx", Count::Answered4xx),
        count("5xx", Count::Answered5xx),
        count("failed_client", Count::FailedClient),
        count("failed_backend", Count::FailedBackend),
        count("failed_proxy", Count::FailedProxy),
        count("received", Count::Received),
        count("sent", Count::Sent),
        quantile("p50_ms", 0.5),
        quantile("p90_ms", 0.9),
        quantile("p99_ms", 0.99),
        ("buckets", buckets.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::{Balancing, Cluster, LoadBalancing, Protocol, Quota};

    fn add(id: usize) -> Change {
        Change::ClusterAdd(Rc::new(Cluster {
            id: id.to_string().into(),
            protocol: Protocol::Http,
            balancing: Balancing::by(LoadBalancing::RoundRobin),
            quota: Quota::default(),
            send_proxy: None,
            tls: None,
            check: None,
            eject_5xx: 0,
            answers: BTreeMap::new(),
        }))
    }

    fn remove(id: usize) -> Change {
        Change::ClusterRemove {
            id: id.to_string().into(),
        }
    }

    #[test]
    fn rows_are_used_again_after_all_others_and_with_another_generation() {
        let ledger = Ledger::create().expect("shared memory");
        let mut roster = Roster::default();
        let first = roster.follow(&add(0), &ledger).expect("a row");
        assert_eq!(roster.of(&add(0)), Some(first));
        roster.follow(&remove(0), &ledger);
        assert_eq!(roster.of(&add(0)), None);
        for id in 1..SERIES_MAX {
            let series = roster.follow(&add(id), &ledger).expect("a row");
            assert_eq!((series.index as usize, series.generation), (id, 1));
        }
        let again = roster.follow(&add(0), &ledger).expect("a row");
        assert_eq!((again.index, again.generation), (first.index, 2));
        assert_eq!(roster.follow(&add(SERIES_MAX), &ledger), None);
        assert_eq!(ledger.note(Note::Missing), 1);
        roster.follow(&remove(SERIES_MAX), &ledger);
        assert_eq!(ledger.note(Note::Missing), 0);
    }
}
