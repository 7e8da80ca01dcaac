//! A client that speaks HTTP: it connects, asks, looks at every byte of the answer, thinks, and asks again.
//! It does what a client has to: `Connection: close` is no loss, and what was pipelined behind it is asked anew.

use std::collections::VecDeque;
use std::sync::Arc;

use super::kinds::{Ask, Dice, Field, Kind, Shape, KINDS};
use super::message::{self, chunk, pattern, Message};
use super::reactor::{Actor, Next};
use super::tally::{Line, Loss};
use super::wire::{End, Wire};

/// Without an answer for so long it is lost.
const PATIENCE_US: u64 = 30_000_000;
const SMALL_BYTES: (u64, u64) = (1, 3_000);
const LARGE_BYTES: usize = 48 * 1024;
/// A slow upload is so many pieces, one each such time.
const PIECES: usize = 16;
pub const PIECE_US: u64 = 100_000;

struct Asked {
    id: u64,
    /// Of the answer.
    bytes: usize,
    sent_us: u64,
}

pub struct Asker {
    kind: usize,
    ask: Ask,
    field: Arc<Field>,
    dice: Dice,
    /// Of its requests: the client's number, then a count.
    id: u64,
    wire: Option<Wire>,
    begun_us: u64,
    /// Answers on this connection.
    answers: u64,
    waiting: VecDeque<Asked>,
    /// Pieces of a request body that are not sent yet.
    pieces: VecDeque<Vec<u8>>,
    next_us: u64,
    /// Its last request is made.
    last: bool,
}

impl Actor for Asker {
    fn turn(&mut self, now_us: u64) -> Next {
        if let Some(wire) = &mut self.wire {
            wire.pump();
        }
        self.take_answers(now_us);
        self.see_the_end(now_us);
        self.go_on(now_us);
        if let Some(wire) = &mut self.wire {
            wire.flush();
        }
        self.next(now_us)
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [self.wire.as_mut(), None]
    }
}

impl Asker {
    pub fn new(kind: usize, ask: Ask, number: u64, field: Arc<Field>, dice: Dice) -> Asker {
        Asker {
            kind,
            ask,
            field,
            dice,
            id: number << 32,
            wire: None,
            begun_us: 0,
            answers: 0,
            waiting: VecDeque::new(),
            pieces: VecDeque::new(),
            next_us: 0,
            last: false,
        }
    }

    fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    fn lose(&self, loss: Loss, why: String) {
        let local = self.wire.as_ref().and_then(Wire::local);
        let line = Line {
            kind: self.kind,
            client: self.field.alias(self.kind(), local),
            begun_us: self.begun_us,
        };
        self.field.tally.lose(line, loss, why);
    }

    /// Those that wait for an answer get none.
    fn lose_waiting(&mut self, why: &str) {
        for asked in std::mem::take(&mut self.waiting) {
            self.lose(Loss::Request, format!("request {:x}: {why}", asked.id));
        }
    }

    fn leave(&mut self, now_us: u64) {
        self.wire = None;
        self.waiting.clear();
        self.pieces.clear();
        self.think(now_us);
    }

    fn think(&mut self, now_us: u64) {
        let think_us = self.dice.between(self.ask.think_ms) * 1000;
        self.next_us = match self.ask.together {
            true => (now_us / think_us + 1) * think_us,
            false => now_us + think_us,
        };
    }

    fn take_answers(&mut self, now_us: u64) {
        while let Some(wire) = &mut self.wire {
            let answer = match message::read(&wire.input) {
                Ok(None) => return,
                Ok(Some((answer, used))) => {
                    wire.input.drain(..used);
                    Ok(answer)
                }
                Err(what) => Err(what),
            };
            let Some(asked) = self.waiting.pop_front() else {
                let what = answer.map_or_else(|e| e, |a| a.start);
                self.lose(
                    Loss::Request,
                    format!("an answer without a request: {what}"),
                );
                return self.leave(now_us);
            };
            match answer.and_then(|answer| self.fault(&asked, &answer).map_or(Ok(answer), Err)) {
                Err(fault) => {
                    self.waiting.push_front(asked);
                    self.lose_waiting(&fault);
                    return self.leave(now_us);
                }
                Ok(answer) => self.answered(asked, &answer, now_us),
            }
        }
    }

    fn fault(&self, asked: &Asked, answer: &Message) -> Option<String> {
        let Asked { id, bytes, .. } = asked;
        if answer.second() != "200" {
            return Some(format!("{:?}", answer.start));
        }
        if !self.pieces.is_empty() {
            return Some("an answer before the request was sent".to_string());
        }
        let right = answer.body == pattern(*id, *bytes);
        (!right).then(|| format!("a body of {} bytes that is not its own", answer.body.len()))
    }

    fn answered(&mut self, asked: Asked, answer: &Message, now_us: u64) {
        self.answers += 1;
        let closes = answer.closes();
        self.field.tally.count(self.kind, |row| {
            row.right += 1;
            row.bytes_down += asked.bytes as u64;
            if closes {
                row.closes += 1;
                // They are asked again on another connection.
                row.asked -= self.waiting.len() as u64;
            }
        });
        if self.ask.ordinary {
            // Who comes for one request waits for the connection as well.
            let alone = self.ask.per_connection == 1;
            let since_us = if alone { self.begun_us } else { asked.sent_us };
            self.field.tally.took(since_us, now_us);
        }
        let enough = self.ask.per_connection != 0 && self.answers >= self.ask.per_connection;
        if closes || enough {
            self.leave(now_us);
        } else if self.waiting.is_empty() {
            self.think(now_us);
        }
    }

    fn see_the_end(&mut self, now_us: u64) {
        let Some(wire) = &self.wire else { return };
        let oldest_us = self.waiting.front().map(|asked| asked.sent_us);
        if let Some(end) = wire.end().cloned() {
            let came = wire.input.len();
            if !self.waiting.is_empty() {
                self.lose_waiting(&format!("{end:?} after {came} bytes of its answer"));
            } else if end == End::Refused {
                self.lose(Loss::Refused, "the connect".to_string());
            } else if self.answers == 0 {
                let when = if wire.is_open() {
                    "before a request"
                } else {
                    "while connecting"
                };
                self.lose(Loss::Reset, format!("{end:?} {when}"));
            } else {
                self.lose(
                    Loss::Idle,
                    format!("{end:?} after {} answers", self.answers),
                );
            }
        } else if oldest_us.is_some_and(|sent_us| now_us > sent_us + PATIENCE_US) {
            self.lose_waiting("no answer for too long");
        } else if !wire.is_open() && now_us > self.begun_us + PATIENCE_US {
            self.lose(Loss::Refused, "connecting takes too long".to_string());
        } else {
            return;
        }
        self.leave(now_us);
    }

    fn go_on(&mut self, now_us: u64) {
        if let Some(piece) = self.pieces.front().filter(|_| now_us >= self.next_us) {
            if let Some(wire) = &mut self.wire {
                wire.send(piece);
            }
            self.pieces.pop_front();
            self.next_us = now_us + PIECE_US;
            return;
        }
        if !self.waiting.is_empty()
            || (now_us < self.next_us && !self.field.is_ending())
            || self.last
        {
            return;
        }
        match &self.wire {
            None if self.field.is_ending() => self.last = true,
            None => self.connect(now_us),
            Some(wire) if wire.is_open() => self.request(now_us),
            Some(_) => {}
        }
    }

    fn connect(&mut self, now_us: u64) {
        self.begun_us = now_us;
        self.answers = 0;
        self.field.tally.count(self.kind, |row| row.connects += 1);
        let address = self.field.address(self.kind());
        match Wire::connect(address, self.field.connector(self.kind())) {
            Ok(wire) => self.wire = Some(wire),
            Err(end) => {
                let loss = if end == End::Refused {
                    Loss::Refused
                } else {
                    Loss::Reset
                };
                self.lose(loss, format!("connect: {end:?}"));
                self.leave(now_us);
            }
        }
    }

    /// Who is in the end asks once more, so that every connection is known to live.
    fn request(&mut self, now_us: u64) {
        self.last = self.field.is_ending();
        let mut sent = Vec::new();
        for _ in 0..self.ask.batch {
            self.id += 1;
            let chunked = self.id.is_multiple_of(2);
            let (request, bytes) = match self.ask.shape {
                Shape::Small => self.get("now", self.dice_bytes(), chunked),
                Shape::Download => self.get("slow", LARGE_BYTES, chunked),
                Shape::Upload => self.upload(chunked),
            };
            sent.extend_from_slice(request.as_bytes());
            self.waiting.push_back(Asked {
                id: self.id,
                bytes,
                sent_us: now_us,
            });
        }
        self.field.tally.count(self.kind, |row| {
            row.asked += self.waiting.len() as u64;
            row.bytes_up += self
                .pieces
                .iter()
                .map(|piece| piece.len() as u64)
                .sum::<u64>();
        });
        self.next_us = now_us + PIECE_US;
        if let Some(wire) = &mut self.wire {
            wire.send(&sent);
        }
    }

    fn dice_bytes(&self) -> usize {
        Dice::new(self.id).between(SMALL_BYTES) as usize
    }

    fn get(&self, pace: &str, bytes: usize, chunked: bool) -> (String, usize) {
        let framing = if chunked { "chunked" } else { "counted" };
        let line = format!("GET /{pace}/{framing}/{:x}/{bytes} HTTP/1.1", self.id);
        (format!("{line}\r\nHost: one.example.com\r\n\r\n"), bytes)
    }

    /// The backend looks at what it gets, and answers with as many bytes of its own if that was right.
    fn upload(&mut self, chunked: bool) -> (String, usize) {
        let body = pattern(!self.id, LARGE_BYTES);
        let pieces = body.chunks(LARGE_BYTES / PIECES);
        let framing = match chunked {
            true => {
                self.pieces = pieces.map(chunk).collect();
                self.pieces.push_back(chunk(b""));
                "Transfer-Encoding: chunked".to_string()
            }
            false => {
                self.pieces = pieces.map(<[u8]>::to_vec).collect();
                format!("Content-Length: {LARGE_BYTES}")
            }
        };
        let line = format!("POST /now/counted/{:x}/1000 HTTP/1.1", self.id);
        (
            format!("{line}\r\nHost: one.example.com\r\n{framing}\r\n\r\n"),
            1000,
        )
    }

    fn next(&self, now_us: u64) -> Next {
        let connecting = self.wire.as_ref().is_some_and(|wire| !wire.is_open());
        match self.waiting.front() {
            _ if !self.pieces.is_empty() => Next::At(self.next_us.max(now_us)),
            Some(asked) => Next::At(asked.sent_us + PATIENCE_US + 1),
            None if self.last => Next::Done,
            None if connecting => Next::At(self.begun_us + PATIENCE_US + 1),
            None => Next::At(self.next_us.max(now_us)),
        }
    }
}
