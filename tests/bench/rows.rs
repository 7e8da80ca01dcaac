//! The rows: what is measured, in which unit, against which bar. And how one sample of each is taken.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::changes::Changer;
use crate::lab::{Lab, KIB, MIB};
use crate::load::{Held, Kind, Load, Outcome};
use crate::peers::{Peer, Running};
use crate::process::{descriptors, Times};

const GIB: f64 = (1024 * MIB) as f64;
/// Long enough for start-up work and delayed frees to be over.
const SETTLE: Duration = Duration::from_millis(700);
const WARM_UP_S: u64 = 1;
const WINDOW_S: u64 = 1;
const IDLE_OPEN_S: u64 = 20;
/// What a proxy needs besides its idle connections.
const DESCRIPTORS_SPARE: u64 = 1000;

#[derive(Clone, Copy)]
pub enum What {
    /// Processor time per answer, in µs.
    PerAnswer(Load),
    /// Processor time per GiB of body, in ms.
    PerGib(Load),
    /// The slowest hundredth of the answers while other routes change, in percent of that while nothing changes.
    Changes(Load),
    /// The same for a cluster of ten while one backend of it holds its answers, in percent of that with nine.
    Slow(Load),
    /// Part of a core, in percent, that checks of so many clusters cost.
    Checks(usize),
    /// Bytes of memory per idle kept-alive connection, after such a load has warmed the proxy up.
    Idle(Load),
    /// MiB resident, freshly started.
    Rest,
}

/// What our figure has to reach.
#[derive(Clone, Copy)]
pub enum Bar {
    /// The better one of haproxy and nginx.
    BestPeer,
    Haproxy,
    Nginx,
    /// So many times the floor.
    Floor(f64),
    /// So many times what it costs with private keys in the worker.
    Inside(f64),
    Below(f64),
    Open,
}

#[derive(Clone, Copy)]
pub struct Row {
    pub id: &'static str,
    pub title: &'static str,
    pub what: What,
    pub bar: Bar,
    /// Whether relaying unread bytes says anything about this row.
    pub floor: bool,
}

const fn load(kind: Kind, clients: usize, path: &'static str, len: usize) -> Load {
    Load {
        kind,
        clients,
        path,
        len,
    }
}

/// Well below what one core can do.
const CHANGES_RATE: u32 = 4_000;

pub const ROWS: [Row; 18] = [
    Row {
        id: "http64",
        title: "HTTP kept alive, 1 KiB, 64 clients",
        what: What::PerAnswer(load(Kind::Wrk, 64, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: true,
    },
    Row {
        id: "http512",
        title: "HTTP kept alive, 1 KiB, 512 clients",
        what: What::PerAnswer(load(Kind::Wrk, 512, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: true,
    },
    Row {
        id: "httpnew",
        title: "HTTP, a new connection each",
        what: What::PerAnswer(load(Kind::New, 64, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: false,
    },
    Row {
        id: "http64k",
        title: "HTTP kept alive, 64 KiB",
        what: What::PerAnswer(load(Kind::Wrk, 64, "/64k", 64 * KIB)),
        bar: Bar::Open,
        floor: true,
    },
    Row {
        id: "http10m",
        title: "HTTP, 10 MiB bodies",
        what: What::PerGib(load(Kind::Body, 16, "/10m", 10 * MIB)),
        bar: Bar::Haproxy,
        floor: false,
    },
    Row {
        id: "tcp1k",
        title: "TCP, 1 KiB round trips",
        what: What::PerAnswer(load(Kind::Echo, 64, "", KIB)),
        bar: Bar::Floor(1.10),
        floor: true,
    },
    Row {
        id: "tcp10m",
        title: "TCP, 10 MiB streams",
        what: What::PerGib(load(Kind::Stream, 16, "", 10 * MIB)),
        bar: Bar::Open,
        floor: false,
    },
    Row {
        id: "changes",
        title: "p99 during 1,000 changes/s, of p99 without",
        what: What::Changes(load(Kind::Rate(CHANGES_RATE), 64, "/1k", KIB)),
        bar: Bar::Below(120.0),
        floor: false,
    },
    Row {
        id: "slow",
        title: "p99 with a slow backend of ten, of p99 without",
        what: What::Slow(load(Kind::Rate(CHANGES_RATE), 64, "/1k", KIB)),
        bar: Bar::Below(120.0),
        floor: false,
    },
    Row {
        id: "checks",
        title: "1,000 clusters, an HTTP check every 2 s, of a core",
        what: What::Checks(1_000),
        bar: Bar::Below(3.0),
        floor: false,
    },
    Row {
        id: "idle",
        title: "idle kept-alive HTTP connection",
        what: What::Idle(load(Kind::Wrk, 64, "/1k", KIB)),
        bar: Bar::Below(700.0),
        floor: false,
    },
    Row {
        id: "https1k",
        title: "HTTPS kept alive, 1 KiB, 64 clients",
        what: What::PerAnswer(load(Kind::TlsKeep, 64, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: false,
    },
    Row {
        id: "tlsfull",
        title: "HTTPS, a whole handshake each, ECDSA P-256",
        what: What::PerAnswer(load(Kind::TlsFull, 32, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: false,
    },
    Row {
        id: "tlskeys",
        title: "a whole handshake each, signed by the key process",
        what: What::PerAnswer(load(Kind::TlsFull, 32, "/1k", KIB)),
        bar: Bar::Inside(1.08),
        floor: false,
    },
    Row {
        id: "tlsresumed",
        title: "HTTPS, a resumed handshake each",
        what: What::PerAnswer(load(Kind::TlsResume, 32, "/1k", KIB)),
        bar: Bar::BestPeer,
        floor: false,
    },
    Row {
        id: "https10m",
        title: "HTTPS, 10 MiB bodies",
        what: What::PerGib(load(Kind::TlsKeep, 16, "/10m", 10 * MIB)),
        bar: Bar::BestPeer,
        floor: false,
    },
    Row {
        id: "idletls",
        title: "idle kept-alive HTTPS connection",
        what: What::Idle(load(Kind::TlsKeep, 64, "/1k", KIB)),
        bar: Bar::Nginx,
        floor: false,
    },
    Row {
        id: "rest",
        title: "resident at rest, all processes",
        what: What::Rest,
        bar: Bar::Below(8.0),
        floor: false,
    },
];

impl Row {
    pub fn unit(&self) -> &'static str {
        match self.what {
            What::PerAnswer(_) => "µs",
            What::PerGib(_) => "ms/GiB",
            What::Changes(_) | What::Slow(_) | What::Checks(_) => "%",
            What::Idle(_) => "bytes",
            What::Rest => "MiB",
        }
    }

    pub fn concerns(&self, peer: Peer) -> bool {
        match (self.what, self.bar) {
            // The others have no such thing.
            (What::Changes(_) | What::Slow(_) | What::Checks(_), _) => peer == Peer::Sozu,
            (_, Bar::Inside(_)) => matches!(peer, Peer::Sozu | Peer::Inside),
            _ if peer == Peer::Inside => false,
            _ => self.floor || peer != Peer::Floor,
        }
    }
}

/// One run of one row for one proxy.
#[derive(Clone, Copy)]
pub struct Sample {
    /// In the row's unit. Less is better, in all rows.
    pub cost: f64,
    pub speed: Option<Speed>,
    /// The same while nothing changes, where that is the question.
    pub quiet: Option<Speed>,
}

/// What the clients saw.
#[derive(Clone, Copy)]
pub struct Speed {
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// Part of the window that the proxy stood ready while somebody else had its core: how far to trust the rest.
    pub waited: f64,
}

impl Speed {
    fn of(outcome: &Outcome, spent: &Times) -> Speed {
        let us = outcome.us.max(1) as f64;
        Speed {
            per_second: outcome.done as f64 * 1e6 / us,
            p50_us: outcome.p50_us,
            p99_us: outcome.p99_us,
            waited: spent.waited_ns as f64 / 1e3 / us,
        }
    }
}

/// Warm-up, then a window: the processor time between its ends, divided by what was served in it.
pub fn under_load(row: &Row, running: &Running, lab: &Lab, seconds: u64) -> Result<Sample, String> {
    let (What::PerAnswer(load) | What::PerGib(load)) = row.what else {
        return Err("not a row under load".to_string());
    };
    let port = match load.kind {
        Kind::Echo | Kind::Stream => running.tcp,
        Kind::TlsKeep | Kind::TlsFull | Kind::TlsResume => running.https,
        Kind::Wrk | Kind::Body | Kind::New | Kind::Rate(_) => {
            running.verify(load.path, load.len)?;
            running.http
        }
    };
    load.run(lab, port, WARM_UP_S)?;
    let before = running.process.times();
    let outcome = load.run(lab, port, seconds)?;
    let spent = running.process.times().since(before);
    let cpu_ns = spent.cpu_ns as f64;
    let cost = match row.what {
        What::PerGib(_) => cpu_ns / 1e6 / (outcome.bytes as f64 / GIB),
        _ => cpu_ns / 1e3 / outcome.done as f64,
    };
    let speed = Speed::of(&outcome, &spent);
    Ok(Sample {
        cost,
        speed: Some(speed),
        quiet: None,
    })
}

/// A request that is lost fails the run.
pub fn changes(row: &Row, running: &Running, lab: &Lab, seconds: u64) -> Result<Sample, String> {
    let What::Changes(load) = row.what else {
        return Err("not a row with changes".to_string());
    };
    let mut changer = Changer::start(&lab.control_socket(), running.http)?;
    let sample = compare(load, running, lab, seconds, |changes| match changes {
        true => {
            changer.go_on();
            Ok(())
        }
        false => changer.pause(),
    })?;
    changer.leave()?;
    Ok(sample)
}

/// Windows with something and without it take turns: a noisy moment hits both. The one with the median p99 counts for each.
pub fn compare(
    load: Load,
    running: &Running,
    lab: &Lab,
    seconds: u64,
    mut turn: impl FnMut(bool) -> Result<(), String>,
) -> Result<Sample, String> {
    running.verify(load.path, load.len)?;
    let window = || -> Result<Speed, String> {
        let before = running.process.times();
        let outcome = load.run(lab, running.http, WINDOW_S)?;
        let spent = running.process.times().since(before);
        Ok(Speed::of(&outcome, &spent))
    };
    window()?;
    let (mut quiet, mut during) = (Vec::new(), Vec::new());
    for _ in 0..seconds {
        quiet.push(window()?);
        turn(true)?;
        let taken = window();
        turn(false)?;
        during.push(taken?);
    }
    let (quiet, speed) = (middle("without", quiet), middle("during", during));
    Ok(Sample {
        cost: speed.p99_us as f64 * 100.0 / quiet.p99_us.max(1) as f64,
        speed: Some(speed),
        quiet: Some(quiet),
    })
}

/// Says what it chose from: how far the windows lie apart is how far to trust it.
fn middle(name: &str, mut windows: Vec<Speed>) -> Speed {
    windows.sort_by_key(|speed| speed.p99_us);
    let all: Vec<String> = windows.iter().map(|w| w.p99_us.to_string()).collect();
    eprintln!("  p99 {name}, µs: {}", all.join(" "));
    windows[windows.len() / 2]
}

/// A fresh process that has worked a little; then what so many idle clients add.
pub fn idle(
    row: &Row,
    peer: Peer,
    lab: &mut Lab,
    sozu: &Path,
    wanted: u64,
) -> Result<Sample, String> {
    let What::Idle(warm_up) = row.what else {
        return Err("not a row of idle connections".to_string());
    };
    let clients = wanted.min(descriptors().saturating_sub(DESCRIPTORS_SPARE)) as usize;
    let running = Running::start(peer, lab, sozu)?;
    let port = match warm_up.kind.is_tls() {
        true => running.https,
        false => running.http,
    };
    warm_up.run(lab, port, WARM_UP_S)?;
    sleep(SETTLE);
    let before = running.process.pss_bytes()?;
    let load = Load { clients, ..warm_up };
    let mut held = Held::open(lab, port, &load, IDLE_OPEN_S)?;
    sleep(SETTLE);
    let after = running.process.pss_bytes()?;
    let open = held.count()?;
    if open != clients {
        return Err(format!("{open} of {clients} idle connections stayed open"));
    }
    Ok(Sample {
        cost: after.saturating_sub(before) as f64 / clients as f64,
        speed: None,
        quiet: None,
    })
}

/// Alone on the machine: nothing else of the same program may share its pages, which Pss would divide.
pub fn rest(peer: Peer, lab: &mut Lab, sozu: &Path) -> Result<Sample, String> {
    let running = Running::start(peer, lab, sozu)?;
    sleep(SETTLE);
    Ok(Sample {
        cost: running.process.pss_bytes()? as f64 / MIB as f64,
        speed: None,
        quiet: None,
    })
}
