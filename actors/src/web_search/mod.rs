//! Web search with [Serper](https://serper.dev): one search is one HTTP request with a few retries, bounded in time, size and
//! cost.
//!
//! - [`WebSearch`]: the handle; dropping a search's future ends the search
//! - [`types`]: queries and results
//! - `answer`, `budget`, `cache`, `health`, `retry`: pure, no clock and no socket of their own
//! - `client`: the HTTP client of the service
//! - `actor`: removes expired results
//!
//! The state is held outside the actor, as with the rate limits: a restart at any time changes no count.

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
