//! A worker's first moments: what main tells it before it accepts, and the sandbox that it enters then.
//!
//! First what the worker is (`worker id=…`, `sandbox …`, `settings …`), then the state, then `start`. It answers
//! `accepting` when it does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::channel::Channel;
use crate::config::Settings;
use crate::http::challenge::Challenges;
use crate::net::board::Board;
use crate::net::ledger::Ledger;
use crate::net::logging;
use crate::net::sink::Sink;
use crate::net::token::{self, Kind};
use crate::state::Timeouts;
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process::{self, Signals};
use crate::sys::sandbox::{self, table, Plan};
use crate::worker::link::{take_challenges, take_tickets, value, Batch};
use crate::worker::{Outfit, Worker};

/// What main says before the worker can begin.
#[derive(Default)]
struct Boot {
    id: Option<usize>,
    row: Option<usize>,
    board: Option<OwnedFd>,
    ledger: Option<OwnedFd>,
    log: Option<OwnedFd>,
    access: Option<OwnedFd>,
    roots: Option<OwnedFd>,
    settings: Option<Settings>,
    plan: Option<Plan>,
    batch: Batch,
    /// Lines about paused clusters.
    pauses: Vec<String>,
    challenges: Challenges,
    supervised: bool,
}

/// The life of a worker process; its standard input is the channel.
pub fn main() -> ! {
    process::leave(match run() {
        Ok(()) => 0,
        Err(e) => {
            log::error!("{e}");
            eprintln!("sozu worker: {e}");
            1
        }
    })
}

fn run() -> io::Result<()> {
    process::close_inherited()?;
    process::set_name(c"sozu");
    process::leave_on_panic();
    // Before any other descriptor: the sandbox knows it by its number.
    let signals = Signals::open()?;
    if u32::try_from(signals.as_fd().as_raw_fd()) != Ok(table::SIGNALS) {
        return Err(io::Error::other(
            "standard input, output or error is not open",
        ));
    }
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut channel = Channel::new(channel)?;
    let poll = Epoll::new()?;
    poll.add(
        channel.as_fd(),
        epoll::IN,
        token::pack_single(Kind::Channel),
    )?;
    let Some(mut boot) = listen_to_main(&mut channel, &poll)? else {
        return Ok(());
    };
    let missing = || io::Error::other("main did not say all that a worker needs");
    let id = boot.id.ok_or_else(missing)?;
    let settings = boot.settings.take().ok_or_else(missing)?;
    let log = boot.log.take().ok_or_else(missing)?;
    logging::start(&settings.log_level, &format!("worker {id}"), log);
    let row = boot.row.ok_or_else(missing)?;
    let board = boot.board.take().ok_or_else(missing)?;
    // Noted there until the very end of the process.
    let noted: &'static Board = Box::leak(Box::new(Board::map(board.try_clone()?)?));
    let board = Board::map(board)?;
    let ledger = Ledger::map(boot.ledger.take().ok_or_else(missing)?)?;
    let descriptors = process::raise_descriptor_limit()?;
    let most = settings.connections_of_worker(descriptors);
    let access = boot.access.take().map(Sink::new);
    let seed = process::random_u64()?;
    let outfit = Outfit {
        channel,
        board,
        ledger,
        poll,
        signals,
        access,
        roots: boot.roots.take(),
        seed,
    };
    let plan = boot.plan.take().ok_or_else(missing)?;
    sandbox::warm_up();
    sandbox::enter(&plan, noted.violation(row)).map_err(io::Error::other)?;
    // From here on nothing is read that others have written.
    drop(plan);
    let mut worker = Worker::new(row, most as usize, settings, outfit);
    worker.tools.challenges = boot.challenges;
    worker.supervised = boot.supervised;
    worker.apply_batch(boot.batch);
    boot.pauses.iter().for_each(|line| worker.obey(line));
    worker.tell("accepting");
    log::debug!("accepting, {most} connections at most");
    // What main has said since then came along with the rest.
    worker.obey_lines();
    worker.watch_channel();
    worker.run()
}

/// `None`: main has gone before it had said all.
fn listen_to_main(channel: &mut Channel, poll: &Epoll) -> io::Result<Option<Boot>> {
    let mut boot = Boot::default();
    let mut events = Events::with_capacity(1);
    loop {
        while let Some(line) = channel.next_line() {
            if line == "start" {
                return Ok(Some(boot));
            }
            boot.take(&line, channel)?;
        }
        poll.wait(&mut events, -1)?;
        if !channel.receive()? {
            return Ok(None);
        }
    }
}

impl Boot {
    fn take(&mut self, line: &str, channel: &mut Channel) -> io::Result<()> {
        let (noun, _) = line.split_once(' ').unwrap_or((line, ""));
        match noun {
            "worker" => {
                self.id = value(line, "id").and_then(|id| id.parse().ok());
                self.row = value(line, "row").and_then(|row| row.parse().ok());
                self.board = channel.take_fd();
                self.ledger = channel.take_fd();
                self.log = channel.take_fd();
            }
            "access" => self.access = channel.take_fd(),
            "sandbox" => self.plan = Some(plan(line, channel)),
            "roots" => self.roots = channel.take_fd(),
            "settings" => {
                let settings =
                    Settings::decode(line).map_err(|e| io::Error::other(e.to_string()))?;
                self.settings = Some(settings);
            }
            "supervised" => self.supervised = true,
            "socket" => self.batch.take_socket(channel)?,
            "series" => self.batch.take_series(line),
            "tickets" => take_tickets(line),
            "challenges" => self.challenges = take_challenges(line),
            "pause" => self.pauses.push(line.to_string()),
            _ => {
                let taken = self
                    .batch
                    .take_change(line, &timeouts(self.settings.as_ref()));
                taken.map_err(|e| io::Error::other(e.to_string()))?;
            }
        }
        Ok(())
    }
}

/// What is to be given up: `sandbox chroot=true uid=… gid=… landlock=VERSION seccomp=true`, each if
/// there is something to give up.
fn plan(line: &str, channel: &mut Channel) -> Plan {
    let number = |key| value(line, key).and_then(|text| text.parse().ok());
    let root = value(line, "chroot").and_then(|_| channel.take_fd());
    Plan {
        root,
        user: number("uid").zip(number("gid")),
        landlock: number("landlock"),
        rules: value(line, "seccomp").map(|_| table::WORKER),
    }
}

fn timeouts(settings: Option<&Settings>) -> Timeouts {
    let none = Timeouts {
        front: 1,
        back: 1,
        connect: 1,
        request: 1,
        keepalive: 1,
        tunnel: 1,
    };
    settings.map_or(none, |settings| settings.timeouts)
}
