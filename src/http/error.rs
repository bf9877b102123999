//! Errors in OpenAI's format.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jan_actors::limits::RateLimitDecision;
use serde::Serialize;
use utoipa::ToSchema;
use warp::Reply;

use super::Response;

/// Maximum length of a message, in bytes: a caller's own megabytes must not be echoed.
const MESSAGE_LIMIT: usize = 1000;

/// An error as returned to the caller.
///
/// Source: the `ErrorResponse` schema of OpenAI's API description.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<String>,
    retry_after: Option<Duration>,
    header: Option<Header>,
    retry_is_useless: bool,
    /// The state of the bucket that refused. Boxed, since errors are returned by value everywhere.
    verdict: Option<Box<RateLimitDecision>>,
}

/// A header that accompanies the status.
#[derive(Clone, Debug, PartialEq)]
enum Header {
    /// The permitted methods, with 405.
    Allow(Arc<str>),
    /// The authentication challenge (RFC 6750 section 3), with 401 and 403.
    Challenge(&'static str),
    /// `Accept-Encoding: identity`, with 415 (RFC 9110, section 12.5.3).
    AcceptIdentity,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorResponse<'a> {
    /// The error.
    #[schema(inline)]
    pub error: ErrorBody<'a>,
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// A description of the error, the allowed values and the remedy.
    pub message: Cow<'a, str>,
    /// The type: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: &'a str,
    /// The invalid field, e.g. `messages[0].content`.
    #[schema(example = "messages[0].content")]
    pub param: Option<&'a str>,
    /// A stable code for programs.
    #[schema(example = "invalid_value")]
    pub code: &'a str,
    /// The request's id, as in the `X-Request-Id` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: shorten(message.into()),
            param: None,
            retry_after: None,
            header: None,
            retry_is_useless: false,
            verdict: None,
        }
    }

    /// 400 `invalid_json`: the body is not JSON.
    pub fn invalid_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// 400 `invalid_value`: a field's value is not allowed.
    pub fn invalid_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).with_param(param)
    }

    /// 400 `invalid_type`: a field has the wrong type. Without `param` it is the body as a whole.
    pub fn invalid_type(param: Option<String>, message: impl Into<String>) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_type", message) }
    }

    /// 400 `missing_required_parameter`.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        Self::new(StatusCode::BAD_REQUEST, "missing_required_parameter", message).with_param(param)
    }

    /// 400 `unsupported_parameter`: a field of the API that this server does not support.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).with_param(param)
    }

    /// 404 `model_not_found`.
    #[must_use]
    pub fn model_not_found(model: &str) -> Self {
        // OpenAI's words, which gateways match on.
        let message = format!(
            "The model `{model}` does not exist or you do not have access to it. GET /v1/models lists the models."
        );
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
    }

    /// 404 `unknown_url`.
    #[must_use]
    pub fn unknown_url(method: &str, path: &str) -> Self {
        let path = without_token(path);
        Self::new(StatusCode::NOT_FOUND, "unknown_url", format!("Invalid URL ({method} {path})"))
    }

    /// 400 `invalid_host`: an HTTP/1.1 request names no host, or several (RFC 9112, section 3.2).
    #[must_use]
    pub fn invalid_host() -> Self {
        let message = "An HTTP/1.1 request needs exactly one 'Host' header; send one.";
        Self::new(StatusCode::BAD_REQUEST, "invalid_host", message).with_param("Host")
    }

    /// 405 `method_not_allowed`, with the `Allow` header.
    #[must_use]
    pub fn method_not_allowed(method: &str, path: &str, allow: &Arc<str>) -> Self {
        let path = without_token(path);
        let message = format!("Not allowed to {method} on {path}; allowed: {allow}.");
        Self {
            header: Some(Header::Allow(Arc::clone(allow))),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        }
    }

    /// 408 `request_timeout`: the body did not arrive in time.
    #[must_use]
    pub fn request_timeout(limit: Duration) -> Self {
        let message = format!("The request's body did not arrive within {limit:?}.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 413 `request_too_large`. `limit` is the exceeded amount with its unit, `setting` the name of the setting that
    /// defines it.
    #[must_use]
    pub fn request_too_large(limit: &str, setting: &str) -> Self {
        let message = format!("The request's body exceeds {limit}, the maximum for this path (`{setting}`).");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// 415 `unsupported_media_type`.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// 500 `internal_error`.
    #[must_use]
    pub fn internal() -> Self {
        let message = "The server had an error while processing the request; its log has the cause.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// 503 `shutting_down`.
    #[must_use]
    pub fn shutting_down() -> Self {
        Self::unavailable("shutting_down", "The server is stopping; try again soon.", Duration::from_secs(5))
    }

    pub(crate) fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(shorten(param.into()));
        self
    }

    /// Adds `x-should-retry: false`, which stops OpenAI's SDKs from retrying.
    pub(crate) fn not_to_be_retried(self) -> Self {
        Self { retry_is_useless: true, ..self }
    }

    /// Adds `Retry-After`.
    pub(crate) fn with_retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Returns the stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Adds `Accept-Encoding: identity`: bodies are accepted uncompressed.
    pub(crate) fn accepting_identity(self) -> Self {
        Self { header: Some(Header::AcceptIdentity), ..self }
    }

    /// Adds `WWW-Authenticate`.
    pub(crate) fn with_challenge(self, challenge: &'static str) -> Self {
        Self { header: Some(Header::Challenge(challenge)), ..self }
    }

    /// 429 `rate_limit_exceeded` with `Retry-After`, and the headers of the exhausted bucket.
    #[must_use]
    pub fn rate_limited(verdict: &RateLimitDecision) -> Self {
        let wait = verdict.retry_after.unwrap_or(Duration::from_secs(1));
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let limit = verdict
            .nearest
            .map_or_else(String::new, |bucket| format!(": limit {} {}", bucket.limit, bucket.name.text()));
        // OpenAI's words, which gateways match on.
        let message = format!("Rate limit reached{limit}. Please try again in {}s.", seconds.max(1));
        Self {
            retry_after: Some(wait),
            verdict: Some(Box::new(*verdict)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        }
    }

    /// 429 `rate_limit_exceeded` for answers per minute, which have no headers: the headers continue to show the other
    /// buckets.
    #[must_use]
    pub fn answers_limited(answers: usize, limit: u32, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let message = format!(
            "Rate limit reached: limit {limit} answers a minute, requested {answers}. Please try again in {}s.",
            seconds.max(1)
        );
        Self {
            retry_after: Some(wait),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        }
    }

    /// Returns whether the message may contain parts of the request or of an answer.
    #[must_use]
    pub fn may_quote(&self) -> bool {
        self.status.is_client_error() || self.code == "invalid_output"
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the invalid field.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// Returns the JSON body.
    #[must_use]
    pub fn to_json(&self, request_id: Option<&str>) -> Vec<u8> {
        let error = ErrorBody {
            message: Cow::Borrowed(&self.message),
            kind: self.kind(),
            param: self.param.as_deref(),
            code: self.code,
            request_id,
        };
        serde_json::to_vec(&ErrorResponse { error }).expect("texts serialize")
    }

    /// Adds the headers of the error.
    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, RFC 9110 section 10.2.3; 0 would invite a busy loop.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        match &self.header {
            Some(Header::Allow(methods)) => {
                let methods = HeaderValue::from_str(methods);
                headers.insert(ALLOW, methods.expect("names of methods may stand in a header"));
            }
            Some(Header::AcceptIdentity) => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            Some(Header::Challenge(challenge)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            None => {}
        }
        if self.retry_is_useless {
            // OpenAI's SDKs retry every 500 unless this header forbids it.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(verdict) = &self.verdict {
            super::limits::add_headers(verdict, headers);
        }
    }
}

impl Reply for ApiError {
    /// Builds status and headers; the error itself is attached as an extension, because the body contains the request's
    /// id, which the edge knows.
    fn into_response(self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = self.status;
        self.add_headers(response.headers_mut());
        response.extensions_mut().insert(self);
        response
    }
}

pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn shorten(text: String) -> String {
    if text.len() > MESSAGE_LIMIT { format!("{}…", prefix(&text, MESSAGE_LIMIT)) } else { text }
}

/// Returns the longest prefix of `text` that has whole characters and at most `limit` bytes.
pub(super) fn prefix(text: &str, limit: usize) -> &str {
    let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
    &text[..ends.take_while(|end| *end <= limit).last().unwrap_or(0)]
}

/// Returns a path for logs and messages: without the token of a share link, which is a secret of those who have the
/// link.
pub fn without_token(path: &str) -> &str {
    path.find("/shared/").map_or(path, |place| &path[..place + "/shared/".len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_openais() {
        let error = ApiError::invalid_value("top_p", "no");
        let body: serde_json::Value = serde_json::from_slice(&error.to_json(Some("r-1"))).unwrap();
        let expected = serde_json::json!({"error": {
            "message": "no", "type": "invalid_request_error", "param": "top_p",
            "code": "invalid_value", "request_id": "r-1",
        }});
        assert_eq!(body, expected);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let error = ApiError::invalid_json("ä".repeat(5000));
        assert!(error.message().len() <= MESSAGE_LIMIT + '…'.len_utf8());
    }
}
