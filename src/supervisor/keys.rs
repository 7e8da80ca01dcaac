//! The key process, as main sees it: started before the workers, told of keys and of desks, replaced.
//!
//! ```text
//!   main ──channel── key process ══desk══ worker 0        a desk: a pair of sockets, one message each way
//!     │                    ╚═════desk══ worker 1        for a signature; its end here is in main as well
//!     └─── certificates without keys ──▶ workers
//! ```
//! A key is told before the certificate is, and forgotten a while after no certificate has it any more. One
//! that dies is replaced at once, or after a pause if its successors die young: the next one gets the same desks,
//! hence the questions that nobody has answered. After an upgrade there are new desks for all; the
//! process of the program before serves the old ones until workers have left them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::channel::Channel;
use crate::keys::{self, cell, Cell};
use crate::limits::{KEY_KEPT_MS, SIGNATURE_DOUBTED_MS};
use crate::net::token::Kind;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Certificate, Change, OwnCertificate, Secret, State};
use crate::supervisor::apply::Done;
use crate::supervisor::servant::{Position, Post};
use crate::supervisor::workers::Life;
use crate::supervisor::{Stage, Supervisor, KEYS_ROLE};
use crate::sys::passing;
use crate::sys::process::{self, Child};
use crate::sys::shared::Shared;

static POSITION: Position = Position {
    called: "the key process",
    title: "sozu keys",
    role: KEYS_ROLE,
    kind: Kind::Keys,
};

/// One of a program before.
struct Former {
    child: Child,
    /// `None`: that program said nothing of it.
    page: Option<Shared>,
}

/// A key process as it is handed over: its pid, and where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysNote {
    pub pid: u32,
    pub page: Option<RawFd>,
}

/// What main has of it. Nothing, with `key_process = false`.
pub struct Keys {
    /// Who is ready has every key, and is in its sandbox.
    post: Post,
    /// What the one that serves counts and notes.
    page: Option<Shared>,
    /// Those of programs before this one: each signs on for the workers that it has, and ends behind
    /// the last one.
    former: Vec<Former>,
    /// They are killed then: no worker waits for one any more.
    former_until_ms: Option<u64>,
    /// By row of the board: the key process's end of each worker's desk.
    desks: BTreeMap<usize, OwnedFd>,
    /// Certificates that are not shown any more, and when their keys are forgotten.
    leaving: VecDeque<(u64, Rc<str>)>,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            post: Post::of(&POSITION),
            page: None,
            former: Vec::new(),
            former_until_ms: None,
            desks: BTreeMap::new(),
            leaving: VecDeque::new(),
        }
    }
}

impl Keys {
    /// A process is to be started then.
    pub fn due(now_ms: u64) -> Keys {
        let mut keys = Keys::default();
        keys.post.want(now_ms);
        keys
    }

    /// Whether signatures can be had.
    pub fn are_ready(&self) -> bool {
        self.post.is_ready()
    }

    pub fn pid(&self) -> Option<u32> {
        self.post.pid()
    }

    /// All that have not ended, with what they count.
    fn all(&self) -> impl Iterator<Item = (&Child, Option<&Shared>)> {
        let clerk = self.post.servant.iter();
        let clerk = clerk.map(|clerk| (&clerk.child, self.page.as_ref()));
        let former = self.former.iter();
        clerk.chain(former.map(|former| (&former.child, former.page.as_ref())))
    }

    /// Added up over them.
    pub(super) fn count(&self, which: Cell) -> u64 {
        let pages = self.all().filter_map(|(_, page)| page);
        let counts = pages.map(|page| cell(page, which).load(Relaxed));
        counts.fold(0, u64::wrapping_add)
    }

    pub fn notes(&self) -> Vec<KeysNote> {
        let note = |(child, page): (&Child, Option<&Shared>)| KeysNote {
            pid: child.id(),
            page: page.map(|page| page.as_fd().as_raw_fd()),
        };
        self.all().map(note).collect()
    }

    /// What the program before has left.
    pub fn took(&mut self, pid: u32, page: Option<Shared>) {
        let child = Child::known(pid);
        self.former.push(Former { child, page });
    }

    /// When to look after it again.
    pub fn due_ms(&self, worker_timeout: u32) -> Option<u64> {
        let patience_ms = u64::from(worker_timeout) * 1000;
        let leaving = self.leaving.front().map(|(due_ms, _)| *due_ms);
        [self.post.due_ms(patience_ms), leaving, self.former_until_ms]
            .into_iter()
            .flatten()
            .min()
    }

    /// Main itself did not run for so long.
    pub fn forgive(&mut self, late_ms: u64) {
        self.post.forgive(late_ms);
    }

    /// Certificates that left so long ago that nobody needs their keys. One that has come back since, and has left
    /// again, is not among them.
    fn long_gone(&mut self, now_ms: u64) -> Vec<Rc<str>> {
        let over = |(due_ms, _): &mut (u64, Rc<str>)| *due_ms <= now_ms;
        let mut gone = BTreeSet::new();
        while let Some((_, certificate)) = self.leaving.pop_front_if(over) {
            gone.insert(certificate);
        }
        for (_, certificate) in &self.leaving {
            gone.remove(certificate);
        }
        gone.into_iter().collect()
    }
}

/// The key of a certificate: what it is called, and the text.
fn key_of(fingerprint: &Rc<str>, key: Option<&Secret>) -> Option<(Rc<str>, Secret)> {
    Some((Rc::clone(fingerprint), key?.clone()))
}

fn key_of_shown(one: &Certificate) -> Option<(Rc<str>, Secret)> {
    key_of(one.fingerprint(), one.key.as_ref())
}

fn key_of_own(one: &OwnCertificate) -> Option<(Rc<str>, Secret)> {
    key_of(&one.facts.fingerprint, one.key.as_ref())
}

/// Those of all that is configured.
fn keys_of(state: &State) -> impl Iterator<Item = (Rc<str>, Secret)> + '_ {
    let shown = state.certificates().filter_map(|one| key_of_shown(one));
    let clusters = state.clusters();
    shown.chain(clusters.filter_map(|one| key_of_own(one.own_certificate()?)))
}

/// The key that comes with a change, or goes with what it undoes.
fn key_in(change: &Change) -> Option<(Rc<str>, Secret)> {
    let shown = change.certificate().and_then(|one| key_of_shown(one));
    shown.or_else(|| key_of_own(change.own_certificate()?.1))
}

fn key_line((certificate, key): &(Rc<str>, Secret)) -> String {
    let pairs = [
        ("certificate", certificate.to_string()),
        ("pem", key.0.to_string()),
    ];
    reply::data("key", &pairs).trim_end().to_string()
}

fn desk_line(row: usize) -> String {
    format!("desk row={row}")
}

/// The worker's end, on which a call blocks for so long at most, and the key process's.
fn desk() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = passing::pair()?;
    passing::refuse(&ours);
    let theirs = UnixDatagram::from(theirs);
    theirs.set_nonblocking(false)?;
    let blocks = Some(Duration::from_millis(SIGNATURE_DOUBTED_MS));
    theirs.set_read_timeout(blocks)?;
    theirs.set_write_timeout(blocks)?;
    Ok((theirs.into(), ours))
}

impl Supervisor {
    /// The first one: if it cannot be started, nothing is.
    pub(super) fn start_keys(&mut self) -> Result<(), String> {
        if !self.settings.key_process {
            return Ok(());
        }
        let started = self.spawn_keys();
        started.map_err(|e| format!("cannot start the key process from /proc/self/exe: {e}"))
    }

    fn spawn_keys(&mut self) -> io::Result<()> {
        let (mut channel, end) = Channel::pair()?;
        let boot = reply::data("keys", &[("level", self.settings.log_level.clone())]);
        let page = Shared::create(keys::CELLS)?;
        let its_page = page.as_fd().try_clone_to_owned()?;
        channel.send_with(boot.trim_end(), vec![its_page, self.logs.log()?]);
        let (order, root) = self.sandbox.order()?;
        channel.send_with(&order, root);
        channel.send("start");
        keys_of(&self.state).for_each(|key| channel.send(&key_line(&key)));
        for (row, end) in &self.keys.desks {
            channel.send_with(&desk_line(*row), vec![end.try_clone()?]);
        }
        channel.send("ready");
        let (outlets, now_ms) = (self.logs.outlets()?, self.now_ms);
        let post = &mut self.keys.post;
        post.fill(channel, end, outlets, &self.poll, now_ms)?;
        self.keys.page = Some(page);
        Ok(())
    }

    /// A new desk for the worker in a row: the end that it gets, if there is a key process.
    pub(super) fn open_desk(&mut self, row: usize) -> io::Result<Option<OwnedFd>> {
        if !self.settings.key_process {
            return Ok(None);
        }
        let (theirs, ours) = desk()?;
        self.keys.post.say(&desk_line(row), vec![ours.try_clone()?]);
        self.keys.post.watch(&self.poll);
        self.keys.desks.insert(row, ours);
        Ok(Some(theirs))
    }

    /// A worker that runs and has no desk of this main's gets one.
    pub(super) fn give_desk(&mut self, worker: Key) {
        let Some(row) = self.workers.processes.get(worker).map(|one| one.row) else {
            return;
        };
        match self.open_desk(row) {
            Ok(Some(desk)) => {
                if let Some(process) = self.workers.processes.get_mut(worker) {
                    process.say_with("desk", vec![desk]);
                }
                self.watch_blocked_workers();
            }
            Ok(None) => {}
            Err(e) => log::error!("a worker has no signatures: {e}"),
        }
    }

    /// Its worker is gone; the key process sees that by itself.
    pub(super) fn close_desk(&mut self, row: usize) {
        self.keys.desks.remove(&row);
    }

    /// Before workers are told of these changes.
    pub(super) fn tell_keys(&mut self, done: &Done) {
        if !self.settings.key_process {
            return;
        }
        for key in done.changes.iter().filter_map(key_in) {
            self.keys.post.say(&key_line(&key), Vec::new());
        }
        let due_ms = self.now_ms + KEY_KEPT_MS;
        for (certificate, _) in done.undo.iter().filter_map(key_in) {
            self.keys.leaving.push_back((due_ms, certificate));
        }
        self.keys.post.watch(&self.poll);
    }

    /// What all processes are told.
    pub(super) fn say_to_keys(&mut self, line: &str, fds: Vec<OwnedFd>) {
        self.keys.post.say(line, fds);
        self.keys.post.watch(&self.poll);
    }

    /// It has something to say, or takes more of what we say.
    pub(super) fn keys_ready(&mut self) {
        let lines = self.keys.post.hear(&self.poll, self.now_ms);
        if lines.iter().any(|line| line == "accepting") {
            self.keys_accept();
        }
    }

    fn keys_accept(&mut self) {
        let Some(clerk) = &mut self.keys.post.servant else {
            return;
        };
        clerk.ready = true;
        let pid = clerk.child.id();
        // Those of the program before have theirs still with the process before.
        let running = self.workers.processes.iter();
        let running = running.filter(|(_, one)| one.life == Life::Accepting && !one.closed);
        let without = running.filter(|(_, one)| !self.keys.desks.contains_key(&one.row));
        let without: Vec<Key> = without.map(|(key, _)| key).collect();
        without.into_iter().for_each(|key| self.give_desk(key));
        if !self.keys.former.is_empty() {
            self.keys.former_until_ms = Some(self.now_ms + KEY_KEPT_MS);
        }
        match self.stage {
            Stage::Starting => self.announce_if_ready(),
            _ => log::info!("the key process signs, pid {pid}"),
        }
    }

    fn reap_former_keys(&mut self) {
        for former in std::mem::take(&mut self.keys.former) {
            match former.child.try_wait() {
                Ok(None) => self.keys.former.push(former),
                ended => {
                    let how = ended.ok().flatten();
                    let how = how.map(|status| self.keys_death(former.page.as_ref(), status));
                    log::info!(
                        "the key process of the program before, pid {}, ended: {}",
                        former.child.id(),
                        how.unwrap_or_else(|| "nobody tells how".into())
                    );
                }
            }
        }
    }

    /// Whether it has died.
    pub(super) fn reap_keys(&mut self) {
        self.reap_former_keys();
        let Some((clerk, how)) = self.keys.post.reap() else {
            return;
        };
        let page = self.keys.page.take();
        let how = match how {
            Some(status) => self.keys_death(page.as_ref(), status),
            None => "nobody tells how".into(),
        };
        let pid = clerk.child.id();
        if self.no_worker_is_left() {
            return;
        }
        if self.stage == Stage::Starting {
            let what =
                format!("the key process died before it was ready ({how}); the log says why");
            self.failure = Some(what);
            return;
        }
        let pause_ms = self.keys.post.replace(&clerk, self.now_ms);
        self.counts.key_deaths += 1;
        log::error!("the key process, pid {pid}, died ({how}); a new one starts in {pause_ms} ms, handshakes wait for a moment");
        let pairs = [("pid", pid.to_string()), ("how", how)];
        self.tell_event("keys_died", &pairs);
    }

    /// How one died: of what its sandbox forbids, if that is so. What it has done is counted.
    fn keys_death(&mut self, page: Option<&Shared>, status: ExitStatus) -> String {
        self.counts.take(page);
        let number = page.map_or(0, |page| cell(page, Cell::Violation).load(Relaxed));
        match self.violation(number, Some(status)) {
            Some(call) => format!("{status}, its sandbox forbids {call}"),
            None => status.to_string(),
        }
    }

    /// Starts it when it is due, asks it when it is silent, kills it when it does not answer; lets keys go.
    pub(super) fn look_after_keys(&mut self) {
        if self.keys.post.is_due(self.now_ms) {
            if let Err(e) = self.spawn_keys() {
                self.keys.post.try_later(&e, self.now_ms);
            }
        }
        let patience_ms = u64::from(self.settings.worker_timeout) * 1000;
        let post = &mut self.keys.post;
        post.look_after(patience_ms, &self.poll, self.now_ms);
        self.end_former_keys();
        self.forget_keys();
    }

    /// Those of the programs before end by themselves when no worker has a desk there any more. One that does
    /// not, because it was stopped or taken over, is no use to anybody.
    fn end_former_keys(&mut self) {
        let over = |due_ms: &mut u64| *due_ms <= self.now_ms;
        if self.keys.former_until_ms.take_if(over).is_some() {
            for Former { child, .. } in &self.keys.former {
                log::warn!(
                    "the key process of the program before, pid {}, has not ended: killed",
                    child.id()
                );
                // That it is dead already is told by SIGCHLD.
                let _ = child.kill(process::SIGKILL);
            }
        }
    }

    fn forget_keys(&mut self) {
        let mut gone = self.keys.long_gone(self.now_ms);
        if gone.is_empty() {
            return;
        }
        // Another listener or cluster may have it, or it has come back.
        for (certificate, _) in keys_of(&self.state) {
            gone.retain(|gone| *gone != certificate);
        }
        for certificate in gone {
            self.say_to_keys(&format!("forget certificate={certificate}"), Vec::new());
        }
    }

    /// The end has come, and nobody needs a signature any more: it need not be asked.
    fn no_worker_is_left(&self) -> bool {
        let ends = matches!(self.stage, Stage::Draining { .. } | Stage::Stopping { .. });
        ends && self.workers.is_empty()
    }

    /// Behind the last worker it ends as well. Whether it has.
    pub(super) fn keys_have_ended(&mut self) -> bool {
        self.keys.post.want_nobody();
        let left: Vec<&Child> = self.keys.all().map(|(child, _)| child).collect();
        for child in &left {
            // That it is dead already is told by SIGCHLD.
            let _ = child.kill(process::SIGKILL);
        }
        left.is_empty()
    }

    /// The data line of `status`.
    pub(super) fn keys_line(&self) -> String {
        if !self.settings.key_process {
            return String::new();
        }
        let counts = self.counted();
        let pairs = [
            ("pid", self.keys.pid().unwrap_or(0).to_string()),
            ("state", self.keys.post.state().to_string()),
            ("uptime_s", self.keys.post.uptime_s(self.now_ms).to_string()),
            ("signatures", counts.signed.to_string()),
            ("refused", counts.refused.to_string()),
            ("restarts", counts.key_deaths.to_string()),
        ];
        reply::data("keys", &pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_behind_the_last_time_that_its_certificate_left() {
        let mut keys = Keys::default();
        for (due_ms, certificate) in [(10, "a"), (20, "b"), (30, "a"), (30, "c")] {
            keys.leaving.push_back((due_ms, certificate.into()));
        }
        for (now_ms, gone) in [
            (9, &[][..]),
            (10, &[]),
            (20, &["b"]),
            (30, &["a", "c"]),
            (99, &[]),
        ] {
            let found = keys.long_gone(now_ms);
            let found: Vec<&str> = found.iter().map(|it| &**it).collect();
            assert_eq!(found, gone, "{now_ms}");
        }
    }
}
