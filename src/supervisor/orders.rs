//! What every worker is told to do besides changes, and what workers say.
//!
//! An order has a number; the client is answered when every worker has said
//! that it obeyed. What a worker says is taken as what a hijacked one might
//! say: it is believed about itself, and bounded.

use crate::limits::REASON_CHARS_MAX;
use crate::proto::line::{split, Word};
use crate::proto::reply;
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

/// A line of a worker about more than its own life.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Obeyed(u64),
    Left {
        order: u64,
        connections: u32,
    },
    Held {
        cluster: String,
        waiting: usize,
    },
    Backend {
        cluster: String,
        id: String,
        /// Why it is down; `None`: it is up.
        down: Option<String>,
    },
}

impl Said {
    fn parse(line: &str) -> Option<Said> {
        let words = split(line).ok()?;
        let Some(Word::Bare(noun)) = words.first() else {
            return None;
        };
        let text = |wanted: &str| {
            words.iter().find_map(|word| match word {
                Word::Pair { key, value } if key == wanted => Some(value.clone()),
                _ => None,
            })
        };
        let number = |key| text(key)?.parse::<u64>().ok();
        Some(match noun.as_str() {
            "obeyed" => Said::Obeyed(number("order")?),
            "left" => Said::Left {
                order: number("order")?,
                connections: number("connections")?.try_into().ok()?,
            },
            "held" => Said::Held {
                cluster: text("cluster")?,
                waiting: number("waiting")?.try_into().ok()?,
            },
            "backend" => Said::Backend {
                cluster: text("cluster")?,
                id: text("id")?,
                down: match text("state")?.as_str() {
                    "up" => None,
                    "down" => Some(text("why")?.chars().take(REASON_CHARS_MAX).collect()),
                    _ => return None,
                },
            },
            _ => return None,
        })
    }
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

    /// Of a backend that there is; its address is what we know it to be.
    fn backend_changed(&mut self, worker: Key, cluster: &str, id: &str, down: Option<String>) {
        let now_ms = self.now_ms;
        let Some(backend) = self.state.backend(cluster, id) else {
            return;
        };
        let Some(place) = self.workers.may_report(worker, now_ms) else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_is_read() {
        assert_eq!(Said::parse("obeyed order=7"), Some(Said::Obeyed(7)));
        let left = Said::Left {
            order: 7,
            connections: 3,
        };
        assert_eq!(Said::parse("left order=7 connections=3"), Some(left));
        let held = Said::Held {
            cluster: "a".into(),
            waiting: 2,
        };
        assert_eq!(Said::parse("held cluster=a waiting=2"), Some(held));
        let long = format!("backend cluster=a id=b state=down why={}", "x".repeat(9999));
        match Said::parse(&long) {
            Some(Said::Backend {
                down: Some(why), ..
            }) => assert_eq!(why.len(), REASON_CHARS_MAX),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_none_of_it_is_left_out() {
        for line in [
            "",
            "=",
            "\"",
            "obeyed",
            "obeyed order=",
            "obeyed order=-1",
            "obeyed order=99999999999999999999",
            "left order=1 connections=4294967296",
            "left order=1",
            "held cluster=a waiting=-1",
            "held waiting=1",
            "backend cluster=a id=b state=down",
            "backend cluster=a id=b state=sideways why=x",
            "shutdown hard",
            "event kind=backend",
        ] {
            assert_eq!(Said::parse(line), None, "{line}");
        }
    }
}
