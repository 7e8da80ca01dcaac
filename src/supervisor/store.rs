//! systemd's descriptor store (sd_notify(3), FDSTORE=1): what main has bound outlives it, however it ends,
//! and comes back to the next one like a socket of `activation`; so do its workers (`orphans`), by the
//! board on which they stand, and for each the end of its channel and a handle of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use crate::channel::Channel;
use crate::net::board::Board;
use crate::supervisor::activation::Given;
use crate::supervisor::notify;
use crate::sys::process::Child;

/// What stored listening sockets are called, before their address.
const LISTENER: &str = "listener-";
/// What the board is called, before its layout.
const BOARD: &str = "board-";
/// What a worker's channel and handle are called, both before its pid.
const WORKER: &str = "worker-";

/// What a stored descriptor is.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    Listener,
    /// A board that is arranged like ours, or not.
    Board(bool),
    /// A worker's channel or handle.
    Worker(u32),
}

/// What a descriptor of that name is; `None`: it does not come from the store.
pub fn stored(name: &str) -> Option<Stored> {
    if let Some(layout) = name.strip_prefix(BOARD) {
        return Some(Stored::Board(layout == Board::layout()));
    }
    if let Some(pid) = name.strip_prefix(WORKER) {
        return pid.parse().ok().map(Stored::Worker);
    }
    name.starts_with(LISTENER).then_some(Stored::Listener)
}

/// A colon would end the name.
fn name_of(address: &SocketAddr) -> String {
    format!("{LISTENER}{address}").replace(':', "_")
}

fn store(name: &str, fds: &[BorrowedFd]) -> bool {
    notify::send(&format!("FDSTORE=1\nFDNAME={name}"), fds)
}

/// Every descriptor of that name.
fn remove(name: &str) -> bool {
    notify::send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
}

/// The addresses whose sockets lie in the store.
#[derive(Default)]
pub struct Store(BTreeSet<SocketAddr>);

impl Store {
    pub fn holding(stored: BTreeSet<SocketAddr>) -> Store {
        Store(stored)
    }

    /// From now on it holds exactly these, but for what systemd has bound and holds anyway. What could
    /// not be told is told the next time.
    pub fn follow(&mut self, sockets: &BTreeMap<SocketAddr, TcpListener>, given: &Given) {
        self.0
            .retain(|address| sockets.contains_key(address) || !remove(&name_of(address)));
        for (address, socket) in sockets {
            let held = self.0.contains(address) || given.has(address);
            if !held && store(&name_of(address), &[socket.as_fd()]) {
                self.0.insert(*address);
            }
        }
    }

    /// With it the next main knows the workers that it finds.
    pub fn keep_board(&self, board: &Board) {
        store(&format!("{BOARD}{}", Board::layout()), &[board.as_fd()]);
    }

    /// Should main die, the next one finds it. Where the kernel has no handles it does not, and the worker ends.
    pub fn keep_worker(&self, child: &Child, channel: &Channel) {
        if !notify::is_asked() {
            return;
        }
        if let Ok(handle) = child.handle() {
            let name = format!("{WORKER}{}", child.id());
            store(&name, &[channel.as_fd(), handle.as_fd()]);
        }
    }

    /// It is dead, or is left to itself.
    pub fn forget_worker(&self, pid: u32) {
        remove(&format!("{WORKER}{pid}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_colon_and_are_known_again() {
        for address in ["127.0.0.1:80", "[::1]:443"] {
            let name = name_of(&address.parse().expect("an address"));
            assert!(!name.contains(':'), "{name}");
            assert_eq!(stored(&name), Some(Stored::Listener));
        }
        assert_eq!(stored("worker-12"), Some(Stored::Worker(12)));
        assert_eq!(stored("board-1x1"), Some(Stored::Board(false)));
        assert_eq!(stored("web"), None);
        assert_eq!(stored("worker-web"), None);
    }
}
