//! What every worker is told to do besides changes, and what workers say.
//!
//! An order has a number; the client is answered when every worker has said
//! that it obeyed. What a worker says is taken as what a hijacked one might
//! say: it is believed about itself, and bounded.

use crate::proto::reply;
use crate::proto::said::Said;
use crate::slab::Key;
use crate::state::Refused;
use crate::supervisor::Supervisor;

/// An order that a client waits for.
pub struct Asked {
    number: u64,
    client: Key,
    /// Workers that have not obeyed yet.
    missing: Vec<Key>,
}

#[derive(Default)]
pub struct Orders {
    pub(super) last: u64,
    pub(super) asked: Vec<Asked>,
}

impl Supervisor {
    /// Returns the number of the order, and who was told.
    pub(super) fn order_all(&mut self, line: &str) -> (u64, Vec<Key>) {
        self.orders.last += 1;
        let number = self.orders.last;
        self.tell_workers(&format!("{line} order={number}"));
        self.watch_blocked_workers();
        (
            number,
            self.workers.channels().map(|(key, _)| key).collect(),
        )
    }

    /// The client has its `ok` when every worker has obeyed.
    pub(super) fn order_and_answer(&mut self, line: &str, key: Key) -> Result<String, Refused> {
        let (number, missing) = self.order_all(line);
        if missing.is_empty() {
            return Ok(reply::ok(&[]));
        }
        self.client(key)?.waiting = true;
        self.orders.asked.push(Asked {
            number,
            client: key,
            missing,
        });
        Ok(String::new())
    }

    /// A line that is not about the worker's life.
    pub(super) fn heard(&mut self, worker: Key, line: &str) {
        match Said::parse(line) {
            Some(Said::Obeyed(number)) => self.obeyed(worker, |asked| asked.number == number),
            Some(Said::Left { order, connections }) => self.left(worker, order, connections),
            Some(Said::Held { cluster, waiting }) => self.pauses.waiting(worker, &cluster, waiting),
            Some(Said::Backend { cluster, id, down }) => {
                self.backend_changed(worker, &cluster, &id, down);
            }
            Some(Said::Full { connections }) => self.full(worker, connections),
            Some(Said::Health(finding)) => self.found(worker, finding),
            Some(Said::Connect(errand)) => self.run_errand(worker, &errand),
            None => self.hear(worker, line),
        }
    }

    /// It is gone: nobody waits for it any more.
    pub(super) fn forget_worker(&mut self, worker: Key) {
        self.obeyed(worker, |_| true);
        self.left_by_death(worker);
        self.pauses.forget_worker(worker);
    }

    fn obeyed(&mut self, worker: Key, which: impl Fn(&Asked) -> bool) {
        for asked in self.orders.asked.iter_mut().filter(|asked| which(asked)) {
            asked.missing.retain(|key| *key != worker);
        }
        let all = std::mem::take(&mut self.orders.asked);
        for asked in all {
            match asked.missing.is_empty() {
                true => self.answer_late(asked.client, &reply::ok(&[])),
                false => self.orders.asked.push(asked),
            }
        }
    }

    fn full(&mut self, worker: Key, connections: u32) {
        if let Some(place) = self.workers.may_report(worker, self.now_ms) {
            let pairs = [
                ("worker", place.to_string()),
                ("connections", connections.to_string()),
            ];
            self.tell_event("full", &pairs);
        }
    }

    /// Of a backend that there is; its address is what we know it to be.
    fn backend_changed(&mut self, worker: Key, cluster: &str, id: &str, down: Option<String>) {
        let now_ms = self.now_ms;
        let Some(backend) = self.state.server(cluster, id) else {
            return;
        };
        let Some(place) = self.workers.may_report(worker, now_ms) else {
            return;
        };
        self.left_alone(worker, &backend, &down);
        let mut pairs = vec![
            ("cluster", cluster.to_string()),
            ("id", id.to_string()),
            ("address", backend.address.to_string()),
            (
                "state",
                if down.is_some() { "down" } else { "up" }.to_string(),
            ),
            ("worker", place.to_string()),
        ];
        if let Some(why) = down {
            pairs.push(("why", why));
        }
        self.tell_event("backend", &pairs);
    }
}
