//! What is known of a backend by its checks, and when that changes.

use crate::random::hash_of;
use crate::state::{Check, Cluster};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It was not asked yet: it is used.
    #[default]
    Unknown,
    Up,
    Down,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Up => "up",
            Verdict::Down => "down",
        }
    }
}

/// What one worker knows. The verdict is everybody's, and changes only when everybody is
/// told (`settle`); the results are its own, of the checks that it makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    verdict: Verdict,
    /// Results in a row that say otherwise.
    contrary: u32,
}

impl Checks {
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// One check has passed, or not. What everybody should be told now; again with every
    /// further result, should nobody have heard it.
    pub fn result(&mut self, passed: bool, check: &Check) -> Option<Verdict> {
        let (found, needed) = match (self.verdict, passed) {
            (Verdict::Up, true) | (Verdict::Down, false) => {
                self.contrary = 0;
                return None;
            }
            (Verdict::Unknown, true) => (Verdict::Up, 1),
            (Verdict::Unknown, false) => (Verdict::Down, 1),
            (Verdict::Up, false) => (Verdict::Down, check.fall),
            (Verdict::Down, true) => (Verdict::Up, check.rise),
        };
        self.contrary = self.contrary.saturating_add(1);
        (self.contrary >= needed).then_some(found)
    }

    /// Everybody is told. False: it is nothing new.
    pub fn settle(&mut self, verdict: Verdict) -> bool {
        let new = self.verdict != verdict;
        if new {
            *self = Checks {
                verdict,
                contrary: 0,
            };
        }
        new
    }
}

/// What the checks of a cluster ask, as a number: a verdict on another question is none.
/// How often they ask does not matter.
pub fn question(cluster: &Cluster) -> Option<u64> {
    let check = cluster.check.as_ref()?;
    let tls = cluster.tls.as_ref();
    let tls = tls.map(|tls| {
        let own = tls.own.as_ref().map(|own| &own.chain);
        (tls.verify, &tls.ca, &tls.server_name, own)
    });
    let proxy = cluster.send_proxy.map(|version| version.name());
    let text = format!("{:?} {:?} {tls:?} {proxy:?}", check.ask, check.host);
    Some(hash_of(&[text.as_bytes()]))
}
