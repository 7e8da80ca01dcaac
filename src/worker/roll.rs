//! The roll of the client connections, for main: what each is doing, or its end.
//!
//! Main asks page by page, and asks for the next one when it has room for it. So
//! a page is short, and traffic has its turn between two of them.

use crate::limits::{CONNECTIONS_LOOKED_AT, CONNECTIONS_PAGE, REQUEST_SHOWN_BYTES_MAX};
use crate::proto::reply;
use crate::proto::selection::Selection;
use crate::session::record::End;
use crate::session::Server;
use crate::slab::Key;
use crate::worker::drive::Slot;
use crate::worker::Worker;

/// What came of one page.
pub struct Page {
    /// A line about each connection, without LF; none of those that were closed.
    pub lines: Vec<String>,
    pub killed: usize,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<u32>,
}

impl Worker {
    /// From the slot `from` on; `tag` says whose question it is.
    pub(super) fn page(&mut self, selection: &Selection, kill: bool, from: u32, tag: &str) -> Page {
        let (first, end) = match selection.id {
            Some(id) => (id.index, id.index.saturating_add(1).min(self.slots.end())),
            None => (from, self.slots.end()),
        };
        let last = first.saturating_add(CONNECTIONS_LOOKED_AT).min(end);
        let mut page = Page {
            lines: Vec::new(),
            killed: 0,
            next: (last < end).then_some(last),
        };
        for index in first..last {
            if page.killed + page.lines.len() == CONNECTIONS_PAGE {
                page.next = Some(index);
                break;
            }
            let fitting = self.slots.key_at(index);
            let Some(key) = fitting.filter(|key| self.fits(*key, selection)) else {
                continue;
            };
            if kill {
                self.kill(key);
                page.killed += 1;
            } else if let Some(line) = self.line_about(key, tag) {
                page.lines.push(line);
            }
        }
        page
    }

    fn fits(&self, key: Key, selection: &Selection) -> bool {
        let Some(slot) = self.slots.get(key) else {
            return false;
        };
        let Selection {
            id,
            // Main asks that one only.
            worker: _,
            listener,
            cluster,
            backend,
            client,
            older,
        } = selection;
        let cluster_of = || {
            let exchange = slot.session.exchange();
            exchange.and_then(|x| Some(&*x.target.as_ref()?.cluster.id))
        };
        let peer = slot.session.peer().ip();
        id.is_none_or(|id| (id.index, id.generation) == (key.index, key.generation))
            && listener.is_none_or(|wanted| self.listener_of(slot) == Some(wanted))
            && (client.is_empty() || client.iter().any(|range| range.contains(peer)))
            && older.is_none_or(|seconds| self.age_s(slot) >= u64::from(seconds))
            && cluster
                .as_ref()
                .is_none_or(|wanted| cluster_of() == Some(wanted.as_str()))
            && backend.as_ref().is_none_or(|wanted| {
                self.backend_of(slot)
                    .is_some_and(|b| *b.backend.id == **wanted)
            })
    }

    fn listener_of(&self, slot: &Slot) -> Option<std::net::SocketAddr> {
        let entrance = self.doors.get(slot.door)?;
        Some(entrance.door.listener.address)
    }

    /// The one that it uses, be it to connect.
    fn backend_of(&self, slot: &Slot) -> Option<std::rc::Rc<Server>> {
        let known = slot.session.exchange().and_then(|x| x.server.clone());
        known.or_else(|| self.backs.server(slot.back?))
    }

    fn age_s(&self, slot: &Slot) -> u64 {
        self.now_us.saturating_sub(slot.accepted_us) / 1_000_000
    }

    fn line_about(&self, key: Key, tag: &str) -> Option<String> {
        let slot = self.slots.get(key)?;
        let mut pairs = vec![
            ("for", tag.to_string()),
            ("slot", format!("{}.{}", key.index, key.generation)),
            ("listener", self.listener_of(slot)?.to_string()),
            ("client", slot.session.peer().to_string()),
            ("state", slot.session.phase().to_string()),
            ("age_s", self.age_s(slot).to_string()),
        ];
        let exchange = slot.session.exchange();
        if let Some(target) = exchange.and_then(|x| x.target.as_ref()) {
            pairs.push(("cluster", target.cluster.id.to_string()));
        }
        if let Some(server) = self.backend_of(slot) {
            pairs.push(("backend", server.backend.id.to_string()));
            pairs.push(("address", server.backend.address.to_string()));
        }
        let record = exchange.map(|x| &x.record);
        let bytes = record.map_or((0, 0), |r| (r.bytes_up, r.bytes_down));
        pairs.push(("bytes_up", bytes.0.to_string()));
        pairs.push(("bytes_down", bytes.1.to_string()));
        let host = record.map_or(&[][..], |r| r.host.as_slice());
        if !host.is_empty() {
            pairs.push(("host", shown(host)));
        }
        let request = record.map_or(&[][..], |r| r.line.as_slice());
        if !request.is_empty() {
            pairs.push(("request", shown(request)));
        }
        let mut line = reply::data("connection", &pairs);
        line.pop();
        Some(line)
    }

    /// Ends it now. Who has something under way sees that it was cut.
    fn kill(&mut self, key: Key) {
        self.with_turn(key, |turn| {
            if turn.slot.session.cut(End::ProxyKilled) {
                turn.log();
            }
            if turn.slot.session.exchange().is_some() {
                turn.slot.reset = true;
                let back = turn
                    .slot
                    .back
                    .and_then(|back| turn.backs.conns.get_mut(back));
                if let Some(back) = back {
                    back.conn.reset();
                }
            }
            turn.slot.session.forget(&mut turn.world);
        });
    }
}

/// The start of a request or of its host, as far as it is plain text.
fn shown(request: &[u8]) -> String {
    let start = request.iter().take(REQUEST_SHOWN_BYTES_MAX);
    let plain = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    start.map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CONNECTION_LINE_BYTES_MAX, NAME_BYTES_MAX};

    #[test]
    fn what_is_shown_of_a_request_is_short_and_plain() {
        assert_eq!(shown(b"GET /a?b=\"c\""), "GET /a?b=\"c\"");
        assert_eq!(shown(b"\x16\x03\x01\n\x1b[2J\xc3\xa9"), "?????[2J??");
        // Whatever it is, main takes the line.
        let long = vec![b'\\'; 10_000];
        let mut line = String::new();
        crate::proto::line::quote(&mut line, &shown(&long));
        assert!(2 * line.len() + 2 * NAME_BYTES_MAX + 400 < CONNECTION_LINE_BYTES_MAX);
    }
}
