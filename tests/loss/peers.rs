//! The backends: HTTP with WebSockets, and TCP. They answer with the bytes that the request names, so that who asked knows them.

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use openssl::base64::encode_block;
use openssl::sha::sha1;

use super::message::{self, chunk, frame, pattern, Message};
use super::reactor::{Actor, Next};
use super::wire::{End, Wire};

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A slow answer is so many pieces, one each such time.
const PIECES: usize = 16;
const PIECE_US: u64 = 100_000;

/// Bytes that go out then.
#[derive(Default)]
struct Later {
    pieces: VecDeque<(u64, Vec<u8>)>,
}

impl Later {
    fn push(&mut self, due_us: u64, bytes: Vec<u8>) {
        let before_us = self.pieces.back().map_or(0, |(due_us, _)| *due_us);
        self.pieces.push_back((due_us.max(before_us), bytes));
    }

    /// Hands over what is due.
    fn send(&mut self, wire: &mut Wire, now_us: u64) {
        while self
            .pieces
            .front()
            .is_some_and(|(due_us, _)| *due_us <= now_us)
        {
            if let Some((_, bytes)) = self.pieces.pop_front() {
                wire.send(&bytes);
            }
        }
    }

    fn next(&self) -> Next {
        self.pieces
            .front()
            .map_or(Next::Ready, |(due_us, _)| Next::At(*due_us))
    }
}

pub struct Http {
    wire: Wire,
    later: Later,
    socket: bool,
}

impl Http {
    pub fn new(stream: TcpStream) -> Http {
        Http {
            wire: Wire::accepted(stream),
            later: Later::default(),
            socket: false,
        }
    }

    fn answer(&mut self, request: &Message, now_us: u64) -> Option<()> {
        if let Some(key) = request.field("sec-websocket-key") {
            let accept = encode_block(&sha1(format!("{key}{GUID}").as_bytes()));
            let upgrade =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
            let head = format!("{upgrade}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
            self.later.push(now_us, head.into_bytes());
            self.socket = true;
            return Some(());
        }
        // The target: pace, framing, number and length.
        let mut words = request.second().split('/').skip(1);
        let slow = words.next()? == "slow";
        let chunked = words.next()? == "chunked";
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        let bytes: usize = words.next()?.parse().ok()?;
        if request.start.starts_with("POST") && request.body != pattern(!id, request.body.len()) {
            return None;
        }
        let framing = match chunked {
            true => "Transfer-Encoding: chunked".to_string(),
            false => format!("Content-Length: {bytes}"),
        };
        self.later.push(
            now_us,
            format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").into_bytes(),
        );
        let piece = if slow { bytes.div_ceil(PIECES) } else { bytes };
        for (number, piece) in pattern(id, bytes).chunks(piece.max(1)).enumerate() {
            let piece = if chunked {
                chunk(piece)
            } else {
                piece.to_vec()
            };
            let wait_us = if slow { PIECE_US * number as u64 } else { 0 };
            self.later.push(now_us + wait_us, piece);
        }
        if chunked {
            self.later.push(now_us, chunk(b""));
        }
        Some(())
    }

    fn echo(&mut self) {
        while let Some((kind, payload, used)) = frame::read_masked(&self.wire.input) {
            self.wire.input.drain(..used);
            self.wire.send(&frame::write(kind, &payload, None));
            if kind == frame::CLOSE {
                self.wire.finish();
            }
        }
    }
}

impl Actor for Http {
    fn turn(&mut self, now_us: u64) -> Next {
        self.wire.pump();
        while !self.socket {
            match message::read(&self.wire.input) {
                Ok(None) => break,
                Ok(Some((request, used))) => {
                    self.wire.input.drain(..used);
                    if self.answer(&request, now_us).is_none() {
                        let head = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                        self.later.push(now_us, head.into());
                    }
                }
                Err(_) => return Next::Done,
            }
        }
        self.later.send(&mut self.wire, now_us);
        if self.socket {
            self.echo();
        }
        self.wire.flush();
        let over = self.wire.end().is_some() && self.wire.is_flushed();
        if over && self.later.pieces.is_empty() || self.wire.end() == Some(&End::Reset) {
            return Next::Done;
        }
        self.later.next()
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [Some(&mut self.wire), None]
    }
}

/// What the client has said at first: how the tunnel is used, its number, and how many bytes go one way.
#[derive(Clone, Copy)]
struct Header {
    mode: u8,
    id: u64,
    bytes: usize,
}

const HEADER_BYTES: usize = 13;

pub struct Tcp {
    wire: Wire,
    later: Later,
    header: Option<Header>,
    arrived: Arc<Mutex<HashMap<u64, bool>>>,
}

impl Tcp {
    pub fn new(stream: TcpStream, arrived: Arc<Mutex<HashMap<u64, bool>>>) -> Tcp {
        Tcp {
            wire: Wire::accepted(stream),
            later: Later::default(),
            header: None,
            arrived,
        }
    }

    fn read_header(&mut self, now_us: u64) {
        let Some((header, _)) = self.wire.input.split_at_checked(HEADER_BYTES) else {
            return;
        };
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let header = Header {
            mode: header[0],
            id: number(&header[1..9]),
            bytes: number(&header[9..]) as usize,
        };
        self.wire.input.drain(..HEADER_BYTES);
        self.header = Some(header);
        match header.mode {
            b'D' => {
                let bytes = pattern(header.id, header.bytes);
                for (number, piece) in bytes.chunks(header.bytes.div_ceil(PIECES)).enumerate() {
                    self.later
                        .push(now_us + PIECE_US * number as u64, piece.to_vec());
                }
            }
            b'U' => self.wire.finish(),
            _ => {}
        }
    }
}

impl Actor for Tcp {
    fn turn(&mut self, now_us: u64) -> Next {
        self.wire.pump();
        if self.header.is_none() {
            self.read_header(now_us);
        }
        self.later.send(&mut self.wire, now_us);
        let ended = self.wire.end().is_some();
        let reset = self.wire.end() == Some(&End::Reset);
        match self.header {
            Some(Header {
                mode: b'U',
                id,
                bytes,
            }) => {
                if ended || self.wire.input.len() > bytes {
                    let whole = !reset && self.wire.input == pattern(id, bytes);
                    let told = self.arrived.lock().map(|mut all| all.insert(id, whole));
                    return told.map_or(Next::Done, |_| Next::Done);
                }
            }
            Some(Header { mode: b'D', .. }) => {
                if self.later.pieces.is_empty() {
                    self.wire.finish();
                }
            }
            _ => {
                let bytes = std::mem::take(&mut self.wire.input);
                if self.header.is_some() {
                    self.wire.send(&bytes);
                } else {
                    self.wire.input = bytes;
                }
                if ended {
                    self.wire.finish();
                }
            }
        }
        self.wire.flush();
        match ended && self.wire.is_flushed() && self.later.pieces.is_empty() || reset {
            true => Next::Done,
            false => self.later.next(),
        }
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [Some(&mut self.wire), None]
    }
}
