//! Every key of the configuration: name, kind, default, one sentence.
//!
//! The only place where a key is described. `config` and `proto` read by it,
//! `help` prints it, `tests/docs.rs` compares it with the documents.

use super::needs::Need;
use crate::limits::{CANARY_SECONDS_MAX, HEAD_BYTES_MAX, PAUSE_SECONDS_MAX, QUEUE_MAX};
use crate::limits::{CHECK_RUN_MAX, EJECT_RUN_MAX, TIMEOUT_SECONDS_MAX, WEIGHT_MAX};
use crate::quota::crowd::CONNECTIONS_MAX;
use crate::quota::rate::{BURST_MAX, RATE_MAX};

/// Statuses of the answers that the proxy gives itself.
pub const ANSWER_STATUSES: [u16; 18] = [
    400, 401, 403, 404, 405, 408, 413, 414, 417, 421, 429, 431, 500, 501, 502, 503, 504, 505,
];

pub struct Key {
    pub name: &'static str,
    /// Sōzu's name for it, where that is another one.
    pub also: Option<&'static str>,
    pub kind: Kind,
    pub default: Default,
    pub sentence: &'static str,
    /// Without that it does nothing.
    pub needs: Option<Need>,
}

/// Which values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int {
        min: u32,
        max: u32,
    },
    /// A time limit, at least 1.
    Seconds,
    /// Names a cluster, a backend, a cookie.
    Name,
    /// IP address and port.
    Address,
    /// The same, or a name and port, or the path of a unix socket.
    Server,
    /// An IP address without a port.
    Ip,
    Url,
    Hostname,
    Path,
    /// A path, with its query if there is one.
    Target,
    Method,
    /// A status, or a range of them.
    Statuses,
    /// Some characters that are looked for.
    Text,
    /// Words, and after each Sōzu's spelling of it.
    Choice(&'static [(&'static str, &'static str)]),
    /// A list of ranges of addresses.
    Ranges,
    /// A list of names.
    Names,
    /// Versions of TLS.
    Versions,
    /// Names as OpenSSL has them, the dearest first.
    Ciphers,
    /// Certificates or a key: a file in the configuration, the text itself in a command.
    Pem,
    /// Bodies by status: files in the configuration, the text itself in a command.
    Answers,
    /// The path of a file, in the configuration relative to its folder.
    File,
    /// Where a log goes.
    Sink,
    /// Levels per module, as in RUST_LOG.
    Levels,
    /// The value of Strict-Transport-Security.
    Hsts,
    /// Users and their hashes: a file in the configuration, the lines themselves in a command.
    Users,
    /// A body: a file in the configuration, the text itself in a command.
    Body,
    /// A URL with words in braces.
    Redirect,
    /// A status, and a text behind it.
    Answer,
    /// A host, and a port behind it.
    Authority,
    /// What a client calls that for which a password is needed.
    Realm,
    /// Changes of header fields, in a command with line ends between.
    Edits,
    /// A part of a request.
    Part,
}

impl Kind {
    /// What the documents call it.
    pub fn describe(self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Int { min, max: u32::MAX } => format!("integer from {min}"),
            Kind::Int { min, max } => format!("integer, {min} to {max}"),
            Kind::Seconds => "seconds".into(),
            Kind::Name => "name".into(),
            Kind::Address => "IP:port".into(),
            Kind::Server => "IP:port, name:port or unix:/path".into(),
            Kind::Ip => "IP".into(),
            Kind::Url => "URL".into(),
            Kind::Hostname => "hostname".into(),
            Kind::Path => "path".into(),
            Kind::Target => "path and query".into(),
            Kind::Method => "method".into(),
            Kind::Statuses => "status or range".into(),
            Kind::Text => "text".into(),
            Kind::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                words.join(" or ")
            }
            Kind::Ranges => "list of ranges".into(),
            Kind::Names => "list of names".into(),
            Kind::Versions => "list of TLSv1.2, TLSv1.3".into(),
            Kind::Ciphers => "names with colons between".into(),
            Kind::Pem => "PEM".into(),
            Kind::Answers => "text by status".into(),
            Kind::File => "file".into(),
            Kind::Sink => "stdout, stderr or file".into(),
            Kind::Levels => "levels".into(),
            Kind::Part => "source, path, header:NAME or cookie:NAME".into(),
            Kind::Hsts => {
                "max-age=SECONDS, includeSubDomains, preload, with semicolons between".into()
            }
            Kind::Users => "lines of user:hash".into(),
            Kind::Body => "text".into(),
            Kind::Redirect => "URL with {scheme} {host} {port} {path} {query}".into(),
            Kind::Answer => "status, and a text behind it".into(),
            Kind::Authority => "host or host:port".into(),
            Kind::Realm => "text".into(),
            Kind::Edits => "list of set NAME: VALUE, add NAME: VALUE, remove NAME".into(),
        }
    }
}

/// What holds when a key is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    Required,
    /// Nothing at all.
    Empty,
    Is(&'static str),
    /// The global key of the same name.
    Global,
    /// Required in a command; in the file the place says it.
    Implied(&'static str),
    /// Required in a command; in the file this, if it is left out.
    InFile(&'static str),
    /// A key of commands only, where it may be left out.
    InCommand,
    /// This for an https listener; others have no such key.
    Https(&'static str),
}

impl Default {
    /// What the documents call it.
    pub fn describe(self) -> &'static str {
        match self {
            Default::Required => "required",
            Default::Empty | Default::InCommand => "none",
            Default::Is(text) => text,
            Default::Global => "the global one",
            Default::Implied(text) | Default::InFile(text) | Default::Https(text) => text,
        }
    }
}

const fn key(name: &'static str, kind: Kind, default: Default, sentence: &'static str) -> Key {
    Key {
        name,
        also: None,
        kind,
        default,
        sentence,
        needs: None,
    }
}

impl Key {
    const fn also(mut self, name: &'static str) -> Key {
        self.also = Some(name);
        self
    }

    const fn needs(mut self, key: &'static str, values: &'static [&'static str]) -> Key {
        self.needs = Some(Need { key, values });
        self
    }

    /// Whether it goes by that name, be it Sōzu's.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.also == Some(name)
    }
}

const PROTOCOL: Kind = Kind::Choice(&[("http", "HTTP"), ("tcp", "TCP")]);
const LISTENER_PROTOCOL: Kind = Kind::Choice(&[
    ("http", "HTTP"),
    ("https", "HTTPS"),
    ("tcp", "TCP"),
    ("tls_passthrough", "TLS_PASSTHROUGH"),
    ("metrics", "METRICS"),
]);
const BALANCING: Kind = Kind::Choice(&[
    ("round_robin", "ROUND_ROBIN"),
    ("random", "RANDOM"),
    ("least_conn", "LEAST_LOADED"),
    ("power_of_two", "POWER_OF_TWO"),
    ("least_time", "LEAST_TIME"),
    ("hash", "HASH"),
]);
const BACKEND_STATE: Kind =
    Kind::Choice(&[("ready", "READY"), ("drain", "DRAIN"), ("down", "DOWN")]);
const FAMILY: Kind = Kind::Choice(&[("any", "ANY"), ("ipv4", "IPV4"), ("ipv6", "IPV6")]);
const STATUS: Kind = Kind::Choice(&[
    ("301", "MOVED_PERMANENTLY"),
    ("302", "FOUND"),
    ("303", "SEE_OTHER"),
    ("307", "TEMPORARY_REDIRECT"),
    ("308", "PERMANENT_REDIRECT"),
]);
const REDIRECT: Kind = Kind::Choice(&[("false", "FALSE"), ("301", "true"), ("308", "PERMANENT")]);
/// Sōzu knows whether, and writes version 2.
const SEND_PROXY: Kind = Kind::Choice(&[("none", "false"), ("v1", "V1"), ("v2", "true")]);
const CLIENT_AUTH: Kind = Kind::Choice(&[
    ("none", "NONE"),
    ("optional", "OPTIONAL"),
    ("required", "REQUIRED"),
]);
const HEALTH_CHECK: Kind = Kind::Choice(&[("none", "NONE"), ("tcp", "TCP"), ("http", "HTTP")]);
const CHECK_RUN: Kind = Kind::Int {
    min: 1,
    max: CHECK_RUN_MAX,
};
const PATH_TYPE: Kind = Kind::Choice(&[("prefix", "PREFIX"), ("exact", "EQUALS")]);
const ANY_COUNT: Kind = Kind::Int {
    min: 1,
    max: u32::MAX,
};

use self::Default::{Empty, Global, Https, Implied, InCommand, InFile, Is, Required};
use Kind::Part;
use Kind::{Address, Answers, Bool, Ciphers, File, Hostname, Hsts, Int, Ip, Levels, Method, Name};
use Kind::{Answer, Authority, Body, Edits, Realm, Redirect, Users};
use Kind::{
    Names, Path, Pem, Ranges, Seconds, Server, Sink, Statuses, Target, Text, Url, Versions,
};

/// At the top of the file.
#[rustfmt::skip]
pub static GLOBAL: &[Key] = &[
    key("command_socket", File, Is("command.sock"), "The unix socket on which commands are taken."),
    key("control_admin_groups", Names, Empty, "Groups of users who may do everything on command_socket, beside root and the user that runs sozu."),
    key("control_viewer_groups", Names, Empty, "Groups of users who may ask on command_socket, and change nothing."),
    key("saved_state", File, Empty, "The file in which the running state is kept over a restart."),
    key("save_secrets", Bool, Is("false"), "Whether the keys of certificates and the hashes of basic_auth are saved as well; if not, where they lie."),
    key("automatic_state_save", Bool, Is("false"), "Whether every change is written to saved_state at once.").needs("saved_state", &[]),
    key("log_level", Levels, Is("info"), "What is logged: off, error, warn, info, debug or trace, also per module, as in RUST_LOG."),
    key("log_target", Sink, Is("stdout"), "Where the log goes."),
    key("log_access_target", Sink, Empty, "Where the lines about requests go, \"none\" for nowhere; they go to log_target if it is not given."),
    key("user", Name, Empty, "Whom workers become when root starts sozu, a name or a number; nobody if it is not given."),
    key("group", Name, Empty, "Their group; that of the user if it is not given."),
    key("sandbox_allow_missing", Names, Empty, "What workers may lack of their sandbox where the machine does not have it: chroot, user, landlock, seccomp."),
    key("key_process", Bool, Is("true"), "Whether a process of their own has the private keys and signs for workers; without it every worker has them all."),
    key("resolve_interval", Seconds, Is("10"), "How often names of backends are asked for again."),
    key("resolve_family", FAMILY, Is("any"), "Which addresses of a name are used."),
    key("worker_count", Int { min: 1, max: 64 }, Is("2"), "How many processes carry the traffic; a reload starts more, or has some hand over and end."),
    key("max_connections", ANY_COUNT, Empty, "Most client connections of one worker; if it is not given, what the limit on open files allows."),
    key("buffer_size", Int { min: HEAD_BYTES_MAX as u32, max: 1024 * 1024 }, Is("16384"), "Bytes of one buffer; a head lies in one, hence not less than the longest head."),
    key("max_buffers", ANY_COUNT, Empty, "Most buffers of one worker; if it is not given, 8192."),
    key("front_timeout", Seconds, Is("60"), "How long a client may be silent inside a message."),
    key("back_timeout", Seconds, Is("60"), "How long a backend may be silent inside a message."),
    key("connect_timeout", Seconds, Is("3"), "How long connecting to a backend may take."),
    key("request_timeout", Seconds, Is("10"), "How long a request head may take from its first byte to its last; a ClientHello too, with tls_passthrough."),
    key("keepalive_timeout", Seconds, Is("60"), "How long a client connection may be idle between two requests."),
    key("tunnel_timeout", Seconds, Is("3600"), "How long a tunnel (TCP, WebSocket) may be silent in both directions."),
    key("back_keepalive_timeout", Seconds, Is("4"), "How long an idle backend connection is kept; less than what the backend keeps it."),
    key("worker_timeout", Seconds, Is("10"), "How long a worker may not answer before it is replaced. A change waits for such a worker for that long and a half at most."),
    key("drain_timeout", Seconds, Is("3600"), "How long an old worker may go on with its connections once another has taken over."),
    key("shutdown_timeout", Seconds, Is("60"), "How long connections may go on after a soft shutdown."),
    key("acme_challenges", File, Empty, "The folder into which certbot or acme.sh puts its answers; http listeners give them, before any frontend."),
];

/// In `[[listeners]]`, and in `listener add`.
#[rustfmt::skip]
pub static LISTENER: &[Key] = &[
    key("address", Address, Required, "The address to accept on."),
    key("protocol", LISTENER_PROTOCOL, Required, "What clients speak; with tls_passthrough backends speak TLS, and the name that is asked for says which; metrics answers GET /metrics for Prometheus, and takes no frontends."),
    key("enabled", Bool, Is("true"), "Whether it accepts; a disabled one is not bound."),
    key("front_timeout", Seconds, Global, "How long a client may be silent inside a message."),
    key("back_timeout", Seconds, Global, "How long a backend may be silent inside a message."),
    key("connect_timeout", Seconds, Global, "How long connecting to a backend may take."),
    key("request_timeout", Seconds, Global, "How long a request head may take from its first byte to its last; a ClientHello too, with tls_passthrough."),
    key("keepalive_timeout", Seconds, Global, "How long a client connection may be idle between two requests."),
    key("tunnel_timeout", Seconds, Global, "How long a tunnel (TCP, WebSocket) may be silent in both directions."),
    key("sticky_name", Name, Is("SOZUBALANCEID"), "The name of the cookie for sticky sessions."),
    key("trusted_proxies", Ranges, Empty, "Clients whose X-Forwarded-Proto, -Host, -Port and X-Request-Id are believed."),
    key("expect_proxy", Bool, Is("false"), "Whether clients are proxies that say first, in the PROXY protocol (version 1 or 2), whom they speak for."),
    key("proxy_sources", Ranges, Empty, "From where clients say so, and have to; others speak for themselves. If it is not given, all have to.").needs("expect_proxy", &["true"]),
    key("allow", Ranges, Empty, "Clients that may come; others are closed at once. If it is not given, all may."),
    key("deny", Ranges, Empty, "Clients that may not come, even if they are in allow."),
    key("max_connections_per_ip", Int { min: 1, max: CONNECTIONS_MAX }, Empty, "Most connections of one client, an IPv4 address or IPv6 /64, over all workers; more are closed at once."),
    key("request_rate", Int { min: 1, max: RATE_MAX }, Empty, "Most requests a second of one client, over all workers; more are answered 429."),
    key("request_burst", Int { min: 1, max: BURST_MAX }, Empty, "How many requests of one client may come at once; if it is not given, those of a second.").needs("request_rate", &[]),
    key("max_body", ANY_COUNT, Empty, "Most bytes of a request's body; a longer one is answered 413."),
    key("min_rate", ANY_COUNT, Empty, "Fewest bytes a second that a client sends of a request's body, or takes of a response, while it is waited for."),
    key("tls_versions", Versions, Https("TLSv1.2,TLSv1.3"), "Which versions of TLS it speaks."),
    key("cipher_list", Ciphers, Https(CIPHER_LIST), "What TLS 1.2 may encrypt with."),
    key("cipher_suites", Ciphers, Https(CIPHER_SUITES), "What TLS 1.3 may encrypt with."),
    key("groups", Ciphers, Https("X25519:P-256:P-384"), "By which groups keys are exchanged, the dearest first.").also("groups_list"),
    key("strict_sni", Bool, Https("false"), "Whether a client is refused that asks for a name without a certificate, or for none."),
    key("client_auth", CLIENT_AUTH, Https("none"), "Whether clients are asked for a certificate of their own: with optional they may have none, a wrong one is refused."),
    key("client_ca", Pem, Empty, "The certificates that a proof of such a certificate ends at."),
    key("client_crl", Pem, Empty, "Lists of what these have revoked; with them each issuer of a client's certificate must have one that is good now."),
    key("answers", Answers, Empty, "Bodies of our own answers."),
];

/// Mozilla's intermediate profile, version 5.7, without its DHE.
const CIPHER_LIST: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const CIPHER_SUITES: &str =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// In `[[certificates]]`, and in `certificate add`.
#[rustfmt::skip]
pub static CERTIFICATE: &[Key] = &[
    key("listener", Address, Required, "The address of the https listener that shows it.").also("address"),
    key("certificate", Pem, Required, "The certificate, and what leads from it to a root if that stands in the same file."),
    key("certificate_chain", Pem, Empty, "What leads from it to a root, each certificate issued by the next."),
    key("key", Pem, Required, "Its private key, without a password."),
    key("certificate_path", File, InCommand, "Where the certificate was read: what is saved without the key is read from there again."),
    key("certificate_chain_path", File, InCommand, "Where the chain was read."),
    key("key_path", File, InCommand, "Where the key was read."),
    key("default", Bool, Is("false"), "Whether clients see it that ask for no name, or for one without a certificate; if none is the default, the first by its names is."),
];

/// What a listener and a frontend of the file take as well: a certificate of that listener.
#[rustfmt::skip]
pub static CERTIFICATE_HERE: &[Key] = &[
    key("certificate", Pem, Empty, "A certificate of that listener."),
    key("certificate_chain", Pem, Empty, "What leads from it to a root."),
    key("key", Pem, Empty, "Its private key."),
];

/// In `certificate replace` and `certificate remove`.
#[rustfmt::skip]
pub static FINGERPRINT: &[Key] = &[
    key("fingerprint", Name, Required, "SHA-256 of the certificate that goes, in hexadecimal, as certificate list prints it."),
];

/// In `certificate list`.
#[rustfmt::skip]
pub static OF_LISTENER: &[Key] = &[
    key("listener", Address, Empty, "Only those of this listener.").also("address"),
];

/// In `state dump`.
#[rustfmt::skip]
pub static SECRETS: &[Key] = &[
    key("secrets", Bool, Is("false"), "With the keys of certificates and the hashes of basic_auth, for who may change things."),
];

/// In `[clusters.NAME]`, and in `cluster add`.
#[rustfmt::skip]
pub static CLUSTER: &[Key] = &[
    key("id", Name, Implied("the NAME of the table"), "The name of the cluster."),
    key("protocol", PROTOCOL, Is("http"), "What its backends speak."),
    key("load_balancing", BALANCING, Is("round_robin"), "How a backend is chosen for a request.").also("load_balancing_policy"),
    key("hash_on", Part, Is("source"), "What hash goes by: requests alike in it go to the same backend; what has no such header or cookie goes by its source.").needs("load_balancing", &["hash"]),
    key("sticky_session", Bool, Is("false"), "Whether a client is kept at its backend by a cookie, sticky_name of the listener.").also("sticky_sessions").needs("protocol", &["http"]),
    key("slow_start", Int { min: 0, max: TIMEOUT_SECONDS_MAX }, Is("0"), "For so many seconds the weight of a backend grows that was added or came back."),
    key("max_queue", Int { min: 0, max: QUEUE_MAX }, Is("1024"), "How many requests of one worker wait at most while all backends have max_connections."),
    key("queue_timeout", Seconds, Is("5"), "How long one may wait there, before it is answered 503."),
    key("allow", Ranges, Empty, "Clients that may come; others are answered 403, for TCP reset. If it is not given, all may."),
    key("deny", Ranges, Empty, "Clients that may not come, even if they are in allow."),
    key("request_rate", Int { min: 1, max: RATE_MAX }, Empty, "Most requests a second of one client, over all workers; more are answered 429."),
    key("request_burst", Int { min: 1, max: BURST_MAX }, Empty, "How many requests of one client may come at once; if it is not given, those of a second.").needs("request_rate", &[]),
    key("max_body", ANY_COUNT, Empty, "Most bytes of a request's body; it wins over the listener's."),
    key("send_proxy", SEND_PROXY, Is("none"), "Whether backends are told first, in this version of the PROXY protocol, who the client is."),
    key("tls", Bool, Is("false"), "Whether TLS is spoken with its backends."),
    key("tls_verify", Bool, Is("true"), "Whether a backend must prove by a certificate that it is who it is taken for.").needs("tls", &["true"]),
    key("tls_ca", Pem, Empty, "The certificates that such a proof ends at; if it is not given, those of the system.").needs("tls", &["true"]),
    key("tls_server_name", Hostname, Empty, "Who backends are taken for, a name or an IP; if it is not given, the host that is asked for.").needs("tls", &["true"]),
    key("tls_certificate", Pem, Empty, "The certificate that backends know us by, if they ask for one, and behind it what leads from it to a root.").needs("tls", &["true"]),
    key("tls_key", Pem, Empty, "Its private key, without a password."),
    key("tls_certificate_path", File, InCommand, "Where this certificate was read: what is saved without the key is read from there again."),
    key("tls_key_path", File, InCommand, "Where this key was read."),
    key("health_check", HEALTH_CHECK, Is("none"), "How its backends are asked whether they are well: by a connection, or by a GET on one; those that are not are left alone."),
    key("health_path", Target, Is("/"), "What the GET asks for.").needs("health_check", &["http"]),
    key("health_host", Hostname, Empty, "Its Host, and under TLS whom a backend is taken for if there is no tls_server_name; if it is not given, the backend's address.").needs("health_check", &["tcp", "http"]),
    key("health_status", Statuses, Is("200-399"), "Which status the answer must have.").needs("health_check", &["http"]),
    key("health_body", Text, Empty, "What the first 4 KiB of the answer's body must hold.").needs("health_check", &["http"]),
    key("health_interval", Seconds, Is("10"), "How often a backend is asked.").needs("health_check", &["tcp", "http"]),
    key("health_timeout", Seconds, Is("3"), "How long it may take until it has answered.").needs("health_check", &["tcp", "http"]),
    key("health_rise", CHECK_RUN, Is("2"), "After so many good answers in a row it is up again.").needs("health_check", &["tcp", "http"]),
    key("health_fall", CHECK_RUN, Is("3"), "After so many bad ones in a row it is down.").needs("health_check", &["tcp", "http"]),
    key("eject_5xx", Int { min: 0, max: EJECT_RUN_MAX }, Is("0"), "After so many 5xx responses in a row a worker leaves a backend alone for a while; 0 for never."),
    key("answers", Answers, Empty, "Bodies of our own answers; they win over the listener's."),
];

/// In `frontends` of a cluster, and in `frontend add`. All but `cluster` is its identity.
#[rustfmt::skip]
pub static FRONTEND: &[Key] = &[
    key("listener", Address, Required, "The address of the listener.").also("address"),
    key("hostname", Hostname, Is("*"), "The host that is asked for: exact, \"*.suffix\" for one label more, or \"*\" for every one."),
    key("path", Path, Is("/"), "The path that is asked for."),
    key("path_type", PATH_TYPE, Is("prefix"), "Whether everything below the path is meant too."),
    key("method", Method, Empty, "The method that is asked for; every one if it is not given."),
    key("cluster", Name, Implied("the cluster it stands in"), "The cluster that serves it; with redirect, answer or deny there may be none."),
    key("https_redirect", REDIRECT, Is("false"), "Whether, and with which status, requests that do not come by TLS are sent to https."),
    key("https_port", Int { min: 1, max: 65535 }, Is("443"), "The port to which https_redirect sends them.").needs("https_redirect", &["301", "308"]),
    key("hsts", Hsts, Empty, "The value of Strict-Transport-Security, put on responses over TLS."),
    key("deny", Bool, Is("false"), "Whether everybody is answered 403."),
    key("basic_auth", Users, Empty, "Who is let in, by name and password; the hashes are SHA-crypt ($5$, $6$). Others are answered 401."),
    key("basic_auth_path", File, InCommand, "Where these lines were read: what is saved without them is read from there again."),
    key("basic_auth_fingerprint", Name, InCommand, "SHA-256 of these lines in hexadecimal: what they are known by where they are left out."),
    key("realm", Realm, Empty, "For what clients say they need a password; restricted if it is not given."),
    key("redirect", Redirect, Empty, "Where clients are sent instead of to a backend; a word in braces stands for that part of what they asked for."),
    key("redirect_status", STATUS, Is("302"), "The status with which they are sent there.").needs("redirect", &[]),
    key("answer", Answer, Empty, "What clients are answered instead of by a backend; without a text it is the page of that status."),
    key("answer_body", Body, Empty, "The text of answer, if it is not there.").needs("answer", &[]),
    key("strip_prefix", Path, Empty, "The beginning of the path that backends do not see; they are told of it in X-Forwarded-Prefix."),
    key("add_prefix", Path, Empty, "What is put before the path for backends."),
    key("set_host", Authority, Empty, "The host that backends are asked for; X-Forwarded-Host says which one the client asked for."),
    key("request_headers", Edits, Empty, "What is done to the header fields of requests."),
    key("response_headers", Edits, Empty, "The same for responses, our own answers among them."),
];

/// In `backends` of a cluster, and in `backend add`.
#[rustfmt::skip]
pub static BACKEND: &[Key] = &[
    key("cluster", Name, Implied("the cluster it stands in"), "The cluster that it serves."),
    key("id", Name, InFile("NAME-0, NAME-1 and so on, by order"), "The name of the backend in its cluster.").also("backend_id"),
    key("address", Server, Required, "Where it listens. A name stands for all addresses that it has, each a backend of its own."),
    key("weight", Int { min: 0, max: WEIGHT_MAX as u32 }, Is("100"), "Its share of the requests; 0 for none."),
    key("backup", Bool, Is("false"), "Whether it is used only when no other backend can be."),
    key("state", BACKEND_STATE, Is("ready"), "Whether it takes requests: drain finishes what it has, down is as good as not there."),
    key("max_connections", Int { min: 1, max: u32::MAX }, Empty, "How many requests and tunnels it has at once; others wait in the queue of the cluster."),
    key("sticky_id", Name, Empty, "What the cookie of a sticky session calls it; if it is not given, its id."),
];

/// In `… update`, beside the keys of the object.
#[rustfmt::skip]
pub static UNSET: Key = key("unset", Names, Empty, "Keys that are to be as if they had never been given, with commas between.");

/// In `commit`.
#[rustfmt::skip]
pub static COMMIT: &[Key] = &[
    key("revision", Int { min: 0, max: u32::MAX }, Empty, "Commits only if nobody else has since this revision."),
    key("confirm", Seconds, Empty, "Undoes it after so long, unless confirm comes before."),
];

/// In `cluster pause`.
#[rustfmt::skip]
pub static PAUSE: &[Key] = &[
    key("id", Name, Required, "The name of the cluster."),
    key("max", Int { min: 1, max: PAUSE_SECONDS_MAX }, Required, "After so many seconds it is over by itself."),
];

/// In `name refresh`.
#[rustfmt::skip]
pub static NAME: &[Key] = &[
    key("name", Hostname, Empty, "Only this one."),
];

/// In what takes a backend from service.
#[rustfmt::skip]
pub static WAIT: &[Key] = &[
    key("wait", Seconds, Empty, "Answers when it has no connection left, or after so long."),
];

/// In `shutdown`.
#[rustfmt::skip]
pub static SHUTDOWN: &[Key] = &[
    key("timeout", Seconds, Empty, "How long connections may go on; shutdown_timeout if it is not given."),
];

/// In `upgrade`.
#[rustfmt::skip]
pub static UPGRADE: &[Key] = &[
    key("binary", File, Empty, "The program to go on with, as a whole path; the file that this one was started from if it is not given."),
    key("canary", Int { min: 1, max: CANARY_SECONDS_MAX }, Empty, "For so many seconds the first new worker runs beside the old ones, and is compared with them."),
];

/// In `worker restart`.
#[rustfmt::skip]
pub static WORKER: &[Key] = &[
    key("id", Int { min: 0, max: 63 }, Required, "The number of the worker."),
];

/// In `metrics`.
#[rustfmt::skip]
pub static METRICS: &[Key] = &[
    key("cluster", Name, Empty, "Only this cluster and its backends."),
];

/// In `logging`.
#[rustfmt::skip]
pub static LOGGING: &[Key] = &[
    key("level", Levels, Required, "What is logged, as in log_level."),
];

/// In `explain`.
#[rustfmt::skip]
pub static EXPLAIN: &[Key] = &[
    key("url", Url, Empty, "What it asks for, as a whole; its port says which listener is meant."),
    key("listener", Address, Empty, "The address that the request comes in by; needed if there are several that may be meant."),
    key("hostname", Name, Empty, "The host that it asks for, if there is no url."),
    key("path", Path, Empty, "The path that it asks for, if there is no url; / if it is not given."),
    key("method", Method, Is("GET"), "Its method."),
    key("client", Ip, Empty, "The address that it comes from: what the backend is told of it is shown."),
];

/// In `connections list` and `connections kill`.
#[rustfmt::skip]
pub static CONNECTIONS: &[Key] = &[
    key("id", Name, Empty, "The one of this id, as connections list prints it."),
    key("worker", Int { min: 0, max: 63 }, Empty, "Those that this worker carries."),
    key("listener", Address, Empty, "Those that came in by this address."),
    key("cluster", Name, Empty, "Those whose request or tunnel leads to this cluster."),
    key("backend", Name, Empty, "Those whose request or tunnel uses the backend of this name."),
    key("client", Ranges, Empty, "Those that come from this address, or one of this range."),
    key("older", Seconds, Empty, "Those that are at least so old."),
];

/// `answer_404`: the one spelling of a status as a key of its own.
pub fn answer_status(name: &str) -> Option<u16> {
    let status = name.strip_prefix("answer_")?;
    status_of(status)
}

/// A status that we answer with, from its three digits.
pub fn status_of(text: &str) -> Option<u16> {
    let mut statuses = ANSWER_STATUSES.into_iter();
    statuses.find(|status| status.to_string() == text)
}

/// The name nearest to a mistyped one, if any is near.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nothing longer can be near, and the distance costs the product of both lengths.
    if wrong.len() > 64 {
        return None;
    }
    let near = names.map(|name| (distance(wrong, name), name)).min()?;
    (near.0 <= 1 + wrong.len() / 4).then_some(near.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let kept = diagonal + usize::from(from != to);
            left = kept.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name() {
        let names = || BACKEND.iter().chain(FRONTEND).map(|key| key.name);
        assert_eq!(nearest("hostnam", names()), Some("hostname"));
        assert_eq!(nearest("wieght", names()), Some("weight"));
        assert_eq!(nearest("quite_different", names()), None);
        assert_eq!(nearest("", names()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
