//! The kinds of clients, all at once: a row of the table each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use openssl::ssl::SslConnector;

use super::asker::Asker;
use super::cutter::Cutter;
use super::reactor::Actor;
use super::tally::Tally;
use super::tunnel::Tunnel;

pub struct Kind {
    pub name: &'static str,
    /// 30 ms away: 15 ms there, 15 ms back.
    pub far: bool,
    pub secure: bool,
    /// How many of them in an ordinary run.
    pub clients: usize,
    pub what: What,
}

#[derive(Clone, Copy)]
pub enum What {
    Ask(Ask),
    Tunnel(Tunnels),
    /// Begins a handshake and goes away in the middle of it.
    Cut,
}

/// HTTP.
#[derive(Clone, Copy)]
pub struct Ask {
    pub shape: Shape,
    /// Between an answer and the next request, at least and at most.
    pub think_ms: (u64, u64),
    /// Requests before the client closes; 0: never.
    pub per_connection: u64,
    /// Requests sent at once.
    pub batch: usize,
    /// All clients of that kind at the same moments.
    pub together: bool,
    /// Its times count as those of ordinary requests.
    pub ordinary: bool,
}

impl Ask {
    /// Most of the time it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.think_ms.0 >= 1_000
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Small,
    /// The backend takes its time for the answer, by length or in chunks.
    Download,
    /// The client takes its time for the request, by length or in chunks.
    Upload,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tunnels {
    WebSocket,
    /// What is sent comes back.
    Echo,
    /// The client has shut its side, and reads on.
    Down,
    /// The backend has shut its side, and reads on.
    Up,
}

const fn ask(shape: Shape, think_ms: (u64, u64)) -> Ask {
    Ask {
        shape,
        think_ms,
        per_connection: 0,
        batch: 1,
        together: false,
        ordinary: false,
    }
}

const SMALL: Ask = Ask {
    ordinary: true,
    ..ask(Shape::Small, (2, 20))
};
const NEW: Ask = Ask {
    per_connection: 1,
    ..SMALL
};
const PIPELINED: Ask = Ask {
    batch: 4,
    ..ask(Shape::Small, (5, 40))
};
const IDLE: Ask = ask(Shape::Small, (1_000, 6_000));
const QUEUE: Ask = Ask {
    per_connection: 1,
    together: true,
    ..ask(Shape::Small, (500, 500))
};
const FAR: Ask = ask(Shape::Small, (1, 60));

const fn kind(name: &'static str, clients: usize, what: What) -> Kind {
    Kind {
        name,
        far: false,
        secure: false,
        clients,
        what,
    }
}

const fn secure(kind: Kind) -> Kind {
    Kind {
        secure: true,
        ..kind
    }
}

const fn far(kind: Kind) -> Kind {
    Kind { far: true, ..kind }
}

pub const KINDS: &[Kind] = &[
    kind("new connections", 4, What::Ask(NEW)),
    secure(kind("new TLS connections", 2, What::Ask(NEW))),
    kind("kept-alive", 8, What::Ask(SMALL)),
    secure(kind("kept-alive TLS", 4, What::Ask(SMALL))),
    kind("slow uploads", 4, What::Ask(ask(Shape::Upload, (0, 100)))),
    secure(kind(
        "slow uploads, TLS",
        2,
        What::Ask(ask(Shape::Upload, (0, 100))),
    )),
    kind(
        "slow downloads",
        4,
        What::Ask(ask(Shape::Download, (0, 100))),
    ),
    secure(kind(
        "slow downloads, TLS",
        2,
        What::Ask(ask(Shape::Download, (0, 100))),
    )),
    kind("pipelining", 3, What::Ask(PIPELINED)),
    kind("idle, then again", 40, What::Ask(IDLE)),
    secure(kind("idle, then again, TLS", 10, What::Ask(IDLE))),
    kind("WebSockets", 6, What::Tunnel(Tunnels::WebSocket)),
    secure(kind("WebSockets, TLS", 4, What::Tunnel(Tunnels::WebSocket))),
    kind("TCP, both ways", 6, What::Tunnel(Tunnels::Echo)),
    kind("TCP, client half-closed", 4, What::Tunnel(Tunnels::Down)),
    kind("TCP, backend half-closed", 4, What::Tunnel(Tunnels::Up)),
    secure(kind("handshakes cut", 3, What::Cut)),
    kind("accept queue", 64, What::Ask(QUEUE)),
    far(kind("30 ms away", 8, What::Ask(FAR))),
    far(secure(kind("30 ms away, TLS", 4, What::Ask(FAR)))),
    far(kind("30 ms away, idle", 8, What::Ask(IDLE))),
    far(kind(
        "30 ms away, WebSockets",
        2,
        What::Tunnel(Tunnels::WebSocket),
    )),
    far(kind("30 ms away, TCP", 2, What::Tunnel(Tunnels::Echo))),
];

/// Where they go.
#[derive(Clone, Copy)]
pub struct Doors {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub tcp: SocketAddr,
}

/// What all of them share.
pub struct Field {
    pub tally: Tally,
    pub near: Doors,
    pub far: Doors,
    /// The addresses by which the proxy knows who comes through the relay.
    pub aliases: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>,
    /// Uploads through half-closed tunnels that the backend had whole, or not.
    pub arrived: Arc<Mutex<HashMap<u64, bool>>>,
    pub connector: SslConnector,
    /// What is under way comes to its end, and nothing else begins.
    pub ending: AtomicBool,
}

impl Field {
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub fn address(&self, kind: &Kind) -> SocketAddr {
        let doors = if kind.far { &self.far } else { &self.near };
        match kind.what {
            What::Tunnel(Tunnels::Echo | Tunnels::Down | Tunnels::Up) => doors.tcp,
            _ if kind.secure => doors.https,
            _ => doors.http,
        }
    }

    pub fn connector(&self, kind: &Kind) -> Option<&SslConnector> {
        kind.secure.then_some(&self.connector)
    }

    /// Answers that were right, of all kinds.
    pub fn answers(&self) -> u64 {
        self.tally
            .with(|inner| inner.rows.iter().map(|row| row.right).sum())
    }

    /// The address of a client as the proxy sees it.
    pub fn alias(&self, kind: &Kind, local: Option<SocketAddr>) -> Option<SocketAddr> {
        match kind.far {
            false => local,
            true => self.aliases.lock().ok()?.get(&local?).copied(),
        }
    }
}

/// One client of that kind; `number` is its own among all.
pub fn client(kind: usize, what: What, number: u64, field: &Arc<Field>) -> Box<dyn Actor> {
    let (field, dice) = (field.clone(), Dice::new(number));
    match what {
        What::Ask(ask) => Box::new(Asker::new(kind, ask, number, field, dice)),
        What::Tunnel(mode) => Box::new(Tunnel::new(kind, mode, number, field, dice)),
        What::Cut => Box::new(Cutter::new(kind, field, dice)),
    }
}

/// The same numbers in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// Both ends belong to it.
    pub fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        least + (self.0 >> 11) % (most - least + 1)
    }
}
