//! `state check`: every worker that accepts says what it has, and main compares.
//!
//! The question goes the way of all changes, so a worker answers it when it has
//! done all that was committed before, and nothing that comes after.

use crate::proto::digest::Digest;
use crate::proto::reply;
use crate::proto::said::tag_of;
use crate::slab::Key;
use crate::state::{Code, Refused};
use crate::supervisor::inquiry::{Inquiry, Topic};
use crate::supervisor::Supervisor;

/// A comparison under way.
pub struct Check {
    /// What main had when it asked, and at which revision that was.
    wanted: Digest,
    revision: u64,
    /// Workers that have not answered.
    missing: Vec<Key>,
    answers: Vec<Answer>,
}

struct Answer {
    id: usize,
    pid: u32,
    /// `None`: it died before; its successor starts with what main has.
    has: Option<Digest>,
}

impl Supervisor {
    pub(super) fn check_state(&mut self, client: Key) -> Result<String, Refused> {
        let check = Check {
            wanted: self.digest,
            revision: self.revision,
            missing: Vec::new(),
            answers: Vec::new(),
        };
        let key = self.inquire(client, Topic::Check(check))?;
        let line = reply::data("check", &[("for", tag_of(key))]);
        let mut told = self.processes_to_ask(true);
        told.retain(|worker| self.tell_worker(*worker, line.trim_end()));
        if told.is_empty() {
            self.close_inquiry(key);
            let what = "no worker accepts at present, so none can be compared: see workers";
            return Err(Refused::new(Code::Failed, what));
        }
        if let Some((_, check)) = self.check(key) {
            check.missing = told;
        }
        Ok(String::new())
    }

    fn check(&mut self, key: Key) -> Option<(Key, &mut Check)> {
        match self.inquiries.get_mut(key)? {
            Inquiry {
                client,
                topic: Topic::Check(check),
            } => Some((*client, check)),
            _ => None,
        }
    }

    pub(super) fn take_digest(&mut self, worker: Key, key: Key, line: &str) {
        if let Some(has) = Digest::parse(line) {
            self.answered(worker, key, Some(has));
        }
    }

    pub(super) fn skip_in_check(&mut self, worker: Key, key: Key) {
        self.answered(worker, key, None);
    }

    fn answered(&mut self, worker: Key, key: Key, has: Option<Digest>) {
        let (id, pid) = self.name_of(worker).unwrap_or_default();
        let Some((client, check)) = self.check(key) else {
            return;
        };
        if !check.missing.contains(&worker) {
            return;
        }
        check.missing.retain(|key| *key != worker);
        check.answers.push(Answer { id, pid, has });
        if check.missing.is_empty() {
            let answer = check.verdict();
            self.close_inquiry(key);
            self.answer_late(client, &answer);
        }
    }
}

impl Check {
    /// A line for each worker, and the last one; who disagrees is told to the log as well.
    fn verdict(&mut self) -> String {
        self.answers.sort_by_key(|answer| (answer.id, answer.pid));
        let mut text = String::new();
        let mut wrong = Vec::new();
        for Answer { id, pid, has } in &self.answers {
            let mut pairs = vec![("id", id.to_string()), ("pid", pid.to_string())];
            let Some(has) = has else {
                pairs.push(("state", "died".into()));
                text += &reply::data("worker", &pairs);
                continue;
            };
            let agrees = *has == self.wanted;
            pairs.push(("revision", self.revision.to_string()));
            pairs.extend(has.counts());
            pairs.push(("agrees", agrees.to_string()));
            text += &reply::data("worker", &pairs);
            if !agrees {
                let wanted = reply::data("main", &self.wanted.counts());
                let line = reply::data("worker", &pairs);
                log::error!(
                    "{} has not what main has, which is {}: worker restart id={id} replaces it",
                    line.trim_end(),
                    wanted.trim_end(),
                );
                wrong.push(*id);
            }
        }
        if wrong.is_empty() {
            let revision = self.revision.to_string();
            return text + &reply::ok(&[("agrees", "true".into()), ("revision", revision)]);
        }
        let ids: Vec<String> = wrong.iter().map(usize::to_string).collect();
        let restarts: Vec<String> = wrong
            .iter()
            .map(|id| format!("worker restart id={id}"))
            .collect();
        let what = format!(
            "what worker {} has is not what main has: replace it with {}",
            ids.join(" and worker "),
            restarts.join(", then ")
        );
        text + &reply::error(&Refused::new(Code::Mismatch, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample::Random;

    #[test]
    fn who_disagrees_is_named() {
        let wanted = Digest::of(Random::new(1).state(30).dump());
        let other = Digest::of(Random::new(2).state(30).dump());
        let answer = |id, has| Answer {
            id,
            pid: 10 + id as u32,
            has,
        };
        let mut check = Check {
            wanted,
            revision: 5,
            missing: Vec::new(),
            answers: vec![answer(1, None), answer(0, Some(wanted))],
        };
        let text = check.verdict();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("worker id=0 pid=10 revision=5 listeners="));
        assert!(lines[0].ends_with(" agrees=true"), "{text}");
        assert_eq!(
            lines[1..],
            ["worker id=1 pid=11 state=died", "ok agrees=true revision=5"]
        );
        check.answers = vec![answer(0, Some(other)), answer(1, Some(wanted))];
        check.answers.push(answer(2, Some(Digest::default())));
        let text = check.verdict();
        assert_eq!(text.matches("agrees=false").count(), 2, "{text}");
        let last = "error mismatch \"what worker 0 and worker 2 has is not what main has: replace it with worker restart id=0, then worker restart id=2\"";
        assert_eq!(text.lines().last(), Some(last));
    }
}
