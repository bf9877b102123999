//! The limits of an import: revocations of what is in the store already stay, and somebody goes on administering it.

use std::collections::{HashMap, HashSet};

use super::offline::OfflineError;
use crate::conversations::{ConversationRecord, Share};
use crate::identity::{ApiKeyRecord, UserId, UserKind, UserRecord};
use crate::store::{KINDS, Record, StoreError, StoredSession, Stores};

/// Users that are looked at at a time.
const PAGE: usize = 256;

/// An import beside the store that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whether the import is one of the same store: what it has and the store has not is gone on purpose.
    pub same_store: bool,
    /// Whether what was revoked is to be as it is in the import.
    pub restore_revoked: bool,
}

impl Keep {
    /// Whether there is anything to look up for such a record.
    pub fn concerns(self, record: &Record) -> bool {
        let name = KINDS[record.kind].name;
        name == "audit"
            || (!self.restore_revoked && ["user", "key", "session", "conversation"].contains(&name))
    }

    /// The record as it may be put in; `None`: not at all. `now`: epoch seconds.
    ///
    /// # Errors
    /// The database failed.
    pub fn apply(self, here: &dyn Stores, record: Record, now: u64) -> Result<Option<Record>, StoreError> {
        if !self.concerns(&record) {
            return Ok(Some(record));
        }
        match KINDS[record.kind].name {
            "user" => changed(record, |user: &mut UserRecord| {
                // A damaged one says nothing.
                let before = unless_damaged(here.accounts().user(user.id))?;
                if let Some(before) = before {
                    user.disabled |= before.disabled;
                    user.shares_ended_at = user.shares_ended_at.max(before.shares_ended_at);
                }
                Ok(true)
            }),
            "key" => {
                let hash = record.key.as_slice().try_into().ok();
                changed(record, |key: &mut ApiKeyRecord| {
                    let before = match hash {
                        Some(hash) => unless_damaged(here.accounts().key_by_hash(&hash))?,
                        None => None,
                    };
                    key.revoked_at = match before {
                        Some(before) => before.revoked_at.or(key.revoked_at),
                        // Revoked so long ago that it is forgotten, or gone with its user.
                        None if self.same_store => key.revoked_at.or(Some(now)),
                        None => key.revoked_at,
                    };
                    Ok(true)
                })
            }
            "session" => changed(record, |session: &mut StoredSession| {
                // One that is here knows which tokens were used; one that is not has ended.
                let here = unless_damaged(here.sessions().session(session.id))?;
                Ok(here.is_none() && !self.same_store)
            }),
            "conversation" => changed(record, |conversation: &mut ConversationRecord| {
                let before = unless_damaged(here.conversations().conversation(conversation.id))?;
                match before {
                    // As it is here; what it shows may not be in the import.
                    Some(before) => {
                        let next = conversation.next;
                        let shows = |share: &Share| share.head.is_none_or(|head| head < next);
                        conversation.share = before.share.filter(shows);
                    }
                    None if self.same_store => conversation.share = None,
                    None => {}
                }
                Ok(true)
            }),
            // What is in the log stays as it is.
            "audit" => {
                let before = here.records().stored(&record)?;
                Ok(Some(Record { value: before.unwrap_or(record.value), ..record }))
            }
            _ => Ok(Some(record)),
        }
    }
}

/// A record with a change to what it says; `None` where `change` says `false`.
fn changed<T: serde::Serialize + serde::de::DeserializeOwned>(
    mut record: Record,
    change: impl FnOnce(&mut T) -> Result<bool, StoreError>,
) -> Result<Option<Record>, StoreError> {
    // It was checked before.
    let Ok(mut value) = serde_json::from_slice::<T>(&record.value) else { return Ok(Some(record)) };
    if !change(&mut value)? {
        return Ok(None);
    }
    record.value = serde_json::to_vec(&value)
        .map_err(|error| StoreError::Value { what: record.key_text(), problem: error.to_string() })?;
    Ok(Some(record))
}

fn unless_damaged<T>(found: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Err(StoreError::Value { .. }) => Ok(None),
        found => found,
    }
}

/// Looks at a whole import before anything of it is put in: whether its records can stand beside each other, and whether
/// somebody administers the store afterwards.
#[derive(Debug, Default)]
pub struct Whole {
    users: HashMap<UserId, bool>,
    names: HashSet<(&'static str, Vec<u8>)>,
}

impl Whole {
    /// Notes a record as it will be put in.
    ///
    /// # Errors
    /// Another one of the import has its place.
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

    /// Whether somebody administers the import.
    pub fn has_admin(&self) -> bool {
        self.users.values().any(|&administers| administers)
    }

    /// Refuses an import that would leave a store without an administrator that has one. `replaces`: what is here goes.
    ///
    /// # Errors
    /// It would, or the database failed.
    pub fn check(&self, here: &dyn Stores, replaces: bool) -> Result<(), OfflineError> {
        if self.has_admin() {
            return Ok(());
        }
        let (mut after, mut had) = (None, false);
        loop {
            let page = here.accounts().users(after, PAGE)?;
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
