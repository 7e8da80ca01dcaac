//! The actions of a frontend from its fields, and back.
//!
//! Owns: which actions go together; each that does not is a sentence. Hashes are
//! written only by who asks for them (`secret_words`).

use super::certificate::path as absolute;
use super::fields::{check_answer, fault, Fault, Fields};
use super::object::{word, Words};
use crate::limits::EDITS_BYTES_MAX;
use crate::parser::path::normal;
use crate::state::{
    Actions, BasicAuth, Edits, Frontend, Heads, Own, PathRule, Template, Users, PREFIX_FIELD,
};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Of a frontend with that path; nothing, if it does nothing else than lead to a cluster.
pub fn actions_from(fields: &mut Fields, path: &PathRule) -> Result<Option<Rc<Actions>>, Fault> {
    // What is no number is no.
    let redirect = fields.text_or_none("https_redirect");
    let redirect = redirect.and_then(|status| status.parse().ok());
    let port = fields.int_or_none("https_port");
    // Of what a client spells as it likes.
    let strip_prefix = fields
        .text_or_none("strip_prefix")
        .map(|path| normal(&path));
    let actions = Actions {
        https_redirect: redirect,
        https_port: port
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(443),
        hsts: fields.text_or_none("hsts").map(String::into_boxed_str),
        basic_auth: basic_auth_from(fields)?,
        own: own_from(fields)?,
        strip_prefix: strip_prefix.map(String::into_boxed_str),
        add_prefix: fields
            .text_or_none("add_prefix")
            .map(String::into_boxed_str),
        set_host: fields.text_or_none("set_host").map(String::into_boxed_str),
        request_headers: edits_from(fields, "request_headers", Heads::Requests)?,
        response_headers: edits_from(fields, "response_headers", Heads::Responses)?,
    };
    check_prefixes(&actions, path)?;
    check_together(&actions)?;
    Ok((actions != Actions::default()).then(|| Rc::new(actions)))
}

fn own_from(fields: &mut Fields) -> Result<Option<Own>, Fault> {
    let deny = fields.bool("deny")?;
    let redirect = fields.text_or_none("redirect");
    let status = fields.text("redirect_status")?;
    let answer = fields.text_or_none("answer");
    let body = fields.text_or_none("answer_body");
    match (deny, redirect, answer, body) {
        (true, None, None, _) => Ok(Some(Own::Deny)),
        (false, Some(to), None, _) => Ok(Some(Own::Redirect {
            status: status.parse().unwrap_or(302),
            to: Template::parse(&to).map_err(|what| fault("redirect", what))?,
        })),
        (false, None, Some(answer), body) => answer_from(&answer, body).map(Some),
        (false, None, None, _) => Ok(None),
        (true, Some(_), ..) => Err(fault("redirect", ONE_ONLY)),
        _ => Err(fault("answer", ONE_ONLY)),
    }
}

const ONE_ONLY: &str = "does not go together: of deny, redirect and answer a frontend has one";

/// `503`, or `503 and a text`; or the text apart.
fn answer_from(answer: &str, body: Option<String>) -> Result<Own, Fault> {
    let (status, text) = match answer.split_once(' ') {
        Some((status, text)) => (status, Some(text.to_string())),
        None => (answer, None),
    };
    let text = match (text, body) {
        (Some(_), Some(_)) => {
            return Err(fault(
                "answer_body",
                "is given, and answer has a text already",
            ))
        }
        (text, body) => text.or(body),
    };
    // The kind has looked at it.
    let status = status
        .parse()
        .map_err(|_| fault("answer", "has no status"))?;
    if status == 204 && text.is_some() {
        return Err(fault(
            "answer",
            "has a text, and the status 204 means that there is none",
        ));
    }
    let text = text.map(check_answer).transpose();
    let text = text.map_err(|what| fault("answer", what))?;
    Ok(Own::Answer {
        status,
        text: text.map(Rc::from),
    })
}

/// A fingerprint alone stands for users that were left out, as in a dump.
fn basic_auth_from(fields: &mut Fields) -> Result<Option<BasicAuth>, Fault> {
    let users = fields.text_or_none("basic_auth");
    let users = users.map(|text| Users::parse(&text)).transpose();
    let users = users.map_err(|what| fault("basic_auth", what))?;
    let path = absolute(fields, "basic_auth_path")?;
    let realm = fields.text_or_none("realm");
    let given = fields.text_or_none("basic_auth_fingerprint");
    let fingerprint = match (&users, given) {
        (Some(users), None) => users.fingerprint(),
        (Some(users), Some(given)) if given == users.fingerprint() => given,
        (Some(_), Some(_)) => return Err(fault("basic_auth_fingerprint", "is of other users")),
        (None, Some(given)) => given,
        (None, None) => {
            let alone = match (&realm, &path) {
                (Some(_), _) => "realm",
                (_, Some(_)) => "basic_auth_path",
                _ => return Ok(None),
            };
            return Err(fault(alone, "needs basic_auth, to which it belongs"));
        }
    };
    Ok(Some(BasicAuth {
        realm: realm.as_deref().unwrap_or("restricted").into(),
        fingerprint: fingerprint.into(),
        users,
        path: path.map(String::into_boxed_str),
    }))
}

fn edits_from(fields: &mut Fields, key: &'static str, heads: Heads) -> Result<Edits, Fault> {
    let Some(text) = fields.text_or_none(key) else {
        return Ok(Edits::default());
    };
    let edits = Edits::parse(&text).map_err(|what| fault(key, what))?;
    edits.check(heads).map_err(|what| fault(key, what))?;
    Ok(edits)
}

fn check_prefixes(actions: &Actions, path: &PathRule) -> Result<(), Fault> {
    if actions
        .add_prefix
        .as_deref()
        .is_some_and(|added| added.contains("//"))
    {
        return Err(fault(
            "add_prefix",
            "has two slashes in a row: that may be a host elsewhere",
        ));
    }
    for (key, prefix) in [
        ("strip_prefix", &actions.strip_prefix),
        ("add_prefix", &actions.add_prefix),
    ] {
        if prefix.as_ref().is_some_and(|prefix| prefix.ends_with('/')) {
            return Err(fault(
                key,
                "ends with /: leave that out, the path behind it has it",
            ));
        }
    }
    if let Some(prefix) = &actions.strip_prefix {
        let rest = path.path().strip_prefix(&**prefix);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let what = format!(
                "is {prefix}, and the frontend takes paths without it: its path must begin with it"
            );
            return Err(fault("strip_prefix", what));
        }
        if actions.request_headers.names(PREFIX_FIELD) {
            let what = format!("sets {PREFIX_FIELD}, which strip_prefix does");
            return Err(fault("request_headers", what));
        }
    }
    Ok(())
}

/// What an action leaves nothing to do for is refused.
fn check_together(actions: &Actions) -> Result<(), Fault> {
    if actions.own.is_some() {
        let on_its_way = [
            ("strip_prefix", actions.strip_prefix.is_some()),
            ("add_prefix", actions.add_prefix.is_some()),
            ("set_host", actions.set_host.is_some()),
            ("request_headers", !actions.request_headers.is_empty()),
        ];
        if let Some((key, _)) = on_its_way.iter().find(|(_, given)| *given) {
            let what =
                "changes what a backend gets, and with deny, redirect or answer none is asked";
            return Err(fault(key, what));
        }
    }
    if actions.own == Some(Own::Deny) && actions.basic_auth.is_some() {
        return Err(fault("basic_auth", "lets nobody in: all are denied"));
    }
    if actions.request_bytes() > EDITS_BYTES_MAX {
        let what = format!("make a head longer by more than {EDITS_BYTES_MAX} bytes, with set_host and the prefixes");
        return Err(fault("request_headers", what));
    }
    Ok(())
}

/// Without the hashes.
pub fn actions_words(actions: &Actions) -> Words {
    let mut words = Words::new();
    if let Some(status) = actions.https_redirect {
        words.push(word("https_redirect", status));
        words.push(word("https_port", actions.https_port));
    }
    words.extend(actions.hsts.iter().map(|hsts| word("hsts", hsts)));
    if let Some(auth) = &actions.basic_auth {
        let path = auth.path.iter();
        words.extend(path.map(|path| word("basic_auth_path", path)));
        words.push(word("basic_auth_fingerprint", &auth.fingerprint));
        words.push(word("realm", &auth.realm));
    }
    match &actions.own {
        None => {}
        Some(Own::Deny) => words.push(word("deny", true)),
        Some(Own::Redirect { status, to }) => {
            words.push(word("redirect", to));
            words.push(word("redirect_status", status));
        }
        Some(Own::Answer { status, text }) => words.push(match text {
            Some(text) => word("answer", format!("{status} {text}")),
            None => word("answer", status),
        }),
    }
    for (key, text) in [
        ("strip_prefix", &actions.strip_prefix),
        ("add_prefix", &actions.add_prefix),
        ("set_host", &actions.set_host),
    ] {
        words.extend(text.iter().map(|text| word(key, text)));
    }
    for (key, edits) in [
        ("request_headers", &actions.request_headers),
        ("response_headers", &actions.response_headers),
    ] {
        words.extend((!edits.is_empty()).then(|| word(key, edits)));
    }
    words
}

/// What was written without its users, with them: read anew from where they were before.
pub fn refill_frontend(
    frontend: &Frontend,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Frontend, String> {
    let actions = frontend.actions.as_ref();
    let auth = actions.and_then(|actions| actions.basic_auth.as_ref());
    let (Some(actions), Some(auth)) = (actions, auth.filter(|auth| auth.users.is_none())) else {
        return Ok(frontend.clone());
    };
    let whose = &frontend.identity;
    let Some(path) = &auth.path else {
        return Err(format!("the users of {whose} were left out, and it is not known where they are: nobody comes in there until it is added again"));
    };
    let closed = |what| format!("{path} {what}: nobody comes in at {whose}");
    let text = file(Path::new(&**path)).map_err(|e| closed(format!("cannot be read: {e}")))?;
    let users = Users::parse(&text).map_err(closed)?;
    let auth = BasicAuth {
        fingerprint: users.fingerprint().into(),
        users: Some(users),
        ..auth.clone()
    };
    let actions = Actions {
        basic_auth: Some(auth),
        ..(**actions).clone()
    };
    Ok(Frontend {
        actions: Some(Rc::new(actions)),
        ..frontend.clone()
    })
}
