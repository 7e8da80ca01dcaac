//! What is known of backends: what checks have shown, told by the worker that makes them, and whom
//! workers leave alone, each for itself. Kept for workers that start, for who asks, and over an upgrade.
//!
//! A worker may be hijacked. It is believed about a backend that is its own to check, and about whom it
//! leaves alone itself; no more of them are kept than there are backends.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::health::{question, whose, Count};
use crate::proto::reply;
use crate::proto::said::Finding;
use crate::random::hash_of;
use crate::slab::Key;
use crate::state::{Backend, BackendState, Change, Refused, State};
use crate::supervisor::dumps::Dump;
use crate::supervisor::handover::Record as Line;
use crate::supervisor::workers::Life;
use crate::supervisor::Supervisor;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healths {
    clusters: BTreeMap<Rc<str>, Ward>,
    /// Clusters of which it is to be looked at whether too few are well.
    touched: BTreeSet<Rc<str>>,
    /// The rows of those who check, as they were told last.
    told: Vec<usize>,
}

/// A cluster of which something is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ward {
    /// What its checks ask.
    question: Option<u64>,
    backends: BTreeMap<Rc<str>, Known>,
    /// Places whose workers leave nobody alone, since too few are well.
    panics: Vec<usize>,
    count: Count,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    checked: Option<Found>,
    /// By the places of the workers that leave it alone.
    left: BTreeMap<usize, Found>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// Why it is down; `None`: it is up.
    down: Option<String>,
    since_ms: u64,
}

impl Found {
    fn pairs(&self, now_ms: u64) -> Vec<(&'static str, String)> {
        let state = if self.down.is_some() { "down" } else { "up" };
        let since_s = now_ms.saturating_sub(self.since_ms) / 1000;
        let mut pairs = vec![("state", state.to_string())];
        pairs.extend(self.down.iter().map(|why| ("why", why.clone())));
        pairs.push(("since_s", since_s.to_string()));
        pairs
    }

    fn is_down(&self) -> bool {
        self.down.is_some()
    }
}

impl Known {
    fn is_well(&self, place: usize) -> bool {
        !self.checked.as_ref().is_some_and(Found::is_down) && !self.left.contains_key(&place)
    }

    fn is_empty(&self) -> bool {
        self.checked.is_none() && self.left.is_empty()
    }
}

fn name_of(backend: &Backend) -> Vec<(&'static str, String)> {
    vec![
        ("cluster", backend.cluster.to_string()),
        ("id", backend.id.to_string()),
    ]
}

/// What workers are told.
fn verdict_line(backend: &Backend, question: u64, down: bool) -> String {
    let mut pairs = name_of(backend);
    pairs.extend([
        ("address", backend.address.to_string()),
        ("question", question.to_string()),
        ("state", if down { "down" } else { "up" }.to_string()),
    ]);
    reply::data("health", &pairs).trim_end().to_string()
}

impl Healths {
    fn known(&mut self, backend: &Backend, state: &State) -> &mut Known {
        self.touched.insert(Rc::clone(&backend.cluster));
        let ward = self.clusters.entry(Rc::clone(&backend.cluster));
        let ward = ward.or_insert_with(|| Ward {
            question: state.cluster(&backend.cluster).and_then(|it| question(it)),
            ..Ward::default()
        });
        ward.backends.entry(Rc::clone(&backend.id)).or_default()
    }

    /// A change was made: what is not there any more, or is asked otherwise, is not known.
    pub fn follow(&mut self, change: &Change) {
        let (id, touched) = match change {
            Change::ClusterUpdate(cluster) => (None, &cluster.id),
            Change::ClusterRemove { id } => (None, id),
            Change::BackendAdd(it) | Change::BackendUpdate(it) => (Some(&it.id), &it.cluster),
            Change::BackendRemove { cluster, id } => (Some(id), cluster),
            _ => return,
        };
        let Some(ward) = self.clusters.get_mut(touched) else {
            return;
        };
        self.touched.insert(Rc::clone(touched));
        let known = id.and_then(|id| ward.backends.get_mut(id));
        match (change, known) {
            (Change::ClusterUpdate(cluster), _) => {
                let asked = question(cluster);
                if asked != std::mem::replace(&mut ward.question, asked) {
                    let all = ward.backends.values_mut();
                    all.for_each(|known| known.checked = None);
                }
            }
            (Change::ClusterRemove { .. }, _) => ward.backends.clear(),
            (Change::BackendUpdate(it), Some(known)) if it.state != BackendState::Ready => {
                known.checked = None;
            }
            (Change::BackendRemove { .. }, Some(known)) => *known = Known::default(),
            _ => {}
        }
    }

    /// Nobody is in that place who would leave anybody alone.
    fn forget_place(&mut self, place: usize) {
        for (cluster, ward) in &mut self.clusters {
            for known in ward.backends.values_mut() {
                if known.left.remove(&place).is_some() {
                    self.touched.insert(Rc::clone(cluster));
                }
            }
        }
    }

    /// For a worker that starts.
    pub fn boot_lines(&self, state: &State) -> Vec<String> {
        let mut lines = Vec::new();
        for (cluster, ward) in &self.clusters {
            for (id, known) in &ward.backends {
                let found = known.checked.as_ref().zip(ward.question);
                let found = found.zip(state.server(cluster, id));
                lines.extend(found.map(|((found, question), backend)| {
                    verdict_line(&backend, question, found.is_down())
                }));
            }
        }
        lines
    }

    /// What is known of every backend, by what of it is known.
    fn all(&self) -> impl Iterator<Item = (Vec<(&'static str, String)>, Option<usize>, &Found)> {
        self.clusters.iter().flat_map(|(cluster, ward)| {
            ward.backends.iter().flat_map(move |(id, known)| {
                let name = || vec![("cluster", cluster.to_string()), ("id", id.to_string())];
                let checked = known.checked.iter().map(move |found| (name(), None, found));
                let left = known.left.iter();
                checked.chain(left.map(move |(place, found)| (name(), Some(*place), found)))
            })
        })
    }

    /// Behind `backend list`.
    pub fn lines(&self, now_ms: u64) -> String {
        let line = |(mut pairs, place, found): (Vec<_>, Option<usize>, &Found)| {
            pairs.push(match place {
                None => ("by", "checks".to_string()),
                Some(place) => ("worker", place.to_string()),
            });
            pairs.extend(found.pairs(now_ms));
            reply::data("health", &pairs)
        };
        self.all().map(line).collect()
    }

    /// In `status`.
    pub fn panic_lines(&self) -> String {
        let panics = self.clusters.iter();
        let panics = panics.filter(|(_, ward)| !ward.panics.is_empty());
        let line = |(id, ward): (&Rc<str>, &Ward)| {
            let workers: Vec<String> = ward.panics.iter().map(usize::to_string).collect();
            let mut pairs = ward.pairs(id);
            pairs.push(("workers", workers.join(",")));
            reply::data("panic", &pairs)
        };
        panics.map(line).collect()
    }

    /// Why requests do not go to a backend while there are others.
    pub fn why_avoided(&self, backend: &Backend, places: &[usize]) -> Option<String> {
        let ward = self.clusters.get(&backend.cluster)?;
        let known = ward.backends.get(&backend.id)?;
        if !ward.panics.is_empty() {
            return None;
        }
        let checked = known.checked.as_ref().and_then(|found| found.down.as_ref());
        if let Some(why) = checked {
            return Some(format!("no, its checks fail: {why}"));
        }
        let all = places.iter().all(|place| known.left.contains_key(place));
        let why = known.left.values().find_map(|found| found.down.as_ref());
        why.filter(|_| all)
            .map(|why| format!("no, every worker leaves it alone: {why}"))
    }

    pub fn panics(&self, cluster: &str) -> bool {
        let ward = self.clusters.get(cluster);
        ward.is_some_and(|ward| !ward.panics.is_empty())
    }

    // ---- over an upgrade ------------------------------------------------

    pub fn handover_lines(&self) -> String {
        let line = |(mut pairs, place, found): (Vec<_>, Option<usize>, &Found)| {
            pairs.extend(place.map(|place| ("place", place.to_string())));
            pairs.extend(found.down.iter().map(|why| ("down", why.clone())));
            pairs.push(("since_ms", found.since_ms.to_string()));
            format!("optional {}", reply::data("health", &pairs))
        };
        self.all().map(line).collect()
    }

    /// Of a backend that there is.
    pub fn take(&mut self, it: &mut Line, state: &State) -> Result<(), String> {
        let (cluster, id) = (it.text("cluster")?, it.text("id")?);
        let place: Option<usize> = it.value_or_none("place")?;
        let found = Found {
            down: it.text_or_none("down"),
            since_ms: it.value("since_ms")?,
        };
        if let Some(backend) = state.server(&cluster, &id) {
            let known = self.known(&backend, state);
            match place {
                None => known.checked = Some(found),
                Some(place) => drop(known.left.insert(place, found)),
            }
        }
        Ok(())
    }
}

impl Ward {
    fn pairs(&self, id: &str) -> Vec<(&'static str, String)> {
        vec![
            ("cluster", id.to_string()),
            ("healthy", self.count.healthy.to_string()),
            ("ready", self.count.ready.to_string()),
        ]
    }

    /// As that place's worker counts them.
    fn count_of(&self, id: &str, place: usize, state: &State) -> Count {
        let takes = |it: &Rc<Backend>| it.weight > 0 && it.state == BackendState::Ready;
        let ready = state.servers_of(id).filter(takes);
        Count::of(ready.map(|it| {
            let known = self.backends.get(&it.id);
            (it.backup, known.is_none_or(|known| known.is_well(place)))
        }))
    }
}

impl Supervisor {
    /// The places that carry traffic, and the rows of who checks.
    fn who_checks(&self) -> (Vec<usize>, Vec<usize>) {
        let processes = self.workers.processes.iter().map(|(_, process)| process);
        let accept = processes.filter(|process| process.life == Life::Accepting);
        let mut all: Vec<(usize, usize)> = accept.map(|it| (it.id, it.row)).collect();
        all.sort_unstable();
        all.into_iter().unzip()
    }

    /// A worker says what its checks have found.
    pub(super) fn found(&mut self, worker: Key, it: Finding) {
        let (_, rows) = self.who_checks();
        let Some(backend) = self.state.server(&it.cluster, &it.id) else {
            return;
        };
        let own = hash_of(&[it.cluster.as_bytes(), it.id.as_bytes()]);
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return;
        };
        let is_its = whose(&rows, own) == Some(process.row);
        let meant = backend.address == it.address && backend.state == BackendState::Ready;
        if !is_its || !meant || !process.may_find(self.now_ms) {
            return;
        }
        let since_ms = self.now_ms;
        let asked = self.healths.question(&backend, &self.state);
        if asked != Some(it.question) {
            return;
        }
        let known = self.healths.known(&backend, &self.state);
        let before = known.checked.as_ref();
        let new = before.is_none_or(|found| found.is_down() != it.down.is_some());
        if new {
            known.checked = Some(Found {
                down: it.down.clone(),
                since_ms,
            });
        }
        // Again as well: somebody may not have heard it.
        self.tell_workers(&verdict_line(&backend, it.question, it.down.is_some()));
        if new {
            self.tell_verdict(&backend, it.down);
        }
    }

    fn tell_verdict(&mut self, backend: &Backend, down: Option<String>) {
        let Backend {
            cluster,
            id,
            address,
            ..
        } = backend;
        let mut pairs = name_of(backend);
        pairs.push(("address", address.to_string()));
        pairs.push(("by", "checks".to_string()));
        match down {
            Some(why) => {
                log::warn!("backend {id} of cluster {cluster} at {address} is down, its checks fail: {why}");
                pairs.extend([("state", "down".to_string()), ("why", why)]);
            }
            None => {
                log::info!("backend {id} of cluster {cluster} at {address} is up, its checks pass");
                pairs.push(("state", "up".to_string()));
            }
        }
        self.tell_event("backend", &pairs);
    }

    /// A worker leaves a backend alone, or not any more.
    pub(super) fn left_alone(&mut self, worker: Key, backend: &Backend, down: &Option<String>) {
        let process = self.workers.processes.get(worker);
        let accepts = process.filter(|process| process.life == Life::Accepting);
        let Some(place) = accepts.map(|process| process.id) else {
            return;
        };
        let since_ms = self.now_ms;
        let known = self.healths.known(backend, &self.state);
        match down {
            None => drop(known.left.remove(&place)),
            Some(_) => {
                let down = down.clone();
                known.left.insert(place, Found { down, since_ms });
            }
        }
    }

    /// A worker is gone.
    pub(super) fn forget_findings(&mut self, place: usize) {
        if self.workers.with_life(place, Life::Accepting).is_none() {
            self.healths.forget_place(place);
        }
    }

    /// Tells who checks, if these are others now; and which clusters have too few that are well.
    pub(super) fn look_at_health(&mut self) {
        let (places, rows) = self.who_checks();
        if rows != self.healths.told {
            let list: Vec<String> = rows.iter().map(usize::to_string).collect();
            self.tell_workers(&format!("probers rows={}", list.join(",")));
            self.healths.told = rows;
            let all = self.healths.clusters.keys().cloned();
            self.healths.touched.extend(all);
        }
        for id in std::mem::take(&mut self.healths.touched) {
            self.look_at_panic(&id, &places);
        }
    }

    fn look_at_panic(&mut self, id: &Rc<str>, places: &[usize]) {
        let Some(ward) = self.healths.clusters.get_mut(id) else {
            return;
        };
        let counts = places
            .iter()
            .map(|place| (*place, ward.count_of(id, *place, &self.state)));
        let counts: Vec<(usize, Count)> = counts.collect();
        let panic = counts.iter().filter(|(_, count)| count.panics());
        let panics: Vec<usize> = panic.map(|(place, _)| *place).collect();
        let least = counts.iter().map(|(_, count)| *count);
        ward.count = least.min_by_key(|it| it.healthy).unwrap_or_default();
        let before = !std::mem::replace(&mut ward.panics, panics).is_empty();
        let now = !ward.panics.is_empty();
        let mut pairs = ward.pairs(id);
        let Count { healthy, ready } = ward.count;
        ward.backends.retain(|_, known| !known.is_empty());
        if ward.backends.is_empty() {
            self.healths.clusters.remove(id);
        }
        if before == now {
            return;
        }
        match now {
            true => log::warn!("cluster {id}: {healthy} of {ready} backends are well, fewer than half: all are used"),
            false => log::info!("cluster {id}: half of the backends are well again: others are left alone"),
        }
        let state = if now { "on" } else { "off" };
        pairs.push(("state", state.to_string()));
        self.tell_event("panic", &pairs);
    }

    /// The backends, then what is known of them.
    pub(super) fn list_backends(&mut self, key: Key) -> Result<String, Refused> {
        use crate::proto::command::Noun;
        let listed = self.dump(Dump::List(Noun::Backend), key)?;
        match self.healths.clusters.is_empty() && self.state.known_names().next().is_none() {
            true => Ok(listed),
            false => self.once(
                |main| main.server_lines() + &main.healths.lines(main.now_ms),
                key,
            ),
        }
    }

    /// The servers of backends by name.
    fn server_lines(&self) -> String {
        let backends = self.state.backends();
        let by_name = backends.filter(|backend| backend.address.name().is_some());
        let servers = by_name.flat_map(|backend| self.state.servers_for(backend));
        let line = |server: Rc<Backend>| {
            let mut pairs = name_of(&server);
            pairs.push(("address", server.address.to_string()));
            reply::data("server", &pairs)
        };
        servers.map(line).collect()
    }

    /// Why requests do not go to a backend while there are others.
    pub(super) fn why_avoided(&self, backend: &Backend) -> Option<String> {
        let (places, _) = self.who_checks();
        self.healths.why_avoided(backend, &places)
    }
}

impl Healths {
    fn question(&self, backend: &Backend, state: &State) -> Option<u64> {
        match self.clusters.get(&backend.cluster) {
            Some(ward) => ward.question,
            None => question(state.cluster(&backend.cluster)?),
        }
    }
}
