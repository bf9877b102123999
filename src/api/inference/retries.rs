//! Further tries for answers that do not satisfy the part of their schema that is not enforced during generation.

use std::collections::VecDeque;

use jan_actors::model::{GenerationRequest, TokenUsage};

use super::choices::ChoiceEvent;
use super::params::choice_seed;

/// Temperature of further tries of answers that were asked for at 0, where a repetition would be the same.
const TEMPERATURE: f32 = 0.7;

/// Answers that are held back until they have passed their checks, and what another try of each needs.
#[derive(Debug)]
pub struct Retries {
    requests: Vec<GenerationRequest>,
    /// The number of tries that each answer may still have.
    left: Vec<u32>,
    made: Vec<u32>,
    /// Tokens of the tries that failed.
    spent: Vec<TokenUsage>,
    held: Vec<VecDeque<ChoiceEvent>>,
}

impl Retries {
    /// Allows `retries` further tries of each answer.
    pub fn new(requests: Vec<GenerationRequest>, retries: u32) -> Self {
        let count = requests.len();
        Self {
            requests,
            left: vec![retries; count],
            made: vec![0; count],
            spent: vec![TokenUsage::default(); count],
            held: std::iter::repeat_with(VecDeque::new).take(count).collect(),
        }
    }

    /// Holds an event back.
    pub fn hold(&mut self, index: usize, event: ChoiceEvent) {
        self.held[index].push_back(event);
    }

    /// Returns the text of an answer so far.
    pub fn text(&self, index: usize) -> String {
        let texts = self.held[index].iter().filter_map(|event| match event {
            ChoiceEvent::Text(text, _) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// Returns the events of an answer that passed, and its usage with that of the failed tries.
    pub fn release(&mut self, index: usize, usage: TokenUsage) -> (VecDeque<ChoiceEvent>, TokenUsage) {
        let spent = self.spent[index];
        let usage = TokenUsage {
            completion_tokens: usage.completion_tokens.saturating_add(spent.completion_tokens),
            reasoning_tokens: usage.reasoning_tokens.saturating_add(spent.reasoning_tokens),
            ..usage
        };
        (std::mem::take(&mut self.held[index]), usage)
    }

    /// Forgets an answer that failed and returns the request for its next try; `None` if there is none.
    pub fn next(&mut self, index: usize, usage: TokenUsage) -> Option<GenerationRequest> {
        self.left[index] = self.left[index].checked_sub(1)?;
        self.held[index].clear();
        let spent = &mut self.spent[index];
        spent.completion_tokens = spent.completion_tokens.saturating_add(usage.completion_tokens);
        spent.reasoning_tokens = spent.reasoning_tokens.saturating_add(usage.reasoning_tokens);
        self.made[index] += 1;
        let mut request = self.requests[index].clone();
        let sampling = &mut request.sampling;
        sampling.seed = choice_seed(sampling.seed, u32::MAX - self.made[index]);
        if sampling.temperature <= 0.0 {
            sampling.temperature = TEMPERATURE;
        }
        Some(request)
    }
}
