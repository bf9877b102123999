//! Beginning together: whether the requests that arrive at about the same time are all read before the first of them decodes.
//!
//! A decode step of many sequences costs little more than one of few, so sequences that begin one after the other, each while the
//! rest is read, take more time altogether than those that begin together, and all of them get several late tokens rather than one.
//! So as long as no sequence has had more than its first token, the others' prompts are read first, if that does not take too
//! long. Longer prompts are read beside decoding, at the inter-token target.

use std::time::Duration;

/// The weight of the newest measurement of the reading rate.
const NEWEST: f64 = 0.3;

/// Tokens of a step that shows the rate.
const LEAST_TOKENS: usize = 64;

/// Decides when decoding waits. Pure: time is passed in.
#[derive(Clone, Debug)]
pub struct Gathering {
    /// The longest time that a sequence waits.
    most: Duration,
    /// The time that the present sequences have waited.
    held: Duration,
    /// `true` if they wait in the present step.
    holds: bool,
    /// Seconds that reading a prompt token takes; `None` before the first measurement.
    pace: Option<f64>,
}

impl Gathering {
    /// `most`: the longest time that a sequence waits for its second token.
    pub const fn new(most: Duration) -> Self {
        Self { most, held: Duration::ZERO, holds: false, pace: None }
    }

    /// Returns `true` if `decoding` sequences, of which none has had more than its first token, are to wait in the next step because
    /// `unread` tokens can be read soon.
    pub fn holds(&mut self, decoding: usize, have_just_begun: bool, unread: usize) -> bool {
        if decoding == 0 || !have_just_begun {
            self.held = Duration::ZERO;
            self.holds = false;
            return false;
        }
        let left = self.most.saturating_sub(self.held).as_secs_f64();
        self.holds = unread > 0 && self.pace.is_some_and(|pace| pace * unread as f64 <= left);
        self.holds
    }

    /// Learns from a step.
    pub fn observe(&mut self, decode_tokens: usize, prefill_tokens: usize, took: Duration) {
        if self.holds {
            self.held += took;
        }
        // Steps of a few tokens cost more a token.
        let counts = prefill_tokens >= LEAST_TOKENS || (prefill_tokens > 0 && self.pace.is_none());
        if decode_tokens == 0 && counts {
            let pace = took.as_secs_f64() / prefill_tokens as f64;
            self.pace = Some(self.pace.map_or(pace, |old| old + NEWEST * (pace - old)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Duration = Duration::from_secs(5);

    /// A gathering that has seen prompts read at a hundred tokens a second.
    fn at_hundred() -> Gathering {
        let mut gathering = Gathering::new(MOST);
        gathering.observe(0, 100, Duration::from_secs(1));
        gathering
    }

    #[test]
    fn short_prompts_are_read_first_and_long_ones_are_not() {
        let mut gathering = at_hundred();
        assert!(gathering.holds(1, true, 400));
        assert!(!gathering.holds(1, true, 600));
        assert!(
            !gathering.holds(1, false, 10) && !gathering.holds(1, true, 0) && !gathering.holds(0, true, 400)
        );
        assert!(!Gathering::new(MOST).holds(1, true, 10), "the pace is not known yet");
    }

    proptest! {
        /// However many arrive, nobody waits for longer than the maximum and one step.
        #[test]
        fn nobody_waits_for_ever(arrivals in prop::collection::vec((0usize..2000, 1u64..800), 1..200)) {
            let mut gathering = at_hundred();
            let (mut waited, mut longest_step) = (Duration::ZERO, Duration::ZERO);
            for (unread, millis) in arrivals {
                let step = Duration::from_millis(millis);
                if gathering.holds(3, true, unread) {
                    waited += step;
                    longest_step = longest_step.max(step);
                }
                gathering.observe(0, unread.min(100), step);
            }
            prop_assert!(waited <= MOST + longest_step, "{waited:?}");
        }
    }
}
