//! What a process has, as numbers: how many objects of each kind, and a digest of their lines.
//!
//! Owns: the form in which main and a worker compare themselves. Each object is
//! hashed by the canonical line that adds it; the hashes are summed, so that the
//! order means nothing and every change costs what it changes, however much
//! there is beside it. It is against mistakes of ours, not against forgers.

use super::line::{split, value_of};
use crate::state::Change;
use std::rc::Rc;

/// Of a set of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    sum: u64,
    pub listeners: u64,
    pub clusters: u64,
    pub frontends: u64,
    pub backends: u64,
    pub certificates: u64,
}

impl Digest {
    /// Of all that these changes add.
    pub fn of(objects: impl Iterator<Item = Change>) -> Digest {
        let mut digest = Digest::default();
        objects.for_each(|object| digest.add(&object));
        digest
    }

    /// A change was done, and `undo` is what undoes it.
    pub fn follow(&mut self, change: &Change, undo: &Change) {
        self.remove(undo);
        self.add(change);
    }

    /// An object is there from now on; a removal names none.
    pub fn add(&mut self, object: &Change) {
        self.count(object, 1);
    }

    /// It is there no more.
    pub fn remove(&mut self, object: &Change) {
        // Minus one, as sums wrap.
        self.count(object, u64::MAX);
    }

    fn count(&mut self, object: &Change, by: u64) {
        let count = match object {
            Change::ListenerAdd(_) | Change::ListenerUpdate(_) => &mut self.listeners,
            Change::ClusterAdd(_) | Change::ClusterUpdate(_) => &mut self.clusters,
            Change::FrontendAdd(_) => &mut self.frontends,
            Change::BackendAdd(_) | Change::BackendUpdate(_) => &mut self.backends,
            Change::CertificateAdd(_) | Change::CertificateReplace { .. } => &mut self.certificates,
            Change::ListenerRemove { .. }
            | Change::CertificateRemove { .. }
            | Change::ClusterRemove { .. }
            | Change::FrontendRemove { .. }
            | Change::BackendRemove { .. } => return,
        };
        *count = count.wrapping_add(by);
        let hash = match object {
            // What came in the place of another one is what would have been added.
            Change::CertificateReplace { by, .. } => {
                hash_of(&Change::CertificateAdd(Rc::clone(by)).encode())
            }
            object => hash_of(&object.encode()),
        };
        self.sum = self.sum.wrapping_add(hash.wrapping_mul(by));
    }

    /// The pairs of a line about it, the sum among them.
    pub fn pairs(&self) -> [(&'static str, String); 6] {
        let [a, b, c, d, e] = self.counts();
        [("digest", self.sum.to_string()), a, b, c, d, e]
    }

    pub fn counts(&self) -> [(&'static str, String); 5] {
        [
            ("listeners", self.listeners.to_string()),
            ("clusters", self.clusters.to_string()),
            ("frontends", self.frontends.to_string()),
            ("backends", self.backends.to_string()),
            ("certificates", self.certificates.to_string()),
        ]
    }

    /// From a line that has these pairs.
    pub fn parse(line: &str) -> Option<Digest> {
        let words = split(line).ok()?;
        let number = |wanted| value_of(&words, wanted)?.parse().ok();
        Some(Digest {
            sum: number("digest")?,
            listeners: number("listeners")?,
            clusters: number("clusters")?,
            frontends: number("frontends")?,
            backends: number("backends")?,
            certificates: number("certificates")?,
        })
    }
}

/// FNV-1a, 64 bits, of a line without its verb: what was added and what was updated to the
/// same is the same.
fn hash_of(line: &str) -> u64 {
    let mut words = line.splitn(3, ' ');
    let (noun, _verb) = (words.next(), words.next());
    let told = [noun, words.next()].into_iter().flatten();
    let bytes = told.flat_map(str::bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample::Random;

    #[test]
    fn following_changes_is_counting_anew() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut state = random.state(30);
            let mut digest = Digest::of(state.dump());
            for _ in 0..60 {
                let change = random.change();
                let Ok(undo) = state.apply(&change) else {
                    continue;
                };
                digest.follow(&change, &undo);
                assert_eq!(digest, Digest::of(state.dump()), "seed {seed}: {change:?}");
            }
        }
    }

    #[test]
    fn two_states_that_differ_have_two_digests() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let state = random.state(30);
            let mut other = state.clone();
            random.disturb(&mut other, 3);
            let equal = Digest::of(state.dump()) == Digest::of(other.dump());
            assert_eq!(equal, state == other, "seed {seed}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let digest = Digest::of(Random::new(1).state(30).dump());
        let line = super::super::reply::data("checked", &digest.pairs());
        assert_eq!(Digest::parse(line.trim_end()), Some(digest));
        for bad in [
            "",
            "checked",
            "checked digest=1",
            "checked digest=x\"",
            "a=b",
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
