//! Wire types that chat and text completions share.

use jan_actors::model::{FinishReason, TokenUsage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::UsageChunks;

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

/// Adds up the usage of a request's answers.
#[derive(Debug)]
pub struct UsageSum {
    /// For each prompt: its length and its cached part.
    prompts: Vec<Option<(u32, u32)>>,
    answers_per_prompt: usize,
    /// For each answer: its tokens, and those of its reasoning.
    answers: Vec<(u32, u32)>,
}

impl UsageSum {
    /// Creates the sum for `prompts` prompts with `answers_per_prompt` answers each; answer `i` belongs to prompt `i /
    /// answers_per_prompt`.
    pub fn new(prompts: usize, answers_per_prompt: usize) -> Self {
        let answers = vec![(0, 0); prompts * answers_per_prompt];
        Self { prompts: vec![None; prompts], answers_per_prompt, answers }
    }

    /// Sets the usage of one answer, which replaces an earlier one of it.
    pub fn set(&mut self, index: usize, usage: TokenUsage) {
        let prompt = &mut self.prompts[index / self.answers_per_prompt];
        // One answer processes the prompt, and its siblings share it; the count with the fewest cached tokens is that
        // one's.
        let cached = prompt.map_or(usage.cached_tokens, |(_, cached)| cached.min(usage.cached_tokens));
        *prompt = Some((usage.prompt_tokens, cached));
        self.answers[index] = (usage.completion_tokens, usage.reasoning_tokens);
    }

    /// Returns the sum so far.
    pub fn total(&self) -> Usage {
        let (mut prompt_tokens, mut cached_tokens) = (0u32, 0u32);
        for (prompt, cached) in self.prompts.iter().flatten() {
            prompt_tokens = prompt_tokens.saturating_add(*prompt);
            cached_tokens = cached_tokens.saturating_add(*cached);
        }
        let (mut completion_tokens, mut reasoning_tokens) = (0u32, 0u32);
        for (completion, reasoning) in &self.answers {
            completion_tokens = completion_tokens.saturating_add(*completion);
            reasoning_tokens = reasoning_tokens.saturating_add(*reasoning);
        }
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens, audio_tokens: 0 },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens,
                ..CompletionTokensDetails::default()
            },
        }
    }
}

/// The usage in the chunks of a stream.
#[derive(Debug)]
pub struct StreamedUsage {
    chunks: UsageChunks,
    sum: UsageSum,
}

impl StreamedUsage {
    /// Creates the usage of a stream whose answers are those of `sum`.
    pub const fn new(chunks: UsageChunks, sum: UsageSum) -> Self {
        Self { chunks, sum }
    }

    /// Takes the usage of all answers so far.
    pub fn so_far(&mut self, answers: &[TokenUsage]) {
        if self.chunks.all {
            for (index, usage) in answers.iter().enumerate() {
                self.sum.set(index, *usage);
            }
        }
    }

    /// Takes the usage of a finished answer.
    pub fn finished(&mut self, index: usize, usage: TokenUsage) {
        self.sum.set(index, usage);
    }

    /// Returns the field of a chunk with a choice: absent, null or the usage so far.
    pub fn of_chunk(&self) -> Option<Option<Usage>> {
        let usage = self.chunks.all.then(|| self.sum.total());
        (self.chunks.all || self.chunks.last).then_some(usage)
    }

    /// Returns the field of one more chunk at the end, if that is requested.
    pub fn of_last(&self) -> Option<Option<Usage>> {
        self.chunks.last.then(|| Some(self.sum.total()))
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
    use proptest::prelude::*;

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
        sum.set(1, usage(10, 9, 1));
        sum.set(0, usage(10, 4, 2));
        sum.set(2, usage(20, 0, 3));
        sum.set(3, usage(20, 19, 4));
        let total = sum.total();
        assert_eq!((total.prompt_tokens, total.completion_tokens, total.total_tokens), (30, 10, 40));
        assert_eq!(total.prompt_tokens_details.cached_tokens, 4);
        assert_eq!(total.completion_tokens_details.reasoning_tokens, 4);
    }

    proptest! {
        /// The reported usage never falls, and ends at that of the finished answers.
        #[test]
        fn usage_so_far_grows_to_the_total(
            prompts in 1usize..3, per_prompt in 1usize..3, steps in prop::collection::vec((0usize..9, 0u32..4), 0..20),
        ) {
            let chunks = UsageChunks { last: true, all: true };
            let mut streamed = StreamedUsage::new(chunks, UsageSum::new(prompts, per_prompt));
            let count = prompts * per_prompt;
            let begun = |index: usize| TokenUsage {
                prompt_tokens: 5, cached_tokens: index as u32, completion_tokens: 0, reasoning_tokens: 0,
            };
            let mut answers: Vec<TokenUsage> = (0..count).map(begun).collect();
            let mut before = 0;
            for (index, tokens) in steps {
                answers[index % count].completion_tokens += tokens;
                streamed.so_far(&answers);
                let total = streamed.of_chunk().flatten().unwrap().total_tokens;
                prop_assert!(total >= before && total >= 5 * prompts as u32);
                before = total;
            }
            let mut sum = UsageSum::new(prompts, per_prompt);
            for (index, usage) in answers.iter().enumerate() {
                streamed.finished(index, *usage);
                sum.set(index, *usage);
            }
            prop_assert_eq!(streamed.of_last(), Some(Some(sum.total())));
            prop_assert_eq!(streamed.of_chunk(), streamed.of_last());
        }
    }

    #[test]
    fn chunks_report_the_usage_as_requested() {
        let of = |last, all| {
            let mut streamed = StreamedUsage::new(UsageChunks { last, all }, UsageSum::new(1, 1));
            streamed.so_far(&[TokenUsage {
                prompt_tokens: 3,
                completion_tokens: 1,
                ..TokenUsage::default()
            }]);
            let tokens =
                |field: Option<Option<Usage>>| field.map(|usage| usage.map(|usage| usage.total_tokens));
            (tokens(streamed.of_chunk()), tokens(streamed.of_last()))
        };
        assert_eq!(of(false, false), (None, None));
        assert_eq!(of(true, false), (Some(None), Some(Some(0))));
        assert_eq!(of(false, true), (Some(Some(4)), None));
        assert_eq!(of(true, true), (Some(Some(4)), Some(Some(4))));
    }

    #[test]
    fn fingerprints_tell_models_apart() {
        assert_eq!(fingerprint("a"), fingerprint("a"));
        assert_ne!(fingerprint("a"), fingerprint("b"));
        assert_eq!(fingerprint("a").len(), 13);
    }
}
