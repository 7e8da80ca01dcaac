//! What must hold for every line on the control socket, and for all that a worker says: reading it
//! does not panic, no more is kept than the bounds allow, and a change means the same when it is written again.

use sozu_lib::limits::{CONNECTION_LINE_BYTES_MAX, CONTROL_LINE_BYTES_MAX, REASON_CHARS_MAX};
use sozu_lib::proto::command::Command;
use sozu_lib::proto::digest::Digest;
use sozu_lib::proto::line::LineReader;
use sozu_lib::proto::reply::Reply;
use sozu_lib::proto::said::{Answer, Said};
use sozu_lib::session::moved::Moved;
use sozu_lib::state::{State, Timeouts};

const TIMEOUTS: Timeouts = Timeouts {
    front: 1,
    back: 1,
    connect: 1,
    request: 1,
    keepalive: 1,
    tunnel: 1,
};

/// The lines of a stream that comes in pieces.
fn lines(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut reader = LineReader::default();
    let mut lines = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.push(piece);
        while let Some(line) = reader.next_line() {
            match line {
                Ok(line) => lines.push(line),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        assert!(reader.unfinished() <= CONTROL_LINE_BYTES_MAX + piece.len());
    }
    assert!(lines
        .iter()
        .all(|line| line.len() <= CONTROL_LINE_BYTES_MAX));
    lines
}

/// A client's commands, with all that is applied of them.
pub fn control(bytes: &[u8]) {
    let all = lines(bytes, usize::MAX);
    assert_eq!(all, lines(bytes, 7));
    let mut state = State::default();
    for line in all {
        match Command::decode(&line, &TIMEOUTS) {
            Ok(Command::Change(change)) => {
                let again = Command::decode(&change.encode_with_secrets(), &TIMEOUTS);
                assert_eq!(again, Ok(Command::Change(change.clone())), "{line}");
                if let Err(refused) = state.apply(&change) {
                    assert!(!refused.what.is_empty());
                }
            }
            Ok(Command::Update(update)) => {
                let _ = update.whole(&TIMEOUTS);
            }
            Ok(_) => {}
            Err(refused) => assert!(!refused.what.is_empty(), "{line}"),
        }
    }
}

/// What a worker says to main, and what one hands over to the next.
pub fn worker(bytes: &[u8]) {
    for line in lines(bytes, 64 * 1024) {
        if let Some(Said::Backend {
            down: Some(why), ..
        }) = Said::parse(&line)
        {
            assert!(why.chars().count() <= REASON_CHARS_MAX);
        }
        if let Some((_, answer)) = Answer::parse(&line) {
            let kept: usize = answer
                .pairs
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            assert!(kept <= CONNECTION_LINE_BYTES_MAX);
        }
        let _ = Digest::parse(&line);
        let _ = Reply::parse(&line);
        if let Some(moved) = Moved::decode(&line) {
            let again = Moved::decode(&moved.encode())
                .expect("what was read is written so that it is read");
            assert_eq!(again.encode(), moved.encode(), "{line}");
        }
    }
}
