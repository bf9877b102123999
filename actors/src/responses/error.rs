//! Errors of operations on responses.

use super::types::ResponseId;
use crate::store::StoreError;

/// The reason why an operation on responses failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponsesError {
    /// The user has no such response.
    #[error("the response `{0}` does not exist")]
    NotFound(ResponseId),
    /// The response does not run in the background: its client waits for it.
    #[error("only responses that were created with `background` can be cancelled")]
    NotBackground,
    /// Another server of the same store runs it, whose run cannot be reached from here.
    #[error("another server generates the response; try again once it has ended")]
    Elsewhere,
    /// The maximum number of responses already runs in the background.
    #[error(
        "{running} responses already run in the background, the most that {whose}; wait for one to end or cancel one"
    )]
    TooManyInBackground {
        /// The number of running responses.
        running: usize,
        /// The owner of the limit, for the message.
        whose: &'static str,
    },
    /// Too many concurrent calls.
    #[error("too many requests to the response store are pending; try again later")]
    Busy,
    /// A component is being restarted.
    #[error("the {0} is being restarted; try again later")]
    Unavailable(&'static str),
    /// The disk is full.
    #[error("the server's disk is full")]
    StorageFull,
    /// The user's storage quota is used up.
    #[error("{0}")]
    StorageQuota(String),
    /// The store failed.
    #[error("the store failed: {0}")]
    Storage(String),
}

impl From<StoreError> for ResponsesError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Reopening | StoreError::Conflict => Self::Unavailable("database"),
            StoreError::OutOfSpace(_) => Self::StorageFull,
            StoreError::Quota { .. } => Self::StorageQuota(error.to_string()),
            error => Self::Storage(error.to_string()),
        }
    }
}
