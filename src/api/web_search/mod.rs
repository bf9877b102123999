//! Web search in chat and in responses: what a request wishes, what the model reads of the results, and which of them
//! its answer cites.
//!
//! Sources: `WebSearchTool`, `WebSearchPreviewTool`, `web_search_options`, `UrlCitationBody` in OpenAI's API description.

pub mod cite;
pub mod prompt;
mod wish;

use http::StatusCode;
use jan_actors::web_search::SearchError;

pub use wish::{
    ContextSize, LocationKind, SearchFilters, UserLocation, WebSearchOptions, Wish, is_web_search, shown,
};

use crate::http::ApiError;
use crate::http::error::capitalize;

/// The name by which models call a search, where they decide themselves.
pub const FUNCTION: &str = "web_search";

/// How a search that cannot be made shows. `param` is the field that asks for it.
pub fn from_search(error: &SearchError, param: &str) -> ApiError {
    let message = format!("{}.", capitalize(&error.to_string()));
    match error {
        SearchError::NotConfigured => {
            ApiError::bad_request("web_search_not_configured", message).with_param(param)
        }
        SearchError::Spent { retry_after, .. } => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "web_search_limit_reached", message)
                .with_retry_after(*retry_after)
                .with_param(param)
        }
        _ => ApiError::unavailable("web_search_failed", message, std::time::Duration::from_secs(5))
            .with_param(param),
    }
}
