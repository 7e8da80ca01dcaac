//! Processes we start, and what the kernel says about them: processor time, memory, children.
//! A `Process` is ended when it is dropped, with its whole tree and nothing else. Should the harness itself be killed, the
//! parent-death signal ends them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);
const POLITE: Duration = Duration::from_millis(1500);
/// haproxy and nginx size tables by this limit; a larger one would only measure empty tables.
const DESCRIPTORS_MAX: u64 = 65_536;

pub struct Process {
    child: Child,
    name: String,
    errors_path: PathBuf,
    /// Who was in the tree when it was ready: should the main process die, its workers are found here only.
    known: Vec<Identity>,
}

/// A number alone may be somebody else's later; with the time of its start it is not.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Identity {
    id: u32,
    started: u64,
}

/// The hard limit of descriptors, which everything we start gets.
pub fn descriptors() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line
        .and_then(|line| line.split_whitespace().nth(4))
        .and_then(|word| word.parse().ok());
    hard.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX)
}

/// A command on one core, with all descriptors, that dies with us.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let limit = descriptors();
    command.args([
        "--pdeathsig",
        "TERM",
        "prlimit",
        &format!("--nofile={limit}:{limit}"),
    ]);
    command
        .args(["taskset", "-c", &core.to_string()])
        .arg(program);
    command
}

/// Nanoseconds on a processor, and ready but without one because somebody else had it.
#[derive(Clone, Copy, Default)]
pub struct Times {
    pub cpu_ns: u64,
    pub waited_ns: u64,
}

impl Times {
    fn plus(self, other: Times) -> Times {
        Times {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            waited_ns: self.waited_ns + other.waited_ns,
        }
    }

    pub fn since(self, before: Times) -> Times {
        Times {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
        }
    }
}

impl Process {
    /// Starts `command` with its complaints going to `DIR/NAME.err`.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Process, String> {
        let errors_path = dir.join(format!("{name}.err"));
        let errors =
            File::create(&errors_path).map_err(|e| format!("{}: {e}", errors_path.display()))?;
        let output = errors.try_clone().map_err(|e| e.to_string())?;
        command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let child = command
            .spawn()
            .map_err(|e| format!("{name} does not start: {e}"))?;
        Ok(Process {
            child,
            name: name.to_string(),
            errors_path,
            known: Vec::new(),
        })
    }

    /// To be called once all its processes are there.
    pub fn remember(&mut self) {
        self.known = self.tree().into_iter().filter_map(identity).collect();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote, for the message when it did not do what it should. The end is where the reason stands.
    pub fn complaint(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.errors_path).and_then(|mut file| file.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{}: {}", self.name, lines.join(" | "))
    }

    /// Itself, its children and theirs.
    pub fn tree(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = processes()
            .into_iter()
            .filter_map(|id| Some((id, parent(id)?)))
            .collect();
        let mut tree = vec![self.id()];
        let mut next = 0;
        while next < tree.len() {
            let one = tree[next];
            tree.extend(
                parents
                    .iter()
                    .filter(|(_, parent)| *parent == one)
                    .map(|(id, _)| *id),
            );
            next += 1;
        }
        tree
    }

    pub fn times(&self) -> Times {
        let each = self.tree().into_iter().map(times);
        each.fold(Times::default(), |sum, one| sum.plus(one))
    }

    /// Proportional share of memory, of the tree, in bytes.
    pub fn pss_bytes(&self) -> Result<u64, String> {
        self.tree().into_iter().map(pss_bytes).sum()
    }

    fn wait(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            sleep(STEP);
        }
        false
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.known
                .extend(self.tree().into_iter().filter_map(identity));
            signal("TERM", self.id());
        }
        if !self.wait(POLITE) {
            // Draining, perhaps: the second signal is the hard one.
            signal("TERM", self.id());
        }
        if !self.wait(POLITE) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A worker may outlive its main for a moment, or on purpose.
        for known in &self.known {
            if identity(known.id) == Some(*known) {
                signal("KILL", known.id);
            }
        }
    }
}

/// std has no kill(2) for a signal by name; the command has.
pub fn signal(name: &str, id: u32) {
    let _ = Command::new("kill")
        .args(["-s", name, &id.to_string()])
        .stderr(Stdio::null())
        .status();
}

fn numbers_in(dir: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn processes() -> Vec<u32> {
    numbers_in("/proc")
}

/// The fields of `/proc/ID/stat` from the third on. The name before them, in parentheses, may hold anything.
fn stat_field<T: std::str::FromStr>(id: u32, number: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn parent(id: u32) -> Option<u32> {
    stat_field(id, 4)
}

fn identity(id: u32) -> Option<Identity> {
    Some(Identity {
        id,
        started: stat_field(id, 22)?,
    })
}

/// What all threads of one process spent.
pub fn times(id: u32) -> Times {
    let of_thread = |thread: u32| -> Option<Times> {
        let path = format!("/proc/{id}/task/{thread}/schedstat");
        let text = fs::read_to_string(path).ok()?;
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        Some(Times {
            cpu_ns: numbers.next()?,
            waited_ns: numbers.next()?,
        })
    };
    let threads = numbers_in(&format!("/proc/{id}/task"));
    threads
        .into_iter()
        .filter_map(of_thread)
        .fold(Times::default(), Times::plus)
}

pub fn pss_bytes(id: u32) -> Result<u64, String> {
    let path = format!("/proc/{id}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .unwrap_or_default();
    let kib: Option<u64> = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| format!("{path}: no Pss"))
}
