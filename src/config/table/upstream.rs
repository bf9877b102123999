//! Settings of upstream servers.

use super::{HOUR_MS, MILLISECONDS, integer, key, required};
use crate::config::keys::{Key, Kind};

/// `[upstream]`
pub const UPSTREAM: &[Key] = &[
    key(
        "upstream.connect_timeout_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Maximum time to connect to an upstream.",
    ),
    key(
        "upstream.first_token_timeout_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Maximum wait for the first token of an answer, the queue of the upstream included; and for the next one, while the upstream sends others.",
    ),
    key(
        "upstream.stall_timeout_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Time after which an upstream that owes the next token of an answer, and sends no token of any answer, counts as dead, whatever its health route says.",
    ),
    key(
        "upstream.probe_interval_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Interval at which each upstream is asked for its list of models, with a random deviation of a fifth.",
    ),
    key(
        "upstream.probe_timeout_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Maximum time of such a probe, and of a question about the tokens of a prompt.",
    ),
    key(
        "upstream.max_retries",
        integer(0, 3, "retries"),
        "Maximum number of further tries of a request that has no token yet, after a failed or cut connection, 429, 502, 503 or 504; on another upstream, if there is one.",
    ),
    key(
        "upstream.retry_budget_percent",
        integer(0, 100, "%"),
        "Maximum number of further tries of all requests for a model, relative to the requests, so that an outage does not multiply the load. Ten are free.",
    ),
    key(
        "upstream.breaker_failures",
        integer(1, 1000, "failures"),
        "Number of failures in a row after which an upstream gets no requests. A stall counts for all of them.",
    ),
    key(
        "upstream.breaker_cooldown_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Time after which the server has it make one token, at no caller's expense, to find out whether it works again; the first time after a stall at once. One that could not be reached is tried as soon as a probe succeeds.",
    ),
    key(
        "upstream.balance_requests",
        integer(1, 1_000_000, "requests"),
        "Difference between the loads of the busiest and the least busy upstream above which a request goes to a less busy one rather than to that which knows its beginning, if `upstream.balance_percent` is exceeded as well.",
    ),
    key(
        "upstream.balance_percent",
        integer(100, 100_000, "%"),
        "Load of the busiest upstream relative to that of the least busy one, for the same rule.",
    ),
];

/// `[[models.upstreams]]`
pub const UPSTREAMS: &[Key] = &[
    required(key(
        "models[].upstreams[].url",
        Kind::BaseUrl,
        "OpenAI-compatible API of the server. Redirects are not followed, and TLS certificates are verified.",
    )),
    key("models[].upstreams[].model", Kind::Text, "Name of the model there. Unset: the `id` of the model."),
    key(
        "models[].upstreams[].kind",
        Kind::Choice(&["auto", "vllm", "sglang", "llama-server", "jan", "openai"]),
        "Kind of server, which decides what it is asked for (docs/scaling.md). `auto`: detected from its list of models; behind a proxy that hides it, name it.",
    ),
    key(
        "models[].upstreams[].key_file",
        Kind::Path,
        "File with the key that the server requires; or `key_env`. It is read at the start.",
    ),
    key(
        "models[].upstreams[].key_env",
        Kind::Text,
        "Environment variable with the key that the server requires; or `key_file`.",
    ),
    key(
        "models[].upstreams[].max_in_flight",
        integer(1, 1_000_000, "requests"),
        "Maximum number of requests that the server is given at a time; others wait here, callers in turn.",
    ),
    key(
        "models[].upstreams[].weight",
        integer(1, 1000, ""),
        "Share of the load relative to the other upstreams of the model.",
    ),
];
