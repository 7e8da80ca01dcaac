//! Clusters and backends as main tells of them.

use std::collections::HashMap;
use std::net::TcpStream;
use std::rc::Rc;

use crate::health::{question, Verdict};
use crate::metrics::{Count, Series};
use crate::net::conn::Conn;
use crate::session::moved::Tunnel;
use crate::session::{Lead, Server, Target};
use crate::slab::Key;
use crate::state::{self, Address, BackendState, Change};
use crate::worker::inherit::made_up;
use crate::worker::pool::choice::Choice;
use crate::worker::pool::{Back, Backend, Backs, Cluster, NOWHERE};

impl Backs {
    /// Another change is about to be made.
    pub fn changes(&mut self) {
        self.moment += 1;
    }

    pub fn moment(&self) -> u64 {
        self.moment
    }

    pub fn add_cluster(&mut self, cluster: Rc<state::Cluster>, series: Series) {
        let id = cluster.id.clone();
        let lead = Lead::new(Target {
            key: NOWHERE,
            cluster: Rc::clone(&cluster),
            series,
        });
        let dialer = self.dialer_of(&cluster);
        let key = self.clusters.insert(Cluster {
            lead: lead.clone(),
            backends: HashMap::new(),
            by_cookie: HashMap::new(),
            choice: Choice::new(cluster.balancing.policy),
            question: question(&cluster),
            dialer,
            since: self.moment,
        });
        lead.turn(Target {
            key,
            cluster,
            series,
        });
        self.by_id.insert(id, key);
    }

    pub fn update_cluster(&mut self, cluster: Rc<state::Cluster>) {
        let Some(key) = self.by_id.get(&cluster.id).copied() else {
            return;
        };
        self.update_dialer(key, &cluster);
        let Some(updated) = self.clusters.get_mut(key) else {
            return;
        };
        let before = updated.lead.target();
        updated.choice.balancer.turn_to(cluster.balancing.policy);
        updated.lead.turn(Target {
            key,
            cluster,
            series: before.series,
        });
        self.ask_anew(key, &before.cluster);
    }

    pub fn remove_cluster(&mut self, id: &str) {
        if let Some(key) = self.by_id.remove(id) {
            while let Some(waiting) = self.next_in_line(key) {
                self.stranded.push(waiting.slot);
            }
            self.clusters.remove(key);
        }
    }

    pub fn target(&self, id: &str) -> Option<Rc<Target>> {
        self.lead(id).map(|lead| lead.target())
    }

    /// Where a connection leads that came from another worker; its cluster may be gone.
    pub fn target_or_stray(&self, id: &str) -> Option<Rc<Target>> {
        self.target(id).or_else(|| {
            let made = made_up("cluster", &[("id", id.to_string())])?;
            let Change::ClusterAdd(cluster) = made else {
                return None;
            };
            Some(Rc::new(Target {
                key: NOWHERE,
                cluster,
                series: None,
            }))
        })
    }

    /// A connection to a backend that another worker has made. A backend that is gone, or has
    /// become another one, has this connection and gets no more.
    pub fn take_over(&mut self, stream: TcpStream, tunnel: &Tunnel) -> Option<(Key, Rc<Server>)> {
        let (cluster, id, address) = (&tunnel.cluster, &tunnel.backend, &tunnel.address);
        let same = |key: &Key| {
            let backend = self.backends.get(*key);
            backend.is_some_and(|backend| backend.conf().address == *address)
        };
        let backend = match self.backend_key(cluster, id).filter(same) {
            Some(known) => known,
            None => self.stray_backend(cluster, id, address)?,
        };
        let server = self.backends.get_mut(backend)?;
        server.connections += 1;
        self.tally.row(server.server.series).add(Count::Open, 1);
        self.watches.gained(&server.watchers);
        let conn = self.conns.insert(Back {
            conn: Conn::new(stream, false),
            owner: None,
            backend,
            connecting: false,
            shook: false,
            identity: None,
            preface: None,
            busy: true,
            idle_since_ms: 0,
        });
        let server = Rc::clone(&server.server);
        self.begin(backend);
        Some((conn, server))
    }

    fn stray_backend(&mut self, cluster: &str, id: &str, address: &Address) -> Option<Key> {
        let pairs = [
            ("cluster", cluster.to_string()),
            ("id", id.to_string()),
            ("address", address.to_string()),
        ];
        let Change::BackendAdd(conf) = made_up("backend", &pairs)? else {
            return None;
        };
        let gone = Backend::new(conf, None, NOWHERE, self.moment);
        Some(self.backends.insert(Backend {
            removed: true,
            ..gone
        }))
    }

    pub fn lead(&self, id: &str) -> Option<Lead> {
        let cluster = self.clusters.get(*self.by_id.get(id)?)?;
        Some(cluster.lead.clone())
    }

    pub fn add_backend(&mut self, backend: Rc<state::Backend>, series: Series) {
        let Some(cluster) = self.by_id.get(&backend.cluster).copied() else {
            return;
        };
        let (id, moment) = (Rc::clone(&backend.id), self.moment);
        let new = Backend::new(Rc::clone(&backend), series, cluster, moment);
        let key = self.backends.insert(new);
        if let Some(new) = self.backends.get_mut(key) {
            new.server = Rc::new(Server {
                key,
                backend,
                series,
            });
        }
        let Some(known) = self.clusters.get_mut(cluster) else {
            return;
        };
        known.backends.insert(id, key);
        self.name_cookie(key, true);
        self.seat(key);
        self.warm_up(key);
        self.restand(key);
        self.unchecked.push(key);
    }

    /// What a cookie calls it leads to it, or does no more.
    fn name_cookie(&mut self, key: Key, leads: bool) {
        let Some(backend) = self.backends.get(key) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(backend.cluster) else {
            return;
        };
        let name = backend.conf().sticky_name();
        if leads {
            cluster.by_cookie.insert(name.into(), key);
        } else if cluster.by_cookie.get(name) == Some(&key) {
            cluster.by_cookie.remove(name);
        }
    }

    /// One that takes nothing new gives its idle connections up.
    pub fn update_backend(&mut self, conf: Rc<state::Backend>) {
        let Some(key) = self.backend_key(&conf.cluster, &conf.id) else {
            return;
        };
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        let was_ready = backend.takes_requests();
        let idle = match conf.state {
            BackendState::Ready => Vec::new(),
            BackendState::Drain | BackendState::Down => std::mem::take(&mut backend.pool),
        };
        if conf.state != BackendState::Ready {
            self.departed.push(key);
            self.departed_names.extend(conf.name());
        }
        let series = backend.server.series;
        self.name_cookie(key, false);
        if let Some(backend) = self.backends.get_mut(key) {
            backend.server = Rc::new(Server {
                key,
                backend: conf,
                series,
            });
            let (is_ready, takes) = (backend.is_ready(), backend.takes_requests());
            if !is_ready {
                self.settle(key, Verdict::Unknown);
            }
            if !was_ready && takes {
                self.warm_up(key);
            }
        }
        self.unchecked.push(key);
        self.name_cookie(key, true);
        self.restand(key);
        for conn in idle {
            self.drop_conn(conn);
        }
    }

    pub(super) fn backend_key(&self, cluster: &str, id: &str) -> Option<Key> {
        let cluster = self.clusters.get(*self.by_id.get(cluster)?)?;
        cluster.backends.get(id).copied()
    }

    /// A server as it is configured here.
    pub fn backend(&self, cluster: &str, id: &str) -> Option<Rc<state::Backend>> {
        let backend = self.backends.get(self.backend_key(cluster, id)?)?;
        Some(Rc::clone(&backend.server.backend))
    }

    /// New requests go elsewhere; running ones finish.
    pub fn remove_backend(&mut self, cluster: &str, id: &str) {
        let Some(key) = self.backend_key(cluster, id) else {
            return;
        };
        self.name_cookie(key, false);
        self.unseat(key);
        let cluster = self.by_id.get(cluster).copied();
        if let Some(cluster) = cluster.and_then(|key| self.clusters.get_mut(key)) {
            cluster.backends.remove(id);
        }
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        backend.removed = true;
        self.departed_names.extend(backend.conf().name());
        self.unchecked.push(key);
        self.departed.push(key);
        for conn in std::mem::take(&mut backend.pool) {
            self.drop_conn(conn);
        }
        self.forget_if_empty(key);
    }

    pub(super) fn forget_if_empty(&mut self, backend: Key) {
        if self
            .backends
            .get(backend)
            .is_some_and(|b| b.removed && b.connections == 0)
        {
            self.backends.remove(backend);
        }
    }
}
