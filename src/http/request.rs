//! A request whose head was parsed: is it one that we serve, and what does it ask for?

use crate::http::fields::{Head, Options};
use crate::http::framing::{self, Body};
use crate::http::websocket::{self, Accept};
use crate::parser::host::{self, Host};
use crate::parser::http11::{Name, Refusal, RequestLine, Version};
use crate::parser::target::{self, Target};

/// What the rest of the proxy needs to know of a request.
pub struct Request<'b> {
    pub method: &'b [u8],
    pub version: Version,
    pub target: Target<'b>,
    /// Of the Host field, or of an absolute target. `None` only on HTTP/1.0.
    pub host: Option<Host<'b>>,
    pub body: Body,
    pub options: Options,
    /// The client keeps the connection open for another request.
    pub keep_alive: bool,
    pub expects_continue: bool,
    /// A valid WebSocket handshake, and how it has to be accepted.
    pub websocket: Option<Accept>,
}

/// The port that an authority without one means.
const HTTP_PORT: u16 = 80;

fn bad(what: &'static str) -> Refusal {
    Refusal {
        status: 400,
        at: 0,
        what,
    }
}

impl<'b> Request<'b> {
    /// `resolved` is where a target goes that had to be changed.
    pub fn of(
        line: &RequestLine,
        head: Head<'b>,
        resolved: &'b mut Vec<u8>,
    ) -> Result<Request<'b>, Refusal> {
        let method = line.method.of(head.bytes);
        let target = target::resolve(method, line.target.of(head.bytes), resolved)?;
        let host = host_of(line.version, head, &target)?;
        let options = Options::of(head).ok_or_else(|| bad("too many connection options"))?;
        let body = framing::request_body(line.version, head)?;
        let http11 = line.version == Version::Http11;
        let mut expects_continue = false;
        for value in head.all(Name::Expect) {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal {
                    status: 417,
                    at: 0,
                    what: "an expectation other than 100-continue",
                });
            }
            expects_continue = http11 && body != Body::None;
        }
        let keep_alive = !options.close && (http11 || options.keep_alive);
        let websocket = if http11 && method == b"GET" && body == Body::None {
            websocket::handshake(options, head)
        } else {
            None
        };
        Ok(Request {
            method,
            version: line.version,
            target,
            host,
            body,
            options,
            keep_alive,
            expects_continue,
            websocket,
        })
    }
}

impl Request<'_> {
    /// Without port; empty if none is given.
    pub fn hostname(&self) -> &[u8] {
        self.host.as_ref().map_or(&b""[..], |host| host.name)
    }
}

/// The one host that this request is for (RFC 9112 sections 3.2 and 3.3).
fn host_of<'b>(
    version: Version,
    head: Head<'b>,
    target: &Target<'b>,
) -> Result<Option<Host<'b>>, Refusal> {
    let mut values = head.all(Name::Host);
    let field = match values.next() {
        Some(value) => Some(host::parse(value).map_err(bad)?),
        None if version == Version::Http11 => return Err(bad("no Host")),
        None => None,
    };
    if values.next().is_some() {
        return Err(bad("more than one Host"));
    }
    let Some(authority) = target.authority else {
        return Ok(field);
    };
    match field {
        Some(field) if !target::same_authority(&field, &authority, HTTP_PORT) => {
            Err(bad("the target's authority and Host differ"))
        }
        Some(field) => Ok(Some(field)),
        None => Ok(Some(authority)),
    }
}

/// Methods that may be sent a second time (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE")
}
