//! In-memory index of users, keys and sessions, read when a credential is checked.
//!
//! Only notices from the store's thread change it, in the order in which changes became durable and before they are acknowledged:
//! so a revocation applies to every request sent after its answer, and what the index grants is on disk. It is no part of the
//! actors and remains available while they are restarted.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use subtle::ConstantTimeEq;

use super::credentials::{CredentialIndex, CredentialMirror};
use super::error::{AuthError, IdentityError};
use super::guests::{GuestLimits, GuestPlace, Guests};
use super::ids::{KeyId, SessionId, UserId};
use super::party::ClientNet;
use super::permissions::Permissions;
use super::restrictions::Restrictions;
use super::types::{
    ApiKeyRecord, CredentialId, MAX_PARENTS, Origin, Principal, PrincipalKind, UserKind, UserRecord,
};
use crate::limits::LimitOverrides;
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, StoreError, StoredSession, Stores};

/// Number of locks that share the entries of one kind.
const SHARDS: usize = 16;

/// Number of users read at a time when loading.
const LOAD_PAGE: usize = 1000;

/// A sharded map, whose readers rarely meet a writer.
#[derive(Debug)]
struct Sharded<K, V> {
    shards: Vec<RwLock<HashMap<K, V>>>,
}

/// A key that determines its shard. Any byte that is random serves.
trait ShardKey: Copy + Eq + Hash {
    fn byte(&self) -> u8;
}

impl ShardKey for UserId {
    fn byte(&self) -> u8 {
        self.to_bytes()[15]
    }
}

impl ShardKey for SessionId {
    fn byte(&self) -> u8 {
        self.to_bytes()[15]
    }
}

impl ShardKey for KeyId {
    fn byte(&self) -> u8 {
        self.to_bytes()[15]
    }
}

/// The first half of a key's hash: enough for the look-up; the whole hash is compared separately.
type KeyPrefix = [u8; 16];

impl ShardKey for KeyPrefix {
    fn byte(&self) -> u8 {
        self[15]
    }
}

impl<K: ShardKey, V> Sharded<K, V> {
    fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn read(&self, key: &K) -> RwLockReadGuard<'_, HashMap<K, V>> {
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &K) -> RwLockWriteGuard<'_, HashMap<K, V>> {
        self.shard(key).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, key: &K) -> &RwLock<HashMap<K, V>> {
        &self.shards[usize::from(key.byte()) % SHARDS]
    }

    fn replace(&self, entries: HashMap<K, V>) {
        let mut fresh: Vec<HashMap<K, V>> = (0..SHARDS).map(|_| HashMap::new()).collect();
        for (key, value) in entries {
            fresh[usize::from(key.byte()) % SHARDS].insert(key, value);
        }
        for (shard, fresh) in self.shards.iter().zip(fresh) {
            *shard.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    fn retain(&self, keep: impl Fn(&V) -> bool) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).retain(|_, value| keep(value));
        }
    }

    fn each(&self, mut visit: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            for (key, value) in &*shard.read().unwrap_or_else(PoisonError::into_inner) {
                visit(key, value);
            }
        }
    }
}

/// The indexed fields of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UserEntry {
    kind: UserKind,
    disabled: bool,
    limits: LimitOverrides,
    guest_net: Option<ClientNet>,
    shares_ended_at: Option<u64>,
}

impl From<&UserRecord> for UserEntry {
    fn from(record: &UserRecord) -> Self {
        let UserRecord { kind, disabled, limits, guest_net, shares_ended_at, .. } = *record;
        Self { kind, disabled, limits, guest_net, shares_ended_at }
    }
}

/// The indexed fields of a key.
#[derive(Debug)]
struct KeyEntry {
    hash: KeyHash,
    id: KeyId,
    user: UserId,
    permissions: Permissions,
    expires_at: Option<u64>,
    revoked: bool,
    limits: LimitOverrides,
    parent: Option<KeyId>,
    made_by: Box<[Origin]>,
    only: Arc<Restrictions>,
    /// Time at which the key was last accepted (epoch seconds, 0: never), and the part of it that is stored.
    last_used: AtomicU64,
    stored_last_used: AtomicU64,
}

impl KeyEntry {
    fn new(hash: &KeyHash, record: &ApiKeyRecord) -> Self {
        let last_used = record.last_used_at.unwrap_or(0);
        Self {
            hash: *hash,
            id: record.id,
            user: record.user,
            permissions: record.permissions,
            expires_at: record.expires_at,
            revoked: record.revoked_at.is_some(),
            limits: record.limits,
            parent: record.parent,
            made_by: record.made_by.as_slice().into(),
            only: Arc::new(record.only.clone()),
            last_used: last_used.into(),
            stored_last_used: last_used.into(),
        }
    }
}

impl KeyEntry {
    fn check(&self, from: Option<IpAddr>, now: u64) -> Result<(), AuthError> {
        if self.revoked {
            return Err(AuthError::RevokedKey);
        }
        if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            return Err(AuthError::ExpiredKey);
        }
        if !self.only.allows(from) {
            return Err(AuthError::AddressNotAllowed);
        }
        Ok(())
    }
}

/// The indexed fields of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SessionEntry {
    user: UserId,
    created_at: u64,
    made_by: Box<[Origin]>,
}

impl From<&StoredSession> for SessionEntry {
    fn from(session: &StoredSession) -> Self {
        Self {
            user: session.user,
            created_at: session.created_at,
            made_by: session.made_by.as_slice().into(),
        }
    }
}

/// Users, keys and sessions in memory.
#[derive(Debug)]
pub struct Index {
    users: Sharded<UserId, UserEntry>,
    keys: Sharded<KeyPrefix, KeyEntry>,
    /// The position in `keys` of the key of that id.
    key_ids: Sharded<KeyId, KeyPrefix>,
    sessions: Sharded<SessionId, SessionEntry>,
    guests: Arc<Guests>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            users: Sharded::new(),
            keys: Sharded::new(),
            key_ids: Sharded::new(),
            sessions: Sharded::new(),
            guests: Arc::default(),
        }
    }
}

impl Index {
    /// Replaces the contents by those of the store.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load(&self, stores: &dyn Stores) -> Result<(), StoreError> {
        let mut users = HashMap::new();
        let mut after = None;
        loop {
            let page = stores.accounts().users(after, LOAD_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            users.extend(page.iter().map(|record| (record.id, UserEntry::from(record))));
        }
        let (mut keys, mut key_ids) = (HashMap::new(), HashMap::new());
        stores
            .accounts()
            .each_key(&mut |hash, record| {
                key_ids.insert(record.id, prefix(&hash));
                keys.insert(prefix(&hash), KeyEntry::new(&hash, &record));
            })
            .await?;
        let mut sessions = HashMap::new();
        stores
            .sessions()
            .each_session(&mut |session| {
                sessions.insert(session.id, SessionEntry::from(&session));
            })
            .await?;
        let guests = users.values().filter(|user| user.kind == UserKind::Guest);
        self.guests.replace(guests.map(|guest| guest.guest_net));
        self.users.replace(users);
        self.keys.replace(keys);
        self.key_ids.replace(key_ids);
        self.sessions.replace(sessions);
        Ok(())
    }

    fn count_guest(&self, before: Option<UserEntry>, now: Option<UserEntry>) {
        let guest = |entry: Option<UserEntry>| entry.filter(|entry| entry.kind == UserKind::Guest);
        if let Some(entry) = guest(now) {
            self.guests.add(entry.guest_net);
        }
        if let Some(entry) = guest(before) {
            self.guests.remove(entry.guest_net);
        }
    }

    /// Limits a key's principal to the permissions and the lifetime of the keys that it was created with.
    fn hold_to_parents(
        &self,
        principal: &mut Principal,
        user: UserId,
        parent: Option<KeyId>,
        from: Option<IpAddr>,
        now: u64,
    ) -> Result<(), AuthError> {
        let mut next = parent;
        for place in &mut principal.parents {
            let Some(id) = next else { return Ok(()) };
            let at = self.key_ids.read(&id).get(&id).copied().ok_or(AuthError::RevokedKey)?;
            let keys = self.keys.read(&at);
            let entry = keys.get(&at).filter(|entry| entry.id == id && entry.user == user);
            let entry = entry.ok_or(AuthError::RevokedKey)?;
            entry.check(from, now)?;
            principal.permissions = principal.permissions.meet(entry.permissions);
            *place = Some((id, entry.limits));
            next = entry.parent;
        }
        if next.is_none() { Ok(()) } else { Err(AuthError::RevokedKey) }
    }

    fn user(&self, id: UserId) -> Option<UserEntry> {
        self.users.read(&id).get(&id).copied()
    }
}

impl CredentialMirror for Index {
    fn apply(&self, changes: &Changes) {
        let mut deleted = HashSet::new();
        for change in &changes.accounts {
            match change {
                AccountChange::PutUser(record) => {
                    let now = UserEntry::from(record);
                    let before = self.users.write(&record.id).insert(record.id, now);
                    self.count_guest(before, Some(now));
                }
                AccountChange::DeleteUser(id) => {
                    let before = self.users.write(id).remove(id);
                    self.count_guest(before, None);
                    deleted.insert(*id);
                }
                AccountChange::PutKey(hash, record) => {
                    let entry = KeyEntry::new(hash, record);
                    let mut keys = self.keys.write(&prefix(hash));
                    // A use noted meanwhile is newer than the stored one.
                    if let Some(before) = keys.get(&prefix(hash)) {
                        entry
                            .last_used
                            .fetch_max(before.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    keys.insert(prefix(hash), entry);
                    drop(keys);
                    self.key_ids.write(&record.id).insert(record.id, prefix(hash));
                }
                AccountChange::DeleteKey(hash, record) => {
                    self.key_ids.write(&record.id).remove(&record.id);
                    self.keys.write(&prefix(hash)).remove(&prefix(hash));
                }
            }
        }
        if !deleted.is_empty() {
            // Without their user they are invalid, and the store deletes them in steps that are not reported here.
            self.keys.retain(|entry| !deleted.contains(&entry.user));
            self.sessions.retain(|entry| !deleted.contains(&entry.user));
        }
        for change in &changes.sessions {
            match change {
                SessionChange::Put(session) => {
                    self.sessions.write(&session.id).insert(session.id, session.into());
                }
                SessionChange::End(_, id) => {
                    self.sessions.write(id).remove(id);
                }
            }
        }
    }
}

impl CredentialIndex for Index {
    fn key(&self, hash: &KeyHash, from: Option<IpAddr>, now: u64) -> Result<Principal, AuthError> {
        let keys = self.keys.read(&prefix(hash));
        let entry = keys.get(&prefix(hash)).filter(|entry| bool::from(entry.hash.ct_eq(hash)));
        let entry = entry.ok_or(AuthError::UnknownKey)?;
        entry.check(from, now)?;
        let user = self.user(entry.user).ok_or(AuthError::UnknownKey)?;
        if user.disabled {
            return Err(AuthError::UserDisabled);
        }
        // Not more often than the value changes: a write would take the cache line from every other core.
        if entry.last_used.load(Ordering::Relaxed) < now {
            entry.last_used.store(now, Ordering::Relaxed);
        }
        let mut principal = Principal {
            kind: PrincipalKind::Key { user: entry.user, key: entry.id },
            permissions: entry.permissions.meet(user.kind.permissions()),
            user_kind: Some(user.kind),
            guest_net: None,
            user_limits: user.limits,
            key_limits: entry.limits,
            parents: [None; MAX_PARENTS],
        };
        let (user, parent) = (entry.user, entry.parent);
        // One lock at a time: the next key may lie in the same shard.
        drop(keys);
        self.hold_to_parents(&mut principal, user, parent, from, now)?;
        Ok(principal)
    }

    fn session(&self, user: UserId, session: SessionId, over: u64) -> Result<Principal, AuthError> {
        let holds = |entry: &SessionEntry| entry.user == user && entry.created_at > over;
        if !self.sessions.read(&session).get(&session).is_some_and(holds) {
            return Err(AuthError::SessionRevoked);
        }
        let entry = self.user(user).ok_or(AuthError::SessionRevoked)?;
        if entry.disabled {
            return Err(AuthError::UserDisabled);
        }
        Ok(Principal {
            kind: PrincipalKind::User { user, session },
            permissions: entry.kind.permissions(),
            user_kind: Some(entry.kind),
            guest_net: None,
            user_limits: entry.limits,
            key_limits: LimitOverrides::default(),
            parents: [None; MAX_PARENTS],
        })
    }

    fn shows_share(&self, user: UserId, made_at: u64) -> bool {
        let ended = |entry: &UserEntry| entry.shares_ended_at.is_some_and(|ended| made_at <= ended);
        self.user(user).is_some_and(|entry| !entry.disabled && !ended(&entry))
    }

    fn restrictions(&self, principal: &Principal) -> Vec<Arc<Restrictions>> {
        let PrincipalKind::Key { key, .. } = principal.kind else { return Vec::new() };
        let parents = principal.parents.iter().flatten().map(|(parent, _)| *parent);
        let of = |key: KeyId| {
            let at = self.key_ids.read(&key).get(&key).copied()?;
            self.keys.read(&at).get(&at).map(|entry| Arc::clone(&entry.only))
        };
        std::iter::once(key).chain(parents).filter_map(of).collect()
    }

    fn made_by(&self, origin: Origin) -> Vec<Origin> {
        let mut made = Vec::new();
        self.keys.each(|_, key| {
            if !key.revoked && key.made_by.contains(&origin) {
                made.push(Origin { user: key.user, with: CredentialId::Key(key.id) });
            }
        });
        self.sessions.each(|&id, session| {
            if session.made_by.contains(&origin) {
                made.push(Origin { user: session.user, with: CredentialId::Session(id) });
            }
        });
        made
    }

    fn last_used(&self, hash: &KeyHash) -> Option<u64> {
        let keys = self.keys.read(&prefix(hash));
        let last_used = keys.get(&prefix(hash))?.last_used.load(Ordering::Relaxed);
        (last_used > 0).then_some(last_used)
    }

    fn take_used(&self) -> Vec<(UserId, KeyId, u64)> {
        let mut used = Vec::new();
        self.keys.each(|_, entry| {
            let last = entry.last_used.load(Ordering::Relaxed);
            if entry.stored_last_used.swap(last, Ordering::Relaxed) < last {
                used.push((entry.user, entry.id, last));
            }
        });
        used
    }

    fn users_of(&self, kind: UserKind) -> Vec<UserId> {
        let mut users = Vec::new();
        self.users.each(|id, entry| {
            if entry.kind == kind {
                users.push(*id);
            }
        });
        users
    }

    fn reserve_guest(&self, net: ClientNet, limits: GuestLimits) -> Result<GuestPlace, IdentityError> {
        self.guests.reserve(net, limits)
    }
}

fn prefix(hash: &KeyHash) -> KeyPrefix {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *hash;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
