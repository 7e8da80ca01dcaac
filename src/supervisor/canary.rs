//! The canary: one worker of the new program beside the old one of its place.
//!
//! Both accept for a while. Then what the ledger says of the canary's page is
//! compared with what it says of all others over the same time. The rule is
//! plain: of a hundred requests or more, the canary may fail at most twice as
//! large a share as the others and one percent; and the time that nine of ten
//! requests stay within may be at most twice theirs and 10 ms. With fewer
//! requests nothing can be said, and is: the upgrade goes on unless it died.
//! Workers write the ledger: one that was taken over can have an upgrade called
//! off, or a bad one go on, and no more.

use crate::limits::CANARY_REQUESTS_MIN;
use crate::metrics::{quantile, Count, Totals};
use crate::proto::reply;
use crate::slab::Key;
use crate::supervisor::Supervisor;

pub struct Canary {
    pub id: usize,
    /// The worker of the new program, and the one of the old.
    pub new: Key,
    pub old: Option<Key>,
    pub until_ms: u64,
    before: Box<[Totals; 2]>,
}

/// What counts of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    requests: u64,
    failed: u64,
    p90_us: Option<u64>,
}

impl Figures {
    fn of(totals: &Totals) -> Figures {
        let broken = [Count::FailedBackend, Count::FailedProxy];
        let broken = broken.map(|count| totals.get(count));
        let broken = broken.into_iter().fold(0, u64::saturating_add);
        Figures {
            requests: totals.answered(),
            // Most of what breaks is answered by one of ours.
            failed: totals.get(Count::Answered5xx).max(broken),
            p90_us: quantile(totals.buckets(), 0.9),
        }
    }

    fn share(&self) -> f64 {
        self.failed as f64 / self.requests.max(1) as f64
    }

    fn p90_ms(&self) -> String {
        let text = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
        self.p90_us.map_or_else(|| "-".into(), text)
    }
}

/// `Ok`: it may go on, and why.
fn verdict(canary: &Figures, others: &Figures) -> Result<&'static str, &'static str> {
    if canary.requests < CANARY_REQUESTS_MIN {
        return Ok("too few requests to judge by");
    }
    if canary.share() > 2.0 * others.share() + 0.01 {
        return Err("it fails too often");
    }
    match (canary.p90_us, others.p90_us) {
        (Some(own), Some(theirs)) if own > 2 * theirs + 10_000 => Err("it is too slow"),
        _ => Ok("as good as the others"),
    }
}

impl Supervisor {
    /// What the canary has counted so far, and what all others have.
    fn sides(&self, canary: Key) -> [Totals; 2] {
        let row = self.workers.processes.get(canary).map(|it| it.row);
        let mut own = Totals::default();
        let mut all = Totals::default();
        for series in self.roster.listeners() {
            if let Some(row) = row {
                own = own.plus(&self.ledger.of_page(row, series));
            }
            all = all.plus(&self.ledger.totals(Some(series)));
        }
        [own, all.minus(&own)]
    }

    pub(super) fn begin_canary(
        &self,
        id: usize,
        new: Key,
        old: Option<Key>,
        seconds: u32,
    ) -> Canary {
        Canary {
            id,
            new,
            old,
            until_ms: self.now_ms + u64::from(seconds) * 1000,
            before: self.sides(new).into(),
        }
    }

    /// The data line with the figures, and whether it may go on.
    pub(super) fn judge(&self, canary: &Canary) -> (String, Result<(), &'static str>) {
        let after = self.sides(canary.new);
        let [own, others] =
            [0, 1].map(|side| Figures::of(&after[side].minus(&canary.before[side])));
        let verdict = verdict(&own, &others);
        let (Ok(why) | Err(why)) = verdict;
        let line = reply::data(
            "canary",
            &[
                ("requests", own.requests.to_string()),
                ("failed", own.failed.to_string()),
                ("p90_ms", own.p90_ms()),
                ("others_requests", others.requests.to_string()),
                ("others_failed", others.failed.to_string()),
                ("others_p90_ms", others.p90_ms()),
                ("verdict", why.to_string()),
            ],
        );
        (line, verdict.map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_may_stand_there() {
        let mut totals = Totals::default();
        totals.cells.fill(u64::MAX);
        let all = Figures::of(&totals);
        assert_eq!((all.requests, all.failed), (u64::MAX, u64::MAX));
        assert!(verdict(&all, &all).is_ok());
    }

    #[test]
    fn the_rule() {
        let figures = |requests, failed, p90_us| Figures {
            requests,
            failed,
            p90_us,
        };
        let good = figures(1000, 10, Some(5_000));
        for (canary, others, may) in [
            (figures(99, 99, Some(9_000_000)), good, true),
            (figures(100, 3, Some(20_000)), good, true),
            (figures(100, 4, Some(5_000)), good, false),
            (figures(1000, 0, Some(20_001)), good, false),
            (figures(1000, 0, None), good, true),
            (figures(1000, 10, Some(1)), figures(0, 0, None), true),
            (figures(1000, 11, Some(1)), figures(0, 0, None), false),
        ] {
            assert_eq!(verdict(&canary, &others).is_ok(), may, "{canary:?}");
        }
    }
}
