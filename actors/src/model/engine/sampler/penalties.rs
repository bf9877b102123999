//! What changes logits before any of them is judged: `logit_bias` and the penalties.

use std::collections::HashMap;

use crate::model::types::{SamplingParams, Token};

/// A `logit_bias` at or below this bans its token outright.
const BAN: f32 = -100.0;

/// How often each token has been generated, 0 where only the prompt has it: what the penalties look at.
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

    /// How often `token` was generated.
    pub fn count(&self, token: Token) -> u32 {
        self.counts.get(&token).copied().unwrap_or(0)
    }

    /// Whether nothing was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl FromIterator<Token> for TokenCounts {
    fn from_iter<I: IntoIterator<Item = Token>>(tokens: I) -> Self {
        let mut counts = Self::default();
        tokens.into_iter().for_each(|token| counts.record(token));
        counts
    }
}

/// The logits after bias and penalties: `logits` itself where there are none, else a changed copy in `buffer`.
pub fn adjust<'a>(
    logits: &'a [f32],
    params: &SamplingParams,
    seen: &TokenCounts,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    // Out of range, which NaN is too, it is off.
    let repeat = if params.repeat_penalty > 0.0 { params.repeat_penalty } else { 1.0 };
    let penalties = [repeat - 1.0, params.frequency_penalty, params.presence_penalty];
    let penalised = penalties.iter().any(|penalty| *penalty != 0.0) && !seen.is_empty();
    if params.logit_bias.is_empty() && !penalised {
        return logits;
    }
    buffer.clear();
    buffer.extend_from_slice(logits);
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = of(buffer, token) {
            *logit += if bias <= BAN { f32::NEG_INFINITY } else { bias };
        }
    }
    if penalised {
        for (&token, &count) in &seen.counts {
            let Some(logit) = of(buffer, token) else { continue };
            // Less likely above 1, whatever the logit's sign.
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            let presence = if count > 0 { params.presence_penalty } else { 0.0 };
            *logit -= count as f32 * params.frequency_penalty + presence;
        }
    }
    buffer
}

/// The token's logit; `None` outside the vocabulary.
fn of(logits: &mut [f32], token: Token) -> Option<&mut f32> {
    usize::try_from(token).ok().and_then(|index| logits.get_mut(index))
}
