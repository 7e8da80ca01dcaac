//! Many control clients at once, and what they may hold together.
//!
//! Each of them is bounded by itself; this is about all of them: places,
//! unfinished lines, open transactions. Who holds most or does least gives way.

use crate::limits::{
    CONTROL_SILENCE_MS, CONTROL_UNFINISHED_BYTES_MAX, TRANSACTIONS_BYTES_MAX, TRANSACTION_BYTES_MAX,
};
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::control::{Client, Control};
use crate::supervisor::Supervisor;

/// Shorter ones are not looked at: all clients together cannot hold too much in them.
const LONG_LINE_BYTES: usize = 64 * 1024;

/// Who has been silent longest, of those with nothing under way: `(who, busy, heard_ms)`.
fn longest_silent<K>(clients: impl Iterator<Item = (K, bool, u64)>, now_ms: u64) -> Option<K> {
    let silent = clients.filter(|(_, busy, heard_ms)| {
        !busy && now_ms.saturating_sub(*heard_ms) >= CONTROL_SILENCE_MS
    });
    silent
        .min_by_key(|(_, _, heard_ms)| *heard_ms)
        .map(|(who, _, _)| who)
}

impl Control {
    /// All places are taken and another one comes: whoever has long been silent gives its place up.
    pub(super) fn let_go_of_a_silent_one(&mut self, now_ms: u64) {
        let clients = self.clients.iter();
        let standing = clients.map(|(key, client)| (key, client.is_busy(), client.heard_ms));
        let Some(client) =
            longest_silent(standing, now_ms).and_then(|key| self.clients.remove(key))
        else {
            return;
        };
        let what = "you were silent, and another control client needs the place: connect again";
        log::info!("{}: silent, let go for another control client", client.who);
        client.say_good_bye(&Refused::new(Code::Limit, what));
    }
}

impl Supervisor {
    /// Unfinished lines take memory until they end: of too many the longest is given up.
    pub(super) fn bound_unfinished_lines(&mut self, key: Key) {
        let clients = &self.control.clients;
        if clients
            .get(key)
            .is_none_or(|one| one.unfinished() < LONG_LINE_BYTES)
        {
            return;
        }
        let lengths = || {
            clients
                .iter()
                .map(|(key, client)| (client.unfinished(), key))
        };
        let all: usize = lengths().map(|(length, _)| length).sum();
        if all <= CONTROL_UNFINISHED_BYTES_MAX {
            return;
        }
        let Some((_, longest)) = lengths().max_by_key(|(length, _)| *length) else {
            return;
        };
        let what = "too many long lines come at once: send yours again, whole";
        let refused = Refused::new(Code::Limit, what);
        self.spoil_transaction(longest, &refused);
        if let Some(client) = self.control.clients.get_mut(longest) {
            client.give_line_up();
            client.outbox.push(&reply::error(&refused));
            self.push_out(longest, false);
        }
    }

    /// Whether the transaction of a client, if it has one, may take another line of so many bytes.
    pub(super) fn charge(&mut self, key: Key, bytes: usize) -> Result<(), Refused> {
        let of = |client: &Client| client.transaction.as_ref().map_or(0, |one| one.bytes);
        let all: usize = self
            .control
            .clients
            .iter()
            .map(|(_, client)| of(client))
            .sum();
        let client = self.control.clients.get_mut(key);
        let Some(own) = client.and_then(|client| client.transaction.as_mut()) else {
            return Ok(());
        };
        let what = if own.bytes + bytes > TRANSACTION_BYTES_MAX {
            format!("the transaction has more than {TRANSACTION_BYTES_MAX} bytes: use several")
        } else if all + bytes > TRANSACTIONS_BYTES_MAX {
            format!("all open transactions have more than {TRANSACTIONS_BYTES_MAX} bytes: try again later")
        } else {
            own.bytes += bytes;
            return Ok(());
        };
        Err(Refused::new(Code::Limit, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_one_that_does_nothing_gives_way() {
        let now = 10 * CONTROL_SILENCE_MS;
        let long_ago = now - CONTROL_SILENCE_MS;
        for (clients, who) in [
            (vec![], None),
            (vec![(false, now)], None),
            (vec![(false, long_ago + 1)], None),
            (vec![(false, long_ago)], Some(0)),
            (vec![(true, 0)], None),
            (
                vec![
                    (true, 0),
                    (false, long_ago),
                    (false, long_ago - 1),
                    (false, now),
                ],
                Some(2),
            ),
            // A clock that was read later is no reason.
            (vec![(false, now + 5)], None),
        ] {
            let standing = (0..)
                .zip(&clients)
                .map(|(i, (busy, heard))| (i, *busy, *heard));
            assert_eq!(longest_silent(standing, now), who, "{clients:?}");
        }
    }
}
