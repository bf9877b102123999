//! Log-probabilities of chosen tokens and of the likeliest ones.
//!
//! They are the model's own, from its logits under plain softmax: no bias, penalty, temperature or filter. So the
//! most probable token need not be the chosen one, as in vLLM's `raw_logprobs`.

use jan_protocol::report::{PlacedLogprob, PromptScores};
use jan_protocol::types::{Candidate, Token};

use super::sampler::log_total;
use super::text_assembler::TextAssembler;

/// A prompt's log-probabilities while it is read.
#[derive(Debug)]
pub struct PromptScorer {
    scores: PromptScores,
    text: TextAssembler,
}

impl PromptScorer {
    /// Creates the scorer of a prompt that begins with a token of these bytes.
    pub fn new(first: Vec<u8>) -> Self {
        let mut text = TextAssembler::new::<&str>(&[]);
        let _ = text.push(&first);
        Self { scores: PromptScores { first, rest: Vec::new() }, text }
    }

    /// Returns the number of scored tokens, the first included.
    pub fn scored(&self) -> usize {
        1 + self.scores.rest.len()
    }

    /// Takes [`at_position`]'s result for the next token.
    pub fn push(&mut self, (chosen, top): (Candidate, Vec<Candidate>)) {
        let (text_start, text_offset) = (self.text.end() as u64, self.text.characters() as u64);
        let _ = self.text.push(&chosen.bytes);
        let text_end = self.text.end() as u64;
        self.scores.rest.push(PlacedLogprob { chosen, top, text_start, text_end, text_offset });
    }

    /// Returns all scores.
    pub fn finish(self) -> PromptScores {
        self.scores
    }
}

/// The log-probabilities at one position: of `chosen`, and of the `top` likeliest tokens with the likeliest first
/// (the lowest number first among equals). `piece` gives a token's bytes.
///
/// Tokens whose logit is NaN are never among the likeliest; the probability of such a one, or of one outside the
/// vocabulary, is 0 and its logarithm [`f32::MIN`], since JSON has no infinity.
pub fn at_position(
    logits: &[f32],
    chosen: Token,
    top: usize,
    piece: impl Fn(Token) -> Vec<u8>,
) -> (Candidate, Vec<Candidate>) {
    let total = log_total(logits);
    let candidate = |token: Token| {
        let logit = usize::try_from(token).ok().and_then(|index| logits.get(index)).copied();
        let logprob = logit.map_or(f64::NEG_INFINITY, |logit| f64::from(logit) - total);
        let logprob = if logprob.is_nan() { f32::MIN } else { (logprob as f32).clamp(f32::MIN, 0.0) };
        Candidate { token, bytes: piece(token), logprob }
    };
    (candidate(chosen), likeliest(logits, top).into_iter().map(candidate).collect())
}

/// The `count` tokens with the largest logits. One pass with a short sorted list: `count` is at most 20.
fn likeliest(logits: &[f32], count: usize) -> Vec<Token> {
    let mut best: Vec<(f32, Token)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0..).zip(logits) {
        if count == 0 || logit.is_nan() || (best.len() == count && best[count - 1].0 >= logit) {
            continue;
        }
        let place = best.partition_point(|&(other, _)| other >= logit);
        best.insert(place, (logit, token));
        best.truncate(count);
    }
    best.into_iter().map(|(_, token)| token).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// They equal the result of sorting everything, and all probabilities together are 1.
        #[test]
        fn are_the_likeliest_in_order(logits in prop::collection::vec(-30.0f32..30.0, 1..200), top in 0usize..21, chosen in 0i32..220) {
            let (candidate, best) = at_position(&logits, chosen, top, |token| token.to_le_bytes().to_vec());
            let (_, all) = at_position(&logits, chosen, logits.len(), |token| token.to_le_bytes().to_vec());
            // By their logits: two that differ in the last bit can have one log-probability.
            let mut sorted: Vec<Token> = (0..).take(logits.len()).collect();
            sorted.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap().then(a.cmp(&b)));
            prop_assert_eq!(all.iter().map(|candidate| candidate.token).collect::<Vec<_>>(), sorted);
            prop_assert!(all.is_sorted_by(|a, b| a.logprob >= b.logprob));
            prop_assert_eq!(&all[..top.min(all.len())], &best[..]);
            let sum: f64 = all.iter().map(|c| f64::from(c.logprob).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
            let same = all.iter().find(|c| c.token == chosen);
            match same {
                Some(same) => prop_assert_eq!(same, &candidate),
                None => prop_assert_eq!(candidate.logprob, f32::MIN),
            }
        }

        /// The numbers can be written as JSON for all logits of a model.
        #[test]
        fn are_finite(logits in prop::collection::vec(any::<f32>(), 0..50), top in 0usize..21) {
            let (candidate, best) = at_position(&logits, 3, top, |_| Vec::new());
            for candidate in best.iter().chain([&candidate]) {
                prop_assert!(candidate.logprob.is_finite() && candidate.logprob <= 0.0, "{:?}", candidate);
            }
        }
    }
}
