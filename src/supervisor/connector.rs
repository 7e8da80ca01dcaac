//! The connector, as main sees it: started when a backend has a unix socket, told of paths and of workers.
//!
//! ```text
//!   main ──channel── connector ══desk══ worker 0       a desk: a pair of sockets; the connector's end is
//!                        ╚═══════desk══ worker 1       in main as well
//! ```
//! Every worker has a desk from its start, whether there is a connector or not: so it can be started at any time. When
//! another one takes its place, workers get other desks, and ask again what was not answered: so it is at an upgrade,
//! too, before which it ends. A path is named before workers know of it, and forgotten a while after they do.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::channel::Channel;
use crate::connector;
use crate::limits::{CONNECTOR_PIDS_MAX, PATH_KEPT_MS};
use crate::net::token::Kind;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Address, Change, State};
use crate::supervisor::apply::Done;
use crate::supervisor::servant::{Position, Post};
use crate::supervisor::{Supervisor, CONNECTOR_ROLE};
use crate::sys::passing;
use crate::sys::shared::Shared;

static POSITION: Position = Position {
    called: "the connector",
    title: "sozu connector",
    role: CONNECTOR_ROLE,
    kind: Kind::Connector,
};

pub struct Connector {
    post: Post,
    /// Where its sandbox notes what it should not have done.
    page: Option<Shared>,
    /// How many backends have each path.
    paths: BTreeMap<Rc<str>, usize>,
    /// Paths that no backend has any more, and when they are forgotten.
    leaving: VecDeque<(u64, Rc<str>)>,
    /// By row of the board: the connector's end of each worker's desk.
    desks: BTreeMap<usize, OwnedFd>,
    /// Those that there were: none of them may steer this proxy, who is connected by one.
    pids: Vec<u32>,
    deaths: u64,
}

impl Connector {
    /// For the backends of a state that is there already.
    pub fn of(state: &State) -> Connector {
        let mut paths = BTreeMap::new();
        for backend in state.backends() {
            if let Address::Unix(path) = &backend.address {
                *paths.entry(Rc::clone(path)).or_default() += 1;
            }
        }
        Connector {
            post: Post::of(&POSITION),
            page: None,
            paths,
            leaving: VecDeque::new(),
            desks: BTreeMap::new(),
            pids: Vec::new(),
            deaths: 0,
        }
    }

    /// When to look after it again.
    pub fn due_ms(&self, worker_timeout: u32) -> Option<u64> {
        let post = self.post.due_ms(u64::from(worker_timeout) * 1000);
        let leaving = self.leaving.front().map(|(due_ms, _)| *due_ms);
        [post, leaving].into_iter().flatten().min()
    }

    /// Paths that a worker may ask for.
    fn known(&self) -> impl Iterator<Item = &Rc<str>> {
        let leaving = self.leaving.iter().map(|(_, path)| path);
        self.paths.keys().chain(leaving)
    }

    pub fn forgive(&mut self, late_ms: u64) {
        self.post.forgive(late_ms);
    }

    pub fn pid(&self) -> Option<u32> {
        self.post.pid()
    }

    pub fn is_ready(&self) -> bool {
        self.post.is_ready()
    }

    /// Whether that process is one that connects for workers.
    pub fn was(&self, pid: i32) -> bool {
        u32::try_from(pid).is_ok_and(|pid| self.pids.contains(&pid))
    }

    /// In `status`.
    pub fn status_line(&self, now_ms: u64) -> String {
        if self.paths.is_empty() && self.post.servant.is_none() {
            return String::new();
        }
        let pairs = [
            ("pid", self.pid().unwrap_or(0).to_string()),
            ("state", self.post.state().to_string()),
            ("uptime_s", self.post.uptime_s(now_ms).to_string()),
            ("paths", self.paths.len().to_string()),
            ("restarts", self.deaths.to_string()),
        ];
        reply::data("connector", &pairs)
    }
}

/// The path of the backend that comes with a change, or goes with what it undoes.
fn path_in(change: &Change) -> Option<&Rc<str>> {
    match change {
        Change::BackendAdd(backend) => match &backend.address {
            Address::Unix(path) => Some(path),
            Address::Inet(_) | Address::Name { .. } => None,
        },
        _ => None,
    }
}

impl Supervisor {
    fn spawn_connector(&mut self) -> io::Result<()> {
        let (mut channel, end) = Channel::pair()?;
        let boot = reply::data("connector", &[("level", self.settings.log_level.clone())]);
        let page = Shared::create(connector::CELLS)?;
        let its_page = page.as_fd().try_clone_to_owned()?;
        channel.send_with(boot.trim_end(), vec![its_page, self.logs.log()?]);
        let (order, root) = self.sandbox.order()?;
        channel.send_with(&order, root);
        channel.send("start");
        for path in self.connector.known() {
            channel.send(&format!("path path={path}"));
        }
        for end in self.connector.desks.values() {
            channel.send_with("desk", vec![end.try_clone()?]);
        }
        channel.send("ready");
        let (outlets, now_ms) = (self.logs.outlets()?, self.now_ms);
        let post = &mut self.connector.post;
        post.fill(channel, end, outlets, &self.poll, now_ms)?;
        let pids = &mut self.connector.pids;
        pids.extend(post.pid());
        let surplus = pids.len().saturating_sub(CONNECTOR_PIDS_MAX);
        pids.drain(..surplus);
        self.connector.page = Some(page);
        Ok(())
    }

    /// A desk for the worker in a row: the end that it gets.
    pub(super) fn open_connector_desk(&mut self, row: usize) -> io::Result<OwnedFd> {
        let (theirs, ours) = passing::pair()?;
        passing::refuse(&ours);
        self.say_to_connector("desk", vec![ours.try_clone()?]);
        self.connector.desks.insert(row, ours);
        Ok(theirs)
    }

    /// Its worker is gone; the connector sees that by itself.
    pub(super) fn close_connector_desk(&mut self, row: usize) {
        self.connector.desks.remove(&row);
    }

    /// Workers that run and have no desk of this main's get one.
    pub(super) fn give_connector_desks(&mut self) {
        let running = self.workers.processes.iter();
        let running = running.filter(|(_, one)| !one.closed);
        let without = running.filter(|(_, one)| !self.connector.desks.contains_key(&one.row));
        let without: Vec<(Key, usize)> = without.map(|(key, one)| (key, one.row)).collect();
        for (key, row) in without {
            let desk = self.open_connector_desk(row);
            match (desk, self.workers.processes.get_mut(key)) {
                (Ok(desk), Some(process)) => process.say_with("connector", vec![desk]),
                (Err(e), _) => log::error!("a worker reaches no unix socket: {e}"),
                (Ok(_), None) => {}
            }
        }
        self.watch_blocked_workers();
    }

    /// What it is told, like all processes.
    pub(super) fn say_to_connector(&mut self, line: &str, fds: Vec<OwnedFd>) {
        self.connector.post.say(line, fds);
        self.connector.post.watch(&self.poll);
    }

    /// Before workers are told of these changes.
    pub(super) fn tell_connector(&mut self, done: &Done) {
        let mut lines = Vec::new();
        let paths = &mut self.connector.paths;
        for path in done.changes.iter().filter_map(path_in) {
            *paths.entry(Rc::clone(path)).or_default() += 1;
            lines.push(format!("path path={path}"));
        }
        for path in done.undo.iter().filter_map(path_in) {
            let left = paths.get_mut(path).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                paths.remove(path);
                let due_ms = self.now_ms + PATH_KEPT_MS;
                self.connector.leaving.push_back((due_ms, Rc::clone(path)));
            }
        }
        for line in lines {
            self.say_to_connector(&line, Vec::new());
        }
    }

    /// It has something to say, or takes more of what we say.
    pub(super) fn connector_ready(&mut self) {
        let lines = self.connector.post.hear(&self.poll, self.now_ms);
        if lines.iter().any(|line| line == "accepting") {
            if let Some(servant) = &mut self.connector.post.servant {
                servant.ready = true;
            }
            self.give_connector_desks();
        }
    }

    /// Whether it has died.
    pub(super) fn reap_connector(&mut self) {
        let Some((servant, how)) = self.connector.post.reap() else {
            return;
        };
        // Workers see the end of theirs, and keep what was not answered for the next ones.
        self.connector.desks.clear();
        let page = self.connector.page.take();
        let cell = page.as_ref().and_then(|page| page.cells().first());
        let number = cell.map_or(0, |cell| cell.load(Relaxed));
        let how = self.how_it_died(number, how);
        let pause_ms = self.connector.post.replace(&servant, self.now_ms);
        self.connector.deaths += 1;
        let pid = servant.child.id();
        log::error!("the connector, pid {pid}, died ({how}); a new one starts in {pause_ms} ms, new connections to unix sockets wait for a moment");
    }

    /// Starts it when a backend needs it, ends it when none does.
    pub(super) fn look_after_connector(&mut self) {
        self.forget_paths();
        let over = self.is_over() && self.workers.is_empty();
        // Before main becomes another program it goes last, and no other one comes.
        let gone = self.connector.post.servant.is_none();
        let leaves = self.is_settling() && (gone || self.half_way().is_none());
        if over || leaves || self.connector.known().next().is_none() {
            let dismissed = self.connector.post.dismiss(&self.poll);
            if dismissed.is_some() {
                self.connector.desks.clear();
            }
            self.dying.extend(dismissed);
        } else {
            self.connector.post.want(self.now_ms);
        }
        if self.connector.post.is_due(self.now_ms) {
            if let Err(e) = self.spawn_connector() {
                self.connector.post.try_later(&e, self.now_ms);
            }
        }
        let patience_ms = u64::from(self.settings.worker_timeout) * 1000;
        let post = &mut self.connector.post;
        post.look_after(patience_ms, &self.poll, self.now_ms);
    }

    fn forget_paths(&mut self) {
        let now_ms = self.now_ms;
        let over = |(due_ms, _): &mut (u64, Rc<str>)| *due_ms <= now_ms;
        while let Some((_, path)) = self.connector.leaving.pop_front_if(over) {
            // It may have come back, or have left once more.
            if !self.connector.known().any(|other| *other == path) {
                self.say_to_connector(&format!("forget path={path}"), Vec::new());
            }
        }
    }
}
