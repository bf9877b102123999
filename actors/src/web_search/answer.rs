//! Conversion of the service's answer into results. The answer is untrusted.

use std::collections::HashSet;

use reqwest::Url;
use serde_json::Value;

use super::types::{Found, SearchQuery, WebResult, WebSource, tidy};

/// Maximum length of a title in characters.
const TITLE: usize = 200;
/// Maximum length of a snippet in characters.
const SNIPPET: usize = 500;
/// Maximum length of a date in characters.
const DATE: usize = 40;
/// Maximum length of an address in bytes.
const URL: usize = 2000;
/// Maximum number of credits that an answer may claim; no search costs as much.
const MAX_CREDITS: u64 = 100;

/// Parses an answer and returns its usable results and their cost.
///
/// # Errors
/// A description of the problem with the answer as a whole. An unusable result is left out.
pub fn read(body: &[u8], query: &SearchQuery) -> Result<(Found, u32), &'static str> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "it is not JSON")?;
    let organic = answer.get("organic").ok_or("it has no list of results")?;
    let organic = organic.as_array().ok_or("its list of results is none")?;
    let mut seen = HashSet::new();
    let most = usize::try_from(query.results).unwrap_or(usize::MAX);
    // A direct answer, if there is one, precedes the pages.
    let direct = answer.get("answerBox").into_iter();
    let results = direct
        .chain(organic)
        .filter_map(|result| read_result(result, query))
        .filter(|result| seen.insert(result.source.url.clone()))
        .take(most);
    let credits = answer.get("credits").and_then(Value::as_u64).unwrap_or(1).clamp(1, MAX_CREDITS);
    Ok((Found { results: results.collect() }, u32::try_from(credits).unwrap_or(1)))
}

fn read_result(result: &Value, query: &SearchQuery) -> Option<WebResult> {
    let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
    let address = text("link");
    if address.len() > URL {
        return None;
    }
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str()?;
    if !query.allows(host) {
        return None;
    }
    let mut title = tidy(text("title"), TITLE);
    if title.is_empty() {
        title = host.to_owned();
    }
    let answer = tidy(text("answer"), SNIPPET);
    let snippet = if answer.is_empty() { tidy(text("snippet"), SNIPPET) } else { answer };
    let date = Some(tidy(text("date"), DATE)).filter(|date| !date.is_empty());
    Some(WebResult { source: WebSource { url: url.into(), title }, snippet, date })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn query(results: u32, domains: &[&str]) -> SearchQuery {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        SearchQuery { text: "x".to_owned(), results, domains, ..SearchQuery::default() }
    }

    fn results(answer: &Value, query: &SearchQuery) -> Vec<WebResult> {
        read(answer.to_string().as_bytes(), query).unwrap().0.results
    }

    #[test]
    fn results_are_read_and_unusable_ones_left_out() {
        let answer = json!({
            "searchParameters": {"q": "x"}, "credits": 2,
            "answerBox": {"title": "Direct", "answer": "42", "snippet": "no", "link": "https://d.example/"},
            "organic": [
                {"title": " A\nb\u{7} ", "link": "https://a.example/p?q=1", "snippet": "s", "date": "May 1, 2025"},
                {"title": "again", "link": "https://a.example/p?q=1"},
                {"link": "https://no-title.example/"},
                {"title": "script", "link": "javascript:alert(1)"},
                {"title": "none"}, 7, null, {"title": 1, "link": {"a": 1}},
            ],
        });
        let found = results(&answer, &query(10, &[]));
        let short: Vec<(&str, &str)> =
            found.iter().map(|one| (one.source.title.as_str(), one.snippet.as_str())).collect();
        assert_eq!(short, [("Direct", "42"), ("A b", "s"), ("no-title.example", "")]);
        assert_eq!(found[1].date.as_deref(), Some("May 1, 2025"));
        assert_eq!(read(answer.to_string().as_bytes(), &query(1, &[])).unwrap().1, 2);
        assert_eq!(results(&answer, &query(2, &[])).len(), 2);
    }

    #[test]
    fn domains_match_their_subdomains_only() {
        let link = |url: &str| json!({"title": "t", "link": url});
        let answer = json!({"organic": [
            link("https://a.example/"), link("https://www.A.example/"), link("https://ba.example/"),
            link("https://a.example.evil.example/"), link("https://b.example/?a.example"),
        ]});
        let found = results(&answer, &query(10, &["a.example"]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn invalid_answers_are_described() {
        for wrong in ["", "null", "[]", "{}", "{\"organic\": 1}", "<html>", "{\"organic\": [", "\"organic\""]
        {
            assert!(read(wrong.as_bytes(), &query(1, &[])).is_err(), "{wrong}");
        }
        let deep = format!("{{\"organic\": {}", "[".repeat(100_000));
        assert!(read(deep.as_bytes(), &query(1, &[])).is_err());
    }

    proptest! {
        #[test]
        fn results_are_bounded(
            title in ".{0,600}", snippet in "(?s).{0,1200}", link in "(https?://[a-z.]{1,20}/.{0,30}|.{0,40})",
            count in 0usize..30, most in 0u32..12, credits in any::<i64>(),
        ) {
            let one = json!({"title": title, "snippet": snippet, "link": link});
            let mut organic = vec![one; count];
            for (number, result) in organic.iter_mut().enumerate() {
                result["link"] = json!(format!("{}{number}", result["link"].as_str().unwrap()));
            }
            let answer = json!({"organic": organic, "credits": credits}).to_string();
            let (found, credits) = read(answer.as_bytes(), &query(most, &[])).unwrap();
            prop_assert!(found.results.len() <= most as usize && (1..=100).contains(&credits));
            for result in found.results {
                prop_assert!(result.source.title.chars().count() <= TITLE);
                prop_assert!(result.snippet.chars().count() <= SNIPPET);
                prop_assert!(!result.snippet.contains(['\n', '\r', '\0']));
                prop_assert!(result.source.url.starts_with("http"));
            }
        }

        #[test]
        fn parser_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, &query(3, &[]));
        }
    }
}
