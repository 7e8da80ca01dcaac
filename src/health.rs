//! Whether a backend is worth trying, from what happened to those who tried. Pure.

/// Connects that must fail in a row before a backend is left alone.
const FAILURES: u32 = 3;
/// It is left alone for a second, then for two, four, … up to a minute.
const PAUSE_MS: u64 = 1000;
const PAUSE_MS_MAX: u64 = 60_000;
/// From then on they are equally long.
const PAUSES_MAX: u32 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    failures: u32,
    pauses: u32,
    until_ms: u64,
}

impl Health {
    pub fn is_out(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    /// Until when it is left alone.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// Nothing bad is known of it.
    pub fn is_well(&self) -> bool {
        *self == Health::default()
    }

    /// For another worker.
    pub fn numbers(&self) -> [u64; 3] {
        [self.failures.into(), self.pauses.into(), self.until_ms]
    }

    /// What another worker has found; whatever it says, no more than a worker could find.
    pub fn from_numbers([failures, pauses, until_ms]: [u64; 3], now_ms: u64) -> Health {
        let small = |n: u64, most: u32| u32::try_from(n).map_or(most, |n| n.min(most));
        Health {
            failures: small(failures, FAILURES),
            pauses: small(pauses, PAUSES_MAX),
            until_ms: until_ms.min(now_ms + PAUSE_MS_MAX),
        }
    }

    pub fn connected(&mut self) {
        *self = Health::default();
    }

    /// True: from now on it is left alone for a while.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.failures = (self.failures + 1).min(FAILURES);
        if self.failures < FAILURES || self.is_out(now_ms) {
            return false;
        }
        let pause = PAUSE_MS << self.pauses;
        self.until_ms = now_ms + pause.min(PAUSE_MS_MAX);
        self.pauses = (self.pauses + 1).min(PAUSES_MAX);
        // One try after the pause decides.
        self.failures = FAILURES - 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_worker_goes_on_with_it_and_believes_no_nonsense() {
        let mut health = Health::default();
        (0..5).for_each(|_| {
            health.failed(0);
        });
        assert_eq!(Health::from_numbers(health.numbers(), 10), health);
        let worst = Health::from_numbers([u64::MAX; 3], 10);
        assert!(worst.is_out(10) && !worst.is_out(10 + PAUSE_MS_MAX));
        let mut next = worst;
        assert!(next.failed(10 + PAUSE_MS_MAX) && !next.is_out(10 + 2 * PAUSE_MS_MAX));
    }

    #[test]
    fn out_after_three_and_longer_each_time() {
        let mut health = Health::default();
        assert!(!health.failed(0) && !health.failed(0) && !health.is_out(0));
        assert!(health.failed(0));
        assert!(health.is_out(999) && !health.is_out(1000));
        assert!(health.failed(1000) && health.is_out(2999) && !health.is_out(3000));
        for _ in 0..20 {
            let now = health.until_ms;
            assert!(health.failed(now));
        }
        assert_eq!(health.until_ms % 1000, 0);
        let now = health.until_ms;
        health.failed(now);
        assert_eq!(health.until_ms, now + PAUSE_MS_MAX);
        health.connected();
        assert!(!health.is_out(0) && !health.failed(0));
    }
}
