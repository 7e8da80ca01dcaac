//! Which worker checks a backend, by a rule that main and all workers compute alike: of those
//! who live, the one whose number goes best with the backend's name. If one comes or goes, only the
//! backends change hands that it gets or had.

use crate::random::mix;

/// The row of the worker, of these rows; `name` is a hash of the backend's.
pub fn whose(rows: &[usize], name: u64) -> Option<usize> {
    let bid = |row: &usize| mix(name ^ mix(*row as u64 + 1));
    rows.iter().copied().max_by_key(bid)
}

/// A time of about that length, another one for each `turn`: within a tenth of it.
pub fn spread(length_ms: u64, name: u64, turn: u64) -> u64 {
    let fifth = length_ms / 5;
    length_ms - fifth / 2 + mix(name ^ turn) % (fifth + 1)
}
