//! A heap of seats, the one with the least key on top, in which any seat is found at once.

use crate::balance::Seat;

/// What is less comes first; the second number decides among equals.
pub type Key = (u64, u64);

const ABSENT: u32 = u32::MAX;

#[derive(Default)]
pub struct Heap {
    items: Vec<(Key, Seat)>,
    /// By seat: its place among the items.
    places: Vec<u32>,
}

impl Heap {
    pub fn first(&self) -> Option<(Key, Seat)> {
        self.items.first().copied()
    }

    /// Puts a seat in, or changes its key.
    pub fn set(&mut self, seat: Seat, key: Key) {
        let index = seat as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, ABSENT);
        }
        let place = match self.places[index] {
            ABSENT => {
                self.items.push((key, seat));
                self.items.len() - 1
            }
            place => {
                self.items[place as usize].0 = key;
                place as usize
            }
        };
        self.settle(place);
    }

    pub fn remove(&mut self, seat: Seat) {
        let Some(place) = self.places.get_mut(seat as usize) else {
            return;
        };
        let place = std::mem::replace(place, ABSENT) as usize;
        if place < self.items.len() {
            self.items.swap_remove(place);
            if place < self.items.len() {
                self.settle(place);
            }
        }
    }

    /// What lies at a place goes up or down to where it belongs.
    fn settle(&mut self, place: usize) {
        let up = self.rise(place);
        self.sink(up);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.items[parent] <= self.items[place] {
                break;
            }
            self.items.swap(parent, place);
            self.note(place);
            place = parent;
        }
        self.note(place);
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.items.len());
            let Some(least) = children.min_by_key(|child| self.items[*child]) else {
                break;
            };
            if self.items[place] <= self.items[least] {
                break;
            }
            self.items.swap(place, least);
            self.note(place);
            place = least;
        }
        self.note(place);
    }

    fn note(&mut self, place: usize) {
        let seat = self.items[place].1;
        self.places[seat as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    #[test]
    fn the_least_is_first_whatever_was_done() {
        let mut random = Random::new(1);
        let mut heap = Heap::default();
        let mut model: BTreeMap<Seat, Key> = BTreeMap::new();
        for _ in 0..20_000 {
            let seat = random.below(50) as Seat;
            if random.below(3) == 0 {
                heap.remove(seat);
                model.remove(&seat);
            } else {
                let key = (random.below(20), random.below(5));
                heap.set(seat, key);
                model.insert(seat, key);
            }
            let least = model.iter().map(|(seat, key)| (*key, *seat)).min();
            assert_eq!(heap.first(), least);
        }
        heap.remove(999);
    }
}
