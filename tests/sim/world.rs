//! One world from one seed: who is in it, whose move it is, what time it is.
//!
//! Somebody who can move does, in any order. When nobody can, the proxy has to
//! have a reason to wait; then time passes up to the next deadline, until all
//! sessions are closed.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use crate::backends::Backends;
use crate::client::{self, Client};
use crate::dice::Dice;
use crate::drive::{lend, Sim, Slot, Tools};
use crate::plan;
use crate::rate::Bucket;
use crate::server::{self, Truth, EDITED};
use crate::tunnel::Shuts;
use crate::verdict;
use crate::wire::{Wire, ERR};
use sozu_lib::buf::Pool;
use sozu_lib::http::basic_auth::Proofs;
use sozu_lib::http::challenge::Challenges;
use sozu_lib::quota::rate::Rate;
use sozu_lib::random::Random;
use sozu_lib::session::record::End;
use sozu_lib::session::{
    self, Door, Event, Exchange, Lead, Rule, Scratch, Session, Side, Stay, Target,
};
use sozu_lib::slab::Key;
use sozu_lib::state::{
    Actions, Backend, BackendState, Balancing, Cidr, Cluster, Edits, FrontendId, HostRule,
    Listener, LoadBalancing, Own, PathRule, Protocol, Quota, Timeouts,
};

/// More than any world has sessions at a time: none is ever made anew.
const SPARE: usize = 8;
/// After so many moves nobody dawdles any more.
const PATIENCE_MOVES: usize = 3000;
/// More than any world needs then.
const MOVES_MAX: usize = 50_000;
/// The longest of all time limits below, in milliseconds.
const WAIT_MS_MAX: u64 = 100_000;
/// How long a backend connection may be idle.
const POOLED_MS: u64 = 4000;

#[derive(Clone, Copy)]
enum Move {
    Front(usize),
    Back(usize),
    Resolve(usize),
    Client(usize, client::Move),
    Server(usize, server::Move),
}

/// What may happen in one world besides bytes.
struct Weather {
    /// In a hundred thousand moves: time makes a jump.
    jumps: usize,
    /// In a thousand moves: the clusters are paused, or are so no more.
    pauses: usize,
    /// The move at which the worker is told to drain, or to end at once.
    drain_at: Option<usize>,
    stop_at: Option<usize>,
}

/// Runs the world of a seed to its end. Panics where a rule is broken.
pub fn run(seed: u64, trace: bool) {
    let mut dice = Dice::new(seed);
    let room = dice.pick(&[4096, 4096, 9000, 16 * 1024]);
    let buffers = dice.pick(&[5, 8, 100]);
    let weather = Weather {
        jumps: dice.pick(&[0, 0, 2000]),
        pauses: dice.pick(&[0, 0, 10, 100]),
        drain_at: dice.percent(10).then(|| dice.below(300)),
        stop_at: dice.percent(5).then(|| dice.below(300)),
    };
    if trace {
        println!("buffers: {buffers} of {room} bytes");
    }
    let mut sim = empty(room, buffers, trace, &mut dice);
    let count = dice.between(1, 4);
    for id in 0..count {
        let tcp = dice.percent(12);
        arrive(&mut sim, id, tcp, &mut dice);
    }
    sim.dice = dice;
    for s in 0..count {
        turn(&mut sim, s, None);
    }
    let stopped = play(&mut sim, &weather);
    let odd = weather.jumps > 0 || sim.stay != Stay::Welcome || stopped;
    verdict::judge(&sim, odd, buffers < 16, stopped);
    if !stopped {
        sim.backends.check_idle();
    }
    assert_eq!(sim.tools.pool.lent(), 0, "buffers that nobody gave back");
    assert_eq!(sim.tools.spare.len(), SPARE, "exchanges that went astray");
}

fn empty(room: usize, buffers: usize, trace: bool, dice: &mut Dice) -> Sim {
    let tools = Tools {
        random: Random::new(dice.seed()),
        scratch: Scratch::default(),
        pool: Pool::new(room, buffers),
        spare: (0..SPARE).map(|_| Box::<Exchange>::default()).collect(),
        trash: vec![0; 1000],
        challenges: Challenges::default(),
        clients: (0..64).map(|_| AtomicU64::new(0)).collect(),
        proofs: Proofs::new([0; 32]),
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 8000));
    let longest = dice.pick(&[None, None, Some(10), Some(5_000)]);
    let raw = dice.pick(&[Protocol::Tcp, Protocol::TlsPassthrough]);
    let rate = dice.percent(30).then(|| Rate {
        per_second: dice.pick(&[1, 20, 200]),
        burst: dice.pick(&[1, 2, 5]),
    });
    let edited = dice.percent(40).then(edits);
    let edits_bytes = edited.as_ref().map_or(0, |edited| edited.request_bytes());
    let doors = [
        door(Protocol::Http, edited.map(Rc::new), longest, rate, dice),
        door(raw, None, None, None, dice),
    ];
    Sim {
        now_us: 1_000_000,
        dice: Dice::new(0),
        truth: Truth {
            asked: Vec::new(),
            answers: Vec::new(),
            room: room - edits_bytes,
            longest,
            edited: edits_bytes > 0,
        },
        tools,
        doors,
        bucket: rate.map(Bucket::new),
        server: Rc::new(session::Server {
            key: Key {
                index: 0,
                generation: 0,
            },
            backend: Rc::new(Backend {
                cluster: "c".into(),
                id: "b".into(),
                address: address.into(),
                weight: 1,
                state: BackendState::Ready,
                backup: false,
                max_connections: None,
                sticky_id: None,
            }),
            series: None,
        }),
        backends: Backends::new(dice),
        slots: Vec::new(),
        backs: Vec::new(),
        stay: Stay::Welcome,
        paused_until_us: None,
        held: VecDeque::new(),
        held_max: dice.pick(&[1, 2, 10]),
        connect_faults: dice.pick(&[0, 0, 20, 60]),
        trace,
    }
}

/// What makes heads longer in both directions.
fn edits() -> Actions {
    let (host, length) = EDITED;
    let edits = Edits::parse(&format!("set X-Added: {}", "y".repeat(length)));
    let edits = edits.expect("a good one");
    Actions {
        set_host: Some(host.into()),
        request_headers: edits.clone(),
        response_headers: edits,
        ..Actions::default()
    }
}

fn rule_at(path: &str, door: &mut Door, rule: Rule) {
    let identity = FrontendId {
        listener: door.listener.address,
        hostname: HostRule::Any,
        path: PathRule::Prefix(path.into()),
        method: None,
    };
    door.insert(&identity, rule);
}

/// A frontend to a cluster of that protocol, which does besides what is said.
fn rule(protocol: Protocol, quota: Quota, actions: Option<Rc<Actions>>) -> Rule {
    let lead = Lead::new(Target {
        key: Key {
            index: 0,
            generation: 0,
        },
        cluster: Rc::new(Cluster {
            id: "c".into(),
            protocol: protocol.behind(),
            balancing: Balancing::by(LoadBalancing::RoundRobin),
            quota,
            send_proxy: None,
            tls: None,
            check: None,
            eject_5xx: 0,
            answers: BTreeMap::new(),
        }),
        series: None,
    });
    Rule {
        lead: Some(lead),
        actions,
    }
}

fn door(
    protocol: Protocol,
    actions: Option<Rc<Actions>>,
    longest: Option<u32>,
    rate: Option<Rate>,
    dice: &mut Dice,
) -> Door {
    let path = match protocol {
        Protocol::Http | Protocol::Https => "/c",
        Protocol::Tcp | Protocol::TlsPassthrough | Protocol::Metrics => "/",
    };
    let page = dice
        .percent(30)
        .then(|| (503, "come back later".to_owned()));
    let listener = Rc::new(Listener {
        address: SocketAddr::from(([127, 0, 0, 1], 80)),
        protocol,
        enabled: true,
        timeouts: Timeouts {
            front: 30,
            back: 40,
            connect: 3,
            request: 20,
            keepalive: 60,
            tunnel: 100,
        },
        sticky_name: "S".into(),
        trusted_proxies: Vec::new(),
        expect_proxy: false,
        proxy_sources: Vec::new(),
        quota: Quota {
            body: longest,
            pace: dice.pick(&[None, Some(1), Some(1_000)]),
            ..Quota::default()
        },
        tls: None,
        answers: page.into_iter().collect(),
    });
    let mut door = Door::new(listener, None);
    let limited = Quota {
        rate,
        ..Quota::default()
    };
    rule_at(path, &mut door, rule(protocol, limited, actions));
    let outsiders = Quota {
        deny: vec![Cidr::parse("192.0.2.0/24").expect("a range")],
        ..Quota::default()
    };
    rule_at("/denied", &mut door, rule(protocol, outsiders, None));
    let deny = Actions {
        own: Some(Own::Deny),
        ..Actions::default()
    };
    let denied = Rule {
        lead: None,
        actions: Some(Rc::new(deny)),
    };
    rule_at("/forbidden", &mut door, denied);
    door
}

fn arrive(sim: &mut Sim, id: usize, tcp: bool, dice: &mut Dice) {
    let mut plan = match tcp {
        true => plan::tunnel(sim.doors[1].reads_hello(), dice),
        false => plan::plan(id, sim.truth.room, sim.truth.longest, dice),
    };
    let client = Client::new(id, &mut plan, tcp, dice);
    sim.truth.asked.push(plan.asked);
    let door = &sim.doors[usize::from(tcp)];
    let mut world = lend(&mut sim.tools, door, sim.now_us, Stay::Welcome);
    let session = Session::new(SocketAddr::from(([192, 0, 2, 7], 4000)), &mut world);
    let wire = Wire::new(true, dice);
    sim.slots.push(Slot::new(session, wire, client, tcp));
}

/// True: the worker was told to end at once.
fn play(sim: &mut Sim, weather: &Weather) -> bool {
    let mut moves = Vec::new();
    for count in 0.. {
        assert!(count < MOVES_MAX, "a world without end");
        if weather.stop_at == Some(count) {
            stop(sim);
            return true;
        }
        if weather.drain_at == Some(count) {
            sim.stay = Stay::Over;
            for s in 0..sim.slots.len() {
                turn(sim, s, Some(Event::Drain));
            }
        }
        if sim.dice.below(1000) < weather.pauses {
            match sim.paused_until_us {
                Some(_) => sim.resume(),
                None => {
                    let seconds = sim.dice.pick(&[1, 5, 60]);
                    sim.paused_until_us = Some(sim.now_us + seconds * 1_000_000);
                }
            }
        }
        if count % PATIENCE_MOVES == PATIENCE_MOVES - 1 {
            hurry(sim);
        }
        collect(sim, &mut moves);
        if !moves.is_empty() {
            pass_time(sim, weather);
            let choice = sim.dice.below(moves.len());
            perform(sim, moves[choice]);
        } else if sim.slots.iter().all(|slot| slot.closed) {
            return false;
        } else {
            wait(sim);
        }
        feed_starving(sim);
        expire(sim);
    }
    false
}

fn hurry(sim: &mut Sim) {
    let fronts = sim.slots.iter_mut().map(|slot| &mut slot.wire);
    let backs = sim.backs.iter_mut().map(|back| &mut back.wire);
    for wire in fronts.chain(backs) {
        wire.to_proxy.widen(PATIENCE_MOVES);
        wire.from_proxy.widen(PATIENCE_MOVES);
    }
}

fn pass_time(sim: &mut Sim, weather: &Weather) {
    sim.now_us += sim.dice.below(1000) as u64;
    if sim.dice.below(100_000) < weather.jumps {
        sim.now_us += sim.dice.pick(&[100, 1000, 3000, 20_000, 70_000]) * 1000;
    }
}

fn collect(sim: &Sim, moves: &mut Vec<Move>) {
    moves.clear();
    for (s, slot) in sim.slots.iter().enumerate() {
        if slot.wire.fires() != 0 {
            moves.push(Move::Front(s));
        }
        let asked = &sim.truth.asked[s];
        let add = &mut |what| moves.push(Move::Client(s, what));
        slot.client.moves(&slot.wire, asked, add);
    }
    for (b, back) in sim.backs.iter().enumerate() {
        if back.connecting {
            if !back.hangs {
                moves.push(Move::Resolve(b));
            }
            continue;
        }
        if back.wire.fires() != 0 {
            moves.push(Move::Back(b));
        }
        let add = &mut |what| moves.push(Move::Server(b, what));
        back.server.moves(&back.wire, add);
    }
}

fn perform(sim: &mut Sim, what: Move) {
    match what {
        Move::Front(s) => {
            let events = sim.slots[s].wire.fires();
            sim.slots[s].wire.fired(events);
            let gone = events & ERR != 0 && !sim.slots[s].session.wants(Side::Front);
            turn(sim, s, gone.then_some(Event::Lost(Side::Front)));
        }
        Move::Back(b) => {
            let events = sim.backs[b].wire.fires();
            sim.backs[b].wire.fired(events);
            match sim.backs[b].owner {
                // Idle and yet it speaks, or is closed: of no use any more.
                None => sim.close_back(b, false),
                Some(s) => {
                    let gone = events & ERR != 0 && !sim.slots[s].session.wants(Side::Back);
                    turn(sim, s, gone.then_some(Event::Lost(Side::Back)));
                }
            }
        }
        Move::Resolve(b) => sim.resolve(b),
        Move::Client(s, what) => {
            if sim.trace && what != client::Move::Read {
                println!("{:>12} us, client {s} does: {what:?}", sim.now_us);
            }
            let slot = &mut sim.slots[s];
            slot.client
                .act(what, &mut slot.wire, &sim.truth, &mut sim.dice);
        }
        Move::Server(b, what) => {
            if sim.trace && what != server::Move::Read {
                println!("{:>12} us, server {b} does: {what:?}", sim.now_us);
            }
            let back = &mut sim.backs[b];
            back.server
                .act(what, &mut back.wire, &mut sim.truth, &mut sim.dice);
        }
    }
}

/// One session's share of a turn.
fn turn(sim: &mut Sim, s: usize, event: Option<Event>) {
    if sim.slots[s].closed {
        return;
    }
    if let Some(event) = event {
        sim.on(s, event);
    }
    sim.run(s);
    sim.after(s);
}

fn feed_starving(sim: &mut Sim) {
    for s in 0..sim.slots.len() {
        if sim.slots[s].starving && !sim.tools.pool.is_low() {
            sim.slots[s].starving = false;
            sim.slots[s].wire.readable = true;
            turn(sim, s, None);
        }
    }
}

/// Deadlines that have come.
fn expire(sim: &mut Sim) {
    let now_ms = sim.now_ms();
    if sim.paused_until_us.is_some_and(|until| until <= sim.now_us) {
        sim.resume();
    }
    for s in 0..sim.slots.len() {
        let slot = &mut sim.slots[s];
        let listener = &sim.doors[usize::from(slot.tcp)].listener;
        if !slot.closed && slot.session.deadline_ms(listener) <= now_ms {
            slot.timeouts.push(slot.records.len());
            slot.lapsed |= slot.session.exchange().is_none();
            turn(sim, s, Some(Event::Timeout));
        }
    }
    for b in 0..sim.backs.len() {
        let back = &sim.backs[b];
        let idle = back.owner.is_none() && !back.closed && !back.connecting;
        if idle && back.idle_since_ms + POOLED_MS <= now_ms {
            sim.close_back(b, false);
        }
    }
}

/// Nobody can move: is that as it should be? Then time passes.
fn wait(sim: &mut Sim) {
    let mut nudged = false;
    for slot in &mut sim.slots {
        nudged |= !slot.client.impatient;
        slot.client.impatient = true;
    }
    if nudged {
        return;
    }
    let mut next = u64::MAX;
    for s in 0..sim.slots.len() {
        let slot = &sim.slots[s];
        if slot.closed {
            continue;
        }
        let reason = may_wait(sim, s);
        assert!(reason, "client {s} waits and nobody knows what for");
        let listener = &sim.doors[usize::from(slot.tcp)].listener;
        let due = match sim.paused_until_us {
            Some(until) if slot.session.is_held() => until.div_ceil(1000),
            _ => slot.session.deadline_ms(listener),
        };
        assert!(
            due > sim.now_ms(),
            "client {s}: a deadline that came and went"
        );
        assert!(
            due <= sim.now_ms() + WAIT_MS_MAX,
            "client {s} waits too long"
        );
        next = next.min(due);
    }
    sim.now_us = next * 1000 + 1;
}

/// Whether that session may be at rest as things stand.
fn may_wait(sim: &Sim, s: usize) -> bool {
    let slot = &sim.slots[s];
    if slot.starving {
        return sim.tools.pool.is_low();
    }
    if slot.session.is_held() {
        return sim.held.contains(&s) && sim.paused_until_us.is_some();
    }
    if slot.session.is_idle() {
        return slot.wire.to_proxy.is_empty() && sim.stay == Stay::Welcome;
    }
    if slot.session.exchange().is_none() {
        // It said its last word and waits for the client's.
        return true;
    }
    let back = slot.back.map(|b| &sim.backs[b]);
    let silent = back.is_some_and(|back| back.hangs && back.connecting || back.server.is_silent());
    let both_wait = match (&slot.client.tunnel, back.map(|back| &back.server.tunnel)) {
        (Some(front), Some(Some(back))) => {
            [front, back].iter().all(|end| end.shuts == Shuts::After)
        }
        _ => false,
    };
    silent || both_wait || slot.client.is_silent()
}

/// The worker ends before its sessions do.
fn stop(sim: &mut Sim) {
    for slot in &mut sim.slots {
        let door = &sim.doors[usize::from(slot.tcp)];
        let mut world = lend(&mut sim.tools, door, sim.now_us, Stay::Over);
        if slot.session.cut(End::ProxyShutdown) {
            let x = slot.session.exchange().expect("something to log");
            assert_eq!(x.record.end, End::ProxyShutdown);
        }
        slot.session.forget(&mut world);
        assert!(slot.session.is_closed());
    }
}
