//! Memory that large work leaves behind.
//!
//! A transaction of 100,000 changes, a dump, a reload make tens of MiB of small
//! pieces and throw them away. The allocator keeps what lies between pieces
//! that live on, for ever if nobody asks. It is asked once, shortly after: for
//! each small change it would cost more than the change.

use crate::limits::{LITTER_MIN, RELEASE_DELAY_MS};
use crate::supervisor::Supervisor;
use crate::sys::process;

#[derive(Default)]
pub struct Litter {
    /// Objects, changes or lines made and thrown away since the last time.
    count: usize,
    /// When memory is given back.
    pub due_ms: Option<u64>,
}

impl Litter {
    pub fn add(&mut self, count: usize, now_ms: u64) {
        self.count += count;
        if self.count >= LITTER_MIN && self.due_ms.is_none() {
            self.due_ms = Some(now_ms + RELEASE_DELAY_MS);
        }
    }
}

impl Supervisor {
    pub(super) fn give_memory_back(&mut self) {
        if self.litter.due_ms.is_some_and(|due| due <= self.now_ms) {
            self.litter = Litter::default();
            process::release_memory();
        }
    }
}
