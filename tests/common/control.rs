//! The control socket, as a person with `nc -U` uses it.

use super::message::Broken;
use super::DEADLINE;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

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
    pub fn is_ok(&self) -> bool {
        self.last.split(' ').next() == Some("ok")
    }

    /// `ok`, or the code of the error.
    pub fn code(&self) -> &str {
        let mut words = self.last.split(' ');
        match words.next() {
            Some("error") => words.next().unwrap_or(""),
            _ => "ok",
        }
    }

    /// The value of a key on the last line.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        let mut pairs = self.last.split(' ').filter_map(|w| w.split_once('='));
        let value = pairs.find(|(name, _)| *name == key).map(|(_, value)| value);
        let number = value.and_then(|value| value.parse().ok());
        number.unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

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

/// A connection that stays open: lines go out, replies come in. Every read has a deadline.
pub struct Control {
    stream: BufReader<UnixStream>,
    /// Of a line that is not whole yet.
    partial: Vec<u8>,
}

impl Control {
    #[track_caller]
    pub fn connect(socket: &Path) -> Control {
        let stream = UnixStream::connect(socket).expect("connect to the control socket");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("read time-out");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("write time-out");
        let stream = BufReader::with_capacity(64 * 1024, stream);
        let partial = Vec::new();
        Control { stream, partial }
    }

    /// Sends bytes as they are. That the other side may have gone is no failure.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Control {
        let _gone = self.stream.get_mut().write_all(bytes.as_ref());
        self
    }

    /// Sends while this side goes on reading.
    pub fn send_meanwhile(&self, bytes: Vec<u8>) {
        let mut stream = self.stream.get_ref().try_clone().expect("dup");
        std::thread::spawn(move || {
            let _gone = stream.write_all(&bytes);
        });
    }

    /// Sends no more; goes on reading.
    pub fn finish(&mut self) {
        let _gone = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// A line without its LF.
    pub fn line(&mut self) -> Result<String, Broken> {
        match self.stream.read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.ends_with(b"\n") => {
                let mut line = std::mem::take(&mut self.partial);
                line.pop();
                String::from_utf8(line).map_err(|e| Broken::Malformed(e.to_string()))
            }
            Ok(_) => Err(Broken::Eof),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Broken::Silence)
            }
            Err(_) => Err(Broken::Reset),
        }
    }

    pub fn try_reply(&mut self) -> Result<Reply, Broken> {
        let mut data = Vec::new();
        loop {
            let line = self.line()?;
            if matches!(line.split(' ').next(), Some("ok" | "error")) {
                return Ok(Reply { data, last: line });
            }
            data.push(line);
        }
    }

    /// The reply that has to come.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply()
            .unwrap_or_else(|broken| panic!("no reply but {broken:?}"))
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Reply {
        let reply = self.send(format!("{line}\n")).try_reply();
        reply.unwrap_or_else(|broken| panic!("{line:?}: no reply but {broken:?}"))
    }

    /// Asks for what has to be done.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> Reply {
        let reply = self.ask(line);
        assert!(reply.is_ok(), "{line:?}: {reply:?}");
        reply
    }

    /// Asks again until it is done: for a port that this process has just given back,
    /// which a child on its way to exec may hold for a moment longer.
    #[track_caller]
    pub fn insist(&mut self, line: &str) {
        super::wait_until(line, || self.ask(line).is_ok().then_some(()));
    }

    /// Asks for what has to be refused with that code; the last line.
    #[track_caller]
    pub fn refused(&mut self, line: &str, code: &str) -> String {
        let reply = self.ask(line);
        assert_eq!(reply.code(), code, "{line:?}: {reply:?}");
        reply.last
    }

    /// The lines of `state dump`.
    #[track_caller]
    pub fn dump(&mut self) -> Vec<String> {
        self.ok("state dump").data
    }

    /// Does all lines in one transaction.
    #[track_caller]
    pub fn transact(&mut self, lines: &[impl AsRef<str>]) -> Reply {
        self.ok("begin");
        for line in lines {
            self.ok(line.as_ref());
        }
        self.ok("commit")
    }

    /// Nothing comes for that long, and the connection stays open.
    #[track_caller]
    pub fn silent_for(&mut self, time: Duration) {
        let patience = |time| self.stream.get_ref().set_read_timeout(Some(time));
        patience(time).expect("read time-out");
        let line = self.line();
        let patience = |time| self.stream.get_ref().set_read_timeout(Some(time));
        patience(DEADLINE).expect("read time-out");
        assert_eq!(line, Err(Broken::Silence));
    }
}
