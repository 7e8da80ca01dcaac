//! Changes of the state: all of a transaction, in every worker, or nothing.
//!
//! ```text
//!   check each on the state ──▶ bind what is new ──▶ hand to every worker ──▶ all have done it: ok
//!        │ one is refused            │ cannot bind              (a worker that dies meanwhile
//!        └──── undo ◀────────────────┘                           starts with the new state)
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::channel;
use crate::limits::STATE_OBJECTS_MAX;
use crate::net::ledger::Note;
use crate::proto::reply;
use crate::proto::update::Step;
use crate::slab::Key;
use crate::state::{Change, Code, Listener, Refused, State, Timeouts};
use crate::supervisor::resize::Resize;
use crate::supervisor::{cannot_listen, secure, series, Supervisor};

/// A transaction that workers have still to do.
pub struct Pending {
    revision: u64,
    /// Who asked for it.
    client: Option<Key>,
    /// Workers that have not said that they did.
    missing: Vec<Key>,
    /// Data lines, and what the last one says.
    lines: String,
    pairs: Vec<(&'static str, String)>,
    /// Workers come or go as well.
    pub resize: Option<Resize>,
}

impl Pending {
    fn is_settled(&self) -> bool {
        self.missing.is_empty() && self.resize.as_ref().is_none_or(Resize::is_done)
    }

    fn answer(mut self) -> String {
        if let Some(resize) = self.resize {
            self.lines += &resize.lines();
            self.pairs.extend(resize.losses.totals());
        }
        self.lines + &reply::ok(&self.pairs)
    }
}

/// A commit that will be undone.
#[derive(Clone)]
pub struct Trial {
    pub undo: Vec<Step>,
    pub until_ms: u64,
    pub seconds: u32,
}

/// What a client has asked for since its `begin`.
#[derive(Clone, Default)]
pub struct Transaction {
    pub steps: Vec<Step>,
    /// Bytes of their lines.
    pub bytes: usize,
    /// So many seconds the answer to commit waits for backends to become empty.
    pub wait: Option<u32>,
    /// A line that could not be taken: nothing of it will be done.
    pub spoilt: Option<Refused>,
}

/// How a transaction is to be done.
#[derive(Clone, Copy, Default)]
pub struct Terms {
    /// Only if this is the revision still.
    pub revision: Option<u64>,
    /// Undone after so many seconds, unless confirmed.
    pub confirm: Option<u32>,
    /// So many seconds the answer waits for backends to become empty.
    pub wait: Option<u32>,
}

/// What a transaction did, and what undoes it.
pub struct Done {
    pub changes: Vec<Change>,
    pub undo: Vec<Change>,
}

/// What was refused: the change, by its place, and why.
pub struct Obstacle {
    pub place: usize,
    pub refused: Refused,
}

impl Supervisor {
    /// Does all changes or none. The answer goes to the client once every worker has done them.
    pub(super) fn transact(
        &mut self,
        steps: &[Step],
        client: Option<Key>,
    ) -> Result<Done, Obstacle> {
        let done = try_all(&mut self.state, steps, &self.settings.timeouts)?;
        let tried = secure::try_changes(&done.changes);
        if let Err((place, refused)) = tried.and_then(|()| self.bear(&done)) {
            revert(&mut self.state, &done.undo);
            return Err(Obstacle { place, refused });
        }
        let opened = match self.open_sockets() {
            Ok(opened) => opened,
            Err((address, refused)) => {
                revert(&mut self.state, &done.undo);
                let place = place_of(&done.changes, address);
                return Err(Obstacle { place, refused });
            }
        };
        let state = &self.state;
        self.sockets
            .retain(|address, _| state.listener(*address).is_some_and(|l| l.enabled));
        self.names.follow(&done, self.now_ms);
        let served = self.served(&done);
        self.revision += 1;
        self.ledger.set_note(Note::Revision, self.revision);
        self.saver.note(self.now_ms);
        self.litter.add(steps.len(), self.now_ms);
        self.expiry.due_ms = self.now_ms;
        let warnings = self.warn_of(&done.changes);
        self.tell_keys(&done);
        self.tell_connector(&done);
        let missing = self.hand_out(&served, &opened);
        self.sockets.extend(opened);
        self.follow_sockets();
        let pairs = vec![
            ("revision", self.revision.to_string()),
            ("changes", done.changes.len().to_string()),
        ];
        self.pending.push(Pending {
            revision: self.revision,
            client,
            missing,
            lines: warnings,
            pairs,
            resize: None,
        });
        Ok(done)
    }

    /// Whether the state would take all of them.
    pub(super) fn would_do(&mut self, steps: &[Step]) -> bool {
        let tried = try_all(&mut self.state, steps, &self.settings.timeouts);
        tried.is_ok_and(|done| {
            revert(&mut self.state, &done.undo);
            true
        })
    }

    /// Names may stand for so much that workers would have too many backends.
    fn bear(&self, done: &Done) -> Result<(), (usize, Refused)> {
        let mut count = self.digest.backends as usize;
        for (place, pair) in done.changes.iter().zip(&done.undo).enumerate() {
            for (change, _) in self.state.served(pair.0, pair.1) {
                match change {
                    Change::BackendAdd(_) => count += 1,
                    Change::BackendRemove { .. } => count = count.saturating_sub(1),
                    _ => {}
                }
            }
            if count > STATE_OBJECTS_MAX {
                let what = format!("there would be more than {STATE_OBJECTS_MAX} backends, with all addresses of names");
                return Err((place, Refused::new(Code::Limit, what)));
            }
        }
        Ok(())
    }

    /// As workers are told it, each change with what undoes it.
    fn served(&self, done: &Done) -> Vec<(Change, Change)> {
        let pairs = done.changes.iter().zip(&done.undo);
        let served = pairs.flat_map(|(change, undo)| self.state.served(change, undo));
        served.collect()
    }

    /// The digest of the state is that of what it has become.
    fn follow(&mut self, served: &[(Change, Change)]) {
        for (change, undo) in served {
            self.digest.follow(change, undo);
        }
    }

    /// Names stand for other addresses: nothing that is configured has changed.
    pub(super) fn serve_otherwise(&mut self, served: Vec<(Change, Change)>) {
        self.hand_out(&served, &BTreeMap::new());
    }

    /// Binds what the state has and we have not; else the address, and why not.
    fn open_sockets(&self) -> Result<BTreeMap<SocketAddr, TcpListener>, (SocketAddr, Refused)> {
        let missing = |listener: &&Rc<Listener>| {
            listener.enabled && !self.sockets.contains_key(&listener.address)
        };
        let open = |listener: &Rc<Listener>| match self.given.listen(listener.address) {
            Ok(socket) => Ok((listener.address, socket)),
            Err(e) => {
                let what = cannot_listen(listener.address, &e);
                Err((listener.address, Refused::new(Code::Failed, what)))
            }
        };
        self.state.listeners().filter(missing).map(open).collect()
    }

    /// Returns the workers that were told.
    fn hand_out(
        &mut self,
        served: &[(Change, Change)],
        opened: &BTreeMap<SocketAddr, TcpListener>,
    ) -> Vec<Key> {
        self.follow(served);
        let revision = reply::data("commit", &[("revision", self.revision.to_string())]);
        let mut lines = Vec::with_capacity(served.len() + 1);
        for (change, _) in served {
            let series = self.roster.follow(change, &self.ledger);
            self.healths.follow(change);
            lines.push(series::told(series, change, !self.settings.key_process));
        }
        lines.push(revision.trim_end().to_string());
        let blocks = channel::blocks(lines.into_iter());
        let mut told = Vec::new();
        for (key, channel) in self.workers.channels() {
            for (address, socket) in opened {
                let line = reply::data("socket", &[("address", address.to_string())]);
                match socket.as_fd().try_clone_to_owned() {
                    Ok(fd) => channel.send_with(line.trim_end(), vec![fd]),
                    Err(e) => log::error!("a worker goes without {address}: {e}"),
                }
            }
            blocks.iter().for_each(|block| channel.send_block(block));
            // A failure means that it died, which SIGCHLD tells.
            let _ = channel.flush();
            told.push(key);
        }
        self.watch_blocked_workers();
        told
    }

    /// A worker has done everything up to a revision.
    pub(super) fn done(&mut self, worker: Key, revision: u64) {
        for pending in self
            .pending
            .iter_mut()
            .filter(|pending| pending.revision <= revision)
        {
            pending.missing.retain(|key| *key != worker);
        }
        self.settle_pending();
    }

    /// A worker will do nothing any more; its successor starts with all that was done.
    pub(super) fn gone(&mut self, worker: Key) {
        self.done(worker, u64::MAX);
    }

    /// Somebody may be answered: what was asked last was asked while others were answered.
    pub(super) fn has_settled(&self) -> bool {
        self.pending.iter().any(Pending::is_settled)
    }

    /// Answers whoever waits for what is done by now.
    pub(super) fn settle_pending(&mut self) {
        let all = std::mem::take(&mut self.pending);
        let (settled, left) = all.into_iter().partition(Pending::is_settled);
        self.pending = left;
        let settled: Vec<Pending> = settled;
        for pending in settled {
            if let Some(client) = pending.client {
                self.answer_late(client, &pending.answer());
            }
        }
    }

    /// Undoes a commit that nobody has confirmed in time.
    pub(super) fn look_at_trial(&mut self) {
        let Some(trial) = self.trial.take_if(|trial| trial.until_ms <= self.now_ms) else {
            return;
        };
        match self.transact(&trial.undo, None) {
            Ok(done) => {
                let revision = self.revision;
                log::warn!(
                    "not confirmed in {} s: undone, revision {revision}",
                    trial.seconds
                );
                self.tell_event("rollback", &[("revision", revision.to_string())]);
                self.audit("rollback", &done.changes);
            }
            Err(obstacle) => {
                let why = obstacle.refused.to_string();
                log::error!(
                    "not confirmed in {} s, and not undone: {why}",
                    trial.seconds
                );
                self.tell_event("rollback_failed", &[("why", why)]);
            }
        }
    }

    /// The end comes before the confirmation. Workers go on as they are; the state
    /// that is saved is the one before.
    pub(super) fn forget_trial(&mut self) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        match try_all(&mut self.state, &trial.undo, &self.settings.timeouts) {
            Ok(done) => {
                let served = self.served(&done);
                self.follow(&served);
                self.revision += 1;
                log::warn!("ending before the last commit was confirmed: it is not kept");
            }
            Err(obstacle) => log::error!("cannot be undone: {}", obstacle.refused),
        }
    }

    pub(super) fn try_out(&mut self, undo: Vec<Change>, seconds: u32) {
        let undo = undo.into_iter().rev().map(Step::Do).collect();
        let until_ms = self.now_ms + u64::from(seconds) * 1000;
        self.trial = Some(Trial {
            undo,
            until_ms,
            seconds,
        });
    }
}

/// Applies all or none.
fn try_all(state: &mut State, steps: &[Step], defaults: &Timeouts) -> Result<Done, Obstacle> {
    let mut done = Done {
        changes: Vec::with_capacity(steps.len()),
        undo: Vec::new(),
    };
    for (place, step) in steps.iter().enumerate() {
        let change = step.on(state, defaults);
        let change = change.and_then(|change| secure::is_whole(&change).map(|()| change));
        match change.and_then(|change| Ok((state.apply(&change)?, change))) {
            Ok((inverse, change)) => {
                done.undo.push(inverse);
                done.changes.push(change);
            }
            Err(refused) => {
                revert(state, &done.undo);
                return Err(Obstacle { place, refused });
            }
        }
    }
    Ok(done)
}

/// The change that made a listener what it is.
fn place_of(changes: &[Change], listener: SocketAddr) -> usize {
    let made = |change: &Change| match change {
        Change::ListenerAdd(made) | Change::ListenerUpdate(made) => made.address == listener,
        _ => false,
    };
    changes.iter().rposition(made).unwrap_or(0)
}

fn revert(state: &mut State, undo: &[Change]) {
    for change in undo.iter().rev() {
        // What was just done can be undone: `state` has a test for that.
        if let Err(refused) = state.apply(change) {
            log::error!("cannot be undone: {refused}");
        }
    }
}
