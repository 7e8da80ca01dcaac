//! What it costs to choose a backend: nanoseconds for a choice with all that belongs to it, by policy, among ten
//! backends and among ten thousand. `cargo run --release --example picks`; the bar is 1,000.

use std::time::Instant;

use sozu_lib::balance::{Ask, Balancer, Standing, WEIGHT_UNIT};
use sozu_lib::random::Random;
use sozu_lib::state::LoadBalancing;

const PICKS: u32 = 1_000_000;
/// Requests that are under way at once, for ten backends and for ten thousand.
const SIZES: [(u32, usize); 2] = [(10, 64), (10_000, 4_096)];
const BAR_NS: u32 = 1_000;

fn main() {
    println!(
        "| policy | {} backends | {} backends |\n|---|---|---|",
        SIZES[0].0, SIZES[1].0
    );
    let mut missed = false;
    for policy in LoadBalancing::ALL {
        let costs = SIZES.map(|(backends, under_way)| cost(policy, backends, under_way));
        missed |= costs.iter().any(|ns| *ns >= BAR_NS);
        println!("| {} | {} ns | {} ns |", policy.name(), costs[0], costs[1]);
    }
    std::process::exit(i32::from(missed));
}

fn cost(policy: LoadBalancing, backends: u32, under_way: usize) -> u32 {
    let mut random = Random::new(1);
    let mut balancer = Balancer::new(policy);
    for n in 0..backends {
        let weight = 1 + random.below(256) as u16;
        let standing = Standing {
            weight: u32::from(weight) * WEIGHT_UNIT,
            backup: false,
            usable: true,
            out: false,
            ill: false,
            full: false,
        };
        balancer.take_seat(&n.to_string(), weight, standing, 0);
    }
    let mut running = vec![None; under_way];
    let mut turn = |n: u32| {
        let ask = Ask {
            hash: random.next_u64(),
        };
        let now_us = u64::from(n);
        let Ok(seat) = balancer.choose(ask, &[], &mut random) else {
            return;
        };
        balancer.begin(seat);
        if let Some(done) = running[n as usize % under_way].replace(seat) {
            balancer.answered(done, 1_000 + u64::from(done) % 512, now_us);
            balancer.end(done);
        }
    };
    (0..PICKS / 10).for_each(&mut turn);
    let begun = Instant::now();
    (0..PICKS).for_each(&mut turn);
    (begun.elapsed().as_nanos() / u128::from(PICKS)) as u32
}
