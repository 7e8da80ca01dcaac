//! Buffers, all of one size, from a pool with a bound.
//!
//! An idle connection holds none. Who finds the pool empty stops reading until
//! one comes back: memory has a bound, and the wait is backpressure.

use crate::limits::{BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};

/// Memory for bytes in one direction: headroom, the room itself, tailroom.
pub type Buf = Box<[u8]>;

/// Free buffers that are kept for the next user rather than given back to the system.
const FREE_MAX: usize = 1024;

pub struct Pool {
    free: Vec<Buf>,
    /// Bytes of each buffer, head- and tailroom included.
    bytes: usize,
    lent: usize,
    lent_max: usize,
}

impl Pool {
    /// `room` is the size of a buffer in bytes, without head- and tailroom.
    pub fn new(room: usize, lent_max: usize) -> Pool {
        Pool {
            free: Vec::new(),
            bytes: BUFFER_HEADROOM_BYTES + room + BUFFER_TAILROOM_BYTES,
            lent: 0,
            lent_max,
        }
    }

    pub fn take(&mut self) -> Option<Buf> {
        (self.lent < self.lent_max).then(|| self.take_beyond())
    }

    /// Also when all are lent: what comes from another worker, where it had a buffer, is not
    /// lost for want of one. So the bound is on both together.
    pub fn take_beyond(&mut self) -> Buf {
        self.lent += 1;
        let fresh = || vec![0; self.bytes].into_boxed_slice();
        self.free.pop().unwrap_or_else(fresh)
    }

    /// Last in, first out: the next user gets what is still in the cache.
    pub fn give(&mut self, buf: Buf) {
        debug_assert_eq!(buf.len(), self.bytes);
        self.lent -= 1;
        if self.free.len() < FREE_MAX {
            self.free.push(buf);
        }
    }

    /// Buffers in use.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Few are left: who begins something new waits, so that what is under way can end.
    pub fn is_low(&self) -> bool {
        self.lent >= self.lent_max - self.lent_max / 4
    }

    /// Whether there are buffers that nobody uses.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Lets half of the free buffers go; called now and then, until there are none.
    pub fn shrink(&mut self) {
        self.free.truncate(self.free.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_up_to_its_bound_and_again_what_came_back() {
        let mut pool = Pool::new(100, 2);
        let a = pool.take().unwrap();
        let _b = pool.take().unwrap();
        assert!(pool.take().is_none());
        pool.give(a);
        assert_eq!(pool.lent(), 1);
        let c = pool.take().unwrap();
        assert!(pool.take().is_none());
        let d = pool.take_beyond();
        pool.give(c);
        assert!(pool.take().is_none());
        pool.give(d);
        assert!(pool.take().is_some());
    }
}
