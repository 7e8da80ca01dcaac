//! What a worker that retires knows of backends, for its heir: whoever takes over does not try anew what
//! is left alone. Told once, with the link; what the heir finds out itself meanwhile counts more.

use crate::health::Health;
use crate::limits::MOVED_BYTES_MAX;
use crate::proto::line::{split, value_of};
use crate::proto::reply;
use crate::worker::pool::{Backend, Backs};

/// How such a message begins.
pub const SUBJECT: &str = "backend ";
/// Lines are gathered into messages of about this size.
const MESSAGE_BYTES: usize = MOVED_BYTES_MAX / 4;
/// What is known of its responses.
const ANSWERS: [&str; 3] = ["5xx", "5xx_pauses", "5xx_until_ms"];

impl Backs {
    /// Of all backends with which something is wrong.
    pub fn legacy(&self) -> Vec<String> {
        let all = self.backends.iter().map(|(_, backend)| backend);
        let ill = all.filter(|backend| !backend.removed && backend.health != Health::default());
        let mut messages = vec![String::new()];
        for line in ill.map(told) {
            match messages.last_mut() {
                Some(last) if last.len() + line.len() <= MESSAGE_BYTES => last.push_str(&line),
                _ => messages.push(line),
            }
        }
        messages.retain(|message| !message.is_empty());
        messages
    }

    /// Of those that are configured here, and of which nothing bad is known yet.
    pub fn take_legacy(&mut self, message: &str, now_ms: u64) {
        for line in message.lines() {
            let _not_ours = self.take_line(line, now_ms);
        }
    }

    fn take_line(&mut self, line: &str, now_ms: u64) -> Option<()> {
        let words = split(line).ok()?;
        let text = |key| value_of(&words, key);
        let number = |key| text(key)?.parse::<u64>().ok();
        let connects = [number("failures")?, number("pauses")?, number("until_ms")?];
        // The version before has none of these.
        let answers = ANSWERS.map(|key| number(key).unwrap_or(0));
        let key = self.backend_key(text("cluster")?, text("id")?)?;
        let backend = self.backends.get_mut(key)?;
        let address = text("address")?.parse().ok()?;
        if backend.conf().address != address || backend.health != Health::default() {
            return None;
        }
        backend.health = Health::from_numbers([connects, answers], now_ms);
        if let Some(why) = text("down") {
            let conf = backend.conf();
            log::debug!(
                "backend {} of cluster {} was down before: {why}",
                conf.id,
                conf.cluster
            );
            backend.down = true;
            backend.why = why.to_string();
            // Main has heard it from the other one.
            backend.told_down = true;
        }
        self.show_avoided(key);
        self.restand(key);
        Some(())
    }
}

fn told(backend: &Backend) -> String {
    let conf = backend.conf();
    let [connects, answers] = backend.health.numbers();
    let [failures, pauses, until_ms] = connects.map(|n| n.to_string());
    let mut pairs = vec![
        ("cluster", conf.cluster.to_string()),
        ("id", conf.id.to_string()),
        ("address", conf.address.to_string()),
        ("failures", failures),
        ("pauses", pauses),
        ("until_ms", until_ms),
    ];
    let answers = answers.map(|n| n.to_string());
    pairs.extend(ANSWERS.into_iter().zip(answers));
    if backend.down {
        pairs.push(("down", backend.why.clone()));
    }
    reply::data(SUBJECT.trim_end(), &pairs)
}
