//! Connections to unix sockets, which main makes for workers: they find no file, and may make no such socket.
//!
//! A worker says which backend it means, never a path: so it is connected to what is configured and to nothing
//! else. The call does not block: a socket whose queue is full refuses.

use std::os::fd::OwnedFd;

use crate::limits::CONNECTS_UNTAKEN_MAX;
use crate::proto::reply;
use crate::proto::said::Errand;
use crate::slab::Key;
use crate::state::{Address, State};
use crate::supervisor::Supervisor;
use crate::sys::socket;

fn run(errand: &Errand, state: &State) -> Result<OwnedFd, String> {
    let backend = state.backend(&errand.cluster, &errand.id);
    match backend.map(|it| &it.address) {
        Some(Address::Unix(path)) => socket::connect_unix(path).map_err(|e| e.to_string()),
        _ => Err("there is no such backend with a unix socket any more".into()),
    }
}

impl Supervisor {
    pub(super) fn run_errand(&mut self, worker: Key, errand: &Errand) {
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return;
        };
        if process.channel.waiting() >= CONNECTS_UNTAKEN_MAX || process.closed {
            return;
        }
        let made = match process.may_connect(self.now_ms) {
            true => run(errand, &self.state),
            false => Err("this worker connects to unix sockets too often".into()),
        };
        let mut pairs = vec![("for", errand.ticket.to_string())];
        let fd = made.map_err(|why| pairs.push(("why", why))).ok();
        let line = reply::data("connected", &pairs);
        process.say_with(line.trim_end(), fd.into_iter().collect());
        if process.channel.is_blocked() {
            self.watch_blocked_workers();
        }
    }
}
