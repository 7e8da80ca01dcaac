//! How often a client may ask, kept beside the proxy: a bucket that really fills.

use sozu_lib::quota::rate::Rate;

/// The proxy counts in quarters of a microsecond.
const ROUNDING_US: f64 = 20.0;

pub struct Bucket {
    rate: Rate,
    /// Requests that are in it.
    left: f64,
    since_us: u64,
}

impl Bucket {
    pub fn new(rate: Rate) -> Bucket {
        Bucket {
            rate,
            left: f64::from(rate.burst),
            since_us: 0,
        }
    }

    /// A request was let through, or not: as it had to be?
    pub fn judge(&mut self, passed: bool, now_us: u64) {
        let per_us = f64::from(self.rate.per_second) / 1e6;
        let more = (now_us - self.since_us) as f64 * per_us;
        self.left = (self.left + more).min(f64::from(self.rate.burst));
        self.since_us = now_us;
        let (left, rounding) = (self.left, ROUNDING_US * per_us);
        match passed {
            true => assert!(left > 1.0 - rounding, "one more than the rate: {left}"),
            false => assert!(left < 1.0 + rounding, "refused below the rate: {left}"),
        }
        self.left -= f64::from(u8::from(passed));
    }
}
