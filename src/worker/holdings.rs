//! What this worker has of the configuration, as a digest that main compares with its own.
//!
//! It is read from what requests are served by (doors, routes, clusters,
//! backends), before and after each change, so that a change that went wrong
//! shows. Each costs a look-up.

use std::rc::Rc;

use crate::proto::digest::Digest;
use crate::state::{Change, Frontend, FrontendId};
use crate::worker::Worker;

/// Around one change.
pub struct Before(Option<Change>);

impl Worker {
    /// What a change will replace or remove.
    pub(super) fn before(&self, change: &Change) -> Before {
        match change {
            // There is none: main has checked that.
            Change::ListenerAdd(_)
            | Change::ClusterAdd(_)
            | Change::FrontendAdd(_)
            | Change::BackendAdd(_)
            | Change::CertificateAdd(_) => Before(None),
            Change::CertificateReplace { fingerprint, by } => {
                Before(self.held_certificate(by.listener, fingerprint))
            }
            _ => Before(self.held(change)),
        }
    }

    /// The change was done: what is there instead.
    pub(super) fn account(&mut self, before: Before, change: &Change) {
        if let Some(was) = before.0 {
            self.digest.remove(&was);
        }
        if let Some(is) = self.held(change) {
            self.digest.add(&is);
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The object that a change is about, as it is now, as the change that adds it.
    fn held(&self, change: &Change) -> Option<Change> {
        match change {
            Change::ListenerAdd(listener) | Change::ListenerUpdate(listener) => {
                self.held_listener(listener.address)
            }
            Change::ListenerRemove { address } => self.held_listener(*address),
            Change::ClusterAdd(cluster) | Change::ClusterUpdate(cluster) => {
                self.held_cluster(&cluster.id)
            }
            Change::ClusterRemove { id } => self.held_cluster(id),
            Change::FrontendAdd(frontend) => self.held_frontend(&frontend.identity),
            Change::FrontendRemove { identity } => self.held_frontend(identity),
            Change::BackendAdd(backend) | Change::BackendUpdate(backend) => {
                self.held_backend(&backend.cluster, &backend.id)
            }
            Change::BackendRemove { cluster, id } => self.held_backend(cluster, id),
            Change::CertificateAdd(by) | Change::CertificateReplace { by, .. } => {
                self.held_certificate(by.listener, by.fingerprint())
            }
            Change::CertificateRemove {
                listener,
                fingerprint,
            } => self.held_certificate(*listener, fingerprint),
        }
    }

    fn held_frontend(&self, identity: &Rc<FrontendId>) -> Option<Change> {
        let door = self.door_at(identity.listener)?;
        let router = &self.doors.get(door)?.door.router;
        let method = identity.method.as_deref();
        let rule = router.get(&identity.hostname, &identity.path, method)?;
        let lead = rule.lead.as_ref();
        Some(Change::FrontendAdd(Frontend {
            identity: Rc::clone(identity),
            cluster: lead.map(|lead| Rc::clone(&lead.target().cluster.id)),
            actions: rule.actions.clone(),
        }))
    }

    fn held_listener(&self, address: std::net::SocketAddr) -> Option<Change> {
        let entrance = self.doors.get(self.door_at(address)?)?;
        Some(Change::ListenerAdd(Rc::clone(&entrance.door.listener)))
    }

    fn held_certificate(
        &self,
        listener: std::net::SocketAddr,
        fingerprint: &str,
    ) -> Option<Change> {
        self.door_at(listener)?;
        let certificate = self.certificates.get(listener, fingerprint)?;
        Some(Change::CertificateAdd(Rc::clone(certificate)))
    }

    fn held_cluster(&self, id: &str) -> Option<Change> {
        let target = self.backs.target(id)?;
        Some(Change::ClusterAdd(Rc::clone(&target.cluster)))
    }

    fn held_backend(&self, cluster: &str, id: &str) -> Option<Change> {
        self.backs.backend(cluster, id).map(Change::BackendAdd)
    }
}
