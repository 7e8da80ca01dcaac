//! Workers whose main was killed, and which serve on.
//!
//! systemd's store has kept what the next main needs to know of them (`store`): the board, on which each
//! has its row, its place and its pid; the end of its channel; a handle of the process. Such a worker is
//! one that retires: it goes on accepting until the new worker of its place does, and hands over to that
//! one then what can move. Its counters go on in a ledger that nobody reads any more.
//!
//! What the main before had begun to say to it is void (`Channel::adopted`), and so is a change that it
//! was told of and not told to make (`adopted`).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::channel::Channel;
use crate::limits::WORKERS_MAX;
use crate::net::board::{Board, Cell};
use crate::net::token::{self, Kind};
use crate::slab::Key;
use crate::supervisor::takeover::CONNECTION;
use crate::supervisor::workers::{Life, Process};
use crate::supervisor::Supervisor;
use crate::sys::epoll;
use crate::sys::process::{self, Child};
use crate::sys::socket;

#[derive(Default)]
struct Orphan {
    channel: Option<UnixStream>,
    handle: Option<OwnedFd>,
}

#[derive(Default)]
pub struct Orphans {
    board: Option<OwnedFd>,
    /// It is main's now.
    known: bool,
    /// By their pids.
    workers: BTreeMap<u32, Orphan>,
}

impl Orphans {
    pub fn take_board(&mut self, fd: OwnedFd, ours: bool) -> Result<(), String> {
        if !ours {
            return Err("it is arranged in a way that this version does not know".into());
        }
        self.board = Some(fd);
        Ok(())
    }

    /// By what the kernel says that it is.
    pub fn take(&mut self, pid: u32, fd: OwnedFd) -> Result<(), String> {
        let orphan = self.workers.entry(pid).or_default();
        if socket::nature(fd.as_fd()).is_ok_and(|nature| nature == CONNECTION) {
            orphan.channel = Some(UnixStream::from(fd));
        } else if process::pid_of_handle(fd.as_fd()) == Some(pid) {
            orphan.handle = Some(fd);
        } else {
            return Err(
                "it is neither the channel of that worker nor a handle of a process that lives"
                    .into(),
            );
        }
        Ok(())
    }

    /// Theirs; or a new one, if there is none that can be read.
    pub fn take_whole_board(&mut self) -> Result<Board, String> {
        let theirs = self.board.take().and_then(|fd| Board::map(fd).ok());
        self.known = theirs.is_some();
        let board = theirs.map_or_else(Board::create, Ok);
        board.map_err(|e| format!("shared memory: {e}"))
    }
}

impl Supervisor {
    /// Before the first worker is started: each finds an heir in the worker of its place. Who cannot be
    /// taken is left to itself, which it learns when systemd lets its channel go.
    pub(super) fn adopt(&mut self, orphans: Orphans) -> Result<(), String> {
        let known = orphans.known;
        for (pid, orphan) in orphans.workers {
            let Orphan {
                channel: Some(stream),
                handle: Some(handle),
            } = orphan
            else {
                self.store.forget_worker(pid);
                continue;
            };
            let room = self.workers.processes.len() + self.workers.places.len() < WORKERS_MAX;
            let row = self.row_of(pid).filter(|_| known && room);
            let adopted = row.map(|row| self.adopt_one(pid, row, stream, handle));
            match adopted.transpose()? {
                Some(key) => self.tell_adopted(key),
                None => {
                    log::warn!("the worker with pid {pid} cannot be taken over: it ends by itself");
                    self.store.forget_worker(pid);
                }
            }
        }
        let taken: Vec<usize> = self.workers.rows().collect();
        let free = (0..WORKERS_MAX).filter(|row| !taken.contains(row));
        free.for_each(|row| self.board.clear(row));
        Ok(())
    }

    /// The row that such a worker says is its own; nobody has two.
    fn row_of(&self, pid: u32) -> Option<usize> {
        let taken = |row| self.workers.rows().any(|other| other == row);
        let its = |row| self.board.get(row, Cell::Pid) == u64::from(pid);
        (0..WORKERS_MAX).find(|row| its(*row) && !taken(*row))
    }

    fn adopt_one(
        &mut self,
        pid: u32,
        row: usize,
        stream: UnixStream,
        handle: OwnedFd,
    ) -> Result<Key, String> {
        let broken = |e: std::io::Error| format!("the worker with pid {pid}: {e}");
        let channel = Channel::adopted(stream).map_err(broken)?;
        let until_ms = self.now_ms + u64::from(self.settings.drain_timeout) * 1000;
        let place = self.board.get(row, Cell::Place) as usize % self.workers.places.len();
        let (life, child) = (Life::Retiring { until_ms }, Child::adopted(pid, handle));
        let process = Process::new(place, row, life, child, channel, self.now_ms);
        let key = self.workers.processes.insert(process);
        let process = self.workers.processes.get(key).ok_or("it is gone")?;
        let token = token::pack(Kind::Channel, key);
        let watched = self.poll.add(process.channel.as_fd(), epoll::IN, token);
        watched.map_err(broken)?;
        Ok(key)
    }

    fn tell_adopted(&mut self, key: Key) {
        if let Some(process) = self.workers.processes.get_mut(key) {
            process.say("adopted");
            // Its own may have ended with that main.
            self.logs.hand_to(&mut process.channel);
            let (id, pid) = (process.id, process.child.id());
            log::warn!(
                "the worker {id} of a main that died serves on, pid {pid}: a new one takes over"
            );
        }
    }

    /// The channel of a worker is closed. Of the end of one that is not our child no signal tells.
    pub(super) fn bury_adopted(&mut self, key: Key) {
        let Some(process) = self.workers.processes.get(key) else {
            return;
        };
        if process.child.adopted_by().is_some() {
            // Nobody could steer it any more. An error: it has ended already.
            let _ = process.child.kill(process::SIGKILL);
            self.died(key, "nobody tells how", None);
        }
    }

    /// The others serve on, until another main takes them.
    pub(super) fn kill_own_workers(&mut self) {
        let all = self.workers.processes.iter().map(|(_, process)| process);
        all.filter(|process| process.child.adopted_by().is_none())
            .for_each(Process::kill);
    }
}
