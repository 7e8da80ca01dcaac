//! An HTTP exchange back to the client: the response, and all the ways to end.
//! Each step takes the exchange, and says in which phase it is then.

use crate::http::fields::Head;
use crate::http::framing::Body;
use crate::http::response::{Kind, Response};
use crate::http::rewrite::{self, Shown};
use crate::limits::INTERIM_RESPONSES_MAX;
use crate::parser::http11::{self, Parse, StatusLine};
use crate::session::body::Transfer;
use crate::session::exchange::{Down, Exchange};
use crate::session::flow::FRAME_BYTES;
use crate::session::record::End;
use crate::session::request::{answer, head, head_cut, in_phase, waits_for_client};
use crate::session::{retire, tunnel, BackAct, Common, Phase, Reuse, Stay, World};

// ---- the response -------------------------------------------------------

pub(super) fn answered(c: &mut Common, mut x: Box<Exchange>, n: usize, world: &mut World) -> Phase {
    x.down.received(n);
    if x.record.first_byte_us == 0 {
        x.record.first_byte_us = world.now_us;
        x.up.release();
    }
    flow_down(c, x, world)
}

/// Takes what there is of the response as far as it goes.
pub(super) fn flow_down(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    while let Down::Head { searched, interims } = x.down_state {
        if x.down.raw().is_empty() {
            return Phase::Running(x);
        }
        let parsed = http11::response(x.down.raw(), searched, &mut world.scratch.fields);
        let (line, len) = match parsed {
            Parse::Complete { line, len } => (line, len),
            Parse::Partial if x.down.is_stuck() => {
                return bad_response(c, x, "the head is longer than a buffer", world);
            }
            Parse::Partial => {
                x.down_state = Down::Head {
                    searched: x.down.raw().len(),
                    interims,
                };
                return Phase::Running(x);
            }
            Parse::Refused(refusal) => return bad_response(c, x, refusal.what, world),
        };
        let is_last = c.is_last(&x);
        match response_head(&mut x, &line, len, interims, is_last, world) {
            Ok(true) => return tunnel::upgrade(c, x),
            Ok(false) => {}
            Err(what) => return bad_response(c, x, what, world),
        }
    }
    if let Down::Body(mut body) = x.down_state {
        if let Err(refusal) = body.pump(&mut x.down, world.scratch) {
            return back_cut(c, x, End::BackendBadResponse, refusal.what);
        }
        x.down_state = Down::Body(body);
    }
    complete(c, x)
}

/// One response head. True: the connection is a tunnel from here on.
fn response_head(
    x: &mut Exchange,
    line: &StatusLine,
    len: usize,
    interims: u8,
    is_last: bool,
    world: &mut World,
) -> Result<bool, &'static str> {
    let scratch = &mut *world.scratch;
    let head = Head {
        bytes: x.down.raw(),
        lines: scratch.fields.as_slice(),
    };
    if let Some(trace) = world.trace {
        trace(head);
    }
    let response = Response::of(line, head, x.asked)?;
    let ours = x.own_cookie(world.door);
    match response.kind {
        Kind::Interim => {
            if interims == INTERIM_RESPONSES_MAX {
                return Err("too many 1xx responses");
            }
            x.down_state = Down::Head {
                searched: 0,
                interims: interims + 1,
            };
            if !x.asked.http11 || line.status == 100 && !x.asked.expects_continue {
                x.down.skip(len);
                return Ok(false);
            }
            rewrite::interim(line, head, response.options, ours, &mut scratch.head);
        }
        Kind::Switching => {
            x.record.status = line.status;
            rewrite::interim(line, head, response.options, ours, &mut scratch.head);
        }
        Kind::Final(body) => {
            x.record.status = line.status;
            x.back_keep_alive = response.keep_alive;
            x.until_close = body == Body::UntilClose;
            let endless = !x.asked.http11 && matches!(body, Body::UntilClose | Body::Chunked);
            // Of a request that is not over yet nobody knows how long it goes on.
            let over = x.up_body.is_done() && !x.up_broken;
            x.close_asked |= endless;
            x.keep_alive &= over && !endless && world.stay == Stay::Welcome && !is_last;
            x.down_state = Down::Body(Transfer::new(body, x.asked.http11));
            let shown = Shown {
                http11: x.asked.http11,
                keep_alive: x.keep_alive,
                hsts: x.hsts(world.door),
                edits: x.actions.as_ref().map(|it| &it.response_headers),
                ours,
                cookie: x.cookie(world.door),
            };
            rewrite::response(line, head, response.options, body, shown, &mut scratch.head);
        }
    }
    if !x.down.replace(len, &scratch.head, FRAME_BYTES) {
        return Err("no room for the response head");
    }
    Ok(response.kind == Kind::Switching)
}

/// The response may be over, for the backend or for the client too.
pub(super) fn complete(c: &mut Common, mut x: Box<Exchange>) -> Phase {
    let Down::Body(body) = x.down_state else {
        return Phase::Running(x);
    };
    if !body.is_done() {
        return Phase::Running(x);
    }
    if !x.back_done {
        x.back_done = true;
        let surplus = !x.down.raw().is_empty();
        let fit = x.back_keep_alive && x.up_done() && !x.until_close && !surplus;
        c.acts.back = if fit {
            BackAct::Release
        } else {
            BackAct::Close
        };
        if surplus {
            x.record.surplus = true;
            x.record.detail = "bytes after the end of the response";
            x.down.skip(x.down.raw().len());
        }
    }
    if x.down.out().is_empty() {
        c.acts.log = true;
        return Phase::Logging(x);
    }
    Phase::Running(x)
}

fn bad_response(
    c: &mut Common,
    mut x: Box<Exchange>,
    what: &'static str,
    world: &mut World,
) -> Phase {
    c.acts.back = BackAct::Close;
    x.record.end = End::BackendBadResponse;
    x.record.status = 0;
    answer(c, x, 502, what, world)
}

// ---- ends ---------------------------------------------------------------

pub(super) fn back_ended(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    match x.down_state {
        Down::Body(mut body) => {
            if body.ended(&mut x.down, world.scratch, world.pool) {
                x.down_state = Down::Body(body);
                return complete(c, x);
            }
            back_cut(
                c,
                x,
                End::BackendCut,
                "the backend closed inside its response",
            )
        }
        Down::Head { .. } => back_silent(c, x, world),
    }
}

pub(super) fn back_lost(c: &mut Common, x: Box<Exchange>, world: &mut World) -> Phase {
    match x.down_state {
        Down::Body(_) => back_cut(c, x, End::BackendCut, "the backend reset the connection"),
        Down::Head { .. } => back_silent(c, x, world),
    }
}

/// The backend connection ended without a response, or inside its head.
fn back_silent(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.acts.back = BackAct::Close;
    if may_send_again(&x) {
        x.replayed = true;
        x.up_broken = false;
        x.up.send_again();
        x.server = None;
        c.acts.connect = Some(Reuse::Never);
        c.since_us = world.now_us;
        return Phase::Waiting(x);
    }
    x.record.end = End::BackendClosed;
    answer(c, x, 502, "the backend closed without a response", world)
}

/// A pooled connection died before a byte of the response: once, on a fresh one,
/// if no byte of the request was taken or if that does no harm.
fn may_send_again(x: &Exchange) -> bool {
    let untouched = x.record.first_byte_us == 0 && x.reused && !x.replayed;
    untouched && (x.asked.replayable || x.taken == 0)
}

/// The client has part of the response: it must see that it was cut.
fn back_cut(c: &mut Common, mut x: Box<Exchange>, end: End, what: &'static str) -> Phase {
    c.acts.back = BackAct::Close;
    c.acts.reset_front = true;
    x.keep_alive = false;
    finish(c, x, end, what)
}

/// The backend takes no more of the request. What it answered may still be read.
pub(super) fn back_full(mut x: Box<Exchange>) -> Phase {
    x.up_broken = true;
    if !may_send_again(&x) {
        x.up.clear_out();
    }
    Phase::Running(x)
}

/// The client has shut its side: that cuts a body, but a whole request is answered.
pub(super) fn front_ended(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.front_ended = true;
    if !x.up_body.ended(&mut x.up, world.scratch, world.pool) {
        c.acts.back = BackAct::Close;
        c.acts.connect = None;
        c.acts.reset_front = x.answered();
        return finish(c, x, End::ClientClosed, "inside a request body");
    }
    in_phase(x.server.is_some(), x)
}

pub(super) fn front_lost(c: &mut Common, x: Box<Exchange>) -> Phase {
    c.acts.back = if x.back_done {
        BackAct::Keep
    } else {
        BackAct::Close
    };
    c.acts.connect = None;
    c.acts.reset_front = true;
    finish(c, x, End::ClientReset, "the client is gone")
}

pub(super) fn timeout(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let client = waits_for_client(&x);
    let rate = world.door.listener.quota.pace;
    let slow = rate.is_some_and(|rate| x.pace.is_slow(world.now_us, rate));
    let limits = &world.door.listener.timeouts;
    let seconds = if client { limits.front } else { limits.back };
    let silent = c.since_us / 1000 + u64::from(seconds) * 1000 <= world.now_us / 1000;
    if !slow && !silent {
        // A window of its pace is over, and it was fast enough.
        return Phase::Running(x);
    }
    x.record.end = match (slow, client) {
        (true, _) => End::ClientTooSlow,
        (false, true) => End::ClientTimeout,
        (false, false) => End::BackendTimeout,
    };
    c.acts.back = if x.back_done {
        BackAct::Keep
    } else {
        BackAct::Close
    };
    if x.answered() {
        c.acts.reset_front = true;
        let end = x.record.end;
        let what = match slow {
            true => "slower than min_rate",
            false => "silent inside a message",
        };
        return finish(c, x, end, what);
    }
    match x.record.end {
        End::ClientTooSlow => answer(c, x, 408, "the request body is slower than min_rate", world),
        End::ClientTimeout => answer(c, x, 408, "the request body took too long", world),
        _ => answer(c, x, 504, "the backend did not answer in time", world),
    }
}

/// The exchange is over and nothing follows it.
pub(super) fn finish(c: &mut Common, mut x: Box<Exchange>, end: End, what: &'static str) -> Phase {
    x.record.end = end;
    x.record.detail = what;
    x.keep_alive = false;
    x.abrupt = true;
    c.acts.log = true;
    Phase::Logging(x)
}

/// The record is written. What now?
pub(super) fn logged(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.since_us = world.now_us;
    // In the end nobody is waited for; a request that has begun to come is served.
    let welcome = world.stay != Stay::Over || !x.up.raw().is_empty();
    if x.keep_alive && !c.is_last(&x) && welcome {
        // Answered before all of it was sent: the rest must not go before the next request.
        x.up.clear_out();
        x.down.clear();
        x.renew();
        return match head(c, x, world) {
            // The end came before its turn: it cuts what is not whole.
            Phase::Head(x) if c.front_ended => head_cut(c, x, world),
            Phase::Waiting(x) if c.front_ended => front_ended(c, x, world),
            phase => phase,
        };
    }
    let unread = !x.up_body.is_done() || !x.up.raw().is_empty();
    let at_once = x.abrupt || x.close_asked && !unread;
    retire(x, world);
    if at_once {
        return Phase::Closed;
    }
    c.linger(world.now_us)
}
