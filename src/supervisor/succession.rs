//! One worker after another: what a new one takes over from the old one of its place.
//!
//! ```text
//!   new accepts ──▶ both get an end of a socket ──▶ old hands over what rests, says `swept`
//!                                                   ──▶ drains, and hands over what comes to rest
//! ```
//! Whoever asked for it is answered when the old one has swept, or has died: with what
//! became of its connections so far.

use crate::limits::WORKERS_MAX;
use crate::net::board::Cell;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::losses::Losses;
use crate::supervisor::workers::{Life, Process};
use crate::supervisor::{Stage, Supervisor};
use crate::sys::passing;

impl Supervisor {
    /// A new process for a place; the old one retires once the new one accepts.
    pub(super) fn restart_worker(&mut self, id: usize, client: Key) -> Result<(), Refused> {
        if self.stage != Stage::Serving {
            // Nobody would tell the new one to end.
            let what = "the proxy does not serve: it starts or ends";
            return Err(Refused::new(Code::Failed, what));
        }
        // One row for each place stays free: who dies is replaced, however many old ones still drain.
        if self.workers.processes.len() + self.workers.places.len() >= WORKERS_MAX {
            let what =
                "too many old workers have connections still: see workers, and connections kill";
            return Err(Refused::new(Code::Limit, what));
        }
        let Some(place) = self.workers.places.get_mut(id) else {
            let what = format!("there is no worker {id}: see workers");
            return Err(Refused::new(Code::Missing, what));
        };
        if self.upgrade.is_some() {
            let what = "an upgrade is under way, which replaces every worker";
            return Err(Refused::new(Code::InUse, what));
        }
        if place.asked_by.is_some() {
            let what = format!("worker {id} is about to be replaced already");
            return Err(Refused::new(Code::InUse, what));
        }
        place.asked_by = Some(client);
        let state = self.state_blocks();
        let started = self.spawn(id, &state).map(drop);
        started.map_err(|e| {
            self.workers.places[id].asked_by = None;
            Refused::new(Code::Failed, format!("cannot start a worker: {e}"))
        })
    }

    /// A new worker accepts: the old one of its place takes nothing new from now on, and
    /// everyone who retires there hands over to the new one.
    pub(super) fn succeed(&mut self, id: usize, heir: Key, old: Option<Key>) {
        let now_ms = self.now_ms;
        let mut place = self.workers.places.get_mut(id);
        let client = place.as_mut().and_then(|place| place.asked_by.take());
        match old.and_then(|old| self.workers.processes.get_mut(old)) {
            Some(process) => {
                process.reports_to = client;
                if let Some(place) = place.filter(|_| !process.is_young(now_ms)) {
                    place.failures = 0;
                }
            }
            // The one that was to be replaced has died meanwhile.
            None => {
                if let Some(client) = client {
                    self.report(client, id, &Losses::default());
                }
            }
        }
        if let Some(old) = old {
            self.retire(old);
        }
        for old in self.workers.processes.keys() {
            let process = self.workers.processes.get(old);
            let retires = |p: &Process| p.heirs == id && matches!(p.life, Life::Retiring { .. });
            if process.is_some_and(|p| retires(p) && !p.closed) {
                self.link(old, heir);
            }
        }
    }

    /// It takes nothing new from now on; it is told so with the link to its heir.
    pub(super) fn retire(&mut self, key: Key) {
        let until_ms = self.now_ms + u64::from(self.settings.drain_timeout) * 1000;
        if let Some(process) = self.workers.processes.get_mut(key) {
            process.life = Life::Retiring { until_ms };
            self.board.set(process.row, Cell::Alive, 0);
        }
    }

    /// Gives each of the two an end of a socket by which connections go from one to the other.
    pub(super) fn link(&mut self, old: Key, heir: Key) {
        let ends = passing::pair();
        let ends = ends.inspect_err(|e| log::error!("connections cannot move: {e}"));
        let row = self.workers.processes.get(heir).map(|heir| heir.row);
        let (from, to) = ends.ok().unzip();
        for (key, line, end) in [
            (heir, "inherit".to_string(), to),
            (old, format!("retire row={}", row.unwrap_or(0)), from),
        ] {
            let Some(process) = self.workers.processes.get_mut(key) else {
                continue;
            };
            if key == old {
                self.board.set(process.row, Cell::Alive, 0);
            }
            match end {
                Some(end) => process.say_with(&line, vec![end]),
                None if key == old => process.say("retire"),
                None => {}
            }
        }
        self.watch_blocked_workers();
    }

    /// It has handed over what it can: who waits for that hears how it went.
    pub(super) fn swept(&mut self, key: Key) {
        let Some(process) = self.workers.processes.get_mut(key) else {
            return;
        };
        let (id, row) = (process.id, process.row);
        let client = process.reports_to.take();
        let losses = Losses::of(&self.board, row);
        self.resized(key, &losses);
        self.upgrade_swept(key, &losses);
        if let Some(client) = client {
            self.report(client, id, &losses);
        }
    }

    /// How the replacement of a worker went.
    pub(super) fn report(&mut self, client: Key, id: usize, losses: &Losses) {
        let heir = self.workers.with_life(id, Life::Accepting);
        let heir = heir.and_then(|heir| self.workers.processes.get(heir));
        let mut pairs = vec![("id", id.to_string())];
        pairs.extend(heir.map(|heir| ("pid", heir.child.id().to_string())));
        pairs.extend(losses.totals());
        self.answer_late(client, &(losses.lines() + &reply::ok(&pairs)));
    }
}
