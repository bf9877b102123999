//! Messages between the server and its workers' engines, as data: refusals, events of a step, the engine's load.

use crate::embeddings::EmbeddingInput;
use crate::types::{Candidate, FinishReason, Token};

/// The reason why a request cannot run.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// Prompt and answer do not fit.
    ContextLengthExceeded {
        /// Context in tokens.
        limit: u32,
        /// Prompt in tokens.
        prompt_tokens: u32,
        /// Asked for in the answer.
        requested: u32,
    },
    /// The template refuses the messages, the prompt is empty, a token is out of range.
    InvalidPrompt(String),
    /// A text whose embedding is wanted has too many tokens.
    InputTooLong {
        /// Its place in the request.
        index: u32,
        /// Maximum number of tokens.
        limit: u32,
        /// Its tokens, or a lower bound of them.
        tokens: u32,
    },
    /// A parameter does not fit this model.
    InvalidParameter {
        /// The field.
        param: &'static str,
        /// The defect.
        message: String,
    },
    /// The answer's grammar is not well-formed.
    MalformedConstraint(String),
    /// The answer's schema or grammar cannot be enforced.
    InvalidConstraint(String),
    /// The constraint takes more work than it may.
    ConstraintTooExpensive(String),
    /// The request cannot run now.
    Unavailable(String),
    /// A defect of the model file or of the server.
    Internal(String),
}

/// The log-probability of a token of an answer, and the place of its text.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedLogprob {
    /// The token.
    pub chosen: Candidate,
    /// The likeliest tokens at its position, the likeliest first.
    pub top: Vec<Candidate>,
    /// The token's text within the answer's, in bytes from its beginning: from here ...
    pub text_start: u64,
    /// ... to here. The same where it only began a character; [`u64::MAX`] where it completed a stop text.
    pub text_end: u64,
    /// `text_start` in characters.
    pub text_offset: u64,
}

/// The log-probabilities of a prompt's tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptScores {
    /// The bytes of the first token, which nothing came before.
    pub first: Vec<u8>,
    /// The other tokens.
    pub rest: Vec<PlacedLogprob>,
}

/// A request for embeddings as it reaches the worker.
#[derive(Clone, Debug)]
pub struct EmbeddingDraft {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// The user that fairness is counted for.
    pub user: String,
    /// The texts, each with its place in the request.
    pub inputs: Vec<(u32, EmbeddingInput)>,
    /// Numbers of each embedding; `None`: all.
    pub dimensions: Option<u32>,
}

/// The outcome of a step for a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceEvent {
    /// The sequence left the queue; so many prompt tokens came from the prefix cache.
    Started {
        /// Prompt tokens not read again.
        cached_tokens: u32,
    },
    /// The sequence generated.
    Output {
        /// The new tokens.
        tokens: Vec<Token>,
        /// The text that became certain with them; can be empty.
        text: String,
        /// The log-probabilities of the tokens, if they are wanted.
        logprobs: Vec<PlacedLogprob>,
    },
    /// Its prompt is read: how likely its tokens were.
    PromptScored(PromptScores),
    /// One of a request's embeddings.
    Embedding {
        /// Its input's place in the request.
        index: u32,
        /// Tokens that were read for it.
        tokens: u32,
        /// The vector, of length 1.
        vector: Vec<f32>,
    },
    /// The request cannot be done now.
    Unavailable {
        /// The reason.
        message: String,
    },
    /// The request cannot be done, for a reason on the server's side.
    Unable {
        /// The reason.
        message: String,
    },
    /// The answer cannot be kept inside its constraint any longer: that takes more work than one step may take.
    Failed {
        /// The reason.
        message: String,
    },
    /// The sequence ended.
    Finished {
        /// The reason.
        reason: FinishReason,
        /// Text that was held back.
        text: String,
        /// `true` if a stop text ended it.
        stop_text: bool,
        /// The number of its tokens that were reasoning.
        reasoning_tokens: u32,
    },
}

/// One decode step's outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Events by sequence id, in order.
    pub events: Vec<(u64, SequenceEvent)>,
    /// The engine's load after the step.
    pub load: EngineLoad,
}

/// The load of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Sequences being read or generated.
    pub running: u32,
    /// Sequences in the queue.
    pub waiting: u32,
    /// KV cells in use, cached ones included.
    pub used_cells: u32,
    /// KV cells that only the prefix cache holds.
    pub cached_cells: u32,
    /// Sequences that were set back for lack of cells, since the start.
    pub preemptions: u64,
    /// Threads of the last step.
    pub threads: u32,
    /// Drafts that were computed, since the start.
    pub drafted: u64,
    /// Drafts that answers continued with, since the start.
    pub accepted: u64,
}
