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
        if let Err((place, refused)) = secure::try_changes(&done.changes) {
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
        self.follow(&done);
        self.revision += 1;
        self.ledger.set_note(Note::Revision, self.revision);
        self.saver.note(self.now_ms);
        self.litter.add(steps.len(), self.now_ms);
        self.expiry.due_ms = self.now_ms;
        let warnings = self.warn_of(&done.changes);
        self.tell_keys(&done);
        let missing = self.hand_out(&done.changes, &opened);
        self.sockets.extend(opened);
        self.store.follow(&self.sockets, &self.given);
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

    /// The digest of the state is that of what it has become.
    fn follow(&mut self, done: &Done) {
        for (change, undo) in done.changes.iter().zip(&done.undo) {
            self.digest.follow(change, undo);
        }
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
        changes: &[Change],
        opened: &BTreeMap<SocketAddr, TcpListener>,
    ) -> Vec<Key> {
        let revision = reply::data("commit", &[("revision", self.revision.to_string())]);
        let mut lines = Vec::with_capacity(changes.len() + 1);
        for change in changes {
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
                self.follow(&done);
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
