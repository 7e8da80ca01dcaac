//! One connection to the control socket, kept for the whole run, and one more for the events.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::Duration;

/// An upgrade may take its time.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Control {
    stream: BufReader<UnixStream>,
}

pub struct Reply {
    /// The lines before the last.
    pub data: Vec<String>,
    /// `ok …` or `error …`.
    pub last: String,
}

impl Reply {
    pub fn is_ok(&self) -> bool {
        self.last.split(' ').next() == Some("ok")
    }
}

impl Control {
    pub fn connect(socket: &Path) -> Result<Control, String> {
        let failed = |e| format!("control socket: {e}");
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let stream = BufReader::new(stream);
        Ok(Control { stream })
    }

    /// The reply, whatever it is.
    pub fn ask(&mut self, line: &str) -> Result<Reply, String> {
        let failed = |e| format!("{line:?}: control socket: {e}");
        let sent = self
            .stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes());
        sent.map_err(failed)?;
        let mut data = Vec::new();
        loop {
            let mut text = String::new();
            let count = self.stream.read_line(&mut text).map_err(failed)?;
            let last = text.trim_end().to_string();
            match last.split(' ').next() {
                _ if count == 0 => {
                    return Err(format!("{line:?}: the control connection was closed"))
                }
                Some("ok" | "error") => return Ok(Reply { data, last }),
                _ => data.push(last),
            }
        }
    }

    /// The reply that has to be `ok`.
    pub fn ok(&mut self, line: &str) -> Result<Reply, String> {
        let reply = self.ask(line)?;
        match reply.is_ok() {
            true => Ok(reply),
            false => Err(format!("{line:?}: {}", reply.last)),
        }
    }
}

/// The lines of `events` with the time by `now_us` when they came. The thread ends with the connection.
pub fn events(
    socket: &Path,
    now_us: impl Fn() -> u64 + Send + 'static,
) -> Result<Receiver<(u64, String)>, String> {
    let failed = |e| format!("events: {e}");
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.write_all(b"events\n").map_err(failed)?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send((now_us(), line)).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The value of a key on a line; those asked for here have no quotes.
pub fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let mut pairs = line.split(' ').filter_map(|word| word.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
}

pub fn number<T: std::str::FromStr>(line: &str, key: &str) -> Option<T> {
    value(line, key)?.parse().ok()
}
