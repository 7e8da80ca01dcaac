//! A client that begins a TLS handshake and goes away in the middle of it. Nothing is lost by that; but until it goes it
//! must be let in, and nobody may close before it does.

use std::io::{self, Read, Write};
use std::sync::Arc;

use openssl::ssl::{SslConnector, SslStream};

use super::kinds::{Dice, Field, KINDS};
use super::reactor::{Actor, Next};
use super::tally::{Line, Loss};
use super::wire::{End, Wire};

/// How long it stays after what it sends.
const STAY_US: (u64, u64) = (0, 200_000);
const PAUSE_US: (u64, u64) = (10_000, 100_000);

pub struct Cutter {
    kind: usize,
    field: Arc<Field>,
    dice: Dice,
    hello: Vec<u8>,
    wire: Option<Wire>,
    begun_us: u64,
    next_us: u64,
}

impl Cutter {
    pub fn new(kind: usize, field: Arc<Field>, dice: Dice) -> Cutter {
        let hello = hello(&field.connector).unwrap_or_default();
        Cutter {
            kind,
            field,
            dice,
            hello,
            wire: None,
            begun_us: 0,
            next_us: 0,
        }
    }

    fn lose(&self, end: &End) {
        let line = Line {
            kind: self.kind,
            client: self.wire.as_ref().and_then(Wire::local),
            begun_us: self.begun_us,
        };
        let loss = if *end == End::Refused {
            Loss::Refused
        } else {
            Loss::Reset
        };
        self.field
            .tally
            .lose(line, loss, format!("{end:?} within the handshake"));
    }

    fn begin(&mut self, now_us: u64) {
        self.begun_us = now_us;
        self.next_us = now_us + self.dice.between(STAY_US);
        self.field.tally.count(self.kind, |row| {
            row.connects += 1;
            row.asked += 1;
        });
        // As TCP: the handshake is bytes that it has from elsewhere.
        match Wire::connect(self.field.address(&KINDS[self.kind]), None) {
            Ok(mut wire) => {
                let some = self.dice.between((0, self.hello.len() as u64)) as usize;
                wire.send(&self.hello[..some]);
                self.wire = Some(wire);
            }
            Err(end) => self.lose(&end),
        }
    }

    fn cut(&mut self, now_us: u64) {
        if let Some(wire) = self.wire.take() {
            if self.dice.between((0, 1)) == 0 {
                wire.reset();
            }
            self.field.tally.count(self.kind, |row| row.right += 1);
        }
        self.next_us = now_us + self.dice.between(PAUSE_US);
    }
}

impl Actor for Cutter {
    fn turn(&mut self, now_us: u64) -> Next {
        if let Some(wire) = &mut self.wire {
            wire.pump();
        }
        if let Some(end) = self.wire.as_ref().and_then(Wire::end).cloned() {
            self.lose(&end);
            self.wire = None;
        }
        match self.wire {
            Some(_) if now_us >= self.next_us => self.cut(now_us),
            None if self.field.is_ending() => return Next::Done,
            None if now_us >= self.next_us => self.begin(now_us),
            _ => {}
        }
        Next::At(self.next_us.max(now_us))
    }

    fn wires(&mut self) -> [Option<&mut Wire>; 2] {
        [self.wire.as_mut(), None]
    }
}

/// The first bytes of a handshake, to nobody.
fn hello(connector: &SslConnector) -> Option<Vec<u8>> {
    let ssl = connector
        .configure()
        .ok()?
        .into_ssl("one.example.com")
        .ok()?;
    let mut stream = SslStream::new(ssl, Silence::default()).ok()?;
    let _waits = stream.connect();
    Some(stream.get_ref().0.clone())
}

/// Takes what is written and has nothing to read.
#[derive(Default)]
struct Silence(Vec<u8>);

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Silence {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
