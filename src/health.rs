//! Whether a backend is worth trying, from what happened to those who tried. Pure.

/// Connects that must fail in a row before a backend is left alone.
const FAILURES: u32 = 3;
/// It is left alone for a second, then for two, four, … up to a minute.
const PAUSE_MS: u64 = 1000;
const PAUSE_MS_MAX: u64 = 60_000;

#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    pauses: u32,
    until_ms: u64,
}

impl Health {
    pub fn is_out(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    pub fn connected(&mut self) {
        *self = Health::default();
    }

    /// True: from now on it is left alone for a while.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.failures += 1;
        if self.failures < FAILURES || self.is_out(now_ms) {
            return false;
        }
        let pause = PAUSE_MS << self.pauses.min(10);
        self.until_ms = now_ms + pause.min(PAUSE_MS_MAX);
        self.pauses += 1;
        // One try after the pause decides.
        self.failures = FAILURES - 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
