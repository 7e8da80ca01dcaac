//! The backends that a request might be sent to, as `explain` tells them: which are chosen, and why or why not.

use crate::http::challenge::Challenges;
use crate::proto::reply;
use crate::state::{Backend, BackendState, Listener, LoadBalancing, State};

/// What is so now, and is no part of the state.
pub struct Now<'a> {
    /// A line about a cluster that is paused.
    pub paused: &'a dyn Fn(&str) -> String,
    /// Why requests do not go to a backend.
    pub avoided: &'a dyn Fn(&Backend) -> Option<String>,
    /// Whether too few of a cluster's backends are well to leave any alone.
    pub panics: &'a dyn Fn(&str) -> bool,
    pub challenges: &'a Challenges,
}

/// The backends of the cluster that it leads to. Whether one of them takes requests.
pub fn candidates(
    state: &State,
    now: &Now,
    listener: &Listener,
    led: &str,
    lines: &mut String,
) -> bool {
    let mut takes_any = false;
    for backend in state.backends_of(led) {
        let servers = state.servers_for(backend);
        let mut tell = |server: &Backend, why: String| {
            let pairs = [
                ("id", server.id.to_string()),
                ("address", server.address.to_string()),
                ("chosen", why),
            ];
            *lines += &reply::data("candidate", &pairs);
        };
        if servers.is_empty() {
            tell(
                backend,
                "no, its name is not resolved: see name list".into(),
            );
        }
        for server in servers {
            let (takes, why) = chosen(state, now, &server);
            takes_any |= takes;
            match listener.enabled {
                true => tell(&server, why),
                false => tell(&server, "no, the listener is disabled".into()),
            }
        }
    }
    takes_any
}

/// Whether a backend is among those that requests are spread over, and why, or why not.
fn chosen(state: &State, now: &Now, backend: &Backend) -> (bool, String) {
    let takes = |backend: &Backend| {
        let ready = backend.weight > 0 && backend.state == BackendState::Ready;
        ready && (now.avoided)(backend).is_none()
    };
    let others = |backup| {
        let mut all = state.servers_of(&backend.cluster);
        all.any(|other| other.backup == backup && takes(&other))
    };
    let no = |why: &str| (false, why.to_string());
    match (backend.state, (now.avoided)(backend)) {
        (BackendState::Drain, _) => no("no, it drains"),
        (BackendState::Down, _) => no("no, it is down"),
        _ if backend.weight == 0 => no("no, its weight is 0"),
        (_, Some(why)) => (false, why),
        _ if backend.backup && others(false) => no("no, it is a backup"),
        _ if (now.panics)(&backend.cluster) => {
            let why = by_policy(state, backend);
            (true, format!("{why}: too few are well, so all are used"))
        }
        _ => (true, by_policy(state, backend).into()),
    }
}

/// When requests go to a backend that takes some.
fn by_policy(state: &State, backend: &Backend) -> &'static str {
    let cluster = state.cluster(&backend.cluster);
    match cluster.map(|cluster| cluster.balancing.policy) {
        Some(LoadBalancing::LeastConn | LoadBalancing::PowerOfTwo) => {
            "yes, when it has few requests for its weight"
        }
        Some(LoadBalancing::LeastTime) => "yes, when it answers fast, by weight",
        Some(LoadBalancing::Hash) => "yes, for its share of hash_on, by weight",
        _ => "yes, by weight",
    }
}
