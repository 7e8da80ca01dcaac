//! Paused clusters, and who waits for each, in order.
//!
//! A pause goes by the name of the cluster: one that is replaced meanwhile is
//! still meant. A worker ends it by its own clock even if nobody tells it to.

use std::collections::{HashMap, VecDeque};

use crate::limits::{HELD_PER_CLUSTER_MAX, TELL_MS};
use crate::slab::Key;

/// Clients' slots in the order in which they came.
pub type Queue = VecDeque<Key>;

struct Hold {
    until_ms: u64,
    queue: Queue,
    /// How many main was told, and when.
    told: usize,
    told_ms: u64,
}

impl Hold {
    fn tell_at_ms(&self) -> Option<u64> {
        (self.queue.len() != self.told).then_some(self.told_ms + TELL_MS)
    }
}

#[derive(Default)]
pub struct Holds {
    paused: HashMap<String, Hold>,
    /// Waiting for any of them.
    held: usize,
    held_max: usize,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    NotPaused,
    Held,
    /// There are too many already; the pause lasts so many seconds yet.
    Full(u32),
}

impl Holds {
    /// At most so many in all: they need what others need as well.
    pub fn new(held_max: usize) -> Holds {
        Holds {
            held_max,
            ..Holds::default()
        }
    }

    /// Who waits already goes on waiting.
    pub fn pause(&mut self, cluster: String, until_ms: u64) {
        let hold = self.paused.entry(cluster).or_insert(Hold {
            until_ms,
            queue: Queue::new(),
            told: 0,
            told_ms: 0,
        });
        hold.until_ms = until_ms;
    }

    /// It is over for that cluster: those who waited.
    pub fn resume(&mut self, cluster: &str) -> Queue {
        let queue = self.paused.remove(cluster).map(|hold| hold.queue);
        let queue = queue.unwrap_or_default();
        self.held -= queue.len();
        queue
    }

    /// A request for that cluster.
    pub fn admit(&mut self, cluster: &str, slot: Key, now_ms: u64) -> Admission {
        if self.paused.is_empty() {
            return Admission::NotPaused;
        }
        let Some(hold) = self.paused.get_mut(cluster) else {
            return Admission::NotPaused;
        };
        if hold.queue.len() >= HELD_PER_CLUSTER_MAX || self.held >= self.held_max {
            let seconds = hold.until_ms.saturating_sub(now_ms).div_ceil(1000);
            return Admission::Full(u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
        }
        hold.queue.push_back(slot);
        self.held += 1;
        Admission::Held
    }

    /// It waits no longer: its client is gone.
    pub fn leave(&mut self, cluster: &str, slot: Key) {
        let Some(hold) = self.paused.get_mut(cluster) else {
            return;
        };
        if let Some(place) = hold.queue.iter().position(|key| *key == slot) {
            hold.queue.remove(place);
            self.held -= 1;
        }
    }

    /// When the first pause is over.
    pub fn over_ms(&self) -> Option<u64> {
        self.paused.values().map(|hold| hold.until_ms).min()
    }

    /// When main is to be told something.
    pub fn tell_at_ms(&self) -> Option<u64> {
        self.paused.values().filter_map(Hold::tell_at_ms).min()
    }

    /// Clusters whose time is over.
    pub fn over(&self, now_ms: u64) -> Vec<String> {
        self.names(|_, hold| hold.until_ms <= now_ms)
    }

    /// Clusters that are not there any more.
    pub fn orphaned(&self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        self.names(|cluster, _| !is_there(cluster))
    }

    fn names(&self, wanted: impl Fn(&str, &Hold) -> bool) -> Vec<String> {
        let wanted = self.paused.iter().filter(|(name, hold)| wanted(name, hold));
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// How many wait, where main should hear of it now.
    pub fn news(&mut self, now_ms: u64) -> Vec<(String, usize)> {
        let mut news = Vec::new();
        for (name, hold) in &mut self.paused {
            if hold.tell_at_ms().is_some_and(|at| at <= now_ms) {
                (hold.told, hold.told_ms) = (hold.queue.len(), now_ms);
                news.push((name.clone(), hold.told));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: usize) -> Key {
        let index = index as u32;
        Key {
            index,
            generation: 0,
        }
    }

    #[test]
    fn who_came_first_goes_first_and_who_left_does_not() {
        let mut holds = Holds::new(10);
        assert_eq!(holds.admit("a", key(0), 0), Admission::NotPaused);
        holds.pause("a".into(), 5000);
        assert_eq!(holds.admit("b", key(0), 0), Admission::NotPaused);
        for index in 0..4 {
            assert_eq!(holds.admit("a", key(index), 0), Admission::Held);
        }
        holds.leave("a", key(1));
        holds.leave("a", key(9));
        holds.leave("b", key(0));
        holds.pause("a".into(), 9000);
        assert_eq!(holds.over(8999), Vec::<String>::new());
        assert_eq!(holds.over(9000), ["a"]);
        assert_eq!(holds.resume("a"), [key(0), key(2), key(3)]);
        assert_eq!(holds.resume("a"), []);
        assert_eq!(holds.admit("a", key(0), 0), Admission::NotPaused);
    }

    #[test]
    fn each_has_a_bound_and_all_together() {
        let mut holds = Holds::new(HELD_PER_CLUSTER_MAX + 2);
        for name in ["a", "b"] {
            holds.pause(name.into(), 5000);
        }
        for index in 0..HELD_PER_CLUSTER_MAX {
            assert_eq!(holds.admit("a", key(index), 0), Admission::Held);
        }
        assert_eq!(holds.admit("a", key(5000), 1001), Admission::Full(4));
        assert_eq!(holds.admit("a", key(5000), 6000), Admission::Full(1));
        for index in 0..2 {
            assert_eq!(holds.admit("b", key(index), 0), Admission::Held);
        }
        assert_eq!(holds.admit("b", key(2), 0), Admission::Full(5));
        holds.leave("a", key(7));
        assert_eq!(holds.admit("b", key(2), 0), Admission::Held);
        assert_eq!(holds.orphaned(|name| name == "a"), ["b"]);
        assert_eq!(holds.resume("b").len(), 3);
        assert_eq!(holds.admit("a", key(8), 0), Admission::Held);
    }

    #[test]
    fn main_hears_of_it_now_and_then() {
        let mut holds = Holds::new(10);
        holds.pause("a".into(), 5000);
        assert_eq!((holds.over_ms(), holds.tell_at_ms()), (Some(5000), None));
        assert_eq!(holds.news(1000), []);
        holds.admit("a", key(0), 1000);
        assert_eq!(holds.news(1000), [("a".to_string(), 1)]);
        holds.admit("a", key(1), 1001);
        assert_eq!(holds.tell_at_ms(), Some(1000 + TELL_MS));
        assert_eq!(holds.news(1001), []);
        assert_eq!(holds.news(1000 + TELL_MS), [("a".to_string(), 2)]);
        assert_eq!(holds.tell_at_ms(), None);
    }
}
