//! What must hold for every text of a hand-over: reading it does not panic, what is refused
//! has a sentence, and what is taken is written and read again as it is.

use sozu_lib::supervisor::handover::Handover;

pub fn handover(bytes: &[u8]) {
    let handover = match Handover::decode(bytes) {
        Ok(handover) => handover,
        Err(what) => return assert!(!what.is_empty()),
    };
    let text = handover.encode();
    match Handover::decode(text.as_bytes()) {
        Ok(again) => assert_eq!(again.encode(), text),
        Err(what) => panic!("{what}: {text}"),
    }
}
