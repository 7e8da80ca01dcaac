//! What is counted of each listener, cluster and backend, and how it is told.
//!
//! A series is one object's row of counters: `Count` names its places, `Totals`
//! is such a row added up over all workers. Where the rows live is
//! `net::ledger`'s business. A worker gone mad may have written any number there:
//! sums stop at the largest one. doc/metrics.md describes every figure.

pub mod text;

use crate::slab::Key;

/// The row of counters of an object; none: it is not counted.
pub type Series = Option<Key>;

/// What a row of counters holds, besides the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Responses by the first digit of their status.
    Answered1xx,
    Answered2xx,
    Answered3xx,
    Answered4xx,
    Answered5xx,
    /// Exchanges that did not end well, by whose doing.
    FailedClient,
    FailedBackend,
    FailedProxy,
    /// Connections: ever, and now.
    Connections,
    Open,
    /// Bytes from the client, and to it.
    Received,
    Sent,
    /// Connects that failed.
    ConnectFailed,
    /// Requests that were sent, or wanted to be sent, once more.
    Retried,
    /// Requests and tunnels that a backend has now, and requests that wait for a cluster.
    Busy,
    Queued,
    /// 1 while a worker leaves the backend alone.
    Avoided,
    /// Health checks.
    ChecksPassed,
    ChecksFailed,
    /// TLS handshakes: whole ones, those that went on with an earlier session, those that failed.
    HandshakesFull,
    HandshakesResumed,
    HandshakesFailed,
    /// Connections and requests that were refused, by the limit that they were beyond.
    RefusedConnections,
    RefusedAddress,
    RefusedRate,
    RefusedBody,
    RefusedPace,
    /// Microseconds, all observations together.
    Duration,
}

/// Places of the counters above.
const COUNTS: usize = Count::Duration as usize + 1;

/// Upper bounds of the histogram's buckets in microseconds; one more has no bound.
pub const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Cells of a row.
pub const CELLS: usize = COUNTS + BOUNDS_US.len() + 1;
const _: () = assert!(CELLS == 44);

/// The place of the bucket for a duration.
pub fn bucket(us: u64) -> usize {
    COUNTS + BOUNDS_US.iter().take_while(|bound| us > **bound).count()
}

/// The place that counts responses with that status.
pub fn answered(status: u16) -> Option<Count> {
    match status / 100 {
        1 => Some(Count::Answered1xx),
        2 => Some(Count::Answered2xx),
        3 => Some(Count::Answered3xx),
        4 => Some(Count::Answered4xx),
        5 => Some(Count::Answered5xx),
        _ => None,
    }
}

/// A row, added up over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    pub cells: [u64; CELLS],
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { cells: [0; CELLS] }
    }
}

impl Totals {
    pub fn plus(&self, other: &Totals) -> Totals {
        let mut sum = *self;
        let cells = sum.cells.iter_mut().zip(other.cells);
        cells.for_each(|(cell, n)| *cell = cell.saturating_add(n));
        sum
    }

    /// What has come since; never below nothing.
    pub fn minus(&self, before: &Totals) -> Totals {
        let mut difference = *self;
        let cells = difference.cells.iter_mut().zip(before.cells);
        cells.for_each(|(cell, n)| *cell = cell.saturating_sub(n));
        difference
    }

    pub fn get(&self, count: Count) -> u64 {
        self.cells[count as usize]
    }

    /// Responses of every status.
    pub fn answered(&self) -> u64 {
        let first = Count::Answered1xx as usize;
        sum(&self.cells[first..=Count::Answered5xx as usize])
    }

    /// How many observations each bucket has, the last one without bound.
    pub fn buckets(&self) -> &[u64] {
        &self.cells[COUNTS..]
    }
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |sum, n| sum.saturating_add(*n))
}

/// The duration that a share of all observations does not exceed, in
/// microseconds: between the bounds of its bucket in proportion. `None`: there
/// are no observations. Beyond the last bound it is that bound.
pub fn quantile(buckets: &[u64], share: f64) -> Option<u64> {
    let all = sum(buckets);
    if all == 0 {
        return None;
    }
    let wanted = (all as f64 * share).ceil().max(1.0) as u64;
    let mut before = 0u64;
    let mut low = 0;
    for (count, high) in buckets.iter().zip(BOUNDS_US) {
        if before.saturating_add(*count) >= wanted {
            let part = (wanted - before) as f64 / *count as f64;
            return Some(low + ((high - low) as f64 * part) as u64);
        }
        before = before.saturating_add(*count);
        low = high;
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_a_bucket() {
        assert_eq!(bucket(0), COUNTS);
        assert_eq!(bucket(100), COUNTS);
        assert_eq!(bucket(101), COUNTS + 1);
        assert_eq!(bucket(10_000_000), CELLS - 2);
        assert_eq!(bucket(u64::MAX), CELLS - 1);
        assert!(BOUNDS_US.is_sorted());
    }

    #[test]
    fn quantiles_lie_between_the_bounds_of_their_bucket() {
        let mut buckets = [0; BOUNDS_US.len() + 1];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[3] = 100;
        assert_eq!(quantile(&buckets, 0.5), Some(750));
        assert_eq!(quantile(&buckets, 1.0), Some(1_000));
        buckets[BOUNDS_US.len()] = 100;
        assert_eq!(quantile(&buckets, 0.5), Some(1_000));
        assert_eq!(quantile(&buckets, 0.99), Some(10_000_000));
        buckets[3] = 0;
        assert_eq!(quantile(&buckets, 0.01), Some(10_000_000));
    }

    #[test]
    fn any_number_may_stand_there() {
        for cell in [u64::MAX, u64::MAX / 2, 1 << 63] {
            let totals = Totals {
                cells: [cell; CELLS],
            };
            assert_eq!(totals.answered(), u64::MAX);
            for share in [0.0, 0.5, 0.99, 1.0] {
                let us = quantile(totals.buckets(), share);
                assert!(us.is_some_and(|us| us <= 10_000_000), "{us:?}");
            }
        }
    }

    #[test]
    fn statuses_count_by_their_first_digit() {
        assert_eq!(answered(101), Some(Count::Answered1xx));
        assert_eq!(answered(599), Some(Count::Answered5xx));
        assert_eq!(answered(0), None);
        let mut totals = Totals::default();
        totals.cells[Count::Answered2xx as usize] = 3;
        totals.cells[Count::Answered5xx as usize] = 4;
        totals.cells[Count::FailedClient as usize] = 9;
        assert_eq!(totals.answered(), 7);
    }
}
