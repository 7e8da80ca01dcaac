//! Which system calls a kept-alive request costs: `strace -c` on the worker for the length of one run of wrk.
//! The counter is attached before the load and taken off after it, so that calls and answers belong together.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{Lab, KIB};
use crate::load::{Kind, Load};
use crate::peers::{Peer, Running};
use crate::process::{signal, times, Process};

const LOAD: Load = Load {
    kind: Kind::Wrk,
    clients: 64,
    path: "/1k",
    len: KIB,
};
const SECONDS: u64 = 2;
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
/// Rarer calls than this per answer are start-up and timers.
const SHOWN_LEAST: f64 = 0.001;

pub fn count(peer: Peer, lab: &mut Lab, sozu: &Path) -> Result<String, String> {
    let running = Running::start(peer, lab, sozu)?;
    LOAD.run(lab, running.http, 1)?;
    // The one that carried the warm-up is the worker.
    let worker = running
        .process
        .tree()
        .into_iter()
        .max_by_key(|id| times(*id).cpu_ns)
        .unwrap_or(running.process.id());
    let summary = lab.dir.join(format!("{}.strace", peer.name()));
    let mut command = Command::new("strace");
    command
        .args(["-c", "-f", "-p", &worker.to_string(), "-o"])
        .arg(&summary)
        .stdin(Stdio::null());
    let mut strace = Process::start("strace", command, &lab.dir)?;
    wait_attached(worker).map_err(|e| format!("{e}; {}", strace.complaint()))?;
    let outcome = LOAD.run(lab, running.http, SECONDS)?;
    signal("INT", strace.id());
    let start = Instant::now();
    while !strace.has_ended() && start.elapsed() < ATTACH_LIMIT {
        sleep(Duration::from_millis(10));
    }
    let text = fs::read_to_string(&summary).map_err(|e| format!("strace: {e}"))?;
    Ok(per_answer(peer, &text, outcome.done as f64))
}

fn wait_attached(worker: u32) -> Result<(), String> {
    let start = Instant::now();
    while start.elapsed() < ATTACH_LIMIT {
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        if status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err("strace does not attach".to_string())
}

/// The summary's columns: % time, seconds, usecs/call, calls, errors (or nothing), name.
fn per_answer(peer: Peer, summary: &str, answers: f64) -> String {
    let mut out = format!(
        "{}: system calls per answer, {answers} answers",
        peer.name()
    );
    for line in summary.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(calls), Some(name)) = (words.get(3), words.last()) else {
            continue;
        };
        let Ok(calls) = calls.parse::<f64>() else {
            continue;
        };
        if calls / answers >= SHOWN_LEAST {
            out.push_str(&format!("\n  {:>8.3}  {name}", calls / answers));
        }
    }
    out
}
