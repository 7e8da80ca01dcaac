//! systemd's descriptor store (sd_notify(3), FDSTORE=1): what main has bound outlives it,
//! however it ends, and comes back to the next one like a socket of `activation`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use crate::supervisor::activation::Given;
use crate::supervisor::notify;

/// What stored listening sockets are called, before their address.
const PREFIX: &str = "listener-";

/// Whether a descriptor of that name comes from the store.
pub fn is_stored(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A colon would end the name.
fn name_of(address: &SocketAddr) -> String {
    format!("{PREFIX}{address}").replace(':', "_")
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
        self.0.retain(|address| {
            let remove = format!("FDSTOREREMOVE=1\nFDNAME={}", name_of(address));
            sockets.contains_key(address) || !notify::send(&remove, &[])
        });
        for (address, socket) in sockets {
            let store = format!("FDSTORE=1\nFDNAME={}", name_of(address));
            let held = self.0.contains(address) || given.has(address);
            if !held && notify::send(&store, &[socket.as_fd()]) {
                self.0.insert(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_colon_and_are_known_again() {
        for address in ["127.0.0.1:80", "[::1]:443"] {
            let name = name_of(&address.parse().expect("an address"));
            assert!(!name.contains(':') && is_stored(&name), "{name}");
        }
        assert!(!is_stored("web"));
    }
}
