//! The loss test: every kind of client at once, while the proxy is upgraded, reloaded, changed, and loses workers. Every
//! request and every byte of a tunnel is counted. `make loss`, or `cargo run --release --example loss -- --seconds 60`.
//!
//! Backends and the relay share one thread, all clients another one; what is done to the proxy is done by the caller's.
//! Losses decide. Times are measured and shown, for they depend on the machine; with `--strict` they decide as well.

mod asker;
mod conductor;
mod control;
mod cutter;
mod kinds;
mod message;
mod options;
mod peers;
#[path = "../bench/process.rs"]
#[allow(dead_code)]
mod process;
mod proxy;
mod reactor;
mod relay;
mod report;
mod tally;
mod tunnel;
mod wire;

pub use report::Outcome;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use sozu_lib::sys::socket;

use conductor::Conductor;
use kinds::{Ask, Doors, Field, What, KINDS};
use options::{Mode, Options};
use proxy::{Backends, Proxy};
use reactor::Reactor;
use relay::{Fault, Relay, Road, Spoiler};
use tally::Tally;

const BACKLOG: i32 = 4096;
/// In which all clients come for the first time.
const ARRIVAL_US: u64 = 500_000;
/// Many come more slowly: the listener's queue has an end.
const ARRIVAL_EACH_US: u64 = 500;
/// Slow transfers come to their end in it.
const END: Duration = Duration::from_secs(40);
const AFTER_FAULT: Duration = Duration::from_millis(500);
/// Of idle connections that speak now and then, one in so many is TLS.
const SECURE_SHARE: usize = 5;
const IDLE_UPGRADES: u64 = 3;

/// Runs what the words ask for, against that program if they do not name another one.
pub fn run(words: impl IntoIterator<Item = String>, sozu: PathBuf) -> Result<Outcome, String> {
    let options = Options::read(words, sozu)?;
    let raised = sozu_lib::sys::process::raise_descriptor_limit();
    raised.map_err(|e| format!("setrlimit: {e}"))?;
    let start = Instant::now();
    let (sender, broken) = channel();
    let mut peers = Peers::new(start)?;
    let mut proxy = Proxy::start(&options.sozu, peers.backends)?;
    let field = Arc::new(peers.field(start, proxy.doors)?);
    let spoiler = peers.spoiler.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let peers = peers.spawn(stop.clone(), sender.clone());
    let clients = spawn_clients(&options, &field, start, sender)?;
    let mut conductor = Conductor::new(&mut proxy, &field, &broken, options.binary.as_deref())?;
    let went = match options.mode {
        Mode::Rounds => conductor.rounds(Duration::from_secs(options.seconds)),
        Mode::Upgrades(count) => conductor.upgrades(count),
        Mode::Idle(count) => conductor
            .until("all have come", |field| field.answers() >= count as u64)
            .and_then(|()| conductor.upgrades(IDLE_UPGRADES)),
        Mode::Spoilt(fault) => {
            spoiler.set(fault);
            conductor
                .until("the fault", |_| spoiler.get() == Fault::None)
                .and_then(|()| conductor.wait(AFTER_FAULT))
        }
    };
    field.ending.store(true, Ordering::Relaxed);
    let joined = clients
        .join()
        .map_err(|_| "the clients panicked".to_string())?;
    let ended = conductor.shutdown();
    let mut record = conductor.record;
    let all = [went, joined, ended];
    record
        .faults
        .extend(all.into_iter().filter_map(Result::err));
    stop.store(true, Ordering::Relaxed);
    let joined = peers
        .join()
        .map_err(|_| "the backends panicked".to_string())?;
    record.faults.extend(joined.err());
    let mut outcome = field.tally.with(|inner| {
        inner.excuse();
        Outcome::of(inner, record, options.strict)
    });
    if outcome.code() != 0 {
        outcome.text += "\nfrom the proxy's log:\n";
        outcome.text += &proxy.complaints().join("\n");
    }
    Ok(outcome)
}

/// Backends and relay before they run.
struct Peers {
    reactor: Reactor,
    backends: Backends,
    arrived: Arc<Mutex<HashMap<u64, bool>>>,
    aliases: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>,
    spoiler: Arc<Spoiler>,
}

impl Peers {
    fn new(start: Instant) -> Result<Peers, String> {
        let mut reactor = Reactor::new(start)?;
        let arrived = Arc::<Mutex<HashMap<u64, bool>>>::default();
        let mut http = || -> Result<SocketAddr, String> {
            let (listener, address) = listen()?;
            reactor.listen(listener, |stream| Box::new(peers::Http::new(stream)))?;
            Ok(address)
        };
        let (http, spare) = ([http()?, http()?], http()?);
        let (listener, tcp) = listen()?;
        let known = arrived.clone();
        reactor.listen(listener, move |stream| {
            Box::new(peers::Tcp::new(stream, known.clone()))
        })?;
        Ok(Peers {
            reactor,
            backends: Backends { http, spare, tcp },
            arrived,
            aliases: Arc::default(),
            spoiler: Arc::default(),
        })
    }

    /// With a relay before each door.
    fn field(&mut self, start: Instant, near: Doors) -> Result<Field, String> {
        let mut relay = |to, faults| -> Result<SocketAddr, String> {
            let road = Arc::new(Road {
                to,
                aliases: self.aliases.clone(),
                spoiler: self.spoiler.clone(),
                faults,
            });
            let (listener, address) = listen()?;
            self.reactor.listen(listener, move |stream| {
                Box::new(Relay::new(stream, road.clone()))
            })?;
            Ok(address)
        };
        let far = Doors {
            http: relay(near.http, &[Fault::Cut, Fault::Close])?,
            https: relay(near.https, &[])?,
            tcp: relay(near.tcp, &[Fault::Flip])?,
        };
        let mut connector = SslConnector::builder(SslMethod::tls()).map_err(|e| e.to_string())?;
        connector.set_verify(SslVerifyMode::NONE);
        Ok(Field {
            tally: Tally::new(start),
            near,
            far,
            aliases: self.aliases.clone(),
            arrived: self.arrived.clone(),
            connector: connector.build(),
            ending: AtomicBool::new(false),
        })
    }

    fn spawn(
        mut self,
        stop: Arc<AtomicBool>,
        broken: Sender<String>,
    ) -> JoinHandle<Result<(), String>> {
        thread::spawn(move || {
            let went = self.reactor.run(|| !stop.load(Ordering::Relaxed));
            went.inspect_err(|why| drop(broken.send(why.clone())))
        })
    }
}

fn listen() -> Result<(TcpListener, SocketAddr), String> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = socket::listen(any, BACKLOG).map_err(|e| format!("listen: {e}"))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    Ok((listener, address))
}

fn spawn_clients(
    options: &Options,
    field: &Arc<Field>,
    start: Instant,
    broken: Sender<String>,
) -> Result<JoinHandle<Result<(), String>>, String> {
    let mut reactor = Reactor::new(start)?;
    let all: Vec<usize> = (0..KINDS.len())
        .flat_map(|kind| std::iter::repeat_n(kind, how_many(options, kind)))
        .collect();
    let arrival_us = ARRIVAL_US.max(ARRIVAL_EACH_US * all.len() as u64);
    let now_us = field.tally.now_us();
    let mut dice = kinds::Dice::new(0);
    for (number, kind) in all.into_iter().enumerate() {
        let first_us = now_us + dice.between((0, arrival_us));
        let what = pace(options, KINDS[kind].what);
        reactor.seat(
            kinds::client(kind, what, number as u64 + 1, field),
            first_us,
        );
    }
    let (field, watched) = (field.clone(), field.clone());
    reactor.watch(move |due_us, now_us| watched.tally.late(due_us, now_us));
    Ok(thread::spawn(move || {
        let went = reactor.run(|| !field.is_ending());
        went.inspect_err(|why| drop(broken.send(why.clone())))?;
        reactor.wake_all()?;
        let end = Instant::now() + END;
        reactor.run(|| Instant::now() < end)?;
        match reactor.seated() {
            0 => Ok(()),
            left => Err(format!("{left} clients did not come to an end")),
        }
    }))
}

/// How many clients of that kind.
fn how_many(options: &Options, kind: usize) -> usize {
    let kind = &KINDS[kind];
    let idle = matches!(kind.what, What::Ask(ask) if ask.is_idle()) && !kind.far;
    let more = match kind.secure {
        true => options.connections / SECURE_SHARE,
        false => options.connections - options.connections / SECURE_SHARE,
    };
    match options.mode {
        Mode::Rounds | Mode::Upgrades(_) if idle => kind.clients.max(more),
        Mode::Rounds | Mode::Upgrades(_) => kind.clients,
        Mode::Idle(count) if idle && !kind.secure => count,
        Mode::Idle(_) => 0,
        Mode::Spoilt(Fault::Close) if !matches!(kind.what, What::Ask(ask) if ask.is_idle()) => 0,
        Mode::Spoilt(_) if !kind.far => 0,
        Mode::Spoilt(_) => kind.clients,
    }
}

/// Ordinary clients do not think under full load; those that are idle all the time do nothing else.
fn pace(options: &Options, what: What) -> What {
    let think_ms = match (options.mode, what) {
        (Mode::Upgrades(_), What::Ask(ask)) if ask.ordinary => (0, 1),
        (Mode::Idle(_), What::Ask(_)) => (3_600_000, 3_600_000),
        _ => return what,
    };
    match what {
        What::Ask(ask) => What::Ask(Ask { think_ms, ..ask }),
        other => other,
    }
}
