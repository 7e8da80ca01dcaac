//! A worker's process, as main sees it: how far it has come, when it is killed; and the pulse of that and of
//! others: when it was heard last.

use std::os::fd::OwnedFd;

use crate::channel::Channel;
use crate::limits::VERDICTS_PER_SECOND_MAX;
use crate::slab::Key;
use crate::supervisor::restarts;
use crate::sys::process::{self, Child};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Starting,
    Accepting,
    /// It takes nothing new, and is told to stop then.
    Retiring {
        until_ms: u64,
    },
}

pub struct Process {
    /// The place that it carries.
    pub id: usize,
    /// The place whose worker takes over from it.
    pub(super) heirs: usize,
    /// It runs the program that an upgrade is about.
    pub(super) newer: bool,
    /// Its row on the board.
    pub row: usize,
    pub life: Life,
    pub child: Child,
    pub channel: Channel,
    /// epoll says when it takes more.
    pub(super) watched_out: bool,
    /// The other end of the channel is gone: its death will be told by SIGCHLD.
    pub closed: bool,
    pub started_ms: u64,
    pub(super) pulse: Pulse,
    /// Who is told what becomes of its connections, once it has handed over what it can.
    pub(super) reports_to: Option<Key>,
    /// It was killed: nothing that it says counts any more.
    pub(super) doomed: bool,
    /// A second, and how many backends it has called up or down in it.
    pub(super) news: (u64, u32),
    /// The same by what its checks have shown.
    pub(super) findings: (u64, u32),
}

impl Process {
    pub(super) fn new(
        id: usize,
        row: usize,
        life: Life,
        child: Child,
        channel: Channel,
        now_ms: u64,
    ) -> Process {
        Process {
            id,
            heirs: id,
            newer: false,
            row,
            life,
            child,
            channel,
            watched_out: false,
            closed: false,
            started_ms: now_ms,
            pulse: Pulse::new(now_ms),
            reports_to: None,
            doomed: false,
            news: (0, 0),
            findings: (0, 0),
        }
    }

    /// False: it says that of more backends than ours do, whose seconds may begin elsewhere.
    pub(super) fn may_find(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.findings.0 != second {
            self.findings = (second, 0);
        }
        self.findings.1 += 1;
        self.findings.1 <= 2 * VERDICTS_PER_SECOND_MAX
    }

    pub(super) fn is_young(&self, now_ms: u64) -> bool {
        restarts::is_young(self.started_ms, now_ms)
    }

    /// When to look after it again.
    pub(super) fn due_ms(&self, patience_ms: u64) -> Option<u64> {
        let pulse_ms = self.pulse.due_ms(patience_ms);
        match self.life {
            _ if self.doomed => None,
            Life::Starting => Some(self.started_ms + patience_ms),
            Life::Retiring { until_ms } => Some(until_ms.min(pulse_ms)),
            Life::Accepting => Some(pulse_ms),
        }
    }

    pub(super) fn look_after(&mut self, now_ms: u64, patience_ms: u64) {
        let id = self.id;
        match (self.life, self.pulse.silence(now_ms, patience_ms)) {
            _ if self.doomed => {}
            (Life::Starting, _) if self.started_ms + patience_ms <= now_ms => {
                log::error!("worker {id} does not get ready: killed");
                self.doom();
            }
            (Life::Starting, _) => {}
            (_, Silence::TooLong) => {
                log::error!("worker {id} does not answer: killed");
                self.doom();
            }
            (Life::Retiring { until_ms }, _) if until_ms <= now_ms => {
                log::warn!("the time of the old worker {id} is over: its connections are cut");
                self.say("stop");
                self.life = Life::Retiring {
                    until_ms: now_ms + patience_ms,
                };
            }
            (_, Silence::Long) => {
                self.pulse.ask(now_ms);
                self.say("ping");
            }
            (_, Silence::Short) => {}
        }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.say_with(line, Vec::new());
    }

    pub(super) fn say_with(&mut self, line: &str, fds: Vec<OwnedFd>) {
        self.channel.send_with(line, fds);
        // A failure means that it died, which SIGCHLD tells.
        let _ = self.channel.flush();
    }

    fn doom(&mut self) {
        self.doomed = true;
        self.kill();
    }

    /// Main itself did not run for so long.
    pub(super) fn forgive(&mut self, late_ms: u64) {
        self.started_ms += late_ms;
        self.pulse.forgive(late_ms);
    }

    pub(super) fn kill(&self) {
        if let Err(e) = self.child.kill(process::SIGKILL) {
            log::error!("kill {}: {e}", self.child.id());
        }
    }
}

/// When a process was heard last, and since when it is waited for. How long it may take to answer is
/// its patience (`worker_timeout`); silent for half of that it is asked.
pub struct Pulse {
    heard_ms: u64,
    /// A ping that was not answered yet.
    asked_ms: Option<u64>,
}

/// How long nothing was heard.
pub enum Silence {
    Short,
    /// It should be asked.
    Long,
    /// It was asked.
    TooLong,
}

impl Pulse {
    pub fn new(now_ms: u64) -> Pulse {
        Pulse {
            heard_ms: now_ms,
            asked_ms: None,
        }
    }

    /// It has said something.
    pub fn beats(&mut self, now_ms: u64) {
        *self = Pulse::new(now_ms);
    }

    pub fn ask(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
    }

    /// When the silence is longer than that.
    pub fn due_ms(&self, patience_ms: u64) -> u64 {
        match self.asked_ms {
            Some(asked_ms) => asked_ms + patience_ms,
            None => self.heard_ms + patience_ms / 2,
        }
    }

    pub fn silence(&self, now_ms: u64, patience_ms: u64) -> Silence {
        match self.asked_ms {
            _ if now_ms < self.due_ms(patience_ms) => Silence::Short,
            Some(_) => Silence::TooLong,
            None => Silence::Long,
        }
    }

    /// While main itself did not run, nobody was silent.
    pub fn forgive(&mut self, late_ms: u64) {
        self.heard_ms += late_ms;
        self.asked_ms = self.asked_ms.map(|asked_ms| asked_ms + late_ms);
    }
}
