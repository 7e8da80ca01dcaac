//! What one client may take, asked for one request: who may come at all, how often, with how much.

use std::net::IpAddr;

use crate::http::framing::Body;
use crate::parser::http11::Refusal;
use crate::quota::{Clients, Scope};
use crate::session::record::End;
use crate::session::request::refusal;
use crate::session::{Common, Door, Target, World};
use crate::state::{longest_body, Quota};

/// A request, as far as that is concerned.
#[derive(Clone, Copy)]
pub struct Visit<'w> {
    client: IpAddr,
    door: &'w Door,
    clients: Clients<'w>,
    now_us: u64,
}

/// Said of a body that is too long, whenever that is found.
pub const TOO_LONG: Refusal = Refusal {
    status: 413,
    at: 0,
    what: "the body is longer than max_body",
};

impl<'w> Visit<'w> {
    pub fn of(c: &Common, world: &World<'w>) -> Visit<'w> {
        Visit {
            client: c.peer.ip(),
            door: world.door,
            clients: world.clients,
            now_us: world.now_us,
        }
    }

    /// It has come by a listener. `wait`: so many seconds before the client should come again.
    pub fn comes(self, wait: &mut u32) -> Result<(), Refusal> {
        let listener = &self.door.listener;
        self.asks(&listener.quota, Scope::Listener(listener.address), wait)
    }

    /// It leads to a cluster. Returns how many bytes its body may have at most.
    pub fn goes_to(self, target: &Target, body: Body, wait: &mut u32) -> Result<u64, Refusal> {
        let cluster = &target.cluster;
        if let Some(why) = cluster.quota.denies(self.client) {
            return Err(refusal(403, why));
        }
        self.asks(&cluster.quota, Scope::Cluster(&cluster.id), wait)?;
        match (body, longest_body(&self.door.listener, cluster)) {
            (Body::Counted(n), Some(most)) if n > most => Err(TOO_LONG),
            (_, most) => Ok(most.unwrap_or(u64::MAX)),
        }
    }

    fn asks(self, quota: &Quota, scope: Scope, wait: &mut u32) -> Result<(), Refusal> {
        let Some(rate) = quota.rate else {
            return Ok(());
        };
        let client = self.clients.client(scope, self.client);
        self.clients
            .ask(client, rate, self.now_us)
            .map_err(|seconds| {
                *wait = seconds;
                refusal(429, "more requests than request_rate")
            })
    }
}

/// How the log calls it that a request was refused with this status.
pub fn end_of(status: u16) -> End {
    match status {
        200 | 301 | 308 => End::Ok,
        403 => End::ClientDenied,
        404 | 421 => End::ClientNoRoute,
        413 => End::ClientTooLarge,
        429 => End::ClientRateLimited,
        _ => End::ClientBadRequest,
    }
}
