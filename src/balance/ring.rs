//! Consistent hashing (Karger et al., 1997): each seat has points on a ring, as many as its weight asks for, and a
//! key belongs to the first point behind it. Whoever comes or goes moves no key but his own.

use crate::balance::Seat;
use crate::limits::RING_POINTS_MAX;

/// Points of a seat of weight 100: with them shares differ by some 8 percent.
const POINTS: u64 = 160;

#[derive(Default)]
pub struct Ring {
    points: Vec<(u64, Seat)>,
}

/// A number that looks random for each other one (the finalizer of splitmix64).
pub fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The same for bytes (FNV-1a, mixed); it is the same in every worker and tomorrow.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

impl Ring {
    /// Of seats, each with the hash of its name and its weight.
    pub fn new(seats: impl Iterator<Item = (Seat, u64, u16)> + Clone) -> Ring {
        let total: u64 = seats.clone().map(|(.., weight)| u64::from(weight)).sum();
        let mut points = Vec::new();
        for (seat, name, weight) in seats {
            let wanted = u64::from(weight) * POINTS / 100;
            let most = u64::from(weight) * RING_POINTS_MAX / total.max(1);
            let count = wanted.min(most).max(1);
            points.extend((0..count).map(|n| (mix(name.wrapping_add(mix(n + 1))), seat)));
        }
        points.sort_unstable();
        Ring { points }
    }

    /// Seats from a key on, around the ring; seats stand there as often as they have points.
    pub fn from(&self, key: u64) -> impl Iterator<Item = Seat> + '_ {
        let (before, behind) = self
            .points
            .split_at(self.points.partition_point(|point| point.0 < key));
        behind.iter().chain(before).map(|point| point.1)
    }
}
