//! One deadline per slot, on a wheel of ticks.
//!
//! A deadline that moves later, as it does with every byte, costs one store:
//! the slot stays where it is linked, and is linked anew when the wheel gets
//! there. A deadline fires up to one tick late, never early. The clock is
//! handed in.

/// Length of one tick.
pub const TICK_MS: u64 = 64;
/// Ticks of the wheel; what is due later passes by once a turn (65 s).
const TICKS: u64 = 1024;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    due_ms: u64,
    previous: u32,
    next: u32,
    /// Where it is linked; `UNLINKED` if nowhere.
    tick: u16,
}

const UNLINKED: u16 = u16::MAX;

pub struct Wheel {
    /// The first tick that was not looked at yet.
    tick: u64,
    heads: Vec<u32>,
    nodes: Vec<Node>,
    linked: usize,
}

impl Wheel {
    pub fn new(now_ms: u64) -> Wheel {
        Wheel {
            tick: now_ms / TICK_MS,
            heads: vec![NONE; TICKS as usize],
            nodes: Vec::new(),
            linked: 0,
        }
    }

    /// Gives slot `index` a deadline, or moves the one it has.
    pub fn set(&mut self, index: u32, due_ms: u64) {
        let i = index as usize;
        if i >= self.nodes.len() {
            let unlinked = Node {
                due_ms: 0,
                previous: NONE,
                next: NONE,
                tick: UNLINKED,
            };
            self.nodes.resize(i + 1, unlinked);
        }
        self.nodes[i].due_ms = due_ms;
        if self.nodes[i].tick != UNLINKED {
            if self.linked_tick(i) <= due_ms / TICK_MS + 1 {
                return;
            }
            self.unlink(index);
        }
        self.link(index);
    }

    /// Takes the deadline of slot `index` away.
    pub fn cancel(&mut self, index: u32) {
        if self
            .nodes
            .get(index as usize)
            .is_some_and(|n| n.tick != UNLINKED)
        {
            self.unlink(index);
        }
    }

    /// Appends to `expired` every slot whose deadline has come; it has none then.
    pub fn advance(&mut self, now_ms: u64, expired: &mut Vec<u32>) {
        let now = now_ms / TICK_MS;
        // After a long sleep each place is visited once, not once per tick.
        let first = self.tick.max(now.saturating_sub(TICKS - 1));
        for tick in first..=now {
            self.tick = tick + 1;
            let mut index = std::mem::replace(&mut self.heads[(tick % TICKS) as usize], NONE);
            while index != NONE {
                let node = &mut self.nodes[index as usize];
                let next = node.next;
                node.tick = UNLINKED;
                self.linked -= 1;
                if node.due_ms <= now_ms {
                    expired.push(index);
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
    }

    /// When to look again: no deadline comes before.
    pub fn next_ms(&self) -> Option<u64> {
        if self.linked == 0 {
            return None;
        }
        (self.tick..self.tick + TICKS)
            .find(|tick| self.heads[(tick % TICKS) as usize] != NONE)
            .map(|tick| tick * TICK_MS)
    }

    /// The absolute tick at which node `i` will be visited.
    fn linked_tick(&self, i: usize) -> u64 {
        let ahead = (u64::from(self.nodes[i].tick) + TICKS - self.tick % TICKS) % TICKS;
        self.tick + ahead
    }

    fn link(&mut self, index: u32) {
        // Rounded up: at the start of that tick the deadline has come.
        let due = self.nodes[index as usize].due_ms.div_ceil(TICK_MS);
        let tick = due.clamp(self.tick, self.tick + TICKS - 1) % TICKS;
        let head = std::mem::replace(&mut self.heads[tick as usize], index);
        if head != NONE {
            self.nodes[head as usize].previous = index;
        }
        let node = &mut self.nodes[index as usize];
        node.tick = tick as u16;
        node.previous = NONE;
        node.next = head;
        self.linked += 1;
    }

    fn unlink(&mut self, index: u32) {
        let node = self.nodes[index as usize];
        match node.previous {
            NONE => self.heads[node.tick as usize] = node.next,
            previous => self.nodes[previous as usize].next = node.next,
        }
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        self.nodes[index as usize].tick = UNLINKED;
        self.linked -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_to(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut expired = Vec::new();
        wheel.advance(now_ms, &mut expired);
        expired.sort();
        expired
    }

    #[test]
    fn fires_within_a_tick_and_never_early() {
        let mut wheel = Wheel::new(0);
        wheel.set(3, 1000);
        assert_eq!(run_to(&mut wheel, 999), []);
        assert_eq!(run_to(&mut wheel, 1000 + TICK_MS), [3]);
        assert_eq!(run_to(&mut wheel, 5000), []);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_later_deadline_is_kept_and_an_earlier_one_too() {
        let mut wheel = Wheel::new(0);
        wheel.set(0, 1000);
        wheel.set(0, 3000);
        wheel.set(1, 100_000);
        wheel.set(1, 2000);
        assert_eq!(run_to(&mut wheel, 1500), []);
        assert_eq!(run_to(&mut wheel, 2100), [1]);
        assert_eq!(run_to(&mut wheel, 3100), [0]);
    }

    #[test]
    fn beyond_the_horizon_and_after_a_long_sleep() {
        let mut wheel = Wheel::new(0);
        wheel.set(0, 3_600_000);
        wheel.set(1, 200_000);
        assert_eq!(run_to(&mut wheel, 100_000), []);
        assert_eq!(run_to(&mut wheel, 250_000), [1]);
        assert_eq!(run_to(&mut wheel, 4_000_000), [0]);
    }

    #[test]
    fn agrees_with_a_list() {
        let mut random = 7u64;
        let mut next = move || {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            random >> 33
        };
        let mut wheel = Wheel::new(0);
        let mut model = [None::<u64>; 50];
        let mut now = 0;
        for _ in 0..20_000 {
            let index = (next() % 50) as u32;
            match next() % 4 {
                0 => {
                    wheel.cancel(index);
                    model[index as usize] = None;
                }
                1 => now += next() % 3000,
                _ => {
                    let due = now + next() % 200_000;
                    wheel.set(index, due);
                    model[index as usize] = Some(due);
                }
            }
            for index in run_to(&mut wheel, now) {
                assert!(model[index as usize].take().is_some_and(|due| due <= now));
            }
            assert!(model.iter().flatten().all(|due| due + 2 * TICK_MS > now));
            let first = model.iter().flatten().min();
            assert_eq!(wheel.next_ms().is_none(), first.is_none());
            assert!(wheel.next_ms().unwrap_or(0) <= first.unwrap_or(&0) + TICK_MS);
        }
    }
}
