//! Client of the service: each request has a size limit for its answer and follows no redirect, and all tries of a search
//! together have a time limit, so that no behaviour of the service affects more than one search.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::answer;
use super::config::WebSearchConfig;
use super::retry;
use super::types::{Found, SearchError, SearchQuery};

/// Maximum size of an answer in bytes. Ten results take about 10 KiB.
const ANSWER_LIMIT: usize = 1 << 20;
/// Maximum length of the service's error text in the log.
const LOGGED: usize = 200;

/// A client of the service.
#[derive(Debug, Default)]
pub struct Client {
    /// Created at the first search: TLS and its root certificates are megabytes that most servers never need.
    http: OnceLock<reqwest::Client>,
}

#[derive(Debug, Serialize)]
struct Asked<'a> {
    q: &'a str,
    num: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    gl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
}

/// A failed try.
#[derive(Debug)]
struct Failure {
    error: SearchError,
    is_worth_another: bool,
    retry_after: Option<Duration>,
}

impl Failure {
    const fn last(error: SearchError) -> Self {
        Self { error, is_worth_another: false, retry_after: None }
    }
}

impl Client {
    /// Searches; returns the results and their cost.
    ///
    /// # Errors
    /// The reason why the search failed. Returns within the time limit of the settings.
    pub async fn search(
        &self,
        config: &WebSearchConfig,
        query: &SearchQuery,
    ) -> Result<(Found, u32), SearchError> {
        let key = config.api_key.as_deref().ok_or(SearchError::NotConfigured)?;
        let limit = Duration::from_millis(config.timeout_ms);
        let tries = self.tries(config, key, query, Instant::now() + limit);
        tokio::time::timeout(limit, tries).await.unwrap_or(Err(SearchError::Timeout(limit)))
    }

    async fn tries(
        &self,
        config: &WebSearchConfig,
        key: &str,
        query: &SearchQuery,
        ends: Instant,
    ) -> Result<(Found, u32), SearchError> {
        let mut failed = 0;
        loop {
            let failure = match self.one_try(config, key, query).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = retry::wait(failed, fastrand::f64(), failure.retry_after);
            // A wait that exceeds the time limit would hide the cause behind a timeout.
            let in_time = Instant::now() + wait < ends;
            if !failure.is_worth_another || failed >= config.retries || !in_time {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, ?wait, "a web search is tried again");
            tokio::time::sleep(wait).await;
            failed += 1;
        }
    }

    async fn one_try(
        &self,
        config: &WebSearchConfig,
        key: &str,
        query: &SearchQuery,
    ) -> Result<(Found, u32), Failure> {
        let words = query.in_operators();
        let asked = Asked {
            q: &words,
            num: query.results,
            gl: query.country.as_ref().map(|country| country.to_ascii_lowercase()),
            location: query.location.as_deref(),
        };
        let url = format!("{}/search", config.base_url.trim_end_matches('/'));
        let mut key_header = reqwest::header::HeaderValue::from_str(key)
            .map_err(|_| Failure::last(SearchError::KeyRefused(0)))?;
        key_header.set_sensitive(true);
        let request = self.http()?.post(url).header("X-API-KEY", key_header).json(&asked);
        let unreachable = |error: reqwest::Error| {
            tracing::debug!(error = %error.without_url(), "the search service cannot be reached");
            Failure { error: SearchError::Unreachable, is_worth_another: true, retry_after: None }
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                return Err(Failure::last(SearchError::Invalid("it is longer than 1 MiB")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return answer::read(&body, query)
                .map_err(|problem| Failure::last(SearchError::Invalid(problem)));
        }
        let said: String = String::from_utf8_lossy(&body).chars().take(LOGGED).collect();
        tracing::debug!(
            status = status.as_u16(),
            said = said.replace(key, "***"),
            "the search service refused"
        );
        Err(refusal(status.as_u16(), retry_after))
    }

    fn http(&self) -> Result<reqwest::Client, Failure> {
        if let Some(client) = self.http.get() {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder()
            // A redirect would send the key to another server.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("jan-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                tracing::error!(%error, "no HTTP client could be made");
                Failure::last(SearchError::Unreachable)
            })?;
        Ok(self.http.get_or_init(|| client).clone())
    }
}

fn refusal(status: u16, retry_after: Option<Duration>) -> Failure {
    let error = match status {
        401 | 403 => SearchError::KeyRefused(status),
        _ if retry::is_worth_it(status) => SearchError::Unavailable(status),
        300..=399 => SearchError::Invalid("it is a redirect"),
        _ => SearchError::Refused(status),
    };
    Failure { error, is_worth_another: retry::is_worth_it(status), retry_after }
}

/// Returns the delay that the service requests in seconds (RFC 9110 section 10.2.3); a date is ignored.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
