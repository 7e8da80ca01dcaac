//! What a frontend answers in a backend's place: https, a refusal, a question
//! for a password, another place, a text. In this order, and the first that applies.

use std::rc::Rc;

use crate::http::basic_auth::{Proofs, Verdict};
use crate::http::fields::Head;
use crate::http::request::Request;
use crate::parser::http11::Refusal;
use crate::session::record::End;
use crate::session::request::refusal;
use crate::session::Door;
use crate::state::{Actions, Own, Wanted};

/// What a client gets in a backend's place.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub end: End,
    /// For the log.
    pub what: &'static str,
    /// Where else it is sent.
    pub location: Option<String>,
    /// Instead of a page, with its media type.
    pub text: Option<(Rc<str>, &'static str)>,
    /// For what it needs a name and a password.
    pub realm: Option<Box<str>>,
    /// In seconds, if it is not 0.
    pub retry_after: u32,
}

/// A request that a frontend has been found for.
pub struct Asked<'a, 'b> {
    pub request: &'a Request<'b>,
    pub head: Head<'b>,
    pub door: &'a Door,
    pub now_us: u64,
}

/// In the log, of those whom https_redirect sends there.
pub const TO_HTTPS: &str = "sent to https";

/// How long who came with a password too many should wait, in seconds.
const PASSWORD_WAIT_SECONDS: u32 = 1;

/// Nothing, if a backend is to be asked. Whom a password lets in is told by `user`.
pub fn answer(
    actions: &Actions,
    asked: &Asked,
    proofs: &mut Proofs,
    user: &mut Vec<u8>,
) -> Result<Option<Box<Answer>>, Refusal> {
    if let Some(answer) = https_redirect(actions, asked) {
        return Ok(Some(answer.into()));
    }
    if actions.own == Some(Own::Deny) {
        return Ok(Some(denied(403, "denied").into()));
    }
    if let Some(auth) = &actions.basic_auth {
        let refused = match proofs.judge(auth, asked.head, asked.now_us, user) {
            Verdict::Served => None,
            Verdict::Unnamed => Some(denied(401, "no user and password")),
            Verdict::Wrong => Some(denied(401, "not the password of a user")),
            Verdict::Later => Some(Answer {
                retry_after: PASSWORD_WAIT_SECONDS,
                ..denied(429, "too many passwords at once")
            }),
        };
        if let Some(mut answer) = refused {
            answer.realm = (answer.status == 401).then(|| auth.realm.clone());
            return Ok(Some(answer.into()));
        }
    }
    Ok(match &actions.own {
        None | Some(Own::Deny) => None,
        Some(Own::Redirect { status, to }) => {
            let Some(location) = to.filled(&wanted(asked)) else {
                let what = "no place to redirect to, without Host or with so long a target";
                return Err(refusal(400, what));
            };
            Some(Answer {
                status: *status,
                what: "redirected",
                location: Some(location),
                ..Answer::default()
            })
        }
        Some(Own::Answer { status, text }) => Some(Answer {
            status: *status,
            what: "answered by the frontend",
            text: text.clone().map(|text| (text, "text/plain; charset=utf-8")),
            ..Answer::default()
        }),
    }
    .map(Box::new))
}

fn denied(status: u16, what: &'static str) -> Answer {
    Answer {
        status,
        end: End::ClientDenied,
        what,
        ..Answer::default()
    }
}

/// The same over TLS, if somebody knows where that would be.
fn https_redirect(actions: &Actions, asked: &Asked) -> Option<Answer> {
    let status = actions.https_redirect.filter(|_| !asked.door.is_secure())?;
    let Wanted {
        host, path, query, ..
    } = wanted(asked);
    if host.is_empty() || !asked.request.target.bytes.starts_with(b"/") {
        return None;
    }
    let location = match actions.https_port {
        443 => format!("https://{host}{path}{query}"),
        port => format!("https://{host}:{port}{path}{query}"),
    };
    Some(Answer {
        status,
        what: TO_HTTPS,
        location: Some(location),
        ..Answer::default()
    })
}

/// What is asked for, in parts. A checked target and host are ASCII.
fn wanted<'a>(asked: &Asked<'a, '_>) -> Wanted<'a> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let (scheme, usual) = match asked.door.is_secure() {
        true => ("https", 443),
        false => ("http", 80),
    };
    let request = asked.request;
    let host = request.host.as_ref();
    let path = request.target.path().len();
    Wanted {
        scheme,
        host: host.map_or("", |host| text(host.name)),
        port: host.and_then(|host| host.port).unwrap_or(usual),
        // As it came: elsewhere another spelling may mean something else.
        path: text(match request.target.bytes {
            b"*" => b"/",
            _ => request.target.path(),
        }),
        query: text(request.target.bytes.get(path..).unwrap_or_default()),
    }
}
