//! Changes of logits before any of them is judged: `logit_bias` and the penalties.

use std::collections::HashMap;

use jan_protocol::types::{SamplingParams, Token};

/// A `logit_bias` at or below this bans its token outright.
const BAN: f32 = -100.0;

/// The number of times that each token has been generated, 0 if only the prompt has it: the input of the penalties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    counts: HashMap<Token, u32>,
}

impl TokenCounts {
    /// Notes that the prompt has `token`; only the repeat penalty asks.
    pub fn record_prompt(&mut self, token: Token) {
        self.counts.entry(token).or_default();
    }

    /// Counts one more occurrence of `token` in the answer.
    pub fn record(&mut self, token: Token) {
        let count = self.counts.entry(token).or_default();
        *count = count.saturating_add(1);
    }

    /// Returns the number of times that `token` was generated.
    pub fn count(&self, token: Token) -> u32 {
        self.counts.get(&token).copied().unwrap_or(0)
    }
}

impl FromIterator<Token> for TokenCounts {
    fn from_iter<I: IntoIterator<Item = Token>>(tokens: I) -> Self {
        let mut counts = Self::default();
        tokens.into_iter().for_each(|token| counts.record(token));
        counts
    }
}

/// Applies bias and penalties to the logits in place. The changed logits go into `before`, for [`restore`]: a copy of all of them
/// for each token would cost more than the choice does.
pub fn adjust(
    logits: &mut [f32],
    params: &SamplingParams,
    seen: &TokenCounts,
    before: &mut Vec<(usize, f32)>,
) {
    before.clear();
    // Out of range, which NaN is too, it is off.
    let repeat = if params.repeat_penalty > 0.0 { params.repeat_penalty } else { 1.0 };
    let penalties = [repeat - 1.0, params.frequency_penalty, params.presence_penalty];
    for &(token, bias) in &*params.logit_bias {
        change(logits, token, before, |logit| logit + if bias <= BAN { f32::NEG_INFINITY } else { bias });
    }
    if penalties.iter().any(|penalty| *penalty != 0.0) {
        for (&token, &count) in &seen.counts {
            let presence = if count > 0 { params.presence_penalty } else { 0.0 };
            change(logits, token, before, |logit| {
                // Less likely above 1, for either sign of the logit.
                let logit = if logit > 0.0 { logit / repeat } else { logit * repeat };
                logit - (count as f32 * params.frequency_penalty + presence)
            });
        }
    }
}

/// Undoes the changes of [`adjust`].
pub fn restore(logits: &mut [f32], before: &[(usize, f32)]) {
    // A token that was changed twice has its first logit first.
    for &(index, logit) in before.iter().rev() {
        logits[index] = logit;
    }
}

/// Changes a token's logit; nothing outside the vocabulary.
fn change(logits: &mut [f32], token: Token, before: &mut Vec<(usize, f32)>, change: impl FnOnce(f32) -> f32) {
    let Ok(index) = usize::try_from(token) else { return };
    if let Some(logit) = logits.get_mut(index) {
        before.push((index, *logit));
        *logit = change(*logit);
    }
}
