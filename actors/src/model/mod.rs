//! Models: what a caller asks of them ([`types`]) and the engine that answers ([`engine`]).

pub mod engine;
pub mod handle;
pub mod types;

pub use handle::{Generation, Models};
pub use types::*;
