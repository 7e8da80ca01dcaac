//! What is configured: listeners, certificates, clusters, frontends, backends.
//!
//! A `State` is a value: it is built by applying `Change`s, compared with
//! another one, and written down as the changes that rebuild it. Main owns the
//! true one; every worker follows it. It knows no descriptor, clock or file.
//!
//! Objects never change once they are made, and are shared: by the state, the
//! changes that lead to it or back, and a second state that is nearly the same
//! (what the configuration file says). So a copy of a state costs its index.
//!
//! `config` and `proto` make the values, `supervisor` and `worker` apply them.

mod action;
mod address;
mod certificate;
mod check;
mod client;
mod dump;
mod edit;
mod names;
mod quota;
mod rule;
#[cfg(test)]
pub mod sample;
mod store;
mod users;

pub use action::{Actions, Own, Template, Wanted, PREFIX_FIELD};
pub use address::{no_port, Address};
pub use certificate::{Certificate, Facts, OwnCertificate, Paths, Secret};
pub use check::{Ask, Check, Statuses};
pub use client::{ClientAuth, Crls};
pub use edit::{is_same, Edits, Heads};
pub use quota::{longest_body, Quota};
pub use rule::check_path;
pub use store::{no_backend, State};
pub use users::{BasicAuth, Users};

use crate::limits::ERROR_CHARS_MAX;
use crate::parser::proxy_protocol;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// What a listener speaks with its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Https,
    Tcp,
    /// TLS that backends speak: only the host that is asked for is read.
    TlsPassthrough,
    /// Answers with the metrics, and leads nowhere.
    Metrics,
}

impl Protocol {
    pub const ALL: [Protocol; 5] = [
        Protocol::Http,
        Protocol::Https,
        Protocol::Tcp,
        Protocol::TlsPassthrough,
        Protocol::Metrics,
    ];

    pub fn of(name: &str) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|one| one.name() == name)
    }

    /// What clusters speak to which such a listener leads.
    pub fn behind(self) -> Protocol {
        match self {
            Protocol::Https => Protocol::Http,
            Protocol::TlsPassthrough => Protocol::Tcp,
            other => other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Tcp => "tcp",
            Protocol::TlsPassthrough => "tls_passthrough",
            Protocol::Metrics => "metrics",
        }
    }
}

/// How a cluster chooses among its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalancing {
    RoundRobin,
    Random,
    LeastConn,
    PowerOfTwo,
    LeastTime,
    Hash,
}

impl LoadBalancing {
    pub const ALL: [LoadBalancing; 6] = [
        LoadBalancing::RoundRobin,
        LoadBalancing::Random,
        LoadBalancing::LeastConn,
        LoadBalancing::PowerOfTwo,
        LoadBalancing::LeastTime,
        LoadBalancing::Hash,
    ];

    pub fn name(self) -> &'static str {
        match self {
            LoadBalancing::RoundRobin => "round_robin",
            LoadBalancing::Random => "random",
            LoadBalancing::LeastConn => "least_conn",
            LoadBalancing::PowerOfTwo => "power_of_two",
            LoadBalancing::LeastTime => "least_time",
            LoadBalancing::Hash => "hash",
        }
    }
}

/// What requests have in common that go to the same backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The address that they come from.
    Source,
    Path,
    /// The value of the field with that name, in any case.
    Header(Box<str>),
    Cookie(Box<str>),
}

/// How requests are given to the backends of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancing {
    pub policy: LoadBalancing,
    pub hash_on: Part,
    /// A cookie keeps clients at their backends.
    pub sticky: bool,
    /// Seconds for which a backend that comes back warms up.
    pub slow_start: u32,
    /// Requests that wait in a worker while all backends are full, and for how many seconds.
    pub max_queue: u32,
    pub queue_timeout: u32,
}

/// Time limits of a listener, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A client silent inside a message.
    pub front: u32,
    /// A backend silent inside a message.
    pub back: u32,
    /// A connection to a backend not yet made.
    pub connect: u32,
    /// A request head, from its first byte to its last.
    pub request: u32,
    /// A client connection between two requests.
    pub keepalive: u32,
    /// A tunnel (TCP, WebSocket) with no byte in either direction.
    pub tunnel: u32,
}

/// The names that a certificate stands for.
pub type Names = std::sync::Arc<[HostRule]>;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// As OpenSSL spells it.
    pub fn name(self) -> &'static str {
        match self {
            TlsVersion::Tls12 => "TLSv1.2",
            TlsVersion::Tls13 => "TLSv1.3",
        }
    }
}

/// By which rules a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub versions: Vec<TlsVersion>,
    /// OpenSSL's names of what TLS 1.2 may use, and of what TLS 1.3 may.
    pub cipher_list: String,
    pub cipher_suites: String,
    /// For the exchange of keys, the dearest first.
    pub groups: String,
    /// Names that no certificate has are refused.
    pub strict_sni: bool,
    /// Clients are asked for certificates of their own.
    pub client: Option<ClientAuth>,
}

/// A range of addresses: `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    pub address: std::net::IpAddr,
    pub prefix: u8,
}

/// Whether a backend takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    Ready,
    /// It finishes what it has, and is given nothing new.
    Drain,
    /// It is not there, as far as we are concerned.
    Down,
}

impl BackendState {
    pub fn name(self) -> &'static str {
        match self {
            BackendState::Ready => "ready",
            BackendState::Drain => "drain",
            BackendState::Down => "down",
        }
    }
}

/// An address we accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// A disabled one is not bound; what came in by it goes on.
    pub enabled: bool,
    pub timeouts: Timeouts,
    /// Name of the sticky-session cookie.
    pub sticky_name: String,
    /// Clients whose X-Forwarded-Proto, -Host, -Port and X-Request-Id are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Clients say in the PROXY protocol whom they speak for …
    pub expect_proxy: bool,
    /// … those from here, and nobody else; all, if it is empty.
    pub proxy_sources: Vec<Cidr>,
    /// What its clients may take.
    pub quota: Quota,
    /// Of an https one, and only of one.
    pub tls: Option<Tls>,
    /// Bodies of our own answers, by status.
    pub answers: BTreeMap<u16, String>,
}

/// Backends that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub id: Rc<str>,
    pub protocol: Protocol,
    pub balancing: Balancing,
    /// What its clients may take, beside what the listener says.
    pub quota: Quota,
    /// Backends are told in the PROXY protocol who the client is.
    pub send_proxy: Option<proxy_protocol::Version>,
    /// Its backends speak TLS.
    pub tls: Option<BackendTls>,
    /// They are asked whether they are well.
    pub check: Option<Check>,
    /// So many 5xx responses in a row have one left alone for a while; 0: however many.
    pub eject_5xx: u32,
    /// Bodies of our own answers, by status; they win over the listener's.
    pub answers: BTreeMap<u16, String>,
}

impl Cluster {
    pub fn own_certificate(&self) -> Option<&OwnCertificate> {
        self.tls.as_ref()?.own.as_ref()
    }
}

/// How TLS is spoken with the backends of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Whether a backend must prove that it is who it is taken for.
    pub verify: bool,
    /// The certificates that such a proof ends at, in PEM; `None`: those of the system.
    pub ca: Option<String>,
    /// Who backends are taken for; `None`: the host that is asked for.
    pub server_name: Option<Box<str>>,
    /// What they know us by, if they ask.
    pub own: Option<OwnCertificate>,
}

/// Which hostnames a frontend takes. Lower case, no port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRule {
    /// `www.example.com`
    Exact(Box<str>),
    /// `*.example.com`, kept as `example.com`: exactly one label more.
    Suffix(Box<str>),
    /// `*`; the only one of a tcp listener.
    Any,
}

/// Which paths a frontend takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRule {
    /// On a segment boundary: `/api` takes `/api` and `/api/x`, not `/apix`.
    Prefix(Box<str>),
    Exact(Box<str>),
}

/// A rule that leads from a listener to a cluster, or to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub identity: Rc<FrontendId>,
    /// `None`: it answers itself.
    pub cluster: Option<Rc<str>>,
    /// `None`: it does nothing else. Shared, because most of many frontends do the same.
    pub actions: Option<Rc<Actions>>,
}

/// What tells two frontends apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrontendId {
    pub listener: SocketAddr,
    pub hostname: HostRule,
    pub path: PathRule,
    /// `None` takes every method.
    pub method: Option<Box<str>>,
}

/// A server of a cluster. (cluster, id) is its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub cluster: Rc<str>,
    pub id: Rc<str>,
    pub address: Address,
    /// 0 to 256; 0 takes no new request.
    pub weight: u16,
    /// Used only when no other backend of the cluster can be.
    pub backup: bool,
    pub state: BackendState,
    /// Requests and tunnels at once.
    pub max_connections: Option<u32>,
    /// What the cookie of a sticky session calls it; `None`: as its id does.
    pub sticky_id: Option<Box<str>>,
}

/// One step from a state to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    ListenerAdd(Rc<Listener>),
    /// The one at this address becomes this.
    ListenerUpdate(Rc<Listener>),
    ListenerRemove {
        address: SocketAddr,
    },
    ClusterAdd(Rc<Cluster>),
    ClusterUpdate(Rc<Cluster>),
    ClusterRemove {
        id: Rc<str>,
    },
    FrontendAdd(Frontend),
    FrontendRemove {
        identity: Rc<FrontendId>,
    },
    BackendAdd(Rc<Backend>),
    BackendUpdate(Rc<Backend>),
    BackendRemove {
        cluster: Rc<str>,
        id: Rc<str>,
    },
    CertificateAdd(Rc<Certificate>),
    /// The one with that fingerprint goes, this one comes: nobody finds neither.
    CertificateReplace {
        fingerprint: Rc<str>,
        by: Rc<Certificate>,
    },
    CertificateRemove {
        listener: SocketAddr,
        fingerprint: Rc<str>,
    },
}

impl Change {
    /// The certificate that comes with it.
    pub fn certificate(&self) -> Option<&Rc<Certificate>> {
        match self {
            Change::CertificateAdd(certificate)
            | Change::CertificateReplace {
                by: certificate, ..
            } => Some(certificate),
            _ => None,
        }
    }

    /// The frontend that comes with it, and whom it lets in.
    pub fn basic_auth(&self) -> Option<(&Frontend, &BasicAuth)> {
        match self {
            Change::FrontendAdd(frontend) => {
                let actions = frontend.actions.as_ref()?;
                Some((frontend, actions.basic_auth.as_ref()?))
            }
            _ => None,
        }
    }

    /// The cluster that comes with it, and the certificate that backends are shown.
    pub fn own_certificate(&self) -> Option<(&Rc<Cluster>, &OwnCertificate)> {
        match self {
            Change::ClusterAdd(cluster) | Change::ClusterUpdate(cluster) => {
                Some((cluster, cluster.own_certificate()?))
            }
            _ => None,
        }
    }
}

/// Why something was refused, as one word of the control language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Syntax,
    Unknown,
    Invalid,
    Exists,
    Missing,
    InUse,
    Mismatch,
    Limit,
    Denied,
    Failed,
}

impl Code {
    pub const ALL: [Code; 10] = [
        Code::Syntax,
        Code::Unknown,
        Code::Invalid,
        Code::Exists,
        Code::Missing,
        Code::InUse,
        Code::Mismatch,
        Code::Limit,
        Code::Denied,
        Code::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Code::Syntax => "syntax",
            Code::Unknown => "unknown",
            Code::Invalid => "invalid",
            Code::Exists => "exists",
            Code::Missing => "missing",
            Code::InUse => "in_use",
            Code::Mismatch => "mismatch",
            Code::Limit => "limit",
            Code::Denied => "denied",
            Code::Failed => "failed",
        }
    }

    /// What the documents say of it.
    pub fn sentence(self) -> &'static str {
        match self {
            Code::Syntax => "The line is not one of this language.",
            Code::Unknown => "There is no such command or key.",
            Code::Invalid => "A key is missing, or does not take this value.",
            Code::Exists => "What is to be added is there already.",
            Code::Missing => "What is named is not there.",
            Code::InUse => "What is to be removed is needed by something else.",
            Code::Mismatch => "Two things do not go together.",
            Code::Limit => "There are too many already.",
            Code::Denied => "Who asks may not do this.",
            Code::Failed => "The system or a worker did not do what was asked.",
        }
    }
}

/// Something asked for and not done: nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    /// One sentence: what, where, what to do.
    pub what: String,
}

impl Refused {
    pub fn new(code: Code, what: impl AsRef<str>) -> Refused {
        let what = what.as_ref().chars().take(ERROR_CHARS_MAX).collect();
        Refused { code, what }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.what)
    }
}
