//! The backends of a world: the balancer and the rules of ejection that the worker uses, and beside them a
//! model that looks at all there is.
//!
//! As the worker does: who takes requests is chosen first, then a connection to it.

use sozu_lib::balance::{Ask, Balancer, Standing, WEIGHT_UNIT};
use sozu_lib::health::Health;
use sozu_lib::random::Random;
use sozu_lib::state::LoadBalancing;

use crate::dice::Dice;

/// What is known of one, twice. Its place is its seat.
#[derive(Default)]
struct One {
    health: Health,
    /// Most connects to it fail.
    sick: bool,
    /// Requests that it has.
    load: usize,
    /// Which choice was the last that fell on it.
    chosen: usize,
    /// Connects that failed in a row, as far as they count.
    failures: usize,
    /// How often it was left alone since a connect succeeded, and until when it is.
    pauses: u32,
    until_ms: u64,
}

pub struct Backends {
    policy: LoadBalancing,
    balancer: Balancer,
    random: Random,
    choices: usize,
    all: Vec<One>,
}

impl One {
    fn standing(&self, now_ms: u64) -> Standing {
        Standing {
            weight: WEIGHT_UNIT,
            backup: false,
            usable: true,
            out: self.health.is_out(now_ms),
            ill: self.health.is_doubtful(),
            full: false,
        }
    }

    fn is_out(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

impl Backends {
    pub fn new(dice: &mut Dice) -> Backends {
        let count = dice.between(1, 4);
        let policy = dice.pick(&LoadBalancing::ALL);
        let mut balancer = Balancer::new(policy);
        let sick = dice.pick(&[0, 0, 30, 60]);
        let one = |_| One {
            sick: dice.percent(sick),
            ..One::default()
        };
        let all: Vec<One> = (0..count).map(one).collect();
        for (place, one) in all.iter().enumerate() {
            let seat = balancer.take_seat(&format!("b{place}"), 1, one.standing(0), 0);
            assert_eq!(seat as usize, place);
        }
        Backends {
            policy,
            balancer,
            random: Random::new(dice.seed()),
            choices: 0,
            all,
        }
    }

    pub fn is_sick(&self, place: usize) -> bool {
        self.all[place].sick
    }

    /// `None`: none is left to try.
    pub fn choose(&mut self, tried: &[usize], now_ms: u64) -> Option<usize> {
        for (place, one) in self.all.iter().enumerate() {
            let standing = one.standing(now_ms);
            assert_eq!(standing.out, one.is_out(now_ms), "who is left alone");
            assert_eq!(standing.ill, one.pauses > 0, "who is doubtful");
            self.balancer.set_standing(place as u32, standing);
        }
        let seats: Vec<u32> = tried.iter().map(|place| *place as u32).collect();
        let ask = Ask {
            hash: self.random.next_u64(),
        };
        let chosen = self.balancer.choose(ask, &seats, &mut self.random);
        let chosen = chosen.ok().map(|seat| seat as usize);
        let may = self.candidates(tried, now_ms);
        assert_eq!(chosen.is_none(), may.is_empty());
        assert!(
            chosen.is_none_or(|one| may.contains(&one)),
            "one of {may:?}"
        );
        let place = chosen?;
        // Among equals it is whose turn was longest ago.
        let key = |place: usize| (self.all[place].load, self.all[place].chosen);
        if self.policy == LoadBalancing::LeastConn {
            let least = may.iter().map(|one| key(*one)).min();
            assert_eq!(Some(key(place)), least, "the fewest requests");
        }
        self.choices += 1;
        self.all[place].chosen = self.choices;
        chosen
    }

    /// Those that are left alone are used where fewer than half are well, or nobody else is there.
    fn candidates(&self, tried: &[usize], now_ms: u64) -> Vec<usize> {
        let untried = || (0..self.all.len()).filter(|one| !tried.contains(one));
        let well = untried().filter(|one| self.all[*one].pauses == 0).count();
        let here = untried().filter(|one| !self.all[*one].is_out(now_ms));
        let here: Vec<usize> = here.collect();
        match here.is_empty() || 2 * well < untried().count() {
            true => untried().collect(),
            false => here,
        }
    }

    pub fn begin(&mut self, place: usize) {
        self.balancer.begin(place as u32);
        self.all[place].load += 1;
    }

    pub fn end(&mut self, place: usize) {
        self.balancer.end(place as u32);
        assert!(self.all[place].load > 0, "ended twice");
        self.all[place].load -= 1;
    }

    pub fn connected(&mut self, place: usize) {
        let one = &mut self.all[place];
        one.health.connected();
        (one.failures, one.pauses, one.until_ms) = (0, 0, 0);
    }

    /// The third failure in a row is followed by a second without requests, the next ones by twice as long each.
    pub fn failed(&mut self, place: usize, now_ms: u64) {
        let one = &mut self.all[place];
        one.failures += 1;
        let goes = one.failures >= 3 && !one.is_out(now_ms);
        assert_eq!(one.health.failed(now_ms), goes, "who goes");
        if goes {
            one.until_ms = now_ms + (1000 << one.pauses.min(6)).min(60_000);
            one.pauses += 1;
        }
    }

    /// The world is over.
    pub fn check_idle(&self) {
        assert!(
            self.all.iter().all(|one| one.load == 0),
            "requests without end"
        );
    }
}
