//! The chunked transfer coding, RFC 9112 section 7.1.
//!
//! Owns the framing of chunks, in both directions. Never reads the trailer
//! section (`http11::trailers` does) and never keeps a byte of data. Called by
//! `session` with each piece of a body, cut anywhere.
//!
//! ```text
//!          digit          ;           CR          LF            n bytes      CR       LF
//! Size ───────────→ Size ───→ Extension ──→ SizeLf ──→ Data ───────────→ DataCr → DataLf → Size
//!                      └───────────CR────────↑   └─(size 0)→ Last
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
