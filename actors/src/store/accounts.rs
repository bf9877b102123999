//! Users and API keys.

use std::fmt::Debug;

use super::StoreError;
use crate::identity::{ApiKeyRecord, ExternalId, KeyId, UserId, UserRecord};
use async_trait::async_trait;

/// SHA-256 of an API key's secret.
pub type KeyHash = [u8; 32];

/// A change of users or keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChange {
    /// Creates or replaces a user.
    PutUser(UserRecord),
    /// Deletes a user's account. The user's data is removed afterwards, in steps.
    DeleteUser(UserId),
    /// Creates or replaces a key.
    PutKey(KeyHash, ApiKeyRecord),
    /// Deletes a key.
    DeleteKey(KeyHash, ApiKeyRecord),
}

/// Users and API keys. Reads see committed changes, also those that are not durable yet.
#[async_trait]
pub trait AccountsStore: Debug + Send + Sync {
    /// One user.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn user(&self, id: UserId) -> Result<Option<UserRecord>, StoreError>;

    /// The user of an email address in lower case.
    ///
    /// # Errors
    /// The database failed.
    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError>;

    /// The user of an external identity.
    ///
    /// # Errors
    /// The database failed.
    async fn user_by_external(&self, id: &ExternalId) -> Result<Option<UserRecord>, StoreError>;

    /// Up to `limit` users after `after`, oldest first. Here and in all lists, damaged records are left out.
    ///
    /// # Errors
    /// The database failed.
    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserRecord>, StoreError>;

    /// One of a user's keys.
    ///
    /// # Errors
    /// The database failed.
    async fn key(&self, user: UserId, key: KeyId) -> Result<Option<(KeyHash, ApiKeyRecord)>, StoreError>;

    /// The key of that hash.
    ///
    /// # Errors
    /// The database failed.
    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKeyRecord>, StoreError>;

    /// All of a user's keys, including revoked ones, oldest first.
    ///
    /// # Errors
    /// The database failed.
    async fn keys(&self, user: UserId) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError>;

    /// The number of a user's keys, including revoked ones, counted up to `at_most`.
    ///
    /// # Errors
    /// The database failed.
    async fn key_count(&self, user: UserId, at_most: usize) -> Result<usize, StoreError>;

    /// Visits every key, in no particular order.
    ///
    /// # Errors
    /// The database failed.
    async fn each_key(&self, visit: &mut (dyn FnMut(KeyHash, ApiKeyRecord) + Send))
    -> Result<(), StoreError>;
}
