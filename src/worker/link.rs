//! What main tells a worker, and what it answers.
//!
//! The lines of the control language, with descriptors along: first what the
//! worker is (`worker id=… `, `settings …`), then the state, then `start`. It
//! answers `accepting` when it does.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::channel::Channel;
use crate::config::Settings;
use crate::limits::DESCRIPTORS_RESERVED;
use crate::net::board::Board;
use crate::net::logging;
use crate::net::sink::Sink;
use crate::net::token::{self, Kind};
use crate::proto::command::Command;
use crate::proto::line::{split, Word};
use crate::proto::reply;
use crate::state::{Change, Code, Refused, Timeouts};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process::{self, Signals};
use crate::worker::{Outfit, Worker};

/// What main says before the worker can begin.
#[derive(Default)]
struct Boot {
    id: Option<usize>,
    row: Option<usize>,
    board: Option<OwnedFd>,
    log: Option<OwnedFd>,
    access: Option<OwnedFd>,
    settings: Option<Settings>,
    batch: Batch,
}

/// The life of a worker process; its standard input is the channel.
pub fn main() -> io::Result<()> {
    process::set_name(c"sozu");
    process::block_signals()?;
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
    let board = Board::map(boot.board.take().ok_or_else(missing)?)?;
    let descriptors = process::raise_descriptor_limit()?;
    let most = (descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2).max(1);
    let most = settings
        .max_connections
        .map_or(most, |n| u64::from(n).min(most));
    let access = boot.access.take().map(Sink::new);
    let seed = process::random_u64()?;
    let outfit = Outfit {
        channel,
        board,
        poll,
        access,
        seed,
    };
    let row = boot.row.ok_or_else(missing)?;
    let mut worker = Worker::new(row, most as usize, settings, outfit);
    worker.apply_batch(boot.batch);
    worker.tell("accepting");
    log::debug!("accepting, {most} connections at most");
    // What main has said since then came along with the rest.
    worker.obey_lines();
    worker.send_the_rest();
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
                self.log = channel.take_fd();
            }
            "access" => self.access = channel.take_fd(),
            "settings" => {
                let settings =
                    Settings::decode(line).map_err(|e| io::Error::other(e.to_string()))?;
                self.settings = Some(settings);
            }
            "socket" => self.batch.take_socket(channel)?,
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

/// Changes that are done together, with the sockets that they need.
#[derive(Default)]
pub struct Batch {
    sockets: HashMap<SocketAddr, TcpListener>,
    changes: Vec<Change>,
}

impl Batch {
    /// A `socket` line: the descriptor that came with it.
    fn take_socket(&mut self, channel: &mut Channel) -> io::Result<()> {
        if let Some(socket) = channel.take_fd() {
            let socket = TcpListener::from(socket);
            // By what the kernel says it is, not by what the line says.
            self.sockets.insert(socket.local_addr()?, socket);
        }
        Ok(())
    }

    /// Any other line is a change.
    fn take_change(&mut self, line: &str, timeouts: &Timeouts) -> Result<(), Refused> {
        let change = match Command::decode(line, timeouts)? {
            Command::Change(change) => change,
            Command::Update(update) => update.whole(timeouts)?,
            _ => {
                return Err(Refused::new(
                    Code::Unknown,
                    format!("{line:?} is no change"),
                ))
            }
        };
        self.changes.push(change);
        Ok(())
    }
}

/// The value of a key on a line.
fn value(line: &str, wanted: &str) -> Option<String> {
    let words = split(line).ok()?;
    words.into_iter().find_map(|word| match word {
        Word::Pair { key, value } if key == wanted => Some(value),
        _ => None,
    })
}

impl Worker {
    fn tell(&mut self, line: &str) {
        self.tell_all(&[line]);
    }

    fn tell_all(&mut self, lines: &[impl AsRef<str>]) {
        if let Some(channel) = &mut self.channel {
            lines.iter().for_each(|line| channel.send(line.as_ref()));
            if channel.flush().is_err() {
                self.orphaned();
            }
        }
    }

    /// What main has not taken yet goes when it does.
    fn send_the_rest(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        if channel.flush().is_err() {
            return self.orphaned();
        }
        let interest = match channel.is_blocked() {
            true => epoll::IN | epoll::OUT,
            false => epoll::IN,
        };
        let token = token::pack_single(Kind::Channel);
        if let Err(e) = self.poll.modify(channel.as_fd(), interest, token) {
            log::error!("epoll_ctl for the channel to main: {e}");
        }
    }

    pub(super) fn channel_ready(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let open = channel.receive().unwrap_or(false);
        self.obey_lines();
        match open {
            true => self.send_the_rest(),
            false => self.orphaned(),
        }
    }

    fn obey_lines(&mut self) {
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
    }

    /// All of it before the next request is looked at.
    fn apply_batch(&mut self, mut batch: Batch) {
        for change in batch.changes {
            let address = match &change {
                Change::ListenerAdd(listener) | Change::ListenerUpdate(listener) => {
                    Some(listener.address)
                }
                _ => None,
            };
            let socket = address.and_then(|address| batch.sockets.remove(&address));
            // Main hands over no other socket for one that is given up and wanted again.
            if let Some((address, given_up)) = self.apply(change, socket) {
                batch.sockets.insert(address, given_up);
            }
        }
        self.open_doors_if_open();
    }

    /// Main is gone. Clients need not notice; but now SIGTERM is for us.
    fn orphaned(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        let _ = self.poll.remove(channel.as_fd());
        log::warn!("main is gone; serving on without it, until SIGTERM");
        let watched = Signals::open().and_then(|signals| {
            let token = token::pack_single(Kind::Signals);
            self.poll.add(signals.as_fd(), epoll::IN, token)?;
            Ok(signals)
        });
        match watched {
            Ok(signals) => self.signals = Some(signals),
            Err(e) => log::error!("only SIGKILL will end this worker: {e}"),
        }
    }

    /// The first one drains, the second one ends.
    pub(super) fn take_signals(&mut self) {
        while let Some((signal, _)) = self.signals.as_mut().and_then(Signals::read) {
            match signal {
                process::SIGTERM | process::SIGINT if self.draining => self.stop = true,
                process::SIGTERM | process::SIGINT => self.drain(),
                _ => {}
            }
        }
    }

    fn obey(&mut self, line: &str) {
        match line {
            "ping" => {
                self.tell("pong");
                self.look_at_doors();
            }
            "look" => self.look_at_doors(),
            "drain" => self.drain(),
            "retire" => self.retire(),
            "stop" => self.stop = true,
            "log" => {
                if let Some(file) = self.channel.as_mut().and_then(Channel::take_fd) {
                    logging::reopen(file);
                }
            }
            "access" => {
                if let Some(file) = self.channel.as_mut().and_then(Channel::take_fd) {
                    self.access.reopen(Sink::new(file));
                }
            }
            _ if line.starts_with("socket ") => {
                if let Some(channel) = &mut self.channel {
                    if let Err(e) = self.batch.take_socket(channel) {
                        log::error!("main handed over a bad socket: {e}");
                    }
                }
            }
            _ if line.starts_with("commit ") => {
                let batch = std::mem::take(&mut self.batch);
                self.apply_batch(batch);
                let revision = value(line, "revision").unwrap_or_default();
                self.tell(&format!("done revision={revision}"));
            }
            _ if line.starts_with("page ") => self.tell_page(line),
            _ if line.starts_with("check ") => {
                let mut pairs = vec![("for", value(line, "for").unwrap_or_default())];
                pairs.extend(self.digest().pairs());
                self.tell(reply::data("checked", &pairs).trim_end());
            }
            _ if line.starts_with("logging ") => {
                logging::set_filter(&value(line, "level").unwrap_or_default());
            }
            _ => {
                if let Err(e) = self.batch.take_change(line, &self.settings.timeouts) {
                    log::error!("main said {line:?}: {e}");
                }
            }
        }
    }

    /// `page for=TAG from=SLOT command="connections …"`: the command is the client's own.
    fn tell_page(&mut self, line: &str) {
        let tag = value(line, "for").unwrap_or_default();
        let from = value(line, "from").and_then(|from| from.parse().ok());
        let command = value(line, "command").unwrap_or_default();
        let (from, kill, selection) =
            match (from, Command::decode(&command, &self.settings.timeouts)) {
                (Some(from), Ok(Command::Connections { kill, selection })) => {
                    (from, kill, selection)
                }
                _ => return log::error!("main said {line:?}, which names no connections"),
            };
        let page = self.page(&selection, kill, from, &tag);
        let mut lines = page.lines;
        let mut end = vec![("for", tag), ("killed", page.killed.to_string())];
        end.extend(page.next.map(|next| ("next", next.to_string())));
        lines.push(reply::data("page", &end).trim_end().to_string());
        self.tell_all(&lines);
    }
}
