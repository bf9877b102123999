//! What is searched for, what is found, and why nothing is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest text that is searched for, in characters: search engines look at some 32 words.
pub const MAX_QUERY: usize = 400;

/// What is searched for. Two that are equal have the same results for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SearchQuery {
    /// The words.
    pub text: String,
    /// ISO code of the country to search from.
    pub country: Option<String>,
    /// The place to search from, in words.
    pub location: Option<String>,
    /// Only pages of these domains and what is below them; empty is any.
    pub domains: Vec<String>,
    /// Most results.
    pub results: u32,
}

impl SearchQuery {
    /// The words without line breaks and runs of spaces, not longer than the service wants them.
    #[must_use]
    pub fn words(text: &str) -> String {
        tidy(text, MAX_QUERY)
    }

    /// The words with the domains, as search engines have them.
    #[must_use]
    pub fn in_operators(&self) -> String {
        if self.domains.is_empty() {
            return self.text.clone();
        }
        let sites: Vec<String> = self.domains.iter().map(|domain| format!("site:{domain}")).collect();
        format!("{} ({})", self.text, sites.join(" OR "))
    }

    /// Whether a page of that host may be among the results.
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

/// A text on one line, without control characters, cut at `most` characters.
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

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebResult {
    /// Its page.
    pub source: WebSource,
    /// What the page says about it.
    pub snippet: String,
    /// The page's date in words, where it has one.
    pub date: Option<String>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSource {
    /// Its address, `http` or `https`.
    pub url: String,
    /// Its title.
    pub title: String,
}

/// What a search found; may be nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The results, best first.
    pub results: Vec<WebResult>,
}

/// Why there are no results. No text of the service's own and no key is part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// There is no key.
    #[error(
        "web search is not set up on this server: its operator has to set web_search.api_key \
         (JAN_SERVER__WEB_SEARCH__API_KEY) to a key of serper.dev"
    )]
    NotConfigured,
    /// As much has been spent today as may be.
    #[error("the limit of {limit} search credits a day{whose} is reached ({setting}); it resets at 0:00 UTC")]
    Spent {
        /// The limit.
        limit: u32,
        /// Whose it is, for the sentence.
        whose: &'static str,
        /// The setting.
        setting: &'static str,
        /// Until it begins anew.
        retry_after: Duration,
    },
    /// No answer in time.
    #[error("the search service did not respond within {0:?}")]
    Timeout(Duration),
    /// No connection, or one that broke.
    #[error("the search service cannot be reached")]
    Unreachable,
    /// The service cannot answer now.
    #[error("the search service is unavailable (status {0})")]
    Unavailable(u16),
    /// The service does not take the key.
    #[error(
        "the search service rejected this server's key (status {0}); the administrator must check web_search.api_key"
    )]
    KeyRefused(u16),
    /// The service does not take the search.
    #[error("the search service rejected the search (status {0})")]
    Refused(u16),
    /// The answer is of no use.
    #[error("the search service's response is invalid: {0}")]
    Invalid(&'static str),
}

impl SearchError {
    /// Whether the service is to blame, not this server's settings or its callers.
    #[must_use]
    pub const fn is_service(&self) -> bool {
        !matches!(self, Self::NotConfigured | Self::Spent { .. })
    }
}
