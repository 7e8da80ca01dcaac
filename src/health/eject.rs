//! Who is left alone for a while, from what happened to requests.

/// Connects that must fail in a row before a backend is left alone.
const FAILURES: u32 = 3;
/// It is left alone for a second, then for two, four, … up to a minute.
const PAUSE_MS: u64 = 1000;
const PAUSE_MS_MAX: u64 = 60_000;
/// From then on they are equally long.
const PAUSES_MAX: u32 = 10;

/// Bad things in a row, of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    failures: u32,
    pauses: u32,
    until_ms: u64,
}

impl Run {
    fn numbers(self) -> [u64; 3] {
        [self.failures.into(), self.pauses.into(), self.until_ms]
    }

    fn from_numbers([failures, pauses, until_ms]: [u64; 3], now_ms: u64) -> Run {
        let small = |n: u64, most: u32| u32::try_from(n).map_or(most, |n| n.min(most));
        Run {
            failures: small(failures, u32::MAX - 1),
            pauses: small(pauses, PAUSES_MAX),
            until_ms: until_ms.min(now_ms + PAUSE_MS_MAX),
        }
    }

    /// One more, of `most`. True: from now on it is left alone for a while.
    fn failed(&mut self, most: u32, now_ms: u64) -> bool {
        self.failures = self.failures.min(most).saturating_add(1).min(most);
        if self.failures < most || now_ms < self.until_ms {
            return false;
        }
        let pause = PAUSE_MS << self.pauses;
        self.until_ms = now_ms + pause.min(PAUSE_MS_MAX);
        self.pauses = (self.pauses + 1).min(PAUSES_MAX);
        // One try after the pause decides.
        self.failures = most - 1;
        true
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    connects: Run,
    answers: Run,
}

impl Health {
    pub fn is_out(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms()
    }

    /// Until when it is left alone.
    pub fn until_ms(&self) -> u64 {
        self.connects.until_ms.max(self.answers.until_ms)
    }

    /// Nothing bad is known of it.
    pub fn is_well(&self) -> bool {
        *self == Health::default()
    }

    /// It was left alone, and nothing since has shown that it is well.
    pub fn is_doubtful(&self) -> bool {
        self.connects.pauses + self.answers.pauses > 0
    }

    /// For another worker: of connects, then of answers.
    pub fn numbers(&self) -> [[u64; 3]; 2] {
        [self.connects.numbers(), self.answers.numbers()]
    }

    /// What another worker has found; whatever it says, no more than a worker could find.
    pub fn from_numbers([connects, answers]: [[u64; 3]; 2], now_ms: u64) -> Health {
        Health {
            connects: Run::from_numbers(connects, now_ms),
            answers: Run::from_numbers(answers, now_ms),
        }
    }

    pub fn connected(&mut self) {
        self.connects = Run::default();
    }

    /// True: from now on it is left alone for a while.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.connects.failed(FAILURES, now_ms)
    }

    /// A response that is no 5xx.
    pub fn answered(&mut self) {
        self.answers = Run::default();
    }

    /// A 5xx response, of which `most` in a row are borne. True as above.
    pub fn erred(&mut self, most: u32, now_ms: u64) -> bool {
        most > 0 && self.answers.failed(most, now_ms)
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
            health.erred(4, 0);
        });
        assert_eq!(Health::from_numbers(health.numbers(), 10), health);
        let worst = Health::from_numbers([[u64::MAX; 3]; 2], 10);
        assert!(worst.is_out(10) && !worst.is_out(10 + PAUSE_MS_MAX));
        let mut next = worst;
        assert!(next.failed(10 + PAUSE_MS_MAX) && !next.is_out(10 + 2 * PAUSE_MS_MAX));
        let mut next = worst;
        assert!(next.erred(9, 10 + PAUSE_MS_MAX) && !next.is_out(10 + 2 * PAUSE_MS_MAX));
    }

    #[test]
    fn out_after_three_and_longer_each_time() {
        let mut health = Health::default();
        assert!(!health.failed(0) && !health.failed(0) && !health.is_out(0));
        assert!(health.failed(0) && health.is_doubtful());
        assert!(health.is_out(999) && !health.is_out(1000));
        assert!(health.failed(1000) && health.is_out(2999) && !health.is_out(3000));
        for _ in 0..20 {
            let now = health.connects.until_ms;
            assert!(health.failed(now));
        }
        assert_eq!(health.connects.until_ms % 1000, 0);
        let now = health.connects.until_ms;
        health.failed(now);
        assert_eq!(health.connects.until_ms, now + PAUSE_MS_MAX);
        health.connected();
        assert!(!health.is_out(0) && !health.failed(0) && !health.is_doubtful());
    }

    #[test]
    fn a_run_of_5xx_is_forgiven_by_an_answer_and_not_by_a_connection() {
        let mut health = Health::default();
        assert!((0..99).all(|_| !health.erred(0, 0)), "never");
        assert!(!health.erred(3, 0) && !health.erred(3, 0));
        health.answered();
        assert!(!health.erred(3, 0) && !health.erred(3, 0) && health.erred(3, 0));
        health.connected();
        assert!(health.is_out(999) && health.is_doubtful());
        assert!(health.erred(3, 1000) && health.is_out(2999));
        health.answered();
        assert!(!health.is_out(1000) && !health.is_doubtful());
        assert!(health.erred(1, 5000), "one is enough where one is");
    }
}
