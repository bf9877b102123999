//! How the actors' errors about responses show.

use std::time::Duration;

use http::StatusCode;
use jan_actors::conversations::ConversationError;
use jan_actors::responses::ResponsesError;

use crate::http::ApiError;
use crate::http::error::capitalize;

/// When to try again.
const SOON: Duration = Duration::from_secs(1);

/// Maps what the actors say.
pub fn from_responses(error: ResponsesError) -> ApiError {
    let message = format!("{}.", capitalize(&error.to_string()));
    match error {
        ResponsesError::NotFound(id) => ApiError::not_found("response", &id.to_string()),
        ResponsesError::NotBackground => ApiError::bad_request("response_not_in_background", message),
        ResponsesError::TooManyInBackground { .. } => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_background_responses", message)
                .with_param("background")
        }
        ResponsesError::Busy => ApiError::unavailable("busy", message, SOON),
        ResponsesError::Unavailable(_) => ApiError::unavailable("responses_unavailable", message, SOON),
        ResponsesError::StorageFull => ApiError::insufficient_storage(),
        ResponsesError::StorageQuota(_) => ApiError::storage_quota(message),
        ResponsesError::Storage(reason) => {
            tracing::error!(reason, "the store failed");
            ApiError::unavailable("storage_failed", "The server cannot write; its log says more.", SOON)
        }
    }
}

/// Maps what the actors say of the conversation that a response belongs to.
pub fn from_conversation(error: ConversationError) -> ApiError {
    ApiError::from_conversation(error).with_param("conversation")
}
