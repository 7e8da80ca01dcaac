//! Which backend takes the next request. Pure.
//!
//! A cluster has a `Balancer`, each of its backends a seat there. Seats that can be chosen stand in one of
//! four groups, by whether they are left alone and whether they are backups; each group is
//! arranged so that the policy finds its seat in no more than some twenty steps, be it one of ten or of ten thousand:
//!
//! | policy | the seat that is chosen | arranged as |
//! |---|---|---|
//! | `round_robin` | whose turn has come: a seat's turns are equally far apart, by its weight | heap |
//! | `least_conn` | with the fewest requests for its weight | heap |
//! | `least_time` | with the least time to answer, by the requests it has, for its weight | heap |
//! | `random` | any, by weight | shares |
//! | `power_of_two` | of two at random the one with fewer requests for its weight | shares |
//! | `hash` | the next on the ring that has not much more than its share of requests | ring, shares |
//!
//! Time to answer is that of the peak-sensitive average of Finagle: a slow answer counts at once, and is forgotten
//! with time. All costs fade alike, so that their order in the heap stays.

mod heap;
mod ring;
mod shares;

use crate::random::{hash_of, mix, Random};
use crate::state::LoadBalancing;
use heap::Heap;
use ring::Ring;
use shares::Shares;

/// A backend's place in its cluster's balancer.
pub type Seat = u32;

/// A weight of 1, so that a part of a weight is a number too.
pub const WEIGHT_UNIT: u32 = 256;
/// The time between two turns of a seat with that weight.
const ROUND: u64 = 1 << 32;
/// How far apart the loads of seats may be under `hash`: a quarter above their share …
const LOAD_QUARTERS: u64 = 5;
/// … and so many requests more, lest few requests move for nothing.
const LOAD_SLACK: u64 = 4;
/// Points of the ring that are looked at.
const RING_STEPS_MAX: usize = 64;
/// After so long a slow answer counts for a third only.
const FADING_US: f64 = 10_000_000.0;
/// What a seat is taken for that has not answered yet, where none has.
const ANSWER_US: f64 = 1_000.0;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In `WEIGHT_UNIT`s; at least 1.
    pub weight: u32,
    pub backup: bool,
    /// It takes requests at all.
    pub usable: bool,
    /// It is left alone, if others are there.
    pub out: bool,
    /// Nothing has shown that it is well since something showed that it is not.
    pub ill: bool,
    /// It takes none before another one has ended.
    pub full: bool,
}

/// What a request is chosen for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// What `hash` goes by.
    pub hash: u64,
}

/// Why nobody was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// Nobody takes requests, or nobody is left to try.
    There,
    /// All that take some have as many as they may.
    Free,
}

struct Member {
    /// Of its name.
    name: u64,
    /// What the ring is made by: the weight that is configured.
    weight: u16,
    standing: Standing,
    /// It was tried already by the request that chooses.
    aside: bool,
    /// Requests that it has.
    load: u32,
    /// When its turn comes.
    turn: u64,
    /// When it was chosen last, counted in choices.
    chosen: u64,
    /// Microseconds to an answer, as they were at that time.
    answer_us: f64,
    answered_us: u64,
}

impl Member {
    fn group(&self) -> Option<usize> {
        let Standing {
            out, full, usable, ..
        } = self.standing;
        let free = usable && !full && !self.aside;
        free.then_some(tier(self.standing) + 2 * usize::from(out))
    }

    /// Requests for its weight, with one more.
    fn pressure(&self) -> u64 {
        ((u64::from(self.load) + 1) << 24) / u64::from(self.standing.weight)
    }

    /// The logarithm of its answer's time by its requests, for its weight; what is the same for all is left out.
    fn cost(&self) -> f64 {
        let faded = self.answered_us as f64 / FADING_US;
        let load = f64::from(self.load) + 1.0;
        (self.answer_us.max(1.0) * load / f64::from(self.standing.weight)).ln() + faded
    }

    fn between_turns(&self) -> u64 {
        ROUND / u64::from(self.standing.weight)
    }
}

/// 0 for those that are used first, 1 for backups.
fn tier(standing: Standing) -> usize {
    usize::from(standing.backup)
}

/// Seats among which is chosen.
#[derive(Default)]
struct Group {
    heap: Heap,
    shares: Shares,
    load: u64,
}

pub struct Balancer {
    policy: LoadBalancing,
    members: Vec<Option<Member>>,
    free: Vec<Seat>,
    /// Primaries, backups, and those of both that are left alone.
    groups: [Group; 4],
    /// By tier: how many take requests, and how many of these are not left alone.
    usable: [usize; 2],
    healthy: [usize; 2],
    /// … and of all that take requests, how many are not ill.
    well: [usize; 2],
    /// The turn that came last.
    turn: u64,
    choices: u64,
    /// What answers take, all seats together.
    answer_us: f64,
    /// `None`: it is to be made anew.
    ring: Option<Ring>,
}

impl Balancer {
    pub fn new(policy: LoadBalancing) -> Balancer {
        Balancer {
            policy,
            members: Vec::new(),
            free: Vec::new(),
            groups: Default::default(),
            usable: [0; 2],
            healthy: [0; 2],
            well: [0; 2],
            turn: 0,
            choices: 0,
            answer_us: ANSWER_US,
            ring: None,
        }
    }

    // ---- who is there ---------------------------------------------------

    /// From now on it is chosen by that policy; seats, and what they have, stay.
    pub fn turn_to(&mut self, policy: LoadBalancing) {
        if policy == self.policy {
            return;
        }
        let seats: Vec<Seat> = self.seats().collect();
        seats.iter().for_each(|seat| self.step_out(*seat));
        self.policy = policy;
        seats.iter().for_each(|seat| self.step_in(*seat));
        self.ring = None;
    }

    fn seats(&self) -> impl Iterator<Item = Seat> + '_ {
        let all = (0..).zip(&self.members);
        all.filter_map(|(seat, member)| member.as_ref().map(|_| seat))
    }

    /// A seat for a backend of that name, and of the weight that is configured.
    pub fn take_seat(&mut self, name: &str, weight: u16, standing: Standing, now_us: u64) -> Seat {
        let member = Member {
            name: hash_of(&[name.as_bytes()]),
            weight,
            standing,
            aside: false,
            load: 0,
            turn: 0,
            chosen: 0,
            answer_us: self.answer_us,
            answered_us: now_us,
        };
        let seat = self.free.pop().unwrap_or(self.members.len() as Seat);
        match self.members.get_mut(seat as usize) {
            Some(place) => *place = Some(member),
            None => self.members.push(Some(member)),
        }
        self.ring = None;
        self.step_in(seat);
        seat
    }

    pub fn leave_seat(&mut self, seat: Seat) {
        self.step_out(seat);
        let place = self.members.get_mut(seat as usize);
        if place.and_then(Option::take).is_some() {
            self.free.push(seat);
            self.ring = None;
        }
    }

    pub fn standing(&self, seat: Seat) -> Option<Standing> {
        Some(self.member(seat)?.standing)
    }

    pub fn set_standing(&mut self, seat: Seat, standing: Standing) {
        if self.standing(seat).is_some_and(|old| old != standing) {
            self.step_out(seat);
            let turn = self.turn;
            self.change(seat, |member| {
                // Whoever weighs more now need not wait for as long as he had to.
                let (old, new) = (member.standing.weight, standing.weight);
                let ahead = u128::from(member.turn.saturating_sub(turn));
                let ahead = ahead * u128::from(old) / u128::from(new);
                member.turn = member.turn.min(turn) + ahead as u64;
                member.standing = standing;
            });
            self.step_in(seat);
        }
    }

    /// What is configured, by which the ring is made.
    pub fn set_weight(&mut self, seat: Seat, weight: u16) {
        if self
            .member(seat)
            .is_some_and(|member| member.weight != weight)
        {
            self.change(seat, |member| member.weight = weight);
            self.ring = None;
        }
    }

    pub fn has_chosen(&self) -> bool {
        self.choices > 0
    }

    /// Fewer than half of them are well: the others would not do.
    fn tier_panics(&self, tier: usize) -> bool {
        self.usable[tier] > 0 && 2 * self.well[tier] < self.usable[tier]
    }

    fn member(&self, seat: Seat) -> Option<&Member> {
        self.members.get(seat as usize)?.as_ref()
    }

    fn change(&mut self, seat: Seat, to: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(seat as usize).and_then(Option::as_mut) {
            to(member);
        }
    }

    fn step_out(&mut self, seat: Seat) {
        let Some(member) = self.members.get(seat as usize).and_then(Option::as_ref) else {
            return;
        };
        let standing = member.standing;
        if let Some(group) = member.group() {
            let group = &mut self.groups[group];
            group.load -= u64::from(member.load);
            group.heap.remove(seat);
            group.shares.set(seat, 0);
        }
        self.count(standing, |count| *count -= 1);
    }

    fn step_in(&mut self, seat: Seat) {
        let (turn, policy) = (self.turn, self.policy);
        let Some(member) = self.members.get_mut(seat as usize).and_then(Option::as_mut) else {
            return;
        };
        // Half a round, so that the light ones do not all come first. Nobody has turns to make up for.
        if member.turn < turn || member.chosen == 0 {
            member.turn = turn + member.between_turns() / 2;
        }
        let standing = member.standing;
        if let Some(group) = member.group() {
            let group = &mut self.groups[group];
            group.load += u64::from(member.load);
            match key(policy, member, seat) {
                Some(key) => group.heap.set(seat, key),
                None => group.shares.set(seat, standing.weight),
            }
        }
        self.count(standing, |count| *count += 1);
    }

    fn count(&mut self, standing: Standing, by: impl Fn(&mut usize)) {
        if standing.usable {
            by(&mut self.usable[tier(standing)]);
            if !standing.out {
                by(&mut self.healthy[tier(standing)]);
            }
            if !standing.ill {
                by(&mut self.well[tier(standing)]);
            }
        }
    }

    // ---- what they have -------------------------------------------------

    /// It has got a request.
    pub fn begin(&mut self, seat: Seat) {
        self.load(seat, 1);
    }

    /// One has ended there.
    pub fn end(&mut self, seat: Seat) {
        self.load(seat, -1);
    }

    fn load(&mut self, seat: Seat, by: i32) {
        let policy = self.policy;
        let Some(member) = self.members.get_mut(seat as usize).and_then(Option::as_mut) else {
            return;
        };
        let before = member.load;
        member.load = before.saturating_add_signed(by);
        if let Some(group) = member.group() {
            let group = &mut self.groups[group];
            group.load = group.load + u64::from(member.load) - u64::from(before);
            if let (LoadBalancing::LeastConn | LoadBalancing::LeastTime, Some(key)) =
                (policy, key(policy, member, seat))
            {
                group.heap.set(seat, key);
            }
        }
    }

    /// It has answered, after so long.
    pub fn answered(&mut self, seat: Seat, us: u64, now_us: u64) {
        if self.policy != LoadBalancing::LeastTime {
            return;
        }
        let us = us as f64;
        self.answer_us += (us - self.answer_us) / 64.0;
        let Some(member) = self.members.get_mut(seat as usize).and_then(Option::as_mut) else {
            return;
        };
        let since = now_us.saturating_sub(member.answered_us) as f64;
        let kept = (-since / FADING_US).exp();
        // A slow answer counts at once, a fast one little by little.
        member.answer_us = match us > member.answer_us * kept {
            true => us,
            // Of an answer that came right behind another one a part counts as well.
            false => member.answer_us * kept * 0.875 + us * (1.0 - kept * 0.875),
        };
        member.answered_us = now_us;
        if let (Some(group), Some(key)) = (member.group(), key(self.policy, member, seat)) {
            self.groups[group].heap.set(seat, key);
        }
    }

    // ---- who is chosen --------------------------------------------------

    /// Backups only when no other can be used; those left alone only when nobody else is there, or when so many are
    /// that the others would not do. `tried` are not chosen; each stands there once.
    pub fn choose(
        &mut self,
        ask: Ask,
        tried: &[Seat],
        random: &mut Random,
    ) -> Result<Seat, Nobody> {
        for seat in tried {
            self.set_aside(*seat, true);
        }
        let chosen = self.choose_among_all(ask, random);
        for seat in tried {
            self.set_aside(*seat, false);
        }
        if let Ok(seat) = chosen {
            self.have_chosen(seat);
        }
        chosen
    }

    /// Nobody looks at a seat for a moment.
    fn set_aside(&mut self, seat: Seat, aside: bool) {
        if aside {
            self.step_out(seat);
        }
        self.change(seat, |member| member.aside = aside);
        if !aside {
            self.step_in(seat);
        }
    }

    fn choose_among_all(&mut self, ask: Ask, random: &mut Random) -> Result<Seat, Nobody> {
        for tier in 0..2 {
            if self.healthy[tier] > 0 {
                let panics = self.tier_panics(tier);
                return self.choose_among([Some(tier), panics.then_some(tier + 2)], ask, random);
            }
        }
        for tier in 0..2 {
            if self.usable[tier] > 0 {
                return self.choose_among([Some(tier + 2), None], ask, random);
            }
        }
        Err(Nobody::There)
    }

    /// Among one group, or two.
    fn choose_among(
        &mut self,
        groups: [Option<usize>; 2],
        ask: Ask,
        random: &mut Random,
    ) -> Result<Seat, Nobody> {
        use LoadBalancing::*;
        let chosen = match self.policy {
            RoundRobin | LeastConn | LeastTime => {
                let firsts = groups
                    .iter()
                    .flatten()
                    .filter_map(|at| self.groups[*at].heap.first());
                firsts.min().map(|(_, seat)| seat)
            }
            Random => self.any(groups, random),
            PowerOfTwo => self.better_of_two(groups, random),
            Hash => self.on_the_ring(groups, ask.hash),
        };
        chosen.ok_or(Nobody::Free)
    }

    fn total(&self, groups: [Option<usize>; 2]) -> u64 {
        groups
            .iter()
            .flatten()
            .map(|at| self.groups[*at].shares.total())
            .sum()
    }

    /// The seat under a point of the weights of all.
    fn under(&self, groups: [Option<usize>; 2], mut point: u64) -> Option<Seat> {
        for shares in groups.iter().flatten().map(|at| &self.groups[*at].shares) {
            match shares.under(point) {
                Some(seat) => return Some(seat),
                None => point -= shares.total(),
            }
        }
        None
    }

    fn any(&self, groups: [Option<usize>; 2], random: &mut Random) -> Option<Seat> {
        let total = self.total(groups);
        (total > 0)
            .then(|| random.below(total))
            .and_then(|point| self.under(groups, point))
    }

    fn better_of_two(&self, groups: [Option<usize>; 2], random: &mut Random) -> Option<Seat> {
        let one = self.any(groups, random)?;
        // A heavy one may be met again and again.
        let others = (0..4).filter_map(|_| self.any(groups, random));
        let other = others.into_iter().find(|other| *other != one);
        let pressure = |seat: &Seat| self.member(*seat).map(Member::pressure);
        // Among equals the first: it was as random as the second.
        [Some(one), other]
            .into_iter()
            .flatten()
            .min_by_key(pressure)
    }

    fn on_the_ring(&mut self, groups: [Option<usize>; 2], hash: u64) -> Option<Seat> {
        let total = self.total(groups);
        if total == 0 {
            return None;
        }
        let load: u64 = groups
            .iter()
            .flatten()
            .map(|at| self.groups[*at].load)
            .sum();
        let members = &self.members;
        let all = (0..).zip(members);
        let ring = self.ring.get_or_insert_with(|| {
            Ring::new(all.filter_map(|(seat, member)| {
                let member = member.as_ref()?;
                Some((seat, member.name, member.weight))
            }))
        });
        let has_room = |seat: &Seat| {
            let Some(member) = members[*seat as usize].as_ref() else {
                return false;
            };
            let share = (load + 1) * LOAD_QUARTERS * u64::from(member.standing.weight);
            let most = share.div_ceil(4 * total) + LOAD_SLACK;
            let group = member.group();
            group.is_some() && groups.contains(&group) && u64::from(member.load) < most
        };
        let near = ring.from(hash).take(RING_STEPS_MAX).find(has_room);
        // Most of the ring is of no use, or full: still the same for the same key.
        near.or_else(|| self.under(groups, mix(hash) % total))
    }

    fn have_chosen(&mut self, seat: Seat) {
        self.choices += 1;
        let (choices, policy) = (self.choices, self.policy);
        let Some(member) = self.members.get_mut(seat as usize).and_then(Option::as_mut) else {
            return;
        };
        member.chosen = choices;
        if policy == LoadBalancing::RoundRobin {
            self.turn = self.turn.max(member.turn);
            member.turn += member.between_turns();
        }
        if let (Some(group), Some(key)) = (member.group(), key(policy, member, seat)) {
            self.groups[group].heap.set(seat, key);
        }
        if self.turn > 1 << 62 {
            self.begin_anew();
        }
    }

    /// Turns are counted from zero again, before there is no number for them; once in years.
    fn begin_anew(&mut self) {
        let now = std::mem::take(&mut self.turn);
        let seats: Vec<Seat> = self.seats().collect();
        for seat in seats {
            self.step_out(seat);
            self.change(seat, |member| member.turn = member.turn.saturating_sub(now));
            self.step_in(seat);
        }
    }
}

/// By what a heap is arranged; `None`: the policy has none.
fn key(policy: LoadBalancing, member: &Member, seat: Seat) -> Option<heap::Key> {
    match policy {
        LoadBalancing::RoundRobin => Some((member.turn, seat.into())),
        LoadBalancing::LeastConn => Some((member.pressure(), member.chosen)),
        LoadBalancing::LeastTime => Some((ordered(member.cost()), member.chosen)),
        LoadBalancing::Random | LoadBalancing::PowerOfTwo | LoadBalancing::Hash => None,
    }
}

/// Integers in the order of the numbers.
fn ordered(number: f64) -> u64 {
    let bits = number.to_bits();
    match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    }
}

/// The part of a weight that a backend has which came back so long ago, in `WEIGHT_UNIT`s.
pub fn ramp(weight: u16, since_ms: u64, slow_start_ms: u64) -> u32 {
    let whole = u64::from(weight) * u64::from(WEIGHT_UNIT);
    let part = match since_ms < slow_start_ms {
        true => whole * since_ms / slow_start_ms,
        false => whole,
    };
    // A backend that gets nothing never warms up.
    part.max(whole / 20).max(1) as u32
}

#[cfg(test)]
mod tests;
