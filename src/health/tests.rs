//! A world of workers that come and go, a main that hears some of what they say, and backends
//! that fall ill: in the end everybody knows what is true.

use super::*;
use crate::random::{hash_of, Random};
use crate::state::{Ask, Check};

const BACKENDS: usize = 12;
const CHECK: Check = Check {
    ask: Ask::Tcp,
    host: None,
    interval: 1,
    timeout: 1,
    rise: 2,
    fall: 3,
};

struct Worker {
    row: usize,
    checks: [Checks; BACKENDS],
    /// As it was told last.
    rows: Vec<usize>,
}

struct World {
    random: Random,
    workers: Vec<Worker>,
    next_row: usize,
    told: [Verdict; BACKENDS],
    well: [bool; BACKENDS],
    /// In a hundred: what main does not hear.
    lost: u64,
}

impl World {
    fn rows(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.row).collect()
    }

    fn start_worker(&mut self) {
        let mut checks = [Checks::default(); BACKENDS];
        for (checks, verdict) in checks.iter_mut().zip(self.told) {
            checks.settle(verdict);
        }
        self.workers.push(Worker {
            row: self.next_row % 128,
            checks,
            rows: Vec::new(),
        });
        self.next_row += 1;
    }

    fn tell_rows(&mut self) {
        let rows = self.rows();
        for worker in &mut self.workers {
            worker.rows = rows.clone();
        }
    }

    /// Every worker looks at every backend once. Returns how often each was checked.
    fn round(&mut self) -> [usize; BACKENDS] {
        let mut made = [0; BACKENDS];
        for at in 0..self.workers.len() {
            for (backend, made) in made.iter_mut().enumerate() {
                let name = hash_of(&[b"c", &[backend as u8]]);
                let rows = self.rows();
                let worker = &mut self.workers[at];
                if whose(&worker.rows, name) != Some(worker.row) {
                    continue;
                }
                *made += 1;
                let well = self.well[backend];
                let found = worker.checks[backend].result(well, &CHECK);
                let heard = self.random.below(100) >= self.lost;
                let believed = whose(&rows, name) == Some(worker.row);
                let Some(verdict) = found.filter(|_| heard && believed) else {
                    continue;
                };
                assert_eq!(verdict == Verdict::Up, well, "only what was just seen");
                self.told[backend] = verdict;
                for worker in &mut self.workers {
                    worker.checks[backend].settle(verdict);
                }
            }
        }
        made
    }

    fn something_happens(&mut self) {
        match self.random.below(8) {
            0 if self.workers.len() < 6 => self.start_worker(),
            1 if self.workers.len() > 1 => {
                let at = self.random.below(self.workers.len() as u64) as usize;
                self.workers.remove(at);
            }
            2 | 3 => self.tell_rows(),
            4 => {
                let at = self.random.below(BACKENDS as u64) as usize;
                self.well[at] = !self.well[at];
            }
            _ => drop(self.round()),
        }
    }
}

#[test]
fn in_the_end_everybody_knows_what_is_true() {
    for seed in 0..300 {
        let mut world = World {
            random: Random::new(seed),
            workers: Vec::new(),
            next_row: seed as usize,
            told: [Verdict::Unknown; BACKENDS],
            well: [true; BACKENDS],
            lost: seed % 3 * 30,
        };
        world.start_worker();
        for _ in 0..200 {
            world.something_happens();
        }
        world.lost = 0;
        world.tell_rows();
        for _ in 0..CHECK.rise.max(CHECK.fall) {
            assert_eq!(
                world.round(),
                [1; BACKENDS],
                "seed {seed}: each by one worker"
            );
        }
        for worker in &world.workers {
            for (checks, well) in worker.checks.iter().zip(world.well) {
                let known = checks.verdict() == Verdict::Up;
                assert!(
                    known == well && checks.verdict() != Verdict::Unknown,
                    "seed {seed}"
                );
            }
        }
    }
}

#[test]
fn it_takes_so_many_in_a_row() {
    let mut checks = Checks::default();
    assert_eq!(checks.result(true, &CHECK), Some(Verdict::Up));
    assert!(checks.settle(Verdict::Up) && !checks.settle(Verdict::Up));
    for _ in 0..5 {
        assert_eq!(checks.result(false, &CHECK), None);
        assert_eq!(checks.result(false, &CHECK), None);
        assert_eq!(checks.result(true, &CHECK), None);
    }
    assert_eq!(checks.result(false, &CHECK), None);
    assert_eq!(checks.result(false, &CHECK), None);
    assert_eq!(checks.result(false, &CHECK), Some(Verdict::Down));
    assert_eq!(
        checks.result(false, &CHECK),
        Some(Verdict::Down),
        "nobody has heard it"
    );
    checks.settle(Verdict::Down);
    assert_eq!(checks.result(true, &CHECK), None);
    assert_eq!(checks.result(true, &CHECK), Some(Verdict::Up));
}

#[test]
fn only_what_a_worker_had_changes_hands() {
    let names: Vec<u64> = (0..10_000u32)
        .map(|n| hash_of(&[b"web", &n.to_le_bytes()]))
        .collect();
    let rows = [0, 1, 2, 3];
    let mut counts = [0; 4];
    for name in &names {
        let before = whose(&rows, *name).expect("somebody");
        counts[before] += 1;
        let after = whose(&[0, 1, 3], *name).expect("somebody");
        assert!(before == after || before == 2);
        assert_eq!(
            whose(&[3, 0, 2, 1], *name),
            Some(before),
            "the order means nothing"
        );
    }
    assert!(
        counts.iter().all(|count| (2_300..2_700).contains(count)),
        "{counts:?}"
    );
    assert_eq!(whose(&[], 7), None);
}

#[test]
fn times_are_spread_by_a_tenth() {
    for turn in 0..1000 {
        let ms = spread(2000, 7, turn);
        assert!((1800..=2200).contains(&ms), "{ms}");
    }
    assert_ne!(spread(2000, 7, 1), spread(2000, 7, 2));
}

#[test]
fn too_few_is_fewer_than_half() {
    let of = |first: &[bool], backups: &[bool]| {
        let all = first.iter().map(|well| (false, *well));
        let count = Count::of(all.chain(backups.iter().map(|well| (true, *well))));
        (count.healthy, count.ready, count.panics())
    };
    assert_eq!(of(&[], &[]), (0, 0, false));
    assert_eq!(of(&[true, false], &[]), (1, 2, false));
    assert_eq!(of(&[true, false, false], &[]), (1, 3, true));
    assert_eq!(of(&[false], &[]), (0, 1, true));
    // A backup is used once nobody else is well, not before.
    assert_eq!(of(&[false, false], &[true]), (1, 1, false));
    assert_eq!(of(&[true, false, false], &[true, true]), (1, 3, true));
    assert_eq!(of(&[false, false], &[false]), (0, 2, true));
    assert_eq!(of(&[], &[true, false]), (1, 2, false));
}
