//! A process that serves main and is no worker: started, asked when it is silent, killed when it does not
//! answer, replaced when it dies.
//!
//! Whoever has a post says what its servant is told at first and what its words mean; all else is here.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;

use crate::channel::Channel;
use crate::net::token::{self, Kind};
use crate::supervisor::life::{Pulse, Silence};
use crate::supervisor::restarts::{is_young, pause_ms, PAUSE_MS_MAX};
use crate::sys::epoll::{self, Epoll};
use crate::sys::process::{self, Child, OWN_PROGRAM};

/// What makes one kind of servant.
pub struct Position {
    /// For people: "the key process".
    pub called: &'static str,
    /// What ps(1) shows.
    pub title: &'static str,
    /// The hidden argument.
    pub role: &'static str,
    pub kind: Kind,
}

pub struct Servant {
    pub child: Child,
    channel: Channel,
    /// It has said that it serves.
    pub ready: bool,
    pub started_ms: u64,
    pulse: Pulse,
}

/// Where one serves at a time.
pub struct Post {
    position: &'static Position,
    pub servant: Option<Servant>,
    /// A process is started then.
    due_ms: Option<u64>,
    /// Deaths in youth, one after another.
    failures: u32,
}

impl Post {
    /// Nobody is wanted yet.
    pub fn of(position: &'static Position) -> Post {
        Post {
            position,
            servant: None,
            due_ms: None,
            failures: 0,
        }
    }

    /// Somebody is to be started then.
    pub fn want(&mut self, due_ms: u64) {
        if self.servant.is_none() && self.due_ms.is_none() {
            self.due_ms = Some(due_ms);
        }
    }

    /// Nobody is to be started any more.
    pub fn want_nobody(&mut self) {
        self.due_ms = None;
    }

    pub fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms.is_some_and(|due| due <= now_ms)
    }

    /// When to look after it again.
    pub fn due_ms(&self, patience_ms: u64) -> Option<u64> {
        let servant = self.servant.as_ref();
        let pulse = servant.map(|servant| servant.pulse.due_ms(patience_ms));
        [pulse, self.due_ms].into_iter().flatten().min()
    }

    pub fn is_ready(&self) -> bool {
        self.servant.as_ref().is_some_and(|servant| servant.ready)
    }

    pub fn pid(&self) -> Option<u32> {
        self.servant.as_ref().map(|servant| servant.child.id())
    }

    /// `running`, `starting`, or `waiting` for the next one.
    pub fn state(&self) -> &'static str {
        match &self.servant {
            Some(servant) if servant.ready => "running",
            Some(_) => "starting",
            None => "waiting",
        }
    }

    pub fn uptime_s(&self, now_ms: u64) -> u64 {
        let started_ms = self.servant.as_ref().map_or(now_ms, |it| it.started_ms);
        now_ms.saturating_sub(started_ms) / 1000
    }

    /// Starts one; what it is told first is queued in the channel, whose other end is `end`.
    pub fn fill(
        &mut self,
        channel: Channel,
        end: OwnedFd,
        outlets: [OwnedFd; 2],
        poll: &Epoll,
        now_ms: u64,
    ) -> io::Result<()> {
        let Position {
            title,
            role,
            kind,
            called,
        } = self.position;
        let program = Path::new(OWN_PROGRAM);
        let child = process::start(program, title, OsStr::new(role), end, outlets)?;
        log::debug!("{called} started, pid {}", child.id());
        let token = token::pack_single(*kind);
        poll.add(channel.as_fd(), epoll::IN | epoll::OUT, token)?;
        self.due_ms = None;
        self.servant = Some(Servant {
            child,
            channel,
            ready: false,
            started_ms: now_ms,
            pulse: Pulse::new(now_ms),
        });
        Ok(())
    }

    /// It could not be started.
    pub fn try_later(&mut self, error: &io::Error, now_ms: u64) {
        log::error!("cannot start {}: {error}", self.position.called);
        self.due_ms = Some(now_ms + PAUSE_MS_MAX);
    }

    /// A failure means that it died, which SIGCHLD tells.
    pub fn say(&mut self, line: &str, fds: Vec<OwnedFd>) {
        if let Some(servant) = &mut self.servant {
            servant.channel.send_with(line, fds);
            let _ = servant.channel.flush();
        }
    }

    /// epoll says when it takes what it does not take now.
    pub fn watch(&self, poll: &Epoll) {
        if let Some(Servant { channel, .. }) = &self.servant {
            let token = token::pack_single(self.position.kind);
            // An error: it is closed, and watched no more.
            let _ = poll.modify(channel.as_fd(), channel.interest(), token);
        }
    }

    /// It has something to say, or takes more of what is said. The lines that came.
    pub fn hear(&mut self, poll: &Epoll, now_ms: u64) -> Vec<String> {
        let Some(servant) = &mut self.servant else {
            return Vec::new();
        };
        let channel = &mut servant.channel;
        let open = channel.receive().unwrap_or(false) && channel.flush().is_ok();
        channel.refuse_fds();
        let lines: Vec<String> = std::iter::from_fn(|| channel.next_line()).collect();
        if !lines.is_empty() {
            servant.pulse.beats(now_ms);
        }
        match open {
            true => self.watch(poll),
            // Its death is told by SIGCHLD.
            false => drop(poll.remove(servant.channel.as_fd())),
        }
        lines
    }

    /// Asks it when it is silent, kills it when it does not answer.
    pub fn look_after(&mut self, patience_ms: u64, poll: &Epoll, now_ms: u64) {
        let Some(servant) = &mut self.servant else {
            return;
        };
        match servant.pulse.silence(now_ms, patience_ms) {
            Silence::TooLong => {
                log::error!("{} does not answer: killed", self.position.called);
                servant.pulse.ask(now_ms);
                if let Err(e) = servant.child.kill(process::SIGKILL) {
                    log::error!("kill {}: {e}", servant.child.id());
                }
            }
            Silence::Long => {
                servant.pulse.ask(now_ms);
                self.say("ping", Vec::new());
                self.watch(poll);
            }
            Silence::Short => {}
        }
    }

    /// It is not needed any more: who served, to be waited for.
    pub fn dismiss(&mut self, poll: &Epoll) -> Option<Child> {
        self.due_ms = None;
        let servant = self.servant.take()?;
        // That it is dead already is told by SIGCHLD.
        let _ = servant.child.kill(process::SIGKILL);
        let _ = poll.remove(servant.channel.as_fd());
        Some(servant.child)
    }

    /// Main itself did not run for so long.
    pub fn forgive(&mut self, late_ms: u64) {
        if let Some(servant) = &mut self.servant {
            servant.pulse.forgive(late_ms);
        }
    }

    /// Who has died there, and how if somebody tells.
    pub fn reap(&mut self) -> Option<(Servant, Option<ExitStatus>)> {
        let how = self.servant.as_ref()?.child.try_wait();
        match how {
            Ok(None) => None,
            ended => Some((self.servant.take()?, ended.ok().flatten())),
        }
    }

    /// Another one comes in the place of one that has died; in how many milliseconds.
    pub fn replace(&mut self, dead: &Servant, now_ms: u64) -> u64 {
        let young = is_young(dead.started_ms, now_ms);
        self.failures = if young { self.failures + 1 } else { 0 };
        let pause_ms = pause_ms(self.failures);
        self.due_ms = Some(now_ms + pause_ms);
        pause_ms
    }
}
