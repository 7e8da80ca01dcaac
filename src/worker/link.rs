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
use crate::state::{Change, Timeouts};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process;
use crate::worker::Worker;

/// What main says before the worker can begin.
#[derive(Default)]
struct Boot {
    id: Option<usize>,
    board: Option<OwnedFd>,
    log: Option<OwnedFd>,
    access: Option<OwnedFd>,
    settings: Option<Settings>,
    sockets: HashMap<SocketAddr, TcpListener>,
    changes: Vec<Change>,
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
    let mut worker = Worker::new(
        id,
        settings,
        channel,
        board,
        poll,
        access,
        seed,
        most as usize,
    );
    for change in boot.changes {
        let socket = socket_for(&change, &mut boot.sockets);
        worker.apply(change, socket);
    }
    worker.open_doors();
    worker.tell("accepting");
    log::debug!("accepting, {most} connections at most");
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
                self.board = channel.take_fd();
                self.log = channel.take_fd();
            }
            "access" => self.access = channel.take_fd(),
            "settings" => {
                let settings =
                    Settings::decode(line).map_err(|e| io::Error::other(e.to_string()))?;
                self.settings = Some(settings);
            }
            "socket" => {
                if let Some(socket) = channel.take_fd() {
                    let socket = TcpListener::from(socket);
                    // By what the kernel says it is, not by what the line says.
                    self.sockets.insert(socket.local_addr()?, socket);
                }
            }
            _ => match Command::decode(line, &timeouts(self.settings.as_ref())) {
                Ok(Command::Change(change)) => self.changes.push(change),
                other => return Err(io::Error::other(format!("main said {line:?}: {other:?}"))),
            },
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

fn socket_for(
    change: &Change,
    sockets: &mut HashMap<SocketAddr, TcpListener>,
) -> Option<TcpListener> {
    match change {
        Change::ListenerAdd(listener) => sockets.remove(&listener.address),
        _ => None,
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
        if let Some(channel) = &mut self.channel {
            channel.send(line);
            if channel.flush().is_err() {
                self.orphaned();
            }
        }
    }

    pub(super) fn channel_ready(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let open = channel.receive().unwrap_or(false);
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
        if !open {
            self.orphaned();
        }
    }

    /// Main is gone. Clients need not notice.
    fn orphaned(&mut self) {
        if let Some(channel) = self.channel.take() {
            let _ = self.poll.remove(channel.as_fd());
            log::warn!("main is gone; serving on without it");
        }
    }

    fn obey(&mut self, line: &str) {
        match line {
            "ping" => self.tell("pong"),
            "drain" => self.drain(),
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
            _ => match Command::decode(line, &self.settings.timeouts) {
                Ok(Command::Change(change)) => self.apply(change, None),
                other => log::error!("main said {line:?}: {other:?}"),
            },
        }
    }
}
