//! Embeddings: a caller's request and its results.

use crate::types::Token;

/// Maximum number of tokens of one request, all of its inputs together.
pub const MAX_TOKENS: usize = 300_000;

/// So many inputs count as one answer in the queue: they are read, and nothing is generated.
pub const INPUTS_A_PLACE: usize = 8;

/// A text whose embedding is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// Plain text, with the tokens that the model wants around it (BOS, CLS and SEP).
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<Token>),
}

/// A request for embeddings.
#[derive(Clone, Debug)]
pub struct EmbeddingRequest {
    /// The HTTP request's id, for logs.
    pub request_id: String,
    /// The model's id or alias, as the caller named it.
    pub model: String,
    /// The user that fairness is counted for.
    pub user: String,
    /// The texts.
    pub inputs: Vec<EmbeddingInput>,
    /// Numbers of each embedding, from its beginning; `None`: all.
    pub dimensions: Option<u32>,
}

impl EmbeddingRequest {
    /// Returns the number of a queue's `places` that its work is worth; all of them at most, so that it is never too large for a
    /// queue.
    #[must_use]
    pub fn weight(&self, places: usize) -> usize {
        self.inputs.len().div_ceil(INPUTS_A_PLACE).clamp(1, places)
    }
}

/// An embedding of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Its text's place in the request.
    pub index: u32,
    /// Tokens that the model read.
    pub tokens: u32,
    /// The numbers.
    pub vector: Vec<f32>,
}
