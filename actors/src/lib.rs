//! Everything of Jan Server that owns state.
//!
//! Supervised actors, the worker processes that run llama.cpp, and the engine inside a worker. This crate
//! knows nothing of HTTP: the edge (`src/` of the root package) sends typed messages and shapes the answers.
//!
//! Arrows point inward: edge → [`model`] (actors) → [`model::worker`] → [`model::engine`], never back.

pub mod audit;
pub mod backup;
pub mod config;
pub mod conversations;
pub mod identity;
pub mod limits;
mod memory;
pub mod model;
pub mod responses;
mod store;
pub mod supervision;
pub mod supervisor;
pub mod system;
pub mod usage;
pub mod web_search;

pub use store::StoreError;
pub use system::{StartError, System};

#[cfg(test)]
#[path = "../../tests/fuzz/actors.rs"]
mod fuzz;
