//! The number of drafts that are worth their time.
//!
//! A step takes longer with every token in it, and a draft saves the step of a token if it is right. Whether it will be is known
//! without trying: for each token of an answer it shows whether the lookup had expected it. So an answer that nothing is known of
//! costs nothing, and drafts begin where they would have been right.
//!
//! The cost of a step is a table, not a measurement: the decision for a sequence that runs alone depends on its tokens alone.

use super::lookup::{LONGEST, Occurrence};

/// The time of a step by its number of tokens, in that of a step of one token; beyond the last as between the last two. Measured
/// with SmolLM2 135M on two cores (docs/benchmarks.md); other models' steps grow less.
const COSTS: [(usize, f64); 10] = [
    (1, 1.0),
    (2, 1.4),
    (3, 1.85),
    (4, 2.1),
    (6, 2.55),
    (8, 3.15),
    (12, 4.7),
    (16, 5.9),
    (24, 9.0),
    (32, 12.0),
];

/// A step with drafts must promise to be so much better.
const BETTER: f64 = 1.05;

/// Observations that count: older ones fade.
const MEMORY: f32 = 16.0;

/// Observations that the first estimate stands for.
const PRIOR: f32 = 3.0;

/// The estimates before anything is known, by class.
const FIRST: [f32; CLASSES] = [0.3, 0.4, 0.55, 0.7, 0.85, 0.92, 0.5, 0.6, 0.75];

const CLASSES: usize = 9;

/// The class of an occurrence: those of one class are expected to be right equally often.
const fn class(len: u32, behind_change: bool) -> usize {
    match (behind_change, len) {
        (false, ..=2) => 0,
        (false, 3) => 1,
        (false, 4..=5) => 2,
        (false, 6..=8) => 3,
        (false, 9..=15) => 4,
        (false, _) => 5,
        (true, 0) => 6,
        (true, 1..=2) => 7,
        (true, _) => 8,
    }
}

/// The lookup's record in one sequence: its right and wrong guesses.
#[derive(Clone, Debug)]
pub struct Record {
    /// The share, and the observations that it stands for.
    right: [(f32, f32); CLASSES],
}

impl Default for Record {
    fn default() -> Self {
        Self { right: FIRST.map(|share| (share, PRIOR)) }
    }
}

impl Record {
    /// Takes note of whether the token that was expected behind an occurrence came.
    pub fn note(&mut self, occurrence: Occurrence, was_right: bool) {
        let (share, count) = &mut self.right[class(occurrence.len, occurrence.behind_change)];
        *count = (*count + 1.0).min(MEMORY);
        *share += (f32::from(u8::from(was_right)) - *share) / *count;
    }

    /// The chances that the tokens behind an occurrence come: of each, and all before it.
    pub fn chances(&self, occurrence: Occurrence) -> impl Iterator<Item = f64> {
        let mut all = 1.0;
        (0..).map(move |more| {
            let len = (occurrence.len + more).min(LONGEST);
            // It speaks for itself once it is long enough again.
            let (share, _) = self.right[class(len, occurrence.behind_change && len < 8)];
            all *= f64::from(share);
            all
        })
    }
}

/// The time of a step of `tokens`, in that of a step of one.
#[must_use]
pub fn cost(tokens: usize) -> f64 {
    let between = |(from, to): (&(usize, f64), &(usize, f64))| {
        let slope = (to.1 - from.1) / (to.0 - from.0) as f64;
        from.1 + slope * (tokens as f64 - from.0 as f64)
    };
    let pairs = || COSTS.iter().zip(&COSTS[1..]);
    pairs().find(|(_, to)| tokens <= to.0).or_else(|| pairs().next_back()).map_or(1.0, between)
}

/// Returns the number of drafts of each sequence, `most` together, with which a step yields the most tokens for its time; none
/// where that is hardly more than without. `chances` has those of each sequence's drafts, which never rise.
#[must_use]
pub fn allot(chances: &[Vec<f64>], most: usize) -> Vec<usize> {
    let mut counts = vec![0; chances.len()];
    let running = chances.len();
    let without = running as f64 / cost(running);
    let (mut expected, mut best, mut best_rate) = (running as f64, counts.clone(), without * BETTER);
    for total in 1..=most {
        let chance = |index: usize| chances[index].get(counts[index]).copied().unwrap_or(0.0);
        // Of equal ones the first: the oldest sequence.
        let next =
            (0..chances.len()).reduce(|best, next| if chance(next) > chance(best) { next } else { best });
        let Some(next) = next.filter(|&next| chance(next) > 0.0) else { break };
        expected += chance(next);
        counts[next] += 1;
        let rate = expected / cost(running + total);
        if rate > best_rate {
            (best_rate, best) = (rate, counts.clone());
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn occurrence(len: u32) -> Occurrence {
        Occurrence { next: 1, len, behind_change: false }
    }

    fn drafts(record: &Record, len: u32, running: usize) -> usize {
        let chances: Vec<f64> = record.chances(occurrence(len)).take(31).collect();
        let mut all = vec![Vec::new(); running];
        all[0] = chances;
        allot(&all, 31)[0]
    }

    #[test]
    fn a_text_that_repeats_nothing_gets_no_drafts() {
        let mut record = Record::default();
        assert_eq!(drafts(&record, 2, 1), 0);
        for _ in 0..6 {
            record.note(occurrence(4), false);
            record.note(occurrence(2), false);
        }
        assert_eq!((drafts(&record, 2, 1), drafts(&record, 4, 1)), (0, 0));
    }

    #[test]
    fn a_copy_gets_long_drafts_and_fewer_beside_others() {
        let mut record = Record::default();
        for len in 2..40 {
            record.note(occurrence(len.min(LONGEST)), true);
        }
        let alone = drafts(&record, 32, 1);
        assert!(alone >= 15, "{alone}");
        assert!(drafts(&record, 32, 8) <= alone);
        for _ in 0..4 {
            record.note(occurrence(32), false);
        }
        assert!(drafts(&record, 32, 1) < alone);
        assert_eq!(drafts(&record, 32, 8), 0);
    }

    proptest! {
        #[test]
        fn the_cost_rises(tokens in 1usize..300) {
            prop_assert!(cost(tokens + 1) > cost(tokens) && cost(1) == 1.0);
            // A step of many is never dearer than as many steps.
            prop_assert!(cost(tokens) <= tokens as f64);
        }

        /// No draft more or less of one sequence would be better, and nothing is worse than no drafts.
        #[test]
        fn the_best_is_chosen(shares in prop::collection::vec(0.0f64..1.0, 1..9), most in 0usize..12) {
            let chances: Vec<Vec<f64>> =
                shares.iter().map(|share| (1..8).map(|n| share.powi(n)).collect()).collect();
            let found = allot(&chances, most);
            prop_assert!(found.iter().sum::<usize>() <= most);
            let rate = |counts: &[usize]| {
                let right: f64 = counts.iter().zip(&chances).map(|(&n, c)| c[..n].iter().sum::<f64>()).sum();
                (chances.len() as f64 + right) / cost(chances.len() + counts.iter().sum::<usize>())
            };
            let without = rate(&vec![0; chances.len()]);
            prop_assert!(rate(&found) >= without);
            for index in 0..chances.len() {
                let mut other = found.clone();
                other[index] = (other[index] + 1) % 8;
                let is_allowed = other.iter().sum::<usize>() <= most;
                prop_assert!(!is_allowed || rate(&other) <= rate(&found).max(without * BETTER) + 1e-9);
            }
        }

        #[test]
        fn chances_are_chances_and_fall(
            noted in prop::collection::vec((0u32..33, any::<bool>(), any::<bool>()), 0..60),
            len in 0u32..33,
        ) {
            let mut record = Record::default();
            for (len, behind_change, was_right) in noted {
                record.note(Occurrence { next: 0, len, behind_change }, was_right);
            }
            let chances: Vec<f64> = record.chances(occurrence(len)).take(40).collect();
            prop_assert!(chances.is_sorted_by(|a, b| a >= b));
            prop_assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        }
    }
}
