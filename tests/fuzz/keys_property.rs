//! What must hold for whatever a worker sends to the key process, and for whatever is answered: what is
//! taken is written as it was read, and nothing is longer than its bound.

use sozu_lib::keys::message::{answer, answered, Question, MESSAGE_BYTES_MAX};
use sozu_lib::limits::SIGNATURE_BYTES_MAX;

pub fn keys(bytes: &[u8]) {
    if let Some(question) = Question::decode(bytes) {
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        assert!(!question.bytes.is_empty());
        assert_eq!(question.encode(), bytes);
    }
    if let Some((sequence, signature)) = answered(bytes) {
        assert!(signature.len() <= SIGNATURE_BYTES_MAX);
        assert_eq!(answer(sequence, Some(signature)), bytes);
    }
}
