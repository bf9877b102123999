//! Models: what a caller asks of them ([`types`]), the actors that answer for them, the worker processes
//! behind those, and the engine inside a worker.

pub mod actor;
pub mod catalog;
pub mod concealed;
pub mod handle;
pub mod inflight;
pub mod shares;
pub mod worker;

pub use handle::{Embeddings, Generation, Models};
pub use jan_protocol::embeddings::{self, Embedding, EmbeddingInput, EmbeddingRequest};
pub use jan_protocol::types::{self, *};
