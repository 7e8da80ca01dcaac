//! The health checks of a cluster from its fields, and back.

use super::fields::{fault, Fault, Fields};
use super::object::{word, Words};
use crate::state::{Ask, BackendTls, Check, HostRule, Statuses};

/// `None`: its backends are not asked. `tls` is how they are spoken with.
pub fn check_from(fields: &mut Fields, tls: Option<&BackendTls>) -> Result<Option<Check>, Fault> {
    let kind = fields.text("health_check")?;
    let path = fields.text("health_path")?;
    let status = Statuses::parse(&fields.text("health_status")?);
    let body = fields.text_or_none("health_body");
    let host = match fields.host_or_none("health_host") {
        None => None,
        Some(HostRule::Exact(name)) => Some(name),
        Some(_) => return Err(fault("health_host", "is one name, without *")),
    };
    let (interval, timeout) = (
        fields.int("health_interval")?,
        fields.int("health_timeout")?,
    );
    let (rise, fall) = (fields.int("health_rise")?, fields.int("health_fall")?);
    if kind == "none" {
        return Ok(None);
    }
    if kind == "tcp" && tls.is_none() && host.is_some() {
        let what =
            "does nothing with health_check = tcp, without tls = true: leave it out, or unset it";
        return Err(fault("health_host", what));
    }
    if tls.is_some_and(|tls| tls.verify && tls.server_name.is_none()) && host.is_none() {
        let what = "is required: a check asks for no host by which a certificate could be verified; or give tls_server_name";
        return Err(fault("health_host", what));
    }
    Ok(Some(Check {
        ask: match kind.as_str() {
            "http" => Ask::Http {
                path: path.into(),
                status: status.map_err(|what| fault("health_status", what))?,
                body: body.map(String::into_boxed_str),
            },
            _ => Ask::Tcp,
        },
        host,
        interval,
        timeout,
        rise,
        fall,
    }))
}

pub fn check_words(check: &Check) -> Words {
    let mut words = vec![word("health_check", check.ask.name())];
    if let Ask::Http { path, .. } = &check.ask {
        words.push(word("health_path", path));
    }
    words.extend(check.host.iter().map(|host| word("health_host", host)));
    if let Ask::Http { status, body, .. } = &check.ask {
        words.push(word("health_status", status));
        words.extend(body.iter().map(|body| word("health_body", body)));
    }
    words.extend([
        word("health_interval", check.interval),
        word("health_timeout", check.timeout),
        word("health_rise", check.rise),
        word("health_fall", check.fall),
    ]);
    words
}
