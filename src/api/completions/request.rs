//! `POST /completions`: the request and its checks.
//!
//! Source: `CreateCompletionRequest` in OpenAI's API description.

use std::sync::Arc;

use jan_actors::model::{Constraint, GenerationRequest, Prompt, SamplingParams};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::inference::fields::inference_request;
use crate::api::inference::params::{
    self, Metadata, Stop, StopShape, StreamOptions, UsageChunks, choice_seed,
};
use crate::api::inference::prompt::{PromptShape, Prompts};
use crate::api::inference::structured_output::Structured;
use crate::http::json::Unsupported;
use crate::http::{ApiError, RequestContext};

/// Maximum number of answers to one request, over all its prompts.
const MAX_ANSWERS: usize = 1024;
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Fields that have no counterpart here.
pub static UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("prompt_logprobs", &[]),
    Unsupported::misplaced("max_completion_tokens", "'max_tokens'"),
    Unsupported::misplaced("max_output_tokens", "'max_tokens'"),
    Unsupported::misplaced("messages", "'prompt', or POST /chat/completions"),
    Unsupported::misplaced("input", "'prompt'"),
    Unsupported::misplaced("instructions", "'prompt', or POST /chat/completions"),
    Unsupported::misplaced("tools", "POST /chat/completions"),
];

inference_request! { completion:
    /// A text completion request.
    #[derive(Debug, Deserialize, ToSchema)]
    #[schema(example = json!({"model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50}))]
    pub struct CompletionRequest {
        /// A model's id or alias, see `GET /models`.
        pub model: String,
        /// A text, up to 128 texts, an array of tokens or up to 128 of those.
        #[schema(value_type = PromptShape)]
        pub prompt: Prompts,
        /// Maximum number of tokens of each answer; -1: the rest of the context. More than that is cut to it
        /// (`engine.max_tokens_overflow`).
        #[schema(minimum = -1, default = 16)]
        pub max_tokens: Option<i64>,
        /// Another name of `max_tokens`, as in llama-server.
        #[schema(minimum = -1)]
        pub n_predict: Option<i64>,
        /// Prepend the prompt to each answer.
        #[schema(default = false)]
        pub echo: Option<bool>,
        /// The number of answers to each prompt.
        #[schema(minimum = 1, maximum = 128, default = 1)]
        pub n: Option<i64>,
        /// The number of answers to generate per prompt; the `n` with the highest mean log-probability are
        /// returned, best first. All of them are counted in `usage`. More than `n` cannot be streamed.
        #[schema(minimum = 1, maximum = 128)]
        pub best_of: Option<i64>,
        /// The text after the answer: the model fills the gap. For models trained for infilling, and a single
        /// text as prompt.
        pub suffix: Option<String>,
        /// Up to four texts that end the answer and are not part of it.
        #[schema(value_type = Option<StopShape>)]
        pub stop: Option<Stop>,
        /// Send the answers as server-sent events while they are generated.
        #[schema(default = false)]
        pub stream: Option<bool>,
        /// Only with `stream`.
        pub stream_options: Option<StreamOptions>,
        /// Return the log-probabilities of the answer's tokens, and of this many most likely tokens at each
        /// position. With `echo` also those of the prompt; `max_tokens` may be 0.
        #[serde(default, deserialize_with = "params::number_or_false")]
        #[schema(minimum = 0, maximum = 5)]
        pub logprobs: Option<i64>,
        /// The caller's id for its user; has no effect.
        pub user: Option<String>,
        /// Prefixes are always cached; those of requests with different keys are not shared.
        pub prompt_cache_key: Option<String>,
        /// Up to 16 pairs of custom metadata; have no effect.
        pub metadata: Option<Metadata>,
    }
}

/// A request that has passed all checks.
#[derive(Debug)]
pub struct Checked {
    /// The model's id or alias.
    pub model: String,
    /// The prompts to continue.
    pub prompts: Vec<Prompt>,
    /// The sampling parameters.
    pub sampling: SamplingParams,
    /// The stop sequences.
    pub stop: Arc<[String]>,
    /// Maximum number of tokens of an answer; `None` for the rest of the context.
    pub max_tokens: Option<u32>,
    /// The field that `max_tokens` comes from.
    pub length_field: &'static str,
    /// The number of answers to return for each prompt.
    pub n: u32,
    /// The number of answers to generate for each prompt.
    pub best_of: u32,
    /// Set if answers begin with their prompts.
    pub echo: bool,
    /// Set if answers are sent as events.
    pub stream: bool,
    /// The chunks that report the usage.
    pub usage_chunks: UsageChunks,
    /// The number of most likely tokens to return with log-probabilities; `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// The constraint on the answers; `None` for free text.
    pub structured: Option<Structured>,
    /// The key that keeps the prefixes of requests apart.
    pub cache_key: Option<String>,
}

impl CompletionRequest {
    /// # Errors
    /// 400 that names the invalid field.
    pub fn check(mut self) -> Result<Checked, ApiError> {
        params::model(&self.model)?;
        let names = [("max_tokens", self.max_tokens), ("n_predict", self.n_predict)];
        let given = params::one_length(names, 0)?;
        let (length_field, max_tokens) = given.unwrap_or(("max_tokens", Some(DEFAULT_MAX_TOKENS)));
        let n = params::choice_count(self.n)?;
        let sampling = self.sampling()?;
        let echo = self.echo.unwrap_or(false);
        let logprobs = params::completion_logprobs(self.logprobs)?;
        let stop = params::stops(self.stop.take())?;
        let stream = self.stream.unwrap_or(false);
        let usage_chunks = params::usage_chunks(stream, self.stream_options)?;
        params::descriptive(self.metadata.as_ref(), None)?;
        params::labels(self.user.as_deref(), self.prompt_cache_key.as_deref())?;
        let best_of = best_of(self.best_of, n, stream)?;
        let structured = self.take_constraint()?;
        let prompts = match self.suffix.filter(|suffix| !suffix.is_empty()) {
            Some(suffix) => filling(self.prompt.0, &suffix, echo)?,
            None => self.prompt.0,
        };
        if prompts.len() * best_of as usize > MAX_ANSWERS {
            let field = if best_of > n { "best_of" } else { "n" };
            return Err(ApiError::invalid_value(
                field,
                format!(
                    "Invalid '{field}': {best_of} answers to each of {} prompts exceed {MAX_ANSWERS}, the maximum of one request.",
                    prompts.len()
                ),
            ));
        }
        Ok(Checked {
            model: self.model,
            prompts,
            sampling,
            stop,
            max_tokens,
            length_field,
            n,
            best_of,
            echo,
            stream,
            usage_chunks,
            logprobs,
            structured,
            cache_key: self.prompt_cache_key,
        })
    }
}

/// Checks `best_of`. The best answers are known only after all have ended, so more than `n` cannot be streamed.
fn best_of(best_of: Option<i64>, n: u32, stream: bool) -> Result<u32, ApiError> {
    let best_of = params::best_of(best_of)?.unwrap_or(n);
    if best_of < n {
        let message =
            format!("Invalid 'best_of': expected {n} or more, as many as 'n' asks for, got {best_of}.");
        return Err(ApiError::invalid_value("best_of", message));
    }
    if stream && best_of > n {
        let message =
            "Invalid 'best_of': more answers than 'n' cannot be streamed; omit 'best_of' or 'stream'.";
        return Err(ApiError::invalid_value("best_of", message));
    }
    Ok(best_of)
}

/// Returns the prompts with the text after the gap.
fn filling(prompts: Vec<Prompt>, suffix: &str, echo: bool) -> Result<Vec<Prompt>, ApiError> {
    if echo {
        let message = "Invalid 'echo': an answer between 'prompt' and 'suffix' cannot start with its prompt; omit 'echo' or 'suffix'.";
        return Err(ApiError::invalid_value("echo", message));
    }
    let fill = |prompt| match prompt {
        Prompt::Text(prefix) => Ok(Prompt::Infill { prefix, suffix: suffix.to_owned() }),
        _ => Err(ApiError::invalid_value(
            "suffix",
            "Invalid 'suffix': it requires a text as 'prompt', not tokens.",
        )),
    };
    prompts.into_iter().map(fill).collect()
}

/// Returns the generation requests: `best_of` for each prompt.
pub fn generation_requests(
    checked: Checked,
    constraint: Option<&Arc<Constraint>>,
    context: &RequestContext,
) -> Vec<GenerationRequest> {
    let mut requests = Vec::with_capacity(checked.prompts.len() * checked.best_of as usize);
    // Log-probabilities are needed to select the best.
    let logprobs = if checked.best_of > checked.n { checked.logprobs.or(Some(0)) } else { checked.logprobs };
    for prompt in checked.prompts {
        let request = GenerationRequest {
            request_id: context.id.as_str().to_owned(),
            model: checked.model.clone(),
            user: context.fairness_key(),
            tenant: context.tenant(),
            cache_key: checked.cache_key.clone(),
            prompt: Arc::new(prompt),
            sampling: checked.sampling.clone(),
            stop: checked.stop.clone(),
            max_tokens: checked.max_tokens,
            want_prompt_text: checked.echo,
            logprobs,
            score_prompt: checked.echo && checked.logprobs.is_some(),
            constraint: constraint.cloned(),
            tools: None,
            thinking_budget: None,
        };
        for index in 0..checked.best_of {
            let mut request = request.clone();
            request.sampling.seed = choice_seed(checked.sampling.seed, index);
            requests.push(request);
        }
    }
    requests
}
