//! The ledger: counters of every listener, cluster and backend, in memory that
//! main made and all processes have mapped.
//!
//! Main gives each object a series, that is a row of counters (`metrics`), and
//! each process a page with all rows. A process adds to its own page only, so
//! that adding takes no lock and moves no cache line between processors; a figure
//! is the sum over the pages. A page outlives its process: who comes next goes
//! on adding where the dead one stopped. A row that was given to another object
//! has another generation, and what is still added for the one before is lost.
//! As on the board, any worker can write any number anywhere: they inform, and some things go by them: the verdict
//! on a canary (`supervisor/canary`), whether a backend has `max_connections`, and, by the counters of
//! clients behind the pages (`quota`), who is refused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::limits::{SERIES_MAX, WORKERS_MAX};
use crate::metrics::{bucket, Count, Series, Totals, CELLS};
use crate::quota::crowd::Place;
use crate::quota::{self, Clients};
use crate::slab::Key;
use crate::sys::shared::Shared;

/// What main tells all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Pages that were ever used, from the first.
    Pages,
    Revision,
    /// Seconds since 1970.
    Started,
    Deaths,
    /// Workers that did what their sandbox forbids.
    Violations,
    Missing,
    /// Times that another program took the place of main.
    Upgrades,
    /// Made and refused by the key process.
    Signatures,
    SignaturesRefused,
    /// Key processes that died.
    KeysDeaths,
    /// Listening sockets that had stopped.
    Revived,
    /// Names of backends whose last question had no answer.
    Unresolved,
}

/// Cells for notes, then one generation per series, then the pages.
const NOTES: usize = 32;
const PAGES: usize = NOTES + SERIES_MAX;
/// Cells of a page.
const PAGE: usize = SERIES_MAX * CELLS;

/// Where the pages end, and the counters of clients begin.
const CLIENTS: usize = PAGES + WORKERS_MAX * PAGE;
const ALL: usize = CLIENTS + quota::CELLS;

/// A file that takes no more memory than was written to.
pub struct Ledger(Shared);

impl Ledger {
    /// How it is arranged: who has another arrangement cannot read it.
    pub fn layout() -> String {
        let clients = quota::layout();
        format!("{NOTES}+{SERIES_MAX}+{WORKERS_MAX}x{CELLS}+{clients}")
    }

    pub fn create() -> io::Result<Ledger> {
        Ok(Ledger(Shared::create(ALL)?))
    }

    pub fn map(file: OwnedFd) -> io::Result<Ledger> {
        let ledger = Ledger(Shared::map(file)?);
        if ledger.0.cells().len() < ALL {
            return Err(io::Error::other("the ledger is too small"));
        }
        Ok(ledger)
    }

    fn cell(&self, note: Note) -> &AtomicU64 {
        &self.0.cells()[note as usize]
    }

    pub fn note(&self, note: Note) -> u64 {
        self.cell(note).load(Relaxed)
    }

    pub fn set_note(&self, note: Note, value: u64) {
        self.cell(note).store(value, Relaxed);
    }

    fn generation(&self, index: u32) -> Option<&AtomicU64> {
        let index = index as usize;
        (index < SERIES_MAX).then(|| &self.0.cells()[NOTES + index])
    }

    /// The row of a series on a process's page, as long as it is that series'.
    fn row(&self, page: usize, series: Key) -> Option<&[AtomicU64]> {
        let generation = self.generation(series.index)?.load(Relaxed);
        let first = PAGES + (page % WORKERS_MAX) * PAGE + series.index as usize * CELLS;
        (generation == u64::from(series.generation)).then(|| &self.0.cells()[first..first + CELLS])
    }

    fn pages(&self) -> usize {
        (self.note(Note::Pages) as usize).min(WORKERS_MAX)
    }

    /// The counters of clients.
    pub fn clients(&self) -> Clients<'_> {
        Clients(&self.0.cells()[CLIENTS..])
    }

    /// Added up over all pages.
    pub fn totals(&self, series: Series) -> Totals {
        let mut totals = Totals::default();
        let Some(series) = series else {
            return totals;
        };
        for page in 0..self.pages() {
            let row = self.row(page, series).unwrap_or_default();
            for (total, cell) in totals.cells.iter_mut().zip(row) {
                *total = total.wrapping_add(cell.load(Relaxed));
            }
        }
        totals
    }

    /// One counter, added up over all pages.
    pub fn sum(&self, series: Key, count: Count) -> u64 {
        let rows = (0..self.pages()).filter_map(|page| self.row(page, series));
        let cells = rows.map(|row| row[count as usize].load(Relaxed));
        cells.fold(0, u64::saturating_add)
    }

    /// What one process has counted.
    pub fn of_page(&self, page: usize, series: Key) -> Totals {
        let mut totals = Totals::default();
        let row = self.row(page, series).unwrap_or_default();
        for (total, cell) in totals.cells.iter_mut().zip(row) {
            *total = cell.load(Relaxed);
        }
        totals
    }

    // ---- main's part ----------------------------------------------------

    /// A process is about to use that page.
    pub fn open_page(&self, page: usize) {
        let used = self.note(Note::Pages).max(page as u64 + 1);
        self.set_note(Note::Pages, used);
        self.clients().open_page(page);
    }

    /// A row begins to count for somebody else. What was counted in it is forgotten.
    pub fn begin(&self, series: Key) {
        let Some(generation) = self.generation(series.index) else {
            return;
        };
        let used_before = generation.swap(u64::from(series.generation), Relaxed) != 0;
        for page in (0..self.pages()).filter(|_| used_before) {
            let row = self.row(page, series).unwrap_or_default();
            row.iter().for_each(|cell| cell.store(0, Relaxed));
        }
    }

    /// A process is dead, and nobody knows what it has written, and where: what no living process (`alive`) has
    /// is cleared, and what main alone says is said again. Of the first `pages` pages what was counted stays.
    pub fn restore(&self, alive: &[usize], pages: usize, series: impl Iterator<Item = Key>) {
        let series: Vec<Key> = series.collect();
        for series in &series {
            if let Some(generation) = self.generation(series.index) {
                generation.store(u64::from(series.generation), Relaxed);
            }
        }
        self.show_pages(pages as u64);
        for page in (0..WORKERS_MAX).filter(|page| !alive.contains(page)) {
            let crowd = Clients::cells_of(page);
            let cleared = self.0.clear(CLIENTS + crowd.start..CLIENTS + crowd.end);
            if cleared.is_err() {
                self.clients().forget(page);
            }
            if page >= pages {
                let first = PAGES + page * PAGE;
                // An error: nobody reads it either.
                let _ = self.0.clear(first..first + PAGE);
                continue;
            }
            // It has nothing open, and avoids nobody.
            for row in series.iter().filter_map(|series| self.row(page, *series)) {
                for now in [Count::Open, Count::Avoided, Count::Busy, Count::Queued] {
                    row[now as usize].store(0, Relaxed);
                }
            }
        }
    }

    /// So many pages were ever used, as main knows.
    pub fn show_pages(&self, pages: u64) {
        self.set_note(Note::Pages, pages);
        self.clients().show_pages(pages);
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A worker's hand in the ledger.
#[derive(Clone)]
pub struct Tally {
    ledger: Rc<Ledger>,
    page: usize,
}

impl Tally {
    pub fn new(ledger: Ledger, page: usize) -> Tally {
        Tally {
            ledger: Rc::new(ledger),
            page,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn clients(&self) -> Clients<'_> {
        self.ledger.clients()
    }

    /// The number of the own page.
    pub fn page(&self) -> usize {
        self.page
    }

    /// A connection that was counted there is over.
    pub fn leave(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.clients().leave(self.page, place);
        }
    }

    /// The own row of a series, to add to it.
    pub fn row(&self, series: Series) -> Row<'_> {
        Row(series.and_then(|series| self.ledger.row(self.page, series)))
    }
}

/// Only one process adds to a row: no locked instruction is needed.
#[derive(Clone, Copy)]
pub struct Row<'t>(Option<&'t [AtomicU64]>);

impl Row<'_> {
    fn cell(&self, place: usize) -> Option<&AtomicU64> {
        self.0?.get(place)
    }

    pub fn add(&self, count: Count, n: u64) {
        self.change(count as usize, |value| value.wrapping_add(n));
    }

    /// One less; never below nothing, whatever has happened to the page.
    pub fn take_one(&self, count: Count) {
        self.change(count as usize, |value| value.saturating_sub(1));
    }

    pub fn set(&self, count: Count, value: u64) {
        self.change(count as usize, |_| value);
    }

    pub fn observe(&self, us: u64) {
        self.change(bucket(us), |value| value.wrapping_add(1));
        self.add(Count::Duration, us);
    }

    fn change(&self, place: usize, to: impl FnOnce(u64) -> u64) {
        if let Some(cell) = self.cell(place) {
            cell.store(to(cell.load(Relaxed)), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32, generation: u32) -> Key {
        Key { index, generation }
    }

    fn other(ledger: &Ledger) -> Ledger {
        let fd = ledger.as_fd().try_clone_to_owned().expect("a descriptor");
        Ledger::map(fd).expect("a mapping")
    }

    #[test]
    fn a_figure_is_the_sum_of_the_pages_and_outlives_who_counted() {
        let main = Ledger::create().expect("shared memory");
        let series = key(3, 1);
        main.begin(series);
        for (page, n) in [(0, 5), (1, 7)] {
            main.open_page(page);
            let tally = Tally::new(other(&main), page);
            tally.row(Some(series)).add(Count::Sent, n);
            tally.row(Some(series)).add(Count::Open, 1);
            tally.row(Some(series)).observe(300);
        }
        let totals = main.totals(Some(series));
        assert_eq!((totals.get(Count::Sent), totals.get(Count::Open)), (12, 2));
        assert_eq!(totals.get(Count::Duration), 600);
        assert_eq!(totals.buckets()[2], 2);
        main.restore(&[1], 2, [series].into_iter());
        assert_eq!(main.totals(Some(series)).get(Count::Open), 1);
        let next = Tally::new(other(&main), 0);
        next.row(Some(series)).take_one(Count::Open);
        next.row(Some(series)).add(Count::Sent, 1);
        let totals = main.totals(Some(series));
        assert_eq!((totals.get(Count::Sent), totals.get(Count::Open)), (13, 1));
    }

    #[test]
    fn a_row_given_to_another_starts_empty_and_takes_nothing_from_the_old_one() {
        let main = Ledger::create().expect("shared memory");
        main.open_page(0);
        let tally = Tally::new(other(&main), 0);
        let (old, new) = (key(9, 1), key(9, 2));
        main.begin(old);
        tally.row(Some(old)).add(Count::Sent, 5);
        main.begin(new);
        tally.row(Some(old)).add(Count::Sent, 5);
        assert_eq!(main.totals(Some(new)), Totals::default());
        assert_eq!(main.totals(Some(old)), Totals::default());
        tally.row(Some(new)).add(Count::Sent, 2);
        assert_eq!(main.totals(Some(new)).get(Count::Sent), 2);
    }

    /// A worker gone mad has written everywhere; once it is dead the others are as they were.
    #[test]
    fn what_a_dead_process_has_spoilt_is_mended() {
        let main = Ledger::create().expect("shared memory");
        let series = key(3, 1);
        main.begin(series);
        (0..2).for_each(|page| main.open_page(page));
        let tally = Tally::new(other(&main), 1);
        tally.row(Some(series)).add(Count::Busy, 2);
        let bad = other(&main);
        bad.set_note(Note::Pages, 64);
        bad.clients().show_pages(64);
        bad.0.cells()[NOTES + 3].store(77, Relaxed);
        for page in [0, 9, 63] {
            let first = PAGES + page * PAGE + 3 * CELLS;
            let row = &bad.0.cells()[first..first + CELLS];
            row.iter().for_each(|cell| cell.store(u64::MAX, Relaxed));
            let crowd = Clients::cells_of(page);
            let crowd = &bad.0.cells()[CLIENTS + crowd.start..CLIENTS + crowd.end];
            crowd.iter().for_each(|cell| cell.store(u64::MAX, Relaxed));
        }
        main.restore(&[1], 2, [series].into_iter());
        assert_eq!(main.sum(series, Count::Busy), 2);
        let scope = quota::Scope::Cluster("a");
        let client = main.clients().client(scope, [127, 0, 0, 1].into());
        assert_eq!(main.clients().connections(client), 0);
        assert_eq!(main.note(Note::Pages), 2);
        assert_eq!(main.of_page(63, series), Totals::default());
    }

    #[test]
    fn what_is_not_counted_costs_nothing() {
        let main = Ledger::create().expect("shared memory");
        main.open_page(0);
        let tally = Tally::new(other(&main), 0);
        tally.row(None).add(Count::Sent, 1);
        tally.row(Some(key(u32::MAX, 1))).add(Count::Sent, 1);
        assert_eq!(main.totals(Some(key(u32::MAX, 1))), Totals::default());
    }
}
