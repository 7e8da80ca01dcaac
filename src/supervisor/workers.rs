//! The workers: started, watched, replaced.
//!
//! ```text
//!   Waiting ──due──▶ Starting ──accepting──▶ Accepting ──death──▶ Waiting
//!                        └──death, or no answer in worker_timeout──┘
//! ```
//! A dead worker is replaced at once, or after a pause that grows while its
//! successors die young. One that answers no ping is killed, which its siblings
//! do not notice: they share the sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;

use crate::channel::Channel;
use crate::config::Settings;
use crate::limits::{WORKERS_MAX, WORKER_QUEUE_LINES_MAX};
use crate::net::board::Cell;
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::slab::Key;
use crate::supervisor::{worker_name, worker_role, Stage, Supervisor};
use crate::sys::epoll;
use crate::sys::process;

/// One that lived shorter died young.
const YOUNG_MS: u64 = 1000;
/// The first pause; each death in youth doubles it.
const PAUSE_MS: u64 = 100;
const PAUSE_MS_MAX: u64 = 10_000;

enum Life {
    /// None is there; one is started then.
    Waiting {
        due_ms: u64,
    },
    Starting(Process),
    Accepting(Process),
    /// It has ended and is not replaced.
    Gone,
}

struct Process {
    child: Child,
    channel: Channel,
    started_ms: u64,
    /// The last thing that it said.
    heard_ms: u64,
    /// A ping that was not answered yet.
    asked_ms: Option<u64>,
}

struct Worker {
    life: Life,
    /// Deaths in youth, one after another.
    failures: u32,
    restarts: u64,
}

pub struct Workers {
    list: Vec<Worker>,
}

impl Worker {
    fn process(&self) -> Option<&Process> {
        match &self.life {
            Life::Starting(process) | Life::Accepting(process) => Some(process),
            Life::Waiting { .. } | Life::Gone => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.life {
            Life::Starting(process) | Life::Accepting(process) => Some(process),
            Life::Waiting { .. } | Life::Gone => None,
        }
    }

    fn word(&self) -> &'static str {
        match self.life {
            Life::Waiting { .. } => "waiting",
            Life::Starting(_) => "starting",
            Life::Accepting(_) => "running",
            Life::Gone => "gone",
        }
    }
}

impl Workers {
    pub fn new(count: usize) -> Workers {
        let worker = |_| Worker {
            life: Life::Waiting { due_ms: 0 },
            failures: 0,
            restarts: 0,
        };
        Workers {
            list: (0..count.min(WORKERS_MAX)).map(worker).collect(),
        }
    }

    /// Nobody is left, and nobody will come.
    pub fn is_empty(&self) -> bool {
        self.list.iter().all(|worker| worker.process().is_none())
    }

    pub fn pids(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let with_pid = |(id, worker): (usize, &Worker)| Some((id, worker.process()?.child.id()));
        self.list.iter().enumerate().filter_map(with_pid)
    }

    fn all_accept(&self) -> bool {
        self.list
            .iter()
            .all(|worker| matches!(worker.life, Life::Accepting(_)))
    }

    /// Everyone who can be told something.
    pub fn channels(&mut self) -> impl Iterator<Item = (usize, &mut Channel)> {
        self.list
            .iter_mut()
            .enumerate()
            .filter_map(|(id, worker)| Some((id, &mut worker.process_mut()?.channel)))
    }

    /// When to look after them again.
    pub fn due_ms(&self, settings: &Settings) -> Option<u64> {
        let patience_ms = u64::from(settings.worker_timeout) * 1000;
        let due = |worker: &Worker| match &worker.life {
            Life::Waiting { due_ms } => Some(*due_ms),
            Life::Starting(process) => Some(process.started_ms + patience_ms),
            Life::Accepting(process) => Some(match process.asked_ms {
                Some(asked_ms) => asked_ms + patience_ms,
                None => process.heard_ms + ping_ms(patience_ms),
            }),
            Life::Gone => None,
        };
        self.list.iter().filter_map(due).min()
    }
}

/// How long a worker may be silent before it is asked.
fn ping_ms(patience_ms: u64) -> u64 {
    patience_ms / 2
}

impl Supervisor {
    /// The first ones: if they cannot be started, nothing is.
    pub(super) fn start_workers(&mut self) -> Result<(), String> {
        for id in 0..self.workers.list.len() {
            self.spawn(id)
                .map_err(|e| format!("cannot start a worker from /proc/self/exe: {e}"))?;
        }
        Ok(())
    }

    fn spawn(&mut self, id: usize) -> io::Result<()> {
        let (mut channel, end) = Channel::pair()?;
        let dup = |fd: BorrowedFd| fd.try_clone_to_owned();
        let boot = reply::data("worker", &[("id", id.to_string())]);
        channel.send_with(
            boot.trim_end(),
            vec![dup(self.board.as_fd())?, self.logs.log()?],
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
            channel.send(&change.encode());
        }
        channel.send("start");
        self.board.clear(id);
        let child = process::reexec(&worker_name(id), worker_role(), end)?;
        let token = token::pack(Kind::Channel, key_of(id));
        self.poll
            .add(channel.as_fd(), epoll::IN | epoll::OUT, token)?;
        log::debug!("worker {id} started, pid {}", child.id());
        self.workers.list[id].life = Life::Starting(Process {
            child,
            channel,
            started_ms: self.now_ms,
            heard_ms: self.now_ms,
            asked_ms: None,
        });
        Ok(())
    }

    /// A worker has something to say, or takes more of what we say.
    pub(super) fn worker_ready(&mut self, key: Key) {
        let id = key.index as usize;
        let now_ms = self.now_ms;
        let Some(process) = self.workers.list.get_mut(id).and_then(Worker::process_mut) else {
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
            log::error!("epoll_ctl for worker {id}: {e}");
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
            self.accepts(id);
        }
        if done > 0 {
            self.done(id, done);
        }
    }

    fn accepts(&mut self, id: usize) {
        let worker = &mut self.workers.list[id];
        let Life::Starting(process) = std::mem::replace(&mut worker.life, Life::Gone) else {
            return;
        };
        let pid = process.child.id();
        worker.life = Life::Accepting(process);
        self.board.set(id, Cell::Alive, 1);
        if self.stage != Stage::Starting {
            log::info!("worker {id} accepts, pid {pid}");
        } else if self.workers.all_accept() {
            self.stage = Stage::Serving;
            self.announce();
        }
    }

    /// Workers that have died.
    pub(super) fn reap(&mut self) {
        for id in 0..self.workers.list.len() {
            let Some(process) = self.workers.list[id].process_mut() else {
                continue;
            };
            match process.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => self.died(id, &status.to_string()),
                Err(e) => self.died(id, &e.to_string()),
            }
        }
    }

    fn died(&mut self, id: usize, how: &str) {
        self.gone(id);
        self.board.set(id, Cell::Alive, 0);
        let now_ms = self.now_ms;
        let worker = &mut self.workers.list[id];
        let Some(process) = worker.process() else {
            return;
        };
        let pid = process.child.id();
        let young = now_ms < process.started_ms + YOUNG_MS;
        if self.stage == Stage::Starting {
            self.failure = Some(format!(
                "worker {id} died before it accepted ({how}); the log says why"
            ));
            worker.life = Life::Gone;
            return;
        }
        if self.stage != Stage::Serving {
            log::debug!("worker {id}, pid {pid}, ended: {how}");
            worker.life = Life::Gone;
            return;
        }
        worker.failures = if young { worker.failures + 1 } else { 0 };
        worker.restarts += 1;
        let pause_ms = match worker.failures {
            0 => 0,
            n => (PAUSE_MS << n.min(10)).min(PAUSE_MS_MAX) / 2,
        };
        worker.life = Life::Waiting {
            due_ms: now_ms + pause_ms,
        };
        log::error!("worker {id}, pid {pid}, died ({how}); its connections are lost, a new one starts in {pause_ms} ms");
    }

    /// Starts who is due, asks who is silent, kills who does not answer.
    pub(super) fn look_after_workers(&mut self) {
        let patience_ms = u64::from(self.settings.worker_timeout) * 1000;
        let now_ms = self.now_ms;
        for id in 0..self.workers.list.len() {
            match &mut self.workers.list[id].life {
                Life::Waiting { due_ms } if *due_ms <= now_ms => {
                    if let Err(e) = self.spawn(id) {
                        log::error!("cannot start worker {id}: {e}");
                        let due_ms = now_ms + PAUSE_MS_MAX;
                        self.workers.list[id].life = Life::Waiting { due_ms };
                    }
                }
                Life::Starting(process) if process.started_ms + patience_ms <= now_ms => {
                    log::error!("worker {id} does not get ready: killed");
                    kill(process);
                }
                Life::Accepting(process) => match process.asked_ms {
                    Some(asked_ms) if asked_ms + patience_ms <= now_ms => {
                        log::error!("worker {id} does not answer: killed");
                        kill(process);
                        // Should it not die of that, it is killed again.
                        process.asked_ms = Some(now_ms);
                    }
                    None if process.heard_ms + ping_ms(patience_ms) <= now_ms => {
                        process.asked_ms = Some(now_ms);
                        process.channel.send("ping");
                        // A failure means that it died, which SIGCHLD tells.
                        let _ = process.channel.flush();
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// epoll says when those that do not take everything now take more.
    pub(super) fn watch_blocked_workers(&mut self) {
        for (id, channel) in self
            .workers
            .channels()
            .filter(|(_, channel)| channel.is_blocked())
        {
            let token = token::pack(Kind::Channel, key_of(id));
            if let Err(e) = self
                .poll
                .modify(channel.as_fd(), epoll::IN | epoll::OUT, token)
            {
                log::error!("epoll_ctl for worker {id}: {e}");
            }
        }
    }

    pub(super) fn tell_workers(&mut self, line: &str) {
        for worker in &mut self.workers.list {
            match worker.process_mut() {
                Some(process) => {
                    process.channel.send(line);
                    // As above.
                    let _ = process.channel.flush();
                }
                None => worker.life = Life::Gone,
            }
        }
    }

    /// Each worker gets descriptors of its own.
    pub(super) fn hand_out_logs(&mut self) {
        for worker in &mut self.workers.list {
            let Some(process) = worker.process_mut() else {
                continue;
            };
            let fds = || Ok::<_, io::Error>((self.logs.log()?, self.logs.access()?));
            match fds() {
                Ok((log, access)) => {
                    process.channel.send_with("log", vec![log]);
                    if let Some(access) = access {
                        process.channel.send_with("access", vec![access]);
                    }
                    // A failure means that it died, which SIGCHLD tells.
                    let _ = process.channel.flush();
                }
                Err(e) => log::error!("a worker keeps its old log: {e}"),
            }
        }
    }

    pub(super) fn kill_workers(&mut self) {
        self.workers
            .list
            .iter_mut()
            .filter_map(Worker::process_mut)
            .for_each(|process| kill(process));
    }

    /// The data lines of `status` about workers.
    pub(super) fn worker_lines(&self) -> String {
        let line = |(id, worker): (usize, &Worker)| {
            let count = |cell| self.board.get(id, cell).to_string();
            let process = worker.process();
            let uptime = process.map_or(0, |p| (self.now_ms - p.started_ms) / 1000);
            reply::data(
                "worker",
                &[
                    ("id", id.to_string()),
                    ("pid", process.map_or(0, |p| p.child.id()).to_string()),
                    ("state", worker.word().to_string()),
                    ("uptime_s", uptime.to_string()),
                    ("connections", count(Cell::Connections)),
                    ("accepted", count(Cell::Accepted)),
                    ("requests", count(Cell::Requests)),
                    ("restarts", worker.restarts.to_string()),
                    ("at_limit", count(Cell::AtLimit)),
                    ("surplus", count(Cell::Surplus)),
                    ("log_lost", count(Cell::LogLost)),
                ],
            )
        };
        self.workers.list.iter().enumerate().map(line).collect()
    }
}

fn kill(process: &Process) {
    if let Err(e) = process::kill(process.child.id(), process::SIGKILL) {
        log::error!("kill {}: {e}", process.child.id());
    }
}

fn key_of(id: usize) -> Key {
    Key {
        index: id as u32,
        generation: 0,
    }
}
