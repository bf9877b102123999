//! Sizes of an engine, and the sequences that it generates.

use std::sync::Arc;

use jan_protocol::types::{SamplingParams, Token};

use crate::decode::phases::Flow;
use crate::llama;

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
