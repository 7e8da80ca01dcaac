//! TLS that passes through: of the client's first message the host is read, which says where
//! the connection leads. From then on it is a TCP session whose first bytes are here already.

use crate::parser::client_hello::{self, Hello};
use crate::session::exchange::Exchange;
use crate::session::record::End;
use crate::session::response::finish;
use crate::session::{retire, tunnel, Common, Event, Phase, Side, World};

/// A fatal alert, unrecognized_name (RFC 8446 sections 5.1 and 6.2): who sees it knows that it is not the network.
const UNKNOWN_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What happens before the ClientHello is whole.
pub(super) fn on(c: &mut Common, mut x: Box<Exchange>, event: Event, world: &mut World) -> Phase {
    let (end, what) = match event {
        Event::Received(Side::Front, n) => {
            x.up.received(n);
            return look(c, x, world);
        }
        // It has come to look whether anybody is there.
        Event::Ended(Side::Front) | Event::Lost(Side::Front) if x.up.raw().is_empty() => {
            retire(x, world);
            return Phase::Closed;
        }
        Event::Ended(Side::Front) | Event::Lost(Side::Front) => {
            (End::ClientClosed, "inside the ClientHello")
        }
        Event::Timeout => (End::ClientTimeout, "the ClientHello took too long"),
        _ => return Phase::Head(x),
    };
    x.begin_record(world);
    finish(c, x, end, what)
}

fn look(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let hostname = match client_hello::read(x.up.raw(), &mut world.scratch.head) {
        Hello::Complete { hostname } => hostname,
        Hello::Partial if !x.up.is_stuck() => return Phase::Head(x),
        Hello::Partial => return refuse(c, x, "the ClientHello is longer than a buffer", world),
        Hello::Refused(what) => return refuse(c, x, what, world),
    };
    x.record.host.extend_from_slice(hostname);
    x.begin_record(world);
    let Some(rule) = world.door.find(&x.record.host, b"/", b"") else {
        return unknown(c, x, world);
    };
    let n = x.up.raw().len();
    x.up.pass(n);
    c.since_us = world.now_us;
    tunnel::seek(c, x, rule)
}

fn refuse(c: &mut Common, mut x: Box<Exchange>, what: &'static str, world: &mut World) -> Phase {
    x.begin_record(world);
    finish(c, x, End::ClientBadRequest, what)
}

/// Nobody has that name.
fn unknown(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let what = "no frontend has the name";
    if !x.down.append(&UNKNOWN_NAME, world.pool) {
        return finish(c, x, End::ClientNoRoute, what);
    }
    x.record.end = End::ClientNoRoute;
    x.record.detail = what;
    c.since_us = world.now_us;
    Phase::Answering(x)
}
