//! All that was measured: samples by row and proxy, their medians, and whether our figure reaches its bar.

use crate::peers::Peer;
use crate::rows::{Bar, Row, Sample};

/// What one proxy did in one row, over all runs.
pub struct Cell {
    pub peer: Peer,
    samples: Vec<Sample>,
    /// The first thing that went wrong: then the figure does not count.
    pub fault: Option<String>,
}

pub struct Line {
    pub row: Row,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Miss,
    /// No bar, or nothing to hold against it.
    Open,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Miss => "MISS",
            Verdict::Open => "–",
        }
    }
}

impl Cell {
    pub fn new(peer: Peer) -> Cell {
        Cell {
            peer,
            samples: Vec::new(),
            fault: None,
        }
    }

    pub fn add(&mut self, sample: Result<Sample, String>) {
        match sample {
            Ok(sample) => self.samples.push(sample),
            Err(fault) => self.fault = self.fault.take().or(Some(fault)),
        }
    }

    /// The sample with the median cost; of two, the cheaper one.
    pub fn median(&self) -> Option<Sample> {
        if self.fault.is_some() {
            return None;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        sorted.get(sorted.len().checked_sub(1)? / 2).copied()
    }

    /// How far the runs lie apart, in percent of the median: how much the machine can be trusted.
    pub fn spread(&self) -> Option<f64> {
        let median = self.median()?.cost;
        let most = self
            .samples
            .iter()
            .map(|sample| sample.cost)
            .fold(f64::MIN, f64::max);
        let least = self
            .samples
            .iter()
            .map(|sample| sample.cost)
            .fold(f64::MAX, f64::min);
        (median > 0.0).then(|| (most - least) / median * 100.0)
    }
}

impl Line {
    pub fn cell(&self, peer: Peer) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.peer == peer)
    }

    pub fn cost(&self, peer: Peer) -> Option<f64> {
        Some(self.cell(peer)?.median()?.cost)
    }

    pub fn best_peer(&self) -> Option<f64> {
        [Peer::Haproxy, Peer::Nginx]
            .into_iter()
            .filter_map(|peer| self.cost(peer))
            .reduce(f64::min)
    }

    pub fn to_best_peer(&self) -> Option<f64> {
        ratio(self.cost(Peer::Sozu), self.best_peer())
    }

    pub fn to_floor(&self) -> Option<f64> {
        ratio(self.cost(Peer::Sozu), self.cost(Peer::Floor))
    }

    /// The bar in the row's unit, if what it is derived from was measured.
    pub fn limit(&self) -> Option<f64> {
        match self.row.bar {
            Bar::BestPeer => self.best_peer(),
            Bar::Haproxy => self.cost(Peer::Haproxy),
            Bar::Nginx => self.cost(Peer::Nginx),
            Bar::Floor(times) => Some(self.cost(Peer::Floor)? * times),
            Bar::Inside(times) => Some(self.cost(Peer::Inside)? * times),
            Bar::Below(limit) => Some(limit),
            Bar::Open => None,
        }
    }

    /// A run of ours that failed misses every bar.
    pub fn verdict(&self) -> Verdict {
        let Some(cell) = self.cell(Peer::Sozu) else {
            return Verdict::Open;
        };
        if cell.fault.is_some() {
            return Verdict::Miss;
        }
        match (cell.median(), self.limit()) {
            (Some(ours), Some(limit)) if ours.cost <= limit => Verdict::Pass,
            (Some(_), Some(_)) => Verdict::Miss,
            _ => Verdict::Open,
        }
    }
}

fn ratio(ours: Option<f64>, other: Option<f64>) -> Option<f64> {
    let other = other.filter(|other| *other > 0.0)?;
    Some(ours? / other)
}

/// Three digits, as many as one run can justify.
pub fn digits(value: f64) -> String {
    let places = if value.abs() >= 100.0 { 0 } else { 1 };
    format!("{value:.places$}")
}
