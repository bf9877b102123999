//! Web search in chat and responses: the options of a request, the results in the prompt, and the citations in the
//! answer.
//!
//! Sources: `WebSearchTool`, `WebSearchPreviewTool`, `web_search_options`, `UrlCitationBody` in OpenAI's API description.

pub mod citations;
mod options;
pub mod prompt;

pub use options::{
    ContextSize, SearchFilters, SearchOptions, UserLocation, WebSearchOptions, is_web_search, shown,
};

/// The function name by which models call a search, if they decide themselves.
pub const FUNCTION: &str = "web_search";
