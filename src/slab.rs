//! Values in numbered slots. A key names a slot *and* who lives in it: the key
//! of one that moved out misses, whoever moved in.

/// Names a value for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

/// Generations are kept to this many bits so that a key and a kind fit a 64-bit token.
pub const GENERATION_BITS: u32 = 24;

const NONE: u32 = u32::MAX;

enum Entry<T> {
    Free { next: u32 },
    Live(T),
}

pub struct Slab<T> {
    entries: Vec<(u32, Entry<T>)>,
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            entries: Vec::new(),
            free: NONE,
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if let Some((generation, entry)) = self.entries.get_mut(self.free as usize) {
            let index = self.free;
            if let Entry::Free { next } = entry {
                self.free = *next;
            }
            *entry = Entry::Live(value);
            return Key {
                index,
                generation: *generation,
            };
        }
        let index = self.entries.len() as u32;
        self.entries.push((0, Entry::Live(value)));
        Key {
            index,
            generation: 0,
        }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let (generation, entry) = self.entries.get_mut(key.index as usize)?;
        *generation = (*generation + 1) & ((1 << GENERATION_BITS) - 1);
        let was = std::mem::replace(entry, Entry::Free { next: self.free });
        self.free = key.index;
        self.len -= 1;
        match was {
            Entry::Live(value) => Some(value),
            Entry::Free { .. } => None,
        }
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        match self.entries.get(key.index as usize) {
            Some((generation, Entry::Live(value))) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize) {
            Some((generation, Entry::Live(value))) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The key of whoever lives in a slot now.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        match self.entries.get(index as usize) {
            Some((generation, Entry::Live(_))) => Some(Key {
                index,
                generation: *generation,
            }),
            _ => None,
        }
    }

    /// No slot has this index or a greater one.
    pub fn end(&self) -> u32 {
        self.entries.len() as u32
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.iter_from(0)
    }

    /// Those in that slot and behind it.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = (Key, &T)> {
        let entries = self.entries.get(first as usize..).unwrap_or_default();
        (first..)
            .zip(entries)
            .filter_map(|(index, (generation, entry))| match entry {
                Entry::Live(value) => Some((
                    Key {
                        index,
                        generation: *generation,
                    },
                    value,
                )),
                Entry::Free { .. } => None,
            })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        (0u32..)
            .zip(&mut self.entries)
            .filter_map(|(index, (generation, entry))| match entry {
                Entry::Live(value) => {
                    let generation = *generation;
                    Some((Key { index, generation }, value))
                }
                Entry::Free { .. } => None,
            })
    }

    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_misses_after_its_value_left() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_eq!(b.index, a.index);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get(b), Some(&"b"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn slots_are_used_again_last_freed_first() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..4).map(|i| slab.insert(i)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.insert(10).index, 3);
        assert_eq!(slab.insert(11).index, 1);
        assert_eq!(slab.insert(12).index, 4);
        assert_eq!(slab.len(), 5);
        assert_eq!(slab.keys().len(), 5);
    }
}
