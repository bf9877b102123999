//! What the store says, as answers.

use std::time::Duration;

use http::StatusCode;
use jan_actors::StoreError;

use crate::http::ApiError;
use crate::http::error::capitalize;

/// When a failure that may pass is worth another try.
const RETRY_SOON: Duration = Duration::from_secs(5);

impl ApiError {
    /// 507 `insufficient_storage`, or 503.
    #[must_use]
    pub fn from_store(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::insufficient_storage(),
            StoreError::Quota { .. } => Self::storage_quota(format!("{}.", capitalize(&error.to_string()))),
            StoreError::Reopening => {
                let message = "The database is being opened again; try again in 1 s.";
                Self::unavailable("storage_unavailable", message, Duration::from_secs(1))
            }
            error => {
                tracing::error!(%error, "the store failed");
                Self::unavailable(
                    "storage_failed",
                    "The server's database failed; its log says more.",
                    RETRY_SOON,
                )
            }
        }
    }

    /// 503 `storage_unavailable`.
    #[must_use]
    pub fn from_store_timeout() -> Self {
        let message = "The database does not answer in time; try again later.";
        Self::unavailable("storage_unavailable", message, RETRY_SOON)
    }

    /// 507 `storage_quota_exceeded`: the caller keeps as much as one may; the message has the quota's name.
    #[must_use]
    pub fn storage_quota(message: String) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_quota_exceeded", message)
    }

    /// 507 `insufficient_storage`: the disk has no room (RFC 4918, section 11.5).
    #[must_use]
    pub fn insufficient_storage() -> Self {
        let message = "The server's disk has no room left, so nothing can be changed; what is there can be read. \
                       Its administrator has to make room.";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", message)
    }
}
