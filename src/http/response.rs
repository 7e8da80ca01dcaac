//! A response whose head was parsed: may it be passed on, and what follows it?

use crate::http::fields::{Head, Options};
use crate::http::framing::{self, Body};
use crate::http::request::{is_idempotent, Request};
use crate::http::websocket::Accept;
use crate::parser::http11::{Name, StatusLine, Version};

/// What a response was asked by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub http11: bool,
    pub head_method: bool,
    pub expects_continue: bool,
    /// The request may be sent a second time: its method allows it, and there is no body.
    pub replayable: bool,
    /// What Sec-WebSocket-Accept has to be.
    pub websocket: Option<Accept>,
}

impl Asked {
    /// What an answer needs to know even if the request turns out to be a bad one.
    pub fn begun(version: Version, method: &[u8]) -> Asked {
        Asked {
            http11: version == Version::Http11,
            head_method: method == b"HEAD",
            ..Asked::default()
        }
    }

    pub fn by(request: &Request) -> Asked {
        Asked {
            http11: request.version == Version::Http11,
            head_method: request.method == b"HEAD",
            expects_continue: request.expects_continue,
            replayable: request.body == Body::None && is_idempotent(request.method),
            websocket: request.websocket,
        }
    }
}

/// What the rest of the proxy needs to know of a response.
pub struct Response {
    pub kind: Kind,
    pub options: Options,
    /// The backend keeps its connection open for another request.
    pub keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1xx but 101: another head follows.
    Interim,
    /// 101 as asked for: from here on a tunnel.
    Switching,
    Final(Body),
}

impl Response {
    /// An error says in a few words what is wrong with the backend's answer.
    pub fn of(line: &StatusLine, head: Head, asked: Asked) -> Result<Response, &'static str> {
        let options = Options::of(head).ok_or("too many connection options")?;
        let kind = match line.status {
            101 if asked.websocket.is_some() => {
                if !options.upgrade || !head.has_token(Name::Upgrade, b"websocket") {
                    return Err("101 without an upgrade to websocket");
                }
                let accept = head.all(Name::SecWebSocketAccept).next();
                if accept != asked.websocket.as_ref().map(|accept| accept.as_slice()) {
                    return Err("101 with a wrong Sec-WebSocket-Accept");
                }
                Kind::Switching
            }
            101 => return Err("101 that nobody asked for"),
            100..=199 => Kind::Interim,
            status => Kind::Final(framing::response_body(
                line.version,
                status,
                asked.head_method,
                head,
            )?),
        };
        let keep_alive = match line.version {
            Version::Http11 => !options.close,
            Version::Http10 => options.keep_alive && !options.close,
        };
        Ok(Response {
            kind,
            options,
            keep_alive,
        })
    }
}
