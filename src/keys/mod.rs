//! The key process: it has the private keys, and signs for workers.
//!
//! No worker has a key. Each has a desk instead: a pair of sockets (SOCK_SEQPACKET), of which it holds
//! one end and this process the other; it asks for a signature, waits, and gets it (`desk`). Main says which
//! keys there are and which desks, over the channel, and nothing else reaches this process: it has no
//! network, no file, and less of the kernel than a worker (`table::KEYS`).
//!
//! A question about a key that is not here waits for it: main sends a key before it tells workers
//! of the certificate, but by another way. A worker waits for one answer at a time, so one question waits
//! at each desk at most: a later one takes its place.
//!
//! Main keeps a copy of this process's end of each desk. So a question outlives the process: its
//! successor finds it. If main dies, it serves on until the last worker has closed its desk.

pub mod desk;
pub mod message;
mod vault;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::message::{answer, Question, MESSAGE_BYTES_MAX};
use self::vault::Vault;
use crate::channel::Channel;
use crate::limits::SIGNATURES_PER_SECOND_MAX;
use crate::net::logging;
use crate::net::token::{self, Kind};
use crate::role::{live, plan, value, Begun};
use crate::slab::{Key, Slab};
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::sandbox::{self, table, Plan};
use crate::sys::shared::Shared;

/// Events of a turn: every desk may have one.
const EVENTS: usize = 64;

/// What it counts, in memory that main and no worker sees.
#[derive(Clone, Copy)]
pub enum Cell {
    Signed,
    Refused,
    /// Where its sandbox notes the number of what it should not have done, plus one.
    Violation,
}

pub const CELLS: usize = 3;

pub fn cell(page: &Shared, cell: Cell) -> &AtomicU64 {
    &page.cells()[cell as usize]
}

/// What a key process counts in, from another program.
pub fn page(file: OwnedFd) -> io::Result<Shared> {
    let page = Shared::map(file)?;
    match page.cells().len() >= CELLS {
        true => Ok(page),
        false => Err(io::Error::other("the page is too small")),
    }
}

/// The end of a worker's desk that is here.
struct Desk {
    /// The worker's row on the board.
    row: u32,
    socket: UnixDatagram,
    /// It waits for its key.
    waiting: Option<Question>,
    /// A second, and how many signatures were asked for in it.
    asked: (u64, u32),
}

struct Clerk {
    channel: Option<Channel>,
    poll: Epoll,
    page: &'static Shared,
    vault: Vault,
    desks: Slab<Desk>,
}

/// What main says before the process is confined.
#[derive(Default)]
struct Boot {
    page: Option<OwnedFd>,
    log: Option<OwnedFd>,
    level: String,
    plan: Option<Plan>,
}

/// The life of the key process; its standard input is the channel.
pub fn main() -> ! {
    live("sozu keys", run)
}

fn run() -> io::Result<()> {
    let mut begun = Begun::new()?;
    let mut boot = Boot::default();
    if !begun.listen(|line, channel| boot.take(line, channel))? {
        return Ok(());
    }
    let missing = || io::Error::other("main did not say all that the key process needs");
    logging::start(&boot.level, "keys", boot.log.take().ok_or_else(missing)?);
    let page = page(boot.page.take().ok_or_else(missing)?)?;
    // Noted there until the very end of the process.
    let page: &'static Shared = Box::leak(Box::new(page));
    let plan = boot.plan.take().ok_or_else(missing)?;
    sandbox::warm_up();
    sandbox::enter(&plan, cell(page, Cell::Violation)).map_err(io::Error::other)?;
    drop(plan);
    let mut clerk = Clerk {
        channel: Some(begun.channel),
        poll: begun.poll,
        page,
        vault: Vault::default(),
        desks: Slab::default(),
    };
    clerk.obey_lines();
    clerk.serve()
}

impl Boot {
    fn take(&mut self, line: &str, channel: &mut Channel) -> io::Result<()> {
        match line.split(' ').next() {
            Some("keys") => {
                self.level = value(line, "level").unwrap_or_default();
                self.page = channel.take_fd();
                self.log = channel.take_fd();
            }
            Some("sandbox") => self.plan = Some(plan(line, channel, table::KEYS)),
            _ => {
                return Err(io::Error::other(
                    "main said what is not for the key process",
                ))
            }
        }
        Ok(())
    }
}

impl Clerk {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while self.channel.is_some() || !self.desks.is_empty() {
            self.poll.wait(&mut events, -1)?;
            for i in 0..events.len() {
                match token::unpack(events.get(i).0) {
                    Some((Kind::Channel, _)) => self.channel_ready(),
                    Some((Kind::Desk, key)) => self.desk_ready(key),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn channel_ready(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let open = channel.receive().unwrap_or(false);
        self.obey_lines();
        if let Some(channel) = self.channel.take_if(|_| !open) {
            let _ = self.poll.remove(channel.as_fd());
            if !self.desks.is_empty() {
                log::info!("main has left; signing on until the last worker does");
            }
        }
    }

    fn obey_lines(&mut self) {
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
    }

    fn obey(&mut self, line: &str) {
        let noun = line.split(' ').next().unwrap_or_default();
        let of = value(line, "certificate").unwrap_or_default();
        match noun {
            "key" => {
                let pem = value(line, "pem").unwrap_or_default();
                match self.vault.add(&of, &pem) {
                    Ok(()) => self.answer_waiting(),
                    Err(what) => log::error!("{what}"),
                }
            }
            "forget" => self.vault.forget(&of),
            "desk" => self.open_desk(line),
            "ping" => self.tell("pong"),
            "ready" => self.tell("accepting"),
            "logging" => logging::set_filter(&value(line, "level").unwrap_or_default()),
            "log" => {
                if let Some(file) = self.channel.as_mut().and_then(Channel::take_fd) {
                    logging::reopen(file);
                }
            }
            // The rest of a line may be a key.
            _ => log::error!("main said {noun:?}, which is not for the key process"),
        }
    }

    fn tell(&mut self, line: &str) {
        if let Some(channel) = &mut self.channel {
            channel.send(line);
            // That main is gone is told by the next read; what it does not take now goes with the next word.
            let _ = channel.flush();
        }
    }

    fn open_desk(&mut self, line: &str) {
        let row = value(line, "row").and_then(|row| row.parse().ok());
        let Some(socket) = self.channel.as_mut().and_then(Channel::take_fd) else {
            return;
        };
        let key = self.desks.insert(Desk {
            row: row.unwrap_or_default(),
            socket: UnixDatagram::from(socket),
            waiting: None,
            asked: (0, 0),
        });
        if let Some(desk) = self.desks.get(key) {
            let token = token::pack(Kind::Desk, key);
            if let Err(e) = self.poll.add(desk.socket.as_fd(), epoll::IN, token) {
                log::error!("epoll_ctl for the desk of worker {}: {e}", desk.row);
            }
        }
    }

    /// A worker asks, or has closed.
    fn desk_ready(&mut self, key: Key) {
        let Some(desk) = self.desks.get_mut(key) else {
            return;
        };
        if !desk.listen() {
            if let Some(desk) = self.desks.remove(key) {
                // Main has the same end open: closing ours is not enough.
                let _ = self.poll.remove(desk.socket.as_fd());
            }
            return;
        }
        self.answer(key);
    }

    fn answer_waiting(&mut self) {
        for key in self.desks.keys() {
            self.answer(key);
        }
    }

    /// What waits there, if its key is here.
    fn answer(&mut self, key: Key) {
        let Some(desk) = self.desks.get_mut(key) else {
            return;
        };
        let known = |question: &mut Question| self.vault.has(&question.name);
        let Some(question) = desk.waiting.take_if(known) else {
            return;
        };
        let signed = match desk.may_ask(clock::monotonic_us()) {
            true => self
                .vault
                .sign(&question.name, question.kind, &question.bytes),
            false => None,
        };
        let counted = match signed {
            Some(_) => Cell::Signed,
            None => Cell::Refused,
        };
        cell(self.page, counted).fetch_add(1, Relaxed);
        // Who does not take his answers gets none.
        let message = answer(question.sequence, signed.as_deref());
        let _ = desk.socket.send(&message);
    }
}

impl Desk {
    /// Takes one question, which waits for its answer. False: the worker has closed.
    fn listen(&mut self) -> bool {
        let mut message = [0; MESSAGE_BYTES_MAX + 1];
        match self.socket.recv(&mut message) {
            Ok(0) => return false,
            Ok(n) => match Question::decode(&message[..n]) {
                Some(question) => self.waiting = Some(question),
                None => log::debug!("the worker in row {} asks what is no question", self.row),
            },
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
        true
    }

    /// Whether this second has room for one more; the log hears of the first that it has not.
    fn may_ask(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if self.asked.0 != second {
            self.asked = (second, 0);
        }
        self.asked.1 = self.asked.1.saturating_add(1);
        if self.asked.1 == SIGNATURES_PER_SECOND_MAX + 1 {
            let (row, most) = (self.row, SIGNATURES_PER_SECOND_MAX);
            log::warn!("the worker in row {row} asks for more than {most} signatures in a second: the others are refused");
        }
        self.asked.1 <= SIGNATURES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::passing;

    fn desk() -> (Desk, UnixDatagram) {
        let (theirs, ours) = passing::pair().expect("a pair");
        let desk = Desk {
            row: 0,
            socket: UnixDatagram::from(ours),
            waiting: None,
            asked: (0, 0),
        };
        (desk, UnixDatagram::from(theirs))
    }

    #[test]
    fn one_worker_has_so_many_signatures_in_a_second() {
        let (mut desk, _worker) = desk();
        for second in [1, 2] {
            for n in 0..SIGNATURES_PER_SECOND_MAX + 9 {
                let now_us = second * 1_000_000 + u64::from(n);
                assert_eq!(desk.may_ask(now_us), n < SIGNATURES_PER_SECOND_MAX);
            }
        }
    }

    #[test]
    fn the_last_question_counts_and_what_is_none_changes_nothing() {
        let (mut desk, worker) = desk();
        let question = |sequence| Question {
            sequence,
            kind: crate::sys::delegated::Kind::Ecdsa,
            name: [1; 32],
            bytes: vec![7; 32],
        };
        assert!(desk.listen() && desk.waiting.is_none());
        for message in [question(1).encode(), question(2).encode(), vec![0; 4000]] {
            worker.send(&message).expect("sent");
            assert!(desk.listen());
        }
        assert_eq!(desk.waiting, Some(question(2)));
        drop(worker);
        assert!(!desk.listen());
    }
}
