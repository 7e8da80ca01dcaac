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

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::channel::Channel;
use crate::health::spread;
use crate::limits::{NAMES_KEPT_MS, STATE_OBJECTS_MAX};
use crate::proto::reply;
use crate::proto::update::Step;
use crate::random::hash_of;
use crate::resolver;
use crate::role::value;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::names::{kept_lines, list, named, read, Name, Parked, Then};
use crate::supervisor::saved::{kept_names, write_atomically};
use crate::supervisor::{Stage, Supervisor};
use crate::sys::shared::Shared;

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
        let cell = page.as_ref().and_then(|page| page.cells().first());
        let number = cell.map_or(0, |cell| cell.load(Relaxed));
        let (pid, how) = (servant.child.id(), self.how_it_died(number, how));
        log::error!("the resolver, pid {pid}, died ({how}); a new one starts in {pause_ms} ms, names stand for what they did");
        self.names.ask_anew(self.now_ms);
    }

    /// For people: of what its sandbox forbids, if that is so.
    pub(super) fn how_it_died(&mut self, number: u64, how: Option<ExitStatus>) -> String {
        let text = how.map_or("nobody tells how".into(), |how| how.to_string());
        match self.violation(number, how) {
            Some(call) => format!("{text}, its sandbox forbids {call}"),
            None => text,
        }
    }

    /// The end has come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. } | Stage::Stopping { .. })
    }

    /// At the end, before another program takes the place of main, which starts its own, and when there is no name.
    fn end_resolver(&mut self) {
        if let Some(child) = self.names.post.dismiss(&self.poll) {
            self.dying.push(child);
            self.names.ask_anew(self.now_ms);
        }
        self.names.due_ms = None;
    }

    /// Asks what is due, forgets what nobody needs; starts who is to ask.
    pub(super) fn look_after_names(&mut self) {
        let over = self.is_over();
        // Who waits for an answer has it first.
        let ends = over || self.is_settling() && !self.names.is_waited_for();
        if ends || self.names.known.is_empty() {
            self.end_resolver();
        } else {
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
        self.unpark(over);
        self.keep_names(ends);
    }

    /// For a start without anybody to ask, where the state is kept as well.
    fn keep_names(&mut self, at_once: bool) {
        let over = |due_ms: &mut u64| at_once || *due_ms <= self.now_ms;
        if self.names.kept_ms.take_if(over).is_some() && self.saver.saves() {
            let path = kept_names(&self.file);
            if let Err(e) = write_atomically(&path, kept_lines(&self.state)) {
                let path = path.display();
                log::warn!("{path}: {e}: what names stand for is not known after a restart");
            }
        }
    }

    fn look_at_names(&mut self) {
        let (now_ms, ready) = (self.now_ms, self.names.post.is_ready());
        let is_due = |known: &Name| known.next_ms(ready).is_some_and(|next| next <= now_ms);
        let all = self.names.known.iter();
        let due = all.filter(|(_, known)| is_due(known));
        let due: Vec<Rc<str>> = due.map(|(name, _)| Rc::clone(name)).collect();
        for name in due {
            let mut parked = self.names.parked.iter();
            let undone = self.trial.iter().flat_map(|trial| &trial.undo);
            let mut undone = undone.filter_map(added_name);
            let is_waited_for =
                parked.any(|it| it.names.contains(&name)) || undone.any(|other| **other == *name);
            let Some(known) = self.names.known.get_mut(&name) else {
                continue;
            };
            if known.asked_ms.is_some() || !ready {
                known.answered = true;
                self.unresolved(&name, "there is no answer yet".into());
            } else if known.backends > 0 || is_waited_for {
                known.asked_ms = Some(now_ms);
                let family = self.settings.resolve_family.name();
                let doubtful = known.why.is_some();
                let question = format!("resolve name={name} family={family} doubtful={doubtful}");
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
            // Who answers what was not asked is no resolver of ours any more.
            if known.asked_ms.take().is_none() {
                return;
            }
            known.answered = true;
            known.due_ms = now_ms + spread(interval, hash, now_ms);
        }
        self.names.due_ms = Some(now_ms);
        let addresses = value(line, "addresses").unwrap_or_default();
        let addresses = read(&addresses, self.settings.resolve_family);
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
            let due_ms = self.now_ms + NAMES_KEPT_MS;
            self.names.kept_ms.get_or_insert(due_ms);
            self.serve_otherwise(served);
        }
    }

    // ---- who waits ------------------------------------------------------

    /// The names that come with these steps and that nobody has answered yet: they are asked for.
    pub(super) fn lacking(&mut self, steps: &[Step]) -> BTreeSet<Rc<str>> {
        let mut lacking = BTreeSet::new();
        for step in steps {
            let name = added_name(step);
            let unknown = |name: &&Rc<str>| !self.names.want(name, self.now_ms).answered;
            lacking.extend(name.filter(unknown).cloned());
        }
        lacking
    }

    /// Does it once these names are answered.
    pub(super) fn park(&mut self, names: BTreeSet<Rc<str>>, client: Option<Key>, then: Then) {
        // Signals that come meanwhile mean the same.
        let waits = |it: &Parked| it.client.is_none() && client.is_none();
        if self.names.parked.iter().any(waits) {
            return;
        }
        let waiting = client.and_then(|key| self.control.clients.get_mut(key));
        waiting.into_iter().for_each(|client| client.waiting = true);
        let parked = Parked {
            client,
            names,
            then,
        };
        self.names.parked.push(parked);
    }

    /// Goes on with what waits for nothing any more, or with all.
    fn unpark(&mut self, all: bool) {
        let parked = std::mem::take(&mut self.names.parked).into_iter();
        let goes_on = |it: &Parked| all || self.names.are_answered(it.names.iter());
        let (ready, left): (Vec<Parked>, Vec<Parked>) = parked.partition(goes_on);
        self.names.parked = left;
        for Parked { client, then, .. } in ready {
            let done = match (then, client) {
                (Then::Change(steps, terms), Some(key)) => self.change(steps, key, terms),
                (Then::Change(..), None) => Ok(String::new()),
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

/// The name of the backend that a step adds.
fn added_name(step: &Step) -> Option<&Rc<str>> {
    match step {
        Step::Do(change) => named(change),
        Step::Update(_) | Step::Replace(_) => None,
    }
}
