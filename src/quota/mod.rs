//! What one client may take: how many connections, how many requests a second.
//!
//! A client is an IPv4 address or an IPv6 /64, since whoever has one address of
//! a /64 has all of them. It is counted for each listener and each cluster by
//! itself, over all workers, in counters that they share: where these lie is
//! `net::ledger`'s business. A client is known there by a keyed hash only, so
//! that nobody outside can tell with whom it shares a place, or choose it.
//!
//! Any number may stand in the counters, for a worker gone mad can write there:
//! then clients are refused, or are not, and nothing else comes of it. When it is dead main
//! clears what no living worker has (`Ledger::restore`).

pub mod crowd;
pub mod rate;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::limits::WORKERS_MAX;
use crowd::PAGE;
use rate::RATES;

/// By which clients are hashed, and how many pages were ever used, from the first.
const SEED: usize = 0;
const PAGES: usize = 1;
/// Where the buckets begin, and the pages.
const BUCKETS: usize = WAYS;
const CROWD: usize = BUCKETS + RATES;
/// Counters of all clients.
pub const CELLS: usize = CROWD + WORKERS_MAX * PAGE;
/// Counters that are looked at together: a line of a processor's cache.
const WAYS: usize = 8;

/// How the counters are arranged: who has another arrangement cannot read them.
pub fn layout() -> String {
    format!("{RATES}+{PAGE}")
}

/// What is limited.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    Listener(SocketAddr),
    Cluster(&'a str),
}

/// A client of one listener or cluster, as it is known in the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(u64);

/// The counters of all clients: as many as `CELLS`. Of fewer, some are missing, and what would
/// be counted there is not.
#[derive(Clone, Copy)]
pub struct Clients<'m>(pub &'m [AtomicU64]);

impl<'m> Clients<'m> {
    /// Begins with a seed that nobody outside knows. Main's part.
    pub fn begin(&self, seed: u64) {
        self.set(SEED, seed);
    }

    /// So many pages were ever used. Main's part.
    pub fn show_pages(&self, pages: u64) {
        self.set(PAGES, pages);
    }

    fn get(&self, place: usize) -> u64 {
        self.0.get(place).map_or(0, |cell| cell.load(Relaxed))
    }

    fn set(&self, place: usize, value: u64) {
        if let Some(cell) = self.0.get(place) {
            cell.store(value, Relaxed);
        }
    }

    fn buckets(&self) -> &'m [AtomicU64] {
        let all = self.0.get(BUCKETS..).unwrap_or_default();
        all.get(..RATES).unwrap_or(all)
    }

    pub fn client(&self, scope: Scope, address: IpAddr) -> Client {
        let (family, network) = network(address);
        let seed = self.get(SEED);
        let mix = |hash, word| mix(seed, hash, word);
        let hash = match scope {
            Scope::Listener(listener) => {
                let bits = listener.ip().to_canonical();
                let (high, low) = match bits {
                    IpAddr::V4(v4) => (0, u64::from(v4.to_bits())),
                    IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
                };
                let hash = mix(seed, u64::from(listener.port()));
                mix(mix(hash, high), low)
            }
            Scope::Cluster(id) => id.as_bytes().chunks(8).fold(!seed, |hash, chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                mix(hash, u64::from_le_bytes(word))
            }),
        };
        let hash = mix(hash ^ family, network);
        Client(mix(hash, network.rotate_left(32)))
    }
}

/// Both halves of a product: every bit of the word has its say in every bit of the hash.
fn mix(seed: u64, hash: u64, word: u64) -> u64 {
    let (a, b) = (hash ^ word, seed ^ GOLDEN);
    let product = u128::from(a | 1 << 63) * u128::from(b | 1);
    (product >> 64) as u64 ^ product as u64 ^ hash.rotate_left(23)
}

/// 2^64 divided by the golden ratio: bits without order.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What tells two clients apart: the family, and an IPv4 address or the network of an IPv6 one.
fn network(address: IpAddr) -> (u64, u64) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (4, u64::from(v4.to_bits())),
        IpAddr::V6(v6) => (6, (v6.to_bits() >> 64) as u64),
    }
}

impl Client {
    /// The counters among which its own is, in a table of so many.
    fn set(self, cells: &[AtomicU64]) -> Option<(usize, &[AtomicU64])> {
        let sets = cells.len() / WAYS;
        let first = (self.0 as usize).checked_rem(sets)? * WAYS;
        Some((first, cells.get(first..first + WAYS)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn cells(count: usize) -> Box<[AtomicU64]> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    fn of(scope: Scope, address: &str) -> Client {
        let address = address.parse().expect("an address");
        Clients(&[AtomicU64::new(7)]).client(scope, address)
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let listener = Scope::Listener("127.0.0.1:80".parse().expect("an address"));
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            // The network of ::1 has the bits of 0.0.0.0.
            ("::1", "0.0.0.0", false),
        ] {
            assert_eq!(of(listener, one) == of(listener, other), same, "{one}");
        }
        let other = Scope::Listener("127.0.0.1:81".parse().expect("an address"));
        assert_ne!(of(listener, "::1"), of(other, "::1"));
        for id in ["", "a", "b", "12345678", "123456789"] {
            assert_ne!(of(Scope::Cluster(id), "::1"), of(listener, "::1"));
            assert_ne!(
                of(Scope::Cluster(id), "::1"),
                of(Scope::Cluster("c"), "::1")
            );
        }
    }

    /// Neighbours, as an attacker has them, are spread over all places as if by chance.
    #[test]
    fn neighbours_are_spread() {
        let listener = Scope::Listener("[::]:443".parse().expect("an address"));
        for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let cells = cells(1);
            let clients = Clients(&cells);
            clients.begin(seed);
            for shift in [0, 8, 64, 70, 96] {
                let mut sets = vec![0u32; 256];
                for i in 0..65_536u128 {
                    let address = match shift {
                        64.. => IpAddr::from((i << shift).to_be_bytes()),
                        _ => IpAddr::from(((i as u32) << shift).to_be_bytes()),
                    };
                    let Client(hash) = clients.client(listener, address);
                    sets[hash as usize % 256] += 1;
                }
                // 256 each; eight times the deviation of chance, which is 16.
                let worst = sets.iter().map(|n| n.abs_diff(256)).max();
                assert!(worst < Some(128), "seed {seed} shift {shift}: {worst:?}");
            }
        }
    }
}
