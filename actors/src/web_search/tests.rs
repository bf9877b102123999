//! The handle, against a service on a real socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::types::tidy;
use super::*;

const FOUND: &str =
    r#"{"organic": [{"title": "T", "link": "https://a.example/", "snippet": "S"}], "credits": 1}"#;

/// Answers one request after the other with these (status, headers, body); the last one is repeated.
async fn service(answers: Vec<(u16, &'static str, String)>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let (status, headers, body) = answers[number.min(answers.len() - 1)].clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
            });
        }
    });
    (url, asked)
}

fn search(base_url: String) -> WebSearch {
    WebSearch::new(WebSearchConfig {
        base_url,
        api_key: Some("secret-key".to_owned()),
        timeout_ms: 20_000,
        ..WebSearchConfig::default()
    })
}

fn query(text: &str) -> SearchQuery {
    SearchQuery { text: text.to_owned(), results: 5, ..SearchQuery::default() }
}

#[tokio::test]
async fn cached_results_cost_nothing() {
    let (url, asked) = service(vec![(200, "", FOUND.to_owned())]).await;
    let web = WebSearch::new(WebSearchConfig { credits_per_user_per_day: 1, ..search(url).config().clone() });
    assert_eq!(web.health(), SearchHealth::Unknown);
    let found = web.search("a", query("x  y")).await.unwrap();
    assert_eq!(found.results[0].source.title, "T");
    assert_eq!(web.search("a", query(" x\ny ")).await.unwrap(), found);
    assert!(matches!(web.search("a", query("z")).await, Err(SearchError::Spent { .. })));
    assert!(matches!(web.check("a").await, Err(SearchError::Spent { .. })));
    assert!(web.search("b", query("z")).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(web.health(), SearchHealth::Healthy);
}

#[tokio::test]
async fn transient_failures_are_retried_and_others_are_not() {
    let busy = (429, "Retry-After: 0\r\n", String::new());
    let (url, asked) = service(vec![busy, (503, "", String::new()), (200, "", FOUND.to_owned())]).await;
    assert!(search(url).search("a", query("x")).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    for (status, error) in [(403, SearchError::KeyRefused(403)), (400, SearchError::Refused(400))] {
        let (url, asked) = service(vec![(status, "", "secret-key".to_owned())]).await;
        let outcome = search(url).search("a", query("x")).await;
        assert!(!outcome.as_ref().unwrap_err().to_string().contains("secret-key"));
        assert_eq!((outcome, asked.load(Ordering::SeqCst)), (Err(error), 1));
    }
}

#[tokio::test]
async fn unreachable_unconfigured_and_hanging_services_are_reported() {
    let none = WebSearch::new(WebSearchConfig::default());
    assert_eq!(none.search("a", query("x")).await, Err(SearchError::NotConfigured));
    assert_eq!(
        (none.check("a").await, none.health()),
        (Err(SearchError::NotConfigured), SearchHealth::NotConfigured)
    );
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let web = search(format!("http://{nobody}"));
    assert_eq!(web.search("a", query("x")).await, Err(SearchError::Unreachable));
    assert_eq!(web.health(), SearchHealth::Degraded);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let web = WebSearch::new(WebSearchConfig { timeout_ms: 50, ..search(silent).config().clone() });
    assert_eq!(web.search("a", query("x")).await, Err(SearchError::Timeout(Duration::from_millis(50))));
}

#[tokio::test]
async fn unusable_answers_cost_nothing_and_are_not_cached() {
    let long = (200, "", "x".repeat(2 << 20));
    let (url, _) = service(vec![long, (200, "", "<html>".to_owned()), (200, "", FOUND.to_owned())]).await;
    let web = WebSearch::new(WebSearchConfig { credits_per_user_per_day: 1, ..search(url).config().clone() });
    for _ in 0..2 {
        assert!(matches!(web.search("a", query("x")).await, Err(SearchError::Invalid(_))));
    }
    assert!(web.search("a", query("x")).await.is_ok());
}

#[test]
fn domains_become_operators() {
    let domains = vec!["a.example".to_owned(), "b.example".to_owned()];
    assert_eq!(SearchQuery { domains, ..query("x") }.in_operators(), "x (site:a.example OR site:b.example)");
}

proptest! {
    #[test]
    fn tidied_texts_are_on_one_line_and_short(text in "(?s).{0,100}", most in 0usize..60) {
        let tidied = tidy(&text, most);
        prop_assert!(tidied.chars().count() <= most);
        prop_assert!(!tidied.contains(['\n', '\t', '\r', '\0']) && !tidied.contains("  "));
        prop_assert_eq!(tidy(&tidied, most), tidied);
    }
}
