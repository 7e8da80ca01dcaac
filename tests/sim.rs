//! The session machine in worlds without a kernel: clients, backends and a
//! clock made of numbers, every choice from a seed.
//!
//! A world that breaks a rule prints its seed. `SIM_SEED=7 cargo test --test sim`
//! plays that one again and tells what happens in it; `SIM_SEEDS=1000000` plays
//! more of them.

#[path = "sim/acts.rs"]
mod acts;
#[path = "sim/backends.rs"]
mod backends;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/drive.rs"]
mod drive;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/rate.rs"]
mod rate;
#[path = "sim/reader.rs"]
mod reader;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/server.rs"]
mod server;
#[path = "sim/tunnel.rs"]
mod tunnel;
#[path = "sim/verdict.rs"]
mod verdict;
#[path = "sim/wire.rs"]
mod wire;
#[path = "sim/world.rs"]
mod world;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const SEEDS: u64 = 10_000;
const THREADS: usize = 2;
/// One that fails says more than a thousand.
const FAILURES_MAX: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Plays worlds until none is left; returns the seeds of those that failed.
fn play(next: &AtomicU64, count: u64) -> Vec<u64> {
    let mut failed = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= count || failed.len() == FAILURES_MAX {
            return failed;
        }
        if catch_unwind(|| world::run(seed, false)).is_err() {
            println!("to see it: SIM_SEED={seed} cargo test --test sim -- --nocapture");
            failed.push(seed);
        }
    }
}

#[test]
fn every_world_keeps_the_rules() {
    if let Some(seed) = number("SIM_SEED") {
        world::run(seed, true);
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed: Vec<u64> = thread::scope(|scope| {
        let players: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| play(&next, count)))
            .collect();
        let all = players.into_iter().map(|player| player.join());
        all.flat_map(|failed| failed.expect("a player")).collect()
    });
    assert!(failed.is_empty(), "worlds that broke a rule: {failed:?}");
}
