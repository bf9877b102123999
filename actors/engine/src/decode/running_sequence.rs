//! One sequence while it is generated: from logits to the next token, its text and its events.

use jan_protocol::report::{PlacedLogprob, SequenceEvent};
use jan_protocol::types::{FinishReason, Token};

use super::constraint::GuideError;
use super::drafting::Drafter;
use super::logprobs;
use super::logprobs::PromptScorer;
use super::phases::Flow;
use super::sampler::{self, Scratch, TokenCounts};
use super::text_assembler::TextAssembler;
use crate::llama::Model;
use crate::scheduler::Outcome;
use crate::types::Sequence;

/// A sequence's own state beside the scheduler's.
#[derive(Debug)]
pub struct Running {
    /// The requested sequence.
    pub sequence: Sequence,
    /// The tokens that it has so far, for penalties.
    pub counts: TokenCounts,
    /// Its text.
    pub text: TextAssembler,
    /// Tokens so far.
    pub generated: u32,
    /// `true` if its start was reported.
    pub started: bool,
    /// The known part of its prompt's scores so far, if they are wanted.
    pub scorer: Option<PromptScorer>,
    /// The source of its drafts, if it gets any.
    pub drafter: Option<Box<Drafter>>,
}

/// The end of an answer, with the text that was held back. A stop text that is certain only now counts.
pub fn text_end(text: &mut TextAssembler, reason: FinishReason) -> SequenceEvent {
    let last = text.finish();
    let reason = if last.stopped { FinishReason::Stop } else { reason };
    SequenceEvent::Finished { reason, text: last.text, stop_text: last.stopped, reasoning_tokens: 0 }
}

/// Returns the same end of an answer that thought.
pub fn having_thought(mut end: SequenceEvent, tokens: u32) -> SequenceEvent {
    if let SequenceEvent::Finished { reasoning_tokens, .. } = &mut end {
        *reasoning_tokens = tokens;
    }
    end
}

/// The end by a stop text that is complete.
pub fn stopped_by_text() -> SequenceEvent {
    SequenceEvent::Finished {
        reason: FinishReason::Stop,
        text: String::new(),
        stop_text: true,
        reasoning_tokens: 0,
    }
}

/// Buffers of [`Running::next`].
#[derive(Debug, Default)]
pub struct Buffers {
    sampler: Scratch,
    /// The logits without the tokens that would leave a constraint.
    restricted: Vec<f32>,
}

impl Running {
    /// Notes how likely the prompt token behind `position` was. A prompt that is read once more adds nothing.
    pub fn score(&mut self, model: &Model, position: usize, logits: &[f32]) {
        let Some(scorer) = self.scorer.as_mut().filter(|scorer| scorer.scored() == position + 1) else {
            return;
        };
        let Some(&next) = self.sequence.prompt.get(position + 1) else { return };
        let top = self.sequence.logprobs.unwrap_or(0) as usize;
        scorer.push(logprobs::at_position(logits, next, top, |token| model.piece(token)));
    }

    /// Chooses the next token from these logits, and with it those that a constraint then forces.
    pub fn next(
        &mut self,
        model: &Model,
        logits: &mut [f32],
        buffers: &mut Buffers,
        events: &mut Vec<(u64, SequenceEvent)>,
    ) -> Result<Outcome, GuideError> {
        if self.generated >= self.sequence.max_tokens {
            // Its prompt was read for its own sake.
            events.push((self.sequence.id, text_end(&mut self.text, FinishReason::Length)));
            return Ok(Outcome::Finished);
        }
        let Some(mut flow) = self.sequence.flow.take() else {
            let token = self.sample(logits, &mut buffers.sampler);
            self.text.watch(self.stops_count());
            return Ok(match self.accept(model, token, logits, events) {
                Some(token) => Outcome::Continue(token),
                None => Outcome::Finished,
            });
        };
        let outcome = self.next_in(&mut flow, model, logits, buffers, events);
        self.sequence.flow = Some(flow);
        outcome
    }

    /// The same where something is to be minded.
    fn next_in(
        &mut self,
        flow: &mut Flow,
        model: &Model,
        logits: &mut [f32],
        buffers: &mut Buffers,
        events: &mut Vec<(u64, SequenceEvent)>,
    ) -> Result<Outcome, GuideError> {
        let mut tokens = Vec::new();
        let mut forced = flow.forced();
        if forced.is_empty() {
            let chosen = if flow.restrict(logits, &mut buffers.restricted)? {
                self.sample(&mut buffers.restricted, &mut buffers.sampler)
            } else {
                self.sample(logits, &mut buffers.sampler)
            };
            forced.extend(chosen.filter(|&token| !model.is_end_of_generation(token)));
            if forced.is_empty() && flow.refuse_end() {
                forced = flow.forced();
            }
            if forced.is_empty() {
                self.accept(model, None, logits, events);
                return Ok(Outcome::Finished);
            }
        }
        // If log-probabilities are wanted, every token needs logits of its own.
        let most = if self.sequence.logprobs.is_some() { 1 } else { usize::MAX };
        while let Some(&token) = forced.first() {
            for token in std::mem::take(&mut forced) {
                if tokens.len() == most {
                    break;
                }
                // The flow first: an answer that ends with this token has had it.
                let counted = flow.accept_counting(token, &self.sequence.piece(model, token))?;
                self.text.watch(counted && self.stops_count());
                let Some(token) = self.accept(model, Some(token), logits, events) else {
                    return Ok(Outcome::Finished);
                };
                tokens.push(token);
            }
            if flow.is_complete() {
                events.push((self.sequence.id, text_end(&mut self.text, FinishReason::Stop)));
                return Ok(Outcome::Finished);
            }
            if tokens.len() < most {
                forced = flow.forced();
            }
            debug_assert!(tokens.contains(&token), "each round takes a token");
        }
        Ok(match tokens[..] {
            [token] => Outcome::Continue(token),
            _ => Outcome::Several(tokens),
        })
    }

    /// Returns `true` if stop texts count in the next token.
    const fn stops_count(&self) -> bool {
        self.generated >= self.sequence.sampling.min_tokens
    }

    fn sample(&self, logits: &mut [f32], scratch: &mut Scratch) -> Option<Token> {
        let (sampling, position) = (&self.sequence.sampling, u64::from(self.generated));
        let may_end = !sampling.ignore_eos && self.generated >= sampling.min_tokens;
        let params = match &self.sequence.sampling_before_end {
            Some(params) if !may_end => params,
            _ => sampling,
        };
        sampler::sample(logits, params, &self.counts, position, scratch)
    }

    /// Takes the token chosen at these logits; without one that may be chosen (all banned) the answer ends. `None`
    /// when the sequence has ended.
    fn accept(
        &mut self,
        model: &Model,
        token: Option<Token>,
        logits: &[f32],
        events: &mut Vec<(u64, SequenceEvent)>,
    ) -> Option<Token> {
        let id = self.sequence.id;
        let Some(token) = token.filter(|&token| !model.is_end_of_generation(token)) else {
            events.push((id, text_end(&mut self.text, FinishReason::Stop)));
            return None;
        };
        self.generated += 1;
        self.counts.record(token);
        let (text_start, text_offset) = (self.text.end() as u64, self.text.characters() as u64);
        let push = self.text.push(&self.sequence.piece(model, token));
        let logprobs = self.sequence.logprobs.map(|top| {
            let (chosen, top) =
                logprobs::at_position(logits, token, top as usize, |token| model.piece(token));
            // A piece that completes a stop text leaves, if at all, only when it is known how much of it is cut off.
            let text_end = if push.stopped { u64::MAX } else { self.text.end() as u64 };
            PlacedLogprob { chosen, top, text_start, text_end, text_offset }
        });
        let logprobs = Vec::from_iter(logprobs);
        events.push((id, SequenceEvent::Output { tokens: vec![token], text: push.text, logprobs }));
        if push.stopped {
            events.push((id, stopped_by_text()));
            None
        } else if self.generated >= self.sequence.max_tokens {
            events.push((id, text_end(&mut self.text, FinishReason::Length)));
            None
        } else {
            Some(token)
        }
    }
}
