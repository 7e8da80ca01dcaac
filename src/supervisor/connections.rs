//! `connections list` and `connections kill`: every worker is asked, one after another.
//!
//! A worker gives its connections page by page, and the next page is asked for
//! when the client has taken the last one. So a client that does not read costs
//! one page, and 100,000 connections are never in one place.

use crate::limits::{CONNECTIONS_PAGE, CONTROL_REPLY_BYTES_MAX};
use crate::proto::reply;
use crate::proto::said::{tag_of, Answer};
use crate::proto::selection::{ConnectionId, Selection};
use crate::slab::Key;
use crate::state::Refused;
use crate::supervisor::inquiry::{Inquiry, Topic};
use crate::supervisor::Supervisor;

/// What a worker says of a connection, in this order; it may leave some out.
const TOLD: [&str; 11] = [
    "listener",
    "client",
    "state",
    "age_s",
    "cluster",
    "backend",
    "address",
    "bytes_up",
    "bytes_down",
    "host",
    "request",
];

/// How far the workers have been asked.
pub struct Roll {
    /// Who asks, for the log.
    pub(super) who: String,
    /// The client's command: the workers understand it as well.
    pub(super) command: String,
    pub(super) kill: bool,
    /// Processes to be asked, the next one last.
    pub(super) left: Vec<Key>,
    /// The process that is asked now.
    pub(super) at: Option<Key>,
    /// The slot with which its next page begins.
    pub(super) from: u32,
    /// A page is on its way, of which so many lines are still taken.
    pub(super) page: Option<usize>,
    pub(super) killed: u64,
}

impl Roll {
    /// A worker is done with, or gone.
    fn leave(&mut self) {
        self.at = None;
        self.from = 0;
        self.page = None;
    }
}

impl Supervisor {
    pub(super) fn connections(
        &mut self,
        kill: bool,
        selection: &Selection,
        client: Key,
    ) -> Result<String, Refused> {
        let meant = |worker: &Key| {
            let Some((id, pid)) = self.name_of(*worker) else {
                return false;
            };
            let of_place = selection.worker.is_none_or(|wanted| wanted as usize == id);
            of_place && selection.id.is_none_or(|wanted| wanted.pid == pid)
        };
        let mut left = self.processes_to_ask(false);
        left.retain(meant);
        left.reverse();
        let roll = Roll {
            who: self.client(client)?.who.clone(),
            command: selection.command(kill),
            kill,
            left,
            at: None,
            from: 0,
            page: None,
            killed: 0,
        };
        let key = self.inquire(client, Topic::Roll(roll))?;
        // If there is nobody to ask, it is answered at once.
        Ok(self.ask_on(key).unwrap_or_default())
    }

    fn roll(&mut self, key: Key) -> Option<(Key, &mut Roll)> {
        match self.inquiries.get_mut(key)? {
            Inquiry {
                client,
                topic: Topic::Roll(roll),
            } => Some((*client, roll)),
            _ => None,
        }
    }

    /// Asks for the next page, if the client has room for it. Returns the last line at the end of it all.
    pub(super) fn ask_on(&mut self, key: Key) -> Option<String> {
        let settling = self.is_settling();
        loop {
            let (client, roll) = self.roll(key)?;
            if roll.page.is_some() || settling {
                return None;
            }
            let Some(worker) = roll.at.or_else(|| roll.left.pop()) else {
                return Some(self.end_roll(key));
            };
            roll.at = Some(worker);
            let pairs = [
                ("for", tag_of(key)),
                ("from", roll.from.to_string()),
                ("command", roll.command.clone()),
            ];
            let room =
                |client: &super::control::Client| client.outbox.len() < CONTROL_REPLY_BYTES_MAX;
            if !self.control.clients.get(client).is_some_and(room) {
                return None;
            }
            let asked = self.tell_worker(worker, reply::data("page", &pairs).trim_end());
            let (_, roll) = self.roll(key)?;
            if asked {
                roll.page = Some(CONNECTIONS_PAGE);
                return None;
            }
            roll.leave();
        }
    }

    /// Who asked is gone. What was killed is killed: that is told as at the end.
    pub(super) fn break_off(&mut self, roll: Roll) {
        let Roll {
            command,
            who,
            killed,
            kill,
            ..
        } = roll;
        if kill {
            log::info!("{command}, by {who}, who is gone: broken off, at least {killed} closed");
            let pairs = [("command", command), ("killed", killed.to_string())];
            self.tell_event("kill", &pairs);
        }
    }

    /// The last line; a kill is told to whom it concerns.
    fn end_roll(&mut self, key: Key) -> String {
        let Some((_, roll)) = self.roll(key) else {
            return String::new();
        };
        let (kill, killed) = (roll.kill, roll.killed.to_string());
        let (command, who) = (roll.command.clone(), roll.who.clone());
        self.close_inquiry(key);
        if !kill {
            return reply::ok(&[]);
        }
        log::info!("{command}, by {who}: {killed} closed");
        let pairs = [("command", command), ("killed", killed.clone())];
        self.tell_event("kill", &pairs);
        reply::ok(&[("killed", killed)])
    }

    /// One connection of the page that was asked for.
    pub(super) fn take_connection(&mut self, worker: Key, key: Key, said: &Answer) {
        let Some((id, pid)) = self.name_of(worker) else {
            return;
        };
        let Some((client, roll)) = self.roll(key) else {
            return;
        };
        let Some(lines @ 1..) = roll.page.filter(|_| roll.at == Some(worker) && !roll.kill) else {
            return;
        };
        roll.page = Some(lines - 1);
        let client = self.control.clients.get_mut(client);
        if let (Some(client), Some(line)) = (client, line_of(said, id, pid)) {
            client.outbox.push(&line);
        }
    }

    /// The end of a page.
    pub(super) fn turn_page(&mut self, worker: Key, key: Key, said: &Answer) {
        let slots = self.max_connections;
        let Some((client, roll)) = self.roll(key) else {
            return;
        };
        if roll.at != Some(worker) || roll.page.is_none() {
            return;
        }
        roll.page = None;
        let killed = said.value("killed").and_then(|killed| killed.parse().ok());
        roll.killed += killed.unwrap_or(0).min(CONNECTIONS_PAGE as u64);
        // Always further, and never beyond what there can be: it has an end, whatever a worker says.
        let next = said.value("next").and_then(|next| next.parse().ok());
        match next.filter(|next| *next > roll.from && u64::from(*next) <= slots) {
            Some(next) => roll.from = next,
            None => roll.leave(),
        }
        self.push_out(client, false);
    }

    pub(super) fn skip_in_roll(&mut self, worker: Key, key: Key) {
        let Some((client, roll)) = self.roll(key) else {
            return;
        };
        if roll.at == Some(worker) {
            roll.leave();
            self.push_out(client, false);
        }
    }
}

/// The line for the client, of what main knows and what a worker has said.
fn line_of(said: &Answer, id: usize, pid: u32) -> Option<String> {
    let slot = said.value("slot")?;
    let connection = ConnectionId::parse(&format!("{pid}.{slot}"))?;
    let mut pairs = vec![("id", connection.to_string()), ("worker", id.to_string())];
    for name in TOLD {
        pairs.extend(said.value(name).map(|value| (name, value.to_string())));
    }
    Some(reply::data("connection", &pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<String> {
        line_of(&Answer::parse(text)?.1, 2, 77)
    }

    #[test]
    fn a_worker_says_only_what_it_is_asked() {
        let text = "connection for=1.0 pid=1 id=x worker=9 slot=5.6 ok=no request=\"GET /\" state=idle client=[::1]:5";
        let wanted = "connection id=77.5.6 worker=2 client=[::1]:5 state=idle request=\"GET /\"\n";
        assert_eq!(line(text).as_deref(), Some(wanted));
        for bad in ["", "slot=5", "slot=5.6.7", "slot=a.b", "slot=5.6\"\""] {
            assert_eq!(line(&format!("connection for=1.0 {bad}")), None, "{bad}");
        }
    }
}
