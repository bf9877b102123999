//! A caller's request of a model and its results: the vocabulary between the edge and the actors.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::output_formats::{Layout, Tool};
pub use crate::sampling::SamplingParams;
pub use crate::token::Token;

/// The input that the model is to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A chat; the worker renders it with the model's own chat template.
    Chat(ChatPrompt),
    /// Plain text, tokenized as it stands (with the model's BOS where the model wants one).
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<Token>),
    /// The texts around a gap that the model is to fill.
    Infill {
        /// The text before it.
        prefix: String,
        /// The text behind it.
        suffix: String,
    },
}

/// A chat to be continued.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatPrompt {
    /// Messages as OpenAI's wire objects (`role`, `content` as a string, `name`, …), already validated, in order.
    pub messages: Vec<serde_json::Value>,
    /// The tools that the model is shown, as OpenAI's wire objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<serde_json::Value>,
    /// Documents for retrieval, as transformers has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<serde_json::Value>,
    /// More variables of the template.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// The place at which the prompt ends.
    #[serde(default)]
    pub ending: PromptEnding,
}

/// The place at which a chat's prompt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptEnding {
    /// The beginning of the assistant's answer.
    #[default]
    Answer,
    /// The last message's end.
    Messages,
    /// The middle of the last message, which is to be continued.
    LastMessage,
}

impl From<Vec<serde_json::Value>> for ChatPrompt {
    fn from(messages: Vec<serde_json::Value>) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// A question about prompts.
#[derive(Clone, Debug, PartialEq)]
pub enum Inspect {
    /// The prompt of a chat, and where it is wanted its tokens.
    Chat {
        /// The chat.
        chat: ChatPrompt,
        /// `true` if the tokens are wanted.
        tokens: bool,
    },
    /// The tokens of a text.
    Text {
        /// The text.
        text: String,
        /// `true` if a BOS is put in front where the model wants one.
        add_special: bool,
    },
    /// The text of tokens.
    Tokens(Vec<Token>),
}

/// The answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// The bytes that each token stands for.
    pub pieces: Vec<Vec<u8>>,
}

/// The tools that an answer may call, and the guarantees that its caller wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolPlan {
    /// Those that can be called.
    pub callable: Vec<Callable>,
    /// `true` if the answer has to be a call.
    pub required: bool,
    /// `true` if it may be several.
    pub parallel: bool,
    /// `true` if calls are kept in their form even where none is required.
    pub guided: bool,
}

impl ToolPlan {
    /// The tools that an answer can call.
    #[must_use]
    pub fn tools(&self) -> Vec<Tool> {
        let tool = |tool: &Callable| Tool { name: tool.name.clone(), parameters: tool.parameters.clone() };
        self.callable.iter().map(tool).collect()
    }
}

/// A tool that can be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Callable {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its arguments.
    pub parameters: serde_json::Value,
    /// The part of it that is enforced while a call is kept in its form; all of it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<serde_json::Value>,
    /// `true` if arguments have to satisfy it wherever a call is kept in its form.
    pub strict: bool,
}

/// Constraint of an answer, as the caller gave it; a backend compiles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A JSON value that this JSON Schema, as JSON text, accepts.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole (Rust's syntax, without look-around).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's variant of Lark's notation.
    Lark(String),
    /// A text of this grammar, in llama.cpp's notation.
    Gbnf(String),
}

/// One generation: one prompt, one answer. `n` answers are `n` of these; their common parts are shared, also with the worker, and
/// the engine reads a shared prompt once.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// The HTTP request's id, for logs.
    pub request_id: String,
    /// The model's id or alias, as the caller named it; empty in a worker, which has one model.
    pub model: String,
    /// The user that fairness is counted for: the principal's id (until there are principals: the peer's address).
    pub user: String,
    /// The tenant that may share the computations for it: the user, or an anonymous caller's network.
    pub tenant: String,
    /// The key that keeps requests of one tenant apart (`prompt_cache_key`).
    pub cache_key: Option<String>,
    /// The input to continue.
    pub prompt: Arc<Prompt>,
    /// The way in which tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer and are not part of it.
    pub stop: Arc<[String]>,
    /// Maximum number of tokens to generate; `None`: to the end of the context. 0: only read the prompt. A backend may generate
    /// fewer where the context ends.
    pub max_tokens: Option<u32>,
    /// `true` if [`RawEvent::Accepted`] should carry the prompt as text (`echo`).
    pub want_prompt_text: bool,
    /// Log-probabilities: `Some(n)` for those of each token of the answer and of the `n` likeliest at its position.
    pub logprobs: Option<u32>,
    /// `true` if those of the prompt's tokens are wanted, too.
    pub score_prompt: bool,
    /// The constraint of the answer; `None` if it is free.
    pub constraint: Option<Arc<Constraint>>,
    /// The tools that it may call.
    pub tools: Option<Arc<ToolPlan>>,
    /// The maximum number of tokens of thinking; `None`: as many as the model likes.
    pub thinking_budget: Option<u32>,
}

/// A token that was or might have been chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its number.
    pub token: Token,
    /// Its own bytes, which are not always whole characters; empty for control tokens.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability as the model gave it, before any bias, penalty or filter.
    pub logprob: f32,
}

/// The log-probability of a token of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub chosen: Candidate,
    /// The likeliest tokens at its position, the likeliest first.
    pub top: Vec<Candidate>,
    /// The position in the answer's text at which it begins, in characters.
    pub text_offset: u64,
}

/// The log-probabilities of a prompt's tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptLogprobs {
    /// The bytes of the first token, which nothing came before.
    pub first: Vec<u8>,
    /// The other tokens.
    pub rest: Vec<TokenLogprob>,
}

/// The reason why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended by itself or a stop text appeared.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
}

/// Real token counts of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt as the model read it.
    pub prompt_tokens: u32,
    /// The number of those that came from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated (the end-of-generation token not counted).
    pub completion_tokens: u32,
    /// The number of those that were thinking.
    #[serde(default)]
    pub reasoning_tokens: u32,
}

/// An event of a generation as its worker reports it, its text as the model wrote it, in this order: `Accepted`, `Started`,
/// `PromptScored` if requested, any number of `Delta`, then one `Finished`; or one `Failed` at any point.
#[derive(Clone, Debug, PartialEq)]
pub enum RawEvent {
    /// The prompt is rendered, tokenized and fits; it may still wait in the queue.
    Accepted {
        /// Length of the prompt in tokens.
        prompt_tokens: u32,
        /// The prompt as text, where it was asked for.
        prompt_text: Option<Arc<str>>,
        /// The way in which the answer is to be read.
        layout: Layout,
    },
    /// The request left the queue and is being read.
    Started {
        /// Prompt tokens taken from the prefix cache.
        cached_tokens: u32,
    },
    /// The prompt was read: how likely its tokens were.
    PromptScored(PromptLogprobs),
    /// More of the answer: whole UTF-8 characters, never part of a stop text.
    Delta {
        /// The new text; can be empty.
        text: String,
        /// The tokens behind it.
        tokens: Vec<Token>,
        /// The log-probabilities of the tokens whose text has left with this delta, if requested. A stop text has none.
        logprobs: Vec<TokenLogprob>,
    },
    /// The end, with the token counts.
    Finished {
        /// The reason.
        reason: FinishReason,
        /// The tokens used.
        usage: TokenUsage,
    },
    /// The end, without an answer.
    Failed(GenerationError),
}

/// The reason why a generation could not be done. Each maps to one HTTP status at the edge.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GenerationError {
    /// No model of that id is configured (404 `model_not_found`).
    #[error("the model `{0}` does not exist")]
    ModelNotFound(String),
    /// Prompt and answer do not fit (400 `context_length_exceeded`).
    #[error("{}", context_length_message(*limit, *prompt_tokens, *requested))]
    ContextLengthExceeded {
        /// The model's context in tokens.
        limit: u32,
        /// The prompt's length in tokens.
        prompt_tokens: u32,
        /// `max_tokens`, or 1 where none was given.
        requested: u32,
    },
    /// A text whose embedding is wanted does not fit (400 `context_length_exceeded`).
    #[error("input {index} has {tokens} tokens or more, and the model accepts at most {limit}; split it")]
    InputTooLong {
        /// Its place in the request.
        index: u32,
        /// Maximum number of tokens.
        limit: u32,
        /// Its tokens, or a lower bound of them.
        tokens: u32,
    },
    /// The model cannot take this prompt, e.g. its template refuses it or a token is out of range (400).
    #[error("{message}")]
    InvalidPrompt {
        /// The defect and the remedy.
        message: String,
    },
    /// A sampling parameter does not fit this model, e.g. a `logit_bias` token out of range (400).
    #[error("{message}")]
    InvalidParameter {
        /// The field's name.
        param: &'static str,
        /// The defect and the remedy.
        message: String,
    },
    /// The answer's grammar is not well-formed (400).
    #[error("{message}")]
    MalformedConstraint {
        /// The field that has it; empty where that is not known yet.
        field: &'static str,
        /// The defect and its place.
        message: String,
    },
    /// The answer's schema or grammar cannot be enforced (400).
    #[error("{message}")]
    InvalidConstraint {
        /// The field that has it; empty where that is not known yet.
        field: &'static str,
        /// The defect and the remedy.
        message: String,
    },
    /// The answer's schema or grammar takes more work than one may, to compile it or in a step (400).
    #[error("{message}")]
    ConstraintTooExpensive {
        /// The field that has it; empty where that is not known yet.
        field: &'static str,
        /// The part that is too much.
        message: String,
    },
    /// The answer does not satisfy its schema (500).
    #[error("the answer does not satisfy its schema: {message}")]
    InvalidOutput {
        /// The place that does not satisfy the schema.
        message: String,
    },
    /// The queue is full (503, Retry-After).
    #[error(
        "the queue of model `{model}` is full ({limit} requests, shared fairly by all callers); try again later"
    )]
    QueueFull {
        /// The model's id.
        model: String,
        /// The queue's length.
        limit: usize,
        /// The time to wait before the next try.
        retry_after: Duration,
    },
    /// The request waited its longest (503, Retry-After).
    #[error("no capacity became available within {waited:?}; try again later")]
    QueueTimeout {
        /// The time that it waited.
        waited: Duration,
        /// The time to wait before the next try.
        retry_after: Duration,
    },
    /// The model is not loaded and could not be (503, Retry-After).
    #[error("the model `{model}` is unavailable: {reason}")]
    ModelUnavailable {
        /// The model's id.
        model: String,
        /// The reason, e.g. the defect of its file.
        reason: String,
        /// The time until the next try.
        retry_after: Duration,
    },
    /// The server that the model runs on failed within the answer, or sent what is none (502 `upstream_failed`).
    #[error("the model `{model}` failed: {reason}")]
    UpstreamFailed {
        /// The model's id.
        model: String,
        /// The reason.
        reason: String,
    },
    /// This request ended its worker twice (500 `engine_crashed`).
    #[error("the engine crashed twice while processing this request, so it was abandoned")]
    EngineCrashed,
    /// The server is stopping (503, Retry-After).
    #[error("the server is stopping")]
    ShuttingDown,
    /// A defect of the server (500).
    #[error("internal error: {0}")]
    Internal(String),
}

/// OpenAI's words, which clients match on.
fn context_length_message(limit: u32, prompt_tokens: u32, requested: u32) -> String {
    let length = format!("this model's maximum context length is {limit} tokens. However, ");
    if prompt_tokens >= limit {
        return format!(
            "{length}your messages resulted in {prompt_tokens} tokens. Please reduce the length of the messages."
        );
    }
    let all = prompt_tokens.saturating_add(requested);
    format!(
        "{length}you requested {all} tokens ({prompt_tokens} in the messages, {requested} in the completion). Please \
         reduce the length of the messages or completion."
    )
}

/// The state of a model: able to answer now or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStatus {
    /// A worker is starting or reading the file.
    Loading,
    /// Ready to answer.
    Ready,
    /// Some replicas are down.
    Degraded,
    /// Loading failed or the worker keeps dying; it is tried again later.
    Unhealthy,
}

/// Facts about a model's tokenizer and its chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// The text of the token that begins a text; empty if there is none.
    pub bos: String,
    /// The text of the token that ends an answer; empty if there is none.
    pub eos: String,
    /// The source of the chat template.
    pub chat_template: String,
}

/// A model as `GET /models` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelDescription {
    /// The id that callers use.
    pub id: String,
    /// The model behind it: differs from `id` for an alias.
    pub root: String,
    /// Unix seconds: the model file's modification time (process start for the embedded model).
    pub created: u64,
    /// The maker of the model.
    pub owned_by: String,
    /// Context in tokens, once loaded.
    pub context_length: Option<u32>,
    /// The state of the model.
    pub status: ModelStatus,
    /// The problem, if there is one.
    pub problem: Option<String>,
    /// The problem without paths, for those who do not administer the server.
    pub public_problem: Option<String>,
}
