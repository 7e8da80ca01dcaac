//! Whoever waits for something long hears how far it has come: when it has
//! come further, about once a second, and else every few seconds.

use crate::limits::{PROGRESS_IDLE_MS, PROGRESS_MS};
use crate::net::board::Cell;
use crate::proto::reply;
use crate::slab::Key;
use crate::supervisor::{Stage, Supervisor};

/// What was told of one number.
pub struct Progress {
    looked_ms: u64,
    told_ms: u64,
    told: Option<u64>,
}

impl Progress {
    pub fn new(now_ms: u64) -> Progress {
        Progress {
            looked_ms: now_ms,
            told_ms: now_ms,
            told: None,
        }
    }

    /// When to look at the number again.
    pub fn due_ms(&self) -> u64 {
        self.looked_ms + PROGRESS_MS
    }

    /// Whether it is to be told now.
    pub fn is_due(&mut self, number: u64, now_ms: u64) -> bool {
        if now_ms < self.due_ms() {
            return false;
        }
        self.looked_ms = now_ms;
        if self.told == Some(number) && now_ms < self.told_ms + PROGRESS_IDLE_MS {
            return false;
        }
        self.told = Some(number);
        self.told_ms = now_ms;
        true
    }
}

/// The data line.
fn line(connections: u64, left_ms: u64) -> String {
    let pairs = [
        ("connections", connections.to_string()),
        ("seconds_left", left_ms.div_ceil(1000).to_string()),
    ];
    reply::data("progress", &pairs)
}

impl Supervisor {
    /// Nothing piles up for a client that does not read.
    pub(super) fn tell_progress(&mut self, client: Key, connections: u64, left_ms: u64) {
        let Some(client) = self.control.clients.get_mut(client) else {
            return;
        };
        if client.outbox.is_empty() {
            client.outbox.push(&line(connections, left_ms));
        }
    }

    /// Who has asked for the end hears how many connections are in its way.
    pub(super) fn look_at_drain(&mut self) {
        let Stage::Draining { until_ms } = self.stage else {
            self.draining = None;
            return;
        };
        let waits = self.control.clients.iter();
        let waits = waits.filter(|(_, client)| client.awaits_end);
        let waits: Vec<Key> = waits.map(|(key, _)| key).collect();
        if waits.is_empty() {
            self.draining = None;
            return;
        }
        let connections = self.count_connections();
        let now_ms = self.now_ms;
        let progress = self.draining.get_or_insert_with(|| Progress::new(now_ms));
        if progress.is_due(connections, now_ms) {
            for client in waits {
                self.tell_progress(client, connections, until_ms.saturating_sub(now_ms));
                self.push_out(client, false);
            }
        }
    }

    /// As the workers say: a number to be shown, no more.
    fn count_connections(&self) -> u64 {
        let counts = self.workers.rows();
        let counts = counts.map(|row| self.board.get(row, Cell::Connections));
        counts.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_has_changed_or_after_a_while() {
        let mut progress = Progress::new(100);
        assert!(!progress.is_due(5, 100 + PROGRESS_MS - 1));
        assert!(progress.is_due(5, 100 + PROGRESS_MS));
        assert!(!progress.is_due(4, 200 + PROGRESS_MS));
        assert!(!progress.is_due(5, 100 + 2 * PROGRESS_MS));
        assert!(progress.is_due(4, 100 + 3 * PROGRESS_MS));
        assert!(!progress.is_due(4, 100 + 4 * PROGRESS_MS));
        assert!(progress.is_due(4, 100 + 3 * PROGRESS_MS + PROGRESS_IDLE_MS));
        assert_eq!(
            line(12, 49_001),
            "progress connections=12 seconds_left=50\n"
        );
    }
}
