//! `explain`: where a request or a connection would go, and why, without sending anything.
//!
//! By the same code that reads, routes and rewrites requests. An answer that
//! is no answer of a backend is an error whose sentence says what the client
//! would see; the data lines before it say how far it came.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::http::basic_auth::Proofs;
use crate::http::fields::Head;
use crate::http::request::Request;
use crate::http::rewrite::{self, Edge};
use crate::parser::host::{self, Host};
use crate::parser::http11::{self, Fields, Parse, Refusal};
use crate::parser::target;
use crate::proto::question::Question;
use crate::proto::reply;
use crate::route::Router;
use crate::session::{action, Door};
use crate::slab::Key;
use crate::state::{
    Actions, Change, Cluster, Code, Frontend, HostRule, Listener, Protocol, Refused, State,
};
use crate::supervisor::candidates::{candidates, Now};
use crate::supervisor::commands::text_of;
use crate::supervisor::Supervisor;

/// The ports of URLs without one.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// Listeners that a sentence names.
const NAMED_MAX: usize = 8;

impl Supervisor {
    pub(super) fn explain(&mut self, question: &Question, key: Key) -> Result<String, Refused> {
        let mut lines = String::new();
        let now = Now {
            paused: &|cluster| self.pauses.line(cluster, self.now_ms),
            avoided: &|backend| self.why_avoided(backend),
            panics: &|cluster| self.healths.panics(cluster),
            challenges: &self.challenges.answers,
        };
        match explain(&self.state, &now, question, &mut lines) {
            Ok(()) => Ok(lines + &reply::ok(&[])),
            Err(refused) => {
                self.client(key)?.outbox.push(&lines);
                Err(refused)
            }
        }
    }
}

fn explain(
    state: &State,
    now: &Now,
    question: &Question,
    lines: &mut String,
) -> Result<(), Refused> {
    let mut room = Vec::new();
    let asked = Asked::of(question, &mut room)?;
    let listener = listener_meant(state, question.listener, asked.port)?;
    *lines += &text_of([Change::ListenerAdd(listener.clone())]);
    spoken_there(listener, &asked)?;
    admitted(listener, question.client)?;
    if let Some(client) = question.client {
        *lines += &client_lines(state, listener, client, &asked)?;
    }
    let (path, method) = (asked.path.as_bytes(), asked.method.as_bytes());
    let plain = listener.protocol == Protocol::Http && listener.enabled;
    if plain && now.challenges.find(path, method).is_some() {
        *lines += &reply::data("answer", &[("by", "acme_challenges".to_string())]);
        return Ok(());
    }
    let led = lead(state, now, listener, &asked, question.client, lines);
    if !listener.enabled {
        let address = listener.address;
        let what = format!("listener {address} is disabled: the connection would be refused, until listener enable address={address}");
        return Err(missing(what));
    }
    led
}

/// Whether the connection of a client is taken at all.
fn admitted(listener: &Listener, client: Option<IpAddr>) -> Result<(), Refused> {
    match client.and_then(|client| listener.quota.denies(client)) {
        None => Ok(()),
        Some(why) => {
            let address = listener.address;
            let what = format!(
                "explain: listener {address}: {why}: the connection would be closed at once"
            );
            Err(Refused::new(Code::Mismatch, what))
        }
    }
}

/// Whether a request or a connection of a client may go on to a cluster.
fn let_in(cluster: &Cluster, client: Option<IpAddr>) -> Result<(), Refused> {
    match client.and_then(|client| cluster.quota.denies(client)) {
        None => Ok(()),
        Some(why) => {
            let seen = match cluster.protocol {
                Protocol::Tcp => "the connection would be reset",
                _ => "the answer would be 403",
            };
            let what = format!("explain: cluster {}: {why}: {seen}", cluster.id);
            Err(Refused::new(Code::Mismatch, what))
        }
    }
}

/// What a client may take of a listener and of the cluster behind it, a line for each limit.
fn limit_lines(listener: &Listener, cluster: &Cluster) -> String {
    let mut lines = String::new();
    let mut line = |whose: &str, key: &str, most: u32, beyond: &str| {
        let pairs = [
            ("key", key.to_string()),
            ("value", most.to_string()),
            ("of", whose.to_string()),
            ("beyond", beyond.to_string()),
        ];
        lines += &reply::data("limit", &pairs);
    };
    let mut of_listener = listener.quota.clone();
    // Of two the cluster's.
    of_listener.body = of_listener.body.filter(|_| cluster.quota.body.is_none());
    let of = |kind: &str, name: &dyn Display| format!("{kind} {name}");
    let both = [
        (of("listener", &listener.address), &of_listener),
        (of("cluster", &cluster.id), &cluster.quota),
    ];
    for (whose, quota) in &both {
        if let Some(most) = quota.connections {
            line(
                whose,
                "max_connections_per_ip",
                most,
                "the connection is closed at once",
            );
        }
        if let Some(rate) = quota.rate {
            line(
                whose,
                "request_rate",
                rate.per_second,
                "429 with Retry-After",
            );
            line(whose, "request_burst", rate.burst, "request_rate counts");
        }
        if let Some(most) = quota.body {
            line(whose, "max_body", most, "413");
        }
        if let Some(rate) = quota.pace {
            line(whose, "min_rate", rate, "408, or a cut");
        }
    }
    lines
}

/// Nobody understands a client there that speaks otherwise than its URL says.
fn spoken_there(listener: &Listener, asked: &Asked) -> Result<(), Refused> {
    let what = match (listener.protocol, asked.secure) {
        (_, None) => return Ok(()),
        (Protocol::Https | Protocol::TlsPassthrough, Some(true)) => return Ok(()),
        (Protocol::Https, _) => "TLS is spoken there: the answer would be 400",
        (Protocol::TlsPassthrough, _) => "TLS is spoken there: the connection would be closed",
        (_, Some(false)) => return Ok(()),
        (_, Some(true)) => "no TLS is spoken there: there would be no connection",
    };
    let what = format!("explain: listener {}: {what}", listener.address);
    Err(Refused::new(Code::Mismatch, what))
}

fn starts_with_https(url: &str) -> bool {
    let start = url.get(..HTTPS.len()).unwrap_or_default();
    start.eq_ignore_ascii_case(HTTPS)
}

const HTTPS: &str = "https://";

/// The request that is explained, as it is read: without the port, the path resolved.
struct Asked<'a> {
    host: Option<Host<'a>>,
    /// Of the URL, if there is one.
    port: Option<u16>,
    /// Whether it is an https one.
    secure: Option<bool>,
    method: &'a str,
    target: &'a str,
    path: &'a str,
}

impl<'a> Asked<'a> {
    fn of(question: &'a Question, room: &'a mut Vec<u8>) -> Result<Asked<'a>, Refused> {
        let method = question.method.as_str();
        // What stands behind a # is for the browser alone.
        let url = question.url.as_deref();
        let url = url.map(|url| url.split('#').next().unwrap_or_default());
        let text = url.or(question.path.as_deref()).unwrap_or("/");
        let refused = |refusal: Refusal| match refusal.status {
            405 => invalid(&format!(
                "{} is not served: the answer would be 405",
                refusal.what
            )),
            _ => invalid(refusal.what),
        };
        let target = target::resolve(method.as_bytes(), text.as_bytes(), room).map_err(refused)?;
        let host = match (&question.hostname, target.authority) {
            (Some(name), None) => Some(host::parse(name.as_bytes()).map_err(invalid)?),
            (_, authority) => authority,
        };
        let secure = url.map(starts_with_https);
        let default = match secure {
            Some(true) => HTTPS_PORT,
            _ => HTTP_PORT,
        };
        let port = target.authority.map(|host| host.port.unwrap_or(default));
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| invalid("no ASCII"));
        Ok(Asked {
            host,
            port,
            secure,
            method,
            target: text(target.bytes)?,
            path: text(target.routed)?,
        })
    }

    /// Of what speaks HTTP a host must be known.
    fn named_host(&self) -> Result<Host<'a>, Refused> {
        let nothing = || invalid("give url, or hostname: a request without one goes nowhere");
        self.host.ok_or_else(nothing)
    }

    /// It as a request that has no field but Host, read as a client's.
    fn read<T>(&self, reader: impl FnOnce(&Request, Head) -> T) -> Result<T, Refused> {
        let host = self.named_host()?;
        let name = String::from_utf8_lossy(host.name);
        let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
        let Asked { method, target, .. } = self;
        let text = format!("{method} {target} HTTP/1.1\r\nHost: {name}{port}\r\n\r\n");
        let mut fields = Box::<Fields>::default();
        let line = match http11::request(text.as_bytes(), 0, &mut fields) {
            Parse::Complete { line, .. } => line,
            Parse::Refused(refusal) => return Err(invalid(refusal.what)),
            Parse::Partial => return Err(invalid("no whole request")),
        };
        let head = Head {
            bytes: text.as_bytes(),
            lines: fields.as_slice(),
        };
        let mut room = Vec::new();
        let request = Request::of(&line, head, &mut room);
        let request = request.map_err(|refusal| invalid(refusal.what))?;
        Ok(reader(&request, head))
    }
}

/// The one that is given, or the only one that can be meant.
fn listener_meant(
    state: &State,
    given: Option<SocketAddr>,
    port: Option<u16>,
) -> Result<&Rc<Listener>, Refused> {
    if let Some(address) = given {
        let what = "no listener has this address: the connection would be refused";
        return state.listener(address).ok_or_else(|| missing(what.into()));
    }
    let all = state.listeners();
    let meant: Vec<&Rc<Listener>> = all
        .filter(|listener| port.is_none_or(|port| listener.address.port() == port))
        .collect();
    match (meant.as_slice(), port) {
        ([one], _) => Ok(one),
        ([], Some(port)) => Err(missing(format!(
            "no listener has port {port}: the connection would be refused; there is {}",
            names(state.listeners())
        ))),
        ([], None) => Err(missing("there is no listener: see listener add".into())),
        (several, _) => Err(invalid(&format!(
            "several listeners may be meant, {}: give one of them as listener=",
            names(several.iter().copied())
        ))),
    }
}

fn names<'a>(listeners: impl Iterator<Item = &'a Rc<Listener>>) -> String {
    let mut names: Vec<String> = listeners
        .take(NAMED_MAX + 1)
        .map(|listener| listener.address.to_string())
        .collect();
    if names.len() > NAMED_MAX {
        names[NAMED_MAX] = "others".into();
    }
    match names.is_empty() {
        true => "none".into(),
        false => names.join(", "),
    }
}

/// The frontend, the cluster and its backends; an error is what the client sees instead of one of these.
fn lead(
    state: &State,
    now: &Now,
    listener: &Listener,
    asked: &Asked,
    client: Option<IpAddr>,
    lines: &mut String,
) -> Result<(), Refused> {
    let (frontend, without) = match listener.protocol {
        Protocol::Http | Protocol::Https => {
            let what = "no frontend of this listener matches: the answer would be 404";
            let found = matching(state, listener, asked.named_host()?.name, asked);
            let found = found.ok_or_else(|| missing(what.into()))?;
            (found, "the answer would be 503")
        }
        Protocol::TlsPassthrough => {
            let what = "no frontend of this listener has the name: a client would be told so (unrecognized_name)";
            // A client may ask for no name at all.
            let name = asked.host.map_or(&b""[..], |host| host.name);
            let found = matching(state, listener, name, asked);
            let found = found.ok_or_else(|| missing(what.into()))?;
            (found, "the connection would be reset")
        }
        Protocol::Tcp => {
            let what =
                "no frontend leads from this listener to a cluster: the connection would be reset";
            let only = state.frontends_of(listener.address).next();
            let only = only.ok_or_else(|| missing(what.into()))?;
            (only, "the connection would be reset")
        }
        Protocol::Metrics => return metrics(asked),
    };
    *lines += &text_of([Change::FrontendAdd(frontend.clone())]);
    let actions = frontend.actions.as_ref();
    let acted = actions.map(|actions| act(actions, listener, asked, lines));
    let led = match (acted.transpose()?, &frontend.cluster) {
        (None | Some(false), Some(cluster)) => cluster,
        _ => return Ok(()),
    };
    if let Some(cluster) = state.cluster(led) {
        *lines += &text_of([Change::ClusterAdd(cluster.clone())]);
        *lines += &limit_lines(listener, cluster);
        let_in(cluster, client)?;
    }
    *lines += &(now.paused)(led);
    match candidates(state, now, listener, led, lines) {
        true => Ok(()),
        false => Err(missing(format!(
            "no backend of cluster {led} takes requests: {without}; add one, or make one ready with a weight"
        ))),
    }
}

/// What a frontend does with it. True: the client has its answer then.
fn act(
    actions: &Rc<Actions>,
    listener: &Listener,
    asked: &Asked,
    lines: &mut String,
) -> Result<bool, Refused> {
    // Here nobody has a password: what comes behind it is shown.
    let mut open = (**actions).clone();
    let auth = open.basic_auth.take();
    let door = Door::new(Rc::new(listener.clone()), None);
    let answer = asked.read(|request, head| {
        let asked = action::Asked {
            request,
            head,
            door: &door,
            now_us: 0,
        };
        action::answer(&open, &asked, &mut Proofs::new([0; 32]), &mut Vec::new())
    })?;
    let answer = answer.map_err(|refusal| invalid(refusal.what))?;
    let first = answer
        .as_ref()
        .is_some_and(|it| it.what == action::TO_HTTPS);
    if let Some(auth) = auth.filter(|_| !first) {
        let pairs = [
            ("realm", auth.realm.to_string()),
            ("without", "the answer would be 401".to_string()),
        ];
        *lines += &reply::data("password", &pairs);
    }
    if let Some(answer) = answer {
        let mut pairs = vec![
            ("status", answer.status.to_string()),
            ("why", answer.what.to_string()),
        ];
        pairs.extend(answer.location.map(|url| ("location", url)));
        *lines += &reply::data("answer", &pairs);
        return Ok(true);
    }
    let (first, rest) = open.rewritten(asked.target.as_bytes());
    let target = String::from_utf8_lossy(&[first, rest].concat()).into_owned();
    let mut pairs = Vec::new();
    pairs.extend((target != asked.target).then_some(("target", target)));
    pairs.extend(open.set_host.map(|host| ("host", host.to_string())));
    if !pairs.is_empty() {
        *lines += &reply::data("rewritten", &pairs);
    }
    Ok(false)
}

/// A listener that leads nowhere, and answers by itself.
fn metrics(asked: &Asked) -> Result<(), Refused> {
    match (asked.path, asked.method) {
        ("/metrics", "GET" | "HEAD") => Ok(()),
        ("/metrics", _) => Err(invalid(
            "this listener serves the metrics, which are only read: the answer would be 405",
        )),
        _ => Err(missing(
            "this listener serves the metrics, and only /metrics: the answer would be 404".into(),
        )),
    }
}

fn matching<'s>(
    state: &'s State,
    listener: &Listener,
    hostname: &[u8],
    asked: &Asked,
) -> Option<&'s Frontend> {
    let mut router = Router::default();
    // Only what can match: main does not look at 100,000 frontends for one question.
    let rules = rules_for(hostname);
    for rule in &rules {
        for frontend in state.frontends_at(listener.address, rule) {
            let identity = &frontend.identity;
            let (path, method) = (&identity.path, identity.method.as_deref());
            router.insert(&identity.hostname, path, method, Rc::clone(identity));
        }
    }
    let found = router.find(hostname, asked.path.as_bytes(), asked.method.as_bytes());
    found.and_then(|identity| state.frontend(identity))
}

/// The hostnames of frontends that take this one.
fn rules_for(hostname: &[u8]) -> Vec<HostRule> {
    let mut room = [0; 256];
    let name = String::from_utf8_lossy(host::normalize(hostname, &mut room)).into_owned();
    let suffix = name.split_once('.').map(|(_, suffix)| suffix.into());
    let suffix = suffix.map(HostRule::Suffix);
    let exact = HostRule::Exact(name.into());
    let rules = [Some(exact), suffix, Some(HostRule::Any)];
    rules.into_iter().flatten().collect()
}

/// What is believed of a client, and what the backend is told of it.
fn client_lines(
    state: &State,
    listener: &Listener,
    client: IpAddr,
    asked: &Asked,
) -> Result<String, Refused> {
    let trusted = listener.trusts(client);
    let believed = match (listener.protocol, trusted) {
        (Protocol::Metrics, _) => "nothing is read, and there is no backend",
        (Protocol::Tcp | Protocol::TlsPassthrough, _) => "nothing is read, and the backend is told nothing: bytes pass as they are",
        (Protocol::Http | Protocol::Https, true) => "X-Forwarded-Proto, -Host, -Port and X-Request-Id pass if it sends them; our entry goes behind its X-Forwarded-For and Forwarded",
        (Protocol::Http | Protocol::Https, false) => "its X-Forwarded-Proto, -Host, -Port and X-Request-Id are replaced; our entry goes behind its X-Forwarded-For and Forwarded",
    };
    let pairs = [
        ("address", client.to_string()),
        ("trusted", trusted.to_string()),
        ("believed", believed.to_string()),
    ];
    let mut lines = reply::data("client", &pairs);
    if matches!(listener.protocol, Protocol::Http | Protocol::Https) {
        for (field, value) in told(state, listener, client, trusted, asked)? {
            let pairs = [("field", field), ("value", value)];
            lines += &reply::data("told", &pairs);
        }
    }
    Ok(lines)
}

/// The fields of the head that a backend gets for a request that has none but Host.
fn told(
    state: &State,
    listener: &Listener,
    client: IpAddr,
    trusted: bool,
    asked: &Asked,
) -> Result<Vec<(String, String)>, Refused> {
    let frontend = matching(state, listener, asked.named_host()?.name, asked);
    let edge = Edge {
        client,
        trusted,
        listener: listener.address,
        secure: listener.protocol == Protocol::Https,
        request_id: b"(32 hexadecimal digits)",
        identity: identity_told(listener),
        actions: frontend.and_then(|frontend| frontend.actions.as_deref()),
        cookie: None,
    };
    let mut out = Vec::new();
    asked.read(|request, head| rewrite::request(request, head, edge, &mut out))?;
    let out = String::from_utf8_lossy(&out).into_owned();
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_string(), value.to_string()))
    };
    Ok(out.lines().skip(1).filter_map(pair).collect())
}

/// In place of what depends on the client's certificate.
fn identity_told(listener: &Listener) -> &'static [u8] {
    match listener.tls.as_ref().and_then(|tls| tls.client.as_ref()) {
        None => b"",
        Some(_) => b"Client-Cert: (its certificate)\r\nX-SSL-Client-S-DN: (the subject of it)\r\nX-SSL-Client-Verify: SUCCESS, or NONE without one\r\n",
    }
}

fn missing(what: String) -> Refused {
    Refused::new(Code::Missing, what)
}

fn invalid(what: &str) -> Refused {
    Refused::new(Code::Invalid, format!("explain: {what}"))
}
