//! What main is told of backends: how many connections are left to those that
//! it waits for, and which went down or came up again.
//!
//! Numbers are told now and then, the last one at once; what changes faster
//! than it may be told is told as it is in the end.

use std::collections::VecDeque;

use crate::limits::{BACKEND_NEWS_PER_SECOND_MAX, TELL_MS};
use crate::slab::Key;

/// Backends that take nothing new, by the order of main to watch them.
#[derive(Default)]
pub struct Watches(Vec<Watch>);

struct Watch {
    order: u64,
    /// All their connections together.
    connections: u32,
    /// What main was told last, and when.
    told: Option<u32>,
    told_ms: u64,
}

impl Watch {
    fn tell_at_ms(&self) -> Option<u64> {
        match self.told {
            Some(told) if told == self.connections => None,
            Some(_) if self.connections > 0 => Some(self.told_ms + TELL_MS),
            _ => Some(0),
        }
    }
}

impl Watches {
    pub fn add(&mut self, order: u64, connections: u32) {
        self.0.push(Watch {
            order,
            connections,
            told: None,
            told_ms: 0,
        });
    }

    pub fn forget(&mut self, order: u64) {
        self.0.retain(|watch| watch.order != order);
    }

    pub fn knows(&self, order: u64) -> bool {
        self.0.iter().any(|watch| watch.order == order)
    }

    /// A backend that is watched by those orders got a connection.
    pub fn gained(&mut self, orders: &[u64]) {
        for watch in self.watching(orders) {
            watch.connections += 1;
        }
    }

    /// It has lost one.
    pub fn lost(&mut self, orders: &[u64]) {
        for watch in self.watching(orders) {
            watch.connections = watch.connections.saturating_sub(1);
        }
    }

    fn watching<'a>(&'a mut self, orders: &'a [u64]) -> impl Iterator<Item = &'a mut Watch> {
        let watches = self.0.iter_mut();
        watches.filter(|watch| orders.contains(&watch.order))
    }

    /// When main is to be told something.
    pub fn due_ms(&self) -> Option<u64> {
        self.0.iter().filter_map(Watch::tell_at_ms).min()
    }

    /// Orders and numbers that main should hear now. What has come to 0 is done with.
    pub fn news(&mut self, now_ms: u64) -> Vec<(u64, u32)> {
        let mut news = Vec::new();
        for watch in &mut self.0 {
            if watch.tell_at_ms().is_some_and(|at| at <= now_ms) {
                (watch.told, watch.told_ms) = (Some(watch.connections), now_ms);
                news.push((watch.order, watch.connections));
            }
        }
        self.0.retain(|watch| watch.told != Some(0));
        news
    }
}

/// Backends of which main may not know whether they are up.
#[derive(Default)]
pub struct News {
    queue: VecDeque<Key>,
    second: u64,
    told: u32,
}

impl News {
    /// There is something to tell of it; each stands here once.
    pub fn add(&mut self, backend: Key) {
        self.queue.push_back(backend);
    }

    /// The next one, unless enough was told in this second.
    pub fn next(&mut self, now_ms: u64) -> Option<Key> {
        let second = now_ms / 1000;
        if second != self.second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= BACKEND_NEWS_PER_SECOND_MAX {
            return None;
        }
        let next = self.queue.pop_front()?;
        self.told += 1;
        Some(next)
    }

    /// When there is more to tell.
    pub fn due_ms(&self) -> Option<u64> {
        (!self.queue.is_empty()).then_some((self.second + 1) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_and_the_last_are_told_at_once() {
        let mut watches = Watches::default();
        watches.add(1, 3);
        watches.add(2, 0);
        assert_eq!(watches.news(5000), [(1, 3), (2, 0)]);
        assert!(watches.knows(1) && !watches.knows(2));
        watches.lost(&[1, 2]);
        assert_eq!(watches.due_ms(), Some(5000 + TELL_MS));
        assert_eq!(watches.news(5001), []);
        watches.gained(&[1]);
        assert_eq!(watches.due_ms(), None);
        watches.lost(&[1]);
        assert_eq!(watches.news(5000 + TELL_MS), [(1, 2)]);
        watches.lost(&[7]);
        watches.lost(&[1]);
        watches.lost(&[1]);
        assert_eq!(watches.news(5000 + TELL_MS), [(1, 0)]);
        assert_eq!(watches.due_ms(), None);
        watches.add(3, 1);
        watches.forget(3);
        assert_eq!(watches.news(9000), []);
    }

    #[test]
    fn so_many_in_a_second() {
        let mut news = News::default();
        for index in 0..BACKEND_NEWS_PER_SECOND_MAX + 1 {
            news.add(Key {
                index,
                generation: 0,
            });
        }
        let told = |news: &mut News, now_ms| std::iter::from_fn(|| news.next(now_ms)).count();
        assert_eq!(told(&mut news, 7500), BACKEND_NEWS_PER_SECOND_MAX as usize);
        assert_eq!(news.due_ms(), Some(8000));
        assert_eq!(told(&mut news, 8000), 1);
        assert_eq!(news.due_ms(), None);
    }
}
