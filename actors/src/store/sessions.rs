//! Login sessions on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `session` | session id | [`StoredSession`] |
//! | `session_by_user` | user id, session id | nothing |
//!
//! A session that has ended is not there: what is absent cannot be revived.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, TransactionError, Transactional, TransactionalTree};
use sled::{Db, Tree};

use super::db::{decode, encode, id_bytes};
use super::{StoreError, readable};
use crate::identity::family::Family;
use crate::identity::{Origin, SessionId, UserId};

/// A session that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSession {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When the user signed in (epoch seconds).
    pub created_at: u64,
    /// Its tokens' generations.
    pub family: Family,
    /// The credential that it was made with, behind the one that this was made with, and so on; empty where the user
    /// signed in. It ends with any of them where that is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Origin>,
}

/// A change to sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// A new session, or a new state of one.
    Put(StoredSession),
    /// The session of that user has ended.
    End(UserId, SessionId),
}

/// Login sessions. What a read gives includes changes that are not durable yet.
pub trait SessionsStore: Debug + Send + Sync {
    /// One session.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError>;

    /// A user's sessions, oldest first.
    ///
    /// # Errors
    /// The database failed.
    fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError>;

    /// The ids of up to `limit` of a user's sessions.
    ///
    /// # Errors
    /// The database failed.
    fn some_sessions(&self, user: UserId, limit: usize) -> Result<Vec<SessionId>, StoreError>;

    /// Every session.
    ///
    /// # Errors
    /// The database failed.
    fn each_session(&self, visit: &mut dyn FnMut(StoredSession)) -> Result<(), StoreError>;

    /// Makes these changes at once or not at all.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &[SessionChange]) -> Result<(), StoreError>;
}

/// The trees.
#[derive(Debug)]
pub struct SledSessions {
    session: Tree,
    by_user: Tree,
}

impl SledSessions {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self { session: db.open_tree("session")?, by_user: db.open_tree("session_by_user")? })
    }
}

impl SessionsStore for SledSessions {
    fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let value = self.session.get(id.to_bytes())?;
        value.map(|value| decode(|| id.to_string(), &value)).transpose()
    }

    fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError> {
        let mut sessions = Vec::new();
        for entry in self.by_user.scan_prefix(user.to_bytes()) {
            let id = SessionId::from_bytes(id_bytes("an index of sessions", &entry?.0)?);
            sessions.extend(readable(self.session(id))?.flatten());
        }
        Ok(sessions)
    }

    fn some_sessions(&self, user: UserId, limit: usize) -> Result<Vec<SessionId>, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(limit);
        keys.map(|key| id_bytes("an index of sessions", &key?).map(SessionId::from_bytes)).collect()
    }

    fn each_session(&self, visit: &mut dyn FnMut(StoredSession)) -> Result<(), StoreError> {
        for entry in &self.session {
            let (id, value) = entry?;
            let name = || {
                format!("session {}", SessionId::from_bytes(id_bytes("a session", &id).unwrap_or_default()))
            };
            if let Some(session) = readable(decode(name, &value))? {
                visit(session);
            }
        }
        Ok(())
    }

    fn commit(&self, changes: &[SessionChange]) -> Result<(), StoreError> {
        let outcome = (&self.session, &self.by_user).transaction(|(session, by_user)| {
            changes.iter().try_for_each(|change| apply(session, by_user, change))
        });
        outcome.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => error.into(),
        })
    }
}

fn apply(
    session: &TransactionalTree,
    by_user: &TransactionalTree,
    change: &SessionChange,
) -> ConflictableTransactionResult<(), StoreError> {
    match change {
        SessionChange::Put(record) => {
            session.insert(&record.id.to_bytes(), encode(record))?;
            by_user.insert(&by_user_key(record.user, record.id), &[])?;
        }
        SessionChange::End(user, id) => {
            session.remove(&id.to_bytes())?;
            by_user.remove(&by_user_key(*user, *id))?;
        }
    }
    Ok(())
}

fn by_user_key(user: UserId, session: SessionId) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&user.to_bytes());
    bytes[16..].copy_from_slice(&session.to_bytes());
    bytes
}
