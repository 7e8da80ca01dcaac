//! A response whose head was parsed: may it be passed on, and what follows it?

use crate::http::fields::{Head, Options};
use crate::http::framing::{self, Body};
use crate::parser::http11::{Name, StatusLine, Version};

/// What a response was asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub head_method: bool,
    pub websocket: bool,
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
            101 if asked.websocket => {
                if !options.upgrade || !head.has_token(Name::Upgrade, b"websocket") {
                    return Err("101 without an upgrade to websocket");
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
