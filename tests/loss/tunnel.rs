//! A client of a tunnel: a WebSocket, or TCP as it is. Every byte that comes back is compared with what was sent.

use std::collections::VecDeque;
use std::sync::Arc;

use super::kinds::{Dice, Field, Kind, Tunnels, KINDS};
use super::message::{self, frame, pattern};
use super::reactor::{Actor, Next};
use super::tally::{Line, Loss};
use super::wire::{End, Wire};

/// Without what has to come for so long the tunnel is lost.
const PATIENCE_US: u64 = 30_000_000;
/// Between two messages.
const PACE_US: (u64, u64) = (5_000, 15_000);
const PAYLOAD_BYTES: (u64, u64) = (8, 100);
/// What goes one way only.
const STREAM_BYTES: usize = 32 * 1024;
const PIECES: usize = 24;
/// One of TLS cannot move, and its worker stays for it: the bound on workers that end is not what is tested.
const LIFE_SECURE_US: (u64, u64) = (1_000_000, 4_000_000);
const LIFE_US: (u64, u64) = (2_000_000, 8_000_000);
const PAUSE_US: (u64, u64) = (10_000, 300_000);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Off,
    Connecting,
    /// Waits for 101.
    Upgrading,
    Talking,
    /// It has said that it ends, and waits for the rest.
    Ending,
}

pub struct Tunnel {
    kind: usize,
    mode: Tunnels,
    field: Arc<Field>,
    dice: Dice,
    /// Of the tunnel: the client's number, then a count.
    id: u64,
    stage: Stage,
    wire: Option<Wire>,
    begun_us: u64,
    ends_us: u64,
    next_us: u64,
    /// The last time that something came, or nothing had to.
    heard_us: u64,
    sequence: u64,
    /// Bytes that have to come.
    expected: VecDeque<u8>,
    /// Where a message ends among the bytes that came, and when it was sent.
    marks: VecDeque<(u64, u64)>,
    received: u64,
    pieces: VecDeque<Vec<u8>>,
}

impl Actor for Tunnel {
    fn turn(&mut self, now_us: u64) -> Next {
        if let Some(wire) = &mut self.wire {
            wire.pump();
        }
        let went = self.advance(now_us);
        if let Err((loss, why)) = went.and_then(|()| self.see_the_end(now_us)) {
            self.lose(loss, why);
            self.leave(now_us);
        }
        if let Some(wire) = &mut self.wire {
            wire.flush();
        }
        match self.stage {
            Stage::Off if self.field.is_ending() => Next::Done,
            Stage::Off | Stage::Talking => Next::At(self.next_us.max(now_us)),
            Stage::Connecting if self.wire.as_ref().is_some_and(Wire::is_open) => Next::At(now_us),
            // The backend tells by another way what it got.
            Stage::Ending if self.mode == Tunnels::Up => Next::At(now_us + 5_000),
            _ => Next::At(self.heard_us + PATIENCE_US + 1),
        }
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [self.wire.as_mut(), None]
    }
}

type Went = Result<(), (Loss, String)>;

impl Tunnel {
    pub fn new(kind: usize, mode: Tunnels, number: u64, field: Arc<Field>, dice: Dice) -> Tunnel {
        Tunnel {
            kind,
            mode,
            field,
            dice,
            id: number << 32,
            stage: Stage::Off,
            wire: None,
            begun_us: 0,
            ends_us: 0,
            next_us: 0,
            heard_us: 0,
            sequence: 0,
            expected: VecDeque::new(),
            marks: VecDeque::new(),
            received: 0,
            pieces: VecDeque::new(),
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

    fn leave(&mut self, now_us: u64) {
        self.wire = None;
        self.stage = Stage::Off;
        self.expected.clear();
        self.marks.clear();
        self.pieces.clear();
        self.received = 0;
        self.next_us = now_us + self.dice.between(PAUSE_US);
    }

    fn advance(&mut self, now_us: u64) -> Went {
        let Some(wire) = &mut self.wire else {
            if now_us >= self.next_us && !self.field.is_ending() {
                return self.connect(now_us);
            }
            return Ok(());
        };
        match self.stage {
            Stage::Connecting if wire.is_open() => self.open(now_us),
            Stage::Upgrading => match message::read(&wire.input) {
                Ok(Some((answer, used))) if answer.second() == "101" => {
                    wire.input.drain(..used);
                    self.stage = Stage::Talking;
                    self.field.tally.count(self.kind, |row| row.right += 1);
                }
                Ok(None) => {}
                other => return Err((Loss::Request, format!("instead of 101: {other:?}"))),
            },
            Stage::Talking => {
                self.compare(now_us)?;
                if now_us >= self.next_us {
                    self.speak(now_us);
                }
            }
            Stage::Ending => self.compare(now_us)?,
            Stage::Off | Stage::Connecting => {}
        }
        Ok(())
    }

    fn connect(&mut self, now_us: u64) -> Went {
        self.begun_us = now_us;
        self.heard_us = now_us;
        self.id += 1;
        let life = if self.kind().secure {
            LIFE_SECURE_US
        } else {
            LIFE_US
        };
        // Half of those that can move stay to the end.
        let forever = !self.kind().secure && self.id >> 32 & 1 == 0;
        self.ends_us = if forever {
            u64::MAX
        } else {
            now_us + self.dice.between(life)
        };
        self.field.tally.count(self.kind, |row| row.connects += 1);
        let address = self.field.address(self.kind());
        let connected = Wire::connect(address, self.field.connector(self.kind()));
        let lost = |end: End| match end {
            End::Refused => (Loss::Refused, "the connect".to_string()),
            end => (Loss::Reset, format!("connect: {end:?}")),
        };
        self.wire = Some(connected.map_err(lost)?);
        self.stage = Stage::Connecting;
        Ok(())
    }

    fn open(&mut self, now_us: u64) {
        let Some(wire) = &mut self.wire else { return };
        self.stage = Stage::Talking;
        self.next_us = now_us;
        let header = |mode: &[u8]| {
            let length = (STREAM_BYTES as u32).to_be_bytes();
            [mode, &self.id.to_be_bytes(), &length].concat()
        };
        match self.mode {
            Tunnels::WebSocket => {
                let upgrade =
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
                let host = "GET /ws HTTP/1.1\r\nHost: one.example.com";
                let key = format!("Sec-WebSocket-Key: {KEY}");
                wire.send(format!("{host}\r\n{upgrade}\r\n{key}\r\n\r\n").as_bytes());
                self.stage = Stage::Upgrading;
                self.field.tally.count(self.kind, |row| row.asked += 1);
            }
            Tunnels::Echo => wire.send(&header(b"E")),
            Tunnels::Down => {
                wire.send(&header(b"D"));
                wire.finish();
                self.expected = pattern(self.id, STREAM_BYTES).into();
                self.stage = Stage::Ending;
                self.field.tally.count(self.kind, |row| row.asked += 1);
            }
            Tunnels::Up => {
                wire.send(&header(b"U"));
                let bytes = pattern(self.id, STREAM_BYTES);
                let pieces = bytes.chunks(STREAM_BYTES / PIECES);
                self.pieces = pieces.map(<[u8]>::to_vec).collect();
                self.field.tally.count(self.kind, |row| row.asked += 1);
            }
        }
    }

    fn speak(&mut self, now_us: u64) {
        let over = now_us >= self.ends_us || self.field.is_ending();
        let Some(wire) = &mut self.wire else { return };
        self.next_us = now_us + self.dice.between(PACE_US);
        if self.mode == Tunnels::Up {
            self.next_us = now_us + super::asker::PIECE_US;
            match self.pieces.pop_front() {
                Some(piece) => {
                    self.field
                        .tally
                        .count(self.kind, |row| row.bytes_up += piece.len() as u64);
                    wire.send(&piece);
                }
                None => {
                    wire.finish();
                    self.stage = Stage::Ending;
                }
            }
            return;
        }
        if over {
            self.stage = Stage::Ending;
            match self.mode {
                Tunnels::WebSocket => {
                    wire.send(&frame::write(frame::CLOSE, &[], Some([0; 4])));
                    self.expected.extend(frame::write(frame::CLOSE, &[], None));
                }
                _ => wire.finish(),
            }
            return;
        }
        self.sequence += 1;
        let length = self.dice.between(PAYLOAD_BYTES) as usize;
        let mut payload = self.sequence.to_be_bytes().to_vec();
        payload.extend(pattern(self.id ^ self.sequence, length));
        let mask = (self.sequence as u32).to_be_bytes();
        let (sent, back) = match self.mode {
            Tunnels::WebSocket => (
                frame::write(frame::BINARY, &payload, Some(mask)),
                frame::write(frame::BINARY, &payload, None),
            ),
            _ => (payload.clone(), payload),
        };
        wire.send(&sent);
        if self.expected.is_empty() {
            self.heard_us = now_us;
        }
        self.expected.extend(back);
        let end = self.received + self.expected.len() as u64;
        self.marks.push_back((end, now_us));
        self.field.tally.count(self.kind, |row| {
            row.asked += 1;
            row.bytes_up += sent.len() as u64;
        });
    }

    /// What came is what had to come next.
    fn compare(&mut self, now_us: u64) -> Went {
        let Some(wire) = &mut self.wire else {
            return Ok(());
        };
        let came = wire.input.len();
        if came == 0 {
            return Ok(());
        }
        self.heard_us = now_us;
        for (at, byte) in wire.input.drain(..).enumerate() {
            if self.expected.pop_front() != Some(byte) {
                let place = self.received + at as u64;
                return Err((Loss::Tunnel, format!("byte {place} is not what was sent")));
            }
        }
        self.received += came as u64;
        let mut whole = 0;
        while let Some((_, sent_us)) = self.marks.front().filter(|(end, _)| *end <= self.received) {
            // The way of those far away is no pause.
            if !self.kind().far {
                self.field.tally.tunneled(*sent_us, now_us);
            }
            self.marks.pop_front();
            whole += 1;
        }
        self.field.tally.count(self.kind, |row| {
            row.right += whole;
            row.bytes_down += came as u64;
        });
        Ok(())
    }

    fn see_the_end(&mut self, now_us: u64) -> Went {
        let Some(wire) = &self.wire else {
            return Ok(());
        };
        let arrived = match self.mode {
            Tunnels::Up => self
                .field
                .arrived
                .lock()
                .ok()
                .and_then(|mut all| all.remove(&self.id)),
            _ => None,
        };
        if let Some(whole) = arrived {
            if !whole {
                return Err((Loss::Tunnel, "the backend had not all bytes".to_string()));
            }
            return self.came_to_its_end(now_us);
        }
        let silent = !self.expected.is_empty() || self.stage != Stage::Talking;
        if silent && now_us > self.heard_us.max(self.next_us) + PATIENCE_US {
            return Err((Loss::Tunnel, format!("silence, {:?}", self.stage)));
        }
        let Some(end) = wire.end() else {
            return Ok(());
        };
        let missing = self.expected.len();
        match (self.stage, self.mode, end) {
            (Stage::Connecting, _, End::Refused) => Err((Loss::Refused, "the connect".to_string())),
            (Stage::Connecting, ..) => Err((Loss::Reset, format!("{end:?} while connecting"))),
            (Stage::Upgrading, ..) => Err((Loss::Request, format!("{end:?} instead of 101"))),
            // The other direction is open still.
            (_, Tunnels::Up, End::Closed) => Ok(()),
            (Stage::Ending, _, End::Closed) if missing == 0 => self.came_to_its_end(now_us),
            _ => Err((
                Loss::Tunnel,
                format!("{end:?}, {missing} bytes had to come, {:?}", self.stage),
            )),
        }
    }

    fn came_to_its_end(&mut self, now_us: u64) -> Went {
        if matches!(self.mode, Tunnels::Up | Tunnels::Down) {
            self.field.tally.count(self.kind, |row| row.right += 1);
        }
        self.leave(now_us);
        Ok(())
    }
}
