//! How fast a client may ask: a token bucket in 64 bits.
//!
//! The bucket is kept as the moment at which it will be full again (GCRA, ITU-T
//! I.371): a request puts that moment off by one interval, and one that would
//! put it off beyond the size of the bucket is refused. So a bucket needs no
//! refilling, one compare-and-swap changes it, and it holds over all workers,
//! since they have one clock.
//!
//! The table is bounded. A full bucket tells nothing, so its place is free for
//! another client. Where no bucket is full, a newcomer takes the place of the
//! fullest one, *and its debt*: who is driven out comes back to no less than it
//! owed, since what is left of a debt shrinks for all at the same pace. Hence
//! nobody gets a request more by filling the table; newcomers may get fewer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Client, Clients};

/// Buckets: 8 MiB. Those of clients that asked for something within the last seconds count.
pub const RATES: usize = 1 << 20;
/// Most requests a second: the clock below tells them apart to half a percent.
pub const RATE_MAX: u32 = 100_000;
/// Largest bucket: ten seconds of the fastest.
pub const BURST_MAX: u32 = 10 * RATE_MAX;
/// A bucket takes at most so long to fill again, in seconds: moments are told apart from
/// those of long ago by that.
pub const FILL_SECONDS_MAX: u32 = 3600;

/// Moments are counted in quarters of a microsecond; the clock begins anew after three days.
const TICKS_PER_US: u64 = 4;
const TICKS_PER_SECOND: u64 = TICKS_PER_US * 1_000_000;
const MOMENT_BITS: u32 = 40;
const MOMENT: u64 = (1 << MOMENT_BITS) - 1;
/// A bucket that others change again and again is left as it is.
const TRIES: usize = 64;

/// So many requests a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// How long a request is owed, in ticks.
    fn interval(self) -> u64 {
        let rate = u64::from(self.per_second).max(1);
        ((TICKS_PER_SECOND + rate / 2) / rate).max(1)
    }

    /// The most that can be owed: all at once.
    fn size(self) -> u64 {
        let all = self.interval().saturating_mul(u64::from(self.burst.max(1)));
        all.min(u64::from(FILL_SECONDS_MAX) * TICKS_PER_SECOND)
    }
}

/// How long it takes until a bucket is full, at most `most`: what is more is a moment of long ago.
fn debt(cell: u64, now: u64, most: u64) -> u64 {
    let ahead = (cell & MOMENT).wrapping_sub(now) & MOMENT;
    match cell == 0 || ahead > most {
        true => 0,
        false => ahead,
    }
}

impl Clients<'_> {
    /// A client asks for something. An error: it may again after so many seconds.
    pub fn ask(&self, client: Client, rate: Rate, now_us: u64) -> Result<(), u32> {
        let Some((_, set)) = client.set(self.buckets()) else {
            return Ok(());
        };
        let now = now_us.wrapping_mul(TICKS_PER_US) & MOMENT;
        // Never nothing: an empty place has no client.
        let tag = (client.0 >> MOMENT_BITS).max(1);
        for _ in 0..TRIES {
            let (cell, old, owed) = find(set, tag, now, rate);
            let after = owed + rate.interval();
            if after > rate.size() {
                let over = after - rate.size();
                let seconds = over.div_ceil(TICKS_PER_SECOND);
                return Err(u32::try_from(seconds).unwrap_or(u32::MAX));
            }
            let new = tag << MOMENT_BITS | (now + after) & MOMENT;
            if cell.compare_exchange(old, new, Relaxed, Relaxed).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The client's bucket, or the fullest one; what is in it, and what is owed there.
fn find(set: &[AtomicU64], tag: u64, now: u64, rate: Rate) -> (&AtomicU64, u64, u64) {
    let longest = u64::from(FILL_SECONDS_MAX) * TICKS_PER_SECOND;
    let (mut fullest, mut least) = ((&set[0], 0), u64::MAX);
    for cell in set {
        let bits = cell.load(Relaxed);
        if bits >> MOMENT_BITS == tag {
            return (cell, bits, debt(bits, now, rate.size()));
        }
        let owed = debt(bits, now, longest);
        if owed < least {
            (fullest, least) = ((cell, bits), owed);
        }
    }
    // It may have been one of another size.
    (fullest.0, fullest.1, least.min(rate.size()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::cells;
    use super::super::{Scope, BUCKETS, WAYS};
    use super::*;
    use crate::random::Random;
    use std::collections::HashMap;

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 5,
    };
    /// Three days and a bit: the clock has begun anew once.
    const START_US: u64 = 300_000_000_000;

    /// The bucket of one client as one would keep it with room for all: tokens, and since when.
    struct Exact(f64, u64);

    impl Exact {
        fn takes(&mut self, rate: Rate, now_us: u64) -> bool {
            let came = (now_us - self.1) as f64 / 1e6 * f64::from(rate.per_second);
            self.0 = (self.0 + came).min(f64::from(rate.burst));
            self.1 = now_us;
            // Sums of fractions are not exact: a hair is forgiven.
            let takes = self.0 > 1.0 - 1e-6;
            if takes {
                self.0 -= 1.0;
            }
            takes
        }
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        for start_us in [0, 1, START_US, u64::MAX / 8] {
            let cells = cells(BUCKETS + WAYS);
            let clients = Clients(&cells);
            let client = Client(0xabc << MOMENT_BITS);
            let at = |us: u64| clients.ask(client, RATE, start_us + us);
            for _ in 0..5 {
                assert_eq!(at(0), Ok(()));
            }
            assert_eq!(at(0), Err(1));
            assert_eq!(at(99_999), Err(1));
            assert_eq!(at(100_000), Ok(()));
            assert_eq!(at(100_000), Err(1));
            // Refused ones cost nothing; long after, the bucket is full, and no more than that.
            for _ in 0..5 {
                assert_eq!(at(60_000_000), Ok(()));
            }
            assert_eq!(at(60_000_000), Err(1));
        }
    }

    #[test]
    fn it_says_when_to_come_back() {
        let cells = cells(BUCKETS + WAYS);
        let clients = Clients(&cells);
        let slow = Rate {
            per_second: 1,
            burst: 1,
        };
        let client = Client(1 << MOMENT_BITS);
        assert_eq!(clients.ask(client, slow, START_US), Ok(()));
        assert_eq!(clients.ask(client, slow, START_US), Err(1));
        // A bucket that owes an hour is one of long ago for who may owe a second.
        let patient = Rate {
            per_second: 1,
            burst: 3600,
        };
        for _ in 0..3600 {
            assert!(clients
                .ask(Client(2 << MOMENT_BITS), patient, START_US)
                .is_ok());
        }
        assert_eq!(
            clients.ask(Client(2 << MOMENT_BITS), patient, START_US),
            Err(1)
        );
        assert!(clients
            .ask(Client(2 << MOMENT_BITS), slow, START_US)
            .is_ok());
    }

    #[test]
    fn the_rate_is_what_was_asked_for() {
        for per_second in [1, 3, 7, 1_000, 33_333, RATE_MAX] {
            let rate = Rate {
                per_second,
                burst: 2 + per_second / 10,
            };
            let cells = cells(BUCKETS + WAYS);
            let clients = Clients(&cells);
            let step_us = (250_000 / u64::from(per_second)).max(1);
            let (mut passed, seconds) = (0u64, 20);
            for us in (0..seconds * 1_000_000).step_by(step_us as usize) {
                let asked = clients.ask(Client(5 << MOMENT_BITS), rate, START_US + us);
                passed += u64::from(asked.is_ok());
            }
            let wanted = seconds * u64::from(per_second) + u64::from(rate.burst);
            let off = passed.abs_diff(wanted);
            assert!(
                off <= 2 + wanted / 100,
                "{per_second}: {passed} of {wanted}"
            );
        }
    }

    /// With room for all, it is the exact bucket; without, nobody gets more than from that.
    #[test]
    fn nobody_gets_more_by_filling_the_table() {
        for (seed, clients_count, exactly) in [(1, 6, true), (2, 300, false), (3, 3_000, false)] {
            let cells = cells(BUCKETS + 4 * WAYS);
            let table = match exactly {
                true => Clients(&cells[..BUCKETS + WAYS]),
                false => Clients(&cells),
            };
            table.begin(seed);
            let mut random = Random::new(seed);
            let mut exact: HashMap<u64, Exact> = HashMap::new();
            let (mut now_us, mut passed, mut wanted) = (START_US, 0u64, 0u64);
            for _ in 0..100_000 {
                now_us += random.next_u64() % 20_000;
                // Some ask much more than others.
                let name =
                    (random.next_u64() % clients_count).min(random.next_u64() % clients_count);
                let scope = Scope::Cluster("a");
                let address = std::net::IpAddr::from((name as u32).to_be_bytes());
                let client = table.client(scope, address);
                let bucket = exact.entry(name).or_insert(Exact(5.0, now_us));
                let got = table.ask(client, RATE, now_us).is_ok();
                if exactly {
                    assert_eq!(got, bucket.takes(RATE, now_us), "seed {seed}");
                } else if got {
                    assert!(bucket.takes(RATE, now_us), "seed {seed}: a pass too many");
                }
                passed += u64::from(got);
                wanted += 1;
            }
            assert!(passed > wanted / 20, "{passed} of {wanted}");
        }
    }

    /// Who has used up its bucket does not get another one by bringing a million others.
    #[test]
    fn a_flood_of_newcomers_gives_nobody_a_second_bucket() {
        let cells = cells(BUCKETS + 64 * WAYS);
        let clients = Clients(&cells);
        let of = |n: u32| clients.client(Scope::Cluster("a"), n.to_be_bytes().into());
        let slow = Rate {
            per_second: 1,
            burst: 5,
        };
        for _ in 0..5 {
            assert!(clients.ask(of(0), slow, START_US).is_ok());
        }
        let mut passed = 0;
        for n in 1..100_000 {
            passed += u32::from(clients.ask(of(n), slow, START_US).is_ok());
            assert!(clients.ask(of(0), slow, START_US).is_err(), "after {n}");
        }
        // All together have what the table has room for.
        assert_eq!(passed, 5 * 64 * 8 - 5);
    }

    #[test]
    fn any_number_may_stand_there() {
        for bits in [u64::MAX, 1, 1 << 63, MOMENT, 1 << MOMENT_BITS] {
            let cells = cells(BUCKETS + WAYS);
            cells.iter().for_each(|cell| cell.store(bits, Relaxed));
            let clients = Clients(&cells);
            for tag in [0, 1, 0xff_ffff] {
                for now_us in [0, 1, u64::MAX] {
                    let _ = clients.ask(Client(tag << MOMENT_BITS), RATE, now_us);
                }
            }
        }
        let none = Clients(&[]);
        assert_eq!(none.ask(Client(3), RATE, 0), Ok(()));
    }

    /// Many threads at one bucket: no request passes twice, none is lost.
    #[test]
    fn workers_share_a_bucket() {
        let cells = cells(BUCKETS + WAYS);
        let clients = Clients(&cells);
        let rate = Rate {
            per_second: 1,
            burst: 1_000,
        };
        let passed: u32 = std::thread::scope(|scope| {
            let ask = || {
                let asked = (0..600).map(|_| clients.ask(Client(1 << MOMENT_BITS), rate, START_US));
                asked.filter(Result::is_ok).count() as u32
            };
            let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            all.into_iter()
                .map(|one| one.join().expect("a thread"))
                .sum()
        });
        assert_eq!(passed, 1_000);
    }
}
