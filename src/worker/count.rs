//! What is counted of an exchange, and this worker's view of all figures.

use crate::limits::WORKERS_MAX;
use crate::metrics::text::{label, Object, Of, Source};
use crate::metrics::{answered, Count};
use crate::net::board::{Board, Cell};
use crate::net::ledger::{Ledger, Note, Row, Tally};
use crate::session::{Door, Exchange};
use crate::slab::Slab;
use crate::worker::certificates::Certificates;
use crate::worker::doors::Entrance;
use crate::worker::pool::Backs;

/// One that is over, in the rows of its listener, cluster and backend.
pub fn exchange(tally: &Tally, door: &Door, x: &Exchange, now_us: u64) {
    let r = &x.record;
    if r.start_us == 0 {
        return;
    }
    // A tunnel's time says nothing about how fast an answer is.
    let answer = (200..600).contains(&r.status);
    let all_us = answer.then(|| now_us.saturating_sub(r.start_us));
    count(tally.row(door.series), x, all_us);
    if let Some(target) = &x.target {
        let row = tally.row(target.series);
        count(row, x, all_us);
        let tries = u64::from(x.failed_connects) + u64::from(x.replayed);
        if tries > 0 {
            row.add(Count::Retried, tries);
        }
    }
    if let Some(server) = &x.server {
        let first_us = r.first_byte_us.checked_sub(r.connected_us);
        let first_us = first_us.filter(|_| answer && r.connected_us != 0);
        count(tally.row(server.series), x, first_us);
    }
}

fn count(row: Row, x: &Exchange, us: Option<u64>) {
    let r = &x.record;
    row.add(Count::Received, r.bytes_up);
    row.add(Count::Sent, r.bytes_down);
    if let Some(class) = answered(r.status) {
        row.add(class, 1);
    }
    if let Some(whose) = r.end.failed() {
        row.add(whose, 1);
    }
    if let Some(limit) = r.end.refused() {
        row.add(limit, 1);
    }
    if let Some(us) = us {
        row.observe(us);
    }
}

/// Everything that a worker can tell.
pub struct Figures<'w> {
    pub board: &'w Board,
    pub ledger: &'w Ledger,
    pub doors: &'w Slab<Entrance>,
    pub certificates: &'w Certificates,
    pub backs: &'w Backs,
}

impl Source for Figures<'_> {
    fn moment(&self) -> u64 {
        self.backs.moment()
    }

    fn object(&self, of: Of, from: u32, moment: u64) -> Option<(u32, Object)> {
        let (at, labels, series) = match of {
            Of::Proxy if from == 0 => (0, String::new(), None),
            Of::Proxy => return None,
            Of::Worker => {
                let rows = from..WORKERS_MAX as u32;
                let lives = |row: &u32| self.board.get(*row as usize, Cell::Pid) != 0;
                let row = rows.into_iter().find(lives)?;
                let cell = |cell| self.board.get(row as usize, cell).to_string();
                let place = label("worker", &cell(Cell::Place));
                (row, place + "," + &label("pid", &cell(Cell::Pid)), None)
            }
            Of::Listener => {
                let mut doors = self.doors.iter_from(from);
                let (key, entrance) = doors.find(|(_, entrance)| entrance.was_there(moment))?;
                let address = entrance.door.listener.address.to_string();
                (key.index, label("listener", &address), entrance.door.series)
            }
            Of::Certificate => {
                let (at, labels) = self.certificates.labels_from(from, moment)?;
                (at, labels, None)
            }
            Of::Cluster => {
                let (at, target) = self.backs.cluster_from(from, moment)?;
                (at, label("cluster", &target.cluster.id), target.series)
            }
            Of::Backend => {
                let (at, server) = self.backs.backend_from(from, moment)?;
                let cluster = label("cluster", &server.backend.cluster);
                let id = label("backend", &server.backend.id);
                (at, cluster + "," + &id, server.series)
            }
        };
        let totals = self.ledger.totals(series);
        Some((at, Object { labels, totals }))
    }

    fn number(&self, name: &str, at: u32) -> u64 {
        let cell = |cell| self.board.get(at as usize, cell);
        match name {
            "sozu_start_time_seconds" => self.ledger.note(Note::Started),
            "sozu_revision" => self.ledger.note(Note::Revision),
            "sozu_worker_deaths_total" => self.ledger.note(Note::Deaths),
            "sozu_worker_violations_total" => self.ledger.note(Note::Violations),
            "sozu_signatures_total" => self.ledger.note(Note::Signatures),
            "sozu_signatures_refused_total" => self.ledger.note(Note::SignaturesRefused),
            "sozu_key_process_deaths_total" => self.ledger.note(Note::KeysDeaths),
            "sozu_listeners_revived_total" => self.ledger.note(Note::Revived),
            "sozu_names_unresolved" => self.ledger.note(Note::Unresolved),
            "sozu_upgrades_total" => self.ledger.note(Note::Upgrades),
            "sozu_series_missing" => self.ledger.note(Note::Missing),
            "sozu_worker_connections" => cell(Cell::Connections),
            "sozu_worker_accepted_total" => cell(Cell::Accepted),
            "sozu_worker_requests_total" => cell(Cell::Requests),
            "sozu_worker_at_limit_total" => cell(Cell::AtLimit),
            "sozu_worker_surplus_total" => cell(Cell::Surplus),
            "sozu_certificate_not_after_seconds" => self.certificates.end_of(at),
            "sozu_worker_log_lost_total" => cell(Cell::LogLost),
            _ => 0,
        }
    }
}
