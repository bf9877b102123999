//! Queries, results and errors of searches.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum length of a query in characters: search engines use some 32 words.
pub const MAX_QUERY: usize = 400;

/// A query. Equal queries have the same results for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SearchQuery {
    /// The search terms.
    pub text: String,
    /// ISO code of the country to search from.
    pub country: Option<String>,
    /// The place to search from, in words.
    pub location: Option<String>,
    /// Restricts results to these domains and their subdomains; empty: any.
    pub domains: Vec<String>,
    /// Maximum number of results.
    pub results: u32,
}

impl SearchQuery {
    /// Returns the terms without line breaks and runs of spaces, cut to the maximum length.
    #[must_use]
    pub fn words(text: &str) -> String {
        tidy(text, MAX_QUERY)
    }

    /// Returns the terms with the domains as search operators.
    #[must_use]
    pub fn in_operators(&self) -> String {
        if self.domains.is_empty() {
            return self.text.clone();
        }
        let sites: Vec<String> = self.domains.iter().map(|domain| format!("site:{domain}")).collect();
        format!("{} ({})", self.text, sites.join(" OR "))
    }

    /// Returns whether a page of that host may be among the results.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_below = |domain: &String| {
            let rest = host.strip_suffix(&domain.to_ascii_lowercase());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.domains.is_empty() || self.domains.iter().any(is_below)
    }
}

/// Returns a text on one line, without control characters, cut at `most` characters.
#[must_use]
pub fn tidy(text: &str, most: usize) -> String {
    let mut tidied = String::new();
    let plain = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut left = most;
    for word in plain {
        if !tidied.is_empty() {
            if left <= 1 {
                break;
            }
            tidied.push(' ');
            left -= 1;
        }
        tidied.extend(word.chars().take(left));
        left = left.saturating_sub(word.chars().count());
        if left == 0 {
            break;
        }
    }
    tidied
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebResult {
    /// The page.
    pub source: WebSource,
    /// The page's text about the query.
    pub snippet: String,
    /// The page's date as text, if it has one.
    pub date: Option<String>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSource {
    /// The address, `http` or `https`.
    pub url: String,
    /// The title.
    pub title: String,
}

/// The results of a search; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The results, best first.
    pub results: Vec<WebResult>,
}

/// The reason why there are no results. Contains no text of the service and no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// No key is configured.
    #[error(
        "web search is not set up on this server: its operator has to set web_search.api_key \
         (JAN_SERVER__WEB_SEARCH__API_KEY) to a key of serper.dev"
    )]
    NotConfigured,
    /// The credits of the day are used up.
    #[error("the limit of {limit} search credits a day{whose} is reached ({setting}); it resets at 0:00 UTC")]
    Spent {
        /// The limit.
        limit: u32,
        /// The owner of the limit, for the message.
        whose: &'static str,
        /// The setting.
        setting: &'static str,
        /// Delay until the limit resets.
        retry_after: Duration,
    },
    /// No answer within the time limit.
    #[error("the search service did not respond within {0:?}")]
    Timeout(Duration),
    /// No connection, or one that broke.
    #[error("the search service cannot be reached")]
    Unreachable,
    /// The service is temporarily unavailable.
    #[error("the search service is unavailable (status {0})")]
    Unavailable(u16),
    /// The service rejects the key.
    #[error(
        "the search service rejected this server's key (status {0}); the administrator must check web_search.api_key"
    )]
    KeyRefused(u16),
    /// The service rejects the search.
    #[error("the search service rejected the search (status {0})")]
    Refused(u16),
    /// The answer is unusable.
    #[error("the search service's response is invalid: {0}")]
    Invalid(&'static str),
}

impl SearchError {
    /// Returns whether the service is the cause, not this server's settings or its callers.
    #[must_use]
    pub const fn is_service(&self) -> bool {
        !matches!(self, Self::NotConfigured | Self::Spent { .. })
    }
}
