//! What became of the connections of workers that end: the loss report.
//!
//! A worker counts on its row of the board, by what each connection was doing.
//! Of one that died what was still there is cut.

use crate::limits::WORKERS_MAX;
use crate::net::board::{Board, Fate, Load};
use crate::proto::reply;

/// Connections, by what they were doing and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses([[u64; Fate::ALL.len()]; Load::ALL.len()]);

impl Losses {
    /// Of one worker, as it says.
    pub fn of(board: &Board, row: usize) -> Losses {
        debug_assert!(row < WORKERS_MAX);
        let mut losses = Losses::default();
        for load in Load::ALL {
            for fate in Fate::ALL {
                losses.0[load as usize][fate as usize] = board.fate(row, load, fate);
            }
        }
        losses
    }

    /// It is gone: nothing of it drains any more.
    pub fn ended(mut self) -> Losses {
        for fates in &mut self.0 {
            let left = std::mem::take(&mut fates[Fate::Draining as usize]);
            fates[Fate::Cut as usize] = fates[Fate::Cut as usize].saturating_add(left);
        }
        self
    }

    pub fn add(&mut self, other: &Losses) {
        for (fates, others) in self.0.iter_mut().zip(&other.0) {
            for (n, more) in fates.iter_mut().zip(others) {
                *n = n.saturating_add(*more);
            }
        }
    }

    /// All kinds together, by what became of them.
    pub fn totals(&self) -> [(&'static str, String); Fate::ALL.len()] {
        Fate::ALL.map(|fate| {
            let all = self.0.iter().map(|fates| fates[fate as usize]);
            (fate.name(), all.fold(0, u64::saturating_add).to_string())
        })
    }

    /// All numbers, kind by kind.
    pub fn numbers(&self) -> Vec<u64> {
        self.0.iter().flatten().copied().collect()
    }

    /// From as many of them as there are.
    pub fn from_numbers(numbers: &[u64]) -> Losses {
        let mut losses = Losses::default();
        let cells = losses.0.iter_mut().flatten();
        cells.zip(numbers).for_each(|(cell, n)| *cell = *n);
        losses
    }

    /// A data line for each kind that there is.
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for load in Load::ALL {
            let fates = &self.0[load as usize];
            if fates.iter().any(|n| *n > 0) {
                let mut pairs = vec![("kind", load.name().to_string())];
                let told = |fate: Fate| (fate.name(), fates[fate as usize].to_string());
                pairs.extend(Fate::ALL.map(told));
                lines += &reply::data("connections", &pairs);
            }
        }
        lines
    }

    /// What is still there, by kind, for those of which there is any.
    pub fn draining(&self) -> Vec<(&'static str, String)> {
        let left = |load: Load| self.0[load as usize][Fate::Draining as usize];
        let some = Load::ALL.into_iter().filter(|load| left(*load) > 0);
        some.map(|load| (load.name(), left(load).to_string()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_of_the_dead_is_cut() {
        let board = Board::create().unwrap();
        board.add_fate(3, Load::Idle, Fate::Draining, 5);
        board.add_fate(3, Load::Idle, Fate::Moved, 7);
        board.add_fate(3, Load::Tcp, Fate::Draining, 2);
        board.add_fate(3, Load::Tcp, Fate::Draining, -1);
        let living = Losses::of(&board, 3);
        assert_eq!(
            living.draining(),
            [("idle", "5".to_string()), ("tcp", "1".to_string())]
        );
        let mut all = living.ended();
        all.add(&living.ended());
        assert_eq!(
            all.lines(),
            "connections kind=idle moved=14 drained=0 draining=0 cut=10\n\
             connections kind=tcp moved=0 drained=0 draining=0 cut=2\n"
        );
        let totals = all.totals().map(|(_, n)| n);
        assert_eq!(totals, ["14", "0", "0", "12"]);
        assert_eq!(Losses::of(&board, 4).lines(), "");
    }
}
