//! Mapping of the actors' errors to HTTP errors; the one place that does so.

use std::io;
use std::time::Duration;

use http::StatusCode;
use jan_actors::StoreError;
use jan_actors::backup::{BackupError, OfflineError};
use jan_actors::conversations::ConversationError;
use jan_actors::identity::{AuthError, IdentityError};
use jan_actors::model::GenerationError;
use jan_actors::responses::ResponsesError;
use jan_actors::web_search::SearchError;

use crate::auth::errors::INVALID_TOKEN;
use crate::http::ApiError;
use crate::http::error::capitalize;

/// `Retry-After` of a failure that may be temporary.
const RETRY_SOON: Duration = Duration::from_secs(5);

/// `Retry-After` if an actor is overloaded or being restarted.
const RETRY_AT_ONCE: Duration = Duration::from_secs(1);

impl ApiError {
    /// Maps an error of a generation. `prompt_param` is the field that holds the prompt: `messages` or `prompt`.
    #[must_use]
    pub fn from_generation(error: GenerationError, prompt_param: &'static str) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            GenerationError::ModelNotFound(model) => Self::model_not_found(&model),
            GenerationError::ContextLengthExceeded { .. } | GenerationError::InputTooLong { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
                    .with_param(prompt_param)
            }
            GenerationError::InvalidPrompt { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_prompt", message).with_param(prompt_param)
            }
            GenerationError::InvalidParameter { param, .. } => Self::invalid_value(param, message),
            GenerationError::MalformedConstraint { field, message } => {
                let field = if field.is_empty() { "response_format" } else { field };
                Self::invalid_value(field, format!("Invalid '{field}': {message}."))
            }
            GenerationError::InvalidConstraint { field, message } => {
                let field = if field.is_empty() { "response_format" } else { field };
                let message =
                    format!("Invalid '{field}': cannot be enforced: {message}. Remove or rewrite it.");
                Self::invalid_value(field, message)
            }
            GenerationError::ConstraintTooExpensive { field, message } => {
                let field = if field.is_empty() { "response_format" } else { field };
                let message = format!(
                    "Invalid '{field}': {message}. Make it simpler: fewer and shorter patterns that have to hold at \
                     once, smaller repetitions."
                );
                Self::new(StatusCode::BAD_REQUEST, "constraint_too_expensive", message).with_param(field)
            }
            GenerationError::InvalidOutput { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "invalid_output", message)
            }
            GenerationError::QueueFull { retry_after, .. } => {
                Self::unavailable("queue_full", message, retry_after)
            }
            GenerationError::QueueTimeout { retry_after, .. } => {
                Self::unavailable("queue_timeout", message, retry_after)
            }
            GenerationError::ModelUnavailable { retry_after, .. } => {
                Self::unavailable("model_unavailable", message, retry_after)
            }
            GenerationError::UpstreamFailed { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "upstream_failed", message)
            }
            GenerationError::EngineCrashed => {
                // It ended its worker twice, so a client's automatic retry must not repeat it.
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_crashed", message).not_to_be_retried()
            }
            GenerationError::ShuttingDown => Self::shutting_down(),
            GenerationError::Internal(reason) => {
                tracing::error!(reason, "generation failed");
                Self::internal()
            }
        }
    }

    /// 401 with a code for each reason to refuse a credential.
    #[must_use]
    pub fn from_auth(error: AuthError) -> Self {
        let code = match error {
            AuthError::Malformed => "malformed_token",
            AuthError::TooLong => "token_too_long",
            AuthError::WrongAlgorithm => "token_wrong_algorithm",
            AuthError::UnknownSigningKey => "token_unknown_key",
            AuthError::BadSignature => "token_bad_signature",
            AuthError::WrongIssuer => "token_wrong_issuer",
            AuthError::WrongAudience => "token_wrong_audience",
            AuthError::WrongType => "token_wrong_type",
            AuthError::Expired => "token_expired",
            AuthError::RefreshWindowOver => "refresh_window_over",
            AuthError::NotYetValid => "token_not_yet_valid",
            AuthError::LifetimeTooLong => "token_lifetime_too_long",
            AuthError::SessionRevoked => "session_revoked",
            AuthError::TokenReused => "token_reused",
            AuthError::UserDisabled => "user_disabled",
            AuthError::UnknownKey => "invalid_api_key",
            AuthError::ExpiredKey => "api_key_expired",
            AuthError::RevokedKey => "api_key_revoked",
            AuthError::AddressNotAllowed => "address_not_allowed",
            AuthError::Unchecked => {
                let message = format!("{}.", capitalize(&error.to_string()));
                return Self::unavailable("storage_unavailable", message, Duration::from_secs(1));
            }
        };
        // OpenAI's words, by which gateways tell these errors from those of a request.
        let message = match error {
            AuthError::UnknownKey => "Incorrect API key provided.".to_owned(),
            other => format!("Incorrect API key provided: {other}."),
        };
        Self::unauthorized(code, message, INVALID_TOKEN)
    }

    /// Maps an error of users, keys and sessions.
    #[must_use]
    pub fn from_identity(error: IdentityError) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            IdentityError::Auth(error) => Self::from_auth(error),
            IdentityError::NotFound { what, id } => Self::not_found(what, &id),
            IdentityError::EmailTaken(_) => {
                Self::new(StatusCode::CONFLICT, "email_taken", message).with_param("email")
            }
            IdentityError::Invalid { field, .. } => Self::invalid_value(field, message),
            IdentityError::ExceedsMaker { .. } => {
                Self::forbidden("insufficient_permissions", message).with_param("permissions")
            }
            IdentityError::Exceeds { field, .. } => {
                Self::forbidden("insufficient_permissions", message).with_param(field)
            }
            IdentityError::TooManyParents { .. } | IdentityError::TooManyKeys { .. } => {
                Self::bad_request("too_many_api_keys", message)
            }
            IdentityError::TooManyGuests { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_guests", message)
            }
            IdentityError::LastAdmin => Self::new(StatusCode::CONFLICT, "last_admin", message),
            IdentityError::Busy { retry_after } => Self::unavailable("busy", message, retry_after),
            IdentityError::Unavailable { retry_after, .. } => {
                Self::unavailable("identity_unavailable", message, retry_after)
            }
            IdentityError::StorageFull => Self::insufficient_storage(),
            IdentityError::StorageQuota(_) => Self::storage_quota(message),
            IdentityError::Storage(reason) => {
                tracing::error!(reason, "the store failed");
                Self::unavailable(
                    "storage_failed",
                    "The server cannot write to its store; its log has the cause.",
                    RETRY_SOON,
                )
            }
        }
    }

    /// Maps an error of conversations.
    #[must_use]
    pub fn from_conversation(error: ConversationError) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            ConversationError::NotFound { what, id } => Self::not_found(what, &id),
            ConversationError::Invalid { field, problem } => {
                Self::invalid_value(&field, format!("Invalid '{field}': it {problem}."))
            }
            ConversationError::Full { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "conversation_full", message)
            }
            ConversationError::TurnTimeout { .. } => {
                Self::unavailable("conversation_busy", message, Duration::from_secs(5))
            }
            ConversationError::Busy { retry_after } => Self::unavailable("busy", message, retry_after),
            ConversationError::Unavailable { retry_after } => {
                Self::unavailable("conversations_unavailable", message, retry_after)
            }
            ConversationError::Store(error) => Self::from_identity(error),
        }
    }

    /// Maps an error of stored responses.
    #[must_use]
    pub fn from_responses(error: ResponsesError) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            ResponsesError::NotFound(id) => Self::not_found("response", &id.to_string()),
            ResponsesError::NotBackground => Self::bad_request("response_not_in_background", message),
            ResponsesError::Elsewhere => Self::unavailable("response_elsewhere", message, RETRY_SOON),
            ResponsesError::TooManyInBackground { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_background_responses", message)
                    .with_param("background")
            }
            ResponsesError::Busy => Self::unavailable("busy", message, RETRY_AT_ONCE),
            ResponsesError::Unavailable(_) => {
                Self::unavailable("responses_unavailable", message, RETRY_AT_ONCE)
            }
            ResponsesError::StorageFull => Self::insufficient_storage(),
            ResponsesError::StorageQuota(_) => Self::storage_quota(message),
            ResponsesError::Storage(reason) => {
                tracing::error!(reason, "the store failed");
                Self::unavailable(
                    "storage_failed",
                    "The server cannot write to its store; its log has the cause.",
                    RETRY_AT_ONCE,
                )
            }
        }
    }

    /// Maps an error of a web search. `param` is the field that requests the search.
    #[must_use]
    pub fn from_search(error: &SearchError, param: &str) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            SearchError::NotConfigured => {
                Self::bad_request("web_search_not_configured", message).with_param(param)
            }
            SearchError::Spent { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "web_search_limit_reached", message)
                    .with_retry_after(*retry_after)
                    .with_param(param)
            }
            _ => Self::unavailable("web_search_failed", message, RETRY_SOON).with_param(param),
        }
    }

    /// Maps an error of an export or an import.
    #[must_use]
    pub fn from_backup(error: BackupError) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            BackupError::Timeout => Self::from_store_timeout(),
            BackupError::Store(error) | BackupError::Import(OfflineError::Store(error)) => {
                Self::from_store(error)
            }
            BackupError::Import(OfflineError::Import(_)) => Self::bad_request("invalid_export", message),
            BackupError::Import(OfflineError::Conflict(_) | OfflineError::NoAdmin) => {
                Self::new(StatusCode::CONFLICT, "import_conflict", message)
            }
            BackupError::Import(OfflineError::File { error, .. })
                if error.kind() == io::ErrorKind::StorageFull =>
            {
                Self::insufficient_storage()
            }
            BackupError::Import(error) => {
                tracing::error!(%error, "an import failed");
                Self::internal()
            }
        }
    }

    /// 507 `insufficient_storage`, or 503.
    #[must_use]
    pub fn from_store(error: StoreError) -> Self {
        match error {
            StoreError::OutOfSpace(_) => Self::insufficient_storage(),
            StoreError::Quota { .. } => Self::storage_quota(format!("{}.", capitalize(&error.to_string()))),
            StoreError::Reopening => {
                let message = "The database is being reopened; try again in 1 s.";
                Self::unavailable("storage_unavailable", message, Duration::from_secs(1))
            }
            StoreError::Conflict => {
                let message = "The database is busy with changes of the same records; try again in 1 s.";
                Self::unavailable("storage_unavailable", message, Duration::from_secs(1))
            }
            error => {
                tracing::error!(%error, "the store failed");
                Self::unavailable(
                    "storage_failed",
                    "The server's database failed; its log has the cause.",
                    RETRY_SOON,
                )
            }
        }
    }

    /// 503 `storage_unavailable`.
    #[must_use]
    pub fn from_store_timeout() -> Self {
        let message = "The database does not respond in time; try again later.";
        Self::unavailable("storage_unavailable", message, RETRY_SOON)
    }

    /// 507 `storage_quota_exceeded`: the caller's quota is exhausted; the message names it.
    #[must_use]
    pub fn storage_quota(message: String) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_quota_exceeded", message)
    }

    /// 507 `insufficient_storage`: the disk is full (RFC 4918, section 11.5).
    #[must_use]
    pub fn insufficient_storage() -> Self {
        let message = "The server's disk is full, so nothing can be written; reads continue. Its administrator \
                       must free space.";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", message)
    }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;
    use warp::Reply;

    use super::*;
    use crate::http::Response;

    fn mapped(error: GenerationError) -> (u16, &'static str, Option<String>, Response) {
        let error = ApiError::from_generation(error, "messages");
        (error.status().as_u16(), error.code(), error.param().map(str::to_owned), error.into_response())
    }

    #[test]
    fn every_generation_error_has_its_status() {
        let retry_after = Duration::from_millis(1200);
        let model = || "m".to_owned();
        let text = || "why".to_owned();
        let cases = [
            (GenerationError::ModelNotFound(model()), 404, "model_not_found", Some("model"), None),
            (
                GenerationError::ContextLengthExceeded { limit: 8, prompt_tokens: 9, requested: 1 },
                400,
                "context_length_exceeded",
                Some("messages"),
                None,
            ),
            (
                GenerationError::InvalidPrompt { message: text() },
                400,
                "invalid_prompt",
                Some("messages"),
                None,
            ),
            (
                GenerationError::InvalidParameter { param: "logit_bias", message: text() },
                400,
                "invalid_value",
                Some("logit_bias"),
                None,
            ),
            (
                GenerationError::MalformedConstraint { field: "grammar", message: text() },
                400,
                "invalid_value",
                Some("grammar"),
                None,
            ),
            (
                GenerationError::InvalidConstraint { field: "tools", message: text() },
                400,
                "invalid_value",
                Some("tools"),
                None,
            ),
            (
                GenerationError::ConstraintTooExpensive { field: "tools", message: text() },
                400,
                "constraint_too_expensive",
                Some("tools"),
                None,
            ),
            (GenerationError::InvalidOutput { message: text() }, 500, "invalid_output", None, None),
            (
                GenerationError::QueueFull { model: model(), limit: 1, retry_after },
                503,
                "queue_full",
                None,
                Some("2"),
            ),
            (
                GenerationError::QueueTimeout { waited: retry_after, retry_after: Duration::ZERO },
                503,
                "queue_timeout",
                None,
                Some("1"),
            ),
            (
                GenerationError::ModelUnavailable { model: model(), reason: text(), retry_after },
                503,
                "model_unavailable",
                None,
                Some("2"),
            ),
            (
                GenerationError::UpstreamFailed { model: model(), reason: text() },
                502,
                "upstream_failed",
                None,
                None,
            ),
            (GenerationError::EngineCrashed, 500, "engine_crashed", None, None),
            (GenerationError::ShuttingDown, 503, "shutting_down", None, Some("5")),
            (GenerationError::Internal(text()), 500, "internal_error", None, None),
        ];
        for (error, status, code, param, retry) in cases {
            let shown = format!("{error:?}");
            let (got_status, got_code, got_param, response) = mapped(error);
            assert_eq!((got_status, got_code, got_param.as_deref()), (status, code, param), "{shown}");
            let header = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(header, retry, "{shown}");
        }
    }

    #[test]
    fn internal_reasons_stay_inside() {
        let error = ApiError::from_generation(GenerationError::Internal("/secret/path".to_owned()), "prompt");
        assert!(!error.message().contains("/secret/path"));
    }

    #[test]
    fn a_crashing_request_is_not_to_be_retried() {
        let (_, _, _, response) = mapped(GenerationError::EngineCrashed);
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
