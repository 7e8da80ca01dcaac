//! A control connection to our proxy. Answers are read as they come, so that a change need not wait for the one before.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Changes that are not answered yet when this many others are sent: then the proxy does not keep up.
const BEHIND_MAX: usize = 1_000;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub struct Control {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    behind: usize,
}

impl Control {
    pub fn open(socket: &Path) -> Result<Control, String> {
        let stream = UnixStream::connect(socket).map_err(|e| format!("control socket: {e}"))?;
        let answers = stream.try_clone().map_err(|e| e.to_string())?;
        let limited = answers.set_read_timeout(Some(ANSWER_LIMIT));
        limited.map_err(|e| e.to_string())?;
        Ok(Control {
            stream,
            answers: BufReader::new(answers),
            behind: 0,
        })
    }

    /// All of these, done when this returns.
    pub fn all(&mut self, lines: impl IntoIterator<Item = String>) -> Result<(), String> {
        for line in lines {
            self.send(&line)?;
        }
        self.settle()
    }

    pub fn send(&mut self, line: &str) -> Result<(), String> {
        let sent = self.stream.write_all(format!("{line}\n").as_bytes());
        sent.map_err(|e| format!("control socket: {e}"))?;
        self.behind += 1;
        self.take_what_has_come()?;
        match self.behind < BEHIND_MAX {
            true => Ok(()),
            false => self.settle(),
        }
    }

    fn take_what_has_come(&mut self) -> Result<(), String> {
        let blocking = |blocking: bool| self.stream.set_nonblocking(!blocking);
        blocking(false).map_err(|e| e.to_string())?;
        let filled = self.answers.fill_buf().map(<[u8]>::len);
        let blocking = |blocking: bool| self.stream.set_nonblocking(!blocking);
        blocking(true).map_err(|e| e.to_string())?;
        // Nothing has come: that is known later.
        if filled.is_err() {
            return Ok(());
        }
        while self.answers.buffer().contains(&b'\n') {
            self.answer()?;
        }
        Ok(())
    }

    /// Until all is answered.
    pub fn settle(&mut self) -> Result<(), String> {
        while self.behind > 0 {
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.map_err(|e| format!("control socket: {e}"))?;
        match line.starts_with("ok") {
            true => self.behind -= 1,
            false => return Err(format!("a change was answered with {line:?}")),
        }
        Ok(())
    }
}
