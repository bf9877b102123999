//! Users and API keys in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `user` | user id | [`UserRecord`] |
//! | `user_by_email` | address | user id |
//! | `user_by_external` | issuer, 0, subject | user id |
//! | `key` | SHA-256 of the secret | [`ApiKeyRecord`] |
//! | `key_by_user` | user id, key id | the same SHA-256 |
//! | `forget` | id of a user that is being deleted | nothing |
//!
//! Values are JSON.

use std::ops::Bound;

use async_trait::async_trait;
use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, IVec, Tree};

use super::codec::{decode, encode, id_bytes};
use crate::identity::{ApiKeyRecord, ExternalId, KeyId, UserId, UserRecord};
use crate::store::{AccountChange, AccountsStore, KeyHash, StoreError, readable};

/// The trees of users and keys.
#[derive(Debug)]
pub struct SledAccounts {
    user: Tree,
    user_by_email: Tree,
    user_by_external: Tree,
    key: Tree,
    key_by_user: Tree,
    deleting: Tree,
}

impl SledAccounts {
    /// Opens the trees, or creates them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self {
            user: db.open_tree("user")?,
            user_by_email: db.open_tree("user_by_email")?,
            user_by_external: db.open_tree("user_by_external")?,
            key: db.open_tree("key")?,
            key_by_user: db.open_tree("key_by_user")?,
            deleting: db.open_tree("forget")?,
        })
    }

    /// The trees of a transaction.
    pub const fn trees(&self) -> [&Tree; 6] {
        let Self { user, user_by_email, user_by_external, key, key_by_user, deleting } = self;
        [user, user_by_email, user_by_external, key, key_by_user, deleting]
    }

    /// The users that are being deleted.
    pub fn deleting(&self) -> &Tree {
        &self.deleting
    }

    /// Up to `limit` of a user's keys, oldest first.
    pub fn some_keys(&self, user: UserId, limit: usize) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.key_by_user.scan_prefix(user.to_bytes()).take(limit) {
            let (own, hash) = entry?;
            match self.key_of(&hash)? {
                Some(key) => keys.push(key),
                // A stale entry.
                None => drop(self.key_by_user.remove(own)?),
            }
        }
        Ok(keys)
    }

    fn user_of(&self, index: &Tree, key: &[u8]) -> Result<Option<UserRecord>, StoreError> {
        match index.get(key)? {
            Some(id) => self.user(UserId::from_bytes(id_bytes("an index of users", &id)?)),
            None => Ok(None),
        }
    }

    fn key_of(&self, hash: &[u8]) -> Result<Option<(KeyHash, ApiKeyRecord)>, StoreError> {
        let Some(value) = self.key.get(hash)? else { return Ok(None) };
        Ok(Some((key_hash(hash)?, decode(|| "an API key".to_owned(), &value)?)))
    }
}

impl SledAccounts {
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        let value = self.user.get(id.to_bytes())?;
        value.map(|value| decode(|| id.to_string(), &value)).transpose()
    }
}

#[async_trait]
impl AccountsStore for SledAccounts {
    async fn user(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.user(id)
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        self.user_of(&self.user_by_email, email.as_bytes())
    }

    async fn user_by_external(&self, id: &ExternalId) -> Result<Option<UserRecord>, StoreError> {
        self.user_of(&self.user_by_external, &external_key(id))
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserRecord>, StoreError> {
        let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.to_bytes()));
        let range = self.user.range((start, Bound::Unbounded));
        let record = |entry: sled::Result<(IVec, IVec)>| {
            let (id, value) = entry?;
            readable(user_of(&id, &value))
        };
        range.map(record).filter_map(Result::transpose).take(limit).collect()
    }

    async fn key(&self, user: UserId, key: KeyId) -> Result<Option<(KeyHash, ApiKeyRecord)>, StoreError> {
        match self.key_by_user.get(by_user_key(user, key))? {
            Some(hash) => self.key_of(&hash),
            None => Ok(None),
        }
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKeyRecord>, StoreError> {
        Ok(self.key_of(hash)?.map(|(_, record)| record))
    }

    async fn keys(&self, user: UserId) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.key_by_user.scan_prefix(user.to_bytes()) {
            keys.extend(readable(self.key_of(&entry?.1))?.flatten());
        }
        Ok(keys)
    }

    async fn key_count(&self, user: UserId, at_most: usize) -> Result<usize, StoreError> {
        let keys = self.key_by_user.scan_prefix(user.to_bytes()).keys().take(at_most);
        keys.map(|key| Ok(usize::from(!key?.is_empty()))).sum()
    }

    async fn each_key(
        &self,
        visit: &mut (dyn FnMut(KeyHash, ApiKeyRecord) + Send),
    ) -> Result<(), StoreError> {
        for entry in &self.key {
            let (hash, value) = entry?;
            let name = || format!("key {}", hex(&hash));
            let read = || Ok((key_hash(&hash)?, decode(name, &value)?));
            if let Some((hash, record)) = readable(read())? {
                visit(hash, record);
            }
        }
        Ok(())
    }
}

/// The trees in a transaction.
pub struct Transaction<'a> {
    user: &'a TransactionalTree,
    email: &'a TransactionalTree,
    external: &'a TransactionalTree,
    key: &'a TransactionalTree,
    by_user: &'a TransactionalTree,
    deleting: &'a TransactionalTree,
}

impl<'a> Transaction<'a> {
    /// A transaction over [`SledAccounts::trees`].
    pub const fn new([user, email, external, key, by_user, deleting]: &'a [TransactionalTree; 6]) -> Self {
        Self { user, email, external, key, by_user, deleting }
    }
}

impl Transaction<'_> {
    /// Applies a change.
    pub fn apply(&self, change: &AccountChange) -> ConflictableTransactionResult<(), StoreError> {
        match change {
            AccountChange::PutUser(record) => {
                let value = self.user.insert(&record.id.to_bytes(), encode(record))?;
                self.remove_index_entries(value.as_deref())?;
                if let Some(email) = &record.email {
                    self.email.insert(email.as_bytes(), &record.id.to_bytes())?;
                }
                if let Some(id) = &record.external {
                    self.external.insert(external_key(id), &record.id.to_bytes())?;
                }
            }
            AccountChange::DeleteUser(id) => {
                let value = self.user.remove(&id.to_bytes())?;
                self.remove_index_entries(value.as_deref())?;
                self.deleting.insert(&id.to_bytes(), &[])?;
            }
            AccountChange::PutKey(hash, record) => {
                let before = self.key.insert(hash, encode(record))?;
                // The key may have belonged to another user.
                if let Some(before) = before {
                    // The owner of a damaged key is unknown.
                    let before: Option<ApiKeyRecord> = serde_json::from_slice(&before).ok();
                    if let Some(before) = before {
                        self.by_user.remove(&by_user_key(before.user, before.id))?;
                    }
                }
                self.by_user.insert(&by_user_key(record.user, record.id), hash)?;
            }
            AccountChange::DeleteKey(hash, record) => {
                self.key.remove(hash)?;
                self.by_user.remove(&by_user_key(record.user, record.id))?;
            }
        }
        Ok(())
    }

    /// Removes the index entries of a user's previous value.
    fn remove_index_entries(&self, value: Option<&[u8]>) -> ConflictableTransactionResult<(), StoreError> {
        let Some(value) = value else { return Ok(()) };
        let Ok(before) = serde_json::from_slice::<UserRecord>(value) else { return Ok(()) };
        if let Some(email) = &before.email {
            self.email.remove(email.as_bytes())?;
        }
        if let Some(id) = &before.external {
            self.external.remove(external_key(id))?;
        }
        Ok(())
    }
}

/// A user, checked to have the id of its key.
fn user_of(id: &[u8], value: &[u8]) -> Result<UserRecord, StoreError> {
    let name = || format!("user {}", hex(id));
    let user: UserRecord = decode(name, value)?;
    match user.id.to_bytes() == id {
        true => Ok(user),
        false => Err(StoreError::Value { what: name(), problem: "it has another user's id".to_owned() }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn external_key(id: &ExternalId) -> Vec<u8> {
    [id.issuer.as_bytes(), &[0], id.subject.as_bytes()].concat()
}

fn by_user_key(user: UserId, key: KeyId) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&user.to_bytes());
    bytes[16..].copy_from_slice(&key.to_bytes());
    bytes
}

fn key_hash(bytes: &[u8]) -> Result<KeyHash, StoreError> {
    KeyHash::try_from(bytes).map_err(|_| StoreError::Value {
        what: "an API key".to_owned(),
        problem: format!("its hash has {} bytes, expected 32", bytes.len()),
    })
}
