//! Settings of credentials, sign-in and rate limits.

use super::{HOUR_MS, MILLISECONDS, SECONDS, U32, integer, key, secret};
use crate::config::keys::{Key, Kind};

/// `[auth]`
pub const AUTH: &[Key] = &[
    key(
        "auth.anonymous",
        Kind::Choice(&["auto", "allow", "deny"]),
        "Access to models, chat and completions without a credential. `auto`: for callers on this machine only, if the server listens on a loopback address and has no `http.trusted_proxies`; requests with headers of a proxy are excluded.",
    ),
    key(
        "auth.guests",
        Kind::Choice(&["auto", "on", "off"]),
        "Availability of `POST /auth/guest`. `auto`: as for `auth.anonymous`.",
    ),
    key(
        "auth.max_guests_per_address",
        integer(1, 1_000_000, "guests"),
        "Maximum number of guests created from one IPv4 address or IPv6 /64; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.max_guests",
        integer(1, 10_000_000, "guests"),
        "Maximum total number of guests; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.guest_idle_s",
        integer(1, 366 * 86_400, SECONDS),
        "Time without use after which a guest is deleted with its keys and data, at the start or within an hour.",
    ),
    key("auth.issuer", Kind::Text, "`iss` claim of the tokens that this server signs."),
    key("auth.audience", Kind::Text, "`aud` claim of the tokens that this server signs."),
    key("auth.access_token_ttl_s", integer(1, 86_400, SECONDS), "Lifetime of an access token."),
    key(
        "auth.refresh_window_s",
        integer(1, 366 * 86_400, SECONDS),
        "Time after its last refresh in which a session can be refreshed.",
    ),
    key(
        "auth.expired_token_refresh_s",
        integer(0, 366 * 86_400, SECONDS),
        "Time after its expiry in which an access token can refresh its session in place of the refresh token. 0: disabled.",
    ),
    key(
        "auth.session_lifetime_s",
        integer(1, 3660 * 86_400, SECONDS),
        "Maximum lifetime of a session after its sign-in, regardless of refreshes.",
    ),
    key(
        "auth.refresh_grace_s",
        integer(0, 300, SECONDS),
        "Time in which the previous tokens still yield the same new ones, for browser tabs that refresh simultaneously.",
    ),
    key(
        "auth.max_staleness_ms",
        integer(500, 60_000, MILLISECONDS),
        "With `storage.shared`: maximum time without news from the database after which no credential is accepted, since another server may have revoked it; requests get 503 then.",
    ),
    key("auth.google.client_id", Kind::Text, "Client id of this server at the provider."),
    secret(key("auth.google.client_secret", Kind::Text, "Client secret of this server at the provider.")),
    key(
        "auth.google.redirect_url",
        Kind::Url,
        "Public URL of this server's `/auth/google/callback`, as registered with the provider.",
    ),
    key("auth.google.auth_url", Kind::Url, "Authorization endpoint of the provider."),
    key("auth.google.token_url", Kind::Url, "Token endpoint of the provider."),
    key("auth.google.jwks_url", Kind::Url, "Public keys of the provider."),
    key("auth.google.issuer", Kind::Text, "`iss` claim of the provider's id_tokens."),
    key(
        "auth.google.allowed_domains",
        Kind::TextList,
        "Domains whose users may sign in, such as `corp.example`; an empty list allows any.",
    ),
    key(
        "auth.google.allowed_return_urls",
        Kind::TextList,
        "URLs permitted in `/auth/google?return_to=`, compared as a whole.",
    ),
    key(
        "auth.google.timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time of each request to the provider.",
    ),
    key(
        "auth.google.state_ttl_s",
        integer(1, 3600, SECONDS),
        "Maximum time of a sign-in at the provider's page; afterwards it has to be started again.",
    ),
];

/// `[rate_limits]`
pub const RATE_LIMITS: &[Key] = &[
    key(
        "rate_limits.authenticated_per_hour",
        integer(0, U32, "requests"),
        "Requests per hour of one user. 0, here and below: no limit.",
    ),
    key(
        "rate_limits.anonymous_per_hour",
        integer(0, U32, "requests"),
        "Requests per hour of one IPv4 address or IPv6 /64 without a credential, including its guests.",
    ),
    key(
        "rate_limits.inference_per_minute",
        integer(0, U32, "requests"),
        "Chat and text completions per minute of one user, or of one address without a credential and its guests.",
    ),
    key(
        "rate_limits.answers_per_minute",
        integer(0, U32, "answers"),
        "Answers per minute of the same callers: prompts times `n` or `best_of` of a chat or text completion, one of a response. A request for more than the limit is 400. Not lower than the inference limit. Unset: ten times that limit.",
    ),
    key(
        "rate_limits.tokens_per_minute",
        integer(0, U32, "tokens"),
        "Tokens per minute of the same callers, prompts and answers together; charged after the answer.",
    ),
    key(
        "rate_limits.concurrent_streams",
        integer(0, U32, "streams"),
        "Concurrent streams of the same callers.",
    ),
    key(
        "rate_limits.sign_in_failures_per_hour",
        integer(0, U32, "failures"),
        "Invalid keys, forged tokens and failed sign-ins per hour from one address.",
    ),
];
