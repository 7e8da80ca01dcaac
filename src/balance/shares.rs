//! Weights of seats, so arranged that the seat under any point of their sum is found at once (Fenwick, 1994).

use crate::balance::Seat;

#[derive(Default)]
pub struct Shares {
    /// At place n, from 1, the sum of the weights before it back to the lowest bit of n.
    sums: Vec<u64>,
    weights: Vec<u32>,
    total: u64,
}

impl Shares {
    pub fn total(&self) -> u64 {
        self.total
    }

    /// 0 takes a seat out.
    pub fn set(&mut self, seat: Seat, weight: u32) {
        let index = seat as usize;
        if index >= self.weights.len() {
            if weight == 0 {
                return;
            }
            self.grow(index + 1);
        }
        let before = std::mem::replace(&mut self.weights[index], weight);
        let change = u64::from(weight).wrapping_sub(before.into());
        self.total = self.total.wrapping_add(change);
        let mut place = index + 1;
        while place <= self.sums.len() {
            self.sums[place - 1] = self.sums[place - 1].wrapping_add(change);
            place += place & place.wrapping_neg();
        }
    }

    fn grow(&mut self, least: usize) {
        let len = least.next_power_of_two();
        self.weights.resize(len, 0);
        self.sums = vec![0; len];
        for index in 0..len {
            self.sums[index] += u64::from(self.weights[index]);
            let place = index + 1;
            let above = place + (place & place.wrapping_neg());
            if above <= len {
                self.sums[above - 1] += self.sums[index];
            }
        }
    }

    /// The seat under a point below the total.
    pub fn under(&self, mut point: u64) -> Option<Seat> {
        if point >= self.total {
            return None;
        }
        let mut place = 0;
        let mut step = self.sums.len();
        while step > 0 {
            if let Some(sum) = self.sums.get(place + step - 1).filter(|sum| **sum <= point) {
                point -= sum;
                place += step;
            }
            step /= 2;
        }
        Some(place as Seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn each_point_has_its_seat() {
        let mut random = Random::new(1);
        let mut shares = Shares::default();
        let mut model = [0u32; 40];
        for _ in 0..2_000 {
            let seat = random.below(40) as usize;
            model[seat] = random.below(6) as u32;
            shares.set(seat as Seat, model[seat]);
            let all = (0..).zip(model);
            let points: Vec<Seat> = all
                .flat_map(|(seat, weight)| (0..weight).map(move |_| seat))
                .collect();
            assert_eq!(shares.total(), points.len() as u64);
            for (point, seat) in (0..).zip(&points) {
                assert_eq!(shares.under(point), Some(*seat));
            }
            assert_eq!(shares.under(shares.total()), None);
        }
    }
}
