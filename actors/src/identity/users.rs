//! Decisions about users: from the stored state to an answer and the changes that it needs.
//!
//! They have no clock, no actor and no disk access of their own: the store's thread runs them one after the other.

use super::error::{AuthError, IdentityError};
use super::ids::UserId;
use super::party::ClientNet;
use super::types::{ExternalProfile, Page, SignIn, UserKind, UserRecord, UserUpdate};
use crate::limits::LimitOverrides;
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, Stores};

/// An answer and the changes that it needs.
pub type Decision<T> = Result<(T, Changes), IdentityError>;

/// Maximum length of a name of any kind, in characters.
pub const MAX_NAME: usize = 200;

/// RFC 5321, section 4.5.3.1.3: the longest path, less its brackets.
const MAX_EMAIL: usize = 254;

/// Maximum length of a stored picture URL, in bytes.
const MAX_PICTURE: usize = 2048;

/// Returns one user.
pub async fn find(stores: &dyn Stores, id: UserId) -> Result<UserRecord, IdentityError> {
    stores.accounts().user(id).await?.ok_or_else(|| not_found(id))
}

/// Returns up to `limit` users after `after`.
pub async fn page(
    stores: &dyn Stores,
    after: Option<UserId>,
    limit: usize,
) -> Result<Page<UserRecord>, IdentityError> {
    let mut items = stores.accounts().users(after, limit.saturating_add(1)).await?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(Page { items, has_more })
}

/// Creates a guest of that network.
pub fn guest(net: ClientNet, now: u64) -> (UserRecord, Changes) {
    let guest = new_user(UserKind::Guest, None, "Guest".to_owned(), now);
    put(UserRecord { guest_net: Some(net), ..guest })
}

/// Creates a member.
pub async fn create(stores: &dyn Stores, email: &str, name: &str, now: u64) -> Decision<UserRecord> {
    let email = valid_email(email)?;
    let name = valid_name(name)?;
    if stores.accounts().user_by_email(&email).await?.is_some() {
        return Err(IdentityError::EmailTaken(email));
    }
    Ok(put(new_user(UserKind::Member, Some(email), name, now)))
}

/// Returns a user of any kind, not stored yet.
pub fn new_user(kind: UserKind, email: Option<String>, name: String, now: u64) -> UserRecord {
    UserRecord {
        id: UserId::new(),
        kind,
        email,
        name,
        picture: None,
        created_at: now,
        disabled: false,
        limits: LimitOverrides::default(),
        guest_net: None,
        external: None,
        shares_ended_at: None,
    }
}

/// Changes a user. `admins` contains at least all administrators that existed a moment ago.
pub async fn update(
    stores: &dyn Stores,
    id: UserId,
    update: UserUpdate,
    admins: &[UserId],
    now: u64,
) -> Decision<UserRecord> {
    let before = find(stores, id).await?;
    let mut user = before.clone();
    if let Some(name) = update.name {
        user.name = valid_name(&name)?;
    }
    if let Some(kind) = update.kind.filter(|&kind| kind != before.kind) {
        if kind == UserKind::Guest || before.kind == UserKind::Guest {
            let problem = "of a guest changes by signing in alone; use member or admin for other users";
            return Err(IdentityError::Invalid { field: "role", problem: problem.to_owned() });
        }
        user.kind = kind;
    }
    user.disabled = update.disabled.unwrap_or(user.disabled);
    if user.disabled && !before.disabled {
        // Permanent: enabling the user again does not restore the links.
        user.shares_ended_at = Some(now);
    }
    user.limits = update.limits.unwrap_or(user.limits);
    if administers(&before) && !administers(&user) {
        keep_an_admin(stores, id, admins).await?;
    }
    Ok(put(user))
}

/// Deletes a user with all keys and sessions.
pub async fn delete(stores: &dyn Stores, id: UserId, admins: &[UserId]) -> Decision<()> {
    let user = find(stores, id).await?;
    if administers(&user) {
        keep_an_admin(stores, id, admins).await?;
    }
    // Without their user, keys and sessions are invalid from that moment on; the store deletes them in steps.
    Ok(((), Changes::accounts(vec![AccountChange::DeleteUser(id)])))
}

/// Returns the user authenticated by an identity provider.
///
/// A guest that signs in becomes that user and keeps its data; if the user already exists, the guest is deleted and its data
/// belongs to the user. Its sessions and keys end in either case: their holder was unidentified, and must not find themselves
/// signed in as somebody else (session fixation).
pub async fn sign_in(
    stores: &dyn Stores,
    profile: ExternalProfile,
    guest: Option<UserId>,
    now: u64,
) -> Decision<SignIn> {
    let email = valid_email(&profile.email)?;
    let accounts = stores.accounts();
    let guest = match guest {
        Some(id) => accounts.user(id).await?.filter(|user| user.kind == UserKind::Guest && !user.disabled),
        None => None,
    };
    let here = match (accounts.user_by_external(&profile.id).await?, accounts.user_by_email(&email).await?) {
        // The address may have changed at the provider; an address that belongs to another user here is not taken over.
        (Some(user), None) => Some(UserRecord { email: Some(email.clone()), ..user }),
        (Some(user), Some(_)) => Some(user),
        // Created by an administrator; the provider has verified the address.
        (None, Some(user)) if user.external.is_none() => Some(user),
        (None, Some(_)) => return Err(IdentityError::EmailTaken(email)),
        (None, None) => None,
    };
    if here.as_ref().is_some_and(|user| user.disabled) {
        return Err(AuthError::UserDisabled.into());
    }
    let created = here.is_none();
    let mut changes = Changes::default();
    let mut merged_guest = None;
    if let Some(guest) = &guest {
        if created {
            changes = end_credentials(stores, guest.id).await?;
        } else {
            changes.accounts.push(AccountChange::DeleteUser(guest.id));
            merged_guest = Some(guest.id);
            changes.moves.extend(here.as_ref().map(|user| (guest.id, user.id)));
        }
    }
    let mut user = here.unwrap_or_else(|| {
        let name = readable_name(&profile.name, &email);
        let member = new_user(UserKind::Member, Some(email), name, now);
        match guest {
            Some(guest) => {
                UserRecord { id: guest.id, created_at: guest.created_at, limits: guest.limits, ..member }
            }
            None => member,
        }
    });
    user.external = Some(profile.id);
    user.picture = profile.picture.filter(|url| url.len() <= MAX_PICTURE).or(user.picture);
    changes.accounts.push(AccountChange::PutUser(user.clone()));
    Ok((SignIn { user, created, merged_guest }, changes))
}

/// Retention of guests.
#[derive(Clone, Copy, Debug)]
pub struct GuestRetention {
    /// Seconds after its last use at which a guest is deleted.
    pub idle_s: u64,
    /// Seconds after its last refresh during which a session may be in use.
    pub access_ttl_s: u64,
}

impl GuestRetention {
    /// Seconds that an unreachable guest, which has neither session nor key, is kept: an administrator may still have created it
    /// for somebody.
    const UNREACHABLE_S: u64 = 86_400;
}

/// Deletes those of `guests` that have not been used for that long, with their sessions and keys. `last_used` includes uses of
/// keys that are not stored yet.
pub async fn forget_guests(
    stores: &dyn Stores,
    guests: &[UserId],
    retention: GuestRetention,
    now: u64,
    last_used: impl Fn(&KeyHash) -> Option<u64> + Send + Sync,
) -> Result<Changes, IdentityError> {
    let mut changes = Changes::default();
    for &id in guests {
        let Some(user) = stores.accounts().user(id).await?.filter(|user| user.kind == UserKind::Guest) else {
            continue;
        };
        let sessions = stores.sessions().sessions(id).await?;
        let keys = stores.accounts().keys(id).await?;
        let kept = match sessions.is_empty() && keys.is_empty() {
            true => retention.idle_s.min(GuestRetention::UNREACHABLE_S),
            false => retention.idle_s,
        };
        let in_session = sessions.iter().map(|one| one.family.since.saturating_add(retention.access_ttl_s));
        let by_key =
            keys.iter().flat_map(|(hash, key)| [key.last_used_at, last_used(hash), Some(key.created_at)]);
        let used = in_session.chain(by_key.flatten()).fold(user.created_at, u64::max);
        if used.saturating_add(kept) < now {
            let ended = end_credentials(stores, id).await?;
            changes.accounts.extend(ended.accounts);
            changes.sessions.extend(ended.sessions);
            changes.accounts.push(AccountChange::DeleteUser(id));
        }
    }
    Ok(changes)
}

/// Ends all of a user's sessions and keys.
async fn end_credentials(stores: &dyn Stores, id: UserId) -> Result<Changes, IdentityError> {
    let keys = stores.accounts().keys(id).await?.into_iter();
    let sessions = stores.sessions().sessions(id).await?.into_iter();
    Ok(Changes {
        accounts: keys.map(|(hash, record)| AccountChange::DeleteKey(hash, record)).collect(),
        sessions: sessions.map(|session| SessionChange::End(id, session.id)).collect(),
        ..Changes::default()
    })
}

const fn administers(user: &UserRecord) -> bool {
    matches!(user.kind, UserKind::Admin) && !user.disabled
}

/// Refuses if no other administrator than `id` is left. `admins` may contain some that no longer are.
async fn keep_an_admin(stores: &dyn Stores, id: UserId, admins: &[UserId]) -> Result<(), IdentityError> {
    for &other in admins.iter().filter(|&&other| other != id) {
        if stores.accounts().user(other).await?.is_some_and(|user| administers(&user)) {
            return Ok(());
        }
    }
    Err(IdentityError::LastAdmin)
}

fn put(user: UserRecord) -> (UserRecord, Changes) {
    let changes = Changes::accounts(vec![AccountChange::PutUser(user.clone())]);
    (user, changes)
}

fn not_found(id: UserId) -> IdentityError {
    IdentityError::NotFound { what: "user", id: id.to_string() }
}

/// Returns an address in lower case. Whether the mailbox exists could only be found out by sending a message.
fn valid_email(email: &str) -> Result<String, IdentityError> {
    let email = email.trim().to_lowercase();
    let valid = email.len() <= MAX_EMAIL
        && !email.contains(|c: char| c.is_whitespace() || c.is_control())
        && email.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if valid {
        return Ok(email);
    }
    let problem = format!("must be an address like name@example.com of at most {MAX_EMAIL} bytes");
    Err(IdentityError::Invalid { field: "email", problem })
}

/// Returns a name without surrounding whitespace.
pub fn valid_name(name: &str) -> Result<String, IdentityError> {
    let name = name.trim();
    if (1..=MAX_NAME).contains(&name.chars().count()) && !name.contains(char::is_control) {
        return Ok(name.to_owned());
    }
    let problem = format!("must have 1 to {MAX_NAME} characters, none of them a control character");
    Err(IdentityError::Invalid { field: "name", problem })
}

/// Returns the user's name at the provider, made to fit; the address if there is none.
fn readable_name(name: &str, email: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = name.trim();
    if name.is_empty() { email.chars().take(MAX_NAME).collect() } else { name.to_owned() }
}
