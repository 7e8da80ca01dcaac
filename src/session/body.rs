//! A body on its way from one side to the other: where it ends, how it is framed.

use crate::buf::Pool;
use crate::http::fields::Head;
use crate::http::framing::Body;
use crate::http::rewrite;
use crate::parser::chunked::Decoder;
use crate::parser::http11::{self, Fields, Parse, Refusal};
use crate::session::flow::Flow;
use crate::session::quota::TOO_LONG;

/// How the rest of the body comes in.
#[derive(Clone, Copy, Debug)]
enum Source {
    Counted(u64),
    Chunked(Decoder),
    /// Behind the last chunk; `searched` bytes were looked at in vain.
    Trailers {
        searched: usize,
    },
    UntilClose,
    Done,
}

/// One body, or one direction of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    source: Source,
    /// It goes out in chunks.
    chunks: bool,
    /// Bytes that chunks may still bring.
    left: u64,
}

/// Memory that one turn of the worker lends to whoever parses or writes a head.
#[derive(Default)]
pub struct Scratch {
    pub fields: Fields,
    pub head: Vec<u8>,
    pub target: Vec<u8>,
}

impl Transfer {
    /// `chunks`: the receiver may be sent chunks.
    pub fn new(body: Body, chunks: bool) -> Transfer {
        let (source, chunks) = match body {
            Body::None => (Source::Done, false),
            Body::Counted(n) => (Source::Counted(n), false),
            Body::Chunked => (Source::Chunked(Decoder::default()), chunks),
            Body::UntilClose => (Source::UntilClose, chunks),
        };
        Transfer {
            source,
            chunks,
            left: u64::MAX,
        }
    }

    /// What comes in chunks has at most so many bytes, or is refused.
    pub fn limit(&mut self, most: u64) {
        self.left = most;
    }

    /// All bytes, until the sender shuts its side.
    pub fn tunnel() -> Transfer {
        Transfer::new(Body::UntilClose, false)
    }

    pub fn is_done(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// Moves what was received to what is to be sent. Framing needs the latter
    /// to be little: a call while much of it waits does nothing.
    pub fn pump(&mut self, flow: &mut Flow, scratch: &mut Scratch) -> Result<(), Refusal> {
        let as_it_is = match self.source {
            Source::Done | Source::Counted(_) => true,
            Source::UntilClose => !self.chunks,
            Source::Chunked(_) | Source::Trailers { .. } => false,
        };
        let little = flow.out().len() <= JOIN_BYTES_MAX && flow.has_frame_room();
        if !as_it_is && !little {
            return Ok(());
        }
        self.pump_all(flow, scratch)
    }

    fn pump_all(&mut self, flow: &mut Flow, scratch: &mut Scratch) -> Result<(), Refusal> {
        if flow.raw().is_empty() {
            return Ok(());
        }
        match &mut self.source {
            Source::Done => {}
            Source::Counted(rest) => {
                let n = flow.raw().len();
                let n = usize::try_from(*rest).map_or(n, |rest| rest.min(n));
                *rest -= n as u64;
                if *rest == 0 {
                    self.source = Source::Done;
                }
                flow.pass(n);
            }
            Source::UntilClose if !self.chunks => flow.pass(flow.raw().len()),
            Source::UntilClose => {
                let n = flow.raw().len();
                flow.pass_data(n, 0..n, true);
            }
            Source::Chunked(decoder) => {
                let decoded = decoder.decode(flow.raw_mut())?;
                let left = self.left.checked_sub(decoded.data.len() as u64);
                self.left = left.ok_or(TOO_LONG)?;
                flow.pass_data(decoded.consumed, decoded.data, self.chunks);
                if decoded.last {
                    self.source = Source::Trailers { searched: 0 };
                    return self.pump_trailers(flow, scratch);
                }
            }
            Source::Trailers { .. } => return self.pump_trailers(flow, scratch),
        }
        Ok(())
    }

    fn pump_trailers(&mut self, flow: &mut Flow, scratch: &mut Scratch) -> Result<(), Refusal> {
        let Source::Trailers { searched } = &mut self.source else {
            return Ok(());
        };
        let raw = flow.raw();
        let len = match http11::trailers(raw, *searched, &mut scratch.fields) {
            Parse::Partial if flow.is_stuck() => {
                return Err(Refusal {
                    status: 431,
                    at: 0,
                    what: "the trailers are longer than a buffer",
                });
            }
            Parse::Partial => {
                *searched = raw.len();
                return Ok(());
            }
            Parse::Refused(refusal) => return Err(refusal),
            Parse::Complete { len, .. } => len,
        };
        self.source = Source::Done;
        if !self.chunks {
            flow.skip(len);
            return Ok(());
        }
        let head = Head {
            bytes: raw,
            lines: scratch.fields.as_slice(),
        };
        rewrite::trailers(head, &mut scratch.head);
        if flow.replace(len, &scratch.head, 0) {
            Ok(())
        } else {
            Err(Refusal {
                status: 400,
                at: 0,
                what: "no room for the trailers",
            })
        }
    }

    /// The sender has shut its side. True: that was the end of the body, and the receiver is told.
    pub fn ended(&mut self, flow: &mut Flow, scratch: &mut Scratch, pool: &mut Pool) -> bool {
        // The end may lie there since before, behind much that waits to be sent.
        if self.pump_all(flow, scratch).is_err() {
            return false;
        }
        match self.source {
            Source::UntilClose => {
                self.source = Source::Done;
                !self.chunks || flow.append(b"0\r\n\r\n", pool)
            }
            Source::Done => true,
            _ => false,
        }
    }

    /// How many of the coming bytes may pass unseen.
    pub fn unseen(&self) -> u64 {
        match self.source {
            Source::Counted(rest) => rest,
            Source::UntilClose if !self.chunks => u64::MAX,
            _ => 0,
        }
    }

    /// `n` bytes went from side to side without coming here.
    pub fn passed(&mut self, n: u64) {
        if let Source::Counted(rest) = &mut self.source {
            *rest -= n.min(*rest);
            if *rest == 0 {
                self.source = Source::Done;
            }
        }
    }
}

/// More than this is not moved about in the buffer to put a chunk behind it: it is sent first.
const JOIN_BYTES_MAX: usize = 4096;
