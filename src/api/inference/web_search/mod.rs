//! Web search in chat and in responses: what a request wishes, what the model reads of the results, and which of them
//! its answer cites.
//!
//! Sources: `WebSearchTool`, `WebSearchPreviewTool`, `web_search_options`, `UrlCitationBody` in OpenAI's API description.

pub mod citations;
mod options;
pub mod prompt;

pub use options::{ContextSize, SearchFilters, UserLocation, WebSearchOptions, Wish, is_web_search, shown};

/// The name by which models call a search, where they decide themselves.
pub const FUNCTION: &str = "web_search";
