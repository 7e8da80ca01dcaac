//! The benchmark: sōzu beside haproxy, nginx and a floor, measured in one run on one machine.
//! `cargo build --release && cargo run --release --example bench -- --quick`
//!
//! What counts is processor time charged to the proxy (main, workers, all threads) divided by what it served, and memory as
//! Pss. The proxies take turns (A B C A B C …), so that a noisy moment hits all of them; the median of the runs is shown.
//! Proxy on core 0, load and backend on core 1. Writes bench.md and bench.svg into `bench/` of the target directory.

mod backends;
mod changes;
mod control;
mod lab;
mod load;
mod options;
mod peers;
mod process;
mod report;
mod rows;
mod strace;
mod svg;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lab::Lab;
use options::Options;
use peers::{Peer, Running};
use report::Report;
use rows::{Row, Sample, What};
use table::{Cell, Line, Verdict};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let options = Options::read(std::env::args().skip(1))?;
    let target = target_dir()?;
    let sozu = options
        .sozu
        .clone()
        .unwrap_or_else(|| target.join("release/sozu"));
    // Started from another directory than this.
    let sozu = sozu.canonicalize().unwrap_or(sozu);
    if std::thread::available_parallelism().map_or(1, |cores| cores.get()) < 2 {
        return Err("two cores are needed: one for the proxy, one for its load".to_string());
    }
    peers::install_missing()?;
    let versions = versions(&options.peers, &sozu);
    let peers: Vec<Peer> = versions.iter().map(|(peer, _)| *peer).collect();
    let out = target.join("bench");
    let mut lab = Lab::new(out.clone())?;
    if options.strace {
        lab.start_backends()?;
        for peer in peers {
            println!("{}", strace::count(peer, &mut lab, &sozu)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut bench = Bench {
        about: about(&options, &versions),
        options,
        sozu,
        lines: Vec::new(),
        lab,
    };
    bench.lines = bench
        .options
        .rows
        .iter()
        .map(|row| line(*row, &peers))
        .collect();
    bench.measure_all(&peers)?;
    let report = Report {
        about: bench.about,
        peers,
        lines: bench.lines,
    };
    println!("{}", report.text());
    lab::write(&out.join("bench.md"), report.markdown().as_bytes())?;
    lab::write(
        &out.join("bench.svg"),
        svg::chart(&report.lines, &report.about[0]).as_bytes(),
    )?;
    let missed = report
        .lines
        .iter()
        .any(|line| line.verdict() == Verdict::Miss);
    Ok(if missed && bench.options.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Bench {
    about: Vec<String>,
    options: Options,
    sozu: PathBuf,
    lines: Vec<Line>,
    lab: Lab,
}

impl Bench {
    /// At rest first, while nothing else runs; then under load, all proxies up; then idle, each freshly started.
    fn measure_all(&mut self, peers: &[Peer]) -> Result<(), String> {
        let at_rest = |what: &What| matches!(what, What::Rest);
        let idle = |what: &What| matches!(what, What::Idle(_));
        self.each(at_rest, |bench, _, peer| {
            rows::rest(peer, &mut bench.lab, &bench.sozu)
        });
        self.lab.start_backends()?;
        let running = self.start(peers);
        self.each(
            |what| !at_rest(what) && !idle(what),
            |bench, row, peer| {
                let found = running.iter().find(|(one, _)| *one == peer);
                let (_, one) = found.ok_or("not started")?;
                let one = one.as_ref().map_err(String::clone)?;
                let (lab, seconds) = (&bench.lab, bench.options.seconds);
                match row.what {
                    What::Changes(_) => rows::changes(row, one, lab, seconds),
                    What::Slow(load) => backends::slow(load, one, lab, seconds),
                    What::Checks(clusters) => backends::checks(clusters, one, lab, seconds),
                    _ => rows::under_load(row, one, lab, seconds),
                }
            },
        );
        drop(running);
        self.each(idle, |bench, row, peer| {
            rows::idle(row, peer, &mut bench.lab, &bench.sozu, bench.options.idle)
        });
        Ok(())
    }

    /// All rows of one sort, the proxies taking turns. What failed once is not tried again.
    fn each(
        &mut self,
        sort: impl Fn(&What) -> bool,
        sample: impl Fn(&mut Bench, &Row, Peer) -> Result<Sample, String>,
    ) {
        for number in 0..self.lines.len() {
            let row = self.lines[number].row;
            if !sort(&row.what) {
                continue;
            }
            eprintln!("{} …", row.title);
            for _ in 0..self.options.runs {
                for at in 0..self.lines[number].cells.len() {
                    let cell = &self.lines[number].cells[at];
                    if cell.fault.is_none() {
                        let taken = sample(self, &row, cell.peer);
                        self.lines[number].cells[at].add(taken);
                    }
                }
            }
        }
    }

    /// One that does not start has its reason in each of the rows it should have been in.
    fn start(&mut self, peers: &[Peer]) -> Vec<(Peer, Result<Running, String>)> {
        let start = |peer: &Peer| (*peer, Running::start(*peer, &mut self.lab, &self.sozu));
        peers.iter().map(start).collect()
    }
}

fn line(row: Row, peers: &[Peer]) -> Line {
    let cells = peers
        .iter()
        .filter(|peer| row.concerns(**peer))
        .map(|peer| Cell::new(*peer))
        .collect();
    Line { row, cells }
}

fn versions(peers: &[Peer], sozu: &Path) -> Vec<(Peer, String)> {
    let mut versions = Vec::new();
    for peer in peers {
        match peer.version(sozu) {
            Some(version) => versions.push((*peer, version)),
            None => eprintln!("{}: not found, its rows are skipped", peer.name()),
        }
    }
    versions
}

/// This program is TARGET/release/examples/bench.
fn target_dir() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    program
        .ancestors()
        .nth(3)
        .map(Path::to_path_buf)
        .ok_or("not run from a target directory".to_string())
}

fn about(options: &Options, versions: &[(Peer, String)]) -> Vec<String> {
    let versions: Vec<String> = versions
        .iter()
        .map(|(peer, version)| format!("{} {version}", peer.name()))
        .collect();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    vec![
        format!(
            "One worker on one core each; runs of {} s, median of {}.",
            options.seconds, options.runs
        ),
        format!("{}.", versions.join(", ")),
        format!(
            "{}, Linux {}, load before the run {}.",
            model.map_or("unknown processor", |model| model.1),
            kernel.trim().split('-').next().unwrap_or_default(),
            load.split(' ').next().unwrap_or_default()
        ),
    ]
}
