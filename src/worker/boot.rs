//! A worker's first moments: what main tells it before it accepts, and the sandbox that it enters then.
//!
//! First what the worker is (`worker id=…`, `sandbox …`, `settings …`), then the state, then `start`. It answers
//! `accepting` when it does.

use std::io;
use std::os::fd::OwnedFd;

use crate::channel::Channel;
use crate::config::Settings;
use crate::http::challenge::Challenges;
use crate::net::board::Board;
use crate::net::ledger::Ledger;
use crate::net::logging;
use crate::net::sink::Sink;
use crate::role::{live, plan, value, Begun};
use crate::state::Timeouts;
use crate::sys::process;
use crate::sys::sandbox::{self, table, Plan};
use crate::worker::link::{take_challenges, take_desk, take_tickets, Batch};
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
    connector: Option<OwnedFd>,
    settings: Option<Settings>,
    plan: Option<Plan>,
    batch: Batch,
    /// Lines about paused clusters, and about backends that were checked.
    orders: Vec<String>,
    challenges: Challenges,
    supervised: bool,
}

/// The life of a worker process; its standard input is the channel.
pub fn main() -> ! {
    live("sozu worker", run)
}

fn run() -> io::Result<()> {
    let mut begun = Begun::new()?;
    let mut boot = Boot::default();
    if !begun.listen(|line, channel| boot.take(line, channel))? {
        return Ok(());
    }
    let Begun {
        channel,
        poll,
        signals,
    } = begun;
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
    let mut secret = [0; 32];
    for part in secret.chunks_exact_mut(8) {
        part.copy_from_slice(&process::random_u64()?.to_ne_bytes());
    }
    let outfit = Outfit {
        channel,
        board,
        ledger,
        poll,
        signals,
        access,
        roots: boot.roots.take(),
        connector: boot.connector.take(),
        seed,
        secret,
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
    boot.orders.iter().for_each(|line| worker.obey(line));
    worker.tell("accepting");
    log::debug!("accepting, {most} connections at most");
    // What main has said since then came along with the rest.
    worker.obey_lines();
    worker.watch_channel();
    worker.run()
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
            "sandbox" => self.plan = Some(plan(line, channel, table::WORKER)),
            "roots" => self.roots = channel.take_fd(),
            "settings" => {
                let settings =
                    Settings::decode(line).map_err(|e| io::Error::other(e.to_string()))?;
                self.settings = Some(settings);
            }
            "supervised" => self.supervised = true,
            "socket" => self.batch.take_socket(channel)?,
            "series" => self.batch.take_series(line),
            "desk" => take_desk(channel),
            "connector" => self.connector = channel.take_fd(),
            "tickets" => take_tickets(line),
            "challenges" => self.challenges = take_challenges(line),
            "pause" | "health" => self.orders.push(line.to_string()),
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
