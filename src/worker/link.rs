//! What main tells a worker, and what it answers.
//!
//! The lines of the control language, with descriptors along, from the moment at
//! which it accepts; `boot` has what comes before.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use crate::channel::Channel;
use crate::http::challenge::Challenges;
use crate::keys::desk::Desk;
use crate::limits::LITTER_MIN;
use crate::metrics::Series;
use crate::net::logging;
use crate::net::sink::Sink;
use crate::net::token::{self, Kind};
use crate::proto::command::Command;
use crate::proto::reply;
use crate::role::value;
use crate::session::Stay;
use crate::slab::Key;
use crate::state::{Change, Code, Refused, Timeouts};
use crate::sys::epoll::{self};
use crate::sys::process::{self};
use crate::sys::ssl::{set_ticket_keys, TicketKey};
use crate::worker::pool::Report;
use crate::worker::Worker;

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
    pub(super) fn take_socket(&mut self, channel: &mut Channel) -> io::Result<()> {
        if let Some(socket) = channel.take_fd() {
            let socket = TcpListener::from(socket);
            // By what the kernel says it is, not by what the line says.
            self.sockets.insert(socket.local_addr()?, socket);
        }
        Ok(())
    }

    /// A `series` line: the row of what comes next.
    pub(super) fn take_series(&mut self, line: &str) {
        let number = |key| value(line, key).and_then(|text| text.parse().ok());
        self.series = match (number("index"), number("generation")) {
            (Some(index), Some(generation)) => Some(Key { index, generation }),
            _ => None,
        };
    }

    /// Any other line is a change.
    pub(super) fn take_change(&mut self, line: &str, timeouts: &Timeouts) -> Result<(), Refused> {
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

/// The desk where this worker has its signatures from now on.
pub(super) fn take_desk(channel: &mut Channel) {
    if let Some(socket) = channel.take_fd() {
        Desk::new(socket).open();
    }
}

/// The keys of session tickets; the first one makes new ones.
pub(super) fn take_tickets(line: &str) {
    let keys = value(line, "keys").unwrap_or_default();
    set_ticket_keys(keys.split(',').filter_map(TicketKey::decode).collect());
}

/// What certificate authorities are answered from now on.
pub(super) fn take_challenges(line: &str) -> Challenges {
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
    pub(super) fn watch_channel(&self) {
        if let Some(channel) = &self.channel {
            let (interest, token) = (channel.interest(), token::pack_single(Kind::Channel));
            if let Err(e) = self.poll.modify(channel.as_fd(), interest, token) {
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
        // They wait for nothing: so many come at most as there are connections.
        let mut lines = self.backs.errands.take_lines();
        if self.may_tell() {
            self.add_news(&mut lines);
        }
        if lines.is_empty() {
            return;
        }
        self.tell(lines.trim_end());
        if !self.may_tell() {
            self.watch_channel();
        }
    }

    fn add_news(&mut self, lines: &mut String) {
        let now_ms = self.now_ms();
        for (cluster, waiting) in self.holds.news(now_ms) {
            let pairs = [("cluster", cluster), ("waiting", waiting.to_string())];
            *lines += &reply::data("held", &pairs);
        }
        for (order, connections) in self.backs.watches.news(now_ms) {
            *lines += &format!("left order={order} connections={connections}\n");
        }
        while let Some(report) = self.backs.report(now_ms) {
            *lines += &told(&report);
        }
        lines.extend(self.probes.take_news());
    }

    pub(super) fn obey_lines(&mut self) {
        while let Some(line) = self.channel.as_mut().and_then(Channel::next_line) {
            self.obey(&line);
        }
    }

    /// All of it before the next request is looked at.
    pub(super) fn apply_batch(&mut self, mut batch: Batch) {
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

    /// Main is gone. Clients need not notice; but now SIGTERM is for us. Where main is supervised another one
    /// comes, which would have this end of the channel if it could take over: so this is the end.
    fn orphaned(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        let _ = self.poll.remove(channel.as_fd());
        self.backs.errands.are_over();
        // Nobody tells it any more what others have found.
        self.share_checks(vec![self.id]);
        if self.supervised {
            log::warn!("main is gone, and no other one takes over from this worker: it ends");
            self.drain();
            let time_ms = u64::from(self.settings.shutdown_timeout) * 1000;
            self.stop_at_ms = Some(self.now_ms() + time_ms);
        } else {
            log::warn!("main is gone; serving on without it, until SIGTERM");
        }
        let token = token::pack_single(Kind::Signals);
        if let Err(e) = self.poll.add(self.signals.as_fd(), epoll::IN, token) {
            log::error!("only SIGKILL will end this worker: {e}");
        }
    }

    /// The first one drains, the second one ends.
    pub(super) fn take_signals(&mut self) {
        while let Some((signal, _)) = self.signals.read() {
            match signal {
                process::SIGTERM | process::SIGINT if self.stay != Stay::Welcome => {
                    self.stop = true
                }
                process::SIGTERM | process::SIGINT => self.drain(),
                _ => {}
            }
        }
    }

    pub(super) fn obey(&mut self, line: &str) {
        let noun = line.split(' ').next().unwrap_or_default();
        match noun {
            "ping" => {
                self.tell("pong");
                self.look_at_doors();
            }
            "look" => self.look_at_doors(),
            "drain" => self.drain(),
            "stop" => self.stop = true,
            // By another main, which knows of no change that is half told.
            "adopted" => self.batch = Batch::default(),
            "log" | "access" | "inherit" => self.take_descriptor(noun),
            "desk" => self.channel.iter_mut().for_each(take_desk),
            "retire" => self.obey_retire(line),
            "tickets" => take_tickets(line),
            "challenges" => self.tools.challenges = take_challenges(line),
            "pause" | "resume" => self.obey_pause(line),
            "watch" | "unwatch" => self.obey_watch(line),
            "health" => {
                self.backs.hear_verdict(line);
            }
            "connected" => self.obey_connected(line),
            "probers" => self.hear_probers(line),
            "page" => self.tell_page(line),
            "check" => {
                let mut pairs = vec![("for", value(line, "for").unwrap_or_default())];
                pairs.extend(self.digest().pairs());
                self.tell(reply::data("checked", &pairs).trim_end());
            }
            "logging" => {
                logging::set_filter(&value(line, "level").unwrap_or_default());
                self.tell_obeyed(line);
            }
            "socket" | "series" | "commit" => self.obey_batch(noun, line),
            _ => {
                if let Err(e) = self.batch.take_change(line, &self.settings.timeouts) {
                    log::error!("main said {:?}: {e}", start(line));
                }
            }
        }
    }

    /// `connected for=TOKEN` with a descriptor, or with `why` there is none.
    fn obey_connected(&mut self, line: &str) {
        let fd = match value(line, "why") {
            Some(why) => Err(why),
            None => match self.channel.as_mut().and_then(Channel::take_fd) {
                Some(fd) => Ok(fd),
                None => Err("main has sent no descriptor".into()),
            },
        };
        let token = value(line, "for").and_then(|token| token.parse().ok());
        match token.and_then(token::unpack) {
            Some((Kind::Back, key)) => self.back_made_by_main(key, fd),
            Some((Kind::Probe, key)) => self.check_made_by_main(key, fd),
            _ => log::error!("main said {:?}: for nobody", start(line)),
        }
    }

    fn back_made_by_main(&mut self, key: Key, made: Result<OwnedFd, String>) {
        // Once made, epoll says that it goes on.
        if let Some((owner, Err(why))) = self.backs.made_by_main(key, made, &self.poll) {
            self.with_turn(owner, |turn| {
                turn.unconnected(why);
                turn.run();
            });
        }
    }

    /// What belongs to changes, and that they are to be made.
    fn obey_batch(&mut self, noun: &str, line: &str) {
        match (noun, &mut self.channel) {
            ("socket", Some(channel)) => {
                if let Err(e) = self.batch.take_socket(channel) {
                    log::error!("main handed over a bad socket: {e}");
                }
            }
            ("series", _) => self.batch.take_series(line),
            _ => {
                let batch = std::mem::take(&mut self.batch);
                self.apply_batch(batch);
                let revision = value(line, "revision").unwrap_or_default();
                self.tell(&format!("done revision={revision}"));
            }
        }
    }

    /// What has come along with such a line.
    fn take_descriptor(&mut self, noun: &str) {
        let Some(fd) = self.channel.as_mut().and_then(Channel::take_fd) else {
            return;
        };
        match noun {
            "log" => logging::reopen(fd),
            "access" => self.access.reopen(Sink::new(fd)),
            _ => self.inherit(fd),
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
