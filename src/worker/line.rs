//! Who waits to take a step of a handshake.
//!
//! Such a step may cost a signature, hundreds of times what a request costs. So there is one
//! in a turn of the worker; between two of them all others are served.

use std::collections::VecDeque;

use crate::slab::Key;

#[derive(Default)]
pub struct Line {
    waiting: VecDeque<Key>,
    /// This turn's step is still to be had.
    open: bool,
}

impl Line {
    /// A new turn.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Whether the step may be taken now; who may not, waits here.
    pub fn admits(&mut self) -> bool {
        std::mem::take(&mut self.open)
    }

    pub fn wait(&mut self, key: Key) {
        self.waiting.push_back(key);
    }

    /// Who waits longest.
    pub fn next(&mut self) -> Option<Key> {
        self.waiting.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
