//! Runs the load generators, wrk and load.c, on the backend's core, and judges whether a run counts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::lab::{Lab, LOAD_CORE};
use crate::process::pinned;

/// How the work is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// wrk: GET over kept-alive connections.
    Wrk,
    /// load.c: the same, every byte counted, for bodies that wrk would read in small pieces.
    Body,
    New,
    /// load.c: so many requests in each second, whatever becomes of them.
    Rate(u32),
    Echo,
    Stream,
    /// tls.c: GET over kept-alive connections; with a new one each, by a whole handshake or a resumed one.
    TlsKeep,
    TlsFull,
    TlsResume,
}

/// What is asked for, by how many clients.
#[derive(Clone, Copy)]
pub struct Load {
    pub kind: Kind,
    pub clients: usize,
    pub path: &'static str,
    pub len: usize,
}

/// What a generator says at its end.
#[derive(Clone, Copy, Default)]
pub struct Outcome {
    pub done: u64,
    pub bytes: u64,
    pub errors: u64,
    /// Due and not answered.
    pub lost: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub us: u64,
}

impl Kind {
    pub fn is_tls(self) -> bool {
        matches!(self, Kind::TlsKeep | Kind::TlsFull | Kind::TlsResume)
    }

    fn program(self) -> &'static str {
        match self.is_tls() {
            true => "tls",
            false => "load",
        }
    }
}

impl Load {
    pub fn run(&self, lab: &Lab, port: u16, seconds: u64) -> Result<Outcome, String> {
        let mut command = match self.kind {
            Kind::Wrk => self.wrk(lab, port, seconds),
            _ => self.own(lab, port, seconds),
        };
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("load: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let outcome = text.lines().find_map(parse).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("no result: {}", errors.lines().next().unwrap_or("silent"))
        })?;
        self.judge(&outcome)?;
        Ok(outcome)
    }

    fn wrk(&self, lab: &Lab, port: u16, seconds: u64) -> Command {
        let mut command = pinned(LOAD_CORE, Path::new("wrk"));
        command.args([
            "-t1",
            &format!("-c{}", self.clients),
            &format!("-d{seconds}s"),
            "--latency",
            "--timeout",
            "10s",
        ]);
        command
            .arg("-s")
            .arg(lab.dir.join("wrk.lua"))
            .arg(format!("http://127.0.0.1:{port}{}", self.path));
        command
    }

    fn own(&self, lab: &Lab, port: u16, seconds: u64) -> Command {
        let mode = match self.kind {
            Kind::New => "new",
            Kind::Rate(_) => "rate",
            Kind::Echo => "echo",
            Kind::Stream => "stream",
            Kind::Body | Kind::Wrk => "body",
            Kind::TlsKeep => "keep",
            Kind::TlsFull => "full",
            Kind::TlsResume => "resume",
        };
        let mut command = pinned(LOAD_CORE, &lab.tools.join(self.kind.program()));
        command.args([
            mode,
            &port.to_string(),
            &self.clients.to_string(),
            &seconds.to_string(),
        ]);
        if !matches!(self.kind, Kind::Echo | Kind::Stream) {
            command.args([self.path, &self.len.to_string()]);
        }
        if let Kind::Rate(rate) = self.kind {
            command.arg(rate.to_string());
        }
        command
    }

    /// load.c checks each answer itself. wrk counts statuses and bytes, heads and unfinished answers among them.
    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        if outcome.errors > 0 {
            return Err(format!(
                "{} errors in {} answers",
                outcome.errors, outcome.done
            ));
        }
        if outcome.lost > 0 {
            return Err(format!(
                "{} requests lost, {} answered",
                outcome.lost, outcome.done
            ));
        }
        if outcome.done == 0 {
            return Err("no answer".to_string());
        }
        let unfinished = (self.clients * self.len) as u64;
        let least = outcome.done * self.len as u64;
        let most = least + least / 20 + outcome.done * 1024 + unfinished;
        if self.kind == Kind::Wrk && !(least..=most).contains(&outcome.bytes) {
            return Err(format!(
                "{} bytes in {} answers",
                outcome.bytes, outcome.done
            ));
        }
        Ok(())
    }
}

fn parse(line: &str) -> Option<Outcome> {
    let mut outcome = Outcome::default();
    if !line.starts_with("done=") {
        return None;
    }
    for (key, value) in line
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
    {
        let value = value.parse().ok()?;
        match key {
            "done" => outcome.done = value,
            "bytes" => outcome.bytes = value,
            "errors" => outcome.errors = value,
            "lost" => outcome.lost = value,
            "p50_us" => outcome.p50_us = value,
            "p99_us" => outcome.p99_us = value,
            "us" => outcome.us = value,
            _ => return None,
        }
    }
    Some(outcome)
}

/// Idle connections that are held until this is dropped.
pub struct Held {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Held {
    /// Opens them within `seconds`, one request on each.
    pub fn open(lab: &Lab, port: u16, load: &Load, seconds: u64) -> Result<Held, String> {
        let mut command = pinned(LOAD_CORE, &lab.tools.join(load.kind.program()));
        command.args([
            "idle",
            &port.to_string(),
            &load.clients.to_string(),
            &seconds.to_string(),
            load.path,
        ]);
        command
            .arg(load.len.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("load: {e}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("load: no output")?);
        let mut held = Held {
            child,
            input,
            output,
        };
        let line = held.line()?;
        let outcome = parse(&line).ok_or_else(|| format!("load idle: {line:?}"))?;
        if outcome.errors > 0 || outcome.done != load.clients as u64 {
            return Err(format!(
                "{} of {} opened, {} errors",
                outcome.done, load.clients, outcome.errors
            ));
        }
        Ok(held)
    }

    /// How many are still open.
    pub fn count(&mut self) -> Result<usize, String> {
        use std::io::Write;
        let asked = self.input.as_mut().map(|input| input.write_all(b"\n"));
        if !matches!(asked, Some(Ok(()))) {
            return Err("load idle ended".to_string());
        }
        let line = self.line()?;
        line.trim()
            .strip_prefix("open=")
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| format!("load idle: {line:?}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|e| e.to_string())?;
        Ok(line)
    }
}

impl Drop for Held {
    /// The end of its input is the end of the generator; its alarm is the bound.
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
