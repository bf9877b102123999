//! The drafts of a draft model that are worth their time.
//!
//! Prompt lookup costs nothing until a draft is computed. A draft model costs a step of its own for each token, and it has to read
//! what the sequence has so far. So it is asked only where its record in that sequence promises more tokens for the time, and
//! stops as soon as it is unsure. Where its record is poor it is left alone for a while, and then gets another chance.
//!
//! Costs are those of a table and of the sizes of the two models, not measurements: the decision for a sequence that runs alone
//! depends on its tokens alone.

use super::draft_policy::cost;

/// Drafts of one sequence in one step.
pub const LONGEST: usize = 12;

/// Asking must promise to be so much better.
const BETTER: f64 = 1.05;

/// Bounds of the classes of confidence: the probability that the draft model gives its token.
const BOUNDS: [f32; 4] = [0.4, 0.6, 0.8, 0.95];

/// The shares of right drafts before anything is known, by class.
const FIRST: [f32; BOUNDS.len() + 1] = [0.25, 0.4, 0.6, 0.8, 0.92];

/// The share of right drafts over all classes before anything is known.
const FIRST_SHARE: f32 = 0.85;

/// Observations that the first estimate stands for.
const PRIOR: f32 = 4.0;

/// Observations that count: older ones fade.
const MEMORY: f32 = 32.0;

/// Tokens for which a draft model with a poor record is left alone.
const REST: u32 = 64;

/// Tokens of an answer that are expected at most: most end before their limit.
const EXPECTED: u32 = 128;

/// The time of a token of a long batch, in that of a step of one token: the slope of the table of costs.
fn in_bulk() -> f64 {
    cost(65) - cost(64)
}

/// A share that was observed, and the observations that it stands for.
#[derive(Clone, Copy, Debug)]
struct Share(f32, f32);

impl Share {
    fn note(&mut self, was_right: bool) {
        self.1 = (self.1 + 1.0).min(MEMORY);
        self.0 += (f32::from(u8::from(was_right)) - self.0) / self.1;
    }
}

/// The record of a draft model in one sequence.
#[derive(Clone, Debug)]
pub struct ModelRecord {
    by_confidence: [Share; BOUNDS.len() + 1],
    all: Share,
    /// Tokens until it may be asked again.
    rests: u32,
}

impl Default for ModelRecord {
    fn default() -> Self {
        let by_confidence = FIRST.map(|share| Share(share, PRIOR));
        Self { by_confidence, all: Share(FIRST_SHARE, PRIOR), rests: 0 }
    }
}

fn class(confidence: f32) -> usize {
    BOUNDS.iter().filter(|bound| confidence >= **bound).count()
}

impl ModelRecord {
    /// Takes note of whether a draft was right that the model gave this probability.
    pub fn note(&mut self, confidence: f32, was_right: bool) {
        self.by_confidence[class(confidence)].note(was_right);
        self.all.note(was_right);
    }

    /// Takes note of a token of the answer.
    pub fn token(&mut self) {
        self.rests = self.rests.saturating_sub(1);
    }

    /// The chance that a draft is right, all before it being right.
    #[must_use]
    pub fn chance(&self, confidence: f32) -> f64 {
        f64::from(self.by_confidence[class(confidence)].0)
    }

    /// The share of drafts that were right.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.all.0)
    }

    /// Returns whether the draft model is worth asking for one of `running` sequences: `pass` is the time of its step for one token,
    /// in that of the model's; it has `unread` tokens to read before it can begin, and at most `left` are to come.
    pub fn is_worth_asking(&mut self, pass: f64, running: usize, unread: usize, left: u32) -> bool {
        if self.rests > 0 {
            return false;
        }
        let rate = (1..=LONGEST).map(|count| self.rate(pass, running, count)).fold(0.0, f64::max);
        if rate <= BETTER {
            self.rests = REST;
            // What it has shown counts less the next time.
            self.all = Share(f32::midpoint(self.all.0, FIRST_SHARE), PRIOR);
            return false;
        }
        let saved = f64::from(left.min(EXPECTED)) * (1.0 - 1.0 / rate);
        saved > unread as f64 * in_bulk() * pass
    }

    /// The tokens that a step with `count` drafts yields for its time, in those of a step without.
    fn rate(&self, pass: f64, running: usize, count: usize) -> f64 {
        let right: f64 = (1..=count).scan(1.0, |all, _| Some(next(all, self.share()))).sum();
        let running_rate = running as f64 / cost(running);
        (running as f64 + right) / time(pass, running, count) / running_rate
    }

    /// Returns whether another draft is worth its time behind those whose chances these are, the chance of each and all before it.
    #[must_use]
    pub fn goes_on(&self, chances: &[f64], pass: f64, running: usize) -> bool {
        let count = chances.len();
        if count >= LONGEST {
            return false;
        }
        let (now, then) = (time(pass, running, count), time(pass, running, count + 1));
        let rate = (running as f64 + chances.iter().sum::<f64>()) / now;
        chances.last().unwrap_or(&1.0) * self.share() / (then - now) > rate
    }
}

/// The time of a step of `running` sequences with `count` drafts, and of making these.
fn time(pass: f64, running: usize, count: usize) -> f64 {
    cost(running + count) + count as f64 * pass
}

fn next(all: &mut f64, share: f64) -> f64 {
    *all *= share;
    *all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn having(right: usize, wrong: usize) -> ModelRecord {
        let mut record = ModelRecord::default();
        (0..right).for_each(|_| record.note(0.9, true));
        (0..wrong).for_each(|_| record.note(0.9, false));
        record
    }

    #[test]
    fn a_model_that_is_right_and_small_is_asked() {
        assert!(having(30, 0).is_worth_asking(0.1, 1, 0, 100));
        // Not one as large as the model, not for a long prompt and a short answer, and not one that is wrong.
        assert!(!having(30, 0).is_worth_asking(1.0, 1, 0, 100));
        assert!(!having(30, 0).is_worth_asking(0.1, 1, 2000, 20));
        assert!(!having(0, 30).is_worth_asking(0.05, 1, 0, 100));
    }

    #[test]
    fn a_model_with_a_poor_record_gets_another_chance() {
        let mut record = having(0, 30);
        assert!(!record.is_worth_asking(0.05, 1, 0, 100));
        let asked = (0..1000).position(|_| {
            record.token();
            record.is_worth_asking(0.05, 1, 0, 100)
        });
        assert!((REST as usize - 1..4 * REST as usize).contains(&asked.unwrap()), "{asked:?}");
    }

    #[test]
    fn drafts_go_on_while_they_are_sure() {
        let record = having(32, 0);
        let sure: Vec<f64> =
            std::iter::repeat_n(0.98, LONGEST).scan(1.0, |all, share| Some(next(all, share))).collect();
        assert!((0..4).all(|count| record.goes_on(&sure[..count], 0.1, 1)));
        assert!(!record.goes_on(&sure, 0.1, 1));
        assert!(!record.goes_on(&[0.2], 0.1, 1));
    }

    proptest! {
        #[test]
        fn chances_are_chances(noted in prop::collection::vec((0.0f32..1.0, any::<bool>()), 0..200), confidence in 0.0f32..1.0) {
            let mut record = ModelRecord::default();
            for (confidence, was_right) in noted {
                record.note(confidence, was_right);
            }
            prop_assert!((0.0..=1.0).contains(&record.chance(confidence)));
            prop_assert!((0.0..=1.0).contains(&record.share()));
        }

        /// A cheaper model, fewer tokens to read and more to come never make it less worth asking.
        #[test]
        fn worth_is_monotone(
            right in 0usize..40, wrong in 0usize..40, running in 1usize..5,
            pass in 0.01f64..1.0, unread in 0usize..500, left in 1u32..300,
        ) {
            let record = having(right, wrong);
            let asks = |pass, unread, left| record.clone().is_worth_asking(pass, running, unread, left);
            if asks(pass, unread, left) {
                prop_assert!(asks(pass / 2.0, unread, left) && asks(pass, unread / 2, left) && asks(pass, unread, left + 9));
            }
        }

        /// No draft is added that lowers what a step is expected to yield for its time.
        #[test]
        fn going_on_is_never_worse(shares in prop::collection::vec(0.1f64..1.0, 0..LONGEST), pass in 0.01f64..1.0, running in 1usize..5) {
            let record = ModelRecord::default();
            let chances: Vec<f64> = shares.iter().scan(1.0, |all, share| Some(next(all, *share))).collect();
            if record.goes_on(&chances, pass, running) {
                let rate = |chances: &[f64]| (running as f64 + chances.iter().sum::<f64>()) / time(pass, running, chances.len());
                let mut more = chances.clone();
                more.push(chances.last().unwrap_or(&1.0) * record.share());
                prop_assert!(rate(&more) >= rate(&chances));
            }
        }
    }
}
