//! Views for the reads of one request, which have to see one state.

use std::fmt::{self, Debug};
use std::sync::Arc;

use super::Stores;
use crate::conversations::ConversationId;
use crate::identity::UserId;

/// The records that a request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A user's account, keys and sessions, and the list of its conversations with their records.
    User(UserId),
    /// The list of users with their accounts.
    Users,
    /// A conversation with its items.
    Conversation(ConversationId),
}

/// A view of a database for the reads of one request.
pub struct Snapshot {
    /// The view. Not for writes.
    pub stores: Arc<dyn Stores>,
    watch: Option<Box<dyn Watch>>,
}

/// Tells whether a scope has changed since it was first watched.
pub trait Watch: Debug + Send + Sync {
    /// Returns `true` once a commit has changed something of the scope, or has begun to.
    fn has_changed(&self) -> bool;
}

impl Snapshot {
    /// A view that stays as it is, such as a transaction of a database that has snapshots.
    #[must_use]
    pub fn fixed(stores: Arc<dyn Stores>) -> Self {
        Self { stores, watch: None }
    }

    /// A view of the current state, of which only a later look says whether it stayed as it is.
    #[must_use]
    pub fn watched(stores: Arc<dyn Stores>, watch: Box<dyn Watch>) -> Self {
        Self { stores, watch: Some(watch) }
    }

    /// Returns `true` if everything that was read of the scope belongs to one state.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        !self.watch.as_ref().is_some_and(|watch| watch.has_changed())
    }
}

impl Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("watch", &self.watch).finish_non_exhaustive()
    }
}
