//! A worker's process, as main sees it: how far it has come, when it is killed; and the pulse of that and of
//! others: when it was heard last.

use std::os::fd::OwnedFd;

use crate::channel::Channel;
use crate::limits::{CONNECTS_PER_SECOND_MAX, VERDICTS_PER_SECOND_MAX};
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
    /// Its time as a retiring one was over.
    pub(super) told_to_stop: bool,
    /// Why it was killed: nothing that it says counts any more.
    pub(super) doomed: Option<&'static str>,
    /// How many backends it has called up or down.
    pub(super) news: Pace,
    /// The same by what its checks have shown.
    pub(super) findings: Pace,
    /// Connections that were made for it.
    pub(super) connects: Pace,
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
            told_to_stop: false,
            doomed: None,
            news: Pace::default(),
            findings: Pace::default(),
            connects: Pace::default(),
        }
    }

    /// False: it says that of more backends than ours do, whose seconds may begin elsewhere.
    pub(super) fn may_find(&mut self, now_ms: u64) -> bool {
        self.findings.allows(2 * VERDICTS_PER_SECOND_MAX, now_ms)
    }

    pub(super) fn may_connect(&mut self, now_ms: u64) -> bool {
        self.connects.allows(CONNECTS_PER_SECOND_MAX, now_ms)
    }

    pub(super) fn is_young(&self, now_ms: u64) -> bool {
        restarts::is_young(self.started_ms, now_ms)
    }

    /// When to look after it again.
    pub(super) fn due_ms(&self, patience_ms: u64) -> Option<u64> {
        let pulse_ms = self.pulse.due_ms(patience_ms);
        match self.life {
            _ if self.doomed.is_some() => None,
            Life::Starting => Some(self.started_ms + patience_ms),
            Life::Retiring { until_ms } => Some(until_ms.min(pulse_ms)),
            Life::Accepting => Some(pulse_ms),
        }
    }

    pub(super) fn look_after(&mut self, now_ms: u64, patience_ms: u64) {
        let id = self.id;
        match (self.life, self.pulse.silence(now_ms, patience_ms)) {
            _ if self.doomed.is_some() => {}
            (Life::Starting, _) if self.started_ms + patience_ms <= now_ms => {
                log::error!("worker {id} does not get ready: killed");
                self.doom("silent for worker_timeout, and killed");
            }
            (Life::Starting, _) => {}
            (_, Silence::TooLong) => {
                log::error!("worker {id} does not answer: killed");
                self.doom("silent for worker_timeout, and killed");
            }
            (Life::Retiring { until_ms }, _) if until_ms <= now_ms && self.told_to_stop => {
                log::error!("the old worker {id} does not stop, though it answers: killed");
                self.doom("told to stop for worker_timeout, and killed");
            }
            (Life::Retiring { until_ms }, _) if until_ms <= now_ms => {
                log::warn!("the time of the old worker {id} is over: its connections are cut");
                self.say("stop");
                self.told_to_stop = true;
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

    fn doom(&mut self, why: &'static str) {
        self.doomed = Some(why);
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

/// How often something was done in this second.
#[derive(Default)]
pub struct Pace {
    second: u64,
    count: u32,
}

impl Pace {
    /// Once more. False: it is more often than that in a second.
    pub fn allows(&mut self, most: u32, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.second != second {
            *self = Pace { second, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const PATIENCE_MS: u64 = 1000;

    /// What main has said.
    fn said(end: &mut Channel) -> Vec<String> {
        assert!(end.receive().expect("open"));
        std::iter::from_fn(|| end.next_line()).collect()
    }

    /// One that was taken over answers every ping, and does not end.
    #[test]
    fn who_does_not_stop_is_killed_however_much_he_answers() {
        let mut started = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (channel, end) = Channel::pair().unwrap();
        let mut end = Channel::new(UnixStream::from(end)).unwrap();
        let (life, child) = (
            Life::Retiring { until_ms: 2000 },
            Child::known(started.id()),
        );
        let mut process = Process::new(0, 0, life, child, channel, 0);
        for now_ms in (0..2000).step_by(100) {
            process.look_after(now_ms, PATIENCE_MS);
            process.pulse.beats(now_ms);
        }
        assert_eq!(said(&mut end), Vec::<String>::new());
        process.look_after(2000, PATIENCE_MS);
        assert_eq!(said(&mut end), ["stop"]);
        for now_ms in (2000..3000).step_by(100) {
            process.pulse.beats(now_ms);
            assert_eq!(process.due_ms(PATIENCE_MS), Some(3000.min(now_ms + 500)));
            process.look_after(now_ms, PATIENCE_MS);
        }
        assert_eq!((process.doomed, started.try_wait().unwrap()), (None, None));
        process.look_after(3000, PATIENCE_MS);
        assert!(process.doomed.is_some());
        assert_eq!(process.due_ms(PATIENCE_MS), None);
        assert_eq!(started.wait().unwrap().signal(), Some(process::SIGKILL));
    }
}
