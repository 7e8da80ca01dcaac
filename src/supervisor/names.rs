//! What main knows of the names of backends: which there are, when each is asked for, who waits for an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use crate::config::Family;
use crate::limits::NAME_PATIENCE_MS;
use crate::net::token::Kind;
use crate::proto::reply;
use crate::proto::update::Step;
use crate::resolver::usable;
use crate::role::value;
use crate::slab::Key;
use crate::state::{Change, State};
use crate::supervisor::apply::{Done, Terms};
use crate::supervisor::servant::{Position, Post};
use crate::supervisor::RESOLVER_ROLE;
use crate::sys::shared::Shared;

static POSITION: Position = Position {
    called: "the resolver",
    title: "sozu resolver",
    role: RESOLVER_ROLE,
    kind: Kind::Resolver,
};

/// One name.
pub struct Name {
    /// Backends that have it. 0: it is forgotten when it is due.
    pub(super) backends: usize,
    /// Since when the resolver is asked.
    pub(super) asked_ms: Option<u64>,
    /// When it is asked next.
    pub(super) due_ms: u64,
    /// It was answered once, or for so long not that nobody waits for it any more.
    pub(super) answered: bool,
    /// Why the last question had no answer.
    pub(super) why: Option<String>,
    /// Since when it stands for what it does.
    pub(super) since_ms: u64,
}

/// What is done once names were answered.
pub enum Then {
    Change(Vec<Step>, Terms),
    Reload,
}

/// Somebody waits for the first answers of names.
pub struct Parked {
    /// `None`: a signal.
    pub(super) client: Option<Key>,
    pub(super) names: BTreeSet<Rc<str>>,
    pub(super) then: Then,
}

pub struct Names {
    pub(super) post: Post,
    /// Where the resolver's sandbox notes what it should not have done.
    pub(super) page: Option<Shared>,
    pub(super) known: BTreeMap<Rc<str>, Name>,
    pub(super) parked: Vec<Parked>,
    /// When some name is due, or has not been answered for too long.
    pub(super) due_ms: Option<u64>,
    /// When what names stand for is written down.
    pub(super) kept_ms: Option<u64>,
    pub(super) deaths: u64,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            post: Post::of(&POSITION),
            page: None,
            known: BTreeMap::new(),
            parked: Vec::new(),
            due_ms: None,
            kept_ms: None,
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
    pub(super) fn next_ms(&self, ready: bool) -> Option<u64> {
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

    /// At a start what was known before counts only for who has no other answer.
    pub fn doubt(&mut self) {
        self.known
            .values_mut()
            .for_each(|known| known.answered = false);
    }

    pub(super) fn want(&mut self, name: &Rc<str>, now_ms: u64) -> &mut Name {
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
    pub(super) fn are_answered<'a>(&self, mut names: impl Iterator<Item = &'a Rc<str>>) -> bool {
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

    /// What whoever adds a backend by that name should know.
    pub fn why_not(&self, name: Option<&Rc<str>>) -> Option<String> {
        let name = name?;
        let why = self.known.get(name)?.why.as_ref()?;
        Some(format!(
            "name {name} is not resolved: {why}; it is asked for again"
        ))
    }

    /// When to look after them again.
    pub fn due_ms(&self, worker_timeout: u32) -> Option<u64> {
        let post = self.post.due_ms(u64::from(worker_timeout) * 1000);
        [post, self.due_ms, self.kept_ms]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn forgive(&mut self, late_ms: u64) {
        self.post.forgive(late_ms);
    }

    /// Whoever asks has died: what was asked is asked again.
    pub(super) fn ask_anew(&mut self, now_ms: u64) {
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

/// As they are kept over a restart, a line for each name.
pub(super) fn kept_lines(state: &State) -> impl Iterator<Item = String> + '_ {
    let names = state.known_names();
    names.map(|(name, addresses)| {
        let pairs = [("name", name.to_string()), ("addresses", list(addresses))];
        reply::data("resolved", &pairs).trim_end().to_string()
    })
}

/// What names stood for when the proxy ran last, of those that are configured.
pub fn recall(state: &mut State, text: &str, family: Family) {
    let configured = state.backends().filter_map(|it| it.address.name());
    let configured: BTreeSet<Rc<str>> = configured.cloned().collect();
    for line in text.lines() {
        let name = value(line, "name").unwrap_or_default();
        let addresses = value(line, "addresses").unwrap_or_default();
        if let Some(name) = configured.get(name.as_str()) {
            state.set_addresses(name, read(&addresses, family));
        }
    }
}

/// The name of the backend that comes with a change, or goes with what it undoes.
pub(super) fn named(change: &Change) -> Option<&Rc<str>> {
    match change {
        Change::BackendAdd(backend) => backend.address.name(),
        _ => None,
    }
}

/// With commas between; "-" if there is none.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    match texts.is_empty() {
        true => "-".into(),
        false => texts.join(","),
    }
}

/// Of the text of an answer what can be connected to.
pub(super) fn read(text: &str, family: Family) -> Vec<IpAddr> {
    usable(text.split(',').filter_map(|ip| ip.parse().ok()), family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NAME_ADDRESSES_MAX;
    use crate::state::sample::Random;
    use crate::state::{Backend, Cluster};

    #[test]
    fn what_was_known_is_known_again() {
        let mut state = State::default();
        let cluster = Rc::new(Cluster {
            id: "a".into(),
            ..Random::new(1).cluster()
        });
        let backend = Rc::new(Backend {
            cluster: "a".into(),
            id: "b".into(),
            address: "app:1".parse().expect("an address"),
            ..Random::new(1).backend()
        });
        for change in [Change::ClusterAdd(cluster), Change::BackendAdd(backend)] {
            state.apply(&change).expect("a change");
        }
        let text = "resolved name=app addresses=10.0.0.2,x,10.0.0.1\nresolved name=other addresses=10.0.0.3\n\"\n";
        recall(&mut state, text, Family::Any);
        let kept: Vec<String> = kept_lines(&state).collect();
        assert_eq!(kept, ["resolved name=app addresses=10.0.0.1,10.0.0.2"]);
        let mut names = Names::of(&state, 0);
        assert!(names.all_are_answered());
        names.doubt();
        assert!(!names.all_are_answered());
    }

    #[test]
    fn of_an_answer_some_addresses_can_be_used() {
        let shown = |text, family| list(&read(text, family));
        let all = "10.0.0.2,10.0.0.1,::1,10.0.0.1,0.0.0.0,::,224.0.0.1,ff02::1,fe80::1,x,255.255.255.255,::ffff:10.0.0.3";
        assert_eq!(shown(all, Family::Any), "10.0.0.1,10.0.0.2,10.0.0.3,::1");
        assert_eq!(shown(all, Family::Ipv4), "10.0.0.1,10.0.0.2,10.0.0.3");
        assert_eq!(shown(all, Family::Ipv6), "::1");
        assert_eq!(shown("", Family::Any), "-");
        let many: Vec<String> = (0..1000)
            .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
            .collect();
        assert_eq!(read(&many.join(","), Family::Any).len(), NAME_ADDRESSES_MAX);
    }
}
