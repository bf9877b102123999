//! `[web_search]`

use serde::{Deserialize, Serialize};

/// `[web_search]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSearchConfig {
    /// Base URL of Serper.
    pub base_url: String,
    /// This server's key at Serper; without one, web search is unavailable.
    pub api_key: Option<String>,
    /// Maximum time of a search with all its retries (milliseconds).
    pub timeout_ms: u64,
    /// Number of retries of a search.
    pub retries: u32,
    /// Maximum number of results of a search.
    pub max_results: u32,
    /// Maximum number of searches of one response.
    pub max_per_response: u32,
    /// Time that results are cached (seconds). 0: not at all.
    pub cache_ttl_s: u64,
    /// Number of searches whose results are cached. 0: none.
    pub cache_entries: usize,
    /// Maximum number of credits per day. 0: unlimited.
    pub credits_per_day: u32,
    /// Maximum number of credits per day of one user or address. 0: unlimited.
    pub credits_per_user_per_day: u32,
}

impl Default for WebSearchConfig {
    fn default() -> Self {
        Self {
            base_url: "https://google.serper.dev".to_owned(),
            api_key: None,
            timeout_ms: 10_000,
            retries: 2,
            max_results: 10,
            max_per_response: 3,
            cache_ttl_s: 600,
            cache_entries: 1000,
            credits_per_day: 2000,
            credits_per_user_per_day: 200,
        }
    }
}

/// Leaves out the key.
impl std::fmt::Debug for WebSearchConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSearchConfig")
            .field("base_url", &self.base_url)
            .field("has_key", &self.api_key.is_some())
            .finish_non_exhaustive()
    }
}
