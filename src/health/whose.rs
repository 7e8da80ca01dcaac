//! Which worker checks a backend, by a rule that main and all workers compute alike: of those
//! who live, the one whose number goes best with the backend's name. If one comes or goes, only the
//! backends change hands that it gets or had.

/// FNV-1a over all parts, each with its end, then mixed.
pub fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // No text has this byte in it.
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    mix(hash)
}

/// The last step of splitmix64: every bit depends on all.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The row of the worker, of these rows; `name` is a hash of the backend's.
pub fn whose(rows: &[usize], name: u64) -> Option<usize> {
    let bid = |row: &usize| mix(name ^ mix(*row as u64 + 1));
    rows.iter().copied().max_by_key(bid)
}

/// A time of about that length, another one for each `turn`: within a tenth of it.
pub fn spread(length_ms: u64, name: u64, turn: u64) -> u64 {
    let fifth = length_ms / 5;
    length_ms - fifth / 2 + mix(name ^ turn) % (fifth + 1)
}
