//! Names of backends: asked again and again, and what workers are told when the answer is another one.
//!
//! ```text
//!   a backend by name comes ──▶ due ──asked──▶ the resolver ──▶ answered ──resolve_interval──▶ due …
//!                                ▲                 │ dies, or no answer: what was known stays
//!                                └─────────────────┘
//! ```
//! What a name stood for holds until there is another answer: a name without one is a fault of those who are asked
//! more often than of the backends, and these have their own checks. Who brings a name that is new waits for its
//! first answer, for a while: a transaction that puts a name in the place of an address is to leave no
//! moment without servers. The same holds for the start: no worker is started before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::channel::Channel;
use crate::config::Family;
use crate::health::spread;
use crate::limits::{NAME_ADDRESSES_MAX, NAME_PATIENCE_MS, STATE_OBJECTS_MAX};
use crate::net::token::Kind;
use crate::proto::reply;
use crate::proto::update::Step;
use crate::random::hash_of;
use crate::resolver;
use crate::role::value;
use crate::slab::Key;
use crate::state::{Change, Code, Refused, State};
use crate::supervisor::apply::Done;
use crate::supervisor::servant::{Position, Post};
use crate::supervisor::{Stage, Supervisor, RESOLVER_ROLE};
use crate::sys::shared::Shared;

static POSITION: Position = Position {
    called: "the resolver",
    title: "sozu resolver",
    role: RESOLVER_ROLE,
    kind: Kind::Resolver,
};

/// One name.
struct Name {
    /// Backends that have it. 0: it is forgotten when it is due.
    backends: usize,
    /// Since when the resolver is asked.
    asked_ms: Option<u64>,
    /// When it is asked next.
    due_ms: u64,
    /// It was answered once, or for so long not that nobody waits for it any more.
    answered: bool,
    /// Why the last question had no answer.
    why: Option<String>,
    /// Since when it stands for what it does.
    since_ms: u64,
}

/// What is done once names were answered.
pub enum Then {
    Change {
        steps: Vec<Step>,
        confirm: Option<u32>,
        wait: Option<u32>,
    },
    Reload,
}

/// Somebody waits for the first answers of names.
struct Parked {
    /// `None`: a signal.
    client: Option<Key>,
    names: BTreeSet<Rc<str>>,
    then: Then,
}

pub struct Names {
    post: Post,
    /// Where the resolver's sandbox notes what it should not have done.
    page: Option<Shared>,
    known: BTreeMap<Rc<str>, Name>,
    parked: Vec<Parked>,
    /// When some name is due, or has not been answered for too long.
    due_ms: Option<u64>,
    deaths: u64,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            post: Post::of(&POSITION),
            page: None,
            known: BTreeMap::new(),
            parked: Vec::new(),
            due_ms: None,
            deaths: 0,
        }
    }
}

impl Name {
    fn new(now_ms: u64) -> Name {
        Name {
            backends: 0,
            asked_ms: None,
            due_ms: now_ms,
            answered: false,
            why: None,
            since_ms: now_ms,
        }
    }

    /// When there is something to do about it. `ready`: there is somebody to ask.
    fn next_ms(&self, ready: bool) -> Option<u64> {
        match (self.asked_ms, self.answered) {
            (Some(asked_ms), false) => Some(asked_ms + NAME_PATIENCE_MS),
            (Some(_), true) => None,
            (None, _) if ready => Some(self.due_ms),
            (None, false) => Some(self.due_ms + NAME_PATIENCE_MS),
            (None, true) => None,
        }
    }
}

impl Names {
    /// Those of a state that is there already.
    pub fn of(state: &State, now_ms: u64) -> Names {
        let mut names = Names::default();
        for backend in state.backends() {
            if let Some(name) = backend.address.name() {
                names.want(name, now_ms).backends += 1;
            }
        }
        for (name, known) in &mut names.known {
            known.answered = !state.addresses(name).is_empty();
        }
        names
    }

    fn want(&mut self, name: &Rc<str>, now_ms: u64) -> &mut Name {
        self.due_ms = Some(self.due_ms.unwrap_or(now_ms).min(now_ms));
        let known = self.known.entry(Rc::clone(name));
        known.or_insert_with(|| Name::new(now_ms))
    }

    /// A change was done.
    pub fn follow(&mut self, done: &Done, now_ms: u64) {
        for change in &done.changes {
            if let Some(name) = named(change) {
                self.want(name, now_ms).backends += 1;
            }
        }
        for name in done.undo.iter().filter_map(named) {
            if let Some(known) = self.known.get_mut(name) {
                known.backends = known.backends.saturating_sub(1);
            }
        }
    }

    /// Whether nobody has to wait for any of them.
    fn are_answered<'a>(&self, mut names: impl Iterator<Item = &'a Rc<str>>) -> bool {
        names.all(|name| self.known.get(name).is_some_and(|known| known.answered))
    }

    pub fn all_are_answered(&self) -> bool {
        self.known.values().all(|known| known.answered)
    }

    pub fn unresolved(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.why.is_some())
            .count()
    }

    pub fn is_waited_for(&self) -> bool {
        !self.parked.is_empty()
    }

    pub fn pid(&self) -> Option<u32> {
        self.post.pid()
    }

    /// There is somebody to ask.
    pub fn are_asked(&self) -> bool {
        self.post.is_ready()
    }

    /// When to look after them again.
    pub fn due_ms(&self, worker_timeout: u32) -> Option<u64> {
        let post = self.post.due_ms(u64::from(worker_timeout) * 1000);
        [post, self.due_ms].into_iter().flatten().min()
    }

    pub fn forgive(&mut self, late_ms: u64) {
        self.post.forgive(late_ms);
    }

    /// Whoever asks has died: what was asked is asked again.
    fn ask_anew(&mut self, now_ms: u64) {
        for known in self.known.values_mut() {
            if known.asked_ms.take().is_some() {
                known.due_ms = now_ms;
            }
        }
        self.due_ms = Some(now_ms);
    }

    /// That name, or every one, is due now; how many there are.
    pub fn refresh(&mut self, wanted: Option<&str>, now_ms: u64) -> usize {
        let all = self.known.iter_mut();
        let meant = all.filter(|(name, _)| wanted.is_none_or(|wanted| *wanted == ***name));
        let due = meant.map(|(_, known)| known.due_ms = now_ms);
        let count = due.count();
        self.due_ms = Some(now_ms);
        count
    }

    /// `name list`.
    pub fn lines(&self, state: &State, now_ms: u64) -> String {
        let line = |(name, known): (&Rc<str>, &Name)| {
            let mut pairs = vec![
                ("name", name.to_string()),
                ("addresses", list(state.addresses(name))),
                ("backends", known.backends.to_string()),
                (
                    "since_s",
                    (now_ms.saturating_sub(known.since_ms) / 1000).to_string(),
                ),
            ];
            pairs.extend(known.why.iter().map(|why| ("why", why.clone())));
            reply::data("name", &pairs)
        };
        self.known.iter().map(line).collect()
    }

    /// In `status`.
    pub fn status_line(&self, now_ms: u64) -> String {
        if self.known.is_empty() && self.post.servant.is_none() {
            return String::new();
        }
        let pairs = [
            ("pid", self.pid().unwrap_or(0).to_string()),
            ("state", self.post.state().to_string()),
            ("uptime_s", self.post.uptime_s(now_ms).to_string()),
            ("names", self.known.len().to_string()),
            ("unresolved", self.unresolved().to_string()),
            ("restarts", self.deaths.to_string()),
        ];
        reply::data("resolver", &pairs)
    }
}

/// The name of the backend that comes with a change, or goes with what it undoes.
fn named(change: &Change) -> Option<&Rc<str>> {
    match change {
        Change::BackendAdd(backend) => backend.address.name(),
        _ => None,
    }
}

/// With commas between; "-" if there is none.
fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    match texts.is_empty() {
        true => "-".into(),
        false => texts.join(","),
    }
}

/// Of an answer what can be connected to, in an order of its own; and no more than may be.
fn usable(text: &str, family: Family) -> Vec<IpAddr> {
    let good = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => {
            family != Family::Ipv6
                && !v4.is_unspecified()
                && !v4.is_multicast()
                && !v4.is_broadcast()
        }
        // Of the others it would have to be known on which link they are.
        IpAddr::V6(v6) => {
            let local = v6.segments()[0] & 0xffc0 == 0xfe80;
            family != Family::Ipv4 && !v6.is_unspecified() && !v6.is_multicast() && !local
        }
    };
    let ips = text.split(',').filter_map(|ip| ip.parse::<IpAddr>().ok());
    let ips: BTreeSet<IpAddr> = ips.map(|ip| ip.to_canonical()).filter(good).collect();
    ips.into_iter().take(NAME_ADDRESSES_MAX).collect()
}

impl Supervisor {
    fn spawn_resolver(&mut self) -> io::Result<()> {
        let (mut channel, end) = Channel::pair()?;
        let boot = reply::data("resolver", &[("level", self.settings.log_level.clone())]);
        let page = Shared::create(resolver::CELLS)?;
        let its_page = page.as_fd().try_clone_to_owned()?;
        channel.send_with(boot.trim_end(), vec![its_page, self.logs.log()?]);
        let (order, root) = self.sandbox.order()?;
        channel.send_with(&order, root);
        channel.send("start");
        channel.send("ready");
        let (outlets, now_ms) = (self.logs.outlets()?, self.now_ms);
        let post = &mut self.names.post;
        post.fill(channel, end, outlets, &self.poll, now_ms)?;
        self.names.page = Some(page);
        Ok(())
    }

    /// It has something to say, or takes more of what we say.
    pub(super) fn resolver_ready(&mut self) {
        let lines = self.names.post.hear(&self.poll, self.now_ms);
        for line in lines {
            match line.split(' ').next().unwrap_or_default() {
                "accepting" => {
                    if let Some(servant) = &mut self.names.post.servant {
                        servant.ready = true;
                    }
                    self.names.due_ms = Some(self.now_ms);
                }
                "resolved" => self.resolved(&line),
                _ => {}
            }
        }
    }

    /// What all processes are told.
    pub(super) fn say_to_resolver(&mut self, line: &str, fds: Vec<OwnedFd>) {
        self.names.post.say(line, fds);
        self.names.post.watch(&self.poll);
    }

    /// Whether it has died.
    pub(super) fn reap_resolver(&mut self) {
        let Some((servant, how)) = self.names.post.reap() else {
            return;
        };
        let page = self.names.page.take();
        if self.is_over() {
            return;
        }
        let pause_ms = self.names.post.replace(&servant, self.now_ms);
        self.names.deaths += 1;
        let (pid, how) = (servant.child.id(), self.resolver_death(page, how));
        log::error!("the resolver, pid {pid}, died ({how}); a new one starts in {pause_ms} ms, names stand for what they did");
        self.names.ask_anew(self.now_ms);
    }

    fn resolver_death(&mut self, page: Option<Shared>, how: Option<ExitStatus>) -> String {
        let cell = page.as_ref().and_then(|page| page.cells().first());
        let number = cell.map_or(0, |cell| cell.load(Relaxed));
        let text = how.map_or("nobody tells how".into(), |how| how.to_string());
        match self.violation(number, how) {
            Some(call) => format!("{text}, its sandbox forbids {call}"),
            None => text,
        }
    }

    /// The end has come.
    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. } | Stage::Stopping { .. })
    }

    /// At the end, and before another program takes the place of main, which starts its own.
    fn end_resolver(&mut self) {
        if let Some(child) = self.names.post.dismiss(&self.poll) {
            self.dying.push(child);
            self.names.ask_anew(self.now_ms);
        }
    }

    /// Asks what is due, forgets what nobody needs; starts who is to ask.
    pub(super) fn look_after_names(&mut self) {
        if self.is_over() || self.is_settling() {
            return self.end_resolver();
        }
        if !self.names.known.is_empty() {
            self.names.post.want(self.now_ms);
        }
        if self.names.post.is_due(self.now_ms) {
            if let Err(e) = self.spawn_resolver() {
                self.names.post.try_later(&e, self.now_ms);
            }
        }
        let patience_ms = u64::from(self.settings.worker_timeout) * 1000;
        let post = &mut self.names.post;
        post.look_after(patience_ms, &self.poll, self.now_ms);
        if self.names.due_ms.is_some_and(|due| due <= self.now_ms) {
            self.look_at_names();
        }
        self.unpark();
    }

    fn look_at_names(&mut self) {
        let (now_ms, ready) = (self.now_ms, self.names.post.is_ready());
        let is_due = |known: &Name| known.next_ms(ready).is_some_and(|next| next <= now_ms);
        let all = self.names.known.iter();
        let due = all.filter(|(_, known)| is_due(known));
        let due: Vec<Rc<str>> = due.map(|(name, _)| Rc::clone(name)).collect();
        for name in due {
            let mut parked = self.names.parked.iter();
            let is_waited_for = parked.any(|it| it.names.contains(&name));
            let Some(known) = self.names.known.get_mut(&name) else {
                continue;
            };
            if known.asked_ms.is_some() || !ready {
                known.answered = true;
                self.unresolved(&name, "there is no answer yet".into());
            } else if known.backends > 0 || is_waited_for {
                known.asked_ms = Some(now_ms);
                let question = format!("resolve name={name}");
                self.names.post.say(&question, Vec::new());
            } else {
                self.names.known.remove(&name);
                self.state.set_addresses(&name, Vec::new());
            }
        }
        self.names.post.watch(&self.poll);
        let known = self.names.known.values();
        self.names.due_ms = known.filter_map(|known| known.next_ms(ready)).min();
    }

    fn resolved(&mut self, line: &str) {
        let (now_ms, interval) = (
            self.now_ms,
            u64::from(self.settings.resolve_interval) * 1000,
        );
        let Some(name) = value(line, "name") else {
            return;
        };
        let Some((name, known)) = self.names.known.get_key_value(name.as_str()) else {
            return;
        };
        let (name, backends) = (Rc::clone(name), known.backends);
        let hash = hash_of(&[name.as_bytes()]);
        if let Some(known) = self.names.known.get_mut(&name) {
            known.asked_ms = None;
            known.answered = true;
            known.due_ms = now_ms + spread(interval, hash, now_ms);
        }
        self.names.due_ms = Some(now_ms);
        let addresses = value(line, "addresses").unwrap_or_default();
        let addresses = usable(&addresses, self.settings.resolve_family);
        let before = self.state.addresses(&name).len();
        let more = addresses
            .len()
            .saturating_sub(before)
            .saturating_mul(backends);
        let why = match addresses.is_empty() {
            true => Some(
                value(line, "why").unwrap_or_else(|| "it has no address that can be used".into()),
            ),
            false if more + self.digest.backends as usize > STATE_OBJECTS_MAX => Some(format!(
                "with its {} addresses there would be too many backends",
                addresses.len()
            )),
            false => None,
        };
        match why {
            Some(why) => self.unresolved(&name, why),
            None => self.stands_for(&name, addresses),
        }
    }

    /// There is no answer. What it stood for holds.
    fn unresolved(&mut self, name: &Rc<str>, why: String) {
        let Some(known) = self.names.known.get_mut(name) else {
            return;
        };
        if known.why.replace(why.clone()).is_some() {
            return;
        }
        let kept = list(self.state.addresses(name));
        log::warn!("name {name} is not resolved: {why}; it stands for what it did: {kept}");
        let pairs = [("name", name.to_string()), ("why", why)];
        self.tell_event("unresolved", &pairs);
    }

    fn stands_for(&mut self, name: &Rc<str>, addresses: Vec<IpAddr>) {
        let Some(known) = self.names.known.get_mut(name) else {
            return;
        };
        let was_lost = known.why.take().is_some();
        let is_new = self.state.addresses(name) != addresses;
        if is_new {
            known.since_ms = self.now_ms;
        } else if !was_lost {
            return;
        }
        let shown = list(&addresses);
        log::info!("name {name} stands for {shown}");
        let pairs = [("name", name.to_string()), ("addresses", shown)];
        self.tell_event("resolved", &pairs);
        if is_new {
            let served = self.state.renamed(name, addresses);
            self.serve_otherwise(served);
        }
    }

    // ---- who waits ------------------------------------------------------

    /// The names that come with these steps and that nobody has answered yet: they are asked for.
    pub(super) fn lacking(&mut self, steps: &[Step]) -> BTreeSet<Rc<str>> {
        let mut lacking = BTreeSet::new();
        for step in steps {
            let Step::Do(change) = step else { continue };
            let name = named(change);
            let unknown = |name: &&Rc<str>| !self.names.want(name, self.now_ms).answered;
            lacking.extend(name.filter(unknown).cloned());
        }
        lacking
    }

    /// Does it once these names are answered.
    pub(super) fn park(&mut self, names: BTreeSet<Rc<str>>, client: Option<Key>, then: Then) {
        let waiting = client.and_then(|key| self.control.clients.get_mut(key));
        waiting.into_iter().for_each(|client| client.waiting = true);
        let parked = Parked {
            client,
            names,
            then,
        };
        self.names.parked.push(parked);
    }

    /// Goes on with what waits for nothing any more.
    fn unpark(&mut self) {
        let all = std::mem::take(&mut self.names.parked);
        let (ready, left): (Vec<Parked>, Vec<Parked>) = all
            .into_iter()
            .partition(|it| self.names.are_answered(it.names.iter()));
        self.names.parked = left;
        for Parked { client, then, .. } in ready {
            let done = match (then, client) {
                (
                    Then::Change {
                        steps,
                        confirm,
                        wait,
                    },
                    Some(key),
                ) => self.change(steps, key, confirm, wait),
                (Then::Change { .. }, None) => Ok(String::new()),
                (Then::Reload, client) => self.reload(client),
            };
            self.tell_parked(client, done);
        }
    }

    fn tell_parked(&mut self, client: Option<Key>, done: Result<String, Refused>) {
        match (done, client) {
            (Ok(lines), Some(key)) => {
                if let Some(client) = self.control.clients.get_mut(key) {
                    client.outbox.push(&lines);
                    self.push_out(key, false);
                }
            }
            (Err(refused), Some(key)) => self.answer_late(key, &reply::error(&refused)),
            (Err(refused), None) => log::error!("not reloaded: {refused}"),
            (Ok(_), None) => {}
        }
    }

    /// Asks for a name, or for all, now.
    pub(super) fn refresh_names(&mut self, wanted: Option<&str>) -> Result<String, Refused> {
        match (self.names.refresh(wanted, self.now_ms), wanted) {
            (0, Some(name)) => {
                let what = format!("no backend has the name {name}");
                Err(Refused::new(Code::Missing, what))
            }
            (count, _) => Ok(reply::ok(&[("names", count.to_string())])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_some_addresses_can_be_used() {
        let shown = |text, family| list(&usable(text, family));
        let all = "10.0.0.2,10.0.0.1,::1,10.0.0.1,0.0.0.0,::,224.0.0.1,ff02::1,fe80::1,x,255.255.255.255,::ffff:10.0.0.3";
        assert_eq!(shown(all, Family::Any), "10.0.0.1,10.0.0.2,10.0.0.3,::1");
        assert_eq!(shown(all, Family::Ipv4), "10.0.0.1,10.0.0.2,10.0.0.3");
        assert_eq!(shown(all, Family::Ipv6), "::1");
        assert_eq!(shown("", Family::Any), "-");
        let many: Vec<String> = (0..1000)
            .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
            .collect();
        assert_eq!(
            usable(&many.join(","), Family::Any).len(),
            NAME_ADDRESSES_MAX
        );
    }
}
