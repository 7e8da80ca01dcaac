//! The control socket, as a person with `nc -U` uses it.

use super::DEADLINE;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What came back for one line.
#[derive(Debug)]
pub struct Reply {
    /// The lines before the last.
    pub data: Vec<String>,
    /// `ok …` or `error …`.
    pub last: String,
}

/// One line about a worker in the reply to `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub id: u32,
    pub pid: u32,
    pub state: String,
    pub connections: usize,
}

/// Sends one line and reads its reply; nothing if nobody answers.
pub fn control_at(socket: &Path, line: &str) -> Option<Reply> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut data = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        if matches!(line.split(' ').next(), Some("ok" | "error")) {
            return Some(Reply { data, last: line });
        }
        data.push(line);
    }
    None
}

/// The same where an `ok` has to come.
#[track_caller]
pub fn control(socket: &Path, line: &str) -> Reply {
    let reply = control_at(socket, line).unwrap_or_else(|| panic!("no reply to {line:?}"));
    assert!(reply.last.starts_with("ok"), "{line:?}: {reply:?}");
    reply
}

impl Reply {
    /// The lines that start with `worker`.
    pub fn workers(&self) -> Vec<Worker> {
        self.data.iter().filter_map(|line| worker(line)).collect()
    }
}

fn worker(line: &str) -> Option<Worker> {
    let words = line.strip_prefix("worker ")?;
    let value = |key: &str| {
        let mut values = words.split(' ').filter_map(|word| word.split_once('='));
        values
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    };
    Some(Worker {
        id: value("id")?.parse().ok()?,
        pid: value("pid")?.parse().ok()?,
        state: value("state")?.to_owned(),
        connections: value("connections")?.parse().ok()?,
    })
}
