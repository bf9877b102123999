//! Settings of web search.

use super::{MILLISECONDS, SECONDS, U32, integer, key, secret};
use crate::config::keys::{Key, Kind};

/// `[web_search]`
pub const WEB_SEARCH: &[Key] = &[
    key("web_search.base_url", Kind::Url, "Base URL of Serper; searches are sent to `/search` below it."),
    secret(key(
        "web_search.api_key",
        Kind::Text,
        "API key of this server at Serper (serper.dev). Unset: web search is refused.",
    )),
    key(
        "web_search.timeout_ms",
        integer(10, 600_000, MILLISECONDS),
        "Maximum time of a search, including retries.",
    ),
    key(
        "web_search.retries",
        integer(0, 10, "retries"),
        "Number of retries of a search after a connection failure, 429 or 5xx.",
    ),
    key("web_search.max_results", integer(1, 20, "results"), "Maximum number of results of a search."),
    key(
        "web_search.max_per_response",
        integer(1, 20, "searches"),
        "Maximum number of searches of one response; `max_tool_calls` can request fewer.",
    ),
    key(
        "web_search.cache_ttl_s",
        integer(0, 30 * 86_400, SECONDS),
        "Lifetime of cached results, which all users with the same query share. 0: no cache.",
    ),
    key(
        "web_search.cache_entries",
        integer(0, 10_000, "searches"),
        "Maximum number of searches whose results are cached. 0: none.",
    ),
    key(
        "web_search.credits_per_day",
        integer(0, U32, "credits"),
        "Maximum number of Serper's credits per day (UTC, counted from the server's start); then 429. A search costs one, or the number that Serper reports. 0: no limit.",
    ),
    key(
        "web_search.credits_per_user_per_day",
        integer(0, U32, "credits"),
        "The same for one user, or for one address without a credential and its guests.",
    ),
];
