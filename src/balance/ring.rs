//! Consistent hashing (Karger et al., 1997): each seat has points on a ring, as many as its weight asks for, and a
//! key belongs to the first point behind it. Whoever comes or goes moves no key but his own.

use crate::balance::Seat;
use crate::limits::RING_POINTS_MAX;
use crate::random::mix;

/// Points for each unit of weight: with those of 100 shares differ by some 3 percent.
const POINTS: u64 = 16;

#[derive(Default)]
pub struct Ring {
    points: Vec<(u64, Seat)>,
    /// By the first bits of a key, as many as `shift` leaves: the first point that may lie behind it. A search by
    /// halves took three times as long: each step of it met a part of memory that nobody had used before.
    starts: Vec<u32>,
    shift: u32,
}

impl Ring {
    /// Of seats, each with the hash of its name and its weight.
    pub fn new(seats: impl Iterator<Item = (Seat, u64, u16)> + Clone) -> Ring {
        let total: u64 = seats.clone().map(|(.., weight)| u64::from(weight)).sum();
        let mut points = Vec::new();
        for (seat, name, weight) in seats {
            let wanted = u64::from(weight) * POINTS;
            let most = u64::from(weight) * RING_POINTS_MAX / total.max(1);
            let count = wanted.min(most).max(1);
            points.extend((0..count).map(|n| (mix(name.wrapping_add(mix(n + 1))), seat)));
        }
        points.sort_unstable();
        let bits = points.len().max(2).next_power_of_two().trailing_zeros();
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut first = 0;
        for part in 0..1u64 << bits {
            while points
                .get(first)
                .is_some_and(|point| point.0 >> shift < part)
            {
                first += 1;
            }
            starts.push(first as u32);
        }
        Ring {
            points,
            starts,
            shift,
        }
    }

    /// Seats from a key on, around the ring; seats stand there as often as they have points.
    pub fn from(&self, key: u64) -> impl Iterator<Item = Seat> + '_ {
        let start = self.starts.get((key >> self.shift) as usize);
        let mut first = start.map_or(0, |start| *start as usize);
        while self.points.get(first).is_some_and(|point| point.0 < key) {
            first += 1;
        }
        let (before, behind) = self.points.split_at(first);
        behind.iter().chain(before).map(|point| point.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_key_belongs_to_the_first_point_behind_it() {
        let mut random = Random::new(1);
        for seats in [0, 1, 2, 9] {
            let all = (0..seats).map(|seat| (seat, mix(seat.into()), 1 + seat as u16));
            let ring = Ring::new(all);
            let keys = (0..1_000).map(|_| random.next_u64());
            let edges = ring
                .points
                .iter()
                .flat_map(|point| [point.0, point.0.wrapping_add(1)]);
            for key in keys.chain(edges.collect::<Vec<u64>>()).chain([0, u64::MAX]) {
                let behind = ring.points.iter().find(|point| point.0 >= key);
                let expected = behind.or(ring.points.first()).map(|point| point.1);
                assert_eq!(ring.from(key).next(), expected, "{key}");
            }
            assert_eq!(ring.from(7).count(), ring.points.len());
        }
    }
}
