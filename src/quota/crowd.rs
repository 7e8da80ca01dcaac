//! How many connections a client has, over all workers.
//!
//! Each worker has a page of counters to which it alone adds, and a client's
//! number is the sum over the pages: no locked instruction, and what a dead
//! worker had open goes with its page. Who comes is counted first and the sum
//! is looked at then, so two workers that admit at the same moment see each
//! other, and the limit is never passed.
//!
//! A page is bounded. Where all places of a set are taken, a newcomer is counted
//! together with one of the clients there: it may be refused too early, but does
//! not come in uncounted.

use std::sync::atomic::{fence, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::{Client, Clients, CROWD, PAGES, WAYS};
use crate::limits::WORKERS_MAX;

/// Clients that one worker tells apart: 1 MiB, if there are any.
const PLACES: usize = 1 << 17;
/// Before them a line of which the first counter says that there are: memory that nobody has
/// written to or read takes none.
pub const PAGE: usize = WAYS + PLACES;
/// Most connections of one client that can be asked for.
pub const CONNECTIONS_MAX: u32 = 1_000_000;

/// The low bits of a counter are the number, the others name the client.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const _: () = assert!((CONNECTIONS_MAX as u64) < COUNT);

/// Where a connection is counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Client {
    fn tag(self) -> u64 {
        self.0 >> COUNT_BITS
    }

    /// Where it is counted among the counters of its set: its own one, a free one, or with another client.
    fn way(self, set: &[AtomicU64]) -> usize {
        let mut free = None;
        for (way, cell) in set.iter().enumerate() {
            match cell.load(Relaxed) {
                0 => free = free.or(Some(way)),
                bits if bits >> COUNT_BITS == self.tag() => return way,
                _ => {}
            }
        }
        free.unwrap_or(self.tag() as usize % WAYS)
    }
}

impl Clients<'_> {
    /// One more connection of a client, on that page. `None`: it has as many as it may.
    pub fn admit(&self, page: usize, client: Client, most: u32) -> Option<Place> {
        let place = self.enter(page, client)?;
        // What others have entered before is seen; or they see this.
        fence(SeqCst);
        match self.connections(client) > u64::from(most) {
            true => {
                self.leave(page, place);
                None
            }
            false => Some(place),
        }
    }

    /// The same, whatever the limit: of one that was admitted elsewhere. `None`: it is not counted.
    pub fn enter(&self, page: usize, client: Client) -> Option<Place> {
        let (first, set) = client.set(self.page(page)?)?;
        let way = client.way(set);
        let bits = match set[way].load(Relaxed) {
            0 => client.tag() << COUNT_BITS,
            bits => bits,
        };
        if bits & COUNT == COUNT {
            return None;
        }
        set[way].store(bits + 1, Relaxed);
        self.used(page)?.store(1, Relaxed);
        Some(Place((first + way) as u32))
    }

    pub fn leave(&self, page: usize, place: Place) {
        let cell = self.page(page).and_then(|page| page.get(place.0 as usize));
        if let Some(cell) = cell {
            let bits = cell.load(Relaxed);
            let last = bits & COUNT <= 1;
            cell.store(if last { 0 } else { bits - 1 }, Relaxed);
        }
    }

    /// Connections of a client on all pages.
    pub fn connections(&self, client: Client) -> u64 {
        let pages = (self.get(PAGES) as usize).min(WORKERS_MAX);
        let used = (0..pages).filter(|page| self.is_used(*page));
        let pages = used.filter_map(|page| self.page(page));
        pages.map(|page| on_page(page, client)).sum()
    }

    /// A process is about to use that page. Main's part.
    pub fn open_page(&self, page: usize) {
        self.set(PAGES, self.get(PAGES).max(page as u64 + 1));
        self.forget(page);
    }

    /// The process of a page is dead, or begins: it has no connections. Main's part.
    pub fn forget(&self, page: usize) {
        if self.is_used(page) {
            let cells = self.page(page).unwrap_or_default();
            cells.iter().for_each(|cell| cell.store(0, Relaxed));
        }
    }

    /// The counters of a page, among all.
    pub fn cells_of(page: usize) -> std::ops::Range<usize> {
        let first = CROWD + page * PAGE;
        first..first + PAGE
    }

    fn used(&self, page: usize) -> Option<&AtomicU64> {
        self.0.get(CROWD + page * PAGE)
    }

    fn is_used(&self, page: usize) -> bool {
        let used = self.used(page).map(|cell| cell.load(Relaxed));
        used.is_some_and(|used| used != 0)
    }

    fn page(&self, page: usize) -> Option<&[AtomicU64]> {
        let first = CROWD + page * PAGE + WAYS;
        self.0.get(first..first + PLACES)
    }
}

fn on_page(page: &[AtomicU64], client: Client) -> u64 {
    let set = client.set(page);
    set.map_or(0, |(_, set)| set[client.way(set)].load(Relaxed) & COUNT)
}

#[cfg(test)]
mod tests {
    use super::super::tests::cells;
    use super::*;
    use crate::random::Random;
    use std::collections::HashMap;

    fn with_pages(cells: &[AtomicU64], pages: u64) -> Clients<'_> {
        cells[PAGES].store(pages, Relaxed);
        Clients(cells)
    }

    #[test]
    fn a_client_is_counted_over_all_pages_and_the_dead_have_none() {
        let cells = cells(CROWD + 3 * PAGE);
        let clients = with_pages(&cells, 3);
        let (one, other) = (Client(7 << 40 | 3), Client(8 << 40 | 3));
        let places: Vec<_> = (0..3).map(|page| clients.admit(page, one, 3)).collect();
        assert!(places.iter().all(Option::is_some));
        assert_eq!(clients.admit(1, one, 3), None);
        assert_eq!(clients.connections(one), 3);
        assert_eq!(clients.connections(other), 0);
        assert!(clients.admit(1, other, 1).is_some());
        clients.forget(2);
        assert_eq!(clients.connections(one), 2);
        let place = clients.admit(1, one, 3).expect("room");
        assert_eq!(clients.admit(0, one, 3), None);
        clients.leave(1, place);
        assert_eq!(clients.connections(one), 2);
        assert!(clients.enter(9, one).is_none());
    }

    /// As many come and go as a page has places, and more: nobody has more than it may, and in
    /// the end nobody is left.
    #[test]
    fn a_full_page_lets_nobody_in_uncounted() {
        let cells = cells(CROWD + PAGE);
        let clients = with_pages(&cells, 1);
        let mut random = Random::new(1);
        let mut inside: Vec<(u64, Place)> = Vec::new();
        let mut own: HashMap<u64, u32> = HashMap::new();
        let mut refused = 0;
        for _ in 0..20_000 {
            // All in two sets.
            let name = random.next_u64() % 40;
            let client = Client((name << 40) | (name % 2));
            match clients.admit(0, client, 4) {
                Some(place) => {
                    *own.entry(name).or_default() += 1;
                    inside.push((name, place));
                }
                None => refused += 1,
            }
            if random.below(3) > 0 && !inside.is_empty() {
                let at = random.next_u64() as usize % inside.len();
                let (name, place) = inside.swap_remove(at);
                *own.get_mut(&name).expect("it is inside") -= 1;
                clients.leave(0, place);
            }
            let both = cells[CROWD + WAYS..].iter().take(2 * WAYS);
            let sum: u64 = both.map(|cell| cell.load(Relaxed) & COUNT).sum();
            assert_eq!(sum, inside.len() as u64);
            assert!(inside.len() <= 4 * 2 * WAYS);
        }
        assert!(refused > 0);
        for (_, place) in inside {
            clients.leave(0, place);
        }
        let mut places = cells[CROWD + WAYS..].iter();
        assert!(places.all(|cell| cell.load(Relaxed) == 0));
    }

    #[test]
    fn any_number_may_stand_there() {
        let cells = cells(CROWD + PAGE);
        for bits in [u64::MAX, 1, COUNT, 1 << 63] {
            cells.iter().for_each(|cell| cell.store(bits, Relaxed));
            let clients = with_pages(&cells, 200);
            let client = Client(u64::MAX);
            let place = clients.admit(0, client, CONNECTIONS_MAX);
            place.into_iter().for_each(|place| clients.leave(0, place));
            clients.leave(0, Place(u32::MAX));
            clients.forget(0);
            assert_eq!(clients.connections(client), 0);
        }
    }

    /// Two workers at the same moment: never one too many.
    #[test]
    fn the_limit_holds_while_workers_race() {
        let cells = cells(CROWD + 4 * PAGE);
        let clients = with_pages(&cells, 4);
        let inside = AtomicU64::new(0);
        let race = |page: usize| {
            for _ in 0..2_000 {
                if let Some(place) = clients.admit(page, Client(9), 2) {
                    assert!(inside.fetch_add(1, SeqCst) < 2);
                    inside.fetch_sub(1, SeqCst);
                    clients.leave(page, place);
                }
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|page| drop(scope.spawn(move || race(page))));
        });
        assert_eq!(clients.connections(Client(9)), 0);
    }
}
