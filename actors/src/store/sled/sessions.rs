//! Login sessions in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `session` | session id | [`StoredSession`] |
//! | `session_by_user` | user id, session id | nothing |

use async_trait::async_trait;
use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, Tree};

use super::codec::{decode, encode, id_bytes};
use crate::identity::{SessionId, UserId};
use crate::store::{SessionChange, SessionsStore, StoreError, StoredSession, readable};

/// The trees of sessions.
#[derive(Debug)]
pub struct SledSessions {
    session: Tree,
    by_user: Tree,
}

impl SledSessions {
    /// Opens the trees, or creates them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self { session: db.open_tree("session")?, by_user: db.open_tree("session_by_user")? })
    }

    /// The trees of a transaction.
    pub const fn trees(&self) -> [&Tree; 2] {
        [&self.session, &self.by_user]
    }

    /// The ids of up to `limit` of a user's sessions.
    pub fn some_sessions(&self, user: UserId, limit: usize) -> Result<Vec<SessionId>, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(limit);
        keys.map(|key| id_bytes("an index of sessions", &key?).map(SessionId::from_bytes)).collect()
    }
}

impl SledSessions {
    pub fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let value = self.session.get(id.to_bytes())?;
        value.map(|value| decode(|| id.to_string(), &value)).transpose()
    }
}

#[async_trait]
impl SessionsStore for SledSessions {
    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        self.session(id)
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError> {
        let mut sessions = Vec::new();
        for entry in self.by_user.scan_prefix(user.to_bytes()) {
            let id = SessionId::from_bytes(id_bytes("an index of sessions", &entry?.0)?);
            sessions.extend(readable(self.session(id))?.flatten());
        }
        Ok(sessions)
    }

    async fn each_session(&self, visit: &mut (dyn FnMut(StoredSession) + Send)) -> Result<(), StoreError> {
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
}

/// Applies a change in a transaction over [`SledSessions::trees`].
pub fn apply(
    [session, by_user]: &[TransactionalTree; 2],
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
