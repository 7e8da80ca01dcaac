use super::*;
use std::collections::{BTreeSet, HashMap, HashSet};

const READY: Standing = Standing {
    weight: 100 * WEIGHT_UNIT,
    backup: false,
    usable: true,
    out: false,
    ill: false,
    full: false,
};

fn weighing(weight: u16) -> Standing {
    Standing {
        weight: ramp(weight, 0, 0),
        ..READY
    }
}

fn with(policy: LoadBalancing, weights: &[u16]) -> Balancer {
    let mut balancer = Balancer::new(policy);
    for (n, weight) in weights.iter().enumerate() {
        balancer.take_seat(&n.to_string(), *weight, weighing(*weight), 0);
    }
    balancer
}

fn ask(random: &mut Random) -> Ask {
    Ask {
        hash: random.next_u64(),
    }
}

fn names(balancer: &mut Balancer, turns: usize) -> String {
    let mut random = Random::new(1);
    let mut turn = |_| balancer.choose(Ask::default(), &[], &mut random).ok();
    let seats: Vec<Seat> = (0..turns).filter_map(&mut turn).collect();
    seats
        .iter()
        .map(|seat| (b'a' + *seat as u8) as char)
        .collect()
}

// ---- each policy ------------------------------------------------------------

#[test]
fn turns_are_equally_far_apart() {
    for (weights, turns) in [
        (&[5, 1, 1][..], "aabacaa"),
        (&[1, 1], "abab"),
        (&[2, 1], "abaaba"),
        (&[4, 2, 1], "aabcaba"),
        (&[1], "aaa"),
        (&[], ""),
    ] {
        let mut balancer = with(LoadBalancing::RoundRobin, weights);
        let found = names(&mut balancer, turns.len().max(3));
        if weights.is_empty() {
            assert_eq!(found, "");
            continue;
        }
        // In which order equals come is left open, how far apart they are is not.
        for name in ('a'..).take(weights.len()) {
            let count = |text: &str| text.matches(name).count();
            assert_eq!(count(&found), count(turns), "{weights:?}: {found}");
        }
    }
    let mut balancer = with(LoadBalancing::RoundRobin, &[5, 1, 1]);
    assert!(!names(&mut balancer, 70).contains("aaaaaa"));
    let mut equal = with(LoadBalancing::RoundRobin, &[100, 100, 100]);
    assert_eq!(names(&mut equal, 6), "abcabc");
}

#[test]
fn whoever_weighs_more_has_his_turns_at_once() {
    let mut balancer = with(LoadBalancing::RoundRobin, &[100, 1]);
    names(&mut balancer, 150);
    balancer.set_standing(1, weighing(100));
    let found = names(&mut balancer, 20);
    assert!((9..=11).contains(&found.matches('b').count()), "{found}");
}

#[test]
fn whoever_comes_back_has_no_turns_to_make_up_for() {
    let mut balancer = with(LoadBalancing::RoundRobin, &[1, 1]);
    let out = Standing {
        out: true,
        ill: true,
        ..weighing(1)
    };
    balancer.set_standing(0, out);
    assert_eq!(names(&mut balancer, 50), "b".repeat(50));
    balancer.set_standing(0, weighing(1));
    assert_eq!(names(&mut balancer, 20).matches('a').count(), 10);
}

/// How often each is chosen in so many turns, where requests do not last.
fn chosen(policy: LoadBalancing, weights: &[u16], turns: usize) -> Vec<usize> {
    let mut balancer = with(policy, weights);
    let mut random = Random::new(7);
    let mut counts = vec![0; weights.len()];
    for _ in 0..turns {
        let ask = ask(&mut random);
        let seat = balancer.choose(ask, &[], &mut random).expect("a seat");
        counts[seat as usize] += 1;
    }
    counts
}

#[test]
fn shares_are_those_of_the_weights() {
    let weights = [7, 256, 1, 36, 100];
    let turns = 40_000;
    // In parts of the share: exact, by chance, by chance and by the points of the ring, sixteen for each unit.
    for (policy, tolerance) in [
        (LoadBalancing::RoundRobin, 0.001),
        (LoadBalancing::Random, 0.03),
        (LoadBalancing::Hash, 0.0),
    ] {
        let counts = chosen(policy, &weights, turns);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = turns as f64 * f64::from(weight) / 400.0;
            // By chance a count lies within four of its deviations.
            let by_points = 3.0 / (16.0 * f64::from(weight)).sqrt();
            let tolerance = match policy {
                LoadBalancing::Hash => by_points,
                _ => tolerance,
            };
            let slack = tolerance * expected + 4.0 * expected.sqrt();
            let off = (*count as f64 - expected).abs();
            assert!(off <= slack, "{policy:?} {weight}: {count} for {expected}");
        }
    }
}

/// Requests that last equally long everywhere: loads are in the ratio of the weights.
#[test]
fn loads_are_those_of_the_weights() {
    for policy in [LoadBalancing::LeastConn, LoadBalancing::PowerOfTwo] {
        let weights = [100, 50, 200, 50];
        let mut balancer = with(policy, &weights);
        let mut random = Random::new(3);
        let mut running = std::collections::VecDeque::new();
        for _ in 0..8_000 {
            let seat = balancer
                .choose(Ask::default(), &[], &mut random)
                .expect("a seat");
            balancer.begin(seat);
            running.push_back(seat);
            if running.len() > 400 {
                balancer.end(running.pop_front().expect("one"));
            }
        }
        for (seat, weight) in (0..).zip(weights) {
            let load = running.iter().filter(|one| **one == seat).count();
            let off = (load as i64 - i64::from(weight)).abs();
            let most = if policy == LoadBalancing::LeastConn {
                1
            } else {
                12
            };
            assert!(off <= most, "{policy:?} {weight}: {load}");
        }
    }
}

#[test]
fn least_conn_takes_turns_among_equals() {
    let mut balancer = with(LoadBalancing::LeastConn, &[100; 4]);
    assert_eq!(
        names(&mut balancer, 8)
            .chars()
            .collect::<HashSet<_>>()
            .len(),
        4
    );
}

/// One of ten is a hundred times slower: it gets next to nothing, and is tried again once that is long ago.
#[test]
fn least_time_leaves_the_slow_one_alone_and_comes_back() {
    let mut balancer = with(LoadBalancing::LeastTime, &[100; 10]);
    let mut random = Random::new(5);
    let mut now_us = 0;
    let mut counts = [0; 10];
    for turn in 0..5_000 {
        now_us += 1_000;
        let seat = balancer
            .choose(Ask::default(), &[], &mut random)
            .expect("a seat");
        balancer.begin(seat);
        let slow = seat == 3 && turn < 4_000;
        balancer.answered(seat, if slow { 500_000 } else { 5_000 }, now_us);
        balancer.end(seat);
        counts[seat as usize] += 1;
    }
    assert!(counts[3] <= 3, "{counts:?}");
    let others = counts.iter().enumerate().filter(|(n, _)| *n != 3);
    assert!(
        others.clone().all(|(_, count)| (450..700).contains(count)),
        "{counts:?}"
    );
    let mut again = 0;
    for _ in 0..20_000 {
        now_us += 5_000;
        let seat = balancer
            .choose(Ask::default(), &[], &mut random)
            .expect("a seat");
        balancer.answered(seat, 5_000, now_us);
        again += usize::from(seat == 3);
    }
    assert!((500..3_000).contains(&again), "{again}");
}

#[test]
fn a_new_one_is_not_taken_for_the_fastest() {
    let mut balancer = with(LoadBalancing::LeastTime, &[100; 4]);
    let mut random = Random::new(5);
    let mut now_us = 0;
    let mut step = |balancer: &mut Balancer| {
        now_us += 1_000;
        let seat = balancer
            .choose(Ask::default(), &[], &mut random)
            .expect("a seat");
        balancer.answered(seat, 50_000, now_us);
        seat
    };
    for _ in 0..1_000 {
        step(&mut balancer);
    }
    let new = balancer.take_seat("new", 100, READY, 1_000_000);
    let took = (0..1_000).filter(|_| step(&mut balancer) == new).count();
    assert!((100..350).contains(&took), "{took}");
}

// ---- hash ---------------------------------------------------------------------

fn by_key(balancer: &mut Balancer, keys: u64) -> HashMap<u64, Seat> {
    let mut random = Random::new(1);
    let mut of = |key| balancer.choose(Ask { hash: mix(key) }, &[], &mut random);
    (0..keys)
        .map(|key| (key, of(key).expect("a seat")))
        .collect()
}

#[test]
fn whoever_goes_or_comes_moves_no_key_but_his_own() {
    let mut balancer = with(LoadBalancing::Hash, &[100; 20]);
    let before = by_key(&mut balancer, 10_000);
    for change in [
        |balancer: &mut Balancer| balancer.leave_seat(7),
        |balancer: &mut Balancer| balancer.set_standing(7, Standing { out: true, ..READY }),
        |balancer: &mut Balancer| {
            balancer.set_standing(
                7,
                Standing {
                    full: true,
                    ..READY
                },
            )
        },
    ] {
        let mut balancer = with(LoadBalancing::Hash, &[100; 20]);
        change(&mut balancer);
        let after = by_key(&mut balancer, 10_000);
        for (key, seat) in &before {
            let stays = after[key] == *seat;
            assert!(stays || *seat == 7, "{key}");
            assert!(after[key] != 7);
        }
    }
    let new = balancer.take_seat("new", 100, READY, 0);
    let after = by_key(&mut balancer, 10_000);
    let moved = after.iter().filter(|(key, seat)| before[*key] != **seat);
    let moved: Vec<Seat> = moved.map(|(_, seat)| *seat).collect();
    assert!(moved.iter().all(|seat| *seat == new));
    assert!((300..700).contains(&moved.len()), "{}", moved.len());
}

/// The same in another worker, in whatever order its backends came.
#[test]
fn workers_agree() {
    let mut one = with(LoadBalancing::Hash, &[100; 9]);
    let mut other = Balancer::new(LoadBalancing::RoundRobin);
    let stray = other.take_seat("stray", 100, READY, 0);
    for n in (0..9).rev() {
        other.take_seat(&n.to_string(), 100, READY, 0);
    }
    other.leave_seat(stray);
    other.turn_to(LoadBalancing::Hash);
    let (one, other) = (by_key(&mut one, 1_000), by_key(&mut other, 1_000));
    for (key, seat) in one {
        assert_eq!(other[&key], 9 - seat);
    }
}

#[test]
fn one_key_that_all_ask_for_does_not_drown_its_backend() {
    let mut balancer = with(LoadBalancing::Hash, &[100; 10]);
    let mut random = Random::new(1);
    let mut loads = [0u64; 10];
    for n in 1..=2_000u64 {
        let ask = Ask { hash: 42 };
        let seat = balancer.choose(ask, &[], &mut random).expect("a seat");
        balancer.begin(seat);
        loads[seat as usize] += 1;
        let most = (n * 5).div_ceil(40) + LOAD_SLACK;
        assert!(loads.iter().all(|load| *load <= most), "{n}: {loads:?}");
    }
}

// ---- all of them --------------------------------------------------------------

/// What may be chosen, by looking at all.
fn candidates(all: &HashMap<Seat, Standing>, tried: &[Seat]) -> Result<Vec<Seat>, Nobody> {
    let usable: Vec<(Seat, Standing)> = all
        .iter()
        .filter(|(seat, standing)| standing.usable && !tried.contains(seat))
        .map(|(seat, standing)| (*seat, *standing))
        .collect();
    let in_tier = |backup| usable.iter().filter(move |(_, it)| it.backup == backup);
    let of = |backup, with_out: bool| {
        let free = in_tier(backup).filter(move |(_, it)| !it.full && (with_out || !it.out));
        free.map(|(seat, _)| *seat).collect::<Vec<Seat>>()
    };
    for backup in [false, true] {
        let healthy = in_tier(backup).filter(|(_, it)| !it.out).count();
        let well = in_tier(backup).filter(|(_, it)| !it.ill).count();
        if healthy > 0 {
            return Ok(of(backup, 2 * well < in_tier(backup).count()));
        }
    }
    for backup in [false, true] {
        if in_tier(backup).count() > 0 {
            return Ok(of(backup, true));
        }
    }
    Err(Nobody::There)
}

#[test]
fn whatever_happens_only_who_may_is_chosen() {
    for (seed, policy) in (0..).zip(LoadBalancing::ALL) {
        let mut random = Random::new(seed);
        let mut balancer = Balancer::new(policy);
        let mut all: HashMap<Seat, Standing> = HashMap::new();
        let mut running: Vec<Seat> = Vec::new();
        for turn in 0..6_000 {
            let mut coin = |odds| random.below(odds) == 0;
            let standing = Standing {
                weight: 1 + u32::from(coin(2)) * 20_000,
                backup: coin(4),
                usable: !coin(6),
                out: coin(3),
                ill: coin(3),
                full: coin(5),
            };
            let (come, go, changes) = (coin(8), coin(10), coin(3));
            let seats: Vec<Seat> = all.keys().copied().collect();
            let any = |random: &mut Random| {
                (!seats.is_empty()).then(|| seats[random.below(seats.len() as u64) as usize])
            };
            if come && all.len() < 12 {
                let seat = balancer.take_seat(&turn.to_string(), 100, standing, turn);
                assert!(all.insert(seat, standing).is_none());
            } else if let Some(seat) = any(&mut random).filter(|_| go) {
                balancer.leave_seat(seat);
                all.remove(&seat);
                running.retain(|one| *one != seat);
            } else if let Some(seat) = any(&mut random).filter(|_| changes) {
                balancer.set_standing(seat, standing);
                all.insert(seat, standing);
            }
            if turn % 1_000 == 999 {
                balancer.turn_to(LoadBalancing::ALL[random.below(6) as usize]);
            }
            let tried = (0..random.below(3)).filter_map(|_| any(&mut random));
            let tried: Vec<Seat> = tried.collect::<BTreeSet<_>>().into_iter().collect();
            let ask = ask(&mut random);
            let chosen = balancer.choose(ask, &tried, &mut random);
            match (candidates(&all, &tried), chosen) {
                (Ok(may), Ok(seat)) => assert!(
                    may.contains(&seat),
                    "{:?}: {seat} of {may:?}, tried {tried:?} {all:?} {:?} {:?}",
                    balancer.policy,
                    balancer.usable,
                    balancer.healthy
                ),
                (Ok(may), Err(Nobody::Free)) => assert_eq!(may, []),
                (expected, chosen) => {
                    assert_eq!(
                        (expected.err(), chosen.err()),
                        (Some(Nobody::There), Some(Nobody::There))
                    );
                }
            }
            if let Ok(seat) = chosen {
                balancer.begin(seat);
                balancer.answered(seat, random.below(10_000), turn * 1_000);
                running.push(seat);
            }
            if running.len() > 30 {
                balancer.end(running.remove(0));
            }
            for (seat, standing) in &all {
                assert_eq!(balancer.standing(*seat), Some(*standing));
            }
        }
    }
}

#[test]
fn below_half_all_are_used() {
    let mut balancer = with(LoadBalancing::RoundRobin, &[1; 4]);
    let out = Standing {
        out: true,
        ill: true,
        ..weighing(1)
    };
    balancer.set_standing(0, out);
    balancer.set_standing(1, out);
    assert_eq!(names(&mut balancer, 4).matches(['c', 'd']).count(), 4);
    balancer.set_standing(2, out);
    assert!((9..=11).contains(&names(&mut balancer, 40).matches('a').count()));
    balancer.set_standing(0, weighing(1));
}

#[test]
fn turns_go_on_when_their_numbers_end() {
    let mut balancer = with(LoadBalancing::RoundRobin, &[2, 1]);
    balancer.turn_to(LoadBalancing::Random);
    balancer.turn = 1 << 62;
    balancer.turn_to(LoadBalancing::RoundRobin);
    let found = names(&mut balancer, 300);
    assert!(balancer.turn < 1 << 62);
    assert!((195..=205).contains(&found.matches('a').count()), "{found}");
}

#[test]
fn a_backend_warms_up() {
    let unit = WEIGHT_UNIT;
    for (since_ms, weight) in [(0, 5), (500, 5), (5_000, 50), (9_999, 99), (10_000, 100)] {
        assert_eq!(ramp(100, since_ms, 10_000) / unit, weight);
    }
    assert_eq!(ramp(100, 0, 0), 100 * unit);
    assert_eq!(ramp(0, 0, 10), 1);
}
