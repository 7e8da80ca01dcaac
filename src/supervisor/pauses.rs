//! Clusters whose requests are held for a while.
//!
//! A pause is no part of the state: it is not dumped and not saved, and ends by
//! itself. Workers hold the requests and end a pause by their own clock, should
//! main be gone; main knows when each ends, to tell a worker that starts.

use std::collections::BTreeMap;

use crate::limits::{HELD_PER_CLUSTER_MAX, PAUSES_MAX};
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Change, Code, Refused};
use crate::supervisor::{Stage, Supervisor};

#[derive(Default)]
pub struct Pauses(pub(super) BTreeMap<String, Pause>);

pub struct Pause {
    pub(super) until_ms: u64,
    /// How many wait, as each worker says.
    pub(super) waiting: Vec<(Key, usize)>,
}

impl Pauses {
    /// When the first one ends.
    pub fn due_ms(&self) -> Option<u64> {
        self.0.values().map(|pause| pause.until_ms).min()
    }

    /// For a worker that starts: what remains.
    pub fn boot_lines(&self, now_ms: u64) -> Vec<String> {
        let line = |(id, pause): (&String, &Pause)| pause_line(id, pause.until_ms, now_ms);
        self.0.iter().map(line).collect()
    }

    /// For whoever looks at it.
    pub fn lines(&self, now_ms: u64) -> String {
        self.0.keys().map(|id| self.line(id, now_ms)).collect()
    }

    /// About one cluster; empty if it is not paused.
    pub fn line(&self, id: &str, now_ms: u64) -> String {
        let Some(pause) = self.0.get(id) else {
            return String::new();
        };
        let left_ms = pause.until_ms.saturating_sub(now_ms);
        let waiting: usize = pause.waiting.iter().map(|(_, count)| count).sum();
        let pairs = [
            ("cluster", id.to_string()),
            ("waiting", waiting.to_string()),
            ("seconds_left", left_ms.div_ceil(1000).to_string()),
        ];
        reply::data("paused", &pairs)
    }

    /// A worker says how many wait in it. It may say anything.
    pub fn waiting(&mut self, worker: Key, id: &str, count: usize) {
        let Some(pause) = self.0.get_mut(id) else {
            return;
        };
        pause.waiting.retain(|(key, _)| *key != worker);
        pause
            .waiting
            .push((worker, count.min(HELD_PER_CLUSTER_MAX)));
    }

    /// Nobody waits in it any more.
    pub fn forget_worker(&mut self, worker: Key) {
        for pause in self.0.values_mut() {
            pause.waiting.retain(|(key, _)| *key != worker);
        }
    }
}

/// What a worker is told. By its own clock: it knows no other.
fn pause_line(id: &str, until_ms: u64, now_ms: u64) -> String {
    let left_ms = until_ms.saturating_sub(now_ms).max(1);
    let pairs = [("cluster", id.to_string()), ("ms", left_ms.to_string())];
    reply::data("pause", &pairs).trim_end().to_string()
}

impl Supervisor {
    pub(super) fn pause(&mut self, id: String, max: u32, key: Key) -> Result<String, Refused> {
        self.may_pause(&id, key)?;
        if self.stage != Stage::Serving {
            let what = "the proxy does not serve: it starts or ends";
            return Err(Refused::new(Code::Failed, what));
        }
        if self.pauses.0.len() == PAUSES_MAX && !self.pauses.0.contains_key(&id) {
            let what = format!("{PAUSES_MAX} clusters are paused already, which is the most");
            return Err(Refused::new(Code::Limit, what));
        }
        let until_ms = self.now_ms + u64::from(max) * 1000;
        let pause = self.pauses.0.entry(id.clone());
        let pause = pause.or_insert(Pause {
            until_ms,
            waiting: Vec::new(),
        });
        pause.until_ms = until_ms;
        let who = self.client(key)?.who.clone();
        log::info!("by {who}: cluster pause id={id} max={max}");
        let pairs = [("cluster", id.clone()), ("max", max.to_string())];
        self.tell_event("paused", &pairs);
        let line = pause_line(&id, until_ms, self.now_ms);
        self.order_and_answer(&line, key)
    }

    pub(super) fn resume(&mut self, id: &str, key: Key) -> Result<String, Refused> {
        self.may_pause(id, key)?;
        if self.pauses.0.remove(id).is_none() {
            let what = format!("cluster {id} is not paused");
            return Err(Refused::new(Code::Missing, what));
        }
        let who = self.client(key)?.who.clone();
        log::info!("by {who}: cluster resume id={id}");
        self.tell_resumed(id, "resume");
        self.order_and_answer(&resume_line(id), key)
    }

    fn may_pause(&mut self, id: &str, key: Key) -> Result<(), Refused> {
        if self.client(key)?.transaction.is_some() {
            let what = "pause and resume are no part of a transaction: commit or abort it first";
            return Err(Refused::new(Code::InUse, what));
        }
        match self.state.cluster(id) {
            Some(_) => Ok(()),
            None => {
                let what = format!("cluster {id} does not exist");
                Err(Refused::new(Code::Missing, what))
            }
        }
    }

    fn tell_resumed(&mut self, id: &str, why: &str) {
        let pairs = [("cluster", id.to_string()), ("why", why.to_string())];
        self.tell_event("resumed", &pairs);
    }

    /// Those whose time is over.
    pub(super) fn look_at_pauses(&mut self) {
        let now_ms = self.now_ms;
        let over = self.pauses.0.iter();
        let over = over.filter(|(_, pause)| pause.until_ms <= now_ms);
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            self.pauses.0.remove(&id);
            log::warn!("cluster {id} is not paused any more: the time is over");
            self.tell_workers(&resume_line(&id));
            self.tell_resumed(&id, "the time is over");
        }
    }

    /// Clusters that are gone; workers see that themselves.
    pub(super) fn end_pauses_of(&mut self, changes: &[Change]) {
        if self.pauses.0.is_empty() {
            return;
        }
        for change in changes {
            let Change::ClusterRemove { id } = change else {
                continue;
            };
            if self.state.cluster(id).is_none() && self.pauses.0.remove(&**id).is_some() {
                log::info!("cluster {id} is not paused any more: it was removed");
                self.tell_resumed(id, "the cluster was removed");
            }
        }
    }
}

fn resume_line(id: &str) -> String {
    let line = reply::data("resume", &[("cluster", id.to_string())]);
    line.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_is_counted_within_bounds() {
        let mut pauses = Pauses::default();
        let pause = Pause {
            until_ms: 9000,
            waiting: Vec::new(),
        };
        pauses.0.insert("web".into(), pause);
        let key = |index| Key {
            index,
            generation: 0,
        };
        pauses.waiting(key(0), "web", 3);
        pauses.waiting(key(0), "web", 4);
        pauses.waiting(key(1), "web", usize::MAX);
        pauses.waiting(key(1), "nobody", 1);
        let wanted = format!(
            "paused cluster=web waiting={} seconds_left=8\n",
            4 + HELD_PER_CLUSTER_MAX
        );
        assert_eq!(pauses.lines(1500), wanted);
        pauses.forget_worker(key(1));
        assert!(pauses.line("web", 1500).contains("waiting=4 "));
        assert_eq!(pauses.line("nobody", 1500), "");
        assert_eq!(pauses.boot_lines(1500), ["pause cluster=web ms=7500"]);
        assert_eq!(pauses.boot_lines(9500), ["pause cluster=web ms=1"]);
        assert_eq!(pauses.due_ms(), Some(9000));
    }
}
