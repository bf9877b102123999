//! `[web_search]`

use serde::{Deserialize, Serialize};

/// `[web_search]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSearchConfig {
    /// Where Serper is.
    pub base_url: String,
    /// This server's key at Serper; without one nothing is searched.
    pub api_key: Option<String>,
    /// Longest time of a search, with all its retries (milliseconds).
    pub timeout_ms: u64,
    /// How often a search is tried again.
    pub retries: u32,
    /// Most results of a search.
    pub max_results: u32,
    /// Most searches of one response.
    pub max_per_response: u32,
    /// How long results are remembered (seconds). 0: not at all.
    pub cache_ttl_s: u64,
    /// Results of how many searches are remembered. 0: none.
    pub cache_entries: usize,
    /// Most credits a day. 0: no limit.
    pub credits_per_day: u32,
    /// The same of one user or address.
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

/// Without the key.
impl std::fmt::Debug for WebSearchConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSearchConfig")
            .field("base_url", &self.base_url)
            .field("has_key", &self.api_key.is_some())
            .finish_non_exhaustive()
    }
}
