//! What clients of a listener or a cluster may take.
//!
//! Owns: which of the two decides. A client has to be let in by both lists of
//! addresses and by both rates; the longest body is what the cluster says, or
//! else what the listener says. Who the client is, is what the connection says,
//! or its PROXY header, and never a field of a request.

use std::net::IpAddr;

use super::rule::is_within;
use super::{Cidr, Cluster, Listener};
use crate::quota::rate::Rate;

/// Of a listener or of a cluster; what is `None` or empty limits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Who may come, if it is not empty …
    pub allow: Vec<Cidr>,
    /// … and who may not, even so.
    pub deny: Vec<Cidr>,
    /// Connections of one client at once; of a listener only.
    pub connections: Option<u32>,
    /// Requests of one client.
    pub rate: Option<Rate>,
    /// Bytes of a request's body.
    pub body: Option<u32>,
    /// Bytes a second that a client which is waited for sends or takes; of a listener only.
    pub pace: Option<u32>,
}

impl Quota {
    /// Why a client may not come, if it may not.
    pub fn denies(&self, client: IpAddr) -> Option<&'static str> {
        if !self.deny.is_empty() && is_within(client, &self.deny) {
            return Some("the client's address is in deny");
        }
        let listed = self.allow.is_empty() || is_within(client, &self.allow);
        (!listed).then_some("the client's address is not in allow")
    }
}

/// The longest body of a request that comes by `listener` and leads to `cluster`.
pub fn longest_body(listener: &Listener, cluster: &Cluster) -> Option<u64> {
    cluster.quota.body.or(listener.quota.body).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins() {
        let ranges = |texts: &[&str]| -> Vec<Cidr> {
            let ranges = texts.iter().map(|text| Cidr::parse(text).expect(text));
            ranges.collect()
        };
        for (allow, deny, client, denied) in [
            (&[][..], &[][..], "1.2.3.4", false),
            (&["10.0.0.0/8"], &[], "10.1.2.3", false),
            (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", false),
            (&["10.0.0.0/8"], &[], "11.1.2.3", true),
            (&["10.0.0.0/8"], &[], "::1", true),
            (&[], &["10.0.0.0/8"], "10.1.2.3", true),
            (&[], &["10.0.0.0/8"], "11.1.2.3", false),
            // Whichever is the smaller range.
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.1.2.3", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", false),
        ] {
            let quota = Quota {
                allow: ranges(allow),
                deny: ranges(deny),
                ..Quota::default()
            };
            let why = quota.denies(client.parse().expect("an address"));
            assert_eq!(why.is_some(), denied, "{client} {allow:?} {deny:?}");
        }
    }
}
