//! What was asked, what came of it, and every loss with its time, its reason and the command that ran.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::kinds::KINDS;

/// So late the end of a connection may be seen on a busy machine.
const SEEN_US: u64 = 3_000_000;

/// Ways to lose something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No answer, a cut one or a wrong one.
    Request,
    /// A connect that was refused.
    Refused,
    /// A new connection that was closed or reset before anything was asked.
    Reset,
    /// A tunnel that ended, or a byte in it that was not the one that was sent.
    Tunnel,
    /// A kept-alive connection closed between two requests, though no answer had said so.
    Idle,
}

pub const LOSSES: [Loss; 5] = [
    Loss::Request,
    Loss::Refused,
    Loss::Reset,
    Loss::Tunnel,
    Loss::Idle,
];

/// What the conductor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Upgrade,
    Restart,
    Reload,
    Edit,
    Count,
    Transaction,
    Kill,
}

pub const STEPS: [(Step, &str); 8] = [
    (Step::Nothing, "(none so far)"),
    (Step::Upgrade, "upgrade"),
    (Step::Restart, "worker restart"),
    (Step::Reload, "reload"),
    (Step::Edit, "reload, file changed"),
    (Step::Count, "reload, worker_count"),
    (Step::Transaction, "transaction"),
    (Step::Kill, "kill -9 of a worker"),
];

/// Counts of one kind of client.
#[derive(Clone, Copy, Default)]
pub struct Row {
    pub connects: u64,
    pub asked: u64,
    pub right: u64,
    /// Answers that asked for another connection, which is no loss.
    pub closes: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub losses: [u64; 5],
    /// Losses of a worker that was killed, which had to be.
    pub expected: [u64; 5],
}

impl Row {
    pub fn add(&mut self, other: &Row) {
        self.connects += other.connects;
        self.asked += other.asked;
        self.right += other.right;
        self.closes += other.closes;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        for loss in 0..LOSSES.len() {
            self.losses[loss] += other.losses[loss];
            self.expected[loss] += other.expected[loss];
        }
    }
}

/// Counts of one kind of step.
#[derive(Clone, Copy, Default)]
pub struct Deed {
    pub times: u64,
    pub took_ms: Spread,
    pub losses: [u64; 5],
    pub expected: u64,
    /// The longest time that a byte spent in a tunnel meanwhile.
    pub pause_us: u64,
    /// How late the clients themselves were at most: no pause is known better.
    pub late_us: u64,
}

/// The shortest, the sum and the longest.
#[derive(Clone, Copy, Default)]
pub struct Spread {
    pub least: f64,
    pub sum: f64,
    pub most: f64,
}

#[derive(Clone, Debug)]
pub struct Incident {
    pub kind: usize,
    pub loss: Loss,
    pub why: String,
    /// As the proxy sees it.
    client: Option<SocketAddr>,
    begun_us: u64,
    at_us: u64,
    clock: String,
    command: String,
    step: Step,
    number: u64,
    pub expected: bool,
}

/// A connection, for what is said about its loss.
#[derive(Clone, Copy)]
pub struct Line {
    pub kind: usize,
    pub client: Option<SocketAddr>,
    pub begun_us: u64,
}

struct Now {
    step: Step,
    command: String,
    number: u64,
    begun_us: u64,
    /// It is over, and nothing else has begun.
    ended_us: Option<u64>,
}

impl Now {
    /// Whether what began then and ends now was there while the step ran.
    fn touches(&self, since_us: u64) -> bool {
        self.step != Step::Nothing && self.ended_us.is_none_or(|ended_us| since_us <= ended_us)
    }
}

pub struct Inner {
    pub rows: Vec<Row>,
    pub deeds: [Deed; STEPS.len()],
    pub incidents: Vec<Incident>,
    /// Of ordinary requests while nothing runs, and while something does.
    pub quiet: Latencies,
    pub busy: Latencies,
    pub pause_quiet_us: u64,
    pub late_quiet_us: u64,
    kills: Vec<Kill>,
    now: Now,
}

pub struct Tally {
    start: Instant,
    inner: Mutex<Inner>,
}

impl Tally {
    pub fn new(start: Instant) -> Tally {
        let now = Now {
            step: Step::Nothing,
            command: "nothing so far".to_string(),
            number: 0,
            begun_us: 0,
            ended_us: Some(0),
        };
        let inner = Inner {
            rows: vec![Row::default(); KINDS.len()],
            deeds: [Deed::default(); STEPS.len()],
            incidents: Vec::new(),
            quiet: Latencies::default(),
            busy: Latencies::default(),
            pause_quiet_us: 0,
            late_quiet_us: 0,
            kills: Vec::new(),
            now,
        };
        Tally {
            start,
            inner: Mutex::new(inner),
        }
    }

    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().expect("nobody panics with the tally"))
    }

    pub fn count(&self, kind: usize, change: impl FnOnce(&mut Row)) {
        self.with(|inner| change(&mut inner.rows[kind]));
    }

    pub fn lose(&self, line: Line, loss: Loss, why: String) {
        let (at_us, clock) = (self.now_us(), clock());
        self.with(|inner| {
            inner.rows[line.kind].losses[loss as usize] += 1;
            inner.deeds[inner.now.step as usize].losses[loss as usize] += 1;
            let when = match inner.now.ended_us {
                None => "during",
                Some(_) => "after",
            };
            inner.incidents.push(Incident {
                kind: line.kind,
                loss,
                why,
                client: line.client,
                begun_us: line.begun_us,
                at_us,
                clock,
                command: format!("{when} {}", inner.now.command),
                step: inner.now.step,
                number: inner.now.number,
                expected: false,
            });
        });
    }

    /// An ordinary request was answered.
    pub fn took(&self, since_us: u64, now_us: u64) {
        let us = now_us.saturating_sub(since_us);
        self.with(|inner| match inner.now.touches(since_us) {
            true => inner.busy.add(us),
            false => inner.quiet.add(us),
        });
    }

    /// Bytes that were put into a tunnel then have come back now.
    pub fn tunneled(&self, sent_us: u64, now_us: u64) {
        let pause_us = now_us.saturating_sub(sent_us);
        self.with(|inner| {
            let longest = match inner.now.touches(sent_us) {
                true => &mut inner.deeds[inner.now.step as usize].pause_us,
                false => &mut inner.pause_quiet_us,
            };
            *longest = pause_us.max(*longest);
        });
    }

    /// A client had a turn that was due then.
    pub fn late(&self, due_us: u64, now_us: u64) {
        let late_us = now_us.saturating_sub(due_us);
        self.with(|inner| {
            let longest = match inner.now.touches(due_us) {
                true => &mut inner.deeds[inner.now.step as usize].late_us,
                false => &mut inner.late_quiet_us,
            };
            *longest = late_us.max(*longest);
        });
    }

    pub fn begin(&self, step: Step, command: &str) {
        let begun_us = self.now_us();
        self.with(|inner| {
            inner.now = Now {
                step,
                command: command.to_string(),
                number: inner.now.number + 1,
                begun_us,
                ended_us: None,
            };
        });
    }

    /// How long the step took, in milliseconds.
    pub fn end(&self) -> f64 {
        let ended_us = self.now_us();
        self.with(|inner| {
            inner.now.ended_us = Some(ended_us);
            let took_ms = (ended_us - inner.now.begun_us) as f64 / 1000.0;
            let deed = &mut inner.deeds[inner.now.step as usize];
            let took = &mut deed.took_ms;
            took.least = if deed.times == 0 {
                took_ms
            } else {
                took.least.min(took_ms)
            };
            took.most = took.most.max(took_ms);
            took.sum += took_ms;
            deed.times += 1;
            took_ms
        })
    }

    pub fn killed(&self, kill: Kill) {
        self.with(|inner| inner.kills.push(kill));
    }
}

impl Inner {
    /// Takes out of the losses what had to be lost with workers that were killed. A refused connect is nobody's.
    pub fn excuse(&mut self) {
        for incident in &mut self.incidents {
            let had = self.kills.iter().any(|kill| kill.took(incident));
            if !had || incident.expected || incident.loss == Loss::Refused {
                continue;
            }
            incident.expected = true;
            let loss = incident.loss as usize;
            let (row, deed) = (
                &mut self.rows[incident.kind],
                &mut self.deeds[incident.step as usize],
            );
            row.losses[loss] -= 1;
            row.expected[loss] += 1;
            deed.losses[loss] -= 1;
            deed.expected += 1;
        }
    }
}

/// A worker that was killed, and what the proxy had said of its connections just before.
pub struct Kill {
    pub killed_us: u64,
    /// It was certainly dead.
    pub dead_us: u64,
    pub had: HashSet<SocketAddr>,
    /// Those of other workers, as far as they cannot have become its own meanwhile.
    pub others: HashSet<SocketAddr>,
}

impl Kill {
    /// What nobody had told of was made between the telling and the kill, and its end is seen soon.
    fn took(&self, incident: &Incident) -> bool {
        let lived = incident.begun_us < self.dead_us && incident.at_us >= self.killed_us;
        let soon = incident.at_us < self.dead_us + SEEN_US;
        let of_it = |client| self.had.contains(&client) || soon && !self.others.contains(&client);
        lived && incident.client.is_some_and(of_it)
    }
}

impl std::fmt::Display for Incident {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let client = self
            .client
            .map_or("?".to_string(), |client| client.to_string());
        let (kind, loss, why) = (KINDS[self.kind].name, self.loss, &self.why);
        write!(
            f,
            "{} (+{:.3} s) {kind}: {loss:?}: {why}; client {client}, begun +{:.3} s; {} (step {})",
            self.clock,
            self.at_us as f64 / 1e6,
            self.begun_us as f64 / 1e6,
            self.command,
            self.number
        )
    }
}

/// The time of day, UTC, as in the proxy's log.
pub fn clock() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (s, ms) = (since.as_secs() % 86_400, since.subsec_millis());
    format!("{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

/// Times in µs, by buckets each a sixteenth wider than the one before.
#[derive(Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Latencies {
    fn add(&mut self, us: u64) {
        let us = us.max(16);
        let power = us.ilog2();
        let bucket = (power as usize) << 4 | (us >> (power - 4) & 15) as usize;
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// The upper end of the bucket below which that share of all lies.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        let (power, part) = (bucket >> 4, bucket as u64 & 15);
        (self.count > 0).then(|| (16 + part + 1) << power >> 4)
    }
}
