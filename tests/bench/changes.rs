//! Other routes that change while requests are measured: clusters, backends and frontends come, change and go, evenly paced,
//! over one control connection, on the core of the load.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::lab::LOAD_CORE;

const PER_SECOND: u32 = 1_000;
const SITES: usize = 200;

/// Routes that change while it goes on.
pub struct Changer {
    going: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Steering, String>>>,
    /// Both while it pauses.
    steering: Option<Steering>,
}

impl Changer {
    /// Most sites are there when this returns.
    pub fn start(socket: &Path, port: u16) -> Result<Changer, String> {
        let mut steering = Steering::open(socket, port)?;
        for _ in 0..SITES * 5 {
            steering.change()?;
        }
        steering.control.settle()?;
        Ok(Changer {
            going: Arc::default(),
            thread: None,
            steering: Some(steering),
        })
    }

    pub fn go_on(&mut self) {
        let going = Arc::clone(&self.going);
        going.store(true, Ordering::Relaxed);
        let steering = self.steering.take();
        self.thread = steering.map(|steering| thread::spawn(move || steering.go_on(&going)));
    }

    /// An error if there were fewer changes than there should have been.
    pub fn pause(&mut self) -> Result<(), String> {
        self.going.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let failed = |_| "the changes panicked".to_string();
            self.steering = Some(thread.join().map_err(failed)??);
        }
        Ok(())
    }

    /// Takes everything back.
    pub fn leave(self) -> Result<(), String> {
        match self.steering {
            Some(steering) => steering.leave(),
            None => Ok(()),
        }
    }
}

/// std cannot pin a thread; the command can.
fn pin_this_thread() -> Result<(), String> {
    let own = std::fs::read_link("/proc/thread-self").map_err(|e| e.to_string())?;
    let id = own.file_name().unwrap_or_default();
    let mut taskset = Command::new("taskset");
    let taskset = taskset.args(["-cp", &LOAD_CORE.to_string()]).arg(id);
    match taskset.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("taskset does not pin a thread".to_string()),
    }
}

/// A control connection, and what was made over it.
struct Steering {
    control: Control,
    sites: Sites,
}

impl Steering {
    fn open(socket: &Path, port: u16) -> Result<Steering, String> {
        Ok(Steering {
            control: Control::open(socket)?,
            sites: Sites::new(port),
        })
    }

    fn go_on(mut self, going: &AtomicBool) -> Result<Steering, String> {
        pin_this_thread()?;
        let start = Instant::now();
        let mut sent = 0;
        while going.load(Ordering::Relaxed) {
            let due = start + Duration::from_secs(1) * sent / PER_SECOND;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.change()?;
            sent += 1;
        }
        self.control.settle()?;
        let rate = f64::from(sent) / start.elapsed().as_secs_f64();
        match rate > f64::from(PER_SECOND) * 0.98 {
            true => Ok(self),
            false => Err(format!("only {rate:.0} changes/s were done")),
        }
    }

    fn leave(mut self) -> Result<(), String> {
        self.control.all(self.sites.leave())
    }

    fn change(&mut self) -> Result<(), String> {
        let line = self.sites.change();
        self.control.send(&line)
    }
}

/// What is there of each site, so that every change is a good one.
struct Sites {
    port: u16,
    random: u64,
    sites: Vec<Site>,
}

#[derive(Clone, Copy, Default)]
struct Site {
    cluster: bool,
    backend: bool,
    frontend: bool,
}

impl Sites {
    fn new(port: u16) -> Sites {
        Sites {
            port,
            random: 0x9e37_79b9_7f4a_7c15,
            sites: vec![Site::default(); SITES],
        }
    }

    /// xorshift64*: the same changes in every run.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let scrambled = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (scrambled >> 33) as usize % bound
    }

    fn change(&mut self) -> String {
        let (n, dice, weight) = (self.below(SITES), self.below(6), self.below(100) + 1);
        let site = self.sites[n];
        if !site.cluster {
            self.sites[n].cluster = true;
            return format!("cluster add id=site-{n}");
        }
        match (dice, site.backend, site.frontend) {
            (0, false, false) => {
                self.sites[n].cluster = false;
                format!("cluster remove id=site-{n}")
            }
            (0..=2, true, _) => {
                format!("backend update cluster=site-{n} id=0 weight={weight}")
            }
            (3, true, _) => {
                self.sites[n].backend = false;
                format!("backend remove cluster=site-{n} id=0")
            }
            (_, false, _) => {
                self.sites[n].backend = true;
                format!("backend add cluster=site-{n} id=0 address=127.0.0.1:1 weight={weight}")
            }
            (_, _, false) => {
                self.sites[n].frontend = true;
                format!("frontend add {} cluster=site-{n}", self.rule(n))
            }
            (_, _, true) => {
                self.sites[n].frontend = false;
                format!("frontend remove {}", self.rule(n))
            }
        }
    }

    fn rule(&self, n: usize) -> String {
        let port = self.port;
        format!("listener=127.0.0.1:{port} hostname=site-{n}.example.com path=/of-{n}")
    }

    fn leave(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (n, site) in self.sites.iter().enumerate() {
            if site.frontend {
                lines.push(format!("frontend remove {}", self.rule(n)));
            }
            if site.backend {
                lines.push(format!("backend remove cluster=site-{n} id=0"));
            }
            if site.cluster {
                lines.push(format!("cluster remove id=site-{n}"));
            }
        }
        lines
    }
}
