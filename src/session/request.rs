//! An HTTP exchange up to the backend: the request's head, our own answers, the
//! connection, the body. Each step takes the exchange, and says in which phase it is then.

use crate::http::cookie;
use crate::http::fields::Head;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::http::response::Asked;
use crate::http::rewrite::{self, Edge};
use crate::parser::http11::{self, Parse, Refusal, RequestLine};
use crate::random::hash_of;
use crate::session::action;
use crate::session::body::Transfer;
use crate::session::exchange::{Down, Exchange};
use crate::session::flow::FRAME_BYTES;
use crate::session::lead::{self, Way};
use crate::session::quota::{end_of, Visit};
use crate::session::record::End;
use crate::session::response::{complete, finish, flow_down};
use crate::session::{
    metrics, retire, BackAct, Common, Door, Lead, Phase, Reuse, Scratch, Side, Stay, World,
};
use crate::state::{Cluster, LoadBalancing, Part, Protocol};

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
pub(super) fn head(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let raw = x.up.raw();
    match http11::request(raw, x.searched, &mut world.scratch.fields) {
        Parse::Partial if x.up.is_stuck() => {
            x.begin_record(world);
            x.record.set_line(b"", first_line(x.up.raw()));
            let refusal = refusal(431, "the head is longer than a buffer");
            refuse(c, x, refusal, world)
        }
        Parse::Partial => {
            x.searched = raw.len();
            Phase::Head(x)
        }
        Parse::Refused(refusal) => {
            x.begin_record(world);
            x.record.set_line(b"", first_line(x.up.raw()));
            refuse(c, x, refusal, world)
        }
        Parse::Complete { line, len } => {
            x.begin_record(world);
            match accept(c, &mut x, &line, len, world) {
                Ok(()) if x.told.is_some() => metrics::answer(c, x, world),
                Ok(()) if x.answer.is_some() => answered_here(c, x, world),
                Ok(()) => Phase::Waiting(x),
                Err(refusal) => refuse(c, x, refusal, world),
            }
        }
    }
}

pub(super) fn refusal(status: u16, what: &'static str) -> Refusal {
    Refusal {
        status,
        at: 0,
        what,
    }
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
    let visit = Visit::of(c, world);
    let scratch = &mut *world.scratch;
    let head = Head {
        bytes: x.up.raw(),
        lines: scratch.fields.as_slice(),
    };
    if let Some(trace) = world.trace {
        trace(head);
    }
    let method = line.method.of(head.bytes);
    x.record.set_line(method, line.target.of(head.bytes));
    x.asked = Asked::begun(line.version, method);
    let request = Request::of(line, head, &mut scratch.target)?;
    x.record.set_line(request.method, request.target.bytes);
    x.asked = Asked::by(&request);
    x.keep_alive = request.keep_alive;
    x.close_asked = !request.keep_alive;
    x.up_body = Transfer::new(request.body, true);

    x.record.host.extend_from_slice(request.hostname());
    let asked = action::Asked {
        request: &request,
        head,
        door: world.door,
        now_us: world.now_us,
    };
    let comes = visit.comes(&mut x.retry_after);
    let user = &mut x.record.user;
    match comes.and_then(|()| lead::lead(c, &asked, world.challenges, world.proofs, user)) {
        Ok(Way::By(rule, answer)) => {
            x.target = rule.lead.as_ref().map(Lead::target);
            x.actions.clone_from(&rule.actions);
            x.answer = answer;
        }
        Ok(Way::Told(cursor)) => x.told = Some(cursor),
        Ok(Way::Challenge(text)) => x.answer = Some(lead::challenge(text).into()),
        Err(refusal) => {
            x.up.skip(len);
            return Err(refusal);
        }
    }
    let Some(target) = x.target.as_ref().filter(|_| x.answer.is_none()) else {
        // No backend sees it.
        x.up.skip(len);
        return Ok(());
    };
    let goes = visit.goes_to(target, request.body, &mut x.retry_after);
    if let Err(refusal) = goes.map(|longest| x.up_body.limit(longest)) {
        x.up.skip(len);
        return Err(refusal);
    }
    x.affinity = affinity(&target.cluster, &request, head, world.door, &mut x.sticky);
    write_head(c, x, &request, head, world.door, &mut scratch.head);
    if !x.up.replace(len, &scratch.head, FRAME_BYTES) {
        return Err(refusal(431, "no room for the fields that we add"));
    }
    begin_body(x, scratch)?;
    c.acts.connect = Some(reuse(x));
    c.since_us = world.now_us;
    Ok(())
}

/// What has come with the head; it is kept if the request may be sent twice.
fn begin_body(x: &mut Exchange, scratch: &mut Scratch) -> Result<(), Refusal> {
    if x.asked.replayable {
        x.up.hold();
    } else if x.asked.websocket.is_none() {
        x.up_body.pump(&mut x.up, scratch)?;
    }
    x.down.set_aside(x.response_growth());
    Ok(())
}

/// By what its backend is found, where that is not the same for every request: what it has in common with
/// others, hashed, and what its cookie says.
fn affinity(
    cluster: &Cluster,
    request: &Request,
    head: Head,
    door: &Door,
    sticky: &mut Vec<u8>,
) -> Option<u64> {
    let balancing = &cluster.balancing;
    if balancing.sticky {
        let name = door.listener.sticky_name.as_bytes();
        sticky.extend_from_slice(cookie::find(head, name).unwrap_or_default());
    }
    match balancing.policy {
        LoadBalancing::Hash => hashed(&balancing.hash_on, request, head),
        _ => None,
    }
}

/// What requests have in common that go to the same backend, hashed; `None`: nothing but where they come from.
fn hashed(part: &Part, request: &Request, head: Head) -> Option<u64> {
    match part {
        Part::Source => None,
        Part::Path => Some(hash_of(&[request.target.routed])),
        Part::Header(name) => {
            let is_it = |name: &[u8], known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let mut fields = head.lines.iter();
            let field = fields.find(|field| is_it(field.name.of(head.bytes), name))?;
            Some(hash_of(&[field.value.of(head.bytes)]))
        }
        Part::Cookie(name) => cookie::find(head, name.as_bytes()).map(|value| hash_of(&[value])),
    }
}

/// What the backend gets.
fn write_head(
    c: &Common,
    x: &Exchange,
    request: &Request,
    head: Head,
    door: &Door,
    out: &mut Vec<u8>,
) {
    let edge = Edge {
        client: c.peer.ip(),
        trusted: door.listener.trusts(c.peer.ip()),
        listener: door.listener.address,
        secure: door.is_secure(),
        request_id: &x.record.id,
        identity: c.identity(),
        cookie: x.own_cookie(door),
        actions: x.actions.as_deref(),
    };
    rewrite::request(request, head, edge, out);
}

/// Which pooled connection will do: one that may be dead only for a request that may be sent twice.
pub(super) fn reuse(x: &Exchange) -> Reuse {
    if is_tcp(x) {
        return Reuse::Never;
    }
    match (x.replayed, x.asked.replayable) {
        (true, _) => Reuse::Never,
        (false, true) => Reuse::Any,
        (false, false) => Reuse::Recent,
    }
}

/// The client went away before it had asked for anything whole.
pub(super) fn head_cut(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    c.front_ended = true;
    if x.up.raw().is_empty() {
        retire(x, world);
        return Phase::Closed;
    }
    x.begin_record(world);
    x.record.set_line(b"", first_line(x.up.raw()));
    finish(c, x, End::ClientClosed, "inside a request head")
}

pub(super) fn head_timeout(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    x.begin_record(world);
    x.record.set_line(b"", first_line(x.up.raw()));
    x.record.end = End::ClientTimeout;
    answer(c, x, 408, "the request head took too long", world)
}

// ---- our own answers ----------------------------------------------------

/// A request that is not to be served. Only of one that was understood may another follow.
fn refuse(c: &mut Common, mut x: Box<Exchange>, refusal: Refusal, world: &mut World) -> Phase {
    // Asked in the wrong place, or too often, and yet understood.
    let astray = matches!(refusal.status, 403 | 404 | 421 | 429);
    x.record.end = end_of(refusal.status);
    if refusal.status == 0 {
        // Another protocol: an answer in ours would be noise.
        return finish(c, x, End::ClientBadRequest, refusal.what);
    }
    x.keep_alive &= astray;
    answer(c, x, refusal.status, refusal.what, world)
}

/// The frontend has an answer of its own.
fn answered_here(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    let Some(own) = &x.answer else {
        return Phase::Waiting(x);
    };
    let (status, what) = (own.status, own.what);
    (x.record.end, x.retry_after) = (own.end, own.retry_after);
    answer(c, x, status, what, world)
}

/// Answers in the backend's place. `x.record.end` says why.
pub(super) fn answer(
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
    x.keep_alive &= x.up_body.is_done() && !blamed && !c.is_last(&x) && world.stay == Stay::Welcome;
    let cluster = x
        .target
        .as_ref()
        .and_then(|target| target.cluster.answers.get(&status));
    let page = cluster.or_else(|| world.door.listener.answers.get(&status));
    let own = x.answer.as_ref();
    let text = own.and_then(|own| own.text.as_ref());
    let reply = Reply {
        status,
        request_id: &x.record.id,
        keep_alive: x.keep_alive,
        http10: !x.asked.http11,
        read_only: world.door.listener.protocol == Protocol::Metrics,
        head_only: x.asked.head_method,
        retry_after: x.retry_after,
        location: own.and_then(|own| own.location.as_deref()),
        realm: own.and_then(|own| own.realm.as_deref()),
        hsts: x.hsts(world.door),
        edits: x.actions.as_ref().map(|it| &it.response_headers),
        page: page.map(String::as_str),
        text: text.map(|(text, kind)| (&**text, *kind)),
    };
    reply.write(&mut world.scratch.head);
    // A 1xx response may be on its way: the client gets the rest of it first.
    x.down.clear_raw();
    x.down.set_aside(0);
    if x.down.append(&world.scratch.head, world.pool) {
        c.since_us = world.now_us;
        return Phase::Answering(x);
    }
    x.record.end = End::ProxyNoRoom;
    x.record.detail = "no buffer for an answer";
    x.keep_alive = false;
    c.acts.log = true;
    // Not at once, as by `finish`: the answers before this one may still be on their way.
    Phase::Logging(x)
}

pub(super) fn answer_sent(c: &mut Common, mut x: Box<Exchange>, n: usize) -> Phase {
    x.record.bytes_down += n as u64;
    x.down.sent(n);
    if !x.down.out().is_empty() {
        return Phase::Answering(x);
    }
    if x.told.is_some() {
        c.acts.tell = true;
        return Phase::Answering(x);
    }
    c.acts.log = true;
    Phase::Logging(x)
}

pub(super) fn answer_timeout(c: &mut Common, x: Box<Exchange>) -> Phase {
    c.acts.reset_front = true;
    let (end, detail) = match x.record.end {
        // What is told of the metrics does not blame anybody.
        End::Ok => (End::ClientTimeout, "the answer was not read in time"),
        end => (end, x.record.detail),
    };
    finish(c, x, end, detail)
}

pub(super) fn is_tcp(x: &Exchange) -> bool {
    x.target
        .as_ref()
        .is_some_and(|target| target.cluster.protocol == Protocol::Tcp)
}

// ---- the body -----------------------------------------------------------

/// More of the request, or of the next one.
pub(super) fn received(c: &mut Common, mut x: Box<Exchange>, n: usize, world: &mut World) -> Phase {
    let running = x.server.is_some();
    x.up.received(n);
    if x.asked.websocket.is_some() || x.up_broken {
        return in_phase(running, x);
    }
    match x.up_body.pump(&mut x.up, world.scratch) {
        Ok(()) => in_phase(running, x),
        Err(refusal) => bad_body(c, x, refusal, world),
    }
}

pub(super) fn in_phase(running: bool, x: Box<Exchange>) -> Phase {
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
        return finish(c, x, end_of(refusal.status), refusal.what);
    }
    x.record.end = end_of(refusal.status);
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
            if x.up.out().is_empty() && x.asked.websocket.is_none() {
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
    let owes = !x.up_body.is_done() && x.up.out().is_empty() && !x.held_back;
    owes || !x.down.out().is_empty() || x.held_front
}
