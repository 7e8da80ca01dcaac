//! Whether a client sends its request, or takes its response, fast enough.
//!
//! The time that counts is the time for which the client is waited for: what a
//! backend takes is not put down to it, nor what lies in the way of neither. It
//! is judged by windows of that time; one that was fast enough is forgotten, so
//! that nobody saves up bytes for later.

use crate::limits::PACE_WINDOW_US;
use crate::session::phase::Phase;
use crate::session::request::waits_for_client;
use crate::session::{Event, Session, Side, World};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Since when the client is waited for, if it is.
    since_us: Option<u64>,
    /// For how long it was before, in this window, and what came and went.
    waited_us: u64,
    bytes: u64,
}

impl Pace {
    /// Bytes that the client has sent, or has taken.
    pub fn moved(&mut self, n: u64) {
        self.bytes = self.bytes.saturating_add(n);
    }

    /// From now on the client is waited for, or is not.
    pub fn go_on(&mut self, now_us: u64, waits: bool, rate: u32) {
        self.waited_us = self.waited(now_us);
        self.since_us = waits.then_some(now_us);
        if self.waited_us >= PACE_WINDOW_US && !self.is_slow(now_us, rate) {
            (self.waited_us, self.bytes) = (0, 0);
        }
    }

    /// A window is over in which too little has moved.
    pub fn is_slow(&self, now_us: u64, rate: u32) -> bool {
        let waited_us = self.waited(now_us);
        let wanted = u128::from(rate) * u128::from(waited_us) / 1_000_000;
        waited_us >= PACE_WINDOW_US && u128::from(self.bytes) < wanted
    }

    /// When the window is over, if the client goes on being waited for.
    pub fn due_us(&self) -> Option<u64> {
        let rest = PACE_WINDOW_US.saturating_sub(self.waited_us);
        self.since_us.map(|since| since.saturating_add(rest))
    }

    fn waited(&self, now_us: u64) -> u64 {
        let now = self.since_us.map(|since| now_us.saturating_sub(since));
        self.waited_us.saturating_add(now.unwrap_or(0))
    }
}

impl Session {
    /// Before it is told what happened. Costs nothing where no rate is asked for.
    pub(super) fn count_pace(&mut self, event: &Event, world: &World) {
        let (Some(_), Phase::Running(x)) = (world.door.listener.quota.pace, &mut self.phase) else {
            return;
        };
        match event {
            Event::Received(Side::Front, n) | Event::Sent(Side::Front, n) => {
                x.pace.moved(*n as u64);
            }
            Event::Lent(_, n) => x.pace.moved(*n),
            _ => {}
        }
    }

    /// At the end of a turn, when it is known who waits for whom.
    pub(super) fn go_on_pace(&mut self, world: &World) {
        let Some(rate) = world.door.listener.quota.pace else {
            return;
        };
        let running = matches!(self.phase, Phase::Running(_));
        if let Some(x) = self.phase.exchange_mut() {
            let waits = running && waits_for_client(x);
            x.pace.go_on(world.now_us, waits, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const WINDOW: u64 = PACE_WINDOW_US;

    #[test]
    fn a_trickle_is_slow_at_the_end_of_a_window_and_not_before() {
        let mut pace = Pace::default();
        assert_eq!(pace.due_us(), None);
        pace.go_on(SECOND, true, 100);
        for i in 1..=WINDOW / SECOND {
            assert_eq!(pace.due_us(), Some(SECOND + WINDOW));
            assert!(!pace.is_slow(i * SECOND, 100));
            pace.moved(99);
            pace.go_on((1 + i) * SECOND, true, 100);
        }
        assert!(pace.is_slow(SECOND + WINDOW, 100));
        // It stays so until that is seen.
        pace.moved(1);
        assert!(pace.is_slow(SECOND + WINDOW, 100));
        assert_eq!(pace.due_us(), Some(SECOND + WINDOW));
    }

    #[test]
    fn enough_is_enough_and_is_not_saved_up() {
        let mut pace = Pace::default();
        pace.go_on(0, true, 100);
        pace.moved(100 * WINDOW / SECOND);
        pace.go_on(WINDOW, true, 100);
        assert!(!pace.is_slow(WINDOW, 100));
        assert_eq!(pace.due_us(), Some(2 * WINDOW));
        pace.moved(1_000_000_000);
        pace.go_on(2 * WINDOW, true, 100);
        assert!(pace.is_slow(3 * WINDOW, 100));
    }

    /// What others take is not put down to the client.
    #[test]
    fn only_what_is_waited_for_counts() {
        let mut pace = Pace::default();
        pace.go_on(0, true, 100);
        pace.go_on(SECOND, false, 100);
        assert_eq!(pace.due_us(), None);
        assert!(!pace.is_slow(1000 * SECOND, 100));
        pace.go_on(1000 * SECOND, true, 100);
        assert_eq!(pace.due_us(), Some(1000 * SECOND + WINDOW - SECOND));
        assert!(pace.is_slow(1000 * SECOND + WINDOW - SECOND, 100));
    }

    #[test]
    fn any_numbers() {
        let mut pace = Pace::default();
        for now_us in [u64::MAX, 0, u64::MAX, 1] {
            pace.moved(u64::MAX);
            pace.go_on(now_us, true, u32::MAX);
            let _ = (pace.is_slow(now_us, u32::MAX), pace.due_us());
        }
    }
}
