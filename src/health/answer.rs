//! The request of a check, and whether what comes back is what was wanted.

use crate::http::fields::Head;
use crate::http::framing::Body;
use crate::http::response::{Asked, Kind, Response};
use crate::limits::{CHECK_BODY_BYTES_MAX, HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX};
use crate::parser::chunked::Decoder;
use crate::parser::http11::{self, Fields, Parse};
use crate::state::{Ask, Statuses};

/// As much of an answer as is ever looked at, in bytes.
pub const ANSWER_BYTES_MAX: usize = HEAD_BYTES_MAX + CHECK_BODY_BYTES_MAX;

/// A GET whose answer is the last one on its connection.
pub fn request(path: &str, host: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sozu\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

/// An answer that comes in pieces.
#[derive(Default)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Bytes in which no end of a head was found.
    searched: usize,
    interims: u8,
}

/// `None`: it depends on what comes. An error says what is wrong with it.
pub type Judgement = Option<Result<(), String>>;

impl Answer {
    /// Bytes have come; `ended`: and no more will.
    pub fn take(&mut self, bytes: &[u8], ended: bool, ask: &Ask) -> Judgement {
        let Ask::Http { status, body, .. } = ask else {
            return Some(Ok(()));
        };
        let room = ANSWER_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
        let judged = self.judge(*status, body.as_deref(), ended || room <= bytes.len());
        match judged {
            None if ended => Some(Err("it ended its answer before the end".into())),
            judged => judged,
        }
    }

    fn judge(&mut self, wanted: Statuses, word: Option<&str>, whole: bool) -> Judgement {
        let mut fields = Box::<Fields>::default();
        loop {
            let (line, len) = match http11::response(&self.bytes, self.searched, &mut fields) {
                Parse::Complete { line, len } => (line, len),
                Parse::Partial => {
                    self.searched = self.bytes.len();
                    return None;
                }
                Parse::Refused(refusal) => {
                    return Some(Err(format!("a bad answer: {}", refusal.what)))
                }
            };
            let head = Head {
                bytes: &self.bytes,
                lines: fields.as_slice(),
            };
            let asked = Asked {
                http11: true,
                ..Asked::default()
            };
            let body = match Response::of(&line, head, asked).map(|response| response.kind) {
                Ok(Kind::Final(body)) => body,
                Ok(Kind::Interim) if self.interims < INTERIM_RESPONSES_MAX => {
                    self.interims += 1;
                    self.searched = 0;
                    self.bytes.drain(..len);
                    continue;
                }
                Ok(_) => return Some(Err("too many 1xx responses".into())),
                Err(what) => return Some(Err(format!("a bad answer: {what}"))),
            };
            if !wanted.contains(line.status) {
                return Some(Err(format!("status {}, not {wanted}", line.status)));
            }
            let Some(word) = word else {
                return Some(Ok(()));
            };
            let come = self.bytes.get(len..).unwrap_or_default();
            return match holds(word, body, come, whole) {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(what) => Some(Err(what)),
            };
        }
    }
}

/// False: it may still come.
fn holds(word: &str, body: Body, come: &[u8], whole: bool) -> Result<bool, String> {
    let mut plain = come.to_vec();
    let over = match body {
        Body::None => {
            plain.clear();
            true
        }
        Body::Counted(n) => {
            plain.truncate(usize::try_from(n).unwrap_or(usize::MAX));
            plain.len() as u64 == n
        }
        Body::UntilClose => whole,
        Body::Chunked => {
            let bad = |e: http11::Refusal| format!("a bad answer: {}", e.what);
            let decoded = Decoder::default().decode(&mut plain).map_err(bad)?;
            plain.truncate(decoded.data.end);
            plain.drain(..decoded.data.start);
            decoded.last
        }
    };
    let enough = plain.len() >= CHECK_BODY_BYTES_MAX;
    plain.truncate(CHECK_BODY_BYTES_MAX);
    let mut places = plain.windows(word.len().max(1));
    if places.any(|place| place == word.as_bytes()) {
        return Ok(true);
    }
    match over || enough || whole {
        true => Err(format!("the body does not hold {word:?}")),
        false => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn ask(status: &str, body: Option<&str>) -> Ask {
        Ask::Http {
            path: "/".into(),
            status: Statuses::parse(status).expect("a status"),
            body: body.map(Into::into),
        }
    }

    /// Whole, byte by byte and split at every place: always the same.
    fn judged(text: &str, ended: bool, ask: &Ask) -> Judgement {
        let bytes = text.as_bytes();
        let whole = Answer::default().take(bytes, ended, ask);
        let mut answer = Answer::default();
        let mut dripped = None;
        for byte in bytes {
            dripped = answer.take(&[*byte], false, ask);
            if dripped.is_some() {
                break;
            }
        }
        let dripped = match dripped {
            None if ended => answer.take(&[], true, ask),
            known => known,
        };
        assert_eq!(dripped, whole, "{text}");
        for at in 0..bytes.len() {
            let mut answer = Answer::default();
            let first = answer.take(&bytes[..at], false, ask);
            let both = first.or_else(|| answer.take(&bytes[at..], ended, ask));
            assert_eq!(both, whole, "{text} at {at}");
        }
        whole
    }

    #[test]
    fn a_status_is_enough_if_no_word_is_wanted() {
        let ok = ask("200-299", None);
        let good = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(judged(good, false, &ok), Some(Ok(())));
        let counted = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(judged(counted, false, &ok), Some(Ok(())));
        let bad = judged("HTTP/1.0 503 Sorry\r\n\r\n", false, &ok);
        assert_eq!(bad, Some(Err("status 503, not 200-299".into())));
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(judged(interim, false, &ok), Some(Ok(())));
        assert_eq!(judged("HTTP/1.1 200 OK\r\n", false, &ok), None);
        let cut = judged("HTTP/1.1 200 OK\r\n", true, &ok);
        assert!(cut.is_some_and(|cut| cut.is_err_and(|what| what.contains("ended"))));
        let other = judged("SSH-2.0-OpenSSH\r\n\r\n", false, &ok);
        assert!(other.is_some_and(|other| other.is_err()));
        let many = "HTTP/1.1 103 Hints\r\n\r\n".repeat(99);
        assert!(judged(&many, false, &ok).is_some_and(|many| many.is_err()));
    }

    #[test]
    fn a_word_is_found_however_the_body_is_framed() {
        let word = ask("200-204", Some("it works"));
        for good in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n(it works)",
            "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n(it works)",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n(it \r\n6\r\nworks)\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n(it works)",
        ] {
            assert_eq!(judged(good, false, &word), Some(Ok(())), "{good}");
        }
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n(it works)",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n(it works)",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n(it\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(
                judged(bad, false, &word).is_some_and(|bad| bad.is_err()),
                "{bad}"
            );
        }
        let open = "HTTP/1.1 200 OK\r\n\r\nit work";
        assert_eq!(judged(open, false, &word), None);
        assert!(judged(open, true, &word).is_some_and(|open| open.is_err()));
    }

    #[test]
    fn no_more_is_kept_than_is_looked_at() {
        let word = ask("200", Some("late"));
        let mut answer = Answer::default();
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(answer.take(head, false, &word), None);
        let half = vec![b'x'; CHECK_BODY_BYTES_MAX / 2];
        assert_eq!(answer.take(&half, false, &word), None);
        let end = answer.take(&half, false, &word);
        assert!(end.is_some_and(|end| end.is_err()));
        let mut answer = Answer::default();
        let endless = answer.take(&vec![b'x'; 1 << 20], false, &word);
        assert!(endless.is_some_and(|it| it.is_err()));
        assert!(answer.bytes.len() <= ANSWER_BYTES_MAX);
    }

    #[test]
    fn nothing_makes_it_panic() {
        let word = ask("200", Some("works"));
        let good =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nit works!\r\n0\r\n\r\n";
        let mut random = Random::new(5);
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            let mut answer = Answer::default();
            let mut rest = bytes.as_slice();
            let mut judged = None;
            while judged.is_none() && !rest.is_empty() {
                let (piece, behind) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
                judged = answer.take(piece, false, &word);
                rest = behind;
            }
            let judged = judged.or_else(|| answer.take(&[], true, &word));
            assert!(judged.is_some(), "an end is an end");
        }
    }

    #[test]
    fn the_request_is_one() {
        let text = request("/health?full=1", "10.0.0.1:80");
        let mut fields = Box::<Fields>::default();
        let parsed = http11::request(text.as_bytes(), 0, &mut fields);
        assert!(matches!(parsed, Parse::Complete { len, .. } if len == text.len()));
    }
}
