//! The keys of session tickets: made here, the same in every worker, in memory only.
//!
//! A ring of three: the next one is known everywhere before anybody uses it, the
//! previous one is still taken. So no client is asked for a whole handshake
//! because keys were changed, or because it meets another worker.

use openssl::rand::rand_bytes;

use crate::limits::TICKET_KEY_MS;
use crate::supervisor::handover::Record;
use crate::supervisor::Supervisor;
use crate::sys::ssl::TicketKey;

#[derive(Clone)]
pub struct Tickets {
    /// Current, next, previous.
    ring: [TicketKey; 3],
    due_ms: u64,
}

impl Tickets {
    /// An error: the system has no randomness.
    pub fn new(now_ms: u64) -> std::io::Result<Tickets> {
        Ok(Tickets {
            ring: [fresh()?, fresh()?, fresh()?],
            due_ms: now_ms + TICKET_KEY_MS,
        })
    }

    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// What a worker is told.
    pub fn line(&self) -> String {
        let keys: Vec<String> = self.ring.iter().map(TicketKey::encode).collect();
        format!("tickets keys={}", keys.join(","))
    }

    /// From a line of `Tickets::line`, and when the keys change.
    pub fn take(it: &mut Record) -> Result<Tickets, String> {
        let keys = it.text("keys")?;
        let keys: Option<Vec<TicketKey>> = keys.split(',').map(TicketKey::decode).collect();
        let ring = keys.and_then(|keys| keys.try_into().ok());
        Ok(Tickets {
            ring: ring.ok_or("tickets: keys are three keys")?,
            due_ms: it.value("due_ms")?,
        })
    }

    fn rotate(&mut self, now_ms: u64) -> std::io::Result<()> {
        let [current, next, _] = self.ring;
        self.ring = [next, fresh()?, current];
        self.due_ms = now_ms + TICKET_KEY_MS;
        Ok(())
    }
}

fn fresh() -> std::io::Result<TicketKey> {
    let mut key = TicketKey {
        name: [0; 16],
        cipher: [0; 32],
        mac: [0; 32],
    };
    for part in [&mut key.name[..], &mut key.cipher, &mut key.mac] {
        rand_bytes(part)?;
    }
    Ok(key)
}

impl Supervisor {
    /// In due time other keys.
    pub(super) fn look_at_tickets(&mut self) {
        if self.now_ms < self.tickets.due_ms() {
            return;
        }
        match self.tickets.rotate(self.now_ms) {
            Ok(()) => {
                let line = self.tickets.line();
                self.tell_workers(&line);
            }
            Err(e) => log::error!("session tickets keep their keys: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_before_it_is_used_and_after() {
        let mut tickets = Tickets::new(5).expect("randomness");
        let [current, next, _] = tickets.ring;
        assert!(current != next && tickets.due_ms() == 5 + TICKET_KEY_MS);
        tickets.rotate(100).expect("randomness");
        assert!(tickets.ring[0] == next && tickets.ring[2] == current);
        assert!(tickets.ring[1] != current && tickets.ring[1] != next);
        let line = tickets.line();
        let keys = line.strip_prefix("tickets keys=").expect("the line");
        let decoded: Option<Vec<TicketKey>> = keys.split(',').map(TicketKey::decode).collect();
        assert!(decoded.expect("keys") == tickets.ring);
    }
}
