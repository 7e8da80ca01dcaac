//! Changes whose answer waits until backends have no connection left.
//!
//! Behind the commit every worker is ordered to watch what it has taken from
//! service. Each says how many connections are left, now and then, and when
//! there are none. One that dies has none.

use crate::proto::reply;
use crate::slab::Key;
use crate::supervisor::progress::Progress;
use crate::supervisor::Supervisor;

pub struct Wait {
    pub(super) order: u64,
    pub(super) client: Key,
    pub(super) revision: u64,
    pub(super) changes: usize,
    pub(super) until_ms: u64,
    /// What each worker has said is left; nothing yet: it has not done the change either.
    pub(super) left: Vec<(Key, Option<u32>)>,
    pub(super) progress: Progress,
}

impl Wait {
    fn connections(&self) -> u64 {
        let left = self.left.iter().filter_map(|(_, left)| *left);
        left.map(u64::from).sum()
    }

    fn is_done_everywhere(&self) -> bool {
        self.left.iter().all(|(_, left)| left.is_some())
    }

    /// It is answered as soon as every worker has done the change and nothing is left,
    /// or the time is over.
    fn is_over(&self, now_ms: u64) -> bool {
        self.is_done_everywhere() && (self.connections() == 0 || self.until_ms <= now_ms)
    }

    fn answer(&self) -> String {
        reply::ok(&[
            ("revision", self.revision.to_string()),
            ("changes", self.changes.to_string()),
            ("connections", self.connections().to_string()),
        ])
    }
}

/// When to look at them again.
pub fn due_ms(waits: &[Wait], now_ms: u64) -> Option<u64> {
    let due = |wait: &Wait| match wait.is_over(now_ms) {
        true => now_ms,
        false if wait.is_done_everywhere() => wait.until_ms.min(wait.progress.due_ms()),
        false => wait.progress.due_ms(),
    };
    waits.iter().map(due).min()
}

impl Supervisor {
    /// The answer to the change just committed comes when what it took from service is empty.
    pub(super) fn await_departed(&mut self, client: Key, changes: usize, seconds: u32) {
        let (order, told) = self.order_all("watch");
        self.waits.push(Wait {
            order,
            client,
            revision: self.revision,
            changes,
            until_ms: self.now_ms + u64::from(seconds) * 1000,
            left: told.into_iter().map(|worker| (worker, None)).collect(),
            progress: Progress::new(self.now_ms),
        });
    }

    /// A worker says how many connections are left.
    pub(super) fn left(&mut self, worker: Key, order: u64, connections: u32) {
        let wait = self.waits.iter_mut().find(|wait| wait.order == order);
        let left = wait.and_then(|wait| wait.left.iter_mut().find(|(key, _)| *key == worker));
        if let Some((_, left)) = left {
            *left = Some(connections);
        }
    }

    /// It carries nothing any more.
    pub(super) fn left_by_death(&mut self, worker: Key) {
        for wait in &mut self.waits {
            wait.left.retain(|(key, _)| *key != worker);
        }
    }

    /// Answers whose wait is over, and tells the others how far it has come.
    pub(super) fn look_at_waits(&mut self) {
        let now_ms = self.now_ms;
        for wait in std::mem::take(&mut self.waits) {
            let is_there = self.control.clients.get(wait.client).is_some();
            if !is_there || wait.is_over(now_ms) {
                if !wait.is_done_everywhere() || wait.connections() > 0 {
                    self.tell_workers(&format!("unwatch order={}", wait.order));
                }
                self.answer_late(wait.client, &wait.answer());
            } else {
                self.waits.push(wait);
            }
        }
        for index in 0..self.waits.len() {
            let Some(wait) = self.waits.get_mut(index) else {
                continue;
            };
            let (client, connections) = (wait.client, wait.connections());
            let left_ms = wait.until_ms.saturating_sub(now_ms);
            if wait.progress.is_due(connections, now_ms) {
                self.tell_progress(client, connections, left_ms);
                self.push_out(client, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> Key {
        Key {
            index,
            generation: 0,
        }
    }

    #[test]
    fn over_when_all_did_it_and_nothing_is_left() {
        let mut wait = Wait {
            order: 1,
            client: key(9),
            revision: 5,
            changes: 1,
            until_ms: 3000,
            left: vec![(key(0), None), (key(1), Some(0))],
            progress: Progress::new(0),
        };
        // Not even when the time is over: a worker may still send requests there.
        assert!(!wait.is_over(5000));
        wait.left[0].1 = Some(2);
        assert!(!wait.is_over(2999) && wait.is_over(3000));
        assert_eq!(wait.answer(), "ok revision=5 changes=1 connections=2\n");
        wait.left[0].1 = Some(0);
        assert!(wait.is_over(0));
        assert_eq!(wait.answer(), "ok revision=5 changes=1 connections=0\n");
        wait.left.clear();
        assert!(wait.is_over(0));
        assert_eq!(due_ms(&[wait], 7), Some(7));
    }
}
