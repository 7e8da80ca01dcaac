//! Who of a cluster's backends is chosen, and who waits while all of them are busy.
//!
//! What a backend is worth (`Standing`) is told to the balancer whenever something of it changes. Time
//! alone changes two things, looked at as a backend is wanted: that one is left alone no more, and that
//! one which came back has warmed up a bit. How many requests a backend has is known of all workers
//! together (`Count::Busy`): it may have a few more than its `max_connections` if two workers begin one
//! at the very same time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::balance::{ramp, Ask, Balancer, Nobody, Seat, Standing};
use crate::limits::QUEUE_LOOK_MS;
use crate::metrics::Count;
use crate::slab::Key;
use crate::state::LoadBalancing;
use crate::worker::pool::{Backend, Backs};

/// How often it is looked at backends that warm up or are full.
const LOOK_MS: u64 = 20;

/// A client's slot that waits, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub slot: Key,
    pub until_ms: u64,
}

/// What a cluster knows of its backends beyond their names.
pub struct Choice {
    pub(super) balancer: Balancer,
    /// Backends by their seats.
    seats: Vec<Key>,
    /// When somebody is not left alone any more, the first on top; by index and generation of his key.
    returns: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// They came back, and have not their whole weight yet.
    warming: Vec<Key>,
    /// They had as many requests as they may.
    full: Vec<Key>,
    looked_ms: u64,
    /// First come, first served.
    queue: VecDeque<Waiting>,
}

/// What came of asking for a backend.
pub(super) enum Chosen {
    Backend(Key),
    /// All have as many requests as they may.
    Busy,
    Nobody,
}

impl Choice {
    pub fn new(policy: LoadBalancing) -> Choice {
        Choice {
            balancer: Balancer::new(policy),
            seats: Vec::new(),
            returns: BinaryHeap::new(),
            warming: Vec::new(),
            full: Vec::new(),
            looked_ms: 0,
            queue: VecDeque::new(),
        }
    }
}

impl Backend {
    fn standing(&self, slow_start_ms: u64, now_ms: u64) -> Standing {
        let conf = self.conf();
        // Whoever has always been there is warm.
        let since_ms = self.back_ms.map(|back_ms| now_ms.saturating_sub(back_ms));
        Standing {
            weight: ramp(conf.weight, since_ms.unwrap_or(u64::MAX), slow_start_ms),
            backup: conf.backup,
            usable: self.takes_requests(),
            out: self.is_sick() || self.health.is_out(now_ms),
            ill: self.is_sick() || self.down,
            full: self.full,
        }
    }
}

impl Backs {
    // ---- standings --------------------------------------------------------

    /// A new backend, with a seat in its cluster.
    pub(super) fn seat(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(backend.cluster) else {
            return;
        };
        let (id, weight) = (backend.conf().id.clone(), backend.conf().weight);
        let choice = &mut cluster.choice;
        let standing = backend.standing(0, now_ms);
        let seat = choice
            .balancer
            .take_seat(&id, weight, standing, now_ms * 1000);
        backend.seat = Some(seat);
        if choice.seats.len() <= seat as usize {
            choice.seats.resize(seat as usize + 1, key);
        }
        choice.seats[seat as usize] = key;
    }

    pub(super) fn unseat(&mut self, key: Key) {
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let (seat, cluster) = (backend.seat.take(), backend.cluster);
        if let Some((seat, cluster)) = seat.zip(self.clusters.get_mut(cluster)) {
            cluster.choice.balancer.leave_seat(seat);
        }
    }

    /// Something of a backend has changed.
    pub(super) fn restand(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(backend) = self.backends.get(key) else {
            return;
        };
        let Some((seat, cluster)) = backend.seat.zip(self.clusters.get_mut(backend.cluster)) else {
            return;
        };
        let standing = backend.standing(cluster.slow_start_ms(), now_ms);
        cluster
            .choice
            .balancer
            .set_weight(seat, backend.conf().weight);
        cluster.choice.balancer.set_standing(seat, standing);
        let until_ms = backend.health.until_ms();
        if standing.out && backend.returns_ms != until_ms {
            let entry = Reverse((until_ms, key.index, key.generation));
            cluster.choice.returns.push(entry);
            if let Some(backend) = self.backends.get_mut(key) {
                backend.returns_ms = until_ms;
            }
        }
    }

    /// It has come back, or is new: it warms up, unless nobody was asked for anything yet.
    pub(super) fn warm_up(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(backend.cluster) else {
            return;
        };
        if cluster.slow_start_ms() > 0 && cluster.choice.balancer.has_chosen() {
            backend.back_ms = Some(now_ms);
            cluster.choice.warming.push(key);
        }
    }

    /// What time alone has changed.
    fn look_again(&mut self, cluster: Key, now_ms: u64) {
        while let Some(key) = self.next_return(cluster, now_ms) {
            self.restand(key);
        }
        let Some(known) = self.clusters.get_mut(cluster) else {
            return;
        };
        let choice = &mut known.choice;
        if choice.warming.is_empty() && choice.full.is_empty()
            || now_ms < choice.looked_ms + LOOK_MS
        {
            return;
        }
        choice.looked_ms = now_ms;
        let slow_start_ms = known.slow_start_ms();
        for key in std::mem::take(&mut known.choice.warming) {
            self.restand(key);
            let since = self.backends.get(key).and_then(|backend| backend.back_ms);
            if since.is_some_and(|since| now_ms < since + slow_start_ms) {
                if let Some(known) = self.clusters.get_mut(cluster) {
                    known.choice.warming.push(key);
                }
            }
        }
        self.empty_again(cluster);
    }

    fn next_return(&mut self, cluster: Key, now_ms: u64) -> Option<Key> {
        let returns = &mut self.clusters.get_mut(cluster)?.choice.returns;
        let Reverse((until_ms, index, generation)) = *returns.peek()?;
        if until_ms > now_ms {
            return None;
        }
        returns.pop();
        Some(Key { index, generation })
    }

    // ---- how many requests they have ----------------------------------------

    pub(super) fn begin(&mut self, backend: Key) {
        let Some(server) = self.backends.get(backend) else {
            return;
        };
        self.tally.row(server.server.series).add(Count::Busy, 1);
        if let Some((seat, cluster)) = server.seat.zip(self.clusters.get_mut(server.cluster)) {
            cluster.choice.balancer.begin(seat);
        }
    }

    pub(super) fn end(&mut self, backend: Key) {
        let Some(server) = self.backends.get_mut(backend) else {
            return;
        };
        self.tally.row(server.server.series).take_one(Count::Busy);
        let (key, was_full) = (server.cluster, std::mem::take(&mut server.full));
        let Some((seat, cluster)) = server.seat.zip(self.clusters.get_mut(key)) else {
            return;
        };
        cluster.choice.balancer.end(seat);
        if !cluster.choice.queue.is_empty() {
            self.freed.push(key);
        }
        if was_full {
            self.restand(backend);
        }
    }

    /// It has answered, so long after it was asked.
    pub fn took(&mut self, backend: Key, us: u64, now_us: u64) {
        let Some(server) = self.backends.get(backend) else {
            return;
        };
        if let Some((seat, cluster)) = server.seat.zip(self.clusters.get_mut(server.cluster)) {
            cluster.choice.balancer.answered(seat, us, now_us);
        }
    }

    fn is_full(&self, backend: &Backend) -> bool {
        let Some(most) = backend.conf().max_connections else {
            return false;
        };
        let busy = match backend.server.series {
            Some(series) => self.tally.ledger().sum(series, Count::Busy),
            None => backend.connections.into(),
        };
        busy >= u64::from(most)
    }

    /// Those that are not full any more.
    fn empty_again(&mut self, cluster: Key) {
        let Some(known) = self.clusters.get_mut(cluster) else {
            return;
        };
        let mut full = std::mem::take(&mut known.choice.full);
        // One that was emptied by an end and is full again stands there twice.
        full.sort_unstable_by_key(|key| (key.index, key.generation));
        full.dedup();
        full.retain(|key| match self.backends.get(*key) {
            Some(backend) if backend.full && self.is_full(backend) => true,
            _ => {
                self.set_full(*key, false);
                false
            }
        });
        if let Some(known) = self.clusters.get_mut(cluster) {
            known.choice.full = full;
        }
    }

    fn set_full(&mut self, key: Key, full: bool) {
        if let Some(backend) = self.backends.get_mut(key) {
            backend.full = full;
            self.restand(key);
        }
    }

    // ---- chosen -------------------------------------------------------------

    /// For a request that goes by `ask`, at best to the backend that its cookie names. `called`: its turn in the queue
    /// has come.
    pub(super) fn choose(
        &mut self,
        cluster: Key,
        (ask, sticky, called): (Ask, &str, bool),
        tried: &[Key],
        now_ms: u64,
    ) -> Chosen {
        self.look_again(cluster, now_ms);
        let queue = self.clusters.get(cluster).map(|known| &known.choice.queue);
        if !called && queue.is_some_and(|queue| !queue.is_empty()) {
            return Chosen::Busy;
        }
        if let Some(key) = self.kept_at(cluster, sticky, tried) {
            return Chosen::Backend(key);
        }
        let mut seats: Vec<Seat> = Vec::new();
        for key in tried {
            let seat = self.backends.get(*key).and_then(|backend| backend.seat);
            seats.extend(seat.filter(|seat| !seats.contains(seat)));
        }
        loop {
            let Some(known) = self.clusters.get_mut(cluster) else {
                return Chosen::Nobody;
            };
            let choice = &mut known.choice;
            let key = match choice.balancer.choose(ask, &seats, &mut self.random) {
                Ok(seat) => choice.seats[seat as usize],
                Err(Nobody::Free) => return Chosen::Busy,
                Err(Nobody::There) => return Chosen::Nobody,
            };
            match self.backends.get(key) {
                Some(backend) if self.is_full(backend) => {
                    if let Some(known) = self.clusters.get_mut(cluster) {
                        known.choice.full.push(key);
                    }
                    self.set_full(key, true);
                }
                _ => return Chosen::Backend(key),
            }
        }
    }

    /// Where a cookie keeps a client, if that one can be used now.
    fn kept_at(&self, cluster: Key, sticky: &str, tried: &[Key]) -> Option<Key> {
        if sticky.is_empty() {
            return None;
        }
        let cluster = self.clusters.get(cluster)?;
        let key = *cluster.by_cookie.get(sticky)?;
        let backend = self.backends.get(key)?;
        let standing = cluster.choice.balancer.standing(backend.seat?)?;
        let good = standing.usable && !standing.out && !tried.contains(&key);
        (good && !self.is_full(backend)).then_some(key)
    }

    // ---- the queue ------------------------------------------------------------

    /// A request waits. `first`: it did so before. False: too many do.
    pub fn line_up(&mut self, cluster: Key, waiting: Waiting, first: bool) -> bool {
        let Some(known) = self.clusters.get_mut(cluster) else {
            return false;
        };
        let target = known.lead.target();
        let queue = &mut known.choice.queue;
        let most = target.cluster.balancing.max_queue as usize;
        if !first && (queue.len() >= most || self.waiting >= self.waiting_max) {
            return false;
        }
        match first {
            true => queue.push_front(waiting),
            false => queue.push_back(waiting),
        }
        if queue.len() == 1 {
            self.queues.push(cluster);
        }
        self.waiting += 1;
        self.tally
            .row(target.series)
            .set(Count::Queued, queue.len() as u64);
        true
    }

    /// It waits no longer.
    pub fn leave_line(&mut self, cluster: Key, slot: Key) {
        let Some(known) = self.clusters.get_mut(cluster) else {
            return;
        };
        let queue = &mut known.choice.queue;
        if let Some(place) = queue.iter().position(|waiting| waiting.slot == slot) {
            queue.remove(place);
            self.one_less(cluster);
        }
    }

    fn one_less(&mut self, cluster: Key) {
        self.waiting -= 1;
        let Some(known) = self.clusters.get(cluster) else {
            return;
        };
        let left = known.choice.queue.len();
        self.tally
            .row(known.lead.target().series)
            .set(Count::Queued, left as u64);
        if left == 0 {
            self.queues.retain(|key| *key != cluster);
        }
    }

    /// Whoever waits longest for a cluster in which a request has ended.
    pub fn next_in_line(&mut self, cluster: Key) -> Option<Waiting> {
        let first = self.clusters.get_mut(cluster)?.choice.queue.pop_front()?;
        self.one_less(cluster);
        Some(first)
    }

    /// Clusters in which somebody waits and may be served now.
    pub fn freed(&mut self, now_ms: u64) -> Vec<Key> {
        let mut freed = std::mem::take(&mut self.freed);
        if !self.queues.is_empty() && now_ms >= self.queues_looked_ms + QUEUE_LOOK_MS {
            self.queues_looked_ms = now_ms;
            for cluster in self.queues.clone() {
                while let Some(key) = self.next_return(cluster, now_ms) {
                    self.restand(key);
                }
                self.empty_again(cluster);
                freed.push(cluster);
            }
        }
        freed.sort_unstable_by_key(|key| key.index);
        freed.dedup();
        freed
    }

    /// The next one whose time in a queue is over.
    pub fn next_late(&mut self, now_ms: u64) -> Option<Key> {
        let late = |cluster: &&Key| {
            let known = self.clusters.get(**cluster);
            let first = known.and_then(|known| known.choice.queue.front());
            first.is_some_and(|first| first.until_ms <= now_ms)
        };
        let cluster = *self.queues.iter().find(late)?;
        self.next_in_line(cluster).map(|waiting| waiting.slot)
    }

    /// When it is to be looked at the queues.
    pub fn queues_due_ms(&self) -> Option<u64> {
        let now = (!self.freed.is_empty()).then_some(0);
        let look = (!self.queues.is_empty()).then_some(self.queues_looked_ms + QUEUE_LOOK_MS);
        now.or(look)
    }
}
