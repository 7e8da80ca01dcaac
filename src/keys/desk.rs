//! A worker's side of its desk: it asks for a signature and waits, for a short time.
//!
//! The handshake and everything else in the worker wait for as long; a signature takes less than a
//! millisecond. Where none comes, it is asked for again, since who read the question may have died of
//! it; then the handshake fails, and the next ones find little patience until a signature comes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use crate::keys::message::{answered, Question, MESSAGE_BYTES_MAX};
use crate::limits::{LIMIT_SILENCE_MS, SIGNATURE_AGAIN_MS, SIGNATURE_DOUBTED_MS, SIGNATURE_MS};
use crate::sys::clock;
use crate::sys::delegated::{set_signer, Kind, Name};

/// Main has set how long a call on it may block (`SIGNATURE_DOUBTED_MS`).
pub struct Desk {
    socket: UnixDatagram,
    sequence: u32,
    patience_ms: u64,
    /// The log says so once; not again before then.
    silent_until_ms: u64,
}

impl Desk {
    pub fn new(socket: OwnedFd) -> Desk {
        Desk {
            socket: UnixDatagram::from(socket),
            sequence: 0,
            patience_ms: SIGNATURE_MS,
            silent_until_ms: 0,
        }
    }

    /// From now on this thread's handshakes have their signatures from there.
    pub fn open(mut self) {
        set_signer(move |name, kind, bytes| self.sign(name, kind, bytes));
    }

    /// `None`: it is refused, or nobody has answered in time.
    pub fn sign(&mut self, name: &Name, kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
        let signed = self.ask(name, kind, bytes);
        self.patience_ms = match &signed {
            Ok(_) => SIGNATURE_MS,
            Err(_) => SIGNATURE_DOUBTED_MS,
        };
        if let Err(why) = &signed {
            let now_ms = clock::monotonic_us() / 1000;
            if now_ms >= self.silent_until_ms {
                self.silent_until_ms = now_ms + LIMIT_SILENCE_MS;
                log::warn!("a handshake goes without its signature: {why}");
            }
        }
        signed.ok().filter(|signature| !signature.is_empty())
    }

    /// An empty signature is a refusal: somebody is there.
    fn ask(&mut self, name: &Name, kind: Kind, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut asked_ms = clock::monotonic_us() / 1000;
        let until_ms = asked_ms + self.patience_ms;
        self.sequence = self.sequence.wrapping_add(1);
        let question = Question {
            sequence: self.sequence,
            kind,
            name: *name,
            bytes: bytes.to_vec(),
        };
        let question = question.encode();
        self.socket.send(&question)?;
        loop {
            match self.hear() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                heard => return heard,
            }
            let now_ms = clock::monotonic_us() / 1000;
            if now_ms >= until_ms {
                return Err(io::Error::other("the key process does not answer"));
            }
            if now_ms >= asked_ms + SIGNATURE_AGAIN_MS {
                asked_ms = now_ms;
                self.socket.send(&question)?;
            }
        }
    }

    /// The answer to the last question. Those that came too late are thrown away.
    fn hear(&mut self) -> io::Result<Vec<u8>> {
        let mut message = [0; MESSAGE_BYTES_MAX + 1];
        loop {
            let n = match self.socket.recv(&mut message) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            match answered(&message[..n]) {
                Some((sequence, signature)) if sequence == self.sequence => {
                    return Ok(signature.to_vec())
                }
                Some(_) => {}
                None => return Err(io::Error::other("the key process is gone")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::message::answer;
    use crate::sys::passing;
    use std::time::Duration;

    fn pair() -> (Desk, UnixDatagram) {
        let (ours, theirs) = passing::pair().expect("a pair");
        let socket = UnixDatagram::from(ours);
        socket.set_nonblocking(false).expect("set");
        let blocks = Duration::from_millis(SIGNATURE_DOUBTED_MS);
        socket.set_read_timeout(Some(blocks)).expect("set");
        let theirs = UnixDatagram::from(theirs);
        theirs.set_nonblocking(false).expect("set");
        (Desk::new(socket.into()), theirs)
    }

    fn question(from: &UnixDatagram) -> Question {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let n = from.recv(&mut message).expect("a question");
        Question::decode(&message[..n]).expect("a question")
    }

    #[test]
    fn who_died_with_the_question_is_asked_again_and_late_answers_are_no_answers() {
        let (mut desk, keys) = pair();
        let asked = std::thread::spawn(move || {
            let first = desk.sign(&[1; 32], Kind::Ecdsa, b"first");
            (first, desk.sign(&[1; 32], Kind::Ecdsa, b"second"))
        });
        let lost = question(&keys);
        let again = question(&keys);
        assert_eq!(lost, again);
        keys.send(&answer(again.sequence.wrapping_sub(1), Some(b"stale")))
            .expect("sent");
        keys.send(&answer(again.sequence, Some(b"good")))
            .expect("sent");
        // The one that was lost is answered after all.
        keys.send(&answer(again.sequence, Some(b"late")))
            .expect("sent");
        let next = question(&keys);
        assert_eq!(next.bytes, b"second");
        keys.send(&answer(next.sequence, None)).expect("sent");
        let (first, second) = asked.join().expect("a worker");
        assert_eq!(first.as_deref(), Some(&b"good"[..]));
        assert_eq!(second, None);
    }

    #[test]
    fn nobody_is_waited_for_twice() {
        let (mut desk, keys) = pair();
        assert_eq!(desk.sign(&[1; 32], Kind::Ecdsa, b"x"), None);
        let begun_ms = clock::monotonic_us() / 1000;
        assert_eq!(desk.sign(&[1; 32], Kind::Ecdsa, b"x"), None);
        let waited_ms = clock::monotonic_us() / 1000 - begun_ms;
        assert!(waited_ms < SIGNATURE_MS / 2, "{waited_ms}");
        drop(keys);
        assert_eq!(desk.sign(&[1; 32], Kind::Ecdsa, b"x"), None);
    }
}
