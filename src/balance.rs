//! Which backend takes the next request. Pure.

/// What a candidate has gained and not yet paid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smooth {
    credit: i64,
}

impl Smooth {
    /// The chosen one pays what all gained.
    pub fn pay(&mut self, total: i64) {
        self.credit -= total;
    }
}

/// One turn of smooth weighted round robin (nginx): every candidate gains its
/// weight, the richest is chosen and pays what all gained. Heavy ones come
/// often, and never in a row while others could.
pub struct Round<T> {
    total: i64,
    best: Option<(T, i64)>,
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Round {
            total: 0,
            best: None,
        }
    }
}

impl<T> Round<T> {
    pub fn offer(&mut self, candidate: T, weight: u16, smooth: &mut Smooth) {
        if weight == 0 {
            return;
        }
        self.total += i64::from(weight);
        smooth.credit += i64::from(weight);
        if self
            .best
            .as_ref()
            .is_none_or(|(_, credit)| smooth.credit > *credit)
        {
            self.best = Some((candidate, smooth.credit));
        }
    }

    /// The chosen one, and what it has to pay.
    pub fn chosen(self) -> Option<(T, i64)> {
        self.best.map(|(candidate, _)| (candidate, self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(weights: &[u16], turns: usize) -> String {
        let mut state = vec![Smooth::default(); weights.len()];
        let names: Vec<char> = ('a'..).take(weights.len()).collect();
        let turn = |_| {
            let mut round = Round::default();
            for (i, weight) in weights.iter().enumerate() {
                round.offer(i, *weight, &mut state[i]);
            }
            let (chosen, total) = round.chosen()?;
            state[chosen].pay(total);
            Some(names[chosen])
        };
        (0..turns).filter_map(turn).collect()
    }

    #[test]
    fn heavy_ones_come_often_and_spread() {
        assert_eq!(run(&[5, 1, 1], 7), "aabacaa");
        assert_eq!(run(&[1, 1], 4), "abab");
        assert_eq!(run(&[0, 1], 2), "bb");
        assert_eq!(run(&[0], 3), "");
        assert_eq!(run(&[], 3), "");
    }

    #[test]
    fn shares_are_exact_over_a_whole_round() {
        let weights = [7, 256, 1, 36];
        let turns = run(&weights, 300);
        for (name, weight) in ('a'..).zip(weights) {
            assert_eq!(turns.matches(name).count(), usize::from(weight));
        }
    }
}
