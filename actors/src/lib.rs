//! The parts of Jan Server that own state.
//!
//! Supervised actors, the stores, and the server's side of the worker processes. This crate depends on neither HTTP nor
//! llama.cpp: the edge (`src/` of the root package) sends typed messages and formats the answers, and the computation of a worker
//! is behind the protocol of `jan-protocol`.
//!
//! Dependencies point inward: edge → actors → protocol ← engine, never back.

pub mod audit;
pub mod backup;
pub mod config;
pub mod conversations;
pub mod identity;
pub mod limits;
pub mod migrations;
pub mod model;
pub mod prefix_files;
pub mod responses;
pub mod service;
mod start_error;
mod store;
pub mod supervision;
pub mod supervisor;
pub mod system;
pub mod usage;
pub mod web_search;

pub use start_error::StartError;
pub use store::{OpenError, StoreError};
pub use system::System;

#[cfg(test)]
#[path = "../../tests/fuzz/actors.rs"]
mod fuzz;
