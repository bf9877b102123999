//! Why something about responses could not be done.

use super::types::ResponseId;
use crate::store::StoreError;

/// Why something about responses could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponsesError {
    /// No such response of that user.
    #[error("the response `{0}` does not exist")]
    NotFound(ResponseId),
    /// Its client is waiting for it.
    #[error("only responses that were created with `background` can be cancelled")]
    NotBackground,
    /// As many run in the background as may.
    #[error(
        "{running} responses already run in the background, the most that {whose}; wait for one to end or cancel one"
    )]
    TooManyInBackground {
        /// How many.
        running: usize,
        /// Whose limit it is.
        whose: &'static str,
    },
    /// Too many calls at a time.
    #[error("too many requests to the response store are pending; try again later")]
    Busy,
    /// A part is being started again.
    #[error("the {0} is being restarted; try again later")]
    Unavailable(&'static str),
    /// There is no room on the disk.
    #[error("the server's disk is full")]
    StorageFull,
    /// The user keeps as much as one may.
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
