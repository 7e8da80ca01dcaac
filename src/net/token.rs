//! What epoll tells us back: whose descriptor is ready.
//!
//! Kind, slot and generation in 64 bits: a stale event names a generation that
//! has left its slot, and misses.

use crate::slab::{Key, GENERATION_BITS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Main's or a worker's end of the channel between them.
    Channel,
    Listener,
    /// A client's connection.
    Front,
    /// A connection to a backend.
    Back,
    Signals,
    ControlSocket,
    ControlClient,
    /// The worker that takes over from this one.
    Heir,
    /// A worker that this one takes over from.
    Legacy,
    /// The folder of challenges has changed.
    Challenges,
    /// Another program that looks at what would be handed to it.
    Rehearsal,
    /// Main's end of the channel to the key process.
    Keys,
    /// Main's end of the channel to the resolver.
    Resolver,
    /// Where a worker asks the key process for signatures.
    Desk,
    /// Where others write their log, and main reads it.
    Log,
    /// A health check.
    Probe,
}

const KINDS: [Kind; 16] = [
    Kind::Channel,
    Kind::Listener,
    Kind::Front,
    Kind::Back,
    Kind::Signals,
    Kind::ControlSocket,
    Kind::ControlClient,
    Kind::Heir,
    Kind::Legacy,
    Kind::Challenges,
    Kind::Rehearsal,
    Kind::Keys,
    Kind::Resolver,
    Kind::Desk,
    Kind::Log,
    Kind::Probe,
];

pub fn pack(kind: Kind, key: Key) -> u64 {
    (kind as u64) << (32 + GENERATION_BITS) | u64::from(key.generation) << 32 | u64::from(key.index)
}

/// For what there is only one of.
pub fn pack_single(kind: Kind) -> u64 {
    pack(
        kind,
        Key {
            index: 0,
            generation: 0,
        },
    )
}

pub fn unpack(token: u64) -> Option<(Kind, Key)> {
    let kind = *KINDS.get((token >> (32 + GENERATION_BITS)) as usize)?;
    let generation = (token >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
    Some((
        kind,
        Key {
            index: token as u32,
            generation,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        for (i, kind) in KINDS.into_iter().enumerate() {
            let key = Key {
                index: u32::MAX - 1,
                generation: (1 << GENERATION_BITS) - 1 - i as u32,
            };
            assert_eq!(unpack(pack(kind, key)), Some((kind, key)));
        }
        assert_eq!(unpack(u64::MAX), None);
    }
}
