//! The number of prompt tokens that one step may read.
//!
//! A feedback controller, not a cost model: the budget is scaled by the root of target time over measured time, so it settles
//! where a step takes about as long as it may, regardless of the cost of decoding, context and machine. The root is there because
//! the median of three speaks a step late: with a step time of `c + b·n` and a gain of `g = b·n/target` (0 to 1), full scaling
//! behaves near its fixed point as `z² − z + g`, which for `c = 0` never stops swinging; half of the gain dies out by a factor of
//! `√(g/2)` a step or faster.

use std::time::Duration;

/// Prompts advance by at least this much a step, however late the streams are.
const LEAST: usize = 8;

/// The initial budget: small enough for a slow machine, a few steps away from any other size.
const FIRST: usize = 32;

/// llama.cpp's attention on a CPU reads a batch of 64 tokens or more in tiles of 64, and a smaller one token by token:
/// at a context of 2048, a batch of 128 reads more than twice as many tokens a second as one of 63 (llama-bench `-ub`).
const TILE: usize = 64;

/// The minimum budget while no sequence waits for a token: two tiles. The control must not go below them: slower reading is
/// granted less, and the budget would never come back.
const MIN_IDLE: usize = 2 * TILE;

/// One controlled size, with its target.
#[derive(Clone, Debug)]
struct Controlled {
    target: f64,
    least: usize,
    budget: f64,
    /// The last measurements of target over step time; the median of three is deaf to a single outlier.
    ratios: [f64; 3],
    measured: usize,
}

impl Controlled {
    fn new(target: Duration, least: usize, first: usize) -> Self {
        Self { target: target.as_secs_f64(), least, budget: first as f64, ratios: [1.0; 3], measured: 0 }
    }

    /// Whole tiles, where there is one.
    fn tokens(&self) -> usize {
        let tokens = self.budget as usize;
        if tokens < TILE { tokens } else { tokens / TILE * TILE }
    }

    fn observe(&mut self, read: usize, took: Duration, most: usize) {
        let ratio = self.target / took.as_secs_f64().max(1e-6);
        // A step that had less to read than it might does not show how much more would fit.
        if ratio > 1.0 && (read as f64) < 0.75 * self.tokens() as f64 {
            return;
        }
        self.ratios[self.measured % 3] = ratio;
        self.measured += 1;
        let mut sorted = self.ratios;
        sorted.sort_unstable_by(f64::total_cmp);
        let scaled = self.budget * sorted[1].sqrt().clamp(0.5, 1.5);
        self.budget = scaled.clamp(self.least.min(most) as f64, most as f64);
    }
}

/// The prefill budget of the next step, from how long the last ones took.
#[derive(Clone, Debug)]
pub struct StepBudget {
    /// The budget while streams wait for their next token.
    streaming: Controlled,
    /// The budget while no stream does; bounded too, since a step bounds how late arrivals and cancels are seen.
    idle: Controlled,
    most: usize,
}

impl StepBudget {
    /// `inter_token`: the time that a step may take while streams decode; `idle`: the time that it may take otherwise; `most`:
    /// the largest prompt chunk of a batch.
    pub fn new(inter_token: Duration, idle: Duration, most: usize) -> Self {
        let most = most.max(1);
        Self {
            streaming: Controlled::new(inter_token, LEAST, FIRST.min(most)),
            idle: Controlled::new(idle, MIN_IDLE, MIN_IDLE.min(most)),
            most,
        }
    }

    /// Prompt tokens that the next step may read while `decoding` streams wait for a token. 1 or more.
    pub fn next(&self, decoding: usize) -> usize {
        let controlled = if decoding > 0 { &self.streaming } else { &self.idle };
        controlled.tokens().clamp(1, self.most)
    }

    /// Learns from a step.
    pub fn observe(&mut self, decode_tokens: usize, prefill_tokens: usize, took: Duration) {
        if prefill_tokens == 0 {
            return;
        }
        let most = self.most;
        let controlled = if decode_tokens > 0 { &mut self.streaming } else { &mut self.idle };
        controlled.observe(prefill_tokens, took, most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settle(budget: &mut StepBudget, fixed: f64, per_token: f64, steps: usize) -> f64 {
        settle_with(budget, 4, fixed, per_token, steps)
    }

    fn settle_with(
        budget: &mut StepBudget,
        decoding: usize,
        fixed: f64,
        per_token: f64,
        steps: usize,
    ) -> f64 {
        let mut took = 0.0;
        for _ in 0..steps {
            let n = budget.next(decoding);
            took = fixed + per_token * n as f64;
            budget.observe(decoding, n, Duration::from_secs_f64(took));
        }
        took
    }

    proptest! {
        /// The budget stays in its bounds for all measurements.
        #[test]
        fn stays_in_bounds(most in 1usize..2000, steps in prop::collection::vec((0usize..40, 0usize..3000, 0u64..5_000_000), 0..200)) {
            let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), most);
            for (decode, prefill, micros) in steps {
                budget.observe(decode, prefill, Duration::from_micros(micros));
                for decoding in [0, 1, decode] {
                    prop_assert!((1..=most).contains(&budget.next(decoding)));
                }
            }
        }

        /// For a linear step time it settles on the target, or at the bound where the target is out of reach.
        #[test]
        fn settles_on_the_target(fixed in 0.0f64..0.2, per_token in 1e-5f64..0.02) {
            let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), 512);
            let took = settle(&mut budget, fixed, per_token, 60);
            let least = fixed + per_token * LEAST as f64;
            let most = fixed + per_token * 512.0;
            let wanted = 0.1f64.clamp(least, most.max(least));
            // From one tile on, by less than a tile.
            let rounded = if wanted - fixed < per_token * TILE as f64 { per_token } else { per_token * TILE as f64 };
            prop_assert!((took - wanted).abs() <= rounded + 0.15 * wanted, "{took} against {wanted}");
        }

        /// However slow the machine is, reading continues in whole tiles while no sequence waits for a token.
        #[test]
        fn reads_whole_tiles_while_idle(fixed in 0.0f64..2.0, per_token in 1e-5f64..0.2) {
            let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), 512);
            settle_with(&mut budget, 0, fixed, per_token, 60);
            let read = budget.next(0);
            prop_assert!(read >= MIN_IDLE && read.is_multiple_of(TILE), "{read}");
        }
    }

    /// If reading costs all of a step, scaling by the whole ratio oscillated around the target.
    #[test]
    fn does_not_swing_where_a_step_is_all_reading() {
        let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), 512);
        let took = settle(&mut budget, 0.0, 0.001_615_833_803_676_848_3, 60);
        assert!((took - 0.1).abs() < 0.005, "{took}");
    }

    #[test]
    fn one_outlier_changes_nothing() {
        let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), 512);
        settle(&mut budget, 0.02, 0.002, 60);
        let before = budget.next(4);
        budget.observe(4, before, Duration::from_secs(20));
        assert!(budget.next(4) * 10 >= before * 9, "{} after {before}", budget.next(4));
    }

    #[test]
    fn a_short_prompt_does_not_inflate_the_budget() {
        let mut budget = StepBudget::new(Duration::from_millis(100), Duration::from_millis(400), 512);
        settle(&mut budget, 0.02, 0.002, 60);
        let before = budget.next(4);
        for _ in 0..50 {
            budget.observe(4, 3, Duration::from_millis(26));
        }
        assert_eq!(budget.next(4), before);
    }
}
