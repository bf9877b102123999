//! Wire types that chat and text completions share.

use jan_actors::model::{FinishReason, TokenUsage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The reason why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended by itself or a stop sequence appeared.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The model called tools.
    ToolCalls,
    /// The model called one of `functions`.
    FunctionCall,
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

impl Finish {
    /// Returns the reason for an answer that may have `called` tools, or with `old_form` functions. An answer that was cut off
    /// keeps its reason, even with calls.
    pub fn of(reason: FinishReason, called: bool, old_form: bool) -> Self {
        match reason {
            FinishReason::Stop if called && old_form => Self::FunctionCall,
            FinishReason::Stop if called => Self::ToolCalls,
            reason => reason.into(),
        }
    }
}

/// Exact token counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, or of all prompts; counted once regardless of the number of answers.
    pub prompt_tokens: u32,
    /// Tokens of all answers.
    pub completion_tokens: u32,
    /// The sum.
    pub total_tokens: u32,
    /// Details of the prompt tokens.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Details of the completion tokens.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Details of the prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens that came from the prefix cache.
    pub cached_tokens: u32,
    /// Always 0: models of this server accept only text.
    pub audio_tokens: u32,
}

/// Details of the completion tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Reasoning tokens.
    pub reasoning_tokens: u32,
    /// Audio tokens.
    pub audio_tokens: u32,
    /// Predicted tokens that appeared.
    pub accepted_prediction_tokens: u32,
    /// Predicted tokens that did not appear.
    pub rejected_prediction_tokens: u32,
}

/// Adds up the usage of a request's answers as they finish.
#[derive(Debug)]
pub struct UsageSum {
    /// For each prompt: its length and its cached part.
    prompts: Vec<Option<(u32, u32)>>,
    answers_per_prompt: usize,
    completion_tokens: u32,
    reasoning_tokens: u32,
}

impl UsageSum {
    /// Creates the sum for `prompts` prompts with `answers_per_prompt` answers each; answer `i` belongs to prompt `i /
    /// answers_per_prompt`.
    pub fn new(prompts: usize, answers_per_prompt: usize) -> Self {
        Self { prompts: vec![None; prompts], answers_per_prompt, completion_tokens: 0, reasoning_tokens: 0 }
    }

    /// Counts one finished answer.
    pub fn add(&mut self, index: usize, usage: TokenUsage) {
        let prompt = &mut self.prompts[index / self.answers_per_prompt];
        // One answer processes the prompt, and its siblings share it; the count with the fewest cached tokens is that
        // one's.
        let cached = prompt.map_or(usage.cached_tokens, |(_, cached)| cached.min(usage.cached_tokens));
        *prompt = Some((usage.prompt_tokens, cached));
        self.completion_tokens = self.completion_tokens.saturating_add(usage.completion_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(usage.reasoning_tokens);
    }

    /// Returns the sum so far.
    pub fn total(&self) -> Usage {
        let (mut prompt_tokens, mut cached_tokens) = (0u32, 0u32);
        for (prompt, cached) in self.prompts.iter().flatten() {
            prompt_tokens = prompt_tokens.saturating_add(*prompt);
            cached_tokens = cached_tokens.saturating_add(*cached);
        }
        Usage {
            prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: prompt_tokens.saturating_add(self.completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens, audio_tokens: 0 },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens: self.reasoning_tokens,
                ..CompletionTokensDetails::default()
            },
        }
    }
}

/// The common fields of all chunks of a response, or of the response.
#[derive(Clone, Debug)]
pub struct ResponseHeader {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: i64,
    /// The model as requested.
    pub model: String,
    /// Identifies the build and the model.
    pub system_fingerprint: String,
}

impl ResponseHeader {
    /// Creates the fields for one request, at the current time.
    pub fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: jiff::Timestamp::now().as_second(),
            model: model.to_owned(),
            system_fingerprint: fingerprint(model),
        }
    }
}

/// FNV-1a of the version and the model: unlike the standard library's hashes it is stable across releases.
fn fingerprint(model: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in env!("CARGO_PKG_VERSION").bytes().chain([0]).chain(model.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("fp_{:010x}", hash >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_count_once_and_answers_each() {
        let mut sum = UsageSum::new(2, 2);
        let usage = |prompt_tokens, cached_tokens, completion_tokens| TokenUsage {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            reasoning_tokens: 1,
        };
        sum.add(1, usage(10, 9, 1));
        sum.add(0, usage(10, 4, 2));
        sum.add(2, usage(20, 0, 3));
        sum.add(3, usage(20, 19, 4));
        let total = sum.total();
        assert_eq!((total.prompt_tokens, total.completion_tokens, total.total_tokens), (30, 10, 40));
        assert_eq!(total.prompt_tokens_details.cached_tokens, 4);
        assert_eq!(total.completion_tokens_details.reasoning_tokens, 4);
    }

    #[test]
    fn fingerprints_tell_models_apart() {
        assert_eq!(fingerprint("a"), fingerprint("a"));
        assert_ne!(fingerprint("a"), fingerprint("b"));
        assert_eq!(fingerprint("a").len(), 13);
    }
}
