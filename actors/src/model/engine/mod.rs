//! The engine inside a worker process: scheduler, prefix cache, sampler, text assembly, llama.cpp.
//!
//! [`prepare`] turns a prompt into tokens, [`runner`] is the loop of decode steps. What decides (scheduler,
//! prefix tree, budget, threads, sampler, text assembly) is pure and knows neither llama.cpp nor a clock.

pub mod archive;
pub mod budget;
pub mod cells;
pub mod embedding;
pub mod fallback;
pub mod flow;
pub mod grammar;
pub mod llama;
pub mod logprobs;
pub mod masks;
pub mod output;
pub mod prefix;
pub mod prepare;
pub mod queue;
pub mod rendering;
pub mod runner;
pub mod running;
pub mod sampler;
pub mod scheduler;
pub mod sharing;
pub mod shield;
pub mod template;
pub mod threads;

pub use logprobs::{PlacedLogprob, PromptScores};

use std::sync::Arc;

use flow::Flow;

use super::types::{FinishReason, SamplingParams, Token};

/// Sizes and targets of one engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Most tokens of one sequence.
    pub context_length: u32,
    /// KV cells of the context.
    pub kv_cells: u32,
    /// Most sequences that run at the same time.
    pub max_sequences: u16,
    /// Sequence ids beside those, for finished sequences that stay as prefix cache.
    pub cached_sequences: u16,
    /// Most cells kept for prefixes that no running sequence uses.
    pub cache_cells: u32,
    /// Most tokens of finished sequences kept in host memory.
    pub archive_tokens: u32,
    /// Compute threads on a quiet machine.
    pub threads: usize,
    /// Most prompt tokens of one step.
    pub prefill_chunk: u32,
    /// Target for running streams while prompts are read.
    pub inter_token_target: std::time::Duration,
    /// A request waits for another one's prefill when that saves at least this many tokens.
    pub share_min_tokens: u32,
    /// How an embedding is made of its tokens'; empty: as the GGUF says.
    pub pooling: String,
    /// Whether a sequence's logits are to be the same whatever runs beside it.
    pub reproducible: bool,
    /// Most processor time that one step of one constrained answer may take.
    pub mask_budget: std::time::Duration,
}

/// A sequence to generate, its prompt as tokens.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// Whom to be fair to.
    pub user: String,
    /// Whom what is computed for it is shared with; 0: all.
    pub tenant: u64,
    /// How many of the prompt's tokens, at its beginning, anybody may share.
    pub common: u32,
    /// What to continue.
    pub prompt: Arc<[Token]>,
    /// What was generated and delivered before a crash.
    pub generated: Vec<Token>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer.
    pub stop: Arc<[String]>,
    /// Most tokens to generate, `generated` included; already cut to the context.
    pub max_tokens: u32,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens.
    pub logprobs: Option<u32>,
    /// Whether the log-probabilities of the prompt's tokens are wanted, too.
    pub score_prompt: bool,
    /// The answer's course, from behind `generated` on; `None` where there is nothing to mind.
    pub flow: Option<Flow>,
    /// Which of `generated` were thinking.
    pub thought: std::ops::Range<usize>,
    /// Control tokens whose text is part of the answer's.
    pub shown: Arc<[(Token, Vec<u8>)]>,
}

impl Sequence {
    /// What a token adds to the answer's text.
    pub fn piece(&self, model: &llama::Model, token: Token) -> Vec<u8> {
        match self.shown.iter().find(|(shown, _)| *shown == token) {
            Some((_, text)) => text.clone(),
            None => model.piece(token),
        }
    }
}

/// What became of a sequence in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceEvent {
    /// It left the queue; so many prompt tokens came from the prefix cache.
    Started {
        /// Prompt tokens not read again.
        cached_tokens: u32,
    },
    /// It generated.
    Output {
        /// The new tokens.
        tokens: Vec<Token>,
        /// The text that became certain with them; can be empty.
        text: String,
        /// How likely each of the tokens was, where that is wanted.
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
        /// Of length 1.
        vector: Vec<f32>,
    },
    /// It cannot be done now.
    Unavailable {
        /// Why.
        message: String,
    },
    /// It cannot be done, for a reason that is ours.
    Unable {
        /// Why.
        message: String,
    },
    /// It cannot be kept inside its constraint any longer: that takes more work than one step may take.
    Failed {
        /// Why.
        message: String,
    },
    /// It ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back.
        text: String,
        /// Whether a stop text ended it.
        stop_text: bool,
        /// How many of its tokens were thinking.
        reasoning_tokens: u32,
    },
}

/// One decode step's outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Events by sequence id, in order.
    pub events: Vec<(u64, SequenceEvent)>,
    /// What the engine holds after the step.
    pub load: EngineLoad,
}

/// What an engine holds.
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
}
