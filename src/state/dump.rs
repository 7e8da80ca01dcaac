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
        listeners.chain(clusters).chain(backends).chain(frontends)
    }

    /// The changes that make this state equal to `to`, in an order that applies.
    ///
    /// What differs is removed and added, and so is what names it, because
    /// nothing may name what does not exist. What is equal is not mentioned.
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
            identity: frontend.identity(),
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
        let addresses = self.from.listeners().map(|listener| listener.address);
        let gone = addresses.filter(|address| !self.keeps_listener(*address));
        changes.extend(gone.map(|address| Change::ListenerRemove { address }));
    }

    fn additions(&self, changes: &mut Vec<Change>) {
        changes.extend(self.to.dump().filter(|change| match change {
            Change::ListenerAdd(listener) => !self.keeps_listener(listener.address),
            Change::ClusterAdd(cluster) => !self.keeps_cluster(&cluster.id),
            Change::BackendAdd(backend) => !self.keeps_backend(backend),
            Change::FrontendAdd(frontend) => !self.keeps_frontend(frontend),
            Change::ListenerRemove { .. }
            | Change::ClusterRemove { .. }
            | Change::BackendRemove { .. }
            | Change::FrontendRemove { .. } => false,
        }));
    }

    fn keeps_listener(&self, address: SocketAddr) -> bool {
        self.from.listener(address) == self.to.listener(address)
    }

    fn keeps_cluster(&self, id: &str) -> bool {
        self.from.cluster(id) == self.to.cluster(id)
    }

    /// `frontend` is of one of the two states.
    fn keeps_frontend(&self, frontend: &Frontend) -> bool {
        let identity = frontend.identity();
        self.from.frontend(&identity) == self.to.frontend(&identity)
            && self.keeps_listener(frontend.listener)
            && self.keeps_cluster(&frontend.cluster)
    }

    /// `backend` is of one of the two states.
    fn keeps_backend(&self, backend: &Backend) -> bool {
        let Backend { cluster, id, .. } = backend;
        self.from.backend(cluster, id) == self.to.backend(cluster, id)
            && self.keeps_cluster(cluster)
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
        for seed in 0..200 {
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
    fn what_did_not_change_is_not_mentioned() {
        let from = Random::new(7).state(60);
        let mut to = from.clone();
        let backend = from.backends().next().expect("a backend").clone();
        let removal = Change::BackendRemove {
            cluster: backend.cluster,
            id: backend.id,
        };
        to.apply(&removal).expect("it is there");
        assert_eq!(from.diff(&to), [removal]);
    }
}
