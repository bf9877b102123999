//! Models: what a caller asks of them ([`types`]), the actors that answer for them, the worker processes
//! behind those, and the engine inside a worker.

pub mod actor;
pub mod catalog;
pub mod concealed;
pub mod confinement;
pub mod embeddings;
pub mod engine;
pub mod formats;
pub mod handle;
pub mod held_logprobs;
pub mod inflight;
pub mod parts;
pub mod shares;
pub mod types;
pub mod vetting;
pub mod worker;

pub use embeddings::{Embedding, EmbeddingInput, EmbeddingRequest};
pub use handle::{Embeddings, Generation, Models};
pub use types::*;
