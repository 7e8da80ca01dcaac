//! The connector: it connects to unix sockets for workers, which find no file and may make no such socket.
//!
//! It has a pair of sockets with each worker (SOCK_SEQPACKET): a worker names a path and gets a connection, or why
//! there is none. Main says which paths there are, and it connects to no other one; it is the user that workers
//! are, not the one who runs main. Neither main nor a worker waits for it. If main dies, it serves on until the last
//! worker has closed.
//!
//! connect(2) to a unix socket is done at once or not at all. Where too many wait to be accepted (EAGAIN) it is tried
//! again for as long as the client's connect_timeout lets it, as TCP would: a burst is no failure. Who came first to a
//! path is connected first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use crate::channel::Channel;
use crate::limits::{CONNECTS_WAITING_MAX, CONNECT_AGAIN_MS, PATH_UNKNOWN_MS, UNIX_PATH_BYTES_MAX};
use crate::net::logging;
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::role::{live, plan, value, Begun};
use crate::slab::{Key, Slab};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::sandbox::{self, table, Plan};
use crate::sys::shared::Shared;
use crate::sys::{clock, passing, socket};

/// Where its sandbox notes the number of what it should not have done, plus one.
pub const CELLS: usize = 1;
/// Events of a turn: every worker may have one.
const EVENTS: usize = 64;
/// Questions of one worker that are answered in a turn.
const QUESTIONS_PER_TURN: usize = 64;
/// Longest question or answer.
const MESSAGE_BYTES: usize = 512;

/// A worker.
struct Desk {
    socket: OwnedFd,
    /// An answer that it does not take now; until then it is asked for nothing.
    unsent: Option<Answer>,
    /// epoll says when it takes it, and nothing else.
    blocked: bool,
    /// Connections that wait for it to be tried again.
    waiting: usize,
}

struct Answer {
    ticket: u64,
    line: String,
    connection: Option<OwnedFd>,
}

/// A connection that a worker wants, of the path by which it is filed.
struct Wanted {
    desk: Key,
    ticket: u64,
    /// Of the clock that all processes have: since when, and until when.
    since_ms: u64,
    until_ms: u64,
}

struct Connector {
    channel: Option<Channel>,
    poll: Epoll,
    desks: Slab<Desk>,
    paths: BTreeSet<String>,
    /// By path those that wait to be tried again, in the order in which they came.
    again: BTreeMap<String, VecDeque<Wanted>>,
    /// When that is.
    again_ms: u64,
}

/// What main says before the process is confined.
#[derive(Default)]
struct Boot {
    page: Option<OwnedFd>,
    log: Option<OwnedFd>,
    level: String,
    plan: Option<Plan>,
}

/// The life of the connector; its standard input is the channel.
pub fn main() -> ! {
    live("sozu connector", run)
}

fn run() -> io::Result<()> {
    let mut begun = Begun::new()?;
    let mut boot = Boot::default();
    if !begun.listen(|line, channel| boot.take(line, channel))? {
        return Ok(());
    }
    let missing = || io::Error::other("main did not say all that the connector needs");
    logging::start(
        &boot.level,
        "connector",
        boot.log.take().ok_or_else(missing)?,
    );
    // Noted there until the very end of the process.
    let page = Box::leak(Box::new(Shared::map(
        boot.page.take().ok_or_else(missing)?,
    )?));
    let note: &'static AtomicU64 = page.cells().first().ok_or_else(missing)?;
    let plan = boot.plan.take().ok_or_else(missing)?;
    sandbox::warm_up();
    sandbox::enter(&plan, note).map_err(io::Error::other)?;
    drop(plan);
    let mut connector = Connector {
        channel: Some(begun.channel),
        poll: begun.poll,
        desks: Slab::default(),
        paths: BTreeSet::new(),
        again: BTreeMap::new(),
        again_ms: 0,
    };
    connector.obey_lines();
    connector.serve()
}

impl Boot {
    fn take(&mut self, line: &str, channel: &mut Channel) -> io::Result<()> {
        match line.split(' ').next() {
            Some("connector") => {
                self.level = value(line, "level").unwrap_or_default();
                self.page = channel.take_fd();
                self.log = channel.take_fd();
            }
            Some("sandbox") => {
                let plan = plan(line, channel, table::CONNECTOR);
                // Another root has no sockets.
                self.plan = Some(Plan { root: None, ..plan });
            }
            _ => return Err(io::Error::other("main said what is not for the connector")),
        }
        Ok(())
    }
}

impl Connector {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while self.channel.is_some() || !self.desks.is_empty() {
            self.poll.wait(&mut events, self.timeout_ms())?;
            for i in 0..events.len() {
                let (token, ready) = events.get(i);
                match token::unpack(token) {
                    Some((Kind::Channel, _)) => self.channel_ready(),
                    Some((Kind::Desk, key)) => self.desk_ready(key, ready),
                    _ => {}
                }
            }
            if !self.again.is_empty() && self.again_ms <= now_ms() {
                self.try_again();
            }
        }
        Ok(())
    }

    fn timeout_ms(&self) -> i32 {
        match self.again.is_empty() {
            true => -1,
            false => i32::try_from(self.again_ms.saturating_sub(now_ms())).unwrap_or(i32::MAX),
        }
    }

    fn channel_ready(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let open = channel.receive().unwrap_or(false) && channel.flush().is_ok();
        self.obey_lines();
        if let Some(channel) = self.channel.take_if(|_| !open) {
            let _ = self.poll.remove(channel.as_fd());
            if !self.desks.is_empty() {
                log::info!("main has left; connecting on until the last worker does");
            }
        }
    }

    fn obey_lines(&mut self) {
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
    }

    fn obey(&mut self, line: &str) {
        let path = || value(line, "path").unwrap_or_default();
        match line.split(' ').next().unwrap_or_default() {
            "path" => drop(self.paths.insert(path())),
            "forget" => drop(self.paths.remove(&path())),
            "desk" => self.open_desk(),
            "ping" => self.tell("pong"),
            "ready" => self.tell("accepting"),
            "logging" => logging::set_filter(&value(line, "level").unwrap_or_default()),
            "log" => {
                if let Some(file) = self.channel.as_mut().and_then(Channel::take_fd) {
                    logging::reopen(file);
                }
            }
            other => log::error!("main said {other:?}, which is not for the connector"),
        }
    }

    fn tell(&mut self, line: &str) {
        if let Some(channel) = &mut self.channel {
            channel.send(line);
            // That main is gone is told by the next read; what it does not take now goes with the next word.
            let _ = channel.flush();
        }
    }

    fn open_desk(&mut self) {
        let Some(socket) = self.channel.as_mut().and_then(Channel::take_fd) else {
            return;
        };
        let key = self.desks.insert(Desk {
            socket,
            unsent: None,
            blocked: false,
            waiting: 0,
        });
        if let Some(desk) = self.desks.get(key) {
            let token = token::pack(Kind::Desk, key);
            if let Err(e) = self.poll.add(desk.socket.as_fd(), epoll::IN, token) {
                log::error!("epoll_ctl for a worker: {e}");
            }
        }
    }

    /// A worker asks, takes an answer that had to wait, or has closed.
    fn desk_ready(&mut self, key: Key, ready: u32) {
        if ready & epoll::OUT != 0 {
            if let Some(unsent) = self.desks.get_mut(key).and_then(|desk| desk.unsent.take()) {
                self.send(key, unsent);
            }
        }
        for _ in 0..QUESTIONS_PER_TURN {
            let Some(desk) = self.desks.get(key).filter(|desk| desk.unsent.is_none()) else {
                return;
            };
            let (mut room, mut fds) = ([0; MESSAGE_BYTES], Vec::<OwnedFd>::new());
            match passing::receive(&desk.socket, &mut room, &mut fds) {
                Ok(received) if received.bytes > 0 => {
                    let question = std::str::from_utf8(&room[..received.bytes]);
                    self.heard(key, question.unwrap_or_default().trim_end());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => return self.close(key),
            }
        }
    }

    fn close(&mut self, key: Key) {
        if let Some(desk) = self.desks.remove(key) {
            // Main has the same end open: closing ours is not enough.
            let _ = self.poll.remove(desk.socket.as_fd());
        }
        self.again.retain(|_, waiting| {
            waiting.retain(|wanted| wanted.desk != key);
            !waiting.is_empty()
        });
    }

    fn heard(&mut self, desk: Key, line: &str) {
        let number = |key| value(line, key).and_then(|text| text.parse().ok());
        let (Some(ticket), Some(path)) = (number("for"), value(line, "path")) else {
            return;
        };
        if line.starts_with("cancel ") {
            return self.cancel(desk, ticket, &path);
        }
        let wanted = Wanted {
            desk,
            ticket,
            since_ms: now_ms(),
            until_ms: number("until").unwrap_or(0),
        };
        // Behind those who came before.
        match self.again.contains_key(&path) {
            true => self.wait(path, wanted),
            false => self.connect(path, wanted),
        }
    }

    fn connect(&mut self, path: String, wanted: Wanted) {
        match self.made(&path, &wanted) {
            None => self.wait(path, wanted),
            Some(made) => self.send(wanted.desk, answer(wanted.ticket, made)),
        }
    }

    /// `None`: it may be made later.
    fn made(&self, path: &str, wanted: &Wanted) -> Option<io::Result<OwnedFd>> {
        let now_ms = now_ms();
        if !self.paths.contains(path) {
            // Main has named it before the worker could know it, but by another way.
            let gone = || io::Error::other("no backend has this unix socket any more");
            return (wanted.since_ms + PATH_UNKNOWN_MS <= now_ms).then(|| Err(gone()));
        }
        match socket::connect_unix(path) {
            Err(e) if comes_later(&e) && now_ms < wanted.until_ms => None,
            made => Some(made),
        }
    }

    fn wait(&mut self, path: String, wanted: Wanted) {
        let Some(desk) = self.desks.get_mut(wanted.desk) else {
            return;
        };
        if desk.waiting >= CONNECTS_WAITING_MAX {
            let full = Err(io::Error::other(
                "too many connections to unix sockets wait",
            ));
            return self.send(wanted.desk, answer(wanted.ticket, full));
        }
        desk.waiting += 1;
        if self.again.is_empty() {
            self.again_ms = now_ms() + CONNECT_AGAIN_MS;
        }
        self.again.entry(path).or_default().push_back(wanted);
    }

    /// Nobody waits for it any more.
    fn cancel(&mut self, desk: Key, ticket: u64, path: &str) {
        let Some(waiting) = self.again.get_mut(path) else {
            return;
        };
        let before = waiting.len();
        waiting.retain(|it| it.desk != desk || it.ticket != ticket);
        let gone = before - waiting.len();
        if waiting.is_empty() {
            self.again.remove(path);
        }
        if let Some(desk) = self.desks.get_mut(desk) {
            desk.waiting -= gone;
        }
    }

    /// Of each path as many as can be made now, and those whose time is over.
    fn try_again(&mut self) {
        self.again_ms = now_ms() + CONNECT_AGAIN_MS;
        for (path, mut waiting) in std::mem::take(&mut self.again) {
            let mut full = false;
            let mut left = VecDeque::with_capacity(waiting.len());
            while let Some(wanted) = waiting.pop_front() {
                let desk = self.desks.get(wanted.desk);
                let blocked = desk.is_some_and(|desk| desk.unsent.is_some());
                let late = wanted.until_ms <= now_ms();
                let made = match blocked || full && !late {
                    true => None,
                    false => self.made(&path, &wanted),
                };
                let Some(made) = made else {
                    full |= !blocked;
                    left.push_back(wanted);
                    continue;
                };
                if let Some(desk) = self.desks.get_mut(wanted.desk) {
                    desk.waiting -= 1;
                }
                self.send(wanted.desk, answer(wanted.ticket, made));
            }
            if !left.is_empty() {
                self.again.insert(path, left);
            }
        }
    }

    fn send(&mut self, key: Key, answer: Answer) {
        let Some(desk) = self.desks.get_mut(key) else {
            return;
        };
        let fds: Vec<_> = answer.connection.iter().map(AsFd::as_fd).collect();
        let sent = passing::send(&desk.socket, answer.line.as_bytes(), &fds);
        let waits = match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            // The connection cannot be handed over: too many are on their way to workers.
            Err(e) if answer.connection.is_some() => {
                let why = reply::data(
                    "connected",
                    &[("for", answer.ticket.to_string()), ("why", e.to_string())],
                );
                let _ = passing::send(&desk.socket, why.as_bytes(), &[]);
                false
            }
            _ => false,
        };
        desk.unsent = waits.then_some(answer);
        if waits != std::mem::replace(&mut desk.blocked, waits) {
            let interest = if waits { epoll::OUT } else { epoll::IN };
            let token = token::pack(Kind::Desk, key);
            // An error: it is gone, which the next read says.
            let _ = self.poll.modify(desk.socket.as_fd(), interest, token);
        }
    }
}

/// Too many wait at the backend, or too much is open here: that passes.
fn comes_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || socket::out_of_descriptors(error)
}

fn answer(ticket: u64, made: io::Result<OwnedFd>) -> Answer {
    let mut pairs = vec![("for", ticket.to_string())];
    let connection = made.map_err(|e| pairs.push(("why", e.to_string()))).ok();
    Answer {
        ticket,
        line: reply::data("connected", &pairs),
        connection,
    }
}

fn now_ms() -> u64 {
    clock::monotonic_us() / 1000
}

/// A worker's question: which connection it is, as it calls it, where to, and until when it is tried.
pub fn question(ticket: u64, path: &str, until_ms: u64) -> String {
    let pairs = [
        ("for", ticket.to_string()),
        ("path", path.to_string()),
        ("until", until_ms.to_string()),
    ];
    reply::data("connect", &pairs)
}

/// That it wants that one no more.
pub fn cancellation(ticket: u64, path: &str) -> String {
    let pairs = [("for", ticket.to_string()), ("path", path.to_string())];
    reply::data("cancel", &pairs)
}

/// What a worker hears: which connection, and the connection or why there is none.
pub fn read_answer(
    line: &str,
    connection: Option<OwnedFd>,
) -> Option<(u64, Result<OwnedFd, String>)> {
    let ticket = value(line.trim_end(), "for")?.parse().ok()?;
    let made = match (connection, value(line.trim_end(), "why")) {
        (Some(connection), None) => Ok(connection),
        (_, why) => Err(why.unwrap_or_else(|| "no connection came".into())),
    };
    Some((ticket, made))
}

const _: () = assert!(MESSAGE_BYTES > UNIX_PATH_BYTES_MAX + 100);
