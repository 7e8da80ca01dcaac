//! A worker's process, as main sees it: how far it has come, when it was heard last, when it is killed.

use crate::channel::Channel;
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
    /// The last thing that it said.
    pub(super) heard_ms: u64,
    /// A ping that was not answered yet.
    pub(super) asked_ms: Option<u64>,
    /// Who is told what becomes of its connections, once it has handed over what it can.
    pub(super) reports_to: Option<Key>,
    /// It was killed: nothing that it says counts any more.
    pub(super) doomed: bool,
    /// A second, and how many backends it has called up or down in it.
    pub(super) news: (u64, u32),
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
            heard_ms: now_ms,
            asked_ms: None,
            reports_to: None,
            doomed: false,
            news: (0, 0),
        }
    }

    pub(super) fn is_young(&self, now_ms: u64) -> bool {
        restarts::is_young(self.started_ms, now_ms)
    }

    /// When to look after it again.
    pub(super) fn due_ms(&self, patience_ms: u64) -> Option<u64> {
        let asks_ms = self.heard_ms + ping_ms(patience_ms);
        match (self.life, self.asked_ms) {
            _ if self.doomed => None,
            (Life::Starting, _) => Some(self.started_ms + patience_ms),
            (_, Some(asked_ms)) => Some(asked_ms + patience_ms),
            (Life::Accepting, None) => Some(asks_ms),
            (Life::Retiring { until_ms }, None) => Some(until_ms.min(asks_ms)),
        }
    }

    pub(super) fn look_after(&mut self, now_ms: u64, patience_ms: u64) {
        let id = self.id;
        match (self.life, self.asked_ms) {
            _ if self.doomed => {}
            (Life::Starting, _) if self.started_ms + patience_ms <= now_ms => {
                log::error!("worker {id} does not get ready: killed");
                self.doom();
            }
            (Life::Starting, _) => {}
            (_, Some(asked_ms)) if asked_ms + patience_ms <= now_ms => {
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
            (_, None) if self.heard_ms + ping_ms(patience_ms) <= now_ms => {
                self.asked_ms = Some(now_ms);
                self.say("ping");
            }
            _ => {}
        }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.channel.send(line);
        // A failure means that it died, which SIGCHLD tells.
        let _ = self.channel.flush();
    }

    fn doom(&mut self) {
        self.doomed = true;
        self.kill();
    }

    /// While main itself did not run, nobody was silent.
    pub(super) fn forgive(&mut self, late_ms: u64) {
        self.started_ms += late_ms;
        self.heard_ms += late_ms;
        self.asked_ms = self.asked_ms.map(|asked_ms| asked_ms + late_ms);
    }

    pub(super) fn kill(&self) {
        if let Err(e) = self.child.kill(process::SIGKILL) {
            log::error!("kill {}: {e}", self.child.id());
        }
    }
}

/// How long a worker may be silent before it is asked.
fn ping_ms(patience_ms: u64) -> u64 {
    patience_ms / 2
}
