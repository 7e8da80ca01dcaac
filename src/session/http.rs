//! The steps of an HTTP exchange: each takes it, and says in which phase it is then.

use std::rc::Rc;

use crate::http::fields::Head;
use crate::http::framing::Body;
use crate::http::reply::Reply;
use crate::http::request::{is_idempotent, Request};
use crate::http::response::{Asked, Kind, Response};
use crate::http::rewrite::{self, Edge, Shown};
use crate::limits::{CONNECT_RETRIES_MAX, INTERIM_RESPONSES_MAX};
use crate::parser::http11::{self, Parse, Refusal, RequestLine, StatusLine, Version};
use crate::session::body::Transfer;
use crate::session::exchange::{Down, Exchange};
use crate::session::record::End;
use crate::session::{retire, tunnel, BackAct, Common, Phase, Reuse, Side, Unconnected, World};
use crate::state::{Backend, Listener, Protocol};

// ---- the request's head -------------------------------------------------

pub(super) fn received_head(
    c: &mut Common,
    mut x: Box<Exchange>,
    n: usize,
    world: &mut World,
) -> Phase {
    x.up.received(n);
    head(c, x, world)
}

/// Looks at what is there of a head.
fn head(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let raw = x.up.raw();
    match http11::request(raw, x.searched, &mut world.scratch.fields) {
        Parse::Partial => {
            x.searched = raw.len();
            Phase::Head(x)
        }
        Parse::Refused(refusal) => {
            begin_record(&mut x, world);
            x.record.set_line(b"", first_line(x.up.raw()));
            refuse(c, x, refusal, world)
        }
        Parse::Complete { line, len } => {
            begin_record(&mut x, world);
            match accept(c, &mut x, &line, len, world) {
                Ok(()) => Phase::Waiting(x),
                Err(refusal) => refuse(c, x, refusal, world),
            }
        }
    }
}

fn begin_record(x: &mut Exchange, world: &mut World) {
    x.record.id = world.random.id();
    x.record.start_us = world.now_us;
}

fn first_line(raw: &[u8]) -> &[u8] {
    raw.split(|byte| matches!(byte, b'\r' | b'\n'))
        .find(|line| !line.is_empty())
        .unwrap_or_default()
}

/// A whole head: what is asked, where it leads, what the backend will get.
fn accept(
    c: &mut Common,
    x: &mut Exchange,
    line: &RequestLine,
    len: usize,
    world: &mut World,
) -> Result<(), Refusal> {
    let scratch = &mut *world.scratch;
    let head = Head {
        bytes: x.up.raw(),
        lines: scratch.fields.as_slice(),
    };
    x.http11 = line.version == Version::Http11;
    x.record
        .set_line(line.method.of(head.bytes), line.target.of(head.bytes));
    x.asked.head_method = line.method.of(head.bytes) == b"HEAD";
    let request = Request::of(line, head, &mut scratch.target)?;
    x.record.set_line(request.method, request.target.bytes);
    x.asked = Asked {
        head_method: request.method == b"HEAD",
        websocket: request.websocket,
    };
    x.expects_continue = request.expects_continue;
    x.has_body = request.body != Body::None;
    x.replayable = !x.has_body && is_idempotent(request.method);
    x.keep_alive = request.keep_alive;
    x.close_asked = !request.keep_alive;
    let body = request.body;
    // Set before routing: whatever the answer will be, the end of this request is known.
    x.up_body = Transfer::new(body, true);

    // `OPTIONS *` is about the server as a whole.
    let path = if request.target.bytes == b"*" {
        b"/"
    } else {
        request.target.path()
    };
    let hostname = request.host.as_ref().map_or(&b""[..], |host| host.name);
    x.record.host.extend_from_slice(hostname);
    let found = world.door.router.find(hostname, path, request.method);
    let Some(target) = found else {
        x.up.skip(len);
        return Err(Refusal {
            status: 404,
            at: 0,
            what: "no frontend matches",
        });
    };
    x.target = Some(Rc::clone(target));
    let edge = Edge {
        client: c.peer.ip(),
        trusted: is_trusted(c, &world.door.listener),
        listener: world.door.listener.address,
        request_id: &x.record.id,
    };
    rewrite::request(&request, head, edge, &mut scratch.head);
    if !x.up.replace(len, &scratch.head) {
        return Err(Refusal {
            status: 431,
            at: 0,
            what: "no room for the fields that we add",
        });
    }
    if x.replayable {
        x.up.hold();
    } else if !x.asked.websocket {
        x.up_body.pump(&mut x.up, scratch)?;
    }
    c.acts.connect = Some(reuse(x));
    c.since_us = world.now_us;
    Ok(())
}

/// Which pooled connection will do: one that may be dead only for a request that may be sent twice.
fn reuse(x: &Exchange) -> Reuse {
    match (x.replayed, x.replayable) {
        (true, _) => Reuse::Never,
        (false, true) => Reuse::Any,
        (false, false) => Reuse::Recent,
    }
}

fn is_trusted(c: &Common, listener: &Listener) -> bool {
    let ip = c.peer.ip().to_canonical();
    listener
        .trusted_proxies
        .iter()
        .any(|range| range.contains(ip))
}

/// The client went away before it had asked for anything whole.
pub(super) fn head_cut(c: &mut Common, x: Box<Exchange>) -> Phase {
    c.front_ended = true;
    if x.up.raw().is_empty() {
        return Phase::Closed;
    }
    finish(c, x, End::ClientClosed, "inside a request head")
}

pub(super) fn head_timeout(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    begin_record(&mut x, world);
    x.record.set_line(b"", first_line(x.up.raw()));
    x.record.end = End::ClientTimeout;
    answer(c, x, 408, "the request head took too long", world)
}

// ---- our own answers ----------------------------------------------------

/// A request that is not to be served. Only of one that was understood may another follow.
fn refuse(c: &mut Common, mut x: Box<Exchange>, refusal: Refusal, world: &mut World) -> Phase {
    x.record.end = if refusal.status == 404 {
        End::ClientNoRoute
    } else {
        End::ClientBadRequest
    };
    if refusal.status == 0 {
        // Another protocol: an answer in ours would be noise.
        return finish(c, x, End::ClientBadRequest, refusal.what);
    }
    x.keep_alive &= refusal.status == 404;
    answer(c, x, refusal.status, refusal.what, world)
}

/// Answers in the backend's place. `x.record.end` says why.
fn answer(
    c: &mut Common,
    mut x: Box<Exchange>,
    status: u16,
    what: &'static str,
    world: &mut World,
) -> Phase {
    x.record.status = status;
    x.record.detail = what;
    x.up.clear_out();
    let blamed = matches!(x.record.end, End::ClientTimeout | End::ClientBadRequest);
    x.keep_alive &= x.up_body.is_done() && !blamed && !c.front_ended && !world.draining;
    let cluster = x
        .target
        .as_ref()
        .and_then(|target| target.cluster.answers.get(&status));
    let page = cluster.or_else(|| world.door.listener.answers.get(&status));
    let reply = Reply {
        status,
        request_id: &x.record.id,
        keep_alive: x.keep_alive,
        http10: !x.http11,
        head_only: x.asked.head_method,
        page: page.map(String::as_str),
    };
    reply.write(&mut world.scratch.head);
    x.down.clear();
    if x.down.append(&world.scratch.head, world.pool) {
        c.since_us = world.now_us;
        return Phase::Answering(x);
    }
    finish(c, x, End::ProxyNoRoom, "no buffer for an answer")
}

pub(super) fn answer_sent(c: &mut Common, mut x: Box<Exchange>, n: usize) -> Phase {
    x.record.bytes_down += n as u64;
    x.down.sent(n);
    if x.down.out().is_empty() {
        c.acts.log = true;
        return Phase::Logging(x);
    }
    Phase::Answering(x)
}

pub(super) fn answer_timeout(c: &mut Common, x: Box<Exchange>) -> Phase {
    c.acts.reset_front = true;
    let (end, detail) = (x.record.end, x.record.detail);
    finish(c, x, end, detail)
}

// ---- towards a backend --------------------------------------------------

pub(super) fn connected(
    c: &mut Common,
    mut x: Box<Exchange>,
    backend: Rc<Backend>,
    reused: bool,
    world: &mut World,
) -> Phase {
    x.backend = Some(backend);
    x.reused = reused;
    x.taken = 0;
    x.record.connected_us = world.now_us;
    c.since_us = world.now_us;
    if is_tcp(&x) {
        return tunnel::connected(c, x);
    }
    Phase::Running(x)
}

fn is_tcp(x: &Exchange) -> bool {
    x.target
        .as_ref()
        .is_some_and(|target| target.cluster.protocol == Protocol::Tcp)
}

pub(super) fn unconnected(
    c: &mut Common,
    mut x: Box<Exchange>,
    why: Unconnected,
    world: &mut World,
) -> Phase {
    if why != Unconnected::NoBackend && x.failed_connects < CONNECT_RETRIES_MAX {
        x.failed_connects += 1;
        c.acts.connect = Some(reuse(&x));
        c.since_us = world.now_us;
        return Phase::Waiting(x);
    }
    let (end, status, what) = match why {
        Unconnected::NoBackend => (End::BackendNone, 503, "no backend can be used"),
        Unconnected::Refused => (End::BackendRefused, 503, "no connection to a backend"),
        Unconnected::TimedOut => (End::BackendConnectTimeout, 504, "no connection in time"),
    };
    x.record.end = end;
    if is_tcp(&x) {
        c.acts.reset_front = true;
        return finish(c, x, end, what);
    }
    answer(c, x, status, what, world)
}

/// More of the request, or of the next one.
pub(super) fn received(c: &mut Common, mut x: Box<Exchange>, n: usize, world: &mut World) -> Phase {
    let running = x.backend.is_some();
    x.up.received(n);
    if x.asked.websocket || x.up_broken {
        return in_phase(running, x);
    }
    match x.up_body.pump(&mut x.up, world.scratch) {
        Ok(()) => in_phase(running, x),
        Err(refusal) => bad_body(c, x, refusal, world),
    }
}

fn in_phase(running: bool, x: Box<Exchange>) -> Phase {
    if running {
        Phase::Running(x)
    } else {
        Phase::Waiting(x)
    }
}

/// A body that breaks the rules: an answer if none was begun, else both sides are cut.
fn bad_body(c: &mut Common, mut x: Box<Exchange>, refusal: Refusal, world: &mut World) -> Phase {
    c.acts.back = BackAct::Close;
    c.acts.connect = None;
    x.keep_alive = false;
    if x.answered() {
        c.acts.reset_front = true;
        return finish(c, x, End::ClientBadRequest, refusal.what);
    }
    x.record.end = End::ClientBadRequest;
    answer(c, x, refusal.status, refusal.what, world)
}

pub(super) fn sent(
    c: &mut Common,
    mut x: Box<Exchange>,
    side: Side,
    n: usize,
    world: &mut World,
) -> Phase {
    match side {
        Side::Back => {
            x.record.bytes_up += n as u64;
            x.taken += n as u64;
            x.up.sent(n);
            if x.up.out().is_empty() && !x.asked.websocket {
                if let Err(refusal) = x.up_body.pump(&mut x.up, world.scratch) {
                    return bad_body(c, x, refusal, world);
                }
            }
            Phase::Running(x)
        }
        Side::Front => {
            x.record.bytes_down += n as u64;
            x.down.sent(n);
            if x.down.out().is_empty() {
                return flow_down(c, x, world);
            }
            Phase::Running(x)
        }
    }
}

/// Bytes that went from side to side unseen.
pub(super) fn lent(c: &mut Common, mut x: Box<Exchange>, side: Side, n: u64) -> Phase {
    match side {
        Side::Front => {
            x.up_body.passed(n);
            x.record.bytes_up += n;
            x.taken += n;
        }
        Side::Back => {
            x.record.bytes_down += n;
            if let Down::Body(body) = &mut x.down_state {
                body.passed(n);
            }
            return complete(c, x);
        }
    }
    Phase::Running(x)
}

pub(super) fn waits_for_client(x: &Exchange) -> bool {
    !x.down.out().is_empty() || !x.up_body.is_done() && x.up.out().is_empty()
}

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
fn flow_down(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    while let Down::Head { searched, interims } = x.down_state {
        if x.down.raw().is_empty() {
            return Phase::Running(x);
        }
        let parsed = http11::response(x.down.raw(), searched, &mut world.scratch.fields);
        let (line, len) = match parsed {
            Parse::Complete { line, len } => (line, len),
            Parse::Partial => {
                x.down_state = Down::Head {
                    searched: x.down.raw().len(),
                    interims,
                };
                return Phase::Running(x);
            }
            Parse::Refused(refusal) => return bad_response(c, x, refusal.what, world),
        };
        match response_head(&mut x, &line, len, interims, c.front_ended, world) {
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
    front_ended: bool,
    world: &mut World,
) -> Result<bool, &'static str> {
    let scratch = &mut *world.scratch;
    let head = Head {
        bytes: x.down.raw(),
        lines: scratch.fields.as_slice(),
    };
    let response = Response::of(line, head, x.asked)?;
    match response.kind {
        Kind::Interim => {
            if interims == INTERIM_RESPONSES_MAX {
                return Err("too many 1xx responses");
            }
            x.down_state = Down::Head {
                searched: 0,
                interims: interims + 1,
            };
            if !x.http11 || line.status == 100 && !x.expects_continue {
                x.down.skip(len);
                return Ok(false);
            }
            rewrite::interim(line, head, response.options, &mut scratch.head);
        }
        Kind::Switching => {
            x.record.status = line.status;
            rewrite::interim(line, head, response.options, &mut scratch.head);
        }
        Kind::Final(body) => {
            x.record.status = line.status;
            x.back_keep_alive = response.keep_alive;
            x.until_close = body == Body::UntilClose;
            let endless = !x.http11 && matches!(body, Body::UntilClose | Body::Chunked);
            // Of a request that is not over yet nobody knows how long it goes on.
            let over = x.up_body.is_done() && !x.up_broken;
            x.close_asked |= endless;
            x.keep_alive &= over && !endless && !world.draining && !front_ended;
            x.down_state = Down::Body(Transfer::new(body, x.http11));
            let shown = Shown {
                http11: x.http11,
                keep_alive: x.keep_alive,
            };
            rewrite::response(line, head, response.options, body, shown, &mut scratch.head);
        }
    }
    if !x.down.replace(len, &scratch.head) {
        return Err("no room for the response head");
    }
    Ok(response.kind == Kind::Switching)
}

/// The response may be over, for the backend or for the client too.
fn complete(c: &mut Common, mut x: Box<Exchange>) -> Phase {
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
            if body.pump(&mut x.down, world.scratch).is_ok() && body.ended(&mut x.down, world.pool)
            {
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
        x.backend = None;
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
    untouched && (x.replayable || x.taken == 0)
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
    if !x.up_body.ended(&mut x.up, world.pool) {
        c.acts.back = BackAct::Close;
        c.acts.connect = None;
        c.acts.reset_front = x.answered();
        return finish(c, x, End::ClientClosed, "inside a request body");
    }
    in_phase(x.backend.is_some(), x)
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
    c.acts.back = if x.back_done {
        BackAct::Keep
    } else {
        BackAct::Close
    };
    let client = waits_for_client(&x);
    x.record.end = if client {
        End::ClientTimeout
    } else {
        End::BackendTimeout
    };
    if x.answered() {
        c.acts.reset_front = true;
        let end = x.record.end;
        return finish(c, x, end, "silent inside a message");
    }
    match client {
        true => answer(c, x, 408, "the request body took too long", world),
        false => answer(c, x, 504, "the backend did not answer in time", world),
    }
}

/// The exchange is over and nothing follows it.
fn finish(c: &mut Common, mut x: Box<Exchange>, end: End, what: &'static str) -> Phase {
    x.record.end = end;
    x.record.detail = what;
    x.keep_alive = false;
    x.abrupt = true;
    c.acts.log = true;
    Phase::Logging(x)
}

/// The record is written. What now?
pub(super) fn logged(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.served += 1;
    c.since_us = world.now_us;
    if x.keep_alive && !c.front_ended {
        x.down.clear();
        x.renew();
        return head(c, x, world);
    }
    let unread = !x.up_body.is_done() || !x.up.raw().is_empty();
    let at_once = x.abrupt || x.close_asked && !unread;
    retire(x, world);
    if at_once {
        return Phase::Closed;
    }
    c.linger(world.now_us)
}
