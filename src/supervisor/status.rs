//! What main and the workers do now: `status`, `workers`, `state stats`.

use crate::net::board::Cell;
use crate::proto::reply;
use crate::supervisor::losses::Losses;
use crate::supervisor::upgrade::Upgrade;
use crate::supervisor::workers::{Life, Place, Process};
use crate::supervisor::{Stage, Supervisor};
use crate::version::version;

impl Supervisor {
    pub(super) fn stats(&self) -> String {
        let mut pairs = vec![("revision", self.revision.to_string())];
        pairs.extend(self.digest.counts());
        reply::ok(&pairs)
    }

    pub(super) fn status(&self) -> String {
        let stage = match self.stage {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Draining { .. } => "draining",
            Stage::Stopping { .. } => "stopping",
        };
        let mut pairs = vec![
            ("version", version().to_string()),
            ("pid", std::process::id().to_string()),
            ("state", stage.to_string()),
            (
                "uptime_s",
                (self.now_ms.saturating_sub(self.started_ms) / 1000).to_string(),
            ),
            ("revision", self.revision.to_string()),
            ("max_connections", self.max_connections.to_string()),
        ];
        pairs.extend(self.digest.counts());
        let [held, missing] = self.sandbox.parts();
        pairs.extend([("sandbox", held), ("sandbox_missing", missing)]);
        pairs.push(("saved", self.saver.is_saved().to_string()));
        let main = reply::data("main", &pairs);
        let upgrade = self.upgrade.as_ref().map(Upgrade::line);
        let main = main + &upgrade.unwrap_or_default();
        main + &self.keys_line()
            + &self.names.status_line(self.now_ms)
            + &self.worker_lines()
            + &self.pauses.lines(self.now_ms)
            + &self.healths.panic_lines()
            + &self.challenge_lines()
            + &self.expiry_lines()
    }

    /// The data lines of `status` and `workers`.
    pub(super) fn worker_lines(&self) -> String {
        let waiting = |id: &usize| self.workers.places[*id].due_ms.is_some();
        let missing = (0..self.workers.places.len()).filter(waiting).map(|id| {
            let pairs = [
                ("id", id.to_string()),
                ("pid", "0".into()),
                ("state", "waiting".into()),
            ];
            reply::data("worker", &pairs)
        });
        let mut processes: Vec<&Process> = self
            .workers
            .processes
            .iter()
            .map(|(_, process)| process)
            .collect();
        processes.sort_by_key(|process| (process.id, process.started_ms));
        let lines = processes
            .into_iter()
            .map(|process| self.worker_line(process));
        lines.chain(missing).collect()
    }

    fn worker_line(&self, process: &Process) -> String {
        let count = |cell| self.board.get(process.row, cell).to_string();
        let state = match process.life {
            Life::Starting => "starting",
            Life::Accepting => "running",
            Life::Retiring { .. } => "retiring",
        };
        let uptime = self.now_ms.saturating_sub(process.started_ms) / 1000;
        let of_place = |number: fn(&Place) -> u64| {
            let place = self.workers.places.get(process.id);
            place.map_or(0, number).to_string()
        };
        let mut pairs = vec![
            ("id", process.id.to_string()),
            ("pid", process.child.id().to_string()),
            ("state", state.to_string()),
            ("uptime_s", uptime.to_string()),
            ("connections", count(Cell::Connections)),
            ("accepted", count(Cell::Accepted)),
            ("requests", count(Cell::Requests)),
            ("restarts", of_place(|place| place.restarts)),
            ("violations", of_place(|place| place.violations)),
            ("at_limit", count(Cell::AtLimit)),
            ("surplus", count(Cell::Surplus)),
            ("log_lost", count(Cell::LogLost)),
        ];
        pairs.extend(Losses::of(&self.board, process.row).draining());
        reply::data("worker", &pairs)
    }
}
