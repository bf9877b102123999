//! Errors of operations on conversations.

use std::time::Duration;

use crate::identity::IdentityError;
use crate::store::StoreError;

/// Delay after which to retry where no better estimate is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reason why an operation on a conversation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// The object does not exist, or belongs to another user.
    #[error("the {what} {id} does not exist")]
    NotFound {
        /// `conversation`, `item`, `share link`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A field has an invalid value.
    #[error("{field} {problem}")]
    Invalid {
        /// The name of the field, as in `items[0].content`.
        field: String,
        /// The problem and the allowed values.
        problem: String,
    },
    /// The conversation would have too many items or bytes.
    #[error(
        "a conversation can have at most {limit} {unit}; create another one, or delete items of this one"
    )]
    Full {
        /// The maximum.
        limit: u64,
        /// `items` or `bytes of items`.
        unit: &'static str,
    },
    /// Earlier answers in the same conversation took too long.
    #[error("another answer in this conversation has been running for {} s; try again", waited.as_secs())]
    TurnTimeout {
        /// The time that this turn waited.
        waited: Duration,
    },
    /// Too many conversations are in use.
    #[error("too many conversations are in use; try again in {} s", retry_after.as_secs())]
    Busy {
        /// Delay after which to retry.
        retry_after: Duration,
    },
    /// The responsible component is being restarted or did not answer in time.
    #[error("the conversation store does not respond; try again in {} s", retry_after.as_secs())]
    Unavailable {
        /// Delay after which to retry.
        retry_after: Duration,
    },
    /// The store failed; the requested change may or may not have been made.
    #[error(transparent)]
    Store(IdentityError),
}

impl ConversationError {
    /// Returns the error that an object does not exist.
    pub(super) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.chars().take(100).collect() }
    }

    /// Returns the error that a field has an invalid value.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// Returns the error that the component does not answer.
    pub(super) const fn unavailable() -> Self {
        Self::Unavailable { retry_after: RETRY_AFTER }
    }
}

impl From<StoreError> for ConversationError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}
