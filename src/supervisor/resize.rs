//! More workers, or fewer, while it runs: what `worker_count` of the file became.
//!
//! New places are filled as one is whose worker died. A place that is given up
//! has its worker retire, and hand over to another one that stays.

use crate::net::board::Cell;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::losses::Losses;
use crate::supervisor::workers::{Life, Place};
use crate::supervisor::Supervisor;

/// What whoever asked for it waits for.
#[derive(Default)]
pub struct Resize {
    /// Places whose first worker does not accept yet.
    starting: Vec<usize>,
    /// Workers that have not handed over what they can.
    sweeping: Vec<Key>,
    /// What became of their connections.
    pub losses: Losses,
    warnings: String,
}

impl Resize {
    pub fn is_done(&self) -> bool {
        self.starting.is_empty() && self.sweeping.is_empty()
    }

    pub fn lines(&self) -> String {
        self.warnings.clone() + &self.losses.lines()
    }
}

impl Supervisor {
    /// As many places as the file asks for.
    pub(super) fn resize(&mut self, count: u32) -> Resize {
        let mut resize = Resize::default();
        if self.settings.worker_count == count {
            return resize;
        }
        log::info!(
            "worker_count: {count} instead of {}",
            self.settings.worker_count
        );
        self.settings.worker_count = count;
        let count = count as usize;
        for id in self.workers.places.len()..count {
            resize.starting.push(id);
            self.workers.places.push(Place::due(self.now_ms));
        }
        for place in self.workers.places.drain(count..).collect::<Vec<_>>() {
            if let Some(client) = place.asked_by {
                let what = "the worker is not to be replaced any more: there are fewer of them";
                self.answer_late(client, &reply::error(&Refused::new(Code::Failed, what)));
            }
        }
        for key in self.workers.processes.keys() {
            let Some(process) = self.workers.processes.get(key) else {
                continue;
            };
            match process.life {
                Life::Starting if process.id >= count => process.kill(),
                Life::Accepting if process.id >= count => {
                    self.retire(key);
                    resize.sweeping.push(key);
                }
                _ => {}
            }
        }
        self.find_heirs(count);
        resize
    }

    /// Who retires and would hand over to a place that is no more hands over to another one.
    fn find_heirs(&mut self, count: usize) {
        for key in self.workers.processes.keys() {
            let heir = self.least_loaded();
            let place = heir.and_then(|heir| Some(self.workers.processes.get(heir)?.id));
            let process = self.workers.processes.get_mut(key);
            let Some(process) = process.filter(|process| process.heirs >= count) else {
                continue;
            };
            // Where nobody accepts it is the first who will.
            process.heirs = place.unwrap_or(0);
            if let Some(heir) = heir {
                self.link(key, heir);
            }
        }
    }

    fn least_loaded(&self) -> Option<Key> {
        let all = self.workers.processes.iter();
        let accepting = all.filter(|(_, process)| process.life == Life::Accepting);
        accepting
            .min_by_key(|(_, process)| self.board.get(process.row, Cell::Connections))
            .map(|(key, _)| key)
    }

    fn resizing(&mut self) -> impl Iterator<Item = &mut Resize> {
        let pending = self.pending.iter_mut();
        pending.filter_map(|pending| pending.resize.as_mut())
    }

    /// A place has its worker.
    pub(super) fn place_is_filled(&mut self, id: usize) {
        for resize in self.resizing() {
            resize.starting.retain(|starting| *starting != id);
        }
    }

    /// The worker of a place has died before it accepted: it is tried again, and not waited for.
    pub(super) fn place_stays_empty(&mut self, id: usize, how: &str) {
        for resize in self.resizing() {
            if resize.starting.contains(&id) {
                resize.starting.retain(|starting| *starting != id);
                let text =
                    format!("worker {id} died before it accepted ({how}); it is tried again");
                resize.warnings += &reply::data("warning", &[("text", text)]);
            }
        }
    }

    /// A worker has handed over what it can, or has ended.
    pub(super) fn resized(&mut self, worker: Key, losses: &Losses) {
        for resize in self.resizing() {
            if resize.sweeping.contains(&worker) {
                resize.sweeping.retain(|sweeping| *sweeping != worker);
                resize.losses.add(losses);
            }
        }
    }
}
