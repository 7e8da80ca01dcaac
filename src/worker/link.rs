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
use crate::http::challenge::Challenges;
use crate::limits::LITTER_MIN;
use crate::metrics::Series;
use crate::net::board::Board;
use crate::net::ledger::Ledger;
use crate::net::logging;
use crate::net::sink::Sink;
use crate::net::token::{self, Kind};
use crate::proto::command::Command;
use crate::proto::line::{split, Word};
use crate::proto::reply;
use crate::session::Stay;
use crate::slab::Key;
use crate::state::{Change, Code, Refused, Timeouts};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process::{self, Signals};
use crate::sys::ssl::{set_ticket_keys, TicketKey};
use crate::worker::pool::Report;
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
    batch: Batch,
    /// Lines about paused clusters.
    pauses: Vec<String>,
    challenges: Challenges,
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
        access,
        roots: boot.roots.take(),
        seed,
    };
    let row = boot.row.ok_or_else(missing)?;
    let mut worker = Worker::new(row, most as usize, settings, outfit);
    worker.tools.challenges = boot.challenges;
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
            "roots" => self.roots = channel.take_fd(),
            "settings" => {
                let settings =
                    Settings::decode(line).map_err(|e| io::Error::other(e.to_string()))?;
                self.settings = Some(settings);
            }
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
    changes: Vec<(Change, Series)>,
    /// Where the next thing is counted.
    series: Series,
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

    /// A `series` line: the row of what comes next.
    fn take_series(&mut self, line: &str) {
        let number = |key| value(line, key).and_then(|text| text.parse().ok());
        self.series = match (number("index"), number("generation")) {
            (Some(index), Some(generation)) => Some(Key { index, generation }),
            _ => None,
        };
    }

    /// Any other line is a change.
    fn take_change(&mut self, line: &str, timeouts: &Timeouts) -> Result<(), Refused> {
        let change = match Command::decode(line, timeouts)? {
            Command::Change(change) => change,
            Command::Update(update) => update.whole(timeouts)?,
            _ => {
                return Err(Refused::new(
                    Code::Unknown,
                    format!("{:?} is no change", start(line)),
                ))
            }
        };
        self.changes.push((change, self.series.take()));
        Ok(())
    }
}

/// What a line is about: the rest may be secret.
fn start(line: &str) -> &str {
    let end = line
        .match_indices(' ')
        .nth(1)
        .map_or(line.len(), |(at, _)| at);
    line.get(..end.min(LINE_SHOWN_BYTES)).unwrap_or_default()
}

/// So much of a line of main's, at most, stands in the log.
const LINE_SHOWN_BYTES: usize = 64;

/// The value of a key on a line.
fn value(line: &str, wanted: &str) -> Option<String> {
    let words = split(line).ok()?;
    words.into_iter().find_map(|word| match word {
        Word::Pair { key, value } if key == wanted => Some(value),
        _ => None,
    })
}

/// The keys of session tickets; the first one makes new ones.
fn take_tickets(line: &str) {
    let keys = value(line, "keys").unwrap_or_default();
    set_ticket_keys(keys.split(',').filter_map(TicketKey::decode).collect());
}

/// What certificate authorities are answered from now on.
fn take_challenges(line: &str) -> Challenges {
    Challenges::decode(&value(line, "all").unwrap_or_default())
}

/// The line about a backend that went down, or came up; the log hears it too.
fn told(report: &Report) -> String {
    let conf = &report.conf;
    let name = format!(
        "backend {} of cluster {} at {}",
        conf.id, conf.cluster, conf.address
    );
    let mut pairs = vec![
        ("cluster", conf.cluster.to_string()),
        ("id", conf.id.to_string()),
    ];
    match &report.down {
        Some(why) => {
            log::warn!("{name} is left alone for a while: {why}");
            pairs.extend([("state", "down".to_string()), ("why", why.clone())]);
        }
        None => {
            log::info!("{name} takes connections again");
            pairs.push(("state", "up".to_string()));
        }
    }
    reply::data("backend", &pairs)
}

impl Worker {
    pub(super) fn tell(&mut self, line: &str) {
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

    pub(super) fn channel_ready(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let open = channel.receive().unwrap_or(false) && channel.flush().is_ok();
        self.watch_channel();
        self.obey_lines();
        if !open {
            self.orphaned();
        }
    }

    /// epoll says when main takes what it does not take now.
    fn watch_channel(&self) {
        if let Some(channel) = &self.channel {
            let more = if channel.is_blocked() { epoll::OUT } else { 0 };
            let token = token::pack_single(Kind::Channel);
            if let Err(e) = self.poll.modify(channel.as_fd(), epoll::IN | more, token) {
                log::error!("epoll_ctl for the channel to main: {e}");
            }
        }
    }

    /// Nothing is told while main does not listen: it hears how things are in the end.
    pub(super) fn may_tell(&self) -> bool {
        !self.channel.as_ref().is_some_and(Channel::is_blocked)
    }

    /// What main should know of this turn.
    pub(super) fn tell_news(&mut self) {
        if !self.may_tell() {
            return;
        }
        let now_ms = self.now_ms();
        let mut lines = String::new();
        for (cluster, waiting) in self.holds.news(now_ms) {
            let pairs = [("cluster", cluster), ("waiting", waiting.to_string())];
            lines += &reply::data("held", &pairs);
        }
        for (order, connections) in self.backs.watches.news(now_ms) {
            lines += &format!("left order={order} connections={connections}\n");
        }
        while let Some(report) = self.backs.report(now_ms) {
            lines += &told(&report);
        }
        if lines.is_empty() {
            return;
        }
        self.tell(lines.trim_end());
        if !self.may_tell() {
            self.watch_channel();
        }
    }

    fn obey_lines(&mut self) {
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
    }

    /// All of it before the next request is looked at.
    fn apply_batch(&mut self, mut batch: Batch) {
        self.backs.begin_changes();
        let large = batch.changes.len() >= LITTER_MIN;
        for (change, series) in batch.changes {
            let address = match &change {
                Change::ListenerAdd(listener) | Change::ListenerUpdate(listener) => {
                    Some(listener.address)
                }
                _ => None,
            };
            let socket = address.and_then(|address| batch.sockets.remove(&address));
            // Main hands over no other socket for one that is given up and wanted again.
            if let Some((address, given_up)) = self.apply(change, series, socket) {
                batch.sockets.insert(address, given_up);
            }
        }
        self.settle_certificates();
        self.open_doors_if_open();
        let backs = &self.backs;
        for cluster in self.holds.orphaned(|id| backs.target(id).is_some()) {
            self.resume_cluster(&cluster);
        }
        // The changes and their lines are gone; the allocator would keep their room.
        if large {
            process::release_memory();
        }
    }

    /// Who waits for it goes on, in order.
    pub(super) fn resume_cluster(&mut self, cluster: &str) {
        for key in self.holds.resume(cluster) {
            self.with_turn(key, |turn| {
                turn.resume();
                turn.run();
            });
        }
    }

    /// A line about a cluster that main has paused, or pauses no longer.
    fn obey_pause(&mut self, line: &str) {
        let Some(cluster) = value(line, "cluster") else {
            return log::error!("main said {:?}: no cluster", start(line));
        };
        match value(line, "ms").and_then(|ms| ms.parse::<u64>().ok()) {
            Some(ms) => self.holds.pause(cluster, self.now_ms() + ms),
            None => self.resume_cluster(&cluster),
        }
        self.tell_obeyed(line);
    }

    /// Main may have given the line a number.
    fn tell_obeyed(&mut self, line: &str) {
        if let Some(order) = value(line, "order") {
            self.tell(&format!("obeyed order={order}"));
        }
    }

    /// `retire row=N` comes with a link to the worker of that row, `retire` with none.
    fn obey_retire(&mut self, line: &str) {
        let row = value(line, "row").and_then(|row| row.parse().ok());
        let link = row.and_then(|_| self.channel.as_mut()?.take_fd());
        self.retire(link, row.unwrap_or(0));
    }

    /// A line about what main waits for.
    fn obey_watch(&mut self, line: &str) {
        let order = value(line, "order").and_then(|order| order.parse().ok());
        match order {
            Some(order) if line.starts_with("watch ") => self.backs.watch(order),
            Some(order) => self.backs.watches.forget(order),
            None => log::error!("main said {:?}: no order", start(line)),
        }
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
                process::SIGTERM | process::SIGINT if self.stay != Stay::Welcome => {
                    self.stop = true
                }
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
            _ if line.starts_with("retire") => self.obey_retire(line),
            "inherit" => {
                if let Some(link) = self.channel.as_mut().and_then(Channel::take_fd) {
                    self.inherit(link);
                }
            }
            _ if line.starts_with("tickets ") => take_tickets(line),
            _ if line.starts_with("challenges ") => {
                self.tools.challenges = take_challenges(line);
            }
            _ if line.starts_with("series ") => self.batch.take_series(line),
            _ if line.starts_with("commit ") => {
                let batch = std::mem::take(&mut self.batch);
                self.apply_batch(batch);
                let revision = value(line, "revision").unwrap_or_default();
                self.tell(&format!("done revision={revision}"));
            }
            _ if line.starts_with("pause ") || line.starts_with("resume ") => self.obey_pause(line),
            _ if line.starts_with("watch ") || line.starts_with("unwatch ") => {
                self.obey_watch(line);
            }
            _ if line.starts_with("page ") => self.tell_page(line),
            _ if line.starts_with("check ") => {
                let mut pairs = vec![("for", value(line, "for").unwrap_or_default())];
                pairs.extend(self.digest().pairs());
                self.tell(reply::data("checked", &pairs).trim_end());
            }
            _ if line.starts_with("logging ") => {
                logging::set_filter(&value(line, "level").unwrap_or_default());
                self.tell_obeyed(line);
            }
            _ => {
                if let Err(e) = self.batch.take_change(line, &self.settings.timeouts) {
                    log::error!("main said {:?}: {e}", start(line));
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
                _ => return log::error!("main said {:?}, which names no connections", start(line)),
            };
        let page = self.page(&selection, kill, from, &tag);
        let mut lines = page.lines;
        let mut end = vec![("for", tag), ("killed", page.killed.to_string())];
        end.extend(page.next.map(|next| ("next", next.to_string())));
        lines.push(reply::data("page", &end).trim_end().to_string());
        self.tell_all(&lines);
    }
}
