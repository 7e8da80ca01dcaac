//! The metrics, as the answer of a listener with `protocol = "metrics"`.
//!
//! They come in pieces that the worker writes; here each gets its frame.

use crate::http::request::Request;
use crate::metrics::text::{Cursor, CONTENT_TYPE};
use crate::parser::chunked;
use crate::parser::http11::Refusal;
use crate::session::exchange::Exchange;
use crate::session::record::End;
use crate::session::request::{answer_sent, refusal};
use crate::session::response::finish;
use crate::session::{Common, Phase, Stay, World};

/// Where they begin, if it is they who are asked for.
pub(super) fn asked(request: &Request) -> Result<Cursor, Refusal> {
    if request.target.routed != b"/metrics" {
        return Err(refusal(404, "only /metrics is here"));
    }
    match request.method {
        b"GET" | b"HEAD" => Ok(Cursor::default()),
        _ => Err(refusal(405, "the metrics are only read: GET or HEAD")),
    }
}

/// The head, before the first piece.
pub(super) fn answer(c: &mut Common, mut x: Box<Exchange>, world: &mut World) -> Phase {
    x.up.clear_out();
    x.keep_alive &=
        x.up_body.is_done() && !c.is_last(&x) && world.stay == Stay::Welcome && x.asked.http11;
    let framing = match x.asked.http11 {
        true => "Transfer-Encoding: chunked\r\n",
        false => "",
    };
    let connection = match x.keep_alive {
        true => "",
        false => "Connection: close\r\n",
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nCache-Control: no-store\r\n{framing}{connection}\r\n"
    );
    x.record.status = 200;
    if x.asked.head_method {
        x.told = None;
    }
    if x.down.append(head.as_bytes(), world.pool) {
        c.since_us = world.now_us;
        return Phase::Answering(x);
    }
    x.told = None;
    finish(c, x, End::ProxyNoRoom, "no buffer for the metrics")
}

/// Another piece, and where the one behind it begins.
pub(super) fn told(
    c: &mut Common,
    mut x: Box<Exchange>,
    next: Option<Cursor>,
    world: &mut World,
) -> Phase {
    let text = world.scratch.head.as_slice();
    let mut line = [0; 18];
    let (size, end): (&[u8], &[u8]) = match x.asked.http11 && !text.is_empty() {
        true => (chunked::write_size(text.len(), &mut line), b"\r\n"),
        false => (b"", b""),
    };
    let last: &[u8] = match x.asked.http11 && next.is_none() {
        true => b"0\r\n\r\n",
        false => b"",
    };
    let pieces = [size, text, end, last];
    x.told = next;
    if !pieces.iter().all(|piece| x.down.append(piece, world.pool)) {
        c.acts.reset_front = true;
        return finish(c, x, End::ProxyNoRoom, "no buffer for the metrics");
    }
    // Nothing was left to tell.
    answer_sent(c, x, 0)
}
