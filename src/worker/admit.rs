//! Who may come in by a listener: by its address, and by how many connections it has already.
//!
//! Decided as soon as it is known who the client is: when its connection is accepted, or when
//! a proxy before this one has said for whom it speaks.

use std::net::SocketAddr;

use crate::metrics::Count;
use crate::net::ledger::Tally;
use crate::quota::crowd::Place;
use crate::quota::{Client, Scope};
use crate::session::Door;
use crate::state::Listener;

/// Whether a client may come in.
pub enum Entry {
    /// Where its connection is counted, if it is.
    Yes(Option<Place>),
    /// That was counted and said.
    No,
}

pub fn entry(door: &Door, client: SocketAddr, tally: &Tally) -> Entry {
    let listener = &door.listener;
    let (limit, why) = match (
        listener.quota.denies(client.ip()),
        listener.quota.connections,
    ) {
        (Some(why), _) => (Count::RefusedAddress, why),
        (None, None) => return Entry::Yes(None),
        (None, Some(most)) => {
            let one = counted_as(listener, client, tally);
            match tally.clients().admit(tally.page(), one, most) {
                Some(place) => return Entry::Yes(Some(place)),
                None => (
                    Count::RefusedConnections,
                    "the client has max_connections_per_ip already",
                ),
            }
        }
    };
    tally.row(door.series).add(limit, 1);
    log::debug!("{client} is refused on {}: {why}", listener.address);
    Entry::No
}

/// It came in by another worker, and is counted here from now on.
pub fn entered(listener: &Listener, client: SocketAddr, tally: &Tally) -> Option<Place> {
    listener.quota.connections?;
    let one = counted_as(listener, client, tally);
    tally.clients().enter(tally.page(), one)
}

fn counted_as(listener: &Listener, client: SocketAddr, tally: &Tally) -> Client {
    let scope = Scope::Listener(listener.address);
    tally.clients().client(scope, client.ip())
}
