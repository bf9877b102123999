//! Why something about a conversation could not be done.

use std::time::Duration;

use crate::identity::IdentityError;
use crate::store::StoreError;

/// When to try again where nothing better is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why something about a conversation could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// There is no such thing, or it is somebody else's.
    #[error("the {what} {id} does not exist")]
    NotFound {
        /// `conversation`, `item`, `share link`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A field cannot hold that.
    #[error("{field} {problem}")]
    Invalid {
        /// Which one, as in `items[0].content`.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The conversation would have too many items or bytes.
    #[error(
        "a conversation can have at most {limit} {unit}; create another one, or delete items of this one"
    )]
    Full {
        /// How much.
        limit: u64,
        /// `items` or `bytes of items`.
        unit: &'static str,
    },
    /// Answers before this one in the same conversation took too long.
    #[error("another answer in this conversation has been running for {} s; try again", waited.as_secs())]
    TurnTimeout {
        /// How long this one waited.
        waited: Duration,
    },
    /// Too much is going on.
    #[error("too many conversations are in use; try again in {} s", retry_after.as_secs())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The part that would do it is being restarted or did not answer in time.
    #[error("the conversation store does not respond; try again in {} s", retry_after.as_secs())]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store failed; what was asked for may or may not have been done.
    #[error(transparent)]
    Store(IdentityError),
}

impl ConversationError {
    /// Says that there is no such thing.
    pub(super) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.chars().take(100).collect() }
    }

    /// A field cannot hold that.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// The part does not answer.
    pub(super) const fn unavailable() -> Self {
        Self::Unavailable { retry_after: RETRY_AFTER }
    }
}

impl From<StoreError> for ConversationError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}
