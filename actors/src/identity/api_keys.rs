//! Decisions about API keys: from what is stored to an answer and the changes that make it so.

use super::error::{AuthError, IdentityError};
use super::ids::{KeyId, UserId};
use super::permissions::Permissions;
use super::secret;
use super::types::{ApiKeyRecord, CreatedKey, KeyUpdate, NewKey};
use super::users::{self, Decision, valid_name};
use crate::store::{AccountChange, Changes, KeyHash, StoreError, Stores};

/// Most keys of one user, revoked ones that are still kept among them. Far more than anybody needs, and few enough
/// that nobody can fill the disk.
pub const MAX_KEYS: usize = 10_000;

/// How long a revoked key is kept, so that whoever still uses it is told why it fails.
pub const KEEP_REVOKED_S: u64 = 30 * 24 * 3600;

/// A new key for a user, made by somebody who may do `maker`.
pub fn create(
    stores: &dyn Stores,
    user: UserId,
    maker: Permissions,
    key: NewKey,
    now: u64,
) -> Decision<CreatedKey> {
    let owner = users::find(stores, user)?;
    if owner.disabled {
        return Err(AuthError::UserDisabled.into());
    }
    check_permissions(key.permissions, maker.meet(owner.kind.permissions()))?;
    check_expiry(key.expires_at, now)?;
    let name = valid_name(&key.name)?;
    if stores.accounts().key_count(user, MAX_KEYS)? >= MAX_KEYS {
        return Err(IdentityError::TooManyKeys { limit: MAX_KEYS });
    }
    let (hash, created) = make(user, NewKey { name, ..key }, now);
    let changes = put(hash, &created.record);
    Ok((created, changes))
}

/// A key of whatever is asked for, not stored yet.
pub fn make(user: UserId, key: NewKey, now: u64) -> (KeyHash, CreatedKey) {
    let secret = secret::generate();
    let record = ApiKeyRecord {
        id: KeyId::new(),
        user,
        name: key.name,
        hint: secret::hint(secret.reveal()),
        permissions: key.permissions,
        created_at: now,
        last_used_at: None,
        expires_at: key.expires_at,
        revoked_at: None,
        limits: key.limits,
    };
    (secret::hash(secret.reveal()), CreatedKey { record, secret })
}

/// A user's keys that are not revoked, with when they were last used as `last_used` knows it.
pub fn list(
    stores: &dyn Stores,
    user: UserId,
    last_used: impl Fn(&KeyHash) -> Option<u64>,
) -> Result<Vec<ApiKeyRecord>, IdentityError> {
    let keys = stores.accounts().keys(user)?.into_iter().filter(|(_, record)| record.revoked_at.is_none());
    Ok(keys.map(|(hash, record)| refreshed(&hash, record, &last_used)).collect())
}

/// One of a user's keys that are not revoked.
pub fn one(
    stores: &dyn Stores,
    user: UserId,
    key: KeyId,
    last_used: impl Fn(&KeyHash) -> Option<u64>,
) -> Result<ApiKeyRecord, IdentityError> {
    let (hash, record) = find(stores, user, key)?;
    Ok(refreshed(&hash, record, &last_used))
}

/// Changes a key, by somebody who may do `maker`.
pub fn update(
    stores: &dyn Stores,
    user: UserId,
    key: KeyId,
    maker: Permissions,
    update: KeyUpdate,
    now: u64,
) -> Decision<ApiKeyRecord> {
    let (hash, mut record) = find(stores, user, key)?;
    if let Some(name) = update.name {
        record.name = valid_name(&name)?;
    }
    if let Some(permissions) = update.permissions {
        let owner = users::find(stores, user)?;
        check_permissions(permissions, maker.meet(owner.kind.permissions()))?;
        record.permissions = permissions;
    }
    if let Some(expires_at) = update.expires_at {
        check_expiry(expires_at, now)?;
        record.expires_at = expires_at;
    }
    record.limits = update.limits.unwrap_or(record.limits);
    let changes = put(hash, &record);
    Ok((record, changes))
}

/// Revokes a key.
pub fn revoke(stores: &dyn Stores, user: UserId, key: KeyId, now: u64) -> Decision<()> {
    let (hash, mut record) = find(stores, user, key)?;
    record.revoked_at = Some(now);
    Ok(((), put(hash, &record)))
}

/// Notes when keys were last used.
pub fn note_used(stores: &dyn Stores, used: &[(UserId, KeyId, u64)]) -> Result<Changes, IdentityError> {
    let mut changes = Changes::default();
    for &(user, key, last_used) in used {
        if let Some((hash, mut record)) = stores.accounts().key(user, key)? {
            record.last_used_at = record.last_used_at.max(Some(last_used));
            changes.accounts.push(AccountChange::PutKey(hash, record));
        }
    }
    Ok(changes)
}

/// Keys revoked so long ago that nobody is told so any more.
pub fn revoked_long_ago(stores: &dyn Stores, now: u64) -> Result<Vec<(UserId, KeyId)>, StoreError> {
    let mut found = Vec::new();
    stores.accounts().each_key(&mut |_, record| {
        if is_forgettable(&record, now) {
            found.push((record.user, record.id));
        }
    })?;
    Ok(found)
}

/// Deletes those of them that still are.
pub fn forget(stores: &dyn Stores, keys: &[(UserId, KeyId)], now: u64) -> Result<Changes, StoreError> {
    let mut changes = Changes::default();
    for &(user, key) in keys {
        let found = stores.accounts().key(user, key)?.filter(|(_, record)| is_forgettable(record, now));
        changes.accounts.extend(found.map(|(hash, record)| AccountChange::DeleteKey(hash, record)));
    }
    Ok(changes)
}

fn is_forgettable(record: &ApiKeyRecord, now: u64) -> bool {
    record.revoked_at.is_some_and(|at| at.saturating_add(KEEP_REVOKED_S) < now)
}

fn find(stores: &dyn Stores, user: UserId, key: KeyId) -> Result<(KeyHash, ApiKeyRecord), IdentityError> {
    let found = stores.accounts().key(user, key)?.filter(|(_, record)| record.revoked_at.is_none());
    found.ok_or_else(|| IdentityError::NotFound { what: "API key", id: key.to_string() })
}

fn refreshed(
    hash: &KeyHash,
    record: ApiKeyRecord,
    last_used: impl Fn(&KeyHash) -> Option<u64>,
) -> ApiKeyRecord {
    ApiKeyRecord { last_used_at: record.last_used_at.max(last_used(hash)), ..record }
}

fn put(hash: KeyHash, record: &ApiKeyRecord) -> Changes {
    Changes { accounts: vec![AccountChange::PutKey(hash, record.clone())], ..Changes::default() }
}

fn check_permissions(wanted: Permissions, had: Permissions) -> Result<(), IdentityError> {
    if wanted.is_empty() {
        let problem = "must name at least one of read, write and admin".to_owned();
        return Err(IdentityError::Invalid { field: "permissions", problem });
    }
    let lacking = wanted.without(had);
    if lacking.is_empty() { Ok(()) } else { Err(IdentityError::ExceedsMaker { lacking }) }
}

fn check_expiry(expires_at: Option<u64>, now: u64) -> Result<(), IdentityError> {
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        let problem = "must be in the future".to_owned();
        return Err(IdentityError::Invalid { field: "expires_at", problem });
    }
    Ok(())
}
