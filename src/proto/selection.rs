//! Which client connections a command is about.
//!
//! Owns: the keys of `connections list` and `connections kill`. Main asks workers
//! with the same words that a control client has used.

use std::fmt;
use std::net::SocketAddr;

use crate::config::fields::{fault, Fault, Fields};
use crate::config::keys::CONNECTIONS;
use crate::config::object::{word, Words};
use crate::proto::command::line_of;
use crate::state::Cidr;

/// What must hold of a connection: all that is given. Nothing given: every one is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub id: Option<ConnectionId>,
    pub worker: Option<u32>,
    pub listener: Option<SocketAddr>,
    pub cluster: Option<String>,
    pub backend: Option<String>,
    pub client: Vec<Cidr>,
    /// At least so many seconds old.
    pub older: Option<u32>,
}

/// Names a connection: the process that carries it, and its slot there. A process that
/// takes over has another pid, so no id ever means two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    pub pid: u32,
    pub index: u32,
    pub generation: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}.{}.{}", self.pid, self.index, self.generation)
    }
}

impl ConnectionId {
    pub fn parse(text: &str) -> Option<ConnectionId> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let id = ConnectionId {
            pid: next()?,
            index: next()?,
            generation: next()?,
        };
        // One spelling only: what is printed.
        (id.to_string() == text).then_some(id)
    }
}

impl Selection {
    pub(super) fn of(mut fields: Fields) -> Result<Selection, Fault> {
        let id = match fields.text_or_none("id") {
            None => None,
            Some(text) => Some(ConnectionId::parse(&text).ok_or_else(|| {
                let what = format!("{text:?} is not an id like 1204.7.0: see connections list");
                fault("id", what)
            })?),
        };
        Ok(Selection {
            id,
            worker: fields.int_or_none("worker"),
            listener: fields.address("listener").ok(),
            cluster: fields.text_or_none("cluster"),
            backend: fields.text_or_none("backend"),
            client: fields.ranges("client"),
            older: fields.int_or_none("older"),
        })
    }

    /// The same, for a kill, which has to say what it means.
    pub(super) fn some_of(fields: Fields) -> Result<Selection, Fault> {
        let selection = Selection::of(fields)?;
        if selection != Selection::default() {
            return Ok(selection);
        }
        let names: Vec<&str> = CONNECTIONS.iter().map(|key| key.name).collect();
        let what = format!(
            "give this or another of {}: without any, every connection would be meant",
            names.join(", ")
        );
        Err(fault("id", what))
    }

    /// A line without its LF.
    pub fn command(&self, kill: bool) -> String {
        let verb = if kill { "kill" } else { "list" };
        line_of(&["connections", verb], self.words())
    }

    /// In the order of the table.
    pub fn words(&self) -> Words {
        let mut words = Words::new();
        words.extend(self.id.map(|id| word("id", id)));
        words.extend(self.worker.map(|worker| word("worker", worker)));
        words.extend(self.listener.map(|listener| word("listener", listener)));
        words.extend(self.cluster.iter().map(|cluster| word("cluster", cluster)));
        words.extend(self.backend.iter().map(|backend| word("backend", backend)));
        if !self.client.is_empty() {
            let ranges: Vec<String> = self.client.iter().map(Cidr::to_string).collect();
            words.push(word("client", ranges.join(",")));
        }
        words.extend(self.older.map(|older| word("older", older)));
        words
    }
}

#[cfg(test)]
mod tests {

    use crate::proto::command::Command;
    use crate::state::Timeouts;

    const DEFAULTS: Timeouts = Timeouts {
        front: 1,
        back: 1,
        connect: 1,
        request: 1,
        keepalive: 1,
        tunnel: 1,
    };

    #[test]
    fn commands_round_trip() {
        for line in [
            "connections list",
            "connections list id=12.3.4",
            "connections kill id=4294967295.0.16777215",
            "connections kill worker=63 listener=[::1]:80 cluster=a backend=b client=10.0.0.0/8,::1/128 older=7",
        ] {
            let Ok(Command::Connections { kill, selection }) = Command::decode(line, &DEFAULTS)
            else {
                panic!("{line}");
            };
            assert_eq!(selection.command(kill), line);
        }
    }

    #[test]
    fn what_names_no_connection_is_refused() {
        for (line, what) in [
            ("connections kill", "connections kill: id: give this or another of id, worker, listener, cluster, backend, client, older: without any, every connection would be meant"),
            ("connections list id=1.2", "connections list: id: \"1.2\" is not an id like 1204.7.0: see connections list"),
            ("connections list id=1.2.3.4", "connections list: id: \"1.2.3.4\" is not an id like 1204.7.0: see connections list"),
            ("connections list id=01.2.3", "connections list: id: \"01.2.3\" is not an id like 1204.7.0: see connections list"),
            ("connections list worker=64", "connections list: worker: 64 is not between 0 and 63"),
            ("connections list older=0", "connections list: older: 0 is not between 1 and 31536000"),
        ] {
            let refused = Command::decode(line, &DEFAULTS).expect_err(line);
            assert_eq!(refused.what, what);
        }
    }
}
