//! Rate-limit headers. There is no standard yet; these names are the most common ones.

use http::{HeaderMap, HeaderName, HeaderValue};
use jan_actors::limits::RateLimitDecision;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Adds the state of the bucket that is closest to its limit, unless a refusal has added its own.
pub fn add_headers(verdict: &RateLimitDecision, headers: &mut HeaderMap) {
    let Some(bucket) = verdict.nearest.filter(|_| !headers.contains_key(LIMIT)) else { return };
    headers.insert(LIMIT, HeaderValue::from(bucket.limit));
    headers.insert(REMAINING, HeaderValue::from(bucket.remaining));
    headers.insert(RESET, HeaderValue::from(bucket.reset_epoch_s));
}

#[cfg(test)]
mod tests {
    use jan_actors::limits::{BucketView, LimitName};

    use super::*;

    #[test]
    fn the_first_verdict_stays() {
        let verdict = |limit| RateLimitDecision {
            allowed: true,
            nearest: Some(BucketView {
                name: LimitName::Requests,
                limit,
                remaining: 3,
                reset_epoch_s: 1609459200,
            }),
            retry_after: None,
        };
        let mut headers = HeaderMap::new();
        add_headers(&RateLimitDecision::UNLIMITED, &mut headers);
        assert!(headers.is_empty());
        add_headers(&verdict(1000), &mut headers);
        add_headers(&verdict(60), &mut headers);
        assert_eq!(headers["X-RateLimit-Limit"], "1000");
        assert_eq!(headers["X-RateLimit-Remaining"], "3");
        assert_eq!(headers["X-RateLimit-Reset"], "1609459200");
    }
}
