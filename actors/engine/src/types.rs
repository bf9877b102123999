//! Sizes of an engine, and the sequences that it generates.

use std::sync::Arc;

use jan_protocol::types::{SamplingParams, Token};

use crate::decode::phases::Flow;
use crate::llama;

/// Sizes and targets of one engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Maximum number of tokens of one sequence.
    pub context_length: u32,
    /// KV cells of the context.
    pub kv_cells: u32,
    /// KV cells of all lanes (see [`crate::scheduler::lanes`]), as far as there is memory; 0: there are no lanes.
    pub lane_cells: u32,
    /// `true` if sequences that run beside others always decode in lanes, as far as there is room.
    pub always_lanes: bool,
    /// Maximum number of sequences that run at the same time.
    pub max_sequences: u16,
    /// Sequence ids beside those, for finished sequences that stay as prefix cache.
    pub cached_sequences: u16,
    /// Maximum number of cells kept for prefixes that no running sequence uses.
    pub cache_cells: u32,
    /// Maximum number of bytes of finished sequences kept in host memory.
    pub archive_bytes: u64,
    /// `true` if a GPU computes some layers.
    pub on_gpu: bool,
    /// Compute threads on a quiet machine.
    pub threads: usize,
    /// Maximum number of prompt tokens of one step.
    pub prefill_chunk: u32,
    /// Target for running streams while prompts are read.
    pub inter_token_target: std::time::Duration,
    /// A request waits for another one's prefill when that saves at least this many tokens.
    pub share_min_tokens: u32,
    /// Pooling of token embeddings; empty: that of the GGUF.
    pub pooling: String,
    /// Makes a sequence's logits independent of the sequences beside it.
    pub reproducible: bool,
    /// Computes drafts of what answers repeat.
    pub speculation: bool,
    /// Maximum processor time that one step of one constrained answer may take.
    pub mask_budget: std::time::Duration,
}

/// Whose a computed prefix is, by names that stay the same over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant; empty where all are one.
    pub tenant: Arc<str>,
    /// The key that it gave to keep requests of its own apart; empty: none.
    pub cache_key: Arc<str>,
}

/// A sequence to generate, its prompt as tokens.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// Fair-queueing key.
    pub user: String,
    /// Sharing domain of its computed prefix; 0: all callers.
    pub tenant: u64,
    /// The owner that this number stands for.
    pub owner: Owner,
    /// Tokens at the prompt's beginning that any caller may share.
    pub common: u32,
    /// Prompt tokens.
    pub prompt: Arc<[Token]>,
    /// Tokens generated and delivered before a crash.
    pub generated: Vec<Token>,
    /// Sampling parameters.
    pub sampling: SamplingParams,
    /// The same where the answer must not end, if there is such a place.
    pub sampling_before_end: Option<Box<SamplingParams>>,
    /// Texts that end the answer.
    pub stop: Arc<[String]>,
    /// Maximum number of tokens to generate, `generated` included; already cut to the context.
    pub max_tokens: u32,
    /// Number of most likely tokens to report with log-probabilities; `None`: no log-probabilities.
    pub logprobs: Option<u32>,
    /// Reports the log-probabilities of the prompt's tokens, too.
    pub score_prompt: bool,
    /// The answer's course, from behind `generated` on; `None` where there is nothing to mind.
    pub flow: Option<Flow>,
    /// For each token of `generated`, whether stop texts count in its text; empty: they count in all.
    pub stops_count: Vec<bool>,
    /// Control tokens whose text is part of the answer's.
    pub shown: Arc<[(Token, Vec<u8>)]>,
}

impl Sequence {
    /// Bytes that a token adds to the answer's text.
    pub fn piece(&self, model: &llama::Model, token: Token) -> Vec<u8> {
        match self.shown.iter().find(|(shown, _)| *shown == token) {
            Some((_, text)) => text.clone(),
            None => model.piece(token),
        }
    }
}
