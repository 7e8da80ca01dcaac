//! The connection to main: lines out, answers in, and how long they are waited for.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sozu_lib::proto::line::Word;
use sozu_lib::proto::reply::Reply;

use crate::failure::Failure;

/// A running main takes a connection and starts to answer at once.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// A change is answered when every worker has done it; a stuck one is killed
/// after `worker_timeout`, which is 10 s unless configured.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes written at a time when many lines go out.
const BATCH_BYTES: usize = 64 * 1024;

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// For its first line; then it is on its way.
    First(Duration),
    Forever,
}

impl Patience {
    /// What a command needs, by its words.
    pub fn for_line(line: &str) -> Patience {
        let mut words = line.split(' ');
        let noun = words.next().unwrap_or_default();
        match (noun, words.next().unwrap_or_default()) {
            ("shutdown" | "upgrade" | "events", _) => Patience::Forever,
            // Every worker is asked; a stuck one is waited for as with a change.
            ("connections", _) | ("state", "check") => Patience::First(CHANGE_LIMIT),
            ("commit" | "reload", _) => Patience::First(CHANGE_LIMIT),
            (_, "add" | "remove" | "update" | "replace" | "enable" | "disable") => {
                Patience::First(CHANGE_LIMIT)
            }
            (_, "pause" | "resume") => Patience::First(CHANGE_LIMIT),
            _ => Patience::First(QUESTION_LIMIT),
        }
    }
}

pub struct Link {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// From -t: so long for a whole answer, whatever the patience.
    limit: Option<Duration>,
    end: Option<Instant>,
}

impl Link {
    /// Connects; `limit` is that of the option -t.
    pub fn open(socket: &Path, limit: Option<Duration>) -> Result<Link, Failure> {
        let (sender, receiver) = mpsc::channel();
        let path = socket.to_owned();
        // Connecting to a queue that is full blocks, and knows no time limit.
        thread::spawn(move || sender.send(UnixStream::connect(path)));
        let connected = receiver.recv_timeout(limit.unwrap_or(QUESTION_LIMIT));
        let connected = connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|e| unreachable(socket, &e))?;
        let reader = stream.try_clone().map_err(|e| unreachable(socket, &e))?;
        let reader = BufReader::with_capacity(BATCH_BYTES, reader);
        Ok(Link {
            stream,
            reader,
            limit,
            end: None,
        })
    }

    /// Sends one line and reads its answer: `data` gets the lines before the last.
    pub fn ask(
        &mut self,
        line: &str,
        data: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Vec<Word>, Failure> {
        self.begin_waiting(Patience::for_line(line))?;
        let sent = self.stream.write_all(format!("{line}\n").as_bytes());
        sent.map_err(|e| silent(&e))?;
        self.answer(data)
    }

    /// Sends many lines while their answers are read, so that neither side waits
    /// for the other. `done` counts. The first refusal ends it: the place of its
    /// line, and why.
    pub fn ask_all(
        &mut self,
        lines: &[String],
        done: &mut dyn FnMut(usize),
    ) -> Result<(), (usize, Failure)> {
        self.begin_waiting(Patience::First(QUESTION_LIMIT))
            .map_err(|failure| (0, failure))?;
        let writer = self.stream.try_clone();
        let writer = writer.map_err(|e| (0, silent(&e)))?;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = BufWriter::with_capacity(BATCH_BYTES, writer);
                let mut send = |line: &String| writeln!(writer, "{line}");
                // A failure means that the answers end too, which is told.
                let _ = lines.iter().try_for_each(&mut send);
                let _ = writer.flush();
            });
            for place in 0..lines.len() {
                if let Err(failure) = self.answer(&mut |_| Ok(())) {
                    // The writer ends, and main forgets the transaction.
                    let _ = self.stream.shutdown(Shutdown::Both);
                    return Err((place, failure));
                }
                done(place + 1);
            }
            Ok(())
        })
    }

    /// Waits, and notices when the proxy goes away meanwhile.
    pub fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        let set = self.stream.set_read_timeout(Some(time));
        set.map_err(|e| silent(&e))?;
        match self.reader.fill_buf() {
            Ok([]) => Err(gone()),
            Ok(_) => Ok(()),
            Err(e) if is_late(&e) => Ok(()),
            Err(e) => Err(silent(&e)),
        }
    }

    fn answer(
        &mut self,
        data: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Vec<Word>, Failure> {
        let mut line = String::new();
        let mut begun = false;
        loop {
            line.clear();
            if self.end.is_some() && self.reader.buffer().is_empty() {
                self.wait_for(Patience::Forever)?;
            }
            if self.reader.read_line(&mut line).map_err(|e| silent(&e))? == 0 {
                return Err(gone());
            }
            let line = line.trim_end_matches('\n');
            if !matches!(line.split(' ').next(), Some("ok" | "error")) {
                data(line)?;
                if !std::mem::replace(&mut begun, true) {
                    self.wait_for(Patience::Forever)?;
                }
                continue;
            }
            match Reply::parse(line) {
                Ok(Reply::Ok(words)) => return Ok(words),
                Ok(Reply::Error { code, text }) => return Err(Failure::refused(code, text)),
                Ok(Reply::Data(_)) | Err(_) => {
                    let what = format!("this is no answer of a sozu: {line:?}");
                    return Err(Failure::unreachable(what));
                }
            }
        }
    }

    fn begin_waiting(&mut self, patience: Patience) -> Result<(), Failure> {
        self.end = self.limit.map(|limit| Instant::now() + limit);
        self.wait_for(patience)
    }

    /// Sets how long the next bytes may take.
    fn wait_for(&self, patience: Patience) -> Result<(), Failure> {
        let left = match (self.end, patience) {
            (Some(end), _) => Some(end.saturating_duration_since(Instant::now())),
            (None, Patience::First(limit)) => Some(limit),
            (None, Patience::Forever) => None,
        };
        if left.is_some_and(|left| left.is_zero()) {
            return Err(late());
        }
        let set = self.stream.set_read_timeout(left);
        let set = set.and_then(|()| self.stream.set_write_timeout(left));
        set.map_err(|e| silent(&e))
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn silent(error: &io::Error) -> Failure {
    match error.kind() {
        _ if is_late(error) => late(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => gone(),
        _ => Failure::unreachable(format!("the proxy went away: {error}")),
    }
}

fn late() -> Failure {
    Failure::late(
        "the proxy has not answered in time; what was asked may still be done (-t SECONDS waits longer)",
    )
}

fn gone() -> Failure {
    Failure::unreachable("the proxy ended without an answer")
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::NotFound => {
            "there is no such socket: is the proxy running, with this configuration?".into()
        }
        ErrorKind::PermissionDenied => {
            "no permission: run sozuctl as the user that runs sozu".into()
        }
        ErrorKind::ConnectionRefused => "nobody listens there any more: sozu is not running".into(),
        ErrorKind::TimedOut => "it is there, but takes no connection: the proxy is stuck".into(),
        _ => error.to_string(),
    };
    Failure::unreachable(format!("cannot connect to {}: {why}", socket.display()))
}
