//! Vocabulary that the server's actors and its worker processes share.
//!
//! Requests and answers ([`types`], [`embeddings`]), the output formats of models ([`output_formats`]), and the protocol
//! between a server and its workers ([`worker_protocol`]). Nothing here knows llama.cpp, actors or HTTP.

pub mod bundled_model;
pub mod confinement;
pub mod embeddings;
pub mod logprob_buffer;
pub mod memory;
pub mod memory_use;
pub mod output_formats;
pub mod parts;
pub mod prefix_files;
pub mod report;
mod sampling;
pub mod schema;
mod token;
pub mod types;
pub mod worker_protocol;
