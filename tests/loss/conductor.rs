//! What is done to the proxy while its clients go on: one step after another, each with the time that it took and what
//! came of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sozu_lib::sys::process;

use super::control::{events, number, value, Control, Reply};
use super::kinds::Field;
use super::proxy::{Held, Proxy, WORKERS};
use super::tally::{clock, Kill, Step};

/// The steps of a round, in this order. Another worker is the next one's to be restarted or killed.
const ROUND: [Step; 16] = [
    Step::Transaction,
    Step::Upgrade,
    Step::Restart,
    Step::Edit,
    Step::Count,
    Step::Restart,
    Step::Transaction,
    Step::Count,
    Step::Reload,
    Step::Upgrade,
    Step::Kill,
    Step::Edit,
    Step::Upgrade,
    Step::Restart,
    Step::Count,
    Step::Restart,
];
/// One after another, as often as there are `Step::Count` in a round: it ends as it began.
const COUNTS: [usize; 3] = [6, 2, WORKERS];
/// After a step: idle clients speak again meanwhile, or not.
const SETTLE: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;
/// Memory is compared with what it was after that upgrade.
pub const WARM: u64 = 2;

pub struct Conductor<'p> {
    proxy: &'p mut Proxy,
    control: Control,
    events: Receiver<(u64, String)>,
    field: Arc<Field>,
    /// A loop of clients or backends ended with an error.
    broken: &'p Receiver<String>,
    upgrade: String,
    added: bool,
    edited: bool,
    workers: usize,
    counted: usize,
    /// The next worker to restart or to kill.
    turn: usize,
    pub record: Record,
}

/// What was measured of steps.
#[derive(Default)]
pub struct Record {
    /// Milliseconds that each upgrade took.
    pub upgrades_ms: Vec<f64>,
    /// Milliseconds from a kill until the next worker accepts.
    pub replaced_ms: Vec<f64>,
    /// After the second upgrade, and after the last one.
    pub held: Vec<Held>,
    /// What did not go as it should, beside losses.
    pub faults: Vec<String>,
}

impl<'p> Conductor<'p> {
    pub fn new(
        proxy: &'p mut Proxy,
        field: &Arc<Field>,
        broken: &'p Receiver<String>,
        binary: Option<&str>,
    ) -> Result<Conductor<'p>, String> {
        let known = field.clone();
        let events = events(&proxy.socket(), move || known.tally.now_us())?;
        let control = Control::connect(&proxy.socket())?;
        let binary = binary.map(|path| format!(" binary={}", Path::new(path).display()));
        Ok(Conductor {
            proxy,
            control,
            events,
            field: field.clone(),
            broken,
            upgrade: format!("upgrade{}", binary.unwrap_or_default()),
            added: false,
            edited: false,
            workers: WORKERS,
            counted: 0,
            turn: 0,
            record: Record::default(),
        })
    }

    /// Rounds for so long, one at least.
    pub fn rounds(&mut self, time: Duration) -> Result<(), String> {
        let begun = Instant::now();
        self.wait(SETTLE)?;
        for (number, step) in ROUND.iter().cycle().enumerate() {
            if number >= ROUND.len() && begun.elapsed() > time {
                break;
            }
            self.step(*step)?;
            self.wait(SETTLE)?;
        }
        Ok(())
    }

    pub fn upgrades(&mut self, count: u64) -> Result<(), String> {
        self.wait(SETTLE)?;
        for number in 1..=count {
            self.step(Step::Upgrade)?;
            if number == WARM || number == count {
                self.hold()?;
            }
        }
        Ok(())
    }

    /// Nobody is left, so it ends at once, and has nothing to cut.
    pub fn shutdown(&mut self) -> Result<(), String> {
        self.order("shutdown")?;
        let begun = Instant::now();
        while !self.proxy.has_ended() {
            if begun.elapsed() > PATIENCE {
                return Err("the proxy does not end".to_string());
            }
            self.wait(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Waits for what another thread does.
    pub fn until(&mut self, what: &str, done: impl Fn(&Field) -> bool) -> Result<(), String> {
        let begun = Instant::now();
        while !done(&self.field) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("in vain: {what}"));
            }
            self.wait(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Lets the clients go on.
    pub fn wait(&mut self, time: Duration) -> Result<(), String> {
        match self.broken.recv_timeout(time) {
            Ok(why) => Err(why),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err("the clients are gone".to_string()),
        }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let id = self.turn % self.workers;
        let command = match step {
            Step::Upgrade => self.upgrade.clone(),
            Step::Restart => format!("worker restart id={id}"),
            Step::Kill => format!("kill -9 of worker {id}"),
            Step::Edit => format!("reload, edited={}", !self.edited),
            Step::Count => {
                let count = COUNTS[self.counted % COUNTS.len()];
                format!("reload, worker_count={count}")
            }
            Step::Transaction => format!("transaction, added={}", !self.added),
            Step::Reload | Step::Nothing => "reload".to_string(),
        };
        self.field.tally.begin(step, &command);
        let went = match step {
            Step::Kill => self.kill(id),
            Step::Transaction => self.transaction(),
            Step::Edit => {
                self.edited = !self.edited;
                self.reload()
            }
            Step::Count => {
                self.workers = COUNTS[self.counted % COUNTS.len()];
                self.counted += 1;
                self.reload()
            }
            _ => self.order(&command),
        };
        let took_ms = self.field.tally.end();
        if matches!(step, Step::Restart | Step::Kill) {
            self.turn += 1;
        }
        if step == Step::Upgrade {
            self.record.upgrades_ms.push(took_ms);
        }
        let came = match &went {
            Ok(()) => "ok",
            Err(why) => why,
        };
        eprintln!("{} {command}: {came} ({took_ms:.0} ms)", clock());
        if let Err(why) = went {
            self.record.faults.push(why);
        }
        match self.proxy.has_ended() {
            true => Err("the proxy has ended".to_string()),
            false => Ok(()),
        }
    }

    /// Old workers may be too many for a moment; then it is asked again.
    fn order(&mut self, line: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let reply = self.control.ask(line)?;
            let full = reply.last.starts_with("error limit") && begun.elapsed() < PATIENCE;
            if reply.is_ok() {
                return match number(&reply.last, "cut").unwrap_or(0) {
                    0 => Ok(()),
                    _ => Err(format!("{line:?}: {}", reply.last)),
                };
            } else if !full {
                return Err(format!("{line:?}: {}", reply.last));
            }
            self.wait(SETTLE)?;
        }
    }

    /// Of a file that says what it should be now.
    fn reload(&mut self) -> Result<(), String> {
        self.proxy.edit(self.edited, self.workers)?;
        self.order("reload")
    }

    /// Looks at what is held, once who drains is gone.
    fn hold(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while self.proxy.held().workers > WORKERS && begun.elapsed() < PATIENCE {
            self.wait(SETTLE)?;
        }
        self.record.held.push(self.proxy.held());
        Ok(())
    }

    /// A backend, a cluster and a frontend more, or all of them away.
    fn transaction(&mut self) -> Result<(), String> {
        let (http, spare) = (self.proxy.doors.http, self.proxy.spare());
        let lines = match self.added {
            false => [
                "cluster add id=extra".to_string(),
                format!("backend add cluster=extra id=spare address={spare}"),
                format!("frontend add listener={http} hostname=* path=/now/counted cluster=extra"),
                format!("backend add cluster=web id=spare address={spare}"),
            ],
            true => [
                "backend remove cluster=web id=spare".to_string(),
                format!("frontend remove listener={http} hostname=* path=/now/counted"),
                "backend remove cluster=extra id=spare".to_string(),
                "cluster remove id=extra".to_string(),
            ],
        };
        self.control.ok("begin")?;
        for line in lines {
            self.control.ok(&line)?;
        }
        self.control.ok("commit")?;
        self.added = !self.added;
        Ok(())
    }

    /// Nothing but what that worker had may be lost, and another one accepts soon.
    fn kill(&mut self, id: usize) -> Result<(), String> {
        while self.events.try_recv().is_ok() {}
        let running = running(&self.control.ok("status")?);
        let here = running.iter().find(|(place, _)| *place == id);
        let (_, pid) = *here.ok_or(format!("worker {id} does not run"))?;
        let listed = self.control.ok("connections list")?.data;
        let killed_us = self.field.tally.now_us();
        let sent = process::Child::known(pid).kill(SIGKILL);
        sent.map_err(|e| format!("kill {pid}: {e}"))?;
        let dead_us = self.field.tally.now_us();
        // Those who retire are left out: they may have handed a connection to it meanwhile.
        let serves = |other: u32| running.iter().any(|(_, pid)| *pid == other);
        self.field.tally.killed(Kill {
            killed_us,
            dead_us,
            had: clients(&listed, |of| of == pid),
            others: clients(&listed, |of| of != pid && serves(of)),
        });
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let (at_us, line) = event.map_err(|_| format!("worker {id} was not replaced"))?;
            if value(&line, "kind") == Some("worker_accepts") && number(&line, "id") == Some(id) {
                let took_us = at_us.saturating_sub(killed_us);
                self.record.replaced_ms.push(took_us as f64 / 1000.0);
                return Ok(());
            }
        }
    }
}

/// The workers that serve: their places and pids.
fn running(status: &Reply) -> Vec<(usize, u32)> {
    let lines = status
        .data
        .iter()
        .filter(|line| line.starts_with("worker ") && value(line, "state") == Some("running"));
    lines
        .filter_map(|line| Some((number(line, "id")?, number(line, "pid")?)))
        .collect()
}

/// The clients on those lines that are about connections of such a process.
fn clients(listed: &[String], which: impl Fn(u32) -> bool) -> HashSet<SocketAddr> {
    let pid = |line: &str| value(line, "id")?.split('.').next()?.parse().ok();
    let lines = listed.iter().filter(|line| pid(line).is_some_and(&which));
    lines.filter_map(|line| number(line, "client")).collect()
}
