//! The code of every error by status, the source of the description's examples and of a test.

use serde_json::{Map, Value, json};

use AppliesTo::{Body, Every, Id, Inference, Query, Tag};

/// The operations that can return an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliesTo {
    /// All operations.
    Every,
    /// Operations with a body.
    Body,
    /// Operations with a query.
    Query,
    /// Operations on one object with an id.
    Id,
    /// Operations that run a model.
    Inference,
    /// Operations with this tag.
    Tag(&'static str),
}

/// An error.
#[derive(Debug)]
pub struct ErrorSpec {
    /// The HTTP status.
    pub status: u16,
    /// A stable code for programs.
    pub code: &'static str,
    /// The operations that can return it.
    pub applies_to: AppliesTo,
    /// The meaning.
    pub meaning: &'static str,
}

const fn known(status: u16, code: &'static str, applies_to: AppliesTo, meaning: &'static str) -> ErrorSpec {
    ErrorSpec { status, code, applies_to, meaning }
}

/// Every error that this server returns.
pub static ERRORS: &[ErrorSpec] = &[
    known(400, "invalid_json", Body, "The body is not valid JSON."),
    known(400, "invalid_host", Every, "An HTTP/1.1 request names no host, or several."),
    known(400, "invalid_type", Body, "A field has the wrong type."),
    known(400, "missing_required_parameter", Tag("auth"), "`return_to` needs a `return_state`."),
    known(400, "invalid_value", Tag("auth"), "`return_state` or `code_challenge` is not one."),
    known(400, "invalid_value", Body, "A field's value is not allowed; the message names the allowed ones."),
    known(400, "missing_required_parameter", Body, "A field is missing."),
    known(
        400,
        "unsupported_parameter",
        Inference,
        "A field of OpenAI's API that this server does not support.",
    ),
    known(400, "invalid_prompt", Inference, "The model's chat template rejects these messages."),
    known(
        400,
        "constraint_too_expensive",
        Inference,
        "A schema, expression or grammar exceeds the limits on processor time or memory.",
    ),
    known(400, "context_length_exceeded", Inference, "Prompt and answer do not fit the model's context."),
    known(400, "invalid_query", Query, "The query cannot be parsed, or repeats a parameter."),
    known(
        400,
        "invalid_code",
        Tag("auth"),
        "The code is unknown, used already, older than a minute, or another caller's.",
    ),
    known(400, "not_a_session", Tag("auth"), "The credential is an API key, which has no session."),
    known(400, "too_many_api_keys", Tag("user"), "The user has the maximum number of keys."),
    known(
        400,
        "oauth_state_invalid",
        Tag("auth"),
        "The sign-in was not started in this browser, or too long ago.",
    ),
    known(400, "oauth_code_refused", Tag("auth"), "The provider rejected the code."),
    known(400, "oauth_code_missing", Tag("auth"), "The provider sent no code."),
    known(400, "oauth_denied", Tag("auth"), "The user did not consent."),
    known(400, "oauth_issuer_mismatch", Tag("auth"), "The response is from another provider."),
    known(400, "oauth_return_url_not_allowed", Tag("auth"), "The return address is not allowed."),
    known(400, "invalid_export", Tag("admin"), "The body is not an export, or is a damaged or newer one."),
    known(
        400,
        "web_search_not_configured",
        Tag("chat"),
        "Web search is not configured; the message names the setting.",
    ),
    known(
        400,
        "web_search_not_configured",
        Tag("responses"),
        "Web search is not configured; the message names the setting.",
    ),
    known(401, "missing_credentials", Every, "The route requires an API key or an access token."),
    known(401, "invalid_api_key", Every, "The key does not exist."),
    known(401, "api_key_expired", Every, "The key has expired."),
    known(401, "api_key_revoked", Every, "The key was revoked."),
    known(401, "address_not_allowed", Every, "The key does not permit this address."),
    known(401, "malformed_token", Every, "The credential is not a token."),
    known(401, "token_too_long", Every, "The token is longer than any of this server's."),
    known(401, "token_wrong_algorithm", Every, "The token is signed with another algorithm."),
    known(401, "token_unknown_key", Every, "The token is signed with an unknown key."),
    known(401, "token_bad_signature", Every, "The token's signature is invalid."),
    known(401, "token_wrong_issuer", Every, "The token was issued by another server."),
    known(401, "token_wrong_audience", Every, "The token is for another audience."),
    known(401, "token_wrong_type", Every, "The token has the wrong type."),
    known(401, "token_expired", Every, "The token has expired; refresh it."),
    known(401, "token_not_yet_valid", Every, "The token is not valid yet."),
    known(
        401,
        "token_lifetime_too_long",
        Every,
        "The token claims a longer lifetime than any of this server's.",
    ),
    known(401, "refresh_window_over", Every, "The token expired too long ago to be refreshed."),
    known(401, "token_reused", Every, "The token was superseded by a refresh; the session has ended."),
    known(401, "session_revoked", Every, "The session has ended."),
    known(401, "user_disabled", Every, "The user is disabled."),
    known(401, "unsupported_auth_scheme", Every, "The Authorization header has a scheme other than Bearer."),
    known(401, "conflicting_credentials", Every, "The request carries several different credentials."),
    known(401, "oauth_id_token_invalid", Tag("auth"), "The provider's id_token is invalid."),
    known(403, "insufficient_permissions", Every, "The credential lacks a permission, named in the message."),
    known(403, "model_not_allowed", Inference, "The key does not permit this model."),
    known(403, "model_not_allowed", Tag("models"), "The key does not permit this model."),
    known(403, "user_disabled", Tag("auth"), "The user is disabled."),
    known(
        403,
        "host_not_allowed",
        Every,
        "A request without a valid credential on a loopback connection has a Host that is not this machine's.",
    ),
    known(
        403,
        "origin_not_allowed",
        Every,
        "A request without a valid credential on a loopback connection has an origin that is not listed.",
    ),
    known(403, "guests_disabled", Tag("auth"), "Guest accounts are disabled."),
    known(
        429,
        "too_many_guests",
        Tag("auth"),
        "The maximum number of guests, from this address or in total, is reached.",
    ),
    known(403, "email_not_verified", Tag("auth"), "The provider has not verified the email address."),
    known(403, "domain_not_allowed", Tag("auth"), "Email addresses of this domain may not sign in."),
    known(
        400,
        "conversation_full",
        Tag("conversations"),
        "The conversation has the maximum number of items or bytes.",
    ),
    known(400, "conversation_full", Inference, "The conversation has the maximum number of items or bytes."),
    known(400, "previous_response_not_found", Tag("responses"), "The response to continue does not exist."),
    known(
        400,
        "response_not_in_background",
        Tag("responses"),
        "Only a background response can be cancelled.",
    ),
    known(404, "model_not_found", Inference, "The model does not exist."),
    known(404, "model_not_found", Tag("models"), "The model does not exist."),
    known(404, "not_found", Id, "No object has this id, or it belongs to another user."),
    known(404, "unknown_url", Every, "The path does not exist."),
    known(405, "method_not_allowed", Every, "The path has other methods; see Allow."),
    known(408, "request_timeout", Body, "The body did not arrive in time."),
    known(409, "email_taken", Tag("admin"), "Another user has that email address."),
    known(409, "last_admin", Every, "No administrator would remain."),
    known(409, "import_conflict", Tag("admin"), "A record of the export conflicts with an existing one."),
    known(
        413,
        "request_too_large",
        Body,
        "The body exceeds the permitted bytes or elements; the message names the setting.",
    ),
    known(415, "unsupported_media_type", Body, "The body has a wrong content type, or none."),
    known(429, "rate_limit_exceeded", Every, "A limit is reached; see Retry-After."),
    known(429, "web_search_limit_reached", Tag("chat"), "The searches of today are used up."),
    known(429, "web_search_limit_reached", Tag("responses"), "The searches of today are used up."),
    known(500, "internal_error", Every, "The server failed; its log has the cause."),
    known(500, "engine_crashed", Inference, "This request crashed its worker twice."),
    known(
        502,
        "upstream_failed",
        Inference,
        "The model runs on another server, which failed within the answer or sent what is none.",
    ),
    known(502, "oauth_provider_error", Tag("auth"), "The sign-in provider's response is invalid."),
    known(
        429,
        "too_many_background_responses",
        Tag("responses"),
        "The maximum number of background responses is reached.",
    ),
    known(500, "invalid_output", Inference, "A finished answer does not satisfy its schema."),
    known(503, "conversation_busy", Inference, "Another answer in this conversation is being generated."),
    known(
        503,
        "conversations_unavailable",
        Tag("conversations"),
        "The conversation store is being restarted.",
    ),
    known(503, "conversations_unavailable", Inference, "The conversation store is being restarted."),
    known(503, "responses_unavailable", Tag("responses"), "The response store is being restarted."),
    known(
        503,
        "response_elsewhere",
        Tag("responses"),
        "Another server generates the response, which cannot be streamed or cancelled here.",
    ),
    known(503, "shutting_down", Every, "The server is stopping."),
    known(503, "too_many_connections", Every, "The server has reached its maximum number of connections."),
    known(503, "body_memory_full", Body, "The bodies of concurrent requests exceed their memory budget."),
    known(503, "busy", Every, "Too many writes are pending."),
    known(503, "identity_unavailable", Every, "The account store is being restarted."),
    known(503, "storage_failed", Every, "The server cannot write to its store; its log has the cause."),
    known(503, "storage_unavailable", Every, "The database does not respond."),
    known(503, "queue_full", Inference, "The queue is full."),
    known(503, "queue_timeout", Inference, "The request waited too long."),
    known(503, "model_unavailable", Inference, "The model cannot answer now."),
    known(503, "not_ready", Tag("status"), "No model can answer yet."),
    known(503, "oauth_not_configured", Tag("auth"), "Sign-in with Google is not configured."),
    known(503, "oauth_provider_unreachable", Tag("auth"), "The sign-in provider cannot be reached."),
    known(503, "oauth_provider_timeout", Tag("auth"), "The sign-in provider does not respond."),
    known(503, "web_search_failed", Tag("chat"), "The web search failed."),
    known(507, "insufficient_storage", Every, "The disk is full, so nothing can be written."),
    known(507, "storage_quota_exceeded", Body, "The caller has reached a storage quota."),
];

/// Returns the name of an error's example in the description.
pub fn example_name(error: &ErrorSpec) -> String {
    format!("{}_{}", error.code, error.status)
}

/// Returns one example body for each error.
pub fn examples() -> Map<String, Value> {
    let one = |error: &ErrorSpec| {
        let kind = match error.status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let body = json!({"error": {
            "message": error.meaning, "type": kind, "param": null, "code": error.code,
            "request_id": "0197f3c2-b6f9-7d3a-8c6d-2f9e1b4a5c7d",
        }});
        (example_name(error), json!({"summary": error.code, "description": error.meaning, "value": body}))
    };
    ERRORS.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The source text that precedes a code.
    const MAKERS: [&str; 6] =
        ["::bad_request(", "::forbidden(", "::unavailable(", "::unauthorized(", "=> (", "StatusCode::"];

    fn codes_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                codes_in(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // Tests contain codes for comparison.
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                for maker in MAKERS {
                    for rest in text.split(maker).skip(1) {
                        // In `StatusCode::NOT_FOUND, "code"` the name of the status comes first.
                        let rest = rest.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
                        let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                        let Some(code) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next())
                        else {
                            continue;
                        };
                        if code.contains('_') && code.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                            found.insert(code.to_owned());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_code_of_the_source_is_listed_and_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut used = BTreeSet::new();
        codes_in(&root.join("src"), &mut used);
        assert!(used.len() > 25, "the source is searched for codes in the wrong way: {used:?}");
        let listed: BTreeSet<String> = ERRORS.iter().map(|error| error.code.to_owned()).collect();
        let missing: Vec<_> = used.difference(&listed).collect();
        assert!(missing.is_empty(), "add to ERRORS in src/api/openapi/errors.rs: {missing:?}");
        let guide = std::fs::read_to_string(root.join("docs/api.md")).unwrap();
        let silent: Vec<_> = listed.iter().filter(|code| !guide.contains(&format!("`{code}`"))).collect();
        assert!(silent.is_empty(), "docs/api.md does not mention {silent:?}");
    }
}
