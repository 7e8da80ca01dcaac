//! The tables: kinds of clients, kinds of steps, and the numbers with their bars.

use std::fmt::Write;

use super::conductor::{Record, WARM};
use super::kinds::{What, KINDS};
use super::proxy::Held;
use super::tally::{Incident, Inner, Loss, Row, Step, LOSSES, STEPS};

const UPGRADE_MS_MAX: f64 = 2000.0;
const PAUSE_MS_MAX: f64 = 50.0;
const SLOWER_MAX: f64 = 3.0;
const REPLACED_MS_MAX: f64 = 100.0;
const GROWTH_MAX: f64 = 0.05;
/// So many are told; the rest are in the table.
const INCIDENTS_MAX: usize = 40;
/// Of the times of upgrades.
const SHOWN: usize = 10;

/// What is left of a run.
pub struct Outcome {
    pub text: String,
    /// Losses that had no right to be, by kind of client.
    pub losses: Vec<String>,
    pub faults: Vec<String>,
    missed: usize,
    strict: bool,
}

impl Outcome {
    /// 0: nothing was lost.
    pub fn code(&self) -> u8 {
        let lost = !self.losses.is_empty() || !self.faults.is_empty();
        u8::from(lost || self.strict && self.missed > 0)
    }

    pub fn of(inner: &Inner, record: Record, strict: bool) -> Outcome {
        let mut faults = record.faults.clone();
        for (kind, row) in KINDS.iter().zip(&inner.rows) {
            let open = unaccounted(&kind.what, row);
            if open != 0 {
                faults.push(format!("{}: what became of {open} is not known", kind.name));
            }
        }
        let unexpected = || inner.incidents.iter().filter(|incident| !incident.expected);
        let losses = unexpected().map(|i| format!("{}: {:?}", KINDS[i.kind].name, i.loss));
        let losses = losses.collect();
        let Numbers {
            text: numbers,
            missed,
        } = Numbers::of(inner, &record);
        let mut text = kinds(inner) + "\n" + &steps(inner) + "\n" + &numbers;
        tell(&mut text, "losses", unexpected());
        let expected = inner.incidents.iter().filter(|incident| incident.expected);
        let _ = writeln!(
            text,
            "\nlost with killed workers, as it must be: {}",
            expected.count()
        );
        for fault in &faults {
            let _ = writeln!(text, "fault: {fault}");
        }
        Outcome {
            text,
            losses,
            faults,
            missed,
            strict,
        }
    }
}

/// Requests that neither had their answer nor were lost; of tunnels that were lost nobody can say.
fn unaccounted(what: &What, row: &Row) -> i64 {
    let lost = |loss: Loss| (row.losses[loss as usize] + row.expected[loss as usize]) as i64;
    let known = match what {
        What::Ask(_) => lost(Loss::Request),
        What::Cut => lost(Loss::Refused) + lost(Loss::Reset),
        What::Tunnel(_) if lost(Loss::Tunnel) > 0 => return 0,
        What::Tunnel(_) => lost(Loss::Request),
    };
    row.asked as i64 - row.right as i64 - known
}

fn tell<'i>(text: &mut String, title: &str, incidents: impl Iterator<Item = &'i Incident>) {
    let incidents: Vec<_> = incidents.collect();
    let _ = writeln!(text, "\n{title}: {}", incidents.len());
    for incident in incidents.iter().take(INCIDENTS_MAX) {
        let _ = writeln!(text, "  {incident}");
    }
    if incidents.len() > INCIDENTS_MAX {
        let _ = writeln!(text, "  … and {} more", incidents.len() - INCIDENTS_MAX);
    }
}

const LOSS_HEADS: &str = "  failed refused  reset tunnels   idle expected";

fn losses(losses: &[u64; 5], expected: u64) -> String {
    let mut text = String::new();
    for loss in LOSSES {
        let _ = write!(text, " {:>7}", losses[loss as usize]);
    }
    format!("{text} {expected:>8}")
}

fn kinds(inner: &Inner) -> String {
    let mut text = format!(
        "{:<26} {:>9} {:>9} {:>9}{LOSS_HEADS} {:>7} {:>8} {:>8}\n",
        "clients", "connects", "asked", "right", "closes", "MB up", "MB down"
    );
    let mut all = Row::default();
    let mut line = |name: &str, row: &Row| {
        let _ = writeln!(
            text,
            "{name:<26} {:>9} {:>9} {:>9}{} {:>7} {:>8.1} {:>8.1}",
            row.connects,
            row.asked,
            row.right,
            losses(&row.losses, row.expected.iter().sum()),
            row.closes,
            row.bytes_up as f64 / 1e6,
            row.bytes_down as f64 / 1e6
        );
    };
    for (kind, row) in KINDS
        .iter()
        .zip(&inner.rows)
        .filter(|(_, row)| row.connects > 0)
    {
        line(kind.name, row);
        all.add(row);
    }
    line("all", &all);
    text
}

fn steps(inner: &Inner) -> String {
    let mut text = format!(
        "{:<26} {:>9} {:>20}{LOSS_HEADS} {:>9} {:>9}\n",
        "steps", "times", "ms least/mean/most", "pause ms", "own ms"
    );
    for ((step, name), deed) in STEPS.iter().zip(&inner.deeds) {
        if deed.times == 0 && *step != Step::Nothing {
            continue;
        }
        let took = &deed.took_ms;
        let mean = took.sum / deed.times.max(1) as f64;
        let took = format!("{:.0} / {mean:.0} / {:.0}", took.least, took.most);
        let (pause_ms, late_ms) = (ms(deed.pause_us), ms(deed.late_us));
        let lost = losses(&deed.losses, deed.expected);
        let _ = writeln!(
            text,
            "{name:<26} {:>9} {took:>20}{lost} {pause_ms:>9.1} {late_ms:>9.1}",
            deed.times
        );
    }
    text
}

/// What was measured, and how many bars were missed.
#[derive(Default)]
struct Numbers {
    text: String,
    missed: usize,
}

impl Numbers {
    fn of(inner: &Inner, record: &Record) -> Numbers {
        let mut numbers = Numbers::default();
        let (quiet, busy) = (&inner.quiet, &inner.busy);
        if let (Some(quiet), Some(busy)) = (quiet.quantile_us(0.99), busy.quantile_us(0.99)) {
            let slower = busy as f64 / quiet as f64;
            let (quiet, busy) = (ms(quiet), ms(busy));
            let said = format!("{busy:.1} ms, normally {quiet:.1} ms: {slower:.2} times");
            let what = "p99 of ordinary requests while something runs";
            numbers.line(what, said, Some(slower < SLOWER_MAX));
        }
        let normally = pause(inner.pause_quiet_us, inner.late_quiet_us);
        numbers.line(
            "longest pause of a tunnel while nothing runs",
            normally,
            None,
        );
        if !record.upgrades_ms.is_empty() {
            numbers.upgrades(inner, &record.upgrades_ms);
        }
        if !record.replaced_ms.is_empty() {
            let most = record.replaced_ms.iter().copied().fold(0.0, f64::max);
            let said = format!("{most:.0} ms at most, {} times", record.replaced_ms.len());
            let what = "from a kill until the next worker accepts";
            numbers.line(what, said, Some(most < REPLACED_MS_MAX));
        }
        if let [warm, last] = &record.held[..] {
            numbers.held(warm, last, record.upgrades_ms.len());
        }
        numbers
    }

    fn line(&mut self, what: &str, said: String, within: Option<bool>) {
        let verdict = match within {
            Some(true) => "  pass",
            Some(false) => "  MISS",
            None => "",
        };
        self.missed += usize::from(within == Some(false));
        let _ = writeln!(self.text, "{what}: {said}{verdict}");
    }

    fn upgrades(&mut self, inner: &Inner, upgrades_ms: &[f64]) {
        let deed = &inner.deeds[Step::Upgrade as usize];
        let said = pause(deed.pause_us, deed.late_us);
        let within = ms(deed.pause_us) < PAUSE_MS_MAX;
        self.line(
            "longest pause of a tunnel in an upgrade",
            said,
            Some(within),
        );
        let most = upgrades_ms.iter().copied().fold(0.0, f64::max);
        let last = &upgrades_ms[upgrades_ms.len().saturating_sub(SHOWN)..];
        let last: Vec<String> = last.iter().map(|ms| format!("{ms:.0}")).collect();
        let said = format!("longest {most:.0} ms; the last ones {}", last.join(" "));
        self.line("upgrades", said, Some(most < UPGRADE_MS_MAX));
    }

    fn held(&mut self, warm: &Held, last: &Held, upgrades: usize) {
        self.line(&format!("after upgrade {WARM}"), shown(warm), None);
        self.line(&format!("after upgrade {upgrades}"), shown(last), None);
        let growth = |now: u64, then: u64| now as f64 / then.max(1) as f64 - 1.0;
        let main = growth(last.main_pss, warm.main_pss);
        let workers = growth(last.worker_pss, warm.worker_pss);
        let more = last.main_descriptors.saturating_sub(warm.main_descriptors);
        let said = format!(
            "Pss of main {:+.1} %, of workers {:+.1} %, descriptors of main {more}",
            main * 100.0,
            workers * 100.0
        );
        let within = main < GROWTH_MAX && workers < GROWTH_MAX && more == 0;
        self.line("growth", said, Some(within));
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn pause(pause_us: u64, late_us: u64) -> String {
    let (pause, late) = (ms(pause_us), ms(late_us));
    format!("{pause:.1} ms; the clients themselves were up to {late:.1} ms late")
}

fn shown(held: &Held) -> String {
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    format!(
        "main {} descriptors, {:.1} MiB; {} workers {} descriptors, {:.1} MiB",
        held.main_descriptors,
        mib(held.main_pss),
        held.workers,
        held.worker_descriptors,
        mib(held.worker_pss)
    )
}
