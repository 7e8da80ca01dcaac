//! Where a request leads: to a cluster, to an answer of its frontend, to the metrics.

use std::rc::Rc;

use crate::http::basic_auth::Proofs;
use crate::http::challenge::Challenges;
use crate::metrics::text::Cursor;
use crate::parser::host;
use crate::parser::http11::Refusal;
use crate::session::action::{self, Answer, Asked};
use crate::session::request::refusal;
use crate::session::{metrics, Common, Rule};
use crate::state::{HostRule, Names, Protocol};

/// Where a request leads: by the rule of a frontend, which may answer it, to the metrics, or to
/// what a certificate authority is answered.
pub(super) enum Way<'d> {
    By(&'d Rule, Option<Box<Answer>>),
    Told(Cursor),
    Challenge(Rc<str>),
}

pub(super) fn lead<'d>(
    c: &Common,
    asked: &Asked<'d, '_>,
    challenges: &Challenges,
    proofs: &mut Proofs,
    user: &mut Vec<u8>,
) -> Result<Way<'d>, Refusal> {
    let (request, door) = (asked.request, asked.door);
    let hostname = request.hostname();
    let uncovered = |names: &Names| !covers(names, hostname);
    if c.secured.names.as_ref().is_some_and(uncovered) {
        let what = "not the host of this connection's certificate";
        return Err(refusal(421, what));
    }
    if door.listener.protocol == Protocol::Metrics {
        return metrics::asked(request).map(Way::Told);
    }
    let (path, method) = (request.target.routed, request.method);
    if door.listener.protocol == Protocol::Http {
        // Before any frontend: that one may lead to https, where the certificate is missing still.
        if let Some(text) = challenges.find(path, method) {
            return Ok(Way::Challenge(Rc::clone(text)));
        }
    }
    let rule = door.find(hostname, path, method);
    let rule = rule.ok_or(refusal(404, "no frontend matches"))?;
    let answer = match &rule.actions {
        Some(actions) => action::answer(actions, asked, proofs, user)?,
        None => None,
    };
    Ok(Way::By(rule, answer))
}

/// Whether a certificate stands for a host (RFC 9110 section 7.4).
fn covers(names: &[HostRule], hostname: &[u8]) -> bool {
    let mut room = [0; 256];
    let name = host::normalize(hostname, &mut room);
    let suffix = name.iter().position(|byte| *byte == b'.');
    let suffix = suffix.map(|dot| &name[dot + 1..]);
    names.iter().any(|rule| match rule {
        HostRule::Exact(exact) => exact.as_bytes() == name,
        HostRule::Suffix(known) => suffix == Some(known.as_bytes()),
        HostRule::Any => true,
    })
}

/// What a certificate authority is answered.
pub(super) fn challenge(text: Rc<str>) -> Answer {
    Answer {
        status: 200,
        what: "acme challenge",
        text: Some((text, "application/octet-stream")),
        ..Answer::default()
    }
}
