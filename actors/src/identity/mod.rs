//! Authentication and authorization: users, API keys and login sessions.
//!
//! [`Identity`] is the edge's handle. Checking a credential goes through no mailbox: it reads an `index` in memory that notices
//! (`credentials`) change only after a change is on disk, so a check costs a hash and two look-ups. Everything else is a message to one of two
//! supervised actors, `accounts` for users and keys and `sessions` for login sessions, which answer once the change is on disk.
//!
//! Decisions are functions of the stored state (`users`, `api_keys`, `sessions`) that return an answer and the changes it needs;
//! the store's thread runs them one after the other. `family` and `token` are pure.

mod accounts;
mod admin;
mod api_keys;
mod cache;
pub(crate) mod call;
pub(crate) mod credentials;
mod error;
pub(crate) mod family;
mod guests;
mod handle;
pub(crate) mod ids;
mod index;
mod open;
mod party;
mod permissions;
mod remote;
mod restrictions;
mod secret;
mod sessions;
mod shared_keys;
pub(crate) mod signing;
pub(crate) mod token;
mod tokens;
mod types;
mod users;

#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

pub use crate::store::OpenError;
pub use admin::{AdminError, AdminKeyFile};
#[cfg(test)]
pub(crate) use index::Index;

pub use error::{AuthError, IdentityError};
pub use handle::Identity;
pub use ids::{InvalidId, KeyId, SessionId, UserId};
pub use open::IdentityOpenError;
pub use party::{ClientNet, Party};
pub use permissions::{Permission, Permissions, Right};
pub use restrictions::{InvalidNetwork, MAX_ENTRIES, Network, Restrictions};
pub use signing::rotate_signing_key;
pub use types::{
    ApiKeyRecord, CreatedKey, CredentialId, ExternalId, ExternalProfile, KeyUpdate, MAX_PARENTS, Maker,
    NewKey, Origin, Page, Principal, PrincipalKind, RefreshProof, Secret, SessionRecord, SignIn, TokenPair,
    UserKind, UserRecord, UserUpdate,
};

/// Returns the time of the clock that dates stored and issued objects (epoch seconds).
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns a user that is not stored yet.
#[cfg(test)]
pub(crate) fn new_member(kind: UserKind) -> UserRecord {
    users::new_user(kind, None, "Test".to_owned(), now_s())
}
