//! Models: requests to them ([`types`]), the handle that routes these ([`models`]), and the backends that answer
//! ([`backend`], the seam; [`llama_worker`] here, [`upstream`] elsewhere).

pub mod backend;
pub mod catalog;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod llama_worker;
pub mod models;
pub mod report;
#[cfg(any(test, feature = "testing"))]
pub mod scripted;
pub mod shares;
pub mod upstream;

pub use backend::{Continuation, Embeddings, Generation, GenerationEvent, OutputPart};
pub use jan_protocol::embeddings::{self, Embedding, EmbeddingInput, EmbeddingRequest};
pub use jan_protocol::memory_use;
pub use jan_protocol::schema;
pub use jan_protocol::types::{self, *};
pub use models::Models;
