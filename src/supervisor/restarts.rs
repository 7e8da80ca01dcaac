//! When a process that has died is replaced: at once, or after a pause that grows if its successors
//! die young one after another.

/// One that lived shorter died young.
const YOUNG_MS: u64 = 1000;
/// The pause after a second death in youth; each further one doubles it. After the first there is none:
/// somebody killed it, or a client that comes once.
const PAUSE_MS: u64 = 100;
pub const PAUSE_MS_MAX: u64 = 10_000;

pub fn is_young(started_ms: u64, now_ms: u64) -> bool {
    now_ms < started_ms + YOUNG_MS
}

/// After so many deaths in youth.
pub fn pause_ms(failures: u32) -> u64 {
    match failures {
        0 | 1 => 0,
        n => (PAUSE_MS << (n - 2).min(10)).min(PAUSE_MS_MAX),
    }
}
