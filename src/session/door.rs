//! Where a session came in, and where its requests lead.

use std::cell::RefCell;
use std::rc::Rc;

use crate::metrics::Series;
use crate::route::Router;
use crate::slab::Key;
use crate::state::{Actions, Backend, Cluster, Listener, Protocol};

/// Where a frontend leads.
pub struct Target {
    /// How the worker finds the cluster again.
    pub key: Key,
    pub cluster: Rc<Cluster>,
    pub series: Series,
}

/// Where the frontends of a cluster lead: in one place for all, so that a change of
/// the cluster costs the same with a hundred thousand of them.
#[derive(Clone)]
pub struct Lead(Rc<RefCell<Rc<Target>>>);

impl Lead {
    pub fn new(target: Target) -> Lead {
        Lead(Rc::new(RefCell::new(Rc::new(target))))
    }

    pub fn target(&self) -> Rc<Target> {
        Rc::clone(&self.0.borrow())
    }

    /// Requests from now on go there; those under way stay with what they found.
    pub fn turn(&self, target: Target) {
        *self.0.borrow_mut() = Rc::new(target);
    }
}

/// What a frontend does with its requests.
#[derive(Clone)]
pub struct Rule {
    pub lead: Lead,
    pub actions: Option<Rc<Actions>>,
}

/// Who answers.
pub struct Server {
    /// The worker's name for it.
    pub key: Key,
    pub backend: Rc<Backend>,
    pub series: Series,
}

/// The listener that a session came in by, with its rules.
pub struct Door {
    pub listener: Rc<Listener>,
    pub series: Series,
    pub router: Router<Rule>,
}

impl Door {
    /// Where a request leads; without port, the path ends before the query.
    pub fn find(&self, hostname: &[u8], path: &[u8], method: &[u8]) -> Option<&Rule> {
        self.router.find(hostname, path, method)
    }

    /// Which host is asked for stands in a ClientHello.
    pub fn reads_hello(&self) -> bool {
        self.listener.protocol == Protocol::TlsPassthrough
    }

    pub fn is_secure(&self) -> bool {
        self.listener.protocol == Protocol::Https
    }
}
