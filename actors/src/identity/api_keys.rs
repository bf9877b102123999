//! Decisions about API keys: from the stored state to an answer and the changes that it needs.

use std::collections::HashMap;

use super::error::{AuthError, IdentityError};
use super::ids::{KeyId, UserId};
use super::permissions::{Permission, Permissions};
use super::restrictions::Restrictions;
use super::secret;
use super::types::{ApiKeyRecord, CreatedKey, CredentialId, KeyUpdate, MAX_PARENTS, Maker, NewKey, Origin};
use super::users::{self, Decision, valid_name};
use crate::limits::LimitOverrides;
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, StoreError, Stores};

/// Maximum number of keys of one user, including revoked ones that are still kept. Far more than a user needs, and few enough
/// that no user can fill the disk.
pub const MAX_KEYS: usize = 10_000;

/// Maximum number of credentials that were created one with the other before a new one.
const MAX_ORIGINS: usize = 64;

/// Seconds from a session's beginning during which the keys and sessions that it created can still be ended with it.
const KEEP_ENDED_S: u64 = 90 * 24 * 3600;

/// Seconds that a revoked key is kept, so that a client that still uses it gets a specific error.
pub const KEEP_REVOKED_S: u64 = 30 * 24 * 3600;

/// Creates a key for a user.
///
/// A key that is created with a key of the same user is that key's child: it grants no more than its parent, and ends with it.
pub async fn create(
    stores: &dyn Stores,
    user: UserId,
    maker: Maker,
    key: NewKey,
    now: u64,
) -> Decision<CreatedKey> {
    let owner = users::find(stores, user).await?;
    if owner.disabled {
        return Err(AuthError::UserDisabled.into());
    }
    let made_by = origins(stores, maker, now).await?;
    check_permissions(key.permissions, maker.permissions.meet(owner.kind.permissions()))?;
    check_expiry(key.expires_at, now)?;
    let name = valid_name(&key.name)?;
    let parent = maker.own_key(user);
    let bounds = match parent {
        Some(parent) => {
            let lineage = Lineage::of(stores, user, parent).await?;
            if lineage.keys.len() > MAX_PARENTS {
                return Err(IdentityError::TooManyParents { limit: MAX_PARENTS });
            }
            lineage.bounds()
        }
        None => Bounds::default(),
    };
    let key = bounds.hold(NewKey { name, ..key })?;
    if stores.accounts().key_count(user, MAX_KEYS).await? >= MAX_KEYS {
        return Err(IdentityError::TooManyKeys { limit: MAX_KEYS });
    }
    let (hash, mut created) = make(user, key, now);
    created.record.parent = parent;
    if parent.is_none() {
        created.record.made_by = made_by;
    }
    let changes = put(hash, &created.record);
    Ok((created, changes))
}

/// Returns a key as requested, not stored yet.
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
        only: key.only,
        parent: None,
        made_by: Vec::new(),
    };
    (secret::hash(secret.reveal()), CreatedKey { record, secret })
}

/// Returns a user's keys that are not revoked and have no revoked ancestor, with the times of last use from `last_used`.
pub async fn list(
    stores: &dyn Stores,
    user: UserId,
    last_used: impl Fn(&KeyHash) -> Option<u64> + Send,
) -> Result<Vec<ApiKeyRecord>, IdentityError> {
    let keys = stores.accounts().keys(user).await?;
    let by_id: HashMap<KeyId, &ApiKeyRecord> = keys.iter().map(|(_, record)| (record.id, record)).collect();
    let lives = |record: &ApiKeyRecord| {
        let mut next = Some(record.id);
        for _ in 0..=MAX_PARENTS {
            let Some(id) = next else { return true };
            let Some(record) = by_id.get(&id).filter(|record| record.revoked_at.is_none()) else {
                return false;
            };
            next = record.parent;
        }
        next.is_none()
    };
    let living = keys.iter().filter(|(_, record)| lives(record));
    Ok(living.map(|(hash, record)| refreshed(hash, record.clone(), &last_used)).collect())
}

/// Returns one of a user's keys that are not revoked.
pub async fn one(
    stores: &dyn Stores,
    user: UserId,
    key: KeyId,
    last_used: impl Fn(&KeyHash) -> Option<u64> + Send,
) -> Result<ApiKeyRecord, IdentityError> {
    let Lineage { hash, mut keys } = Lineage::of(stores, user, key).await?;
    Ok(refreshed(&hash, keys.swap_remove(0), &last_used))
}

/// Changes a key.
///
/// No key exceeds the one that it was created with. A caller that acts with a key can only reduce keys, itself included, except
/// those that were created with it.
pub async fn update(
    stores: &dyn Stores,
    user: UserId,
    key: KeyId,
    maker: Maker,
    update: KeyUpdate,
    now: u64,
) -> Decision<ApiKeyRecord> {
    origins(stores, maker, now).await?;
    let lineage = Lineage::of(stores, user, key).await?;
    let made_with = |acting: KeyId| lineage.keys[1..].iter().any(|parent| parent.id == acting);
    let bounds = match maker.own_key(user) {
        Some(acting) if !made_with(acting) => lineage.bounds(),
        _ => lineage.parents_bounds(),
    };
    let Lineage { hash, mut keys } = lineage;
    let mut record = keys.swap_remove(0);
    if let Some(name) = update.name {
        record.name = valid_name(&name)?;
    }
    if let Some(permissions) = update.permissions {
        let owner = users::find(stores, user).await?;
        check_permissions(permissions, maker.permissions.meet(owner.kind.permissions()))?;
        bounds.check_permissions(permissions)?;
        record.permissions = permissions;
    }
    if let Some(expires_at) = update.expires_at {
        check_expiry(expires_at, now)?;
        bounds.check_expiry(expires_at)?;
        record.expires_at = expires_at;
    }
    if let Some(limits) = update.limits {
        bounds.check_limits(limits)?;
        record.limits = limits;
    }
    if let Some(models) = update.models {
        record.only.models = models;
        bounds.check_models(&record.only)?;
    }
    if let Some(addresses) = update.addresses {
        record.only.addresses = addresses;
        bounds.check_addresses(&record.only)?;
    }
    let changes = put(hash, &record);
    Ok((record, changes))
}

/// Revokes a key.
pub async fn revoke(stores: &dyn Stores, user: UserId, key: KeyId, now: u64) -> Decision<()> {
    let Lineage { hash, mut keys } = Lineage::of(stores, user, key).await?;
    let record = ApiKeyRecord { revoked_at: Some(now), ..keys.swap_remove(0) };
    Ok(((), put(hash, &record)))
}

/// Stores the times at which keys were last used.
pub async fn note_used(stores: &dyn Stores, used: &[(UserId, KeyId, u64)]) -> Result<Changes, IdentityError> {
    let mut changes = Changes::default();
    for &(user, key, last_used) in used {
        if let Some((hash, mut record)) = stores.accounts().key(user, key).await? {
            record.last_used_at = record.last_used_at.max(Some(last_used));
            changes.accounts.push(AccountChange::PutKey(hash, record));
        }
    }
    Ok(changes)
}

/// Returns the keys whose revocation is no longer reported, and those created with keys that are gone.
pub async fn revoked_long_ago(stores: &dyn Stores, now: u64) -> Result<Vec<(UserId, KeyId)>, StoreError> {
    let mut found = Vec::new();
    let mut children = Vec::new();
    stores
        .accounts()
        .each_key(&mut |_, record| {
            if is_forgettable(&record, now) {
                found.push((record.user, record.id));
            } else if record.parent.is_some() {
                children.push(record);
            }
        })
        .await?;
    for child in children {
        if is_orphan(stores, &child).await? {
            found.push((child.user, child.id));
        }
    }
    Ok(found)
}

/// Deletes those of the keys that still qualify.
pub async fn forget(stores: &dyn Stores, keys: &[(UserId, KeyId)], now: u64) -> Result<Changes, StoreError> {
    let mut changes = Changes::default();
    for &(user, key) in keys {
        if let Some((hash, record)) = stores.accounts().key(user, key).await?
            && (is_forgettable(&record, now) || is_orphan(stores, &record).await?)
        {
            changes.accounts.push(AccountChange::DeleteKey(hash, record));
        }
    }
    Ok(changes)
}

fn is_forgettable(record: &ApiKeyRecord, now: u64) -> bool {
    record.revoked_at.is_some_and(|at| at.saturating_add(KEEP_REVOKED_S) < now)
}

/// Returns whether a key was created with one that is gone.
async fn is_orphan(stores: &dyn Stores, record: &ApiKeyRecord) -> Result<bool, StoreError> {
    match record.parent {
        Some(parent) => Ok(stores.accounts().key(record.user, parent).await?.is_none()),
        None => Ok(false),
    }
}

/// A key that is not revoked, followed by the key that it was created with, and so on.
struct Lineage {
    hash: KeyHash,
    keys: Vec<ApiKeyRecord>,
}

impl Lineage {
    async fn of(stores: &dyn Stores, user: UserId, key: KeyId) -> Result<Self, IdentityError> {
        let missing = || IdentityError::NotFound { what: "API key", id: key.to_string() };
        let living = async |id| -> Result<(KeyHash, ApiKeyRecord), IdentityError> {
            let found = stores.accounts().key(user, id).await?;
            found.filter(|(_, record)| record.revoked_at.is_none()).ok_or_else(missing)
        };
        let (hash, record) = living(key).await?;
        let mut next = record.parent;
        let mut keys = vec![record];
        while let Some(parent) = next {
            if keys.len() > MAX_PARENTS {
                return Err(missing());
            }
            let (_, record) = living(parent).await?;
            next = record.parent;
            keys.push(record);
        }
        Ok(Self { hash, keys })
    }

    /// Returns the upper bound of a key created with this one.
    fn bounds(&self) -> Bounds {
        Bounds::of(&self.keys)
    }

    /// Returns the upper bound of this key.
    fn parents_bounds(&self) -> Bounds {
        Bounds::of(&self.keys[1..])
    }
}

/// The upper bound of a key.
#[derive(Default)]
struct Bounds {
    permissions: Option<Permissions>,
    expires_at: Option<u64>,
    limits: LimitOverrides,
    only: Vec<Restrictions>,
}

impl Bounds {
    fn of(keys: &[ApiKeyRecord]) -> Self {
        keys.iter().fold(Self::default(), |bounds, key| Self {
            permissions: Some(bounds.permissions.map_or(key.permissions, |all| all.meet(key.permissions))),
            expires_at: [bounds.expires_at, key.expires_at].into_iter().flatten().min(),
            limits: bounds.limits.meet(&key.limits),
            only: bounds.only.into_iter().chain([key.only.clone()]).collect(),
        })
    }

    /// Returns the key if it is within the bound. What it leaves open is taken from the bound.
    fn hold(&self, key: NewKey) -> Result<NewKey, IdentityError> {
        self.check_permissions(key.permissions)?;
        let expires_at = key.expires_at.or(self.expires_at);
        self.check_expiry(expires_at)?;
        let limits = key.limits.within(&self.limits).map_err(exceeds_limit)?;
        let mut only = key.only;
        match only.models {
            Some(_) => self.check_models(&only)?,
            None => only.models = self.only.iter().find_map(|only| only.models.clone()),
        }
        match only.addresses {
            Some(_) => self.check_addresses(&only)?,
            None => only.addresses = self.only.iter().find_map(|only| only.addresses.clone()),
        }
        Ok(NewKey { expires_at, limits, only, ..key })
    }

    fn check_permissions(&self, wanted: Permissions) -> Result<(), IdentityError> {
        let lacking = self.permissions.map_or(Permissions::NONE, |most| wanted.lacking(most));
        if lacking.is_empty() { Ok(()) } else { Err(IdentityError::ExceedsMaker { lacking }) }
    }

    fn check_expiry(&self, wanted: Option<u64>) -> Result<(), IdentityError> {
        match self.expires_at {
            Some(latest) if wanted.is_none_or(|wanted| wanted > latest) => {
                let allowed = format!("up to {latest} (Unix seconds)");
                Err(IdentityError::Exceeds { field: "expires_at", allowed })
            }
            _ => Ok(()),
        }
    }

    fn check_models(&self, wanted: &Restrictions) -> Result<(), IdentityError> {
        if Restrictions::models_within(wanted.models.as_deref(), &self.only) {
            return Ok(());
        }
        Err(IdentityError::Exceeds { field: "models", allowed: "some of the models that it has".to_owned() })
    }

    fn check_addresses(&self, wanted: &Restrictions) -> Result<(), IdentityError> {
        if Restrictions::addresses_within(wanted.addresses.as_deref(), &self.only) {
            return Ok(());
        }
        let allowed = "addresses within those that it has".to_owned();
        Err(IdentityError::Exceeds { field: "addresses", allowed })
    }

    /// A change replaces all limits, so an absent limit means none.
    fn check_limits(&self, wanted: LimitOverrides) -> Result<(), IdentityError> {
        match wanted.within(&self.limits) {
            Ok(held) if held == wanted => Ok(()),
            Ok(_) => Err(IdentityError::Exceeds {
                field: "limits",
                allowed: "to keep every limit that is there, or to lower it".to_owned(),
            }),
            Err(above) => Err(exceeds_limit(above)),
        }
    }
}

fn exceeds_limit((name, most): (&'static str, u32)) -> IdentityError {
    let field = match name {
        "requests_per_hour" => "limits.requests_per_hour",
        "inference_per_minute" => "limits.inference_per_minute",
        "answers_per_minute" => "limits.answers_per_minute",
        "tokens_per_minute" => "limits.tokens_per_minute",
        "concurrent_streams" => "limits.concurrent_streams",
        _ => "limits",
    };
    IdentityError::Exceeds { field, allowed: format!("1 to {most}") }
}

/// Returns the origins of what a maker creates: every credential that the maker's came from, and the maker's own.
///
/// The maker's credential must still be valid when this is decided: what ends a credential also applies to requests that it sent
/// shortly before.
pub async fn origins(stores: &dyn Stores, maker: Maker, now: u64) -> Result<Vec<Origin>, IdentityError> {
    let Some(origin) = maker.with else { return Ok(Vec::new()) };
    let origins = match origin.with {
        CredentialId::Key(key) => {
            let lineage = Lineage::of(stores, origin.user, key).await.map_err(|error| match error {
                IdentityError::NotFound { .. } => AuthError::RevokedKey.into(),
                error => error,
            })?;
            if lineage.bounds().expires_at.is_some_and(|expires_at| expires_at <= now) {
                return Err(AuthError::ExpiredKey.into());
            }
            let mut origins = Vec::new();
            for key in lineage.keys.into_iter().rev() {
                origins.extend(key.made_by);
                origins.push(Origin { user: key.user, with: CredentialId::Key(key.id) });
            }
            origins
        }
        CredentialId::Session(session) => {
            let found =
                stores.sessions().session(session).await?.filter(|session| session.user == origin.user);
            let mut origins = found.ok_or(AuthError::SessionRevoked)?.made_by;
            origins.push(origin);
            origins
        }
    };
    // Without this, keys that replace one another year after year would grow a list without bound.
    let mut lasting = Vec::with_capacity(origins.len());
    for origin in origins {
        if lasts(stores, origin, now).await? {
            lasting.push(origin);
        }
    }
    if lasting.len() > MAX_ORIGINS {
        return Err(IdentityError::TooManyParents { limit: MAX_ORIGINS });
    }
    Ok(lasting)
}

/// Returns whether a credential exists, or ended so recently that what it created may still be ended with it.
async fn lasts(stores: &dyn Stores, origin: Origin, now: u64) -> Result<bool, IdentityError> {
    Ok(match origin.with {
        // A revoked key is kept for a while.
        CredentialId::Key(key) => stores.accounts().key(origin.user, key).await?.is_some(),
        CredentialId::Session(session) => {
            session.made_at_s().saturating_add(KEEP_ENDED_S) > now
                || stores.sessions().session(session).await?.is_some()
        }
    })
}

/// Ends the keys and sessions that still exist.
pub async fn end(stores: &dyn Stores, credentials: &[Origin], now: u64) -> Decision<()> {
    let mut changes = Changes::default();
    for origin in credentials {
        match origin.with {
            CredentialId::Key(key) => {
                if let Some((hash, record)) = stores.accounts().key(origin.user, key).await?
                    && record.revoked_at.is_none()
                {
                    let record = ApiKeyRecord { revoked_at: Some(now), ..record };
                    changes.accounts.push(AccountChange::PutKey(hash, record));
                }
            }
            CredentialId::Session(session) => {
                changes.sessions.push(SessionChange::End(origin.user, session));
            }
        }
    }
    Ok(((), changes))
}

fn refreshed(
    hash: &KeyHash,
    record: ApiKeyRecord,
    last_used: impl Fn(&KeyHash) -> Option<u64>,
) -> ApiKeyRecord {
    ApiKeyRecord { last_used_at: record.last_used_at.max(last_used(hash)), ..record }
}

fn put(hash: KeyHash, record: &ApiKeyRecord) -> Changes {
    Changes::accounts(vec![AccountChange::PutKey(hash, record.clone())])
}

fn check_permissions(wanted: Permissions, had: Permissions) -> Result<(), IdentityError> {
    if wanted.is_empty() {
        let problem = format!("must name at least one of {}", Permission::names());
        return Err(IdentityError::Invalid { field: "permissions", problem });
    }
    let lacking = wanted.lacking(had);
    if lacking.is_empty() { Ok(()) } else { Err(IdentityError::ExceedsMaker { lacking }) }
}

fn check_expiry(expires_at: Option<u64>, now: u64) -> Result<(), IdentityError> {
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        let problem = "must be in the future".to_owned();
        return Err(IdentityError::Invalid { field: "expires_at", problem });
    }
    Ok(())
}
