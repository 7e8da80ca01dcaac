//! `upgrade`: another program in the place of this one.
//!
//! **Workers first, main last.** Whatever can fail is tried while the old main
//! can still undo it; only the exec itself cannot be undone, and by then the very
//! bytes that the new main will read have been read by it, in a rehearsal.
//!
//! ```text
//!   rehearsal ──▶ worker 0 (as a canary for a while) ──▶ worker 1 ──▶ … ──▶ settling ──▶ rehearsal ──▶ exec
//!       │             │                                     │             of the last bytes ─┘   │
//!       └─────────────┴──── fails: undoing (`undoing.rs`) ◀──┴──────────────────────────────────┘
//! ```
//! *Settling*: nothing new is read from control clients, and what is half-way (a
//! transaction, an order, a worker that starts) comes to its end. What cannot
//! come to an end soon (`wait=`, a client that does not read) goes along.
//!
//! Changes work until then, with workers of both programs. `shutdown` ends an
//! upgrade; a second one, and `worker restart`, are refused.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::limits::WORKERS_MAX;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::canary::Canary;
use crate::supervisor::handover::Task;
use crate::supervisor::losses::Losses;
use crate::supervisor::program::Program;
use crate::supervisor::rehearsal::Rehearsal;
use crate::supervisor::undoing::Undoing;
use crate::supervisor::workers::Life;
use crate::supervisor::{Stage, Supervisor};
use crate::sys::exec;
use crate::sys::process;

pub struct Upgrade {
    pub program: Program,
    /// What the new program calls itself, once it has said that.
    version: String,
    pub who: String,
    /// Who waits for the answer.
    pub client: Option<Key>,
    /// The first worker is still to be looked at for so long.
    canary: Option<u32>,
    begun_ms: u64,
    pub step: Step,
    /// Places whose worker runs the new program, or is about to.
    pub moved: BTreeSet<usize>,
    /// Old workers that have not handed over what they can.
    sweeping: Vec<Key>,
    pub losses: Losses,
    /// How the new worker of this step died.
    death: Option<String>,
}

pub enum Step {
    Rehearsal(Rehearsal),
    Worker(Replacing),
    Canary(Canary),
    /// Nothing may be half-way; by what was rehearsed it is seen that nothing has changed since.
    Settling {
        until_ms: u64,
        rehearsed: Option<String>,
    },
    LastRehearsal {
        until_ms: u64,
        rehearsal: Rehearsal,
        text: String,
    },
    Undoing(Undoing),
}

/// A worker on its way.
pub struct Replacing {
    pub id: usize,
    pub new: Key,
    pub old: Option<Key>,
    /// Until then the old one may hand over, once the new one accepts.
    pub until_ms: u64,
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Step::Rehearsal(_) => "rehearsal",
            Step::Worker(_) => "worker",
            Step::Canary(_) => "canary",
            Step::Settling { .. } | Step::LastRehearsal { .. } => "main",
            Step::Undoing(_) => "undoing",
        }
    }

    fn new_worker(&self) -> Option<Key> {
        match self {
            Step::Worker(replacing) => Some(replacing.new),
            Step::Canary(canary) => Some(canary.new),
            Step::Undoing(undoing) => undoing.now.as_ref().map(|now| now.new),
            _ => None,
        }
    }
}

impl Upgrade {
    pub fn rehearsal(&mut self) -> Option<&mut Rehearsal> {
        match &mut self.step {
            Step::Rehearsal(rehearsal) | Step::LastRehearsal { rehearsal, .. } => Some(rehearsal),
            _ => None,
        }
    }

    /// When to look at it again; workers and rehearsals wake main by themselves.
    pub fn due_ms(&self) -> Option<u64> {
        match &self.step {
            Step::Rehearsal(rehearsal) => Some(rehearsal.due_ms()),
            Step::LastRehearsal { rehearsal, .. } => Some(rehearsal.due_ms()),
            Step::Worker(Replacing { until_ms, .. }) => Some(*until_ms),
            Step::Canary(canary) => Some(canary.until_ms),
            Step::Settling { until_ms, .. } => Some(*until_ms),
            Step::Undoing(_) => None,
        }
    }

    /// The data line of `status`.
    pub fn line(&self) -> String {
        let mut pairs = vec![
            ("step", self.step.name().to_string()),
            ("binary", self.program.path.display().to_string()),
        ];
        if !self.version.is_empty() {
            pairs.push(("version", self.version.clone()));
        }
        reply::data("upgrade", &pairs)
    }
}

/// The answer to whoever has asked, of the new program.
pub fn answer(losses: &Losses, mut pairs: Vec<(&'static str, String)>) -> String {
    pairs.extend(losses.totals());
    losses.lines() + &reply::ok(&pairs)
}

// ---- asked for ----------------------------------------------------------

impl Supervisor {
    pub(super) fn upgrade_for(
        &mut self,
        key: Key,
        binary: Option<String>,
        canary: Option<u32>,
    ) -> Result<String, Refused> {
        let client = self.client(key)?;
        if client.transaction.is_some() {
            let what = "upgrade is no part of a transaction: commit or abort it first";
            return Err(Refused::new(Code::InUse, what));
        }
        let (who, uid) = (client.who.clone(), client.uid);
        // Who may steer sozu may not by that become the user that runs it.
        let own = process::own_uid();
        let owners = (uid != 0 && uid != own).then_some([0, own]);
        let binary = binary.map(PathBuf::from);
        self.begin_upgrade(
            binary.as_deref(),
            canary,
            Some(key),
            who,
            owners.as_ref().map(|owners| &owners[..]),
        )?;
        // It may have failed by now.
        Ok(String::new())
    }

    pub(super) fn upgrade_by_signal(&mut self, sender: u32) {
        let who = format!("SIGUSR2 of process {sender}");
        if let Err(refused) = self.begin_upgrade(None, None, None, who, None) {
            log::error!("not upgraded: {refused}");
        }
    }

    fn begin_upgrade(
        &mut self,
        binary: Option<&Path>,
        canary: Option<u32>,
        client: Option<Key>,
        who: String,
        owners: Option<&[u32]>,
    ) -> Result<(), Refused> {
        if self.upgrade.is_some() {
            let what = "an upgrade is under way: see status";
            return Err(Refused::new(Code::InUse, what));
        }
        if self.stage != Stage::Serving {
            let what = "the proxy does not serve: it starts or ends";
            return Err(Refused::new(Code::Failed, what));
        }
        if self.workers.processes.len() + self.workers.places.len() > WORKERS_MAX {
            let what =
                "too many old workers have connections still: see workers, and connections kill";
            return Err(Refused::new(Code::Limit, what));
        }
        if self.workers.places.iter().any(|it| it.asked_by.is_some()) {
            let what = "a worker is about to be replaced: try again when it is";
            return Err(Refused::new(Code::InUse, what));
        }
        let failed = |what: String| {
            Refused::new(
                Code::Failed,
                format!("upgrade: {what}; nothing has changed"),
            )
        };
        let path = binary.unwrap_or(&self.program).to_owned();
        let shown = path.display();
        let program = Program::open(&path, owners).map_err(failed)?;
        log::warn!("upgrade to {shown}, by {who}");
        let task = self.task(&program.path, who.clone(), None, Losses::default());
        let text = self.hand_over(task).encode();
        let rehearsal = exec::sealed(text.as_bytes()).map_err(|e| e.to_string());
        let rehearsal = rehearsal.and_then(|text| self.begin_rehearsal(&program, &text));
        let rehearsal = rehearsal
            .map_err(|what| format!("the rehearsal of {shown}: {what}"))
            .map_err(failed)?;
        self.upgrade = Some(Upgrade {
            program,
            version: String::new(),
            who,
            client,
            canary,
            begun_ms: self.now_ms,
            step: Step::Rehearsal(rehearsal),
            moved: BTreeSet::new(),
            sweeping: Vec::new(),
            losses: Losses::default(),
            death: None,
        });
        if let Some(client) = client {
            self.client(client)?.waiting = true;
        }
        self.tell_step("rehearsal", &[]);
        Ok(())
    }

    pub(super) fn task(
        &self,
        program: &Path,
        who: String,
        client: Option<Key>,
        losses: Losses,
    ) -> Task {
        let client = client.and_then(|key| self.control.clients.get(key));
        Task {
            program: program.to_owned(),
            who,
            client: client.map(|client| client.stream.as_raw_fd()),
            begun_ms: self.upgrade.as_ref().map_or(0, |it| it.begun_ms),
            losses,
        }
    }

    /// The log hears of each step, and whoever waits.
    pub(super) fn tell_step(&mut self, step: &str, pairs: &[(&str, String)]) {
        let mut all = vec![("step", step.to_string())];
        all.extend_from_slice(pairs);
        let line = reply::data("progress", &all);
        log::info!("upgrade: {}", line.trim_end());
        self.tell_upgrader(&line);
    }

    pub(super) fn tell_upgrader(&mut self, line: &str) {
        let key = self.upgrade.as_ref().and_then(|upgrade| upgrade.client);
        let Some(key) = key else {
            return;
        };
        if let Some(client) = self.control.clients.get_mut(key) {
            client.outbox.push(line);
            self.push_out(key, false);
        }
    }

    // ---- what others ask ----------------------------------------------------

    /// A new worker of that place runs the other program.
    pub(super) fn takes_newer(&self, id: usize) -> bool {
        let upgrade = self.upgrade.as_ref();
        upgrade.is_some_and(|upgrade| upgrade.moved.contains(&id))
    }

    /// The program that a new worker of a place runs.
    pub(super) fn program_of(&self, id: usize) -> PathBuf {
        match &self.upgrade {
            Some(upgrade) if self.takes_newer(id) => upgrade.program.running(),
            _ => process::OWN_PROGRAM.into(),
        }
    }

    /// It accepts beside the old one.
    pub(super) fn is_canary(&self, key: Key) -> bool {
        self.upgrade.as_ref().is_some_and(|it| match &it.step {
            Step::Worker(replacing) => it.canary.is_some() && replacing.new == key,
            _ => false,
        })
    }

    /// Nothing new is begun: main is about to hand over.
    pub(super) fn is_settling(&self) -> bool {
        let step = self.upgrade.as_ref().map(|upgrade| &upgrade.step);
        matches!(
            step,
            Some(Step::Settling { .. } | Step::LastRehearsal { .. })
        )
    }

    /// An old worker has handed over what it can.
    pub(super) fn upgrade_swept(&mut self, worker: Key, losses: &Losses) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        if upgrade.sweeping.contains(&worker) {
            upgrade.sweeping.retain(|key| *key != worker);
            upgrade.losses.add(losses);
        }
    }

    pub(super) fn upgrade_lost(&mut self, worker: Key, how: &str, losses: &Losses) {
        self.upgrade_swept(worker, losses);
        if let Some(upgrade) = self.upgrade.as_mut() {
            if upgrade.step.new_worker() == Some(worker) {
                upgrade.death = Some(how.to_string());
            }
        }
    }

    /// The end comes before it: nothing is undone, since nobody serves any more.
    pub(super) fn give_upgrade_up(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        log::warn!("the upgrade is given up: the proxy ends");
        let client = upgrade.client;
        self.put_away(upgrade.step);
        let what = "upgrade: given up, the proxy ends";
        let answer = reply::error(&Refused::new(Code::Failed, what));
        if let Some(client) = client {
            self.answer_late(client, &answer);
        }
        self.listen_again();
    }

    // ---- step by step -------------------------------------------------------

    pub(super) fn look_at_upgrade(&mut self) {
        while self.upgrade.is_some() && self.next_step() {}
    }

    /// False: something has to happen first.
    fn next_step(&mut self) -> bool {
        let now_ms = self.now_ms;
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        match &mut upgrade.step {
            Step::Rehearsal(rehearsal) => match rehearsal.outcome(now_ms) {
                None => return false,
                Some(Ok(version)) => {
                    upgrade.version = version.clone();
                    self.tell_step("rehearsed", &[("version", version)]);
                    self.replace_next();
                }
                Some(Err(what)) => self.upgrade_fails("rehearsal", what),
            },
            Step::Worker(_) => return self.look_at_replacing(),
            Step::Canary(_) => return self.look_at_canary(),
            Step::Settling { .. } => return self.look_at_settling(),
            Step::LastRehearsal { .. } => return self.look_at_last_rehearsal(),
            Step::Undoing(_) => return self.look_at_undoing(),
        }
        true
    }

    /// Takes the next step, and leaves the one before tidily.
    pub(super) fn go_to(&mut self, step: Step) {
        if let Some(upgrade) = &mut self.upgrade {
            let before = std::mem::replace(&mut upgrade.step, step);
            self.put_away(before);
        }
    }

    fn put_away(&mut self, step: Step) {
        if let Step::Rehearsal(rehearsal) | Step::LastRehearsal { rehearsal, .. } = step {
            self.dying.extend(rehearsal.end());
        }
    }

    /// The next place gets a worker of the new program; when all have one, it is main's turn.
    fn replace_next(&mut self) {
        let Some(upgrade) = &self.upgrade else {
            return;
        };
        let left = |id: &usize| !upgrade.moved.contains(id);
        let Some(id) = (0..self.workers.places.len()).find(left) else {
            self.tell_step("main", &[]);
            let until_ms = self.now_ms + 2 * u64::from(self.settings.worker_timeout) * 1000;
            return self.go_to(Step::Settling {
                until_ms,
                rehearsed: None,
            });
        };
        match self.replace_worker(id, true) {
            Ok(replacing) => {
                self.tell_step("worker", &[("id", id.to_string())]);
                self.go_to(Step::Worker(replacing));
            }
            Err(what) => self.upgrade_fails(&format!("worker {id}"), what),
        }
    }

    /// Starts a worker of the new program, or of ours.
    pub(super) fn replace_worker(&mut self, id: usize, moves: bool) -> Result<Replacing, String> {
        let old = self.workers.with_life(id, Life::Accepting);
        // One that is still on its way would come later, and take over from this one.
        if let Some(other) = self.workers.with_life(id, Life::Starting) {
            if let Some(process) = self.workers.processes.get(other) {
                process.kill();
            }
        }
        let state = self.state_blocks();
        if let Some(upgrade) = &mut self.upgrade {
            match moves {
                true => upgrade.moved.insert(id),
                false => upgrade.moved.remove(&id),
            };
        }
        let until_ms = self.now_ms + 2 * u64::from(self.settings.worker_timeout) * 1000;
        let new = self.spawn(id, &state);
        let new = new.map_err(|e| format!("cannot start a worker: {e}"))?;
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.sweeping.extend(old);
        }
        Ok(Replacing {
            id,
            new,
            old,
            until_ms,
        })
    }

    /// How the new worker of a step fares: `None`: it does not accept yet.
    pub(super) fn fares(&mut self, new: Key) -> Option<Result<(), String>> {
        if let Some(process) = self.workers.processes.get(new) {
            return (process.life != Life::Starting).then_some(Ok(()));
        }
        let death = self.upgrade.as_mut().and_then(|it| it.death.take());
        let how = death.unwrap_or_else(|| "it is not known how".into());
        Some(Err(format!("the new worker died ({how})")))
    }

    fn look_at_replacing(&mut self) -> bool {
        let Some(Step::Worker(replacing)) = self.upgrade.as_ref().map(|it| &it.step) else {
            return false;
        };
        let (id, new, old) = (replacing.id, replacing.new, replacing.old);
        let late = replacing.until_ms <= self.now_ms;
        match self.fares(new) {
            None => return false,
            // There are fewer places than there were.
            Some(Err(_)) if id >= self.workers.places.len() => self.replace_next(),
            Some(Err(what)) => self.upgrade_fails(&format!("worker {id}"), what),
            Some(Ok(())) => {
                let Some(upgrade) = &mut self.upgrade else {
                    return false;
                };
                if let Some(seconds) = upgrade.canary.take() {
                    let canary = self.begin_canary(id, new, old, seconds);
                    self.tell_step("canary", &[("seconds", seconds.to_string())]);
                    self.go_to(Step::Canary(canary));
                } else if upgrade.sweeping.is_empty() || late {
                    upgrade.sweeping.clear();
                    self.replace_next();
                } else {
                    return false;
                }
            }
        }
        true
    }

    fn look_at_canary(&mut self) -> bool {
        let Some(Step::Canary(canary)) = self.upgrade.as_ref().map(|it| &it.step) else {
            return false;
        };
        let (id, new, old) = (canary.id, canary.new, canary.old);
        let over = canary.until_ms <= self.now_ms;
        if self.workers.processes.get(new).is_none() {
            let (line, _) = self.judge(canary);
            let died = self.fares(new).and_then(Result::err);
            self.tell_upgrader(&line);
            self.upgrade_fails("canary", died.unwrap_or_default());
            return true;
        }
        if !over {
            return false;
        }
        let (line, verdict) = self.judge(canary);
        log::info!("upgrade: {}", line.trim_end());
        self.tell_upgrader(&line);
        match verdict {
            Ok(()) => {
                let old = old.filter(|old| self.workers.processes.get(*old).is_some());
                self.succeed(id, new, old);
                let until_ms = self.now_ms + u64::from(self.settings.worker_timeout) * 1000;
                self.go_to(Step::Worker(Replacing {
                    id,
                    new,
                    old,
                    until_ms,
                }));
            }
            Err(what) => self.upgrade_fails("canary", what.to_string()),
        }
        true
    }
}
