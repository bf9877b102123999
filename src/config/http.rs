use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::access::Body;

const INFERENCE_BODY_LIMIT_BYTES: u64 = 8 << 20;
/// The same as the maximum size of a conversation.
const ITEMS_BODY_LIMIT_BYTES: u64 = 16 << 20;

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// `host:port` to listen on; port 0 selects a free one.
    pub listen: String,
    /// Time that running requests have to finish after a stop signal (milliseconds).
    pub drain_timeout_ms: u64,
    /// Maximum time from a request's first byte to the end of its headers (milliseconds).
    pub header_timeout_ms: u64,
    /// Maximum time to receive a request's body (milliseconds); then 408.
    pub body_timeout_ms: u64,
    /// Maximum request body of every route but imports (bytes); then 413. `None`: each kind has its own limit.
    pub body_limit_bytes: Option<u64>,
    /// Maximum body of a request about users, keys and sessions (bytes).
    pub account_body_limit_bytes: u64,
    /// Maximum body of a request with a model's input (bytes).
    pub inference_body_limit_bytes: u64,
    /// Maximum body of a request with a conversation's items (bytes).
    pub items_body_limit_bytes: u64,
    /// Maximum size of an import (bytes).
    pub import_limit_bytes: u64,
    /// Maximum number of elements in a JSON body; then 413.
    pub body_limit_elements: u64,
    /// Maximum memory of the bodies of one caller's concurrent requests (MiB); then 503.
    pub body_memory_per_caller_mib: u64,
    /// Maximum memory of the bodies of all callers' concurrent requests (MiB); then 503.
    pub body_memory_mib: u64,
    /// Idle time after which a stream sends a comment (milliseconds).
    pub keep_alive_ms: u64,
    /// Idle time after which a connection without a request is closed (milliseconds).
    pub idle_timeout_ms: u64,
    /// Time without progress after which a client that does not read is disconnected (milliseconds).
    pub write_timeout_ms: u64,
    /// Maximum number of open connections; further ones get 503.
    pub max_connections: usize,
    /// Maximum number of open connections of one IPv4 address or IPv6 /64; further ones get 503. Trusted proxies are
    /// exempt.
    pub max_connections_per_address: usize,
    /// Hosts, besides the loopback ones, that requests without a credential may name on a loopback connection.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call the API from a browser; `*` permits any page that sends a credential.
    pub cors_allowed_origins: Vec<String>,
    /// Addresses and networks of the proxies whose `X-Forwarded-For` is trusted.
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

    /// Returns the maximum body of a route, and the name of the setting that defines it. [`Self::body_limit_bytes`]
    /// replaces the default of the large kinds, but not a limit that was set for them, and caps every kind that is held
    /// in memory.
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
