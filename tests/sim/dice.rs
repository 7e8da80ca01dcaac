//! Chance: every choice of the simulation comes from here, hence from the seed.

use sozu_lib::random::Random;

pub struct Dice(Random);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Random::new(seed))
    }

    pub fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// Both bounds included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// Some bytes, line ends and zeros among them.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            if self.percent(3) {
                bytes.extend_from_slice(b"\r\n0\r\n\r\n");
            }
            bytes.extend_from_slice(&self.0.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Mostly little, now and then more than a buffer holds.
    pub fn body(&mut self) -> Vec<u8> {
        let len = match self.below(20) {
            0 => 0,
            1..=9 => self.between(1, 20),
            10..=16 => self.between(1, 1500),
            17 | 18 => self.between(1, 9000),
            _ => self.between(1, 40_000),
        };
        self.bytes(len)
    }
}
