use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::access::Body;

const INFERENCE_BODY_LIMIT_BYTES: u64 = 8 << 20;
/// As many bytes as a conversation may have.
const ITEMS_BODY_LIMIT_BYTES: u64 = 16 << 20;

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// How long running requests may finish after a stop signal (milliseconds).
    pub drain_timeout_ms: u64,
    /// Longest time from a request's first byte to the end of its headers (milliseconds).
    pub header_timeout_ms: u64,
    /// Longest time to receive a request's body (milliseconds); then 408.
    pub body_timeout_ms: u64,
    /// Largest request body of every route but imports (bytes); then 413. Not set: each has its own limit.
    pub body_limit_bytes: Option<u64>,
    /// Largest body of a request about users, keys and sessions (bytes).
    pub account_body_limit_bytes: u64,
    /// Largest body of a request with a model's input (bytes).
    pub inference_body_limit_bytes: u64,
    /// Largest body of a request with a conversation's items (bytes).
    pub items_body_limit_bytes: u64,
    /// Largest import (bytes).
    pub import_limit_bytes: u64,
    /// Most elements of a JSON body; then 413.
    pub body_limit_elements: u64,
    /// Most memory of the bodies of one caller's requests at a time (MiB); then 503.
    pub body_memory_per_caller_mib: u64,
    /// The same of all callers' (MiB).
    pub body_memory_mib: u64,
    /// A stream that has been silent this long gets a comment (milliseconds).
    pub keep_alive_ms: u64,
    /// A connection without a request is closed after this (milliseconds).
    pub idle_timeout_ms: u64,
    /// A client that takes no bytes for this long is cut off (milliseconds).
    pub write_timeout_ms: u64,
    /// Most connections at a time; one more gets 503.
    pub max_connections: usize,
    /// Most connections at a time of one IPv4 address or IPv6 /64; one more gets 503. Trusted proxies are exempt.
    pub max_connections_per_address: usize,
    /// Names that requests without a credential may show on a loopback connection, beside the loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call the API from a browser; `*` is any page with a credential.
    pub cors_allowed_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` counts: addresses and networks.
    pub trusted_proxies: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            drain_timeout_ms: 30_000,
            header_timeout_ms: 15_000,
            body_timeout_ms: 60_000,
            body_limit_bytes: None,
            account_body_limit_bytes: 1 << 20,
            inference_body_limit_bytes: INFERENCE_BODY_LIMIT_BYTES,
            items_body_limit_bytes: ITEMS_BODY_LIMIT_BYTES,
            import_limit_bytes: 64 << 30,
            body_limit_elements: 100_000,
            body_memory_per_caller_mib: 48,
            body_memory_mib: 128,
            keep_alive_ms: 15_000,
            idle_timeout_ms: 120_000,
            write_timeout_ms: 60_000,
            max_connections: 10_000,
            max_connections_per_address: 512,
            allowed_hosts: Vec::new(),
            cors_allowed_origins: vec!["*".to_owned()],
            trusted_proxies: Vec::new(),
        }
    }
}

impl HttpConfig {
    /// [`Self::drain_timeout_ms`] as a duration.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }

    /// [`Self::body_timeout_ms`] as a duration.
    #[must_use]
    pub fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    /// The largest body of a route, and the setting that says so. [`Self::body_limit_bytes`] is the limit of what is large,
    /// unless that has another of its own, and the most for everything that is held in memory.
    #[must_use]
    pub fn body_limit(&self, kind: Body) -> (u64, &'static str) {
        let (own, setting, is_default) = match kind {
            Body::Account => (self.account_body_limit_bytes, "http.account_body_limit_bytes", false),
            Body::Inference => (
                self.inference_body_limit_bytes,
                "http.inference_body_limit_bytes",
                self.inference_body_limit_bytes == INFERENCE_BODY_LIMIT_BYTES,
            ),
            Body::Items => (
                self.items_body_limit_bytes,
                "http.items_body_limit_bytes",
                self.items_body_limit_bytes == ITEMS_BODY_LIMIT_BYTES,
            ),
            Body::Export => return (self.import_limit_bytes, "http.import_limit_bytes"),
        };
        match self.body_limit_bytes {
            Some(limit) if is_default || limit < own => (limit, "http.body_limit_bytes"),
            _ => (own, setting),
        }
    }

    /// [`Self::keep_alive_ms`] as a duration.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }
}
