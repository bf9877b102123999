//! Searching the web with [Serper](https://serper.dev): one search is one HTTP request at most a few times over, bounded
//! in time, size and cost.
//!
//! - [`WebSearch`]: the door; whoever drops its future drops the search
//! - [`types`]: what is searched for and found
//! - `answer`, `budget`, `cache`, `health`, `retry`: pure, no clock and no socket of their own
//! - `client`: talks to the service
//! - `actor`: forgets what is too old
//!
//! What is remembered lies beside the actor, as with the rate limits: it can be restarted at any time and no count
//! changes.

mod actor;
mod answer;
mod budget;
mod cache;
mod client;
mod config;
mod handle;
mod health;
mod retry;
pub mod types;

#[cfg(test)]
mod tests;

pub use config::WebSearchConfig;
pub use handle::WebSearch;
pub use health::SearchHealth;
pub use types::{Found, SearchError, SearchQuery, WebResult, WebSource};
