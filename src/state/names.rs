//! Backends by name: each stands for servers, one for every address that its name has.
//!
//! What is configured has names, and what workers are told has none: a change of a backend by name is told as
//! changes of its servers, and that a name has other addresses as servers that come and go. So a server is
//! added, drained and counted as any other backend is. Its id is `id@address`.

use super::*;
use crate::random::hash_of;
use std::net::IpAddr;

/// Between the id of a backend by name and an address.
pub const AT: char = '@';

impl Backend {
    /// Of a server that stands behind a name: the cluster, and the backend that has the name.
    pub fn name(&self) -> Option<(Rc<str>, Box<str>)> {
        let (named, _) = self.id.split_once(AT)?;
        Some((Rc::clone(&self.cluster), named.into()))
    }
}

impl State {
    /// What a name stands for, as it was heard last.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map_or(&[], |addresses| addresses)
    }

    pub fn known_names(&self) -> impl Iterator<Item = (&Rc<str>, &[IpAddr])> {
        let names = self.names.iter();
        names.map(|(name, addresses)| (name, addresses.as_slice()))
    }

    /// It stands for these from now on.
    pub fn set_addresses(&mut self, name: &Rc<str>, addresses: Vec<IpAddr>) {
        match addresses.is_empty() {
            true => drop(self.names.remove(name)),
            false => drop(self.names.insert(Rc::clone(name), addresses)),
        }
    }

    /// The servers that a backend stands for: itself, unless it has a name.
    pub fn servers_for(&self, backend: &Rc<Backend>) -> Vec<Rc<Backend>> {
        match backend.address.name() {
            Some(name) => servers(backend, self.addresses(name)),
            None => vec![Rc::clone(backend)],
        }
    }

    /// All servers, by cluster and backend.
    pub fn servers(&self) -> impl Iterator<Item = Rc<Backend>> + '_ {
        self.backends()
            .flat_map(|backend| self.servers_for(backend))
    }

    pub fn servers_of<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = Rc<Backend>> + 'a {
        let backends = self.backends_of(cluster);
        backends.flat_map(|backend| self.servers_for(backend))
    }

    pub fn server(&self, cluster: &str, id: &str) -> Option<Rc<Backend>> {
        let id_of_backend = id.split(AT).next().unwrap_or_default();
        let servers = self.servers_for(self.backend(cluster, id_of_backend)?);
        servers.into_iter().find(|server| &*server.id == id)
    }

    /// The backends with that name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Rc<Backend>> {
        let has =
            move |backend: &&Rc<Backend>| backend.address.name().is_some_and(|it| **it == *name);
        self.backends().filter(has)
    }

    /// The dump as workers are told it.
    pub fn served_dump(&self) -> impl Iterator<Item = Change> + '_ {
        self.dump().flat_map(|change| match change {
            Change::BackendAdd(backend) => {
                let servers = self.servers_for(&backend).into_iter();
                servers.map(Change::BackendAdd).collect()
            }
            other => vec![other],
        })
    }

    /// What was done, and undoes it, as workers are told it.
    pub fn served(&self, change: &Change, undo: &Change) -> Vec<(Change, Change)> {
        match (change, undo) {
            (Change::BackendAdd(new), _) => {
                let servers = self.servers_for(new).into_iter();
                let pair = |server: Rc<Backend>| {
                    (Change::BackendAdd(Rc::clone(&server)), removal(&server))
                };
                servers.map(pair).collect()
            }
            (Change::BackendUpdate(new), Change::BackendUpdate(old)) => {
                let new = self.servers_for(new).into_iter().map(Change::BackendUpdate);
                let old = self.servers_for(old).into_iter().map(Change::BackendUpdate);
                new.zip(old).collect()
            }
            (Change::BackendRemove { .. }, Change::BackendAdd(old)) => {
                let servers = self.servers_for(old).into_iter();
                let pair = |server: Rc<Backend>| (removal(&server), Change::BackendAdd(server));
                servers.map(pair).collect()
            }
            _ => vec![(change.clone(), undo.clone())],
        }
    }

    /// A name stands for other addresses from now on: what comes, then what goes, each with what undoes it.
    pub fn renamed(&mut self, name: &Rc<str>, addresses: Vec<IpAddr>) -> Vec<(Change, Change)> {
        let before = self.addresses(name).to_vec();
        self.set_addresses(name, addresses);
        let after = self.addresses(name);
        let lacks = |list: &[IpAddr], ip: &IpAddr| !list.contains(ip);
        let come: Vec<IpAddr> = after
            .iter()
            .filter(|ip| lacks(&before, ip))
            .copied()
            .collect();
        let go: Vec<IpAddr> = before
            .iter()
            .filter(|ip| lacks(after, ip))
            .copied()
            .collect();
        let servers = |some: Vec<IpAddr>| {
            let named = self.named(name);
            named.flat_map(move |backend| servers(backend, &some))
        };
        let come = servers(come).map(|it| (Change::BackendAdd(Rc::clone(&it)), removal(&it)));
        let go = servers(go).map(|it| (removal(&it), Change::BackendAdd(it)));
        come.chain(go).collect()
    }
}

fn removal(server: &Backend) -> Change {
    Change::BackendRemove {
        cluster: Rc::clone(&server.cluster),
        id: Rc::clone(&server.id),
    }
}

/// The servers of a backend by name at these addresses.
fn servers(backend: &Backend, addresses: &[IpAddr]) -> Vec<Rc<Backend>> {
    let Address::Name { port, .. } = backend.address else {
        return Vec::new();
    };
    let server = |ip: &IpAddr| Rc::new(server(backend, *ip, port));
    addresses.iter().map(server).collect()
}

/// The cookie of a sticky session does not show the address, nor is it longer for a longer name.
fn server(backend: &Backend, ip: IpAddr, port: u16) -> Backend {
    let at = ip.to_string();
    let sticky = hash_of(&[backend.sticky_name().as_bytes(), at.as_bytes()]);
    Backend {
        id: format!("{}{AT}{at}", backend.id).into(),
        address: Address::Inet(SocketAddr::new(ip, port)),
        sticky_id: Some(format!("{sticky:016x}").into()),
        ..backend.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::sample::Random;
    use super::*;

    fn backend(cluster: &str, id: &str, address: &str) -> Rc<Backend> {
        Rc::new(Backend {
            cluster: cluster.into(),
            id: id.into(),
            address: address.parse().expect("an address"),
            weight: 7,
            backup: true,
            state: BackendState::Ready,
            max_connections: Some(3),
            sticky_id: None,
        })
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        let ip = |text: &&str| text.parse().expect("an address");
        texts.iter().map(ip).collect()
    }

    fn ids(servers: impl IntoIterator<Item = Rc<Backend>>) -> Vec<String> {
        servers.into_iter().map(|it| it.id.to_string()).collect()
    }

    #[test]
    fn a_backend_by_name_is_as_many_servers_as_there_are_addresses() {
        let mut state = State::default();
        let by_name = backend("a", "app", "app.internal:80");
        assert_eq!(state.servers_for(&by_name), []);
        state.set_addresses(&"app.internal".into(), ips(&["10.0.0.1", "fd00::1"]));
        let servers = state.servers_for(&by_name);
        assert_eq!(ids(servers.clone()), ["app@10.0.0.1", "app@fd00::1"]);
        let addresses: Vec<String> = servers.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "[fd00::1]:80"]);
        for server in &servers {
            assert_eq!((server.weight, server.backup), (7, true));
            assert_eq!(server.max_connections, Some(3));
            let cookie = server.sticky_name();
            assert!(cookie.len() == 16 && !cookie.contains('.'), "{cookie}");
        }
        assert_ne!(servers[0].sticky_id, servers[1].sticky_id);
        let plain = backend("a", "b", "10.0.0.9:80");
        assert_eq!(state.servers_for(&plain), [plain]);
    }

    type Told = BTreeMap<(Rc<str>, Rc<str>), Rc<Backend>>;

    /// What undoes it.
    fn follow(told: &mut Told, change: &Change) -> Option<Change> {
        let key = |it: &Backend| (Rc::clone(&it.cluster), Rc::clone(&it.id));
        match change {
            Change::BackendAdd(new) => {
                assert_eq!(told.insert(key(new), Rc::clone(new)), None);
                Some(removal(new))
            }
            Change::BackendUpdate(new) => {
                let old = told.insert(key(new), Rc::clone(new));
                Some(Change::BackendUpdate(old.expect("it is there")))
            }
            Change::BackendRemove { cluster, id } => {
                let old = told.remove(&(Rc::clone(cluster), Rc::clone(id)));
                Some(Change::BackendAdd(old.expect("it is there")))
            }
            _ => None,
        }
    }

    /// Whoever follows what is told has what is told to one who begins.
    #[test]
    fn what_is_told_leads_to_what_is_served() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut state = random.state(40);
            let mut told = Told::new();
            for change in state.served_dump() {
                follow(&mut told, &change);
            }
            let name: Rc<str> = "app.internal".into();
            for _ in 0..60 {
                let pairs = match random.below(3) {
                    0 => {
                        let all = ips(&["10.0.0.1", "10.0.0.2", "::1"]);
                        let some = all.into_iter().filter(|_| random.coin()).collect();
                        state.renamed(&name, some)
                    }
                    _ => {
                        let change = random.change();
                        match state.apply(&change) {
                            Ok(undo) => state.served(&change, &undo),
                            Err(_) => continue,
                        }
                    }
                };
                for (change, undo) in &pairs {
                    let inverse = follow(&mut told, change);
                    assert!(inverse.is_none_or(|it| it == *undo), "seed {seed}");
                }
                let mut anew = Told::new();
                for change in state.served_dump() {
                    follow(&mut anew, &change);
                }
                assert_eq!(told, anew, "seed {seed}");
                for server in state.servers() {
                    let found = state.server(&server.cluster, &server.id);
                    assert_eq!(found, Some(server), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn others_come_before_the_last_one_goes() {
        let mut state = State::default();
        let cluster = Rc::new(Cluster {
            id: "a".into(),
            ..Random::new(1).cluster()
        });
        state
            .apply(&Change::ClusterAdd(cluster))
            .expect("a cluster");
        state
            .apply(&Change::BackendAdd(backend("a", "app", "app:1")))
            .expect("a backend");
        let name: Rc<str> = "app".into();
        assert_eq!(state.renamed(&name, ips(&["10.0.0.1"])).len(), 1);
        let pairs = state.renamed(&name, ips(&["10.0.0.2"]));
        let kinds: Vec<bool> = pairs
            .iter()
            .map(|(it, _)| matches!(it, Change::BackendAdd(_)))
            .collect();
        assert_eq!(kinds, [true, false]);
        assert_eq!(state.renamed(&name, ips(&["10.0.0.2"])), []);
        assert_eq!(ids(state.servers_of("a")), ["app@10.0.0.2"]);
    }
}
