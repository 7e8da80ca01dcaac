//! A rehearsal: the new program reads what would be handed to it, as a child, and says whether it
//! could go on from there.
//!
//! It gets the very bytes that its main would get, and goes through the same
//! `understand`; only the descriptors are names. Main does not wait for it: it
//! is one more descriptor in epoll, with a deadline. Whatever it does but say
//! `ok` in time (it cannot be run, dies, hangs, talks nonsense) is a refusal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::channel::Channel;
use crate::limits::HANDOVER_BYTES_MAX;
use crate::net::board::Board;
use crate::net::ledger::Ledger;
use crate::net::token::{self, Kind};
use crate::proto::line::value_of;
use crate::proto::reply::{self, Reply};
use crate::state::{Code, Refused};
use crate::supervisor::handover::Handover;
use crate::supervisor::program::Program;
use crate::supervisor::roles::Roles;
use crate::supervisor::sandbox::Sandbox;
use crate::supervisor::secure::try_policies;
use crate::supervisor::{Supervisor, REHEARSAL_ROLE};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::exec::read_sealed;
use crate::sys::process::{self, Child};

/// What a new main starts with.
pub struct Understood {
    pub handover: Handover,
    pub roles: Roles,
    pub sandbox: Sandbox,
}

/// All of taking over that needs no descriptor. An error is a sentence.
pub fn understand(text: &[u8]) -> Result<Understood, String> {
    let handover = Handover::decode(text)?;
    if handover.descriptors.layout != layout() {
        return Err(
            "its counters are arranged otherwise: stop the proxy and start this one".into(),
        );
    }
    try_policies(&handover.state)?;
    let roles = Roles::new(&handover.settings, process::own_uid())?;
    let sandbox = Sandbox::new(&handover.settings)?;
    Ok(Understood {
        handover,
        roles,
        sandbox,
    })
}

/// Of the memory that main and workers share.
pub fn layout() -> [String; 2] {
    [Board::layout(), Ledger::layout()]
}

// ---- the child ----------------------------------------------------------

/// The life of a rehearsing process; its standard input is the channel to main.
pub fn rehearse() -> io::Result<()> {
    process::set_name(c"sozu");
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut channel = Channel::new(stream)?;
    let poll = Epoll::new()?;
    let token = token::pack_single(Kind::Rehearsal);
    poll.add(channel.as_fd(), epoll::IN, token)?;
    let mut events = Events::with_capacity(1);
    let text = loop {
        if let Some(text) = channel.next_line().and_then(|_| channel.take_fd()) {
            break text;
        }
        poll.wait(&mut events, -1)?;
        if !channel.receive()? {
            return Ok(());
        }
    };
    let answer = match understand(&read_sealed(text, HANDOVER_BYTES_MAX)?) {
        Ok(_) => reply::ok(&[("version", crate::version::version().to_string())]),
        Err(what) => reply::error(&Refused::new(Code::Mismatch, what)),
    };
    channel.send(answer.trim_end());
    channel.flush()
}

// ---- main's side --------------------------------------------------------

pub struct Rehearsal {
    /// `None`: it was waited for.
    child: Option<Child>,
    channel: Channel,
    until_ms: u64,
    /// The new program's version, or why not.
    outcome: Option<Result<String, String>>,
    closed: bool,
}

impl Rehearsal {
    /// `text` is what it has to understand. An error is a sentence.
    fn start(
        program: &Program,
        text: &OwnedFd,
        outlets: [OwnedFd; 2],
        until_ms: u64,
        poll: &Epoll,
    ) -> Result<Rehearsal, String> {
        let failed = |e: io::Error| format!("cannot be run: {e}");
        let (mut channel, end) = Channel::pair().map_err(failed)?;
        channel.send_with("handover", vec![text.try_clone().map_err(failed)?]);
        channel.flush().map_err(failed)?;
        let role = REHEARSAL_ROLE.as_ref();
        let child = process::start(&program.running(), "sozu rehearsal", role, end, outlets);
        let child = child.map_err(failed)?;
        let token = token::pack_single(Kind::Rehearsal);
        let watched = poll.add(channel.as_fd(), epoll::IN, token);
        Ok(Rehearsal {
            child: Some(child),
            channel,
            until_ms,
            outcome: watched.err().map(|e| Err(format!("epoll_ctl: {e}"))),
            closed: false,
        })
    }

    fn ready(&mut self, poll: &Epoll) {
        self.closed |= !self.channel.receive().unwrap_or(false);
        if self.closed {
            // Its end may be long in coming.
            let _ = poll.remove(self.channel.as_fd());
        }
        let line = self.channel.next_line();
        if let Some(line) = line.filter(|_| self.outcome.is_none()) {
            self.outcome = Some(heard(&line));
        }
    }

    /// The version of the new program, or why it does not take over; nothing yet.
    pub fn outcome(&mut self, now_ms: u64) -> Option<Result<String, String>> {
        if self.outcome.is_none() && self.closed {
            let ended = self.child.as_ref().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                self.child = None;
                self.outcome = Some(Err(format!("ended without an answer ({status})")));
            }
        }
        if self.outcome.is_none() && self.until_ms <= now_ms {
            self.outcome = Some(Err("gave no answer within worker_timeout".into()));
        }
        self.outcome.clone()
    }

    pub fn due_ms(&self) -> u64 {
        self.until_ms
    }

    /// It is of no use any more; the child, if it is still to be waited for.
    pub fn end(self) -> Option<Child> {
        let child = self.child?;
        // It may have ended; its pid is its own until it is waited for.
        let _ = child.kill(process::SIGKILL);
        // SIGCHLD tells only what comes from now on.
        matches!(child.try_wait(), Ok(None)).then_some(child)
    }
}

/// What its line means.
fn heard(line: &str) -> Result<String, String> {
    match Reply::parse(line) {
        Ok(Reply::Ok(words)) => {
            let version = value_of(&words, "version").map(str::to_string);
            version.ok_or("told no version".to_string())
        }
        Ok(Reply::Error { text, .. }) => Err(format!("refuses: {text}")),
        _ => Err("answered what is no answer".into()),
    }
}

impl Supervisor {
    /// Has the new program read a text.
    pub(super) fn begin_rehearsal(
        &self,
        program: &Program,
        text: &OwnedFd,
    ) -> Result<Rehearsal, String> {
        let until_ms = self.now_ms + u64::from(self.settings.worker_timeout) * 1000;
        let outlets = self.logs.outlets().map_err(|e| e.to_string())?;
        Rehearsal::start(program, text, outlets, until_ms, &self.poll)
    }

    pub(super) fn rehearsal_ready(&mut self) {
        if let Some(rehearsal) = self.upgrade.as_mut().and_then(|it| it.rehearsal()) {
            rehearsal.ready(&self.poll);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ok_with_a_version_is_one() {
        assert_eq!(heard("ok version=1.2.3"), Ok("1.2.3".into()));
        for (line, why) in [
            ("ok", "told no version"),
            ("error mismatch \"line 3: x\"", "refuses: line 3: x"),
            ("hello", "answered what is no answer"),
            ("", "answered what is no answer"),
            ("\"", "answered what is no answer"),
        ] {
            assert_eq!(heard(line), Err(why.into()), "{line}");
        }
    }
}
