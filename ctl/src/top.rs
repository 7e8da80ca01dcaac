//! `top`: what workers, clusters and backends do, every second.
//!
//! Rates are differences of two answers to `status` and to `metrics`. Without a
//! terminal it is the same text once a second, and with `--json` one object for each.

use std::io;
use std::time::{Duration, Instant};

use sozu_lib::proto::line::{join, split, Word};

use crate::failure::Failure;
use crate::link::Link;
use crate::local;
use crate::options::Options;
use crate::rates::{self, number, value, Rate};
use crate::show::{columns, Printer};
use crate::terminal::{Key, Terminal};

const INTERVAL: Duration = Duration::from_secs(1);
/// Columns of the longest bar.
const BAR: usize = 30;

/// One answer to `status`, and one to `metrics`.
struct Sample {
    at: Instant,
    lines: Vec<Vec<Word>>,
    metrics: Vec<Vec<Word>>,
}

pub fn run(options: &Options, words: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let once = match words.as_slice() {
        [] => false,
        ["--once"] => true,
        _ => return Err(Failure::usage("top takes --once, and nothing else")),
    };
    let mut link = Link::open(&options.socket()?, options.limit)?;
    let mut watch = Watch::start(&mut link)?;
    if options.json {
        return loop {
            link.pause(INTERVAL)?;
            watch.poll(&mut link)?;
            watch.json()?;
            if once {
                break Ok(());
            }
        };
    }
    let terminal = if once { None } else { Terminal::open() };
    let Some(terminal) = terminal else {
        return loop {
            link.pause(INTERVAL)?;
            watch.poll(&mut link)?;
            local::print(&watch.text())?;
            if once {
                break Ok(());
            }
            local::print("\n")?;
        };
    };
    loop {
        let text = format!("{}\nq ends\n", watch.text());
        terminal.draw(&text).map_err(Failure::of_output)?;
        match terminal.key() {
            Key::Quit => return Ok(()),
            Key::None => watch.poll(&mut link)?,
            // Too soon for a rate; the screen is drawn anew.
            Key::Other => {}
        }
    }
}

/// The last two samples.
struct Watch {
    before: Option<Sample>,
    now: Sample,
}

impl Watch {
    fn start(link: &mut Link) -> Result<Watch, Failure> {
        let now = Sample::take(link)?;
        Ok(Watch { before: None, now })
    }

    fn poll(&mut self, link: &mut Link) -> Result<(), Failure> {
        let now = Sample::take(link)?;
        self.before = Some(std::mem::replace(&mut self.now, now));
        Ok(())
    }

    fn json(&self) -> Result<(), Failure> {
        let mut printer = Printer::new(io::stdout().lock(), true);
        for words in &self.now.lines {
            printer.line(&join(words))?;
        }
        for rate in self.rates() {
            printer.line(&join(&rate.words()))?;
        }
        let sum = |key| self.workers().map(|worker| self.rate(worker, key)).sum();
        let pairs = [
            ("requests_per_s", sum("requests")),
            ("accepted_per_s", sum("accepted")),
        ];
        let pair = |(key, value): (&str, f64)| Word::Pair {
            key: key.to_string(),
            value: format!("{value:.0}"),
        };
        printer.end(&pairs.map(pair))
    }

    fn workers(&self) -> impl Iterator<Item = &Vec<Word>> {
        let worker = |words: &&Vec<Word>| words.first() == Some(&Word::Bare("worker".into()));
        self.now.lines.iter().filter(worker)
    }

    /// How often a second, since the sample before. A process that is new has counted from 0.
    fn rate(&self, worker: &[Word], key: &str) -> f64 {
        let Some(before) = &self.before else {
            return 0.0;
        };
        let same = |other: &&Vec<Word>| {
            let named = |key| value(other, key) == value(worker, key);
            named("id") && named("pid")
        };
        let earlier = before.lines.iter().find(same);
        let earlier = earlier.map_or(0, |words| number(words, key));
        let count = number(worker, key).saturating_sub(earlier);
        count as f64 / self.seconds().max(0.001)
    }

    /// Between the two samples.
    fn seconds(&self) -> f64 {
        let before = self.before.as_ref().map_or(self.now.at, |before| before.at);
        (self.now.at - before).as_secs_f64()
    }

    /// Of listeners, clusters and backends; in the first moment nothing has happened.
    fn rates(&self) -> Vec<Rate<'_>> {
        let before = self.before.as_ref().unwrap_or(&self.now);
        rates::between(&before.metrics, &self.now.metrics, self.seconds())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let main = Word::Bare("main".into());
        if let Some(words) = self.now.lines.iter().find(|w| w.first() == Some(&main)) {
            text += &head(words);
        }
        let all = |key| self.workers().map(|w| self.rate(w, key)).sum::<f64>();
        let count = |key| self.workers().map(|w| number(w, key)).sum::<u64>();
        text += &format!(
            "requests/s {:.0}   accepted/s {:.0}   connections {}   requests {}   restarts {}\n\n",
            all("requests"),
            all("accepted"),
            count("connections"),
            count("requests"),
            count("restarts"),
        );
        text += &self.table();
        let clusters = rates::table(&self.rates());
        if !clusters.is_empty() {
            text += &format!("\n{clusters}");
        }
        text
    }

    fn table(&self) -> String {
        let names = [
            "worker",
            "pid",
            "state",
            "conns",
            "accepted/s",
            "restarts",
            "requests/s",
            "",
        ];
        let mut rows = vec![names.map(String::from).to_vec()];
        let rates: Vec<f64> = self.workers().map(|w| self.rate(w, "requests")).collect();
        let most = rates.iter().copied().fold(1.0, f64::max);
        for (worker, rate) in self.workers().zip(&rates) {
            rows.push(vec![
                value(worker, "id").to_string(),
                value(worker, "pid").to_string(),
                value(worker, "state").to_string(),
                value(worker, "connections").to_string(),
                format!("{:.0}", self.rate(worker, "accepted")),
                value(worker, "restarts").to_string(),
                format!("{rate:.0}"),
                "█".repeat((rate / most * BAR as f64).round() as usize),
            ]);
        }
        columns(&rows)
    }
}

impl Sample {
    fn take(link: &mut Link) -> Result<Sample, Failure> {
        let mut lines = Vec::new();
        link.ask("status", &mut |line| {
            lines.extend(split(line));
            Ok(())
        })?;
        let mut sample = Sample {
            at: Instant::now(),
            lines,
            metrics: Vec::new(),
        };
        link.ask("metrics", &mut |line| {
            sample.metrics.extend(split(line));
            Ok(())
        })?;
        Ok(sample)
    }
}

fn head(main: &[Word]) -> String {
    let named = |key: &str| format!("{key} {}", value(main, key));
    let counted = ["listeners", "clusters", "frontends", "backends", "revision"];
    format!(
        "sozu {} {}, pid {}, for {}\n{}\n",
        value(main, "version"),
        value(main, "state"),
        value(main, "pid"),
        time(number(main, "uptime_s")),
        counted.map(named).join("   ")
    )
}

/// `3 d 04:05:06`
fn time(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60 % 60, seconds / 3600 % 24);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    match seconds / 86400 {
        0 => clock,
        days => format!("{days} d {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, lines: &[&str]) -> Sample {
        let lines = lines.iter().map(|line| split(line).expect("a line"));
        Sample {
            at,
            lines: lines.collect(),
            metrics: Vec::new(),
        }
    }

    #[test]
    fn rates_are_differences() {
        let at = Instant::now();
        let before = [
            "worker id=0 pid=1 requests=100",
            "worker id=1 pid=2 requests=70",
        ];
        let now = [
            "main version=1.2.3 state=serving pid=9 uptime_s=90061 revision=4",
            "worker id=0 pid=1 state=running connections=5 requests=500 restarts=0",
            "worker id=1 pid=3 state=running connections=6 requests=20 restarts=1",
        ];
        let watch = Watch {
            before: Some(sample(at, &before)),
            now: sample(at + Duration::from_secs(2), &now),
        };
        let text = watch.text();
        assert!(text.starts_with("sozu 1.2.3 serving, pid 9, for 1 d 01:01:01\n"));
        assert!(
            text.contains("requests/s 210   accepted/s 0   connections 11   requests 520"),
            "{text}"
        );
        let bars: Vec<usize> = text
            .lines()
            .skip(5)
            .map(|line| line.matches('█').count())
            .collect();
        assert_eq!(bars, [30, 2], "{text}");
    }
}
