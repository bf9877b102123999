//! Login sessions. A session that has ended is not there, so that it cannot be revived.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::identity::family::Family;
use crate::identity::{Origin, SessionId, UserId};

/// A session that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSession {
    /// Its id.
    pub id: SessionId,
    /// Its user.
    pub user: UserId,
    /// The time of the sign-in (epoch seconds).
    pub created_at: u64,
    /// Its tokens' generations.
    pub family: Family,
    /// The credentials that led to it: the one that created it comes last, before it the one that created that one, and
    /// so on. Empty after a sign-in. The session ends with any of them where the caller asks for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Origin>,
}

/// A change of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Creates or replaces a session.
    Put(StoredSession),
    /// Ends a user's session.
    End(UserId, SessionId),
}

/// Login sessions. Reads see committed changes, also those that are not durable yet.
#[async_trait]
pub trait SessionsStore: Debug + Send + Sync {
    /// One session.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError>;

    /// A user's sessions, oldest first.
    ///
    /// # Errors
    /// The database failed.
    async fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError>;

    /// Visits every session.
    ///
    /// # Errors
    /// The database failed.
    async fn each_session(&self, visit: &mut (dyn FnMut(StoredSession) + Send)) -> Result<(), StoreError>;
}
