//! What main itself has counted since the proxy started, over upgrades too. The ledger shows it to workers, who might
//! write there what they like: main reads none of these back.

use std::sync::atomic::Ordering::Relaxed;

use crate::keys::{cell, Cell};
use crate::net::ledger::Note;
use crate::supervisor::Supervisor;
use crate::sys::shared::Shared;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Signatures made and refused by key processes that have ended.
    pub signed: u64,
    pub refused: u64,
    /// Key processes that died.
    pub key_deaths: u64,
    /// Processes that did what their sandbox forbids.
    pub violations: u64,
    /// Times that a listening socket had stopped and was made to listen again.
    pub revived: u64,
    /// Times that another program took the place of main.
    pub upgrades: u64,
    /// Pages of the ledger that were ever used.
    pub pages: u64,
}

impl Counts {
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("signed", self.signed),
            ("refused", self.refused),
            ("key_deaths", self.key_deaths),
            ("violations", self.violations),
            ("revived", self.revived),
            ("upgrades", self.upgrades),
            ("pages", self.pages),
        ];
        all.map(|(name, count)| (name, count.to_string())).into()
    }
}

impl Counts {
    /// What a key process has done that has ended.
    pub fn take(&mut self, page: Option<&Shared>) {
        let of = |which| page.map_or(0, |page| cell(page, which).load(Relaxed));
        self.signed = self.signed.wrapping_add(of(Cell::Signed));
        self.refused = self.refused.wrapping_add(of(Cell::Refused));
    }
}

impl Supervisor {
    /// With what the key processes that run have done so far.
    pub(super) fn counted(&self) -> Counts {
        let of = |which| self.keys.count(which);
        Counts {
            signed: self.counts.signed.wrapping_add(of(Cell::Signed)),
            refused: self.counts.refused.wrapping_add(of(Cell::Refused)),
            ..self.counts
        }
    }

    /// A process has died that may have written anything anywhere: what the living have stays.
    pub(super) fn restore_ledger(&self) {
        let living = self.workers.processes.iter();
        let living: Vec<usize> = living.map(|(_, one)| one.row).collect();
        let pages = self.counts.pages as usize;
        self.ledger.restore(&living, pages, self.roster.all());
    }

    pub(super) fn show_counts(&mut self) {
        // Those of workers that this main has not started are among them.
        let rows = self
            .workers
            .processes
            .iter()
            .map(|(_, one)| one.row as u64 + 1);
        self.counts.pages = rows.fold(self.counts.pages, u64::max);
        self.ledger.show_pages(self.counts.pages);
        self.ledger.set_note(Note::Revision, self.revision);
        let unresolved = self.names.unresolved() as u64;
        self.ledger.set_note(Note::Unresolved, unresolved);
        let counts = self.counted();
        for (note, count) in [
            (Note::Signatures, counts.signed),
            (Note::SignaturesRefused, counts.refused),
            (Note::KeysDeaths, counts.key_deaths),
            (Note::Violations, counts.violations),
            (Note::Revived, counts.revived),
            (Note::Upgrades, counts.upgrades),
        ] {
            self.ledger.set_note(note, count);
        }
    }
}
