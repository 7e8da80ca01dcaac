//! The workers: started, watched, replaced.
//!
//! A place is what the configuration asks for (worker 0, worker 1, …); a
//! process carries it. While one takes over from another, a place has two.
//!
//! ```text
//!   due ──▶ Starting ──accepting──▶ Accepting ──its successor accepts──▶ Retiring ──▶ gone
//!    ▲         │ death, or silence      │ death, or silence
//!    └─────────┴────────────────────────┘
//! ```
//! A dead worker is replaced at once, or after a pause that grows if its
//! successors die young one after another. One that answers no ping is killed, which its siblings
//! do not notice: they share the sockets. A retiring one takes no new
//! connections and ends when it has none left.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;

use crate::channel::{self, Block, Channel};
use crate::config::Settings;
use crate::limits::{BACKEND_NEWS_PER_SECOND_MAX, WORKERS_MAX};
use crate::net::board::Cell;
use crate::net::ledger::Note;
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::slab::{Key, Slab};
use crate::state::{Code, Refused};
pub use crate::supervisor::life::{Life, Process};
use crate::supervisor::losses::Losses;
use crate::supervisor::{notify, restarts, roots, series, Stage, Supervisor, WORKER_ROLE};
use crate::sys::epoll;
use crate::sys::process;

#[derive(Default)]
pub struct Place {
    /// A process is started then.
    pub(super) due_ms: Option<u64>,
    /// Deaths in youth, one after another.
    pub(super) failures: u32,
    pub(super) restarts: u64,
    /// Of those, how many did what the sandbox forbids.
    pub(super) violations: u64,
    /// The control client that has asked for a new process.
    pub(super) asked_by: Option<Key>,
}

impl Place {
    /// A process is to be started then.
    pub(super) fn due(now_ms: u64) -> Place {
        Place {
            due_ms: Some(now_ms),
            ..Place::default()
        }
    }
}

pub struct Workers {
    pub(super) places: Vec<Place>,
    pub processes: Slab<Process>,
}

impl Workers {
    pub fn new(count: usize) -> Workers {
        Workers {
            places: (0..count.min(WORKERS_MAX / 2))
                .map(|_| Place::default())
                .collect(),
            processes: Slab::default(),
        }
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Places, pids.
    pub fn that_accept(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let accept = self.processes.iter().map(|(_, process)| process);
        let accept = accept.filter(|process| process.life == Life::Accepting);
        accept.map(|process| (process.id, process.child.id()))
    }

    pub fn all_accept(&self) -> bool {
        let accepts = |id| self.with_life(id, Life::Accepting).is_some();
        (0..self.places.len()).all(accepts)
    }

    /// The process of a place that is in that part of its life.
    pub(super) fn with_life(&self, id: usize, life: Life) -> Option<Key> {
        let mut all = self.processes.iter();
        all.find(|(_, process)| process.id == id && process.life == life)
            .map(|(key, _)| key)
    }

    /// A row of the board that no process has.
    fn free_row(&self) -> Option<usize> {
        let taken = |row: &usize| {
            self.processes
                .iter()
                .any(|(_, process)| process.row == *row)
        };
        (0..WORKERS_MAX).find(|row| !taken(row))
    }

    /// The rows of the board that are written.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.processes.iter().map(|(_, process)| process.row)
    }

    /// The place of a worker that has something to say about a backend; nothing if it
    /// talks more than ours do, whose seconds may begin elsewhere.
    pub fn may_report(&mut self, key: Key, now_ms: u64) -> Option<usize> {
        let process = self.processes.get_mut(key)?;
        let most = 2 * BACKEND_NEWS_PER_SECOND_MAX;
        process.news.allows(most, now_ms).then_some(process.id)
    }

    /// Everyone who can be told something.
    pub fn channels(&mut self) -> impl Iterator<Item = (Key, &mut Channel)> {
        let open = self.processes.iter_mut().filter(|(_, p)| !p.closed);
        open.map(|(key, process)| (key, &mut process.channel))
    }

    /// When to look after them again.
    pub fn due_ms(&self, settings: &Settings) -> Option<u64> {
        let patience_ms = u64::from(settings.worker_timeout) * 1000;
        let processes = self.processes.iter();
        let processes = processes.filter_map(|(_, process)| process.due_ms(patience_ms));
        processes
            .chain(self.places.iter().filter_map(|place| place.due_ms))
            .min()
    }
}

impl Supervisor {
    /// The first ones: if they cannot be started, nothing is.
    pub(super) fn start_workers(&mut self) -> Result<(), String> {
        let state = self.state_blocks();
        for id in 0..self.workers.places.len() {
            self.spawn(id, &state)
                .map_err(|e| format!("cannot start a worker from /proc/self/exe: {e}"))?;
        }
        Ok(())
    }

    /// The state as a new worker is told it.
    pub(super) fn state_blocks(&mut self) -> Vec<Block> {
        let mut count = 0;
        let (roster, secrets) = (&self.roster, !self.settings.key_process);
        let lines = self
            .state
            .served_dump()
            .map(|change| series::told(roster.of(&change), &change, secrets));
        let blocks = channel::blocks(lines.inspect(|_| count += 1));
        self.litter.add(count, self.now_ms);
        blocks
    }

    pub(super) fn spawn(&mut self, id: usize, state: &[Block]) -> io::Result<Key> {
        let full = || io::Error::other("too many old workers have not ended yet");
        let row = self.workers.free_row().ok_or_else(full)?;
        let (mut channel, end) = Channel::pair()?;
        let dup = |fd: BorrowedFd| fd.try_clone_to_owned();
        let boot = reply::data(
            "worker",
            &[("id", id.to_string()), ("row", row.to_string())],
        );
        channel.send_with(
            boot.trim_end(),
            vec![
                dup(self.board.as_fd())?,
                dup(self.ledger.as_fd())?,
                self.logs.log()?,
            ],
        );
        let (order, root) = self.sandbox.order()?;
        channel.send_with(&order, root);
        if let Some(access) = self.logs.access()? {
            channel.send_with("access", vec![access]);
        }
        if let Some(roots) = roots::open() {
            channel.send_with("roots", vec![roots]);
        }
        self.send_desks(row, &mut channel)?;
        channel.send(&self.settings.encode());
        for (address, socket) in &self.sockets {
            let line = reply::data("socket", &[("address", address.to_string())]);
            channel.send_with(line.trim_end(), vec![dup(socket.as_fd())?]);
        }
        state.iter().for_each(|block| channel.send_block(block));
        let mut lines = self.pauses.boot_lines(self.now_ms);
        lines.extend(self.healths.boot_lines(&self.state));
        lines.extend([self.tickets.line(), self.challenges.line()]);
        lines.iter().for_each(|line| channel.send(line));
        if notify::is_asked() {
            channel.send("supervised");
        }
        channel.send("start");
        self.board.clear(row);
        self.ledger.open_page(row);
        self.counts.pages = self.counts.pages.max(row as u64 + 1);
        let program = self.program_of(id);
        let child = process::start(
            &program,
            &format!("sozu worker {id}"),
            OsStr::new(WORKER_ROLE),
            end,
            self.logs.outlets()?,
        )?;
        self.board.set(row, Cell::Place, id as u64);
        self.board.set(row, Cell::Pid, u64::from(child.id()));
        self.store.keep_worker(&child, &channel);
        log::debug!("worker {id} started, pid {}", child.id());
        let key = self.workers.processes.insert(Process {
            newer: self.takes_newer(id),
            watched_out: true,
            ..Process::new(id, row, Life::Starting, child, channel, self.now_ms)
        });
        self.workers.places[id].due_ms = None;
        if let Some(process) = self.workers.processes.get(key) {
            let token = token::pack(Kind::Channel, key);
            self.poll
                .add(process.channel.as_fd(), epoll::IN | epoll::OUT, token)?;
        }
        Ok(key)
    }

    /// Where a new worker asks for signatures, and for connections.
    fn send_desks(&mut self, row: usize, channel: &mut Channel) -> io::Result<()> {
        if let Some(desk) = self.open_desk(row)? {
            channel.send_with("desk", vec![desk]);
        }
        channel.send_with("connector", vec![self.open_connector_desk(row)?]);
        Ok(())
    }

    /// A worker has something to say, or takes more of what we say.
    pub(super) fn worker_ready(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(process) = self.workers.processes.get_mut(key) else {
            return;
        };
        let open = process.channel.receive().unwrap_or(false) && process.channel.flush().is_ok();
        // Main takes no descriptor from a worker, however many one sends.
        process.channel.refuse_fds();
        let blocked = process.channel.is_blocked();
        let interest = process.channel.interest();
        let channel = process.channel.as_fd();
        let watched = match open {
            true if blocked == process.watched_out => Ok(()),
            true => self
                .poll
                .modify(channel, interest, token::pack(Kind::Channel, key)),
            false => self.poll.remove(channel),
        };
        process.watched_out = blocked;
        if let Err(e) = watched {
            log::error!("epoll_ctl for worker {}: {e}", process.id);
        }
        process.closed = !open;
        // Nothing that a worker says makes main do more than believe that it lives, and
        // tell others what it says. All that has come is taken: no more than one message.
        let mut accepting = false;
        let mut swept = false;
        let mut done = 0;
        let mut others = Vec::new();
        while let Some(line) = process.channel.next_line() {
            if process.doomed.is_some() {
                continue;
            }
            process.pulse.beats(now_ms);
            accepting |= line == "accepting";
            swept |= line == "swept";
            if let Some(revision) = line.strip_prefix("done revision=") {
                done = revision.parse().unwrap_or(done);
            } else if line.contains(' ') {
                others.push(line);
            }
        }
        if accepting {
            self.accepts(key);
        }
        if done > 0 {
            self.done(key, done);
        }
        if swept {
            self.swept(key);
        }
        others.iter().for_each(|line| self.heard(key, line));
        if !open {
            self.stop_asking(key);
            self.bury_adopted(key);
        }
    }

    fn accepts(&mut self, key: Key) {
        let Some(process) = self.workers.processes.get_mut(key) else {
            return;
        };
        if process.life != Life::Starting {
            return;
        }
        let (id, row, pid) = (process.id, process.row, process.child.id());
        let old = self.workers.with_life(id, Life::Accepting);
        if let Some(process) = self.workers.processes.get_mut(key) {
            process.life = Life::Accepting;
        }
        self.board.set(row, Cell::Alive, 1);
        self.place_is_filled(id);
        if !self.is_canary(key) {
            self.succeed(id, key, old);
        }
        if self.stage != Stage::Starting {
            log::info!("worker {id} accepts, pid {pid}");
            self.tell_event(
                "worker_accepts",
                &[("id", id.to_string()), ("pid", pid.to_string())],
            );
        } else {
            self.announce_if_ready();
        }
    }

    /// Workers that have died.
    pub(super) fn reap(&mut self) {
        self.reap_keys();
        self.reap_resolver();
        self.reap_connector();
        self.dying
            .retain(|child| matches!(child.try_wait(), Ok(None)));
        for key in self.workers.processes.keys() {
            let Some(process) = self.workers.processes.get_mut(key) else {
                continue;
            };
            match process.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => self.died(key, &status.to_string(), Some(status)),
                Err(e) => self.died(key, &e.to_string(), None),
            }
        }
    }

    pub(super) fn died(&mut self, key: Key, how: &str, status: Option<ExitStatus>) {
        self.stop_asking(key);
        let Some(process) = self.workers.processes.remove(key) else {
            return;
        };
        let how = process.doomed.unwrap_or(how);
        let how = &self.death(&process, how, status);
        let losses = Losses::of(&self.board, process.row).ended();
        if let Some(client) = process.reports_to {
            self.report(client, process.id, &losses);
        }
        self.losses.add(&losses);
        self.resized(key, &losses);
        self.upgrade_lost(key, how, &losses);
        // Only now: whoever is answered may go on at once, and must not wait for it again.
        self.gone(key);
        self.forget_worker(key);
        self.forget_findings(process.id);
        self.close_desk(process.row);
        self.close_connector_desk(process.row);
        self.board.set(process.row, Cell::Alive, 0);
        self.board.set(process.row, Cell::Pid, 0);
        self.store.forget_worker(process.child.id());
        self.restore_ledger();
        // It may have been woken for a connection that it did not take.
        self.tell_workers("look");
        let (id, pid) = (process.id, process.child.id());
        let retired = matches!(process.life, Life::Retiring { .. });
        if self.stage == Stage::Starting && !retired {
            let what = format!("worker {id} died before it accepted ({how}); the log says why");
            self.failure = Some(what);
            return;
        }
        let given_up = id >= self.workers.places.len();
        if self.stage != Stage::Serving || given_up || retired {
            log::info!("worker {id}, pid {pid}, ended: {how}");
            return;
        }
        let pairs = [
            ("id", id.to_string()),
            ("pid", pid.to_string()),
            ("how", how.to_string()),
        ];
        self.tell_event("worker_died", &pairs);
        if self.workers.with_life(id, Life::Accepting).is_some() {
            // It has not accepted yet, or was a canary.
            log::error!("the new worker {id}, pid {pid}, died ({how}); the old one goes on");
            if let Some(client) = self.workers.places[id].asked_by.take() {
                let what = format!("the new worker died ({how}); the old one goes on");
                self.answer_late(client, &reply::error(&Refused::new(Code::Failed, what)));
            }
            return;
        }
        self.schedule(id, pid, how, process.is_young(self.now_ms));
    }

    /// A place without a process gets a new one.
    fn schedule(&mut self, id: usize, pid: u32, how: &str, young: bool) {
        let now_ms = self.now_ms;
        self.place_stays_empty(id, how);
        let taken_over = self.workers.with_life(id, Life::Starting).is_some();
        let place = &mut self.workers.places[id];
        place.failures = if young { place.failures + 1 } else { 0 };
        place.restarts += 1;
        let pause_ms = restarts::pause_ms(place.failures);
        if !taken_over {
            place.due_ms = Some(now_ms + pause_ms);
        }
        let deaths = self.workers.places.iter().map(|place| place.restarts);
        self.ledger.set_note(Note::Deaths, deaths.sum());
        log::error!("worker {id}, pid {pid}, died ({how}); its connections are lost, a new one starts in {pause_ms} ms");
    }

    /// Main was to go on at one moment and did so much later: it was stopped, or the machine slept.
    pub(super) fn forgive_silence(&mut self, late_ms: u64) {
        self.keys.forgive(late_ms);
        self.names.forgive(late_ms);
        self.connector.forgive(late_ms);
        for key in self.workers.processes.keys() {
            if let Some(process) = self.workers.processes.get_mut(key) {
                process.forgive(late_ms);
            }
        }
    }

    /// Starts who is due, asks who is silent, kills who does not answer.
    pub(super) fn look_after_workers(&mut self) {
        for id in 0..self.workers.places.len() {
            if self.workers.places[id]
                .due_ms
                .is_some_and(|due| due <= self.now_ms)
            {
                let state = self.state_blocks();
                if let Err(e) = self.spawn(id, &state) {
                    log::error!("cannot start worker {id}: {e}");
                    self.workers.places[id].due_ms = Some(self.now_ms + restarts::PAUSE_MS_MAX);
                }
            }
        }
        let patience_ms = u64::from(self.settings.worker_timeout) * 1000;
        for key in self.workers.processes.keys() {
            if let Some(process) = self.workers.processes.get_mut(key) {
                process.look_after(self.now_ms, patience_ms);
            }
        }
    }

    /// epoll says when those that do not take everything now take more.
    pub(super) fn watch_blocked_workers(&mut self) {
        let all = self.workers.processes.iter_mut();
        let blocked = |process: &Process| process.channel.is_blocked() && !process.closed;
        for (key, process) in all.filter(|(_, process)| blocked(process)) {
            process.watched_out = true;
            let token = token::pack(Kind::Channel, key);
            let channel = process.channel.as_fd();
            let watched = self.poll.modify(channel, epoll::IN | epoll::OUT, token);
            if let Err(e) = watched {
                log::error!("epoll_ctl for a worker: {e}");
            }
        }
    }

    pub(super) fn tell_workers(&mut self, line: &str) {
        for (_, channel) in self.workers.channels() {
            channel.send(line);
            // A failure means that it died, which SIGCHLD tells.
            let _ = channel.flush();
        }
        self.watch_blocked_workers();
    }

    /// From now on who ends is not replaced.
    pub(super) fn replace_no_worker(&mut self) {
        for place in &mut self.workers.places {
            place.due_ms = None;
        }
    }

    pub(super) fn kill_workers(&mut self) {
        self.workers
            .processes
            .iter()
            .for_each(|(_, process)| process.kill());
    }
}
