//! Cross-origin requests from browsers, <https://fetch.spec.whatwg.org/#http-cors-protocol>. Never with credentials:
//! callers authenticate by header, so an origin's cookies have no effect here.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Request-Id, X-Ignored-Fields, X-Unenforced-Schema, X-Jan-Resume, Retry-After, WWW-Authenticate, \
     X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origins that may call the API.
#[derive(Clone, Debug)]
pub struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Cors {
    /// `*` among `origins` permits any origin.
    pub fn new(origins: &[String]) -> Self {
        Self { any: origins.iter().any(|origin| origin == "*"), origins: origins.to_vec() }
    }

    /// Returns whether this is a browser's preflight rather than a request of its own.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Answers a preflight: sets the headers of an empty response.
    pub fn answer_preflight(&self, request: &HeaderMap, response: &mut HeaderMap) {
        if self.allow(request, response) {
            response.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            // SDKs send custom headers (`x-stainless-…`), so every requested header is permitted.
            let wanted = request.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(ANY);
            response.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
            response.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        }
    }

    /// Adds the headers that every other response to a cross-origin request carries.
    pub fn add_headers(&self, request_origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        if let Some(origin) = request_origin
            && self.allow_origin(origin, response)
        {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    fn allow(&self, request: &HeaderMap, response: &mut HeaderMap) -> bool {
        request.get(ORIGIN).is_some_and(|origin| self.allow_origin(origin, response))
    }

    fn allow_origin(&self, origin: &HeaderValue, response: &mut HeaderMap) -> bool {
        if self.any {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
            return true;
        }
        // The response depends on the origin, so a shared cache must keep the variants apart.
        response.append(VARY, HeaderValue::from_static("Origin"));
        let known = self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
        if known {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(origin: &'static str, allowed: &[&str]) -> HeaderMap {
        let cors = Cors::new(&allowed.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        let mut response = HeaderMap::new();
        cors.add_headers(Some(&HeaderValue::from_static(origin)), &mut response);
        response
    }

    #[test]
    fn origins_are_allowed_as_configured() {
        let any = asked_by("https://a.example", &["*"]);
        assert_eq!(any[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(any.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS) && !any.contains_key(VARY));

        let named = asked_by("https://a.example", &["https://b.example", "https://a.example"]);
        assert_eq!(named[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(named[VARY], "Origin");

        let stranger = asked_by("https://c.example", &["https://a.example"]);
        assert!(!stranger.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && stranger.contains_key(VARY));

        assert!(!asked_by("https://c.example", &[]).contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
