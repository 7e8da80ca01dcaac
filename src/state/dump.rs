//! A state as changes: all that rebuild it, or those that lead to another one.
//!
//! Owns: the canonical order. Called for `state dump`, for the state file, for
//! a new worker, and for a reload.

use super::*;

impl State {
    /// The changes that make an empty state equal to this one, what is named before what names it.
    pub fn dump(&self) -> impl Iterator<Item = Change> + '_ {
        let listeners = self.listeners().cloned().map(Change::ListenerAdd);
        let clusters = self.clusters().cloned().map(Change::ClusterAdd);
        let backends = self.backends().cloned().map(Change::BackendAdd);
        let frontends = self.frontends().cloned().map(Change::FrontendAdd);
        let certificates = self.certificates().cloned().map(Change::CertificateAdd);
        let listeners = listeners.chain(certificates);
        listeners.chain(clusters).chain(backends).chain(frontends)
    }

    /// The changes that make this state equal to `to`, in an order that applies.
    ///
    /// What can be updated is. What cannot (a protocol, an address, what a cookie calls a
    /// backend, lest two are called the same for a moment) is removed and added, and so is what names it, because nothing may name what does not
    /// exist. What is equal is not mentioned.
    pub fn diff(&self, to: &State) -> Vec<Change> {
        let both = Both { from: self, to };
        let mut changes = Vec::new();
        both.removals(&mut changes);
        both.additions(&mut changes);
        changes
    }
}

struct Both<'a> {
    from: &'a State,
    to: &'a State,
}

impl Both<'_> {
    fn removals(&self, changes: &mut Vec<Change>) {
        let frontends = self
            .from
            .frontends()
            .filter(|frontend| !self.keeps_frontend(frontend));
        changes.extend(frontends.map(|frontend| Change::FrontendRemove {
            identity: Rc::clone(&frontend.identity),
        }));
        let backends = self
            .from
            .backends()
            .filter(|backend| !self.keeps_backend(backend));
        changes.extend(backends.map(|backend| Change::BackendRemove {
            cluster: backend.cluster.clone(),
            id: backend.id.clone(),
        }));
        let clusters = self
            .from
            .clusters()
            .filter(|cluster| !self.keeps_cluster(&cluster.id));
        changes.extend(clusters.map(|cluster| Change::ClusterRemove {
            id: cluster.id.clone(),
        }));
        let certificates = self.from.certificates();
        let gone = certificates.filter(|certificate| !self.keeps_certificate(certificate));
        changes.extend(gone.map(|certificate| Change::CertificateRemove {
            listener: certificate.listener,
            fingerprint: Rc::clone(certificate.fingerprint()),
        }));
        let addresses = self.from.listeners().map(|listener| listener.address);
        let gone = addresses.filter(|address| !self.keeps_listener(*address));
        changes.extend(gone.map(|address| Change::ListenerRemove { address }));
    }

    fn additions(&self, changes: &mut Vec<Change>) {
        changes.extend(self.to.dump().filter_map(|change| match change {
            Change::ListenerAdd(listener) => match self.from.listener(listener.address) {
                Some(old) if *old == listener => None,
                Some(old) if old.protocol == listener.protocol => {
                    Some(Change::ListenerUpdate(listener))
                }
                _ => Some(Change::ListenerAdd(listener)),
            },
            Change::CertificateAdd(by) if self.keeps_certificate(&by) => {
                let fingerprint = Rc::clone(by.fingerprint());
                let old = self.from.certificate(by.listener, &fingerprint);
                (old != Some(&by)).then_some(Change::CertificateReplace { fingerprint, by })
            }
            Change::ClusterAdd(cluster) => match self.from.cluster(&cluster.id) {
                Some(old) if *old == cluster => None,
                Some(old) if old.protocol == cluster.protocol => {
                    Some(Change::ClusterUpdate(cluster))
                }
                _ => Some(Change::ClusterAdd(cluster)),
            },
            Change::BackendAdd(backend) if self.keeps_backend(&backend) => {
                let old = self.from.backend(&backend.cluster, &backend.id);
                (old != Some(&backend)).then_some(Change::BackendUpdate(backend))
            }
            Change::FrontendAdd(frontend) if self.keeps_frontend(&frontend) => None,
            // A dump only adds.
            other => Some(other),
        }));
    }

    /// Whether it stays, be it updated.
    fn keeps_listener(&self, address: SocketAddr) -> bool {
        let protocol = |state: &State| state.listener(address).map(|listener| listener.protocol);
        protocol(self.from) == protocol(self.to)
    }

    fn keeps_cluster(&self, id: &str) -> bool {
        let protocol = |state: &State| state.cluster(id).map(|cluster| cluster.protocol);
        protocol(self.from) == protocol(self.to)
    }

    /// `certificate` is of one of the two states.
    fn keeps_certificate(&self, certificate: &Certificate) -> bool {
        let listener = certificate.listener;
        let has = |state: &State| {
            state
                .certificate(listener, certificate.fingerprint())
                .is_some()
        };
        has(self.from) && has(self.to) && self.keeps_listener(listener)
    }

    /// `frontend` is of one of the two states.
    fn keeps_frontend(&self, frontend: &Frontend) -> bool {
        let identity = &frontend.identity;
        self.from.frontend(identity) == self.to.frontend(identity)
            && self.keeps_listener(identity.listener)
            && frontend.cluster.iter().all(|id| self.keeps_cluster(id))
    }

    /// `backend` is of one of the two states.
    fn keeps_backend(&self, backend: &Backend) -> bool {
        let Backend { cluster, id, .. } = backend;
        let (from, to) = (self.from.backend(cluster, id), self.to.backend(cluster, id));
        let same = from.zip(to).is_some_and(|(from, to)| {
            from.address == to.address && from.sticky_name() == to.sticky_name()
        });
        same && self.keeps_cluster(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::sample::Random;
    use super::*;

    #[test]
    fn a_dump_rebuilds_the_state() {
        for seed in 0..200 {
            let state = Random::new(seed).state(60);
            let mut replay = State::default();
            for change in state.dump() {
                replay.apply(&change).expect("a dump applies");
            }
            assert_eq!(replay, state, "seed {seed}");
            assert!(replay.dump().eq(state.dump()), "seed {seed}");
        }
    }

    #[test]
    fn a_diff_leads_to_the_other_state() {
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let from = random.state(40);
            let mut to = from.clone();
            random.disturb(&mut to, 10);
            for to in [to, random.state(40), State::default()] {
                let mut state = from.clone();
                for change in from.diff(&to) {
                    state.apply(&change).expect("a difference applies");
                }
                assert_eq!(state, to, "seed {seed}");
            }
            assert_eq!(from.diff(&from), [], "seed {seed}");
        }
    }

    #[test]
    fn what_was_done_can_be_undone() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let before = random.state(40);
            let mut state = before.clone();
            let changes = (0..40).map(|_| random.change());
            let undo: Vec<Change> = changes
                .filter_map(|change| state.apply(&change).ok())
                .collect();
            for change in undo.iter().rev() {
                state.apply(change).expect("what was done can be undone");
            }
            assert_eq!(state, before, "seed {seed}");
        }
    }

    #[test]
    fn what_is_equal_is_shared_and_stays_equal() {
        for seed in 0..100 {
            let other = Random::new(seed).state(60);
            let mut state = Random::new(seed).state(60);
            Random::new(seed + 1).disturb(&mut state, 10);
            let before = state.clone();
            state.share(&other);
            assert_eq!(state, before, "seed {seed}");
            for backend in state.backends() {
                let same = other.backend(&backend.cluster, &backend.id);
                let same = same.filter(|same| *same == backend);
                assert!(same.is_none_or(|same| Rc::ptr_eq(same, backend)));
            }
            for frontend in state.frontends() {
                let same = other.frontend(&frontend.identity);
                let same = same.filter(|same| *same == frontend);
                assert!(same.is_none_or(|same| Rc::ptr_eq(&same.identity, &frontend.identity)));
            }
        }
    }

    #[test]
    fn what_did_not_change_is_not_mentioned() {
        let from = Random::new(7).state(60);
        let mut to = from.clone();
        let backend = from.backends().next().expect("a backend").clone();
        let removal = Change::BackendRemove {
            cluster: Rc::clone(&backend.cluster),
            id: Rc::clone(&backend.id),
        };
        to.apply(&removal).expect("it is there");
        assert_eq!(from.diff(&to), [removal]);
    }
}
