//! HTTP to upstreams: the configured addresses only, no redirects, verified certificates, bounded bodies.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde_json::Value;

use super::breaker::Failure;
use super::refusal::{Asked, TryError};
use crate::config::{Upstream, UpstreamConfig};
use crate::start_error::StartError;

/// Maximum size of a body that refuses.
const MAX_REFUSAL: usize = 64 << 10;
/// Longest pause that an upstream can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Maximum number of idle connections that are kept to an upstream.
const MAX_IDLE: usize = 64;

/// The client of all upstreams.
///
/// # Errors
/// No TLS, e.g. because the system has no root certificates.
pub fn client(config: &UpstreamConfig) -> Result<reqwest::Client, StartError> {
    reqwest::Client::builder()
        // A redirect would send prompts and the key to another server.
        .redirect(reqwest::redirect::Policy::none())
        // Nor does a variable of the environment decide where they go.
        .no_proxy()
        .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .pool_max_idle_per_host(MAX_IDLE)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("jan-server/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| StartError::Config(format!("models: no HTTP client for upstreams: {error}")))
}

/// The address of an upstream, with its key.
#[derive(Clone)]
pub struct Address {
    /// The base of its API, without a slash at the end.
    base: String,
    key: Option<HeaderValue>,
    client: reqwest::Client,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Address {
    /// The address of an upstream of the model `id`. Reads its key.
    ///
    /// # Errors
    /// The key cannot be read; names the setting.
    pub fn new(
        id: &str,
        number: usize,
        upstream: &Upstream,
        client: reqwest::Client,
    ) -> Result<Self, StartError> {
        let refuse = |field: &str, problem: String| {
            StartError::Config(format!("models: `{id}`: upstreams[{number}].{field}: {problem}"))
        };
        let key = match (&upstream.key_file, &upstream.key_env) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err(refuse("key_env", "`key_file` is set as well; remove one of them".to_owned()));
            }
            (Some(path), None) => {
                let read = std::fs::read_to_string(path);
                let problem = |error| refuse("key_file", format!("cannot read {}: {error}", path.display()));
                Some(("key_file", read.map_err(problem)?))
            }
            (None, Some(name)) => {
                let problem = |error| refuse("key_env", format!("the environment variable {name}: {error}"));
                Some(("key_env", std::env::var(name).map_err(problem)?))
            }
        };
        let header = |(field, key): (&str, String)| -> Result<HeaderValue, StartError> {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.trim()));
            let mut value = value.ok().filter(|_| !key.trim().is_empty()).ok_or_else(|| {
                refuse(
                    field,
                    "it has no key that can be sent; it takes one line of visible characters".to_owned(),
                )
            })?;
            value.set_sensitive(true);
            Ok(value)
        };
        let base = upstream.url.trim_end_matches('/').to_owned();
        Ok(Self { base, key: key.map(header).transpose()?, client })
    }

    /// Returns the base of its API.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns `true` if a key would be sent to another machine in the clear.
    #[must_use]
    pub fn sends_key_in_the_clear(&self) -> bool {
        let host = self.base.strip_prefix("http://").unwrap_or_default();
        let is_here = ["localhost", "127.", "[::1]"].iter().any(|here| host.starts_with(here));
        self.key.is_some() && !host.is_empty() && !is_here
    }

    /// Returns its root, where the routes lie that are not OpenAI's.
    fn root(&self) -> &str {
        self.base.strip_suffix("/v1").unwrap_or(&self.base)
    }

    /// Posts a body to a route of its API, and returns the answer once its head is there and good.
    ///
    /// # Errors
    /// No answer until `deadline`, or a refusal.
    pub async fn post(
        &self,
        route: &str,
        body: &Value,
        request_id: &str,
        deadline: Instant,
        asked: Asked<'_>,
    ) -> Result<reqwest::Response, TryError> {
        let url = format!("{}{route}", self.base);
        self.send(self.client.post(url), Some(body), request_id, deadline, asked).await
    }

    /// Posts a body to a route beside its API.
    ///
    /// # Errors
    /// As of [`post`](Self::post).
    pub async fn post_to_root(
        &self,
        route: &str,
        body: &Value,
        request_id: &str,
        deadline: Instant,
        asked: Asked<'_>,
    ) -> Result<reqwest::Response, TryError> {
        let url = format!("{}{route}", self.root());
        self.send(self.client.post(url), Some(body), request_id, deadline, asked).await
    }

    /// Gets a route of its API.
    ///
    /// # Errors
    /// As of [`post`](Self::post).
    pub async fn get(
        &self,
        route: &str,
        deadline: Instant,
        asked: Asked<'_>,
    ) -> Result<reqwest::Response, TryError> {
        let url = format!("{}{route}", self.base);
        self.send(self.client.get(url), None, "", deadline, asked).await
    }

    async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        body: Option<&Value>,
        request_id: &str,
        deadline: Instant,
        asked: Asked<'_>,
    ) -> Result<reqwest::Response, TryError> {
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        if let Some(body) = body {
            let bytes = serde_json::to_vec(body).map_err(|error| asked.broken(error.to_string()))?;
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(bytes);
        }
        if let Some(id) = HeaderValue::from_str(request_id).ok().filter(|id| !id.is_empty()) {
            request = request.header("x-request-id", id);
        }
        let request = request.header(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        let answer = match tokio::time::timeout_at(deadline.into(), request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(asked.unreachable(Failure::Unreachable, chain(&error.without_url())));
            }
            Err(_) => return Err(asked.unreachable(Failure::Stalled, "no answer in time".to_owned())),
        };
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(answer);
        }
        let retry_after = retry_after(answer.headers());
        let until = deadline.min(Instant::now() + Duration::from_secs(5));
        // The status alone is enough where the body does not come.
        let body = bounded(answer, MAX_REFUSAL, until, asked).await.unwrap_or_default();
        Err(asked.refused(status, retry_after, &body))
    }
}

/// Returns the whole body of an answer, of `most` bytes at most.
///
/// # Errors
/// It is longer, is cut, or does not come until `deadline`.
pub async fn bounded(
    mut answer: reqwest::Response,
    most: usize,
    deadline: Instant,
    asked: Asked<'_>,
) -> Result<Vec<u8>, TryError> {
    let mut body = Vec::new();
    loop {
        match tokio::time::timeout_at(deadline.into(), answer.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > most => {
                return Err(asked.broken(format!("its answer is longer than {most} bytes")));
            }
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(body),
            Ok(Err(error)) => {
                return Err(asked.unreachable(Failure::Unreachable, chain(&error.without_url())));
            }
            Err(_) => return Err(asked.unreachable(Failure::Stalled, "its answer does not end".to_owned())),
        }
    }
}

/// Returns an error with its causes.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns the delay that is asked for in seconds (RFC 9110, section 10.2.3); a date is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(key_file: Option<&std::path::Path>, key_env: Option<&str>) -> Upstream {
        Upstream {
            url: "http://gpu1:8000/v1/".to_owned(),
            model: None,
            kind: crate::config::UpstreamKind::Auto,
            key_file: key_file.map(Into::into),
            key_env: key_env.map(Into::into),
            max_in_flight: 1,
            weight: 1,
        }
    }

    fn address(upstream: &Upstream) -> Result<Address, String> {
        Address::new("m", 1, upstream, reqwest::Client::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_come_from_files_and_variables_and_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "sk-secret\n").unwrap();
        let known = address(&upstream(Some(&file), None)).unwrap();
        assert_eq!(known.key.as_ref().unwrap().as_bytes(), b"Bearer sk-secret");
        assert!(!format!("{known:?} {:?}", known.key).contains("sk-secret"));
        assert!(known.sends_key_in_the_clear());
        assert_eq!((known.base(), known.root()), ("http://gpu1:8000/v1", "http://gpu1:8000"));
        std::fs::write(&file, "two\nlines").unwrap();
        for (refused, field) in [
            (upstream(Some(&file), None), "upstreams[1].key_file"),
            (upstream(Some(std::path::Path::new("/no/such")), None), "upstreams[1].key_file"),
            (upstream(None, Some("JAN_NO_SUCH_VARIABLE")), "upstreams[1].key_env"),
            (upstream(Some(&file), Some("PATH")), "upstreams[1].key_env"),
        ] {
            let error = address(&refused).unwrap_err();
            assert!(error.contains(field) && error.contains("`m`"), "{error}");
        }
        assert!(address(&upstream(None, None)).unwrap().key.is_none());
    }
}
