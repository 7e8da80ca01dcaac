//! An upgrade that has failed: every place gets a worker of our own program again.
//!
//! One after another, as on the way there, so that nothing is lost on the way back
//! either. Only then is the caller told which step has failed, and why.

use crate::proto::reply;
use crate::state::{Code, Refused};
use crate::supervisor::upgrade::{Replacing, Step};
use crate::supervisor::workers::{Life, Process};
use crate::supervisor::Supervisor;

pub struct Undoing {
    /// The step and the reason.
    failure: String,
    pub now: Option<Replacing>,
    /// Places that could not be given back.
    kept: Vec<String>,
}

impl Supervisor {
    /// `what` follows the new program as its subject, or stands for itself.
    pub(super) fn upgrade_fails(&mut self, step: &str, what: String) {
        log::error!("upgrade: {step}: {what}; going back");
        self.call_canary_back();
        self.go_to(Step::Undoing(Undoing {
            failure: format!("upgrade: {step}: {what}"),
            now: None,
            kept: Vec::new(),
        }));
        self.listen_again();
    }

    /// A canary whose old worker is still there hands back what it has, and goes.
    fn call_canary_back(&mut self) {
        let Some(Step::Canary(canary)) = self.upgrade.as_ref().map(|it| &it.step) else {
            return;
        };
        let (id, new, old) = (canary.id, canary.new, canary.old);
        let is_there = |key| self.workers.processes.get(key).is_some();
        let Some(old) = old.filter(|old| is_there(*old)) else {
            return;
        };
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.moved.remove(&id);
        }
        if is_there_accepting(self, new) {
            self.succeed(id, old, Some(new));
        }
    }

    /// Control clients are heard again.
    pub(super) fn listen_again(&mut self) {
        for client in self.control.clients.keys() {
            self.serve_client(client, false);
        }
    }

    pub(super) fn look_at_undoing(&mut self) -> bool {
        let Some(Step::Undoing(undoing)) = self.upgrade.as_mut().map(|it| &mut it.step) else {
            return false;
        };
        match undoing.now.as_ref().map(|now| (now.id, now.new)) {
            Some((id, new)) => match self.fares(new) {
                None => return false,
                Some(Ok(())) => self.undone(None),
                Some(Err(what)) => self.undone(Some(format!("worker {id}: {what}"))),
            },
            None => return self.undo_next(),
        }
        true
    }

    /// One place is done with.
    fn undone(&mut self, kept: Option<String>) {
        if let Some(Step::Undoing(undoing)) = self.upgrade.as_mut().map(|it| &mut it.step) {
            undoing.now = None;
            undoing.kept.extend(kept);
        }
    }

    fn undo_next(&mut self) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        let Some(id) = upgrade.moved.pop_first() else {
            self.give_answer();
            return false;
        };
        // A place that is no more, or whose new worker never came, is as it was.
        let processes = self.workers.processes.iter();
        let is_newer = |process: &Process| {
            let retires = matches!(process.life, Life::Retiring { .. });
            process.id == id && process.newer && !retires
        };
        let newer = processes.filter(|(_, process)| is_newer(process)).count();
        if id >= self.workers.places.len() || newer == 0 {
            return true;
        }
        self.tell_step("undoing", &[("id", id.to_string())]);
        match self.replace_worker(id, false) {
            Ok(now) => {
                if let Some(Step::Undoing(undoing)) = self.upgrade.as_mut().map(|it| &mut it.step) {
                    undoing.now = Some(now);
                }
            }
            Err(what) => self.undone(Some(format!("worker {id}: {what}"))),
        }
        true
    }

    fn give_answer(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let Step::Undoing(undoing) = upgrade.step else {
            return;
        };
        let Undoing {
            mut failure, kept, ..
        } = undoing;
        let version = crate::version::version();
        match kept.is_empty() {
            true => failure += &format!("; everything runs {version} as before"),
            false => {
                failure += &format!(
                    "; main runs {version} as before, and not everything could be undone: {}",
                    kept.join("; ")
                );
            }
        }
        log::error!("{failure}");
        self.tell_event("upgrade_failed", &[("why", failure.clone())]);
        if let Some(client) = upgrade.client {
            let refused = Refused::new(Code::Failed, failure);
            self.answer_late(client, &reply::error(&refused));
        }
    }
}

fn is_there_accepting(main: &Supervisor, key: crate::slab::Key) -> bool {
    let process = main.workers.processes.get(key);
    process.is_some_and(|process| process.life == Life::Accepting)
}
