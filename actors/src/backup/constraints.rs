//! Constraints on an import: revocations in the existing store are kept, and an administrator remains.

use std::collections::{HashMap, HashSet};

use super::offline::OfflineError;
use crate::conversations::{ConversationRecord, Share};
use crate::identity::{ApiKeyRecord, UserId, UserKind, UserRecord};
use crate::store::{KINDS, KeyHash, Record, StoreError, StoredSession, Stores};

/// Number of users read at a time.
const PAGE: usize = 256;

/// The relation of an import to the existing store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportConstraints {
    /// True if the import comes from the same store: what it contains and the store lacks was deleted on purpose.
    pub same_store: bool,
    /// True if revoked objects are restored as they are in the import.
    pub restore_revoked: bool,
}

impl ImportConstraints {
    /// Returns whether the existing store has to be consulted for such a record.
    pub fn concerns(self, record: &Record) -> bool {
        let name = KINDS[record.kind].name;
        name == "audit"
            || (!self.restore_revoked && ["user", "key", "session", "conversation"].contains(&name))
    }

    /// Returns the record as it may be imported; `None`: not at all. `now`: epoch seconds.
    ///
    /// # Errors
    /// The database failed.
    pub async fn apply(
        self,
        here: &dyn Stores,
        mut record: Record,
        now: u64,
    ) -> Result<Option<Record>, StoreError> {
        if !self.concerns(&record) {
            return Ok(Some(record));
        }
        match KINDS[record.kind].name {
            "user" => {
                let Some(mut user) = value::<UserRecord>(&record) else { return Ok(Some(record)) };
                // A damaged user has no effect.
                if let Some(before) = unless_damaged(here.accounts().user(user.id).await)? {
                    user.disabled |= before.disabled;
                    user.shares_ended_at = user.shares_ended_at.max(before.shares_ended_at);
                }
                with_value(record, &user)
            }
            "key" => {
                let Some(mut key) = value::<ApiKeyRecord>(&record) else { return Ok(Some(record)) };
                let before = match KeyHash::try_from(record.key.as_slice()) {
                    Ok(hash) => unless_damaged(here.accounts().key_by_hash(&hash).await)?,
                    Err(_) => None,
                };
                key.revoked_at = match before {
                    Some(before) => before.revoked_at.or(key.revoked_at),
                    // Revoked so long ago that it was deleted, or gone with its user.
                    None if self.same_store => key.revoked_at.or(Some(now)),
                    None => key.revoked_at,
                };
                with_value(record, &key)
            }
            "session" => {
                let Some(session) = value::<StoredSession>(&record) else { return Ok(Some(record)) };
                // An existing session knows which tokens were used; a missing one has ended.
                let here = unless_damaged(here.sessions().session(session.id).await)?;
                if here.is_some() || self.same_store {
                    return Ok(None);
                }
                with_value(record, &session)
            }
            "conversation" => {
                let Some(mut conversation) = value::<ConversationRecord>(&record) else {
                    return Ok(Some(record));
                };
                match unless_damaged(here.conversations().conversation(conversation.id).await)? {
                    // Unchanged: the items that it shows may not be in the import.
                    Some(before) => {
                        let next = conversation.next;
                        let shows = |share: &Share| share.head.is_none_or(|head| head < next);
                        conversation.share = before.share.filter(shows);
                    }
                    None if self.same_store => conversation.share = None,
                    None => {}
                }
                with_value(record, &conversation)
            }
            // Existing entries of the log remain unchanged.
            "audit" => {
                if let Some(before) = here.records().stored(&record).await? {
                    record.value = before;
                }
                Ok(Some(record))
            }
            _ => Ok(Some(record)),
        }
    }
}

/// Returns the value of a record, which was checked before.
fn value<T: serde::de::DeserializeOwned>(record: &Record) -> Option<T> {
    serde_json::from_slice(&record.value).ok()
}

/// Returns a record with another value.
fn with_value(mut record: Record, value: &impl serde::Serialize) -> Result<Option<Record>, StoreError> {
    record.value = serde_json::to_vec(value)
        .map_err(|error| StoreError::Value { what: record.key_text(), problem: error.to_string() })?;
    Ok(Some(record))
}

fn unless_damaged<T>(found: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Err(StoreError::Value { .. }) => Ok(None),
        found => found,
    }
}

/// Checks a whole import before any part of it is stored: whether its records are compatible with each other, and whether the
/// store has an administrator afterwards.
#[derive(Debug, Default)]
pub struct Whole {
    users: HashMap<UserId, bool>,
    names: HashSet<(&'static str, Vec<u8>)>,
}

impl Whole {
    /// Adds a record as it will be stored.
    ///
    /// # Errors
    /// Another record of the import conflicts with it.
    pub fn note(&mut self, record: &Record) -> Result<(), OfflineError> {
        for entry in record.unique_keys()? {
            if !self.names.insert((entry.index, entry.key)) {
                let what = format!("{} (the import has it twice)", record.key_text());
                return Err(OfflineError::Conflict(what));
            }
        }
        if KINDS[record.kind].name == "user"
            && let Ok(user) = serde_json::from_slice::<UserRecord>(&record.value)
        {
            self.users.insert(user.id, administers(&user));
        }
        Ok(())
    }

    /// Returns whether the import contains an active administrator.
    pub fn has_admin(&self) -> bool {
        self.users.values().any(|&administers| administers)
    }

    /// Refuses an import that would leave a store without an administrator that has one. `replaces`: the existing data is
    /// removed.
    ///
    /// # Errors
    /// The import is refused, or the database failed.
    pub async fn check(&self, here: &dyn Stores, replaces: bool) -> Result<(), OfflineError> {
        if self.has_admin() {
            return Ok(());
        }
        let (mut after, mut had) = (None, false);
        loop {
            let page = here.accounts().users(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for user in page.iter().filter(|user| administers(user)) {
                had = true;
                if !replaces && !self.users.contains_key(&user.id) {
                    return Ok(());
                }
            }
        }
        if had { Err(OfflineError::NoAdmin) } else { Ok(()) }
    }
}

fn administers(user: &UserRecord) -> bool {
    user.kind == UserKind::Admin && !user.disabled
}
