//! An exchange on its way to a backend: connected or not, or held while its cluster is paused or full.

use std::rc::Rc;

use crate::limits::CONNECT_RETRIES_MAX;
use crate::session::exchange::Exchange;
use crate::session::record::End;
use crate::session::request::{answer, is_tcp, received, reuse};
use crate::session::response::{finish, front_lost};
use crate::session::{tunnel, Common, Event, Phase, Server, Side, Target, Unconnected, World};

pub(super) fn connected(
    c: &mut Common,
    mut x: Box<Exchange>,
    server: Rc<Server>,
    reused: bool,
    world: &mut World,
) -> Phase {
    x.server = Some(server);
    x.reused = reused;
    x.taken = 0;
    x.record.connected_us = world.now_us;
    c.since_us = world.now_us;
    if is_tcp(&x) {
        return tunnel::connected(c, x);
    }
    Phase::Running(x)
}

pub(super) fn unconnected(
    c: &mut Common,
    mut x: Box<Exchange>,
    why: Unconnected,
    world: &mut World,
) -> Phase {
    match why {
        Unconnected::QueueFull { seconds } => (x.retry_after, x.failure) = (seconds, None),
        Unconnected::QueueTimedOut => (x.retry_after, x.failure) = (1, None),
        _ => {}
    }
    let worth_trying = matches!(
        why,
        Unconnected::Refused | Unconnected::TimedOut | Unconnected::NoTls(_)
    );
    if worth_trying && x.failed_connects < CONNECT_RETRIES_MAX {
        x.failed_connects += 1;
        x.failure = Some(why);
        c.acts.connect = Some(reuse(&x));
        c.since_us = world.now_us;
        return Phase::Waiting(x);
    }
    // That nobody else is left to try is no news; why the first failed is.
    let (end, status, what) = match x.failure.unwrap_or(why) {
        Unconnected::NoBackend => (End::BackendNone, 503, "no backend can be used"),
        Unconnected::Refused => (End::BackendRefused, 503, "no connection to a backend"),
        Unconnected::TimedOut => (End::BackendConnectTimeout, 504, "no connection in time"),
        Unconnected::NoTls(why) => (End::BackendTlsFailed, 503, why),
        Unconnected::QueueFull { .. } => {
            (End::ProxyQueueFull, 503, "too many wait for the cluster")
        }
        Unconnected::QueueTimedOut => (
            End::ProxyQueueTimeout,
            503,
            "no backend became free in time",
        ),
    };
    x.record.end = end;
    if is_tcp(&x) {
        c.acts.reset_front = true;
        return finish(c, x, end, what);
    }
    answer(c, x, status, what, world)
}

// ---- while the cluster is paused ----------------------------------------

pub(super) fn held(c: &mut Common, x: Box<Exchange>, world: &mut World) -> Phase {
    match c.front_ended && !is_tcp(&x) {
        true => given_up(c, x, world),
        false => Phase::Held(x),
    }
}

pub(super) fn while_held(
    c: &mut Common,
    x: Box<Exchange>,
    event: Event,
    world: &mut World,
) -> Phase {
    match event {
        Event::Called(target) => called(c, x, target, world),
        Event::Resumed(target) => resumed(c, x, target, world),
        Event::Unconnected(why) => unconnected(c, x, why, world),
        Event::Received(Side::Front, n) => match received(c, x, n, world) {
            Phase::Waiting(x) => Phase::Held(x),
            // What came has ended it.
            phase => phase,
        },
        Event::Ended(Side::Front) => held_ended(c, x, world),
        Event::Lost(Side::Front) | Event::Unsendable(Side::Front) => front_lost(c, x),
        _ => Phase::Held(x),
    }
}

/// As if it had come just now, to the cluster as it is now.
fn resumed(
    c: &mut Common,
    mut x: Box<Exchange>,
    target: Option<Rc<Target>>,
    world: &mut World,
) -> Phase {
    x.failed_connects = 0;
    x.failure = None;
    called(c, x, target, world)
}

/// It goes on where it was, with the backends that there are now.
fn called(
    c: &mut Common,
    mut x: Box<Exchange>,
    target: Option<Rc<Target>>,
    world: &mut World,
) -> Phase {
    let same = |target: &Rc<Target>| {
        let protocol = x.target.as_ref().map(|old| old.cluster.protocol);
        protocol == Some(target.cluster.protocol)
    };
    if let Some(target) = target.filter(same) {
        x.target = Some(target);
    }
    c.acts.connect = Some(reuse(&x));
    c.since_us = world.now_us;
    Phase::Waiting(x)
}

/// Who shuts its side of an HTTP connection here has most likely gone away, and nobody
/// would notice before it is served: it loses its place. A TCP client has only
/// said all that it has to say.
fn held_ended(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.front_ended = true;
    if !is_tcp(&x) {
        return given_up(c, x, world);
    }
    x.up_body.ended(&mut x.up, world.scratch, world.pool);
    Phase::Held(x)
}

fn given_up(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    x.record.end = End::ClientClosed;
    answer(c, x, 503, "while its request was held", world)
}
