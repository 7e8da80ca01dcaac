//! What a worker asks the key process, and what it is answered: one message each.
//!
//! ```text
//!   question   sequence:4 kind:1 name:32 bytes:1…      answer   sequence:4 signature:1…   signed
//!              (numbers big-endian)                             sequence:4                refused
//! ```
//! The key process reads questions as a stranger's. What is no question has no answer.

use crate::limits::SIGNATURE_BYTES_MAX;
use crate::sys::delegated::{Kind, Name};

const SEQUENCE_BYTES: usize = 4;
const HEAD_BYTES: usize = SEQUENCE_BYTES + 1 + size_of::<Name>();

/// No message is longer: room for one byte more shows that one is.
pub const MESSAGE_BYTES_MAX: usize = HEAD_BYTES + SIGNATURE_BYTES_MAX;

/// The byte of a kind is its place.
const KINDS: [Kind; 3] = [Kind::RsaRaw, Kind::RsaPkcs1, Kind::Ecdsa];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the answer has too: an answer that comes late is told by it.
    pub sequence: u32,
    pub kind: Kind,
    pub name: Name,
    pub bytes: Vec<u8>,
}

impl Question {
    pub fn encode(&self) -> Vec<u8> {
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        let kind = [kind.unwrap_or_default() as u8];
        [
            &self.sequence.to_be_bytes()[..],
            &kind,
            &self.name,
            &self.bytes,
        ]
        .concat()
    }

    pub fn decode(message: &[u8]) -> Option<Question> {
        let (sequence, rest) = message.split_first_chunk::<SEQUENCE_BYTES>()?;
        let (kind, rest) = rest.split_first()?;
        let (name, bytes) = rest.split_first_chunk()?;
        let fits = !bytes.is_empty() && bytes.len() <= SIGNATURE_BYTES_MAX;
        fits.then_some(())?;
        Some(Question {
            sequence: u32::from_be_bytes(*sequence),
            kind: *KINDS.get(usize::from(*kind))?,
            name: *name,
            bytes: bytes.to_vec(),
        })
    }
}

/// `None`: it is refused.
pub fn answer(sequence: u32, signature: Option<&[u8]>) -> Vec<u8> {
    [&sequence.to_be_bytes()[..], signature.unwrap_or_default()].concat()
}

/// The sequence, and the signature or nothing.
pub fn answered(message: &[u8]) -> Option<(u32, &[u8])> {
    let (sequence, signature) = message.split_first_chunk::<SEQUENCE_BYTES>()?;
    let fits = signature.len() <= SIGNATURE_BYTES_MAX;
    fits.then_some((u32::from_be_bytes(*sequence), signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn there_and_back() {
        for kind in KINDS {
            let question = Question {
                sequence: 0x0102_0304,
                kind,
                name: [7; 32],
                bytes: vec![1, 2, 3],
            };
            let message = question.encode();
            assert_eq!(Question::decode(&message), Some(question));
            for short in 0..=HEAD_BYTES {
                assert_eq!(Question::decode(&message[..short]), None, "{short}");
            }
        }
        assert_eq!(answered(&answer(9, None)), Some((9, &[][..])));
        assert_eq!(answered(&answer(9, Some(b"x"))), Some((9, &b"x"[..])));
        assert_eq!(answered(&[0, 0, 0]), None);
    }

    #[test]
    fn whatever_comes_is_a_question_or_none() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let len = random.below(2 * MESSAGE_BYTES_MAX as u64) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            if let Some(kind) = bytes.get_mut(SEQUENCE_BYTES) {
                *kind &= 3;
            }
            match Question::decode(&bytes) {
                Some(question) => assert_eq!(question.encode(), bytes),
                None => {
                    let odd_kind = bytes.get(SEQUENCE_BYTES).is_none_or(|kind| *kind > 2);
                    assert!(odd_kind || len <= HEAD_BYTES || len > MESSAGE_BYTES_MAX);
                }
            }
        }
    }
}
