//! Settings of HTTP and logging.

use super::{HOUR_MS, MILLISECONDS, integer, key};
use crate::config::keys::{Key, Kind};

/// `[http]`
pub const HTTP: &[Key] = &[
    key(
        "http.listen",
        Kind::Address,
        "Address to listen on, as `host:port`; port 0 selects a free one (`--listen`).",
    ),
    key(
        "http.drain_timeout_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "Time that running requests have to finish after SIGTERM or SIGINT; then streams end with an error event. A second signal stops at once.",
    ),
    key(
        "http.header_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time from a request's first byte to the end of its headers, or of HTTP/2's connection preface; then the connection is closed.",
    ),
    key(
        "http.body_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time to receive a request's body; then 408.",
    ),
    key(
        "http.body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum request body; then 413. If set, it is the limit of requests with a model's input or a conversation's items that have no limit of their own below, and the upper bound of every body except an import's.",
    ),
    key(
        "http.account_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request about users, keys, sessions and other small objects.",
    ),
    key(
        "http.inference_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request with a model's input.",
    ),
    key(
        "http.items_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request that creates a conversation or adds items to one.",
    ),
    key(
        "http.import_limit_bytes",
        integer(1, 1 << 50, "bytes"),
        "Maximum size of an import; it is processed as a stream and not held in memory.",
    ),
    key(
        "http.body_limit_elements",
        integer(1, 100_000_000, "elements"),
        "Maximum number of elements of a JSON body: keys, texts, lists, objects; sixteen numbers in a list count as one. Then 413.",
    ),
    key(
        "http.body_memory_per_caller_mib",
        integer(1, 1 << 20, "MiB"),
        "Maximum memory for the concurrent request bodies of one user, or of one address, from the arrival of their bytes to the end of the answer, including 256 bytes per element; then 503. One body of the maximum size always fits.",
    ),
    key(
        "http.body_memory_mib",
        integer(1, 1 << 20, "MiB"),
        "The same for all callers together, at least the limit of one caller. An eighth of it is reserved for callers that hold at most 64 KiB each.",
    ),
    key(
        "http.keep_alive_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Idle time after which a stream gets a comment, so that proxies keep it open.",
    ),
    key(
        "http.idle_timeout_ms",
        integer(10, 24 * HOUR_MS, MILLISECONDS),
        "Idle time after which a connection without a request is closed; keep it above a load balancer's own.",
    ),
    key(
        "http.write_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Time after which a client that reads nothing is disconnected.",
    ),
    key(
        "http.max_connections",
        integer(1, 1_000_000, "connections"),
        "Maximum number of concurrent connections; one more gets 503. The limit of open files is raised as far as the system permits.",
    ),
    key(
        "http.max_connections_per_address",
        integer(1, 1_000_000, "connections"),
        "Maximum number of concurrent connections of one IPv4 address or IPv6 /64; one more gets 503. Connections of `trusted_proxies` are not counted.",
    ),
    key(
        "http.allowed_hosts",
        Kind::Hosts,
        "Host names, in addition to `localhost` and loopback addresses, that a request without a valid credential may have in its `Host` header on a loopback connection, on any port; the host of `auth.google.redirect_url` is always included. Others get 403, because any web page can resolve its own name to this machine's address.",
    ),
    key(
        "http.cors_allowed_origins",
        Kind::TextList,
        "Origins whose pages may call the API from a browser, such as `https://chat.example`; an empty list allows none. `*` allows any page that sends a valid credential: on a loopback connection a page without one must be listed by name, or be of a loopback address or this server's own.",
    ),
    key(
        "http.trusted_proxies",
        Kind::Networks,
        "Proxies whose `X-Forwarded-For` header is trusted; without them a client's address is that of its connection.",
    ),
];

/// `[log]`
pub const LOG: &[Key] = &[
    key(
        "log.format",
        Kind::Choice(&["auto", "human", "json"]),
        "`human`, `json` (one object per line), or `auto`: human on a terminal, otherwise JSON (`--log-format`).",
    ),
    key(
        "log.level",
        Kind::LogLevel,
        "`error`, `warn`, `info`, `debug` or `trace`; also per module: `info,jan_actors=debug` (`--log-level`).",
    ),
];
