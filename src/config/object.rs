//! Listeners, clusters, frontends and backends from their fields, and back.
//!
//! The one place that knows which key is which member. `*_from` takes complete
//! fields apart; `*_words` writes every key that has a value, so that what was
//! written by one version means the same to another one with other defaults.

use super::action::{actions_from, actions_words};
use super::certificate::{own_certificate_from, own_certificate_words, tls_from, tls_words};
use super::check::{check_from, check_words};
use super::fields::{fault, Fault, Fields};
use super::keys::{BACKEND, CLUSTER, FRONTEND, LISTENER};
use super::quota::{quota_from, quota_words};
use crate::certificate::authorities;
use crate::parser::path::normal;
use crate::parser::proxy_protocol::Version;
use crate::state::{Backend, BackendState, BackendTls, Cidr, Cluster, Frontend};
use crate::state::{
    Balancing, FrontendId, HostRule, Listener, LoadBalancing, Part, PathRule, Protocol, Timeouts,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Keys and values in the order of the table.
pub type Words = Vec<(String, String)>;

pub fn listener_from(mut fields: Fields, defaults: &Timeouts) -> Result<Listener, Fault> {
    fields.complete(LISTENER)?;
    fields.complete_timeouts(defaults);
    let address = fields.address("address")?;
    let protocol = protocol(&mut fields)?;
    let (expect_proxy, proxy_sources) = proxy_from(&mut fields, protocol)?;
    Ok(Listener {
        address,
        protocol,
        enabled: fields.bool("enabled")?,
        timeouts: timeouts_from(&mut fields)?,
        sticky_name: sticky_name(&mut fields)?,
        trusted_proxies: fields.ranges("trusted_proxies"),
        expect_proxy,
        proxy_sources,
        quota: quota_from(&mut fields, protocol)?,
        tls: tls_from(&mut fields, protocol)?,
        answers: fields.answers(),
    })
}

pub fn listener_words(listener: &Listener) -> Words {
    let mut words = vec![
        word("address", listener.address),
        word("protocol", listener.protocol.name()),
        word("enabled", listener.enabled),
    ];
    words.extend(timeouts_words(&listener.timeouts));
    words.push(word("sticky_name", &listener.sticky_name));
    words.extend(ranges_word("trusted_proxies", &listener.trusted_proxies));
    // Not where it is not: a version before knows no such key.
    words.extend(listener.expect_proxy.then(|| word("expect_proxy", true)));
    words.extend(ranges_word("proxy_sources", &listener.proxy_sources));
    words.extend(quota_words(&listener.quota));
    words.extend(listener.tls.iter().flat_map(tls_words));
    words.extend(answers_words(&listener.answers));
    words
}

fn proxy_from(fields: &mut Fields, protocol: Protocol) -> Result<(bool, Vec<Cidr>), Fault> {
    let (expected, sources) = (fields.bool("expect_proxy")?, fields.ranges("proxy_sources"));
    match (expected, protocol) {
        (true, Protocol::Metrics) => Err(fault("expect_proxy", "belongs to no metrics listener")),
        _ => Ok((expected, sources)),
    }
}

pub fn ranges_word(key: &str, ranges: &[Cidr]) -> Option<(String, String)> {
    let texts: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
    (!ranges.is_empty()).then(|| word(key, texts.join(",")))
}

/// The six time limits that stand both in a listener and among the settings.
pub fn timeouts_from(fields: &mut Fields) -> Result<Timeouts, Fault> {
    Ok(Timeouts {
        front: fields.int("front_timeout")?,
        back: fields.int("back_timeout")?,
        connect: fields.int("connect_timeout")?,
        request: fields.int("request_timeout")?,
        keepalive: fields.int("keepalive_timeout")?,
        tunnel: fields.int("tunnel_timeout")?,
    })
}

pub fn timeouts_words(timeouts: &Timeouts) -> Words {
    vec![
        word("front_timeout", timeouts.front),
        word("back_timeout", timeouts.back),
        word("connect_timeout", timeouts.connect),
        word("request_timeout", timeouts.request),
        word("keepalive_timeout", timeouts.keepalive),
        word("tunnel_timeout", timeouts.tunnel),
    ]
}

pub fn cluster_from(mut fields: Fields) -> Result<Cluster, Fault> {
    fields.complete(CLUSTER)?;
    let protocol = protocol(&mut fields)?;
    let tls = backend_tls_from(&mut fields, protocol)?;
    Ok(Cluster {
        id: fields.text("id")?.into(),
        protocol,
        balancing: balancing_from(&mut fields)?,
        quota: quota_from(&mut fields, protocol)?,
        send_proxy: proxy_version(&fields.text("send_proxy")?),
        check: check_from(&mut fields, tls.as_ref())?,
        eject_5xx: eject_from(&mut fields, protocol)?,
        tls,
        answers: fields.answers(),
    })
}

pub fn cluster_words(cluster: &Cluster) -> Words {
    let mut words = vec![
        word("id", &cluster.id),
        word("protocol", cluster.protocol.name()),
    ];
    words.extend(balancing_words(&cluster.balancing));
    words.extend(quota_words(&cluster.quota));
    words.extend(
        cluster
            .send_proxy
            .map(|version| word("send_proxy", version.name())),
    );
    words.extend(cluster.tls.iter().flat_map(backend_tls_words));
    words.extend(cluster.check.iter().flat_map(check_words));
    let eject = Some(cluster.eject_5xx).filter(|count| *count > 0);
    words.extend(eject.map(|count| word("eject_5xx", count)));
    words.extend(answers_words(&cluster.answers));
    words
}

fn balancing_from(fields: &mut Fields) -> Result<Balancing, Fault> {
    let policy = fields.text("load_balancing")?;
    let policy = LoadBalancing::ALL
        .into_iter()
        .find(|one| one.name() == policy);
    Ok(Balancing {
        policy: policy.ok_or_else(|| fault("load_balancing", "is not known"))?,
        hash_on: Part::parse(&fields.text("hash_on")?).map_err(|what| fault("hash_on", what))?,
        sticky: fields.bool("sticky_session")?,
        slow_start: fields.int("slow_start")?,
        max_queue: fields.int("max_queue")?,
        queue_timeout: fields.int("queue_timeout")?,
    })
}

/// What is as it would be anyway is not said.
fn balancing_words(balancing: &Balancing) -> Words {
    let parts = |of: &Balancing| {
        vec![
            word("hash_on", &of.hash_on),
            word("sticky_session", of.sticky),
            word("slow_start", of.slow_start),
            word("max_queue", of.max_queue),
            word("queue_timeout", of.queue_timeout),
        ]
    };
    let usual = parts(&Balancing::by(balancing.policy));
    let mut words = parts(balancing);
    words.retain(|word| !usual.contains(word));
    words.insert(0, word("load_balancing", balancing.policy.name()));
    words
}

fn eject_from(fields: &mut Fields, protocol: Protocol) -> Result<u32, Fault> {
    match (fields.int("eject_5xx")?, protocol) {
        (1.., Protocol::Tcp) => Err(fault(
            "eject_5xx",
            "belongs to no tcp cluster: nobody reads its responses",
        )),
        (count, _) => Ok(count),
    }
}

/// The table has no other names, but for that of none.
fn proxy_version(name: &str) -> Option<Version> {
    Version::ALL
        .into_iter()
        .find(|version| version.name() == name)
}

fn backend_tls_from(fields: &mut Fields, protocol: Protocol) -> Result<Option<BackendTls>, Fault> {
    let (tls, verify) = (fields.bool("tls")?, fields.bool("tls_verify")?);
    let ca = fields.text_or_none("tls_ca");
    let checked = ca.as_deref().map_or(Ok(()), authorities);
    checked.map_err(|what| fault("tls_ca", what))?;
    let server_name = match fields.host_or_none("tls_server_name") {
        None => None,
        Some(HostRule::Exact(name)) => Some(name),
        Some(_) => return Err(fault("tls_server_name", "is one name, without *")),
    };
    let own = own_certificate_from(fields)?;
    if !tls {
        return Ok(None);
    }
    if protocol == Protocol::Tcp && verify && server_name.is_none() {
        let what = "is required: a tcp cluster is asked for no host; or say tls_verify = false";
        return Err(fault("tls_server_name", what));
    }
    Ok(Some(BackendTls {
        verify,
        ca,
        server_name,
        own,
    }))
}

fn backend_tls_words(tls: &BackendTls) -> Words {
    let mut words = vec![word("tls", true), word("tls_verify", tls.verify)];
    words.extend(tls.ca.iter().map(|pem| word("tls_ca", pem)));
    let name = tls.server_name.iter();
    words.extend(name.map(|name| word("tls_server_name", name)));
    words.extend(tls.own.iter().flat_map(own_certificate_words));
    words
}

pub fn frontend_from(mut fields: Fields) -> Result<Frontend, Fault> {
    fields.complete(FRONTEND)?;
    let cluster = fields.text_or_none("cluster").map(Rc::from);
    let identity = identity_from(&mut fields)?;
    let actions = actions_from(&mut fields, &identity.path)?;
    let own = actions.as_ref().and_then(|actions| actions.own.as_ref());
    if cluster.is_none() && own.is_none() {
        let what = "is missing: only with redirect, answer or deny there is none";
        return Err(fault("cluster", what));
    }
    Ok(Frontend {
        identity: identity.into(),
        cluster,
        actions,
    })
}

pub fn frontend_words(frontend: &Frontend) -> Words {
    let mut words = frontend_id_words(&frontend.identity);
    let cluster = frontend.cluster.iter();
    words.extend(cluster.map(|id| word("cluster", id)));
    words.extend(frontend.actions.iter().flat_map(|it| actions_words(it)));
    words
}

pub fn frontend_id_from(mut fields: Fields) -> Result<FrontendId, Fault> {
    fields.complete(FRONTEND)?;
    identity_from(&mut fields)
}

fn identity_from(fields: &mut Fields) -> Result<FrontendId, Fault> {
    // As requests are looked up.
    let path = normal(&fields.text("path")?).into();
    Ok(FrontendId {
        listener: fields.address("listener")?,
        hostname: fields.host("hostname")?,
        path: match fields.text("path_type")?.as_str() {
            "exact" => PathRule::Exact(path),
            _ => PathRule::Prefix(path),
        },
        method: fields.text_or_none("method").map(String::into_boxed_str),
    })
}

pub fn frontend_id_words(identity: &FrontendId) -> Words {
    let mut words = vec![
        word("listener", identity.listener),
        word("hostname", &identity.hostname),
        word("path", identity.path.path()),
        word("path_type", identity.path.kind()),
    ];
    words.extend(identity.method.iter().map(|method| word("method", method)));
    words
}

pub fn backend_from(mut fields: Fields) -> Result<Backend, Fault> {
    fields.complete(BACKEND)?;
    Ok(Backend {
        cluster: fields.text("cluster")?.into(),
        id: for_cookie("id", fields.text("id")?)?.into(),
        address: fields.server("address")?,
        weight: u16::try_from(fields.int("weight")?)
            .map_err(|_| fault("weight", "is too large"))?,
        backup: fields.bool("backup")?,
        max_connections: fields.int_or_none("max_connections"),
        sticky_id: match fields.text_or_none("sticky_id") {
            Some(id) => Some(for_cookie("sticky_id", id)?.into()),
            None => None,
        },
        state: match fields.text("state")?.as_str() {
            "drain" => BackendState::Drain,
            "down" => BackendState::Down,
            _ => BackendState::Ready,
        },
    })
}

pub fn backend_words(backend: &Backend) -> Words {
    let mut words = vec![
        word("cluster", &backend.cluster),
        word("id", &backend.id),
        word("address", &backend.address),
        word("weight", backend.weight),
        word("backup", backend.backup),
        word("state", backend.state.name()),
    ];
    let most = backend.max_connections;
    words.extend(most.map(|most| word("max_connections", most)));
    words.extend(backend.sticky_id.iter().map(|id| word("sticky_id", id)));
    words
}

pub fn word(key: &str, value: impl ToString) -> (String, String) {
    (key.to_string(), value.to_string())
}

fn answers_words(answers: &BTreeMap<u16, String>) -> Words {
    let answers = answers.iter();
    answers
        .map(|(status, body)| (format!("answer_{status}"), body.clone()))
        .collect()
}

fn protocol(fields: &mut Fields) -> Result<Protocol, Fault> {
    let name = fields.text("protocol")?;
    Protocol::of(&name).ok_or_else(|| fault("protocol", "is not known"))
}

/// A cookie's name is a token (RFC 6265 section 4.1.1), which a name is nearly.
fn sticky_name(fields: &mut Fields) -> Result<String, Fault> {
    let name = fields.text("sticky_name")?;
    if name.contains(|c: char| "()<>@,;:/[]?={}".contains(c)) {
        return Err(fault(
            "sticky_name",
            format!("{name:?} is not a name for a cookie"),
        ));
    }
    Ok(name)
}

/// A name of a backend; of those only two characters are none of a cookie's value (RFC 6265 section 4.1.1).
fn for_cookie(key: &'static str, name: String) -> Result<String, Fault> {
    match name.contains([';', ',']) {
        false => Ok(name),
        true => {
            let what = format!("{name:?} is not a value for a cookie: it has a comma or semicolon");
            Err(fault(key, what))
        }
    }
}
