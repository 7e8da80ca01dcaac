//! Bytes both ways that nobody looks at: a TCP session, or HTTP after a 101.
//!
//! Each direction ends by itself: the end of one side's bytes is carried
//! through as a half-close once they are all sent. A reset is carried as one.

use crate::session::body::Transfer;
use crate::session::exchange::{Down, Exchange};
use crate::session::record::End;
use crate::session::response::finish;
use crate::session::{BackAct, Common, Phase, Reuse, Rule, Side, World};

/// A TCP session: the listener's address alone says where it leads.
pub(super) fn begin(c: &mut Common, world: &mut World) -> Phase {
    let Some(rule) = world.door.find(b"", b"/", b"") else {
        c.acts.reset_front = true;
        return Phase::Closed;
    };
    let mut x = world.spare.pop().unwrap_or_default();
    x.begin_record(world);
    seek(c, x, rule)
}

/// Where it leads is known.
pub(super) fn seek(c: &mut Common, mut x: Box<Exchange>, rule: &Rule) -> Phase {
    x.target = Some(rule.lead.target());
    open(&mut x);
    let denied = x
        .target
        .as_ref()
        .and_then(|target| target.cluster.quota.denies(c.peer.ip()));
    if let Some(why) = denied {
        c.acts.reset_front = true;
        return finish(c, x, End::ClientDenied, why);
    }
    c.acts.connect = Some(Reuse::Never);
    Phase::Waiting(x)
}

fn open(x: &mut Exchange) {
    x.up_body = Transfer::tunnel();
    x.down_state = Down::Body(Transfer::tunnel());
}

pub(super) fn connected(c: &mut Common, x: Box<Exchange>) -> Phase {
    settle_ends(c, x)
}

/// Both sides agreed to speak something else from here on.
pub(super) fn upgrade(c: &mut Common, mut x: Box<Exchange>) -> Phase {
    open(&mut x);
    x.keep_alive = false;
    x.abrupt = true;
    x.up.release();
    let n = x.up.raw().len();
    x.up.pass(n);
    let n = x.down.raw().len();
    x.down.pass(n);
    if c.front_ended {
        x.up_body = Transfer::new(crate::http::framing::Body::None, false);
    }
    settle_ends(c, x)
}

impl Exchange {
    pub(super) fn down_done(&self) -> bool {
        matches!(self.down_state, Down::Body(body) if body.is_done())
    }
}

pub(super) fn received(mut x: Box<Exchange>, side: Side, n: usize, world: &mut World) -> Phase {
    if x.record.first_byte_us == 0 && side == Side::Back {
        x.record.first_byte_us = world.now_us;
    }
    let flow = match side {
        Side::Front => &mut x.up,
        Side::Back => &mut x.down,
    };
    flow.received(n);
    flow.pass(n);
    Phase::Tunnel(x)
}

pub(super) fn sent(c: &mut Common, mut x: Box<Exchange>, side: Side, n: usize) -> Phase {
    match side {
        Side::Front => {
            x.record.bytes_down += n as u64;
            x.down.sent(n);
        }
        Side::Back => {
            x.record.bytes_up += n as u64;
            x.up.sent(n);
        }
    }
    settle_ends(c, x)
}

pub(super) fn lent(mut x: Box<Exchange>, side: Side, n: u64) -> Phase {
    match side {
        Side::Front => x.record.bytes_up += n,
        Side::Back => x.record.bytes_down += n,
    }
    Phase::Tunnel(x)
}

pub(super) fn ended(c: &mut Common, mut x: Box<Exchange>, side: Side, world: &mut World) -> Phase {
    match side {
        Side::Front => {
            c.front_ended = true;
            x.up_body.ended(&mut x.up, world.scratch, world.pool);
        }
        Side::Back => {
            if let Down::Body(mut body) = x.down_state {
                body.ended(&mut x.down, world.scratch, world.pool);
                x.down_state = Down::Body(body);
            }
        }
    }
    settle_ends(c, x)
}

/// Passes on each end whose bytes are all sent; both passed on, it is over.
fn settle_ends(c: &mut Common, mut x: Box<Exchange>) -> Phase {
    let up_over = x.up_body.is_done() && x.up.out().is_empty();
    let down_over = x.down_done() && x.down.out().is_empty();
    if up_over && !x.up_shut {
        x.up_shut = true;
        c.acts.shut_back = true;
    }
    if down_over && !x.down_shut {
        x.down_shut = true;
        c.acts.shut_front = true;
    }
    if up_over && down_over {
        return close(c, x, End::Ok, "");
    }
    Phase::Tunnel(x)
}

/// One side is gone: the other sees a reset.
pub(super) fn lost(c: &mut Common, x: Box<Exchange>, side: Side) -> Phase {
    c.acts.reset_front = true;
    c.acts.back = BackAct::Reset;
    match side {
        Side::Front => close(c, x, End::ClientReset, "the client reset the connection"),
        Side::Back => close(c, x, End::BackendCut, "the backend reset the connection"),
    }
}

pub(super) fn timeout(c: &mut Common, x: Box<Exchange>) -> Phase {
    close(c, x, End::TunnelTimeout, "no byte in either direction")
}

fn close(c: &mut Common, x: Box<Exchange>, end: End, what: &'static str) -> Phase {
    if c.acts.back == BackAct::Keep {
        c.acts.back = BackAct::Close;
    }
    finish(c, x, end, what)
}
