//! The seam between the server and its generators: a [`Backend`] answers for one replica of a model.
//!
//! The llama.cpp worker ([`llama_worker`](super::llama_worker)) is one, other servers ([`upstream`](super::upstream)) are another. Only
//! parsed output crosses the seam: content, reasoning, calls and their arguments. No raw text of a model, no format of one, no message of a
//! worker protocol and no path of a file does.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt};
use jan_protocol::embeddings::{Embedding, EmbeddingRequest};
pub use jan_protocol::output_formats::Part as OutputPart;
use jan_protocol::types::{
    Constraint, FinishReason, GenerationError, GenerationRequest, Inspect, Inspected, ModelStatus, Prompt,
    PromptLogprobs, TokenLogprob, TokenUsage, TokenizerFacts,
};

use super::report::{Phase, ReplicaReport};
use super::shares::Place;
use crate::supervisor::ChildSpec;

/// The time to wait before the next try if nothing better is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One replica of a model.
///
/// The contract, which `actors/src/model/conformance.rs` tests of any backend:
///
/// - **Order.** A generation yields [`GenerationEvent`]s in the order that is documented there, and nothing behind `Finished` or
///   `Failed`. Every generation ends with one of the two.
/// - **Cancellation.** Dropping a [`Generation`], an [`Embeddings`] or the future of a call gives up all work that was done for
///   it, soon and without an event. The [`Place`] is given back when the work has ended, however it ends.
/// - **Refusals.** The refusal of a request is an error of the call or the first event, never one behind `Started`. Features that
///   [`capabilities`](Self::capabilities) lack are refused before the backend is asked.
/// - **Failures.** Events that were yielded stay valid: a backend that loses its worker or its connection either continues the
///   same answer or ends it with `Failed`. It never begins an answer anew. [`Capabilities::resumes`] states whether it continues;
///   nothing else retries behind this seam.
/// - **Back pressure.** A generation without a reader costs a bounded amount of memory beside its own answer.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Its capabilities. They may change when a model has been loaded, never for a request under way.
    fn capabilities(&self) -> Capabilities;

    /// The field of a request that asks for a missing feature, and the name of the feature. Backends that lack more than
    /// [`Capabilities`] can say override it.
    fn lacking(&self, request: &GenerationRequest) -> Option<(&'static str, &'static str)> {
        self.capabilities().lacking(request)
    }

    /// The way in which it would continue an answer to a request after the loss of a worker or server.
    fn continuation(&self, request: &GenerationRequest) -> Continuation {
        let _ = request;
        if self.capabilities().resumes { Continuation::Tokens } else { Continuation::None }
    }

    /// Its condition now.
    fn condition(&self) -> Condition;

    /// Facts about the tokenizer of its model, once it is loaded; `None` where they are not known.
    fn tokenizer(&self) -> Option<TokenizerFacts> {
        None
    }

    /// Requests that it works on or has waiting.
    fn load(&self) -> usize;

    /// Its report for administrators. Backends that know more than their condition and load say it here.
    fn report(&self) -> ReplicaReport {
        let Condition { status, problem, .. } = self.condition();
        let phase = match status {
            ModelStatus::Loading => Phase::Loading,
            ModelStatus::Ready | ModelStatus::Degraded => Phase::Ready,
            ModelStatus::Unhealthy => Phase::Unhealthy,
        };
        let (running, waiting, restarts) = (self.load(), 0, 0);
        ReplicaReport {
            phase,
            problem,
            running,
            waiting,
            restarts,
            kv_cells: None,
            memory: None,
            upstream: None,
        }
    }

    /// Its reports for administrators: one, or one for each of the servers that it answers from.
    fn reports(&self) -> Vec<ReplicaReport> {
        vec![self.report()]
    }

    /// Begins a generation. Returns once it has been taken in.
    ///
    /// # Errors
    /// `ModelUnavailable`, `ShuttingDown`, or the defect of the request.
    fn generate(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Generation, GenerationError>>;

    /// Begins to make embeddings. Returns once the request has been taken in.
    ///
    /// # Errors
    /// As of [`generate`](Self::generate).
    fn embed(
        &self,
        request: EmbeddingRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Embeddings, GenerationError>>;

    /// Renders or tokenizes a prompt. Nothing is generated.
    ///
    /// # Errors
    /// `ModelUnavailable` or `InvalidPrompt`.
    fn inspect(&self, question: Inspect) -> BoxFuture<'_, Result<Inspected, GenerationError>>;

    /// Length of a request's prompt in tokens. Nothing is generated.
    ///
    /// # Errors
    /// As of [`generate`](Self::generate), `ContextLengthExceeded` among them.
    fn count_tokens(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<u32, GenerationError>>;

    /// Has computed prefixes outlive the server, as far as that is done within this time. Called before a graceful stop, when
    /// nothing is generated any more.
    fn keep_prefixes(&self, within: Duration) -> BoxFuture<'_, ()> {
        let _ = within;
        Box::pin(std::future::ready(()))
    }

    /// Actors that work for it, to be supervised; asked once, when the server starts.
    fn children(&self) -> Vec<ChildSpec>;
}

/// The way in which an answer is continued after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// By its tokens: exactly.
    Tokens,
    /// By its text, which may be tokenized differently.
    Message,
    /// It is not.
    None,
}

impl Continuation {
    /// Its name, as callers see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Message => "message",
            Self::None => "none",
        }
    }
}

/// Capabilities of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Embeddings.
    pub embeddings: bool,
    /// [`Backend::inspect`].
    pub inspect: bool,
    /// Prompts that are tokens.
    pub token_prompts: bool,
    /// Filling the gap between two texts.
    pub infill: bool,
    /// Constraints of answers, by notation.
    pub constraints: Notations,
    /// Log-probabilities of the prompt's tokens.
    pub prompt_logprobs: bool,
    /// Continues answers after a crash of its worker or engine.
    pub resumes: bool,
}

impl Capabilities {
    /// All capabilities.
    pub const ALL: Self = Self {
        embeddings: true,
        inspect: true,
        token_prompts: true,
        infill: true,
        constraints: Notations::ALL,
        prompt_logprobs: true,
        resumes: true,
    };

    /// The field of a request that asks for a missing feature, and the name of the feature.
    #[must_use]
    pub fn lacking(&self, request: &GenerationRequest) -> Option<(&'static str, &'static str)> {
        match &*request.prompt {
            Prompt::Tokens(_) if !self.token_prompts => return Some(("prompt", "prompts of token ids")),
            Prompt::Infill { .. } if !self.infill => return Some(("suffix", "filling a gap in a text")),
            _ => {}
        }
        if let Some(constraint) = &request.constraint
            && let Some(notation) = self.constraints.lacking(constraint)
        {
            return Some(("response_format", notation));
        }
        if request.score_prompt && !self.prompt_logprobs {
            return Some(("echo", "log-probabilities of a prompt"));
        }
        None
    }
}

/// Notations of constraints that a backend enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notations {
    /// JSON Schema.
    pub json_schema: bool,
    /// Regular expressions.
    pub regex: bool,
    /// Texts to choose from.
    pub choice: bool,
    /// Grammars in Lark's notation.
    pub lark: bool,
    /// Grammars in llama.cpp's notation.
    pub gbnf: bool,
}

impl Notations {
    /// All notations.
    pub const ALL: Self = Self { json_schema: true, regex: true, choice: true, lark: true, gbnf: true };
    /// No notation.
    pub const NONE: Self = Self { json_schema: false, regex: false, choice: false, lark: false, gbnf: false };

    /// Name of the feature that it lacks to enforce this constraint.
    fn lacking(self, constraint: &Constraint) -> Option<&'static str> {
        let (known, name) = match constraint {
            Constraint::JsonSchema(_) => (self.json_schema, "answers that satisfy a JSON Schema"),
            Constraint::Regex(_) => (self.regex, "answers that match a regular expression"),
            Constraint::Choice(_) => (self.choice, "answers that are one of several texts"),
            Constraint::Lark(_) => (self.lark, "answers of a grammar in Lark's notation"),
            Constraint::Gbnf(_) => (self.gbnf, "answers of a grammar in llama.cpp's notation"),
        };
        (!known).then_some(name)
    }
}

/// Condition of a replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its availability.
    pub status: ModelStatus,
    /// The reason why not, for administrators: it may name paths of files.
    pub problem: Option<String>,
    /// The problem without paths.
    pub public_problem: Option<String>,
    /// Unix seconds of the model's making, once it is loaded.
    pub created: Option<u64>,
    /// Maximum number of tokens of prompt and answer, once it is loaded.
    pub context_length: Option<u32>,
}

/// One event of a generation, in this order: `Accepted`, `Started`, `PromptScored` where it was asked for, any number of
/// `Output`, then `Finished`; or `Failed` at any point.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// The prompt has been read and fits; the request may still wait.
    Accepted {
        /// Length of the prompt in tokens; a lower bound of it where the backend learns it with the end alone.
        prompt_tokens: u32,
        /// The prompt as text, where it was asked for.
        prompt_text: Option<Arc<str>>,
    },
    /// The request left the queue.
    Started {
        /// Prompt tokens taken from a prefix cache.
        cached_tokens: u32,
    },
    /// Log-probabilities of the prompt's tokens.
    PromptScored(PromptLogprobs),
    /// More of the answer; each of the three can be empty.
    Output {
        /// Pieces of the answer, in order: whole UTF-8 characters, never part of a stop text.
        parts: Vec<OutputPart>,
        /// Tokens that were generated for them and for the held part.
        tokens: u32,
        /// Log-probabilities of the tokens whose text has left, where they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// The end.
    Finished {
        /// The reason.
        reason: FinishReason,
        /// Token usage.
        usage: TokenUsage,
    },
    /// The end, without an answer.
    Failed(GenerationError),
}

impl GenerationEvent {
    /// Returns `true` for the last event of a generation.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed(_))
    }
}

/// A running generation. Dropping it cancels.
pub struct Generation(Pin<Box<dyn Stream<Item = GenerationEvent> + Send + Sync>>);

impl Generation {
    /// Creates it from a stream that gives its work up when it is dropped.
    pub fn new(events: impl Stream<Item = GenerationEvent> + Send + Sync + 'static) -> Self {
        Self(Box::pin(events))
    }

    /// The next event; `None` after `Finished` or `Failed`.
    pub async fn recv(&mut self) -> Option<GenerationEvent> {
        self.0.next().await
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").finish_non_exhaustive()
    }
}

/// Embeddings under way. Dropping them cancels.
pub struct Embeddings(Pin<Box<dyn Stream<Item = Result<Embedding, GenerationError>> + Send + Sync>>);

impl Embeddings {
    /// Creates it from a stream that gives its work up when it is dropped.
    pub fn new(
        embeddings: impl Stream<Item = Result<Embedding, GenerationError>> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::pin(embeddings))
    }

    /// The next one, in any order; `None` after all and after an error.
    pub async fn recv(&mut self) -> Option<Result<Embedding, GenerationError>> {
        self.0.next().await
    }
}

impl fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embeddings").finish_non_exhaustive()
    }
}
