//! Parsing of requests and construction of responses, shared by all resources.

use std::collections::BTreeSet;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jan_actors::identity::UserId;
use jan_actors::model::Continuation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::json::Parsed;
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Returns 200 with a value as JSON.
pub fn json<T: Serialize>(value: &T) -> Response {
    let body = serde_json::to_vec(value).expect("wire types serialize");
    let mut response = http::Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns a value as JSON that caches must not store, since it concerns an account (RFC 6749 section 5.1).
pub fn private<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut response = json(value);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads a JSON body.
pub async fn read<T: DeserializeOwned + Send + 'static>(request: ApiRequest) -> Result<Parsed<T>, ApiError> {
    request.read(&[], Ok).await
}

/// Parses a query in which each parameter occurs at most once.
pub fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    let message = "The query cannot be parsed, or repeats a parameter.";
    serde_urlencoded::from_str(query).map_err(|_| ApiError::bad_request("invalid_query", message))
}

/// Returns the user of the request's credential. Routes that call this also require a user by their declaration; this
/// is the second check.
///
/// # Errors
/// 401 without a user.
pub fn user_of(context: &RequestContext) -> Result<UserId, ApiError> {
    context.caller.principal.user().ok_or_else(ApiError::credential_required)
}

/// Names the ignored fields in a header, so that a misspelt one is noticed.
pub fn name_ignored(response: &mut Response, ignored: &[String]) {
    if !ignored.is_empty() {
        let names = HeaderValue::from_str(&ignored.join(", ")).expect("the names are printable ASCII");
        response.headers_mut().insert("x-ignored-fields", names);
    }
}

/// Names the keywords of schemas that were not enforced during generation in a header; finished answers are checked for
/// them.
pub fn name_unenforced(response: &mut Response, keywords: &BTreeSet<&'static str>) {
    if !keywords.is_empty() {
        let names = keywords.iter().copied().collect::<Vec<_>>().join(", ");
        let names = HeaderValue::from_str(&names).expect("the names are keywords of JSON Schema");
        response.headers_mut().insert("x-unenforced-schema", names);
    }
}

/// Names in a header how the answer is continued after the loss of a worker or upstream.
pub fn name_continuation(response: &mut Response, continuation: Option<Continuation>) {
    if let Some(continuation) = continuation {
        response.headers_mut().insert("x-jan-resume", HeaderValue::from_static(continuation.name()));
    }
}
