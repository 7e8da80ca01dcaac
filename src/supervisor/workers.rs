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
//! A dead worker is replaced at once, or after a pause that grows while its
//! successors die young. One that answers no ping is killed, which its siblings
//! do not notice: they share the sockets. A retiring one takes no new
//! connections and ends when it has none left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;

use crate::channel::Channel;
use crate::config::Settings;
use crate::limits::{WORKERS_MAX, WORKER_QUEUE_LINES_MAX};
use crate::net::board::Cell;
use crate::net::ledger::Note;
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::slab::{Key, Slab};
use crate::state::{Code, Refused};
use crate::supervisor::{series, worker_name, worker_role, Stage, Supervisor};
use crate::sys::epoll;
use crate::sys::process;

/// One that lived shorter died young.
const YOUNG_MS: u64 = 1000;
/// The first pause; each death in youth doubles it.
const PAUSE_MS: u64 = 100;
const PAUSE_MS_MAX: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Accepting,
    /// It takes nothing new, and is told to stop then.
    Retiring {
        until_ms: u64,
    },
}

struct Process {
    /// The place that it carries.
    id: usize,
    /// Its row on the board.
    row: usize,
    life: Life,
    child: Child,
    channel: Channel,
    started_ms: u64,
    /// The last thing that it said.
    heard_ms: u64,
    /// A ping that was not answered yet.
    asked_ms: Option<u64>,
}

#[derive(Default)]
struct Place {
    /// A process is started then.
    due_ms: Option<u64>,
    /// Deaths in youth, one after another.
    failures: u32,
    restarts: u64,
    /// The control client that has asked for a new process.
    asked_by: Option<Key>,
}

pub struct Workers {
    places: Vec<Place>,
    processes: Slab<Process>,
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
    pub fn pids(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.processes
            .iter()
            .map(|(_, process)| (process.id, process.child.id()))
    }

    fn all_accept(&self) -> bool {
        let accepts = |id| self.with_life(id, Life::Accepting).is_some();
        (0..self.places.len()).all(accepts)
    }

    /// The process of a place that is in that part of its life.
    fn with_life(&self, id: usize, life: Life) -> Option<Key> {
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

    /// Everyone who can be told something.
    pub fn channels(&mut self) -> impl Iterator<Item = (Key, &mut Channel)> {
        self.processes
            .iter_mut()
            .map(|(key, process)| (key, &mut process.channel))
    }

    /// When to look after them again.
    pub fn due_ms(&self, settings: &Settings) -> Option<u64> {
        let patience_ms = u64::from(settings.worker_timeout) * 1000;
        let of_process = |(_, process): (Key, &Process)| match (process.life, process.asked_ms) {
            (Life::Starting, _) => process.started_ms + patience_ms,
            (_, Some(asked_ms)) => asked_ms + patience_ms,
            (Life::Accepting, None) => process.heard_ms + ping_ms(patience_ms),
            (Life::Retiring { until_ms }, None) => {
                until_ms.min(process.heard_ms + ping_ms(patience_ms))
            }
        };
        let processes = self.processes.iter().map(of_process);
        processes
            .chain(self.places.iter().filter_map(|place| place.due_ms))
            .min()
    }
}

/// How long a worker may be silent before it is asked.
fn ping_ms(patience_ms: u64) -> u64 {
    patience_ms / 2
}

impl Supervisor {
    /// The first ones: if they cannot be started, nothing is.
    pub(super) fn start_workers(&mut self) -> Result<(), String> {
        for id in 0..self.workers.places.len() {
            self.spawn(id)
                .map_err(|e| format!("cannot start a worker from /proc/self/exe: {e}"))?;
        }
        Ok(())
    }

    fn spawn(&mut self, id: usize) -> io::Result<()> {
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
        if let Some(access) = self.logs.access()? {
            channel.send_with("access", vec![access]);
        }
        channel.send(&self.settings.encode());
        for (address, socket) in &self.sockets {
            let line = reply::data("socket", &[("address", address.to_string())]);
            channel.send_with(line.trim_end(), vec![dup(socket.as_fd())?]);
        }
        for change in self.state.dump() {
            if let Some(series) = self.roster.of(&change) {
                channel.send(&series::line(series));
            }
            channel.send(&change.encode());
        }
        channel.send("start");
        self.board.clear(row);
        self.ledger.open_page(row);
        let child = process::reexec(&worker_name(id), worker_role(), end)?;
        self.board.set(row, Cell::Place, id as u64);
        self.board.set(row, Cell::Pid, u64::from(child.id()));
        log::debug!("worker {id} started, pid {}", child.id());
        let key = self.workers.processes.insert(Process {
            id,
            row,
            life: Life::Starting,
            child,
            channel,
            started_ms: self.now_ms,
            heard_ms: self.now_ms,
            asked_ms: None,
        });
        self.workers.places[id].due_ms = None;
        if let Some(process) = self.workers.processes.get(key) {
            let token = token::pack(Kind::Channel, key);
            self.poll
                .add(process.channel.as_fd(), epoll::IN | epoll::OUT, token)?;
        }
        Ok(())
    }

    /// A new process for a place; the old one retires once the new one accepts.
    pub(super) fn restart_worker(&mut self, id: usize, client: Key) -> Result<(), Refused> {
        let Some(place) = self.workers.places.get_mut(id) else {
            let what = format!("there is no worker {id}: see workers");
            return Err(Refused::new(Code::Missing, what));
        };
        if place.asked_by.is_some() {
            let what = format!("worker {id} is about to be replaced already");
            return Err(Refused::new(Code::InUse, what));
        }
        place.asked_by = Some(client);
        self.spawn(id).map_err(|e| {
            self.workers.places[id].asked_by = None;
            Refused::new(Code::Failed, format!("cannot start a worker: {e}"))
        })
    }

    /// A worker has something to say, or takes more of what we say.
    pub(super) fn worker_ready(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(process) = self.workers.processes.get_mut(key) else {
            return;
        };
        let open = process.channel.receive().unwrap_or(false) && process.channel.flush().is_ok();
        let interest = if process.channel.is_blocked() {
            epoll::IN | epoll::OUT
        } else {
            epoll::IN
        };
        let channel = process.channel.as_fd();
        let watched = match open {
            true => self
                .poll
                .modify(channel, interest, token::pack(Kind::Channel, key)),
            // Its death will be told by SIGCHLD.
            false => self.poll.remove(channel),
        };
        if let Err(e) = watched {
            log::error!("epoll_ctl for worker {}: {e}", process.id);
        }
        // Nothing that a worker says makes main do more than believe that it lives.
        let mut accepting = false;
        let mut done = 0;
        for _ in 0..WORKER_QUEUE_LINES_MAX {
            let Some(line) = process.channel.next_line() else {
                break;
            };
            process.heard_ms = now_ms;
            process.asked_ms = None;
            accepting |= line == "accepting";
            if let Some(revision) = line.strip_prefix("done revision=") {
                done = revision.parse().unwrap_or(done);
            }
        }
        if accepting {
            self.accepts(key);
        }
        if done > 0 {
            self.done(key, done);
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
        if let Some(old) = old {
            self.retire(old);
        }
        if let Some(client) = self.workers.places[id].asked_by.take() {
            let pairs = [("id", id.to_string()), ("pid", pid.to_string())];
            self.answer_late(client, &reply::ok(&pairs));
        }
        if self.stage != Stage::Starting {
            log::info!("worker {id} accepts, pid {pid}");
            self.tell_event(
                "worker_accepts",
                &[("id", id.to_string()), ("pid", pid.to_string())],
            );
        } else if self.workers.all_accept() {
            self.stage = Stage::Serving;
            self.announce();
        }
    }

    /// It goes on with what it has.
    fn retire(&mut self, key: Key) {
        let until_ms = self.now_ms + u64::from(self.settings.drain_timeout) * 1000;
        if let Some(process) = self.workers.processes.get_mut(key) {
            process.life = Life::Retiring { until_ms };
            self.board.set(process.row, Cell::Alive, 0);
            process.channel.send("retire");
            // A failure means that it died, which SIGCHLD tells.
            let _ = process.channel.flush();
        }
    }

    /// Workers that have died.
    pub(super) fn reap(&mut self) {
        for key in self.workers.processes.keys() {
            let Some(process) = self.workers.processes.get_mut(key) else {
                continue;
            };
            match process.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => self.died(key, &status.to_string()),
                Err(e) => self.died(key, &e.to_string()),
            }
        }
    }

    fn died(&mut self, key: Key, how: &str) {
        let Some(process) = self.workers.processes.remove(key) else {
            return;
        };
        // Only now: whoever is answered may go on at once, and must not wait for it again.
        self.gone(key);
        self.board.set(process.row, Cell::Alive, 0);
        self.board.set(process.row, Cell::Pid, 0);
        self.ledger.close_page(process.row, self.roster.all());
        // It may have been woken for a connection that it did not take.
        self.tell_workers("look");
        let (id, pid) = (process.id, process.child.id());
        if self.stage == Stage::Starting {
            let what = format!("worker {id} died before it accepted ({how}); the log says why");
            self.failure = Some(what);
            return;
        }
        if self.stage != Stage::Serving || matches!(process.life, Life::Retiring { .. }) {
            log::info!("worker {id}, pid {pid}, ended: {how}");
            return;
        }
        let pairs = [
            ("id", id.to_string()),
            ("pid", pid.to_string()),
            ("how", how.to_string()),
        ];
        self.tell_event("worker_died", &pairs);
        if process.life == Life::Starting && self.workers.with_life(id, Life::Accepting).is_some() {
            log::error!("the new worker {id}, pid {pid}, died ({how}); the old one goes on");
            if let Some(client) = self.workers.places[id].asked_by.take() {
                let what = format!("the new worker died ({how}); the old one goes on");
                self.answer_late(client, &reply::error(&Refused::new(Code::Failed, what)));
            }
            return;
        }
        self.schedule(id, pid, how, self.now_ms < process.started_ms + YOUNG_MS);
    }

    /// A place without a process gets a new one.
    fn schedule(&mut self, id: usize, pid: u32, how: &str, young: bool) {
        let now_ms = self.now_ms;
        let taken_over = self.workers.with_life(id, Life::Starting).is_some();
        let place = &mut self.workers.places[id];
        place.failures = if young { place.failures + 1 } else { 0 };
        place.restarts += 1;
        let pause_ms = match place.failures {
            0 => 0,
            n => (PAUSE_MS << n.min(10)).min(PAUSE_MS_MAX) / 2,
        };
        if !taken_over {
            place.due_ms = Some(now_ms + pause_ms);
        }
        let deaths = self.workers.places.iter().map(|place| place.restarts);
        self.ledger.set_note(Note::Deaths, deaths.sum());
        log::error!("worker {id}, pid {pid}, died ({how}); its connections are lost, a new one starts in {pause_ms} ms");
    }

    /// Starts who is due, asks who is silent, kills who does not answer.
    pub(super) fn look_after_workers(&mut self) {
        for id in 0..self.workers.places.len() {
            if self.workers.places[id]
                .due_ms
                .is_some_and(|due| due <= self.now_ms)
            {
                if let Err(e) = self.spawn(id) {
                    log::error!("cannot start worker {id}: {e}");
                    self.workers.places[id].due_ms = Some(self.now_ms + PAUSE_MS_MAX);
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
        for (key, channel) in self
            .workers
            .channels()
            .filter(|(_, channel)| channel.is_blocked())
        {
            let token = token::pack(Kind::Channel, key);
            let watched = self
                .poll
                .modify(channel.as_fd(), epoll::IN | epoll::OUT, token);
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
    }

    /// From now on who ends is not replaced.
    pub(super) fn replace_no_worker(&mut self) {
        for place in &mut self.workers.places {
            place.due_ms = None;
        }
    }

    /// Each worker gets descriptors of its own.
    pub(super) fn hand_out_logs(&mut self) {
        for (_, channel) in self.workers.channels() {
            let fds = || Ok::<_, io::Error>((self.logs.log()?, self.logs.access()?));
            match fds() {
                Ok((log, access)) => {
                    channel.send_with("log", vec![log]);
                    if let Some(access) = access {
                        channel.send_with("access", vec![access]);
                    }
                    // As above.
                    let _ = channel.flush();
                }
                Err(e) => log::error!("a worker keeps its old log: {e}"),
            }
        }
    }

    pub(super) fn kill_workers(&mut self) {
        self.workers
            .processes
            .iter()
            .for_each(|(_, process)| process.kill());
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
        reply::data(
            "worker",
            &[
                ("id", process.id.to_string()),
                ("pid", process.child.id().to_string()),
                ("state", state.to_string()),
                ("uptime_s", uptime.to_string()),
                ("connections", count(Cell::Connections)),
                ("accepted", count(Cell::Accepted)),
                ("requests", count(Cell::Requests)),
                (
                    "restarts",
                    self.workers.places[process.id].restarts.to_string(),
                ),
                ("at_limit", count(Cell::AtLimit)),
                ("surplus", count(Cell::Surplus)),
                ("log_lost", count(Cell::LogLost)),
            ],
        )
    }
}

impl Process {
    fn look_after(&mut self, now_ms: u64, patience_ms: u64) {
        let id = self.id;
        match (self.life, self.asked_ms) {
            (Life::Starting, _) if self.started_ms + patience_ms <= now_ms => {
                log::error!("worker {id} does not get ready: killed");
                self.kill();
            }
            (Life::Starting, _) => {}
            (_, Some(asked_ms)) if asked_ms + patience_ms <= now_ms => {
                log::error!("worker {id} does not answer: killed");
                self.kill();
                // Should it not die of that, it is killed again.
                self.asked_ms = Some(now_ms);
            }
            (Life::Retiring { until_ms }, _) if until_ms <= now_ms => {
                log::warn!("the time of the old worker {id} is over: its connections are cut");
                self.say("stop");
                self.life = Life::Retiring {
                    until_ms: now_ms + patience_ms,
                };
            }
            (_, None) if self.heard_ms + ping_ms(patience_ms) <= now_ms => {
                self.asked_ms = Some(now_ms);
                self.say("ping");
            }
            _ => {}
        }
    }

    fn say(&mut self, line: &str) {
        self.channel.send(line);
        // A failure means that it died, which SIGCHLD tells.
        let _ = self.channel.flush();
    }

    fn kill(&self) {
        if let Err(e) = process::kill(self.child.id(), process::SIGKILL) {
            log::error!("kill {}: {e}", self.child.id());
        }
    }
}
