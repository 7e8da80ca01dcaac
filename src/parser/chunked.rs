//! The chunked transfer coding, RFC 9112 section 7.1.
//!
//! Owns the framing of chunks, in both directions. Never reads the trailer
//! section (`http11::trailers` does) and never keeps a byte of data. Called by
//! `session` with each piece of a body, cut anywhere.
//!
//! ```text
//! Size                   digit → Size · ; → Extension · CR → SizeLf
//! Extension              byte → Extension · CR → SizeLf
//! SizeLf                 LF → Data, or Last if the size is 0
//! Data                   size bytes → DataCr
//! DataCr · DataLf        CR → DataLf · LF → Size
//! Last                   nothing: the trailer section begins
//! ```

use std::ops::Range;

use super::http11::Refusal;
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_MAX};

/// Most digits of a size: leading zeros do not go on for ever.
const DIGITS_MAX: u8 = 16;

/// Where a body stands between two pieces of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        value: u64,
        bytes: usize,
        quote: Quote,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Last,
}

impl Default for State {
    fn default() -> State {
        State::Size {
            value: 0,
            digits: 0,
        }
    }
}

/// Where in a quoted string an extension is (RFC 9110 section 5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
    Escaped,
}

/// What one piece of a body held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes eaten: all, but those behind the line of the last chunk.
    pub consumed: usize,
    /// Where the data now stands, in one piece.
    pub data: Range<usize>,
    /// The last chunk was read; the trailer section follows.
    pub last: bool,
}

impl Decoder {
    /// Eats the next piece of a body and moves its data together, to where its first
    /// byte stood. After a refusal neither `bytes` nor the decoder means anything.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Refusal> {
        let mut at = 0;
        let mut data = 0..0;
        while let Some(byte) = bytes.get(at) {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                if data.is_empty() {
                    data = at..at;
                }
                if data.end != at {
                    // `data.end` <= `at` and `at + here` <= the length: in bounds.
                    bytes.copy_within(at..at + here, data.end);
                }
                data.end += here;
                at += here;
                self.advance(here as u64);
                continue;
            }
            if self.state == State::Last {
                break;
            }
            self.state = self
                .state
                .step(*byte)
                .map_err(|what| Refusal::new(400, at, what))?;
            at += 1;
        }
        Ok(Decoded {
            consumed: at,
            data,
            last: self.state == State::Last,
        })
    }

    /// How many bytes from here are data of the current chunk and nothing else.
    pub fn remaining(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Notes that `count` bytes of data, at most `remaining`, have passed unseen.
    pub fn advance(&mut self, count: u64) {
        if let State::Data { left } = self.state {
            self.state = match left.saturating_sub(count) {
                0 => State::DataCr,
                left => State::Data { left },
            };
        }
    }
}

impl State {
    /// The state behind one byte that is not data.
    fn step(self, byte: u8) -> Result<State, &'static str> {
        match (self, byte) {
            (State::Size { digits: 1.., value }, b'\r') => Ok(State::SizeLf { value }),
            (State::Size { digits: 1.., value }, b';') => Ok(State::Extension {
                value,
                bytes: 1,
                quote: Quote::Outside,
            }),
            (State::Size { value, digits }, _) => size(value, digits, byte),
            (
                State::Extension {
                    value,
                    quote: Quote::Outside,
                    ..
                },
                b'\r',
            ) => Ok(State::SizeLf { value }),
            (
                State::Extension {
                    value,
                    bytes,
                    quote,
                },
                _,
            ) => extension(value, bytes, quote, byte),
            (State::SizeLf { value: 0 }, b'\n') => Ok(State::Last),
            (State::SizeLf { value }, b'\n') => Ok(State::Data { left: value }),
            (State::SizeLf { .. }, _) => Err("a bare CR behind a chunk size"),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::default()),
            (State::DataCr | State::DataLf, _) => Err("chunk data without CRLF behind it"),
            (State::Data { .. } | State::Last, _) => Ok(self),
        }
    }
}

fn size(value: u64, digits: u8, byte: u8) -> Result<State, &'static str> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\n' => return Err("a bare LF in a chunk size"),
        _ if digits == 0 => return Err("an empty chunk size"),
        _ => return Err("a chunk size that is not hex"),
    };
    // At most 2^52 * 16 before the comparison.
    let value = value * 16 + u64::from(digit);
    if value > CHUNK_SIZE_MAX || digits >= DIGITS_MAX {
        return Err("a chunk size that is too large");
    }
    Ok(State::Size {
        value,
        digits: digits + 1,
    })
}

/// An extension is read to be dropped; only what could hide a line end is refused.
fn extension(value: u64, bytes: usize, quote: Quote, byte: u8) -> Result<State, &'static str> {
    let quote = match (quote, byte) {
        (_, b'\r' | b'\n') if quote != Quote::Outside => {
            return Err("an unclosed quote in a chunk extension")
        }
        (_, 0..=0x1f | 0x7f) => return Err("a control character in a chunk extension"),
        (Quote::Outside, b'"') | (Quote::Escaped, _) => Quote::Inside,
        (Quote::Inside, b'"') => Quote::Outside,
        (Quote::Inside, b'\\') => Quote::Escaped,
        (quote, _) => quote,
    };
    if bytes >= CHUNK_EXTENSION_BYTES_MAX {
        return Err("a chunk extension that is too long");
    }
    Ok(State::Extension {
        value,
        bytes: bytes + 1,
        quote,
    })
}

/// Writes the line before a chunk of `size` bytes: hex digits and CRLF. Size 0 would
/// be the last chunk.
pub fn write_size(size: usize, out: &mut [u8; 18]) -> &[u8] {
    let mut rest = size;
    let mut first = out.len() - 2;
    *out = *b"................\r\n";
    for (i, room) in out.iter_mut().enumerate().take(16).rev() {
        *room = b"0123456789abcdef"[rest % 16];
        first = i;
        rest /= 16;
        if rest == 0 {
            break;
        }
    }
    out.get(first..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body that comes in pieces of `step` bytes, and what is behind its end.
    fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), &'static str> {
        let (mut decoder, mut data, mut at) = (Decoder::default(), Vec::new(), 0);
        for piece in body.chunks(step) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece).map_err(|refusal| refusal.what)?;
            data.extend_from_slice(&piece[decoded.data]);
            at += decoded.consumed;
            if decoded.last {
                return Ok((data, Some(at)));
            }
            assert_eq!(decoded.consumed, piece.len());
        }
        Ok((data, None))
    }

    #[test]
    fn good_bodies_whatever_the_pieces() {
        let rows: [(&str, &str, Option<usize>); 7] = [
            ("0\r\n\r\nGET", "", Some(3)),
            ("3\r\nabc\r\n0\r\nA: b\r\n\r\n", "abc", Some(11)),
            (
                "1\r\na\r\n002\r\nbc\r\n3\r\ndef\r\n00\r\n\r\n",
                "abcdef",
                Some(27),
            ),
            (
                "A\r\n0123456789\r\na\r\n0123456789\r\n",
                "01234567890123456789",
                None,
            ),
            ("1;a=b;c\r\nx\r\n0;d=\"e;\\\"f\"\r\n\r\n", "x", Some(25)),
            ("5\r\nab\r\nc", "ab\r\nc", None),
            ("", "", None),
        ];
        for (body, data, end) in rows {
            for step in 1..=body.len().max(1) {
                assert_eq!(
                    decode(body.as_bytes(), step),
                    Ok((data.into(), end)),
                    "{body:?}"
                );
            }
        }
    }

    #[test]
    fn bad_bodies_are_refused_whatever_the_pieces() {
        let rows = [
            ("\r\n", "an empty chunk size"),
            (";a\r\n", "an empty chunk size"),
            (" 1\r\n", "an empty chunk size"),
            ("+1\r\n", "an empty chunk size"),
            ("0x1\r\n", "a chunk size that is not hex"),
            ("1 \r\n", "a chunk size that is not hex"),
            ("1g\r\n", "a chunk size that is not hex"),
            ("10000000000000\r\n", "a chunk size that is too large"),
            ("fffffffffffffffff\r\n", "a chunk size that is too large"),
            ("00000000000000001\r\n", "a chunk size that is too large"),
            ("1\na", "a bare LF in a chunk size"),
            ("\n", "a bare LF in a chunk size"),
            ("1\rab", "a bare CR behind a chunk size"),
            ("0\r\r\n", "a bare CR behind a chunk size"),
            ("1\r\nab", "chunk data without CRLF behind it"),
            ("1\r\na\n", "chunk data without CRLF behind it"),
            ("1\r\na\rb", "chunk data without CRLF behind it"),
            ("1;a\nb", "a control character in a chunk extension"),
            ("1;a\0", "a control character in a chunk extension"),
            ("1;a\x7f", "a control character in a chunk extension"),
            ("1;a=\"\t\"\r\n", "a control character in a chunk extension"),
            ("1;a=\"b\r\n", "an unclosed quote in a chunk extension"),
            ("1;a=\"b\\\"\r\n", "an unclosed quote in a chunk extension"),
            ("1;a=\"b\\\r\n", "an unclosed quote in a chunk extension"),
            ("1;a=\"b\n", "an unclosed quote in a chunk extension"),
        ];
        for (body, what) in rows {
            for step in 1..=body.len() {
                assert_eq!(decode(body.as_bytes(), step), Err(what), "{body:?}");
            }
        }
    }

    #[test]
    fn sizes_and_extensions_have_their_limits() {
        let mut decoder = Decoder::default();
        let decoded = decoder
            .decode(&mut b"fffffffffffff\r\nab".to_vec())
            .unwrap();
        assert_eq!(
            decoded,
            Decoded {
                consumed: 17,
                data: 15..17,
                last: false
            }
        );
        assert_eq!(decoder.remaining(), CHUNK_SIZE_MAX - 2);
        let extended = |len: usize| format!("0;{}\r\n", "a".repeat(len - 1));
        let over = CHUNK_EXTENSION_BYTES_MAX + 1;
        assert!(decode(extended(over - 1).as_bytes(), 5).is_ok());
        assert!(decode(extended(over).as_bytes(), 5).is_err());
    }

    #[test]
    fn data_may_pass_unseen() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.remaining(), 0);
        decoder.decode(&mut b"5\r\na".to_vec()).unwrap();
        assert_eq!(decoder.remaining(), 4);
        decoder.advance(3);
        assert_eq!(decoder.remaining(), 1);
        decoder.advance(1);
        assert_eq!(decoder.remaining(), 0);
        let decoded = decoder.decode(&mut b"\r\n0\r\nrest".to_vec()).unwrap();
        assert_eq!(
            decoded,
            Decoded {
                consumed: 5,
                data: 0..0,
                last: true
            }
        );
        decoder.advance(1);
        assert!(decoder.decode(&mut b"rest".to_vec()).unwrap().last);
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        let mut out = [0; 18];
        for (size, line) in [
            (0, "0\r\n"),
            (10, "a\r\n"),
            (255, "ff\r\n"),
            (16384, "4000\r\n"),
        ] {
            assert_eq!(write_size(size, &mut out), line.as_bytes());
        }
        assert_eq!(write_size(usize::MAX, &mut out), b"ffffffffffffffff\r\n");
    }
}
