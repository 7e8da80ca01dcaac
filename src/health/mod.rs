//! Whether a backend is worth trying. Pure: moments and bytes are handed in.
//!
//! Two sources say so. *Requests*: every worker leaves those alone, each for itself, that
//! have failed those who tried (`eject`). *Checks*: each backend is asked by one worker
//! (`whose`), that judges what it answers (`answer`); what it finds after so many in a row
//! (`checks`) it tells main, and main tells everybody.
//!
//! ```text
//!              1 passed                 fall failed in a row
//!   Unknown ─────────────▶ Up ──────────────────────────────▶ Down
//!      │                    ▲        rise passed in a row       │ ▲
//!      │                    └────────────────────────────────────┘ │
//!      └─────────────────────── 1 failed ─────────────────────────┘
//! ```
//! Neither may leave a cluster with too few: `panics`.

pub mod answer;
mod checks;
mod eject;
#[cfg(test)]
mod tests;
mod whose;

pub use checks::{question, Checks, Verdict};
pub use eject::Health;
pub use whose::{spread, whose};

/// How many there are that requests may be spread over, and how many of them are well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub healthy: usize,
    pub ready: usize,
}

impl Count {
    /// Of backends that take requests: whether each is a backup, and whether it is well.
    /// Backups count where they are used: once none of the others is well, and one of them is.
    pub fn of(backends: impl Iterator<Item = (bool, bool)>) -> Count {
        let [mut first, mut backups] = [Count::default(); 2];
        for (backup, healthy) in backends {
            let count = if backup { &mut backups } else { &mut first };
            count.ready += 1;
            count.healthy += usize::from(healthy);
        }
        match first.healthy == 0 && (backups.healthy > 0 || first.ready == 0) {
            true => backups,
            false => first,
        }
    }

    /// With fewer than half of them the rest would have to carry what it cannot, or those
    /// who find all of them ill are ill themselves: nobody is left alone then.
    pub fn panics(self) -> bool {
        self.healthy * 2 < self.ready
    }
}
