//! The state itself and the rules that every change must keep.
//!
//! Owns: what exists, and that a frontend, backend or certificate never outlives
//! the listener or cluster that it names. Never: text. Called by whoever holds a
//! state: main, a worker, the reader of the configuration.

use super::*;
use crate::limits::{ID_BY_NAME_BYTES_MAX, STATE_OBJECTS_MAX, WEIGHT_MAX};
use crate::state::names::AT;
use std::net::IpAddr;

/// Everything that is configured, in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    listeners: BTreeMap<SocketAddr, Rc<Listener>>,
    /// By listener and fingerprint.
    certificates: BTreeMap<(SocketAddr, Rc<str>), Rc<Certificate>>,
    clusters: BTreeMap<Rc<str>, Entry>,
    frontends: BTreeMap<Rc<FrontendId>, Frontend>,
    backends: BTreeMap<BackendId, Rc<Backend>>,
    /// The ids of those with a sticky_id, by cluster and sticky_id.
    sticky_ids: BTreeMap<BackendId, Rc<str>>,
    /// What names of backends stand for: not configured, but heard.
    pub(super) names: BTreeMap<Rc<str>, Vec<IpAddr>>,
}

/// A cluster and how many frontends lead to it: counted here, because the
/// frontends are sorted by listener.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    cluster: Rc<Cluster>,
    frontends: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BackendId {
    cluster: Rc<str>,
    id: Rc<str>,
}

impl State {
    /// Does one change, or refuses it and stays as it was. Returns the change that undoes it.
    pub fn apply(&mut self, change: &Change) -> Result<Change, Refused> {
        match change {
            Change::ListenerAdd(listener) => self.listener_add(listener),
            Change::ListenerUpdate(listener) => self.listener_update(listener),
            Change::ListenerRemove { address } => self.listener_remove(*address),
            Change::ClusterAdd(cluster) => self.cluster_add(cluster),
            Change::ClusterUpdate(cluster) => self.cluster_update(cluster),
            Change::ClusterRemove { id } => self.cluster_remove(id),
            Change::FrontendAdd(frontend) => self.frontend_add(frontend),
            Change::FrontendRemove { identity } => self.frontend_remove(identity),
            Change::BackendAdd(backend) => self.backend_add(backend),
            Change::BackendUpdate(backend) => self.backend_update(backend),
            Change::BackendRemove { cluster, id } => self.backend_remove(cluster, id),
            Change::CertificateAdd(certificate) => self.certificate_add(certificate),
            Change::CertificateReplace { fingerprint, by } => {
                self.certificate_replace(fingerprint, by)
            }
            Change::CertificateRemove {
                listener,
                fingerprint,
            } => self.certificate_remove(*listener, fingerprint),
        }
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.listeners.values()
    }

    /// By listener, then fingerprint.
    pub fn certificates(&self) -> impl Iterator<Item = &Rc<Certificate>> {
        self.certificates.values()
    }

    /// The certificates of one listener, by fingerprint.
    pub fn certificates_of(&self, listener: SocketAddr) -> impl Iterator<Item = &Rc<Certificate>> {
        let later = self.certificates.range((listener, Rc::from(""))..);
        later
            .map(|(_, certificate)| certificate)
            .take_while(move |certificate| certificate.listener == listener)
    }

    pub fn certificate(&self, listener: SocketAddr, fingerprint: &str) -> Option<&Rc<Certificate>> {
        self.certificates.get(&(listener, fingerprint.into()))
    }

    /// A change of a certificate that has nothing left to do: who renews a file and the running
    /// state means both.
    pub fn has_already(&self, change: &Change) -> bool {
        match change {
            Change::CertificateAdd(new) => {
                self.certificate(new.listener, new.fingerprint()) == Some(new)
            }
            Change::CertificateRemove {
                listener,
                fingerprint,
            } => {
                let there = self.certificate(*listener, fingerprint).is_some();
                self.listener(*listener).is_some() && !there
            }
            _ => false,
        }
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Rc<Cluster>> {
        self.clusters.values().map(|entry| &entry.cluster)
    }

    /// By listener, then hostname, path and method.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.values()
    }

    /// By cluster, then id.
    pub fn backends(&self) -> impl Iterator<Item = &Rc<Backend>> {
        self.backends.values()
    }

    pub fn listener(&self, address: SocketAddr) -> Option<&Rc<Listener>> {
        self.listeners.get(&address)
    }

    pub fn cluster(&self, id: &str) -> Option<&Rc<Cluster>> {
        self.clusters.get(id).map(|entry| &entry.cluster)
    }

    pub fn frontend(&self, identity: &FrontendId) -> Option<&Frontend> {
        self.frontends.get(identity)
    }

    pub fn backend(&self, cluster: &str, id: &str) -> Option<&Rc<Backend>> {
        self.backends.get(&BackendId::new(cluster, id))
    }

    /// The backends of one cluster, by id.
    pub fn backends_of<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Rc<Backend>> {
        let first = BackendId::new(cluster, "");
        let later = self.backends.range(first..).map(|(_, backend)| backend);
        later.take_while(move |backend| *backend.cluster == *cluster)
    }

    /// The frontends of one listener, by hostname, path and method.
    pub fn frontends_of(&self, listener: SocketAddr) -> impl Iterator<Item = &Frontend> {
        let later = self.frontends_from(listener, HostRule::Exact("".into()));
        later.take_while(move |frontend| frontend.identity.listener == listener)
    }

    /// Those of them with one hostname.
    pub fn frontends_at<'a>(
        &'a self,
        listener: SocketAddr,
        hostname: &'a HostRule,
    ) -> impl Iterator<Item = &'a Frontend> {
        let later = self.frontends_from(listener, hostname.clone());
        later.take_while(move |frontend| {
            let identity = &frontend.identity;
            identity.listener == listener && identity.hostname == *hostname
        })
    }

    /// All from the least identity with this listener and hostname on, by the derived order.
    fn frontends_from(
        &self,
        listener: SocketAddr,
        hostname: HostRule,
    ) -> impl Iterator<Item = &Frontend> {
        let first = FrontendId {
            listener,
            hostname,
            path: PathRule::Prefix("".into()),
            method: None,
        };
        self.frontends.range(first..).map(|(_, frontend)| frontend)
    }

    /// Keeps what is equal to something in `other` as the same object, once in memory.
    pub fn share(&mut self, other: &State) {
        let with = |frontend: &mut Frontend| match other.frontend(&frontend.identity) {
            Some(same) if same == frontend => *frontend = same.clone(),
            _ => {}
        };
        // A key cannot be changed in its place.
        let frontends = std::mem::take(&mut self.frontends).into_values();
        let shared = frontends.map(|mut frontend| {
            with(&mut frontend);
            (Rc::clone(&frontend.identity), frontend)
        });
        self.frontends = shared.collect();
        for (key, certificate) in &mut self.certificates {
            match other.certificates.get(key) {
                Some(same) if same == certificate => *certificate = Rc::clone(same),
                _ => {}
            }
        }
        for (key, backend) in &mut self.backends {
            match other.backends.get(key) {
                Some(same) if same == backend => *backend = Rc::clone(same),
                _ => {}
            }
        }
    }

    fn listener_add(&mut self, listener: &Rc<Listener>) -> Result<Change, Refused> {
        let address = listener.address;
        if self.listeners.contains_key(&address) {
            return Err(exists(format!("listener {address}")));
        }
        room("listeners", self.listeners.len())?;
        self.listeners.insert(address, Rc::clone(listener));
        Ok(Change::ListenerRemove { address })
    }

    fn listener_update(&mut self, listener: &Rc<Listener>) -> Result<Change, Refused> {
        let Some(old) = self.listeners.get_mut(&listener.address) else {
            return Err(missing(format!("listener {}", listener.address)));
        };
        if old.protocol != listener.protocol {
            return Err(fixed(format!("listener {}", old.address), "protocol"));
        }
        let old = std::mem::replace(old, Rc::clone(listener));
        Ok(Change::ListenerUpdate(old))
    }

    fn listener_remove(&mut self, address: SocketAddr) -> Result<Change, Refused> {
        if self.frontends_of(address).next().is_some() {
            return Err(in_use(format!("listener {address}"), "frontends"));
        }
        if self.certificates_of(address).next().is_some() {
            return Err(in_use(format!("listener {address}"), "certificates"));
        }
        match self.listeners.remove(&address) {
            Some(listener) => Ok(Change::ListenerAdd(listener)),
            None => Err(missing(format!("listener {address}"))),
        }
    }

    fn certificate_add(&mut self, new: &Rc<Certificate>) -> Result<Change, Refused> {
        let (listener, fingerprint) = (new.listener, Rc::clone(new.fingerprint()));
        match self.listeners.get(&listener) {
            None => return Err(missing(format!("listener {listener}"))),
            Some(found) if found.protocol != Protocol::Https => {
                let what = format!(
                    "listener {listener} speaks {}: only an https one has certificates",
                    found.protocol.name()
                );
                return Err(Refused::new(Code::Mismatch, what));
            }
            Some(_) => {}
        }
        let key = (listener, Rc::clone(&fingerprint));
        if self.certificates.contains_key(&key) {
            return Err(exists(of_listener(&fingerprint, listener)));
        }
        room("certificates", self.certificates.len())?;
        self.certificates.insert(key, Rc::clone(new));
        Ok(Change::CertificateRemove {
            listener,
            fingerprint,
        })
    }

    fn certificate_replace(
        &mut self,
        fingerprint: &str,
        by: &Rc<Certificate>,
    ) -> Result<Change, Refused> {
        let listener = by.listener;
        let old = (listener, Rc::from(fingerprint));
        let new = (listener, Rc::clone(by.fingerprint()));
        if old != new && self.certificates.contains_key(&new) {
            return Err(exists(of_listener(&new.1, listener)));
        }
        let Some(was) = self.certificates.remove(&old) else {
            return Err(missing(of_listener(fingerprint, listener)));
        };
        let fingerprint = Rc::clone(by.fingerprint());
        self.certificates.insert(new, Rc::clone(by));
        Ok(Change::CertificateReplace {
            fingerprint,
            by: was,
        })
    }

    fn certificate_remove(
        &mut self,
        listener: SocketAddr,
        fingerprint: &str,
    ) -> Result<Change, Refused> {
        match self.certificates.remove(&(listener, fingerprint.into())) {
            Some(certificate) => Ok(Change::CertificateAdd(certificate)),
            None => Err(missing(of_listener(fingerprint, listener))),
        }
    }

    fn cluster_add(&mut self, cluster: &Rc<Cluster>) -> Result<Change, Refused> {
        if self.clusters.contains_key(&cluster.id) {
            return Err(exists(format!("cluster {}", cluster.id)));
        }
        room("clusters", self.clusters.len())?;
        let entry = Entry {
            cluster: Rc::clone(cluster),
            frontends: 0,
        };
        let id = Rc::clone(&cluster.id);
        self.clusters.insert(Rc::clone(&id), entry);
        Ok(Change::ClusterRemove { id })
    }

    fn cluster_update(&mut self, cluster: &Rc<Cluster>) -> Result<Change, Refused> {
        let Some(entry) = self.clusters.get_mut(&cluster.id) else {
            return Err(missing(format!("cluster {}", cluster.id)));
        };
        if entry.cluster.protocol != cluster.protocol {
            return Err(fixed(format!("cluster {}", cluster.id), "protocol"));
        }
        let old = std::mem::replace(&mut entry.cluster, Rc::clone(cluster));
        Ok(Change::ClusterUpdate(old))
    }

    fn cluster_remove(&mut self, id: &str) -> Result<Change, Refused> {
        let Some(entry) = self.clusters.get(id) else {
            return Err(missing(format!("cluster {id}")));
        };
        if entry.frontends > 0 {
            return Err(in_use(format!("cluster {id}"), "frontends"));
        }
        if self.backends_of(id).next().is_some() {
            return Err(in_use(format!("cluster {id}"), "backends"));
        }
        match self.clusters.remove(id) {
            Some(entry) => Ok(Change::ClusterAdd(entry.cluster)),
            None => Err(missing(format!("cluster {id}"))),
        }
    }

    fn frontend_add(&mut self, frontend: &Frontend) -> Result<Change, Refused> {
        let identity = Rc::clone(&frontend.identity);
        let Some(listener) = self.listeners.get(&identity.listener) else {
            return Err(missing(format!("listener {}", identity.listener)));
        };
        let mut entry = None;
        if let Some(id) = &frontend.cluster {
            let found = self.clusters.get_mut(id);
            entry = Some(found.ok_or_else(|| missing(format!("cluster {id}")))?);
        }
        together(
            listener,
            entry.as_ref().map(|entry| &*entry.cluster),
            frontend,
        )?;
        if let Some(other) = self.frontends.get(&identity) {
            let to = other.cluster.iter();
            let to: String = to.map(|id| format!(" (to cluster {id})")).collect();
            return Err(exists(format!("{identity}{to}")));
        }
        room("frontends", self.frontends.len())?;
        // All that lead to a cluster share its name.
        let cluster = entry.map(|entry| {
            entry.frontends += 1;
            Rc::clone(&entry.cluster.id)
        });
        let frontend = Frontend {
            identity: Rc::clone(&identity),
            cluster,
            actions: frontend.actions.clone(),
        };
        self.frontends.insert(Rc::clone(&identity), frontend);
        Ok(Change::FrontendRemove { identity })
    }

    fn frontend_remove(&mut self, identity: &FrontendId) -> Result<Change, Refused> {
        let Some(frontend) = self.frontends.remove(identity) else {
            return Err(missing(identity.to_string()));
        };
        let cluster = frontend.cluster.as_ref();
        if let Some(entry) = cluster.and_then(|id| self.clusters.get_mut(id)) {
            entry.frontends -= 1;
        }
        Ok(Change::FrontendAdd(frontend))
    }

    fn backend_add(&mut self, backend: &Rc<Backend>) -> Result<Change, Refused> {
        let Backend { cluster, id, .. } = &**backend;
        if !self.clusters.contains_key(cluster) {
            return Err(missing(format!("cluster {cluster}")));
        }
        bearable(backend)?;
        let key = BackendId {
            cluster: Rc::clone(cluster),
            id: Rc::clone(id),
        };
        if self.backends.contains_key(&key) {
            return Err(exists(format!("backend {id} of cluster {cluster}")));
        }
        room("backends", self.backends.len())?;
        self.unmistakable(backend)?;
        self.backends.insert(key, Rc::clone(backend));
        self.note_sticky_id(backend);
        let (cluster, id) = (Rc::clone(cluster), Rc::clone(id));
        Ok(Change::BackendRemove { cluster, id })
    }

    fn backend_update(&mut self, backend: &Rc<Backend>) -> Result<Change, Refused> {
        let Backend { cluster, id, .. } = &**backend;
        bearable(backend)?;
        let key = BackendId::new(cluster, id);
        let Some(old) = self.backends.get(&key) else {
            return Err(no_backend(cluster, id));
        };
        if old.address != backend.address {
            return Err(fixed(
                format!("backend {id} of cluster {cluster}"),
                "address",
            ));
        }
        let old = Rc::clone(old);
        self.unmistakable(backend)?;
        self.forget_sticky_id(&old);
        self.backends.insert(key, Rc::clone(backend));
        self.note_sticky_id(backend);
        Ok(Change::BackendUpdate(old))
    }

    fn backend_remove(&mut self, cluster: &str, id: &str) -> Result<Change, Refused> {
        match self.backends.remove(&BackendId::new(cluster, id)) {
            Some(backend) => {
                self.forget_sticky_id(&backend);
                Ok(Change::BackendAdd(backend))
            }
            None => Err(no_backend(cluster, id)),
        }
    }

    /// No cookie calls two backends of a cluster the same.
    fn unmistakable(&self, backend: &Backend) -> Result<(), Refused> {
        let Backend { cluster, id, .. } = backend;
        let name = backend.sticky_name();
        let by_id = self.backend(cluster, name);
        let by_id = by_id.filter(|other| other.sticky_id.is_none());
        let by_id = by_id.map(|other| &other.id);
        let by_name = self.sticky_ids.get(&BackendId::new(cluster, name));
        match by_id.into_iter().chain(by_name).find(|other| *other != id) {
            None => Ok(()),
            Some(other) => {
                let what = format!("backends {id} and {other} of cluster {cluster} would both be {name:?} in a cookie: give one of them another sticky_id");
                Err(Refused::new(Code::Mismatch, what))
            }
        }
    }

    fn note_sticky_id(&mut self, backend: &Backend) {
        if let Some(name) = &backend.sticky_id {
            let key = BackendId::new(&backend.cluster, name);
            self.sticky_ids.insert(key, Rc::clone(&backend.id));
        }
    }

    fn forget_sticky_id(&mut self, backend: &Backend) {
        if let Some(name) = &backend.sticky_id {
            let key = BackendId::new(&backend.cluster, name);
            self.sticky_ids.remove(&key);
        }
    }
}

pub fn no_backend(cluster: &str, id: &str) -> Refused {
    match id.split_once(AT) {
        None => missing(format!("backend {id} of cluster {cluster}")),
        Some((named, _)) => {
            let what = format!("{id} of cluster {cluster} is a server of backend {named}, which goes by name: that one can be changed");
            Refused::new(Code::Missing, what)
        }
    }
}

fn of_listener(fingerprint: &str, listener: SocketAddr) -> String {
    format!("certificate {fingerprint} of listener {listener}")
}

fn bearable(backend: &Backend) -> Result<(), Refused> {
    let Backend { id, weight, .. } = backend;
    let by_name = backend.address.name().is_some();
    let what = if *weight > WEIGHT_MAX {
        format!("weight {weight} of backend {id} is over {WEIGHT_MAX}")
    } else if id.contains(AT) {
        format!("backend {id}: an id has no \"{AT}\", which stands before the address in those of backends by name")
    } else if by_name && id.len() > ID_BY_NAME_BYTES_MAX {
        format!("backend {id}: an id of a backend by name has at most {ID_BY_NAME_BYTES_MAX} characters, addresses are put behind it")
    } else {
        return Ok(());
    };
    Err(Refused::new(Code::Invalid, what))
}

impl BackendId {
    fn new(cluster: &str, id: &str) -> BackendId {
        BackendId {
            cluster: cluster.into(),
            id: id.into(),
        }
    }
}

/// A frontend speaks one protocol from end to end; over TCP there is nothing to tell apart, and under
/// TLS that is not ours the host alone.
fn together(
    listener: &Listener,
    cluster: Option<&Cluster>,
    frontend: &Frontend,
) -> Result<(), Refused> {
    if listener.protocol == Protocol::Metrics {
        let what = format!(
            "listener {} serves the metrics: it takes no frontends",
            listener.address
        );
        return Err(Refused::new(Code::Mismatch, what));
    }
    let spoken = listener.protocol.behind();
    if let Some(cluster) = cluster.filter(|cluster| cluster.protocol != spoken) {
        let what = format!(
            "listener {} speaks {} but cluster {} speaks {}: give both the same protocol",
            listener.address,
            listener.protocol.name(),
            cluster.id,
            cluster.protocol.name(),
        );
        return Err(Refused::new(Code::Mismatch, what));
    }
    let id = &frontend.identity;
    let own = frontend.actions.as_ref().and_then(|it| it.own.as_ref());
    if cluster.is_none() && own.is_none() {
        let what = format!("{id} leads to no cluster and answers nothing: give it a cluster, redirect, answer or deny");
        return Err(Refused::new(Code::Mismatch, what));
    }
    let unread = match listener.protocol {
        Protocol::Tcp if !id.takes_all() => "hostname, path or method",
        Protocol::TlsPassthrough if !id.takes_host() => "path or method",
        Protocol::Tcp | Protocol::TlsPassthrough if frontend.actions.is_some() => "actions",
        _ => return Ok(()),
    };
    let protocol = listener.protocol.name();
    let what = format!("{id} is a {protocol} one: it takes no {unread}");
    Err(Refused::new(Code::Mismatch, what))
}

fn room(kind: &str, count: usize) -> Result<(), Refused> {
    if count < STATE_OBJECTS_MAX {
        return Ok(());
    }
    let what = format!("there are {count} {kind} already, which is the most");
    Err(Refused::new(Code::Limit, what))
}

fn exists(what: String) -> Refused {
    Refused::new(Code::Exists, format!("{what} already exists"))
}

fn missing(what: String) -> Refused {
    Refused::new(Code::Missing, format!("{what} does not exist"))
}

fn fixed(what: String, key: &str) -> Refused {
    let what = format!("{what} keeps its {key}: remove it and add another one");
    Refused::new(Code::Mismatch, what)
}

fn in_use(what: String, by: &str) -> Refused {
    let what = format!("{what} still has {by}: remove them first");
    Refused::new(Code::InUse, what)
}
