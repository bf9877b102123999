//! Search options of requests.

use jan_actors::web_search::SearchQuery;
use jan_actors::web_search::types::tidy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::http::ApiError;

/// Names of the tool, with the dates of its versions.
const NAMES: [&str; 4] =
    ["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"];

/// Maximum number of domains: search engines read about 32 words.
const MAX_DOMAINS: usize = 20;
/// Maximum length of a part of a location, in characters.
const MAX_PLACE: usize = 100;

/// Returns whether a tool, or a tool choice, of this type is web search.
pub fn is_web_search(kind: &str) -> bool {
    NAMES.contains(&kind)
}

/// The amount of context for search results: `low` 3 results, `medium` 5, `high` 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = SearchContextSize)]
#[serde(rename_all = "lowercase")]
pub enum ContextSize {
    /// 3 results.
    Low,
    /// 5 results.
    #[default]
    Medium,
    /// 10 results.
    High,
}

/// The precision of a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = SearchLocationKind)]
#[serde(rename_all = "lowercase")]
pub enum LocationKind {
    /// Approximate.
    #[default]
    Approximate,
}

/// The user's location.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = SearchUserLocation)]
pub struct UserLocation {
    /// Always `approximate`.
    #[serde(rename = "type", default)]
    kind: LocationKind,
    /// Two-letter ISO code.
    #[schema(max_length = 2)]
    country: Option<String>,
    /// Free text.
    region: Option<String>,
    /// Free text.
    city: Option<String>,
    /// Has no effect.
    timezone: Option<String>,
}

/// Restricts the pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SearchFilters {
    /// Only these domains and their subdomains, such as `example.com`; up to 20.
    #[schema(max_items = 20)]
    allowed_domains: Option<Vec<String>>,
}

/// Chat: search the web with the last user message before answering.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"search_context_size": "low"}))]
pub struct WebSearchOptions {
    /// The amount of context for the results.
    search_context_size: Option<ContextSize>,
    /// The user's location.
    user_location: Option<Approximate>,
}

/// The location in chat, nested one level deeper.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = SearchApproximateLocation)]
pub struct Approximate {
    /// Always `approximate`.
    #[serde(rename = "type", default)]
    #[allow(dead_code, reason = "its value is checked")]
    kind: LocationKind,
    /// The location.
    approximate: UserLocation,
}

/// Search options that apply to every query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchOptions {
    country: Option<String>,
    location: Option<String>,
    domains: Vec<String>,
    size: ContextSize,
}

impl SearchOptions {
    /// Checks the fields of a request; `at` is their path, for errors.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn new(
        size: Option<ContextSize>,
        place: Option<&UserLocation>,
        filters: Option<&SearchFilters>,
        at: &str,
        place_at: &str,
    ) -> Result<Self, ApiError> {
        let mut options = Self { size: size.unwrap_or_default(), ..Self::default() };
        if let Some(place) = place {
            options.place(place, place_at)?;
        }
        let domains = filters.and_then(|filters| filters.allowed_domains.as_ref());
        for (index, domain) in domains.into_iter().flatten().enumerate() {
            let param = format!("{at}.filters.allowed_domains");
            if index == MAX_DOMAINS {
                let message = format!("Invalid '{param}': at most {MAX_DOMAINS} are allowed.");
                return Err(ApiError::invalid_value(param, message));
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            let name = domain.trim_matches('.');
            if name.is_empty() || domain.len() > 253 || !domain.chars().all(plain) {
                let param = format!("{param}[{index}]");
                let message = format!(
                    "Invalid '{param}': expected a domain such as 'example.com', without 'https://' and path."
                );
                return Err(ApiError::invalid_value(param, message));
            }
            options.domains.push(name.to_ascii_lowercase());
        }
        Ok(options)
    }

    fn place(&mut self, place: &UserLocation, at: &str) -> Result<(), ApiError> {
        let country = place.country.as_deref().filter(|country| !country.is_empty());
        if let Some(country) = country {
            if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                let param = format!("{at}.country");
                let message =
                    format!("Invalid '{param}': expected an ISO code of two letters, such as 'US'.");
                return Err(ApiError::invalid_value(param, message));
            }
            self.country = Some(country.to_ascii_uppercase());
        }
        let parts = [&place.city, &place.region].into_iter().flatten();
        let parts: Vec<String> =
            parts.map(|part| tidy(part, MAX_PLACE)).filter(|part| !part.is_empty()).collect();
        self.location = (!parts.is_empty()).then(|| parts.join(", "));
        Ok(())
    }

    /// Returns the query for these words.
    pub fn query(&self, text: &str) -> SearchQuery {
        let results = match self.size {
            ContextSize::Low => 3,
            ContextSize::Medium => 5,
            ContextSize::High => 10,
        };
        SearchQuery {
            text: text.to_owned(),
            country: self.country.clone(),
            location: self.location.clone(),
            domains: self.domains.clone(),
            results,
        }
    }
}

impl WebSearchOptions {
    /// Checks the fields.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(&self) -> Result<SearchOptions, ApiError> {
        let at = "web_search_options";
        let place = self.user_location.as_ref().map(|place| &place.approximate);
        SearchOptions::new(
            self.search_context_size,
            place,
            None,
            at,
            &format!("{at}.user_location.approximate"),
        )
    }
}

/// Returns the tool in the form of the response object.
pub fn shown(
    kind: &str,
    size: Option<ContextSize>,
    place: Option<&UserLocation>,
    filters: Option<&SearchFilters>,
) -> Value {
    let mut shown = json!({
        "type": kind, "search_context_size": size.unwrap_or_default(), "user_location": place,
    });
    if !kind.contains("preview") {
        shown["filters"] = json!(filters);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(value: Value) -> Result<SearchOptions, String> {
        let place: Option<UserLocation> = serde_json::from_value(value["place"].clone()).unwrap();
        let filters: Option<SearchFilters> = serde_json::from_value(value["filters"].clone()).unwrap();
        SearchOptions::new(None, place.as_ref(), filters.as_ref(), "t", "p")
            .map_err(|error| error.param().unwrap_or_default().to_owned())
    }

    #[test]
    fn places_and_domains_go_into_the_query() {
        let given = json!({
            "place": {"type": "approximate", "country": "us", "city": "San\nFrancisco", "region": "California"},
            "filters": {"allowed_domains": ["Example.com", "a.b"]},
        });
        let query = options(given).unwrap().query("x");
        assert_eq!(query.country.as_deref(), Some("US"));
        assert_eq!(query.location.as_deref(), Some("San Francisco, California"));
        assert_eq!((query.domains, query.results), (vec!["example.com".to_owned(), "a.b".to_owned()], 5));
        assert_eq!(options(json!({})).unwrap(), SearchOptions::default());
    }

    #[test]
    fn errors_name_the_invalid_field() {
        for (given, param) in [
            (json!({"place": {"country": "USA"}}), "p.country"),
            (
                json!({"filters": {"allowed_domains": ["ok.example", "https://a"]}}),
                "t.filters.allowed_domains[1]",
            ),
            (json!({"filters": {"allowed_domains": ["a) OR (b"]}}), "t.filters.allowed_domains[0]"),
            (json!({"filters": {"allowed_domains": [""]}}), "t.filters.allowed_domains[0]"),
            (json!({"filters": {"allowed_domains": vec!["a"; 21]}}), "t.filters.allowed_domains"),
        ] {
            assert_eq!(options(given.clone()), Err(param.to_owned()), "{given}");
        }
        assert!(serde_json::from_value::<UserLocation>(json!({"type": "exact"})).is_err());
        assert!(serde_json::from_value::<WebSearchOptions>(json!({"search_context_size": "huge"})).is_err());
        assert!(
            serde_json::from_value::<WebSearchOptions>(json!({"user_location": {"type": "approximate"}}))
                .is_err()
        );
    }
}
