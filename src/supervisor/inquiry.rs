//! What workers are asked for a control client, and what they answer.
//!
//! One inquiry for each client at most, which waits until it is over. A worker's
//! answers carry the inquiry's tag; those that nobody waits for miss, and
//! whatever a worker says, no more is kept than was asked for. If a worker dies
//! meanwhile, or the client goes away, that part of it is over.

use crate::proto::said::Answer;
use crate::slab::Key;
use crate::state::Refused;
use crate::supervisor::check::Check;
use crate::supervisor::connections::Roll;
use crate::supervisor::workers::Life;
use crate::supervisor::Supervisor;

/// A question under way.
pub struct Inquiry {
    pub client: Key,
    pub topic: Topic,
}

pub enum Topic {
    Roll(Roll),
    Check(Check),
}

impl Supervisor {
    /// From now on the client waits for the end of it.
    pub(super) fn inquire(&mut self, client: Key, topic: Topic) -> Result<Key, Refused> {
        let asking = self.client(client)?;
        asking.waiting = true;
        let key = self.inquiries.insert(Inquiry { client, topic });
        self.client(client)?.inquiry = Some(key);
        Ok(key)
    }

    /// It is over: the client goes on.
    pub(super) fn close_inquiry(&mut self, key: Key) {
        if let Some(inquiry) = self.inquiries.remove(key) {
            if let Some(client) = self.control.clients.get_mut(inquiry.client) {
                client.inquiry = None;
                client.waiting = false;
            }
        }
    }

    /// The client is gone, and nothing is asked for it any more.
    pub(super) fn let_go(&mut self, client: Key) {
        let gone = self.control.clients.remove(client);
        let inquiry = gone.and_then(|client| client.inquiry);
        let inquiry = inquiry.and_then(|key| self.inquiries.remove(key));
        if let Some(Topic::Roll(roll)) = inquiry.map(|inquiry| inquiry.topic) {
            self.break_off(roll);
        }
    }

    /// A client may have taken what it was told: the rest is asked for.
    pub(super) fn go_on(&mut self, client: Key) {
        let inquiry = self.control.clients.get(client).and_then(|c| c.inquiry);
        if let Some(answer) = inquiry.and_then(|key| self.ask_on(key)) {
            self.answer_late(client, &answer);
        }
    }

    /// A worker answers.
    pub(super) fn hear(&mut self, worker: Key, line: &str) {
        let Some((key, said)) = Answer::parse(line) else {
            return;
        };
        match said.subject.as_str() {
            "connection" => self.take_connection(worker, key, &said),
            "page" => self.turn_page(worker, key, &said),
            "checked" => self.take_digest(worker, key, line),
            _ => {}
        }
    }

    /// A worker will answer nothing any more.
    pub(super) fn stop_asking(&mut self, worker: Key) {
        for key in self.inquiries.keys() {
            self.skip_in_roll(worker, key);
            self.skip_in_check(worker, key);
        }
    }

    /// Whom to ask, by place and age: all that carry connections, or those that accept new ones.
    pub(super) fn processes_to_ask(&self, accepting: bool) -> Vec<Key> {
        let fit = |life: Life| match life {
            Life::Starting => false,
            Life::Accepting => true,
            Life::Retiring { .. } => !accepting,
        };
        let all = self.workers.processes.iter();
        let mut found: Vec<_> = all
            .filter(|(_, process)| fit(process.life) && !process.closed)
            .map(|(key, process)| ((process.id, process.started_ms, process.row), key))
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, key)| key).collect()
    }

    /// Place and pid of a process.
    pub(super) fn name_of(&self, worker: Key) -> Option<(usize, u32)> {
        let process = self.workers.processes.get(worker)?;
        Some((process.id, process.child.id()))
    }

    /// False: there is nobody to be told.
    pub(super) fn tell_worker(&mut self, worker: Key, line: &str) -> bool {
        let found = self.workers.processes.get_mut(worker);
        let Some(process) = found.filter(|process| !process.closed) else {
            return false;
        };
        process.channel.send(line);
        // A failure means that it died, which SIGCHLD tells.
        let _ = process.channel.flush();
        if process.channel.is_blocked() {
            self.watch_blocked_workers();
        }
        true
    }
}
