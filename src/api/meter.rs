//! What one request costs of its caller's limits beyond being one: its tokens, and a stream while it lasts.

use jan_actors::identity::Principal;
use jan_actors::limits::{Limiter, StreamPermit};
use jan_actors::model::GenerationEvent;

use super::AppState;
use crate::http::{ApiError, RequestContext};

/// Counts the tokens of a request's answers and charges them when it is over, however it ends: who leaves early has
/// used the tokens so far.
#[derive(Debug)]
pub struct Meter {
    limiter: Limiter,
    principal: Principal,
    _stream: Option<StreamPermit>,
    answers_per_prompt: usize,
    prompt_tokens: u32,
    /// For each answer.
    completion_tokens: Vec<u32>,
}

impl Meter {
    /// For a request for `prompts` prompts with `answers_per_prompt` answers each.
    ///
    /// # Errors
    /// 429: the caller has as many streams as they may.
    pub fn start(
        state: &AppState,
        context: &RequestContext,
        stream: bool,
        prompts: usize,
        answers_per_prompt: usize,
    ) -> Result<Self, ApiError> {
        let principal = context.caller.principal;
        let permit = match stream {
            true => {
                Some(state.limiter.stream(&principal).map_err(|verdict| ApiError::rate_limited(&verdict))?)
            }
            false => None,
        };
        Ok(Self {
            limiter: state.limiter.clone(),
            principal,
            _stream: permit,
            answers_per_prompt,
            prompt_tokens: 0,
            completion_tokens: vec![0; prompts * answers_per_prompt],
        })
    }

    /// Takes note of what answer `index` says.
    pub fn observe(&mut self, index: usize, event: &GenerationEvent) {
        let completion = &mut self.completion_tokens[index];
        match event {
            // The answers to one prompt share it.
            GenerationEvent::Accepted { prompt_tokens, .. }
                if index.is_multiple_of(self.answers_per_prompt) =>
            {
                self.prompt_tokens = self.prompt_tokens.saturating_add(*prompt_tokens);
            }
            GenerationEvent::Delta { tokens, .. } => {
                *completion = completion.saturating_add(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
            }
            GenerationEvent::Finished { usage, .. } => *completion = usage.completion_tokens,
            _ => {}
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let answers = self.completion_tokens.iter().fold(0u32, |sum, tokens| sum.saturating_add(*tokens));
        self.limiter.charge_tokens(&self.principal, self.prompt_tokens.saturating_add(answers));
    }
}
