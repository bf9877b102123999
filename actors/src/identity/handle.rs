//! The edge's door to users, keys and sessions.

use std::time::Duration;

use super::ids::{KeyId, SessionId, UserId};
use super::permissions::Permissions;
use super::types::{
    ApiKeyRecord, AuthError, CreatedKey, ExternalProfile, IdentityError, KeyUpdate, NewKey, Page, Principal,
    RefreshProof, SessionRecord, SignIn, TokenPair, UserRecord, UserUpdate,
};

/// Users, keys and sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {}

const SOON: Duration = Duration::from_secs(1);

fn unavailable<T>() -> Result<T, IdentityError> {
    Err(IdentityError::Unavailable { part: "accounts", retry_after: SOON })
}

impl Identity {
    /// Whose credential this is, be it a JWT or an API key. Waits for nothing.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate(&self, credential: &str) -> Result<Principal, AuthError> {
        if credential.starts_with("sk-jan-") {
            self.authenticate_key(credential)
        } else {
            self.authenticate_token(credential)
        }
    }

    /// Whose API key this is. Waits for nothing.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate_key(&self, _key: &str) -> Result<Principal, AuthError> {
        Err(AuthError::UnknownKey)
    }

    /// Whose access token this is. Waits for nothing.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate_token(&self, _token: &str) -> Result<Principal, AuthError> {
        Err(AuthError::Malformed)
    }

    /// The public keys that tokens can be checked with, as a JWK Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": [] })
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn database_healthy(&self) -> bool {
        true
    }

    /// Begins a session for a user who has just shown who they are.
    ///
    /// # Errors
    /// No such user, a disabled one ([`AuthError::UserDisabled`]), or the store.
    pub async fn start_session(&self, _user: UserId) -> Result<TokenPair, IdentityError> {
        unavailable()
    }

    /// New tokens for old ones. An older generation presented again ends the session, except within
    /// `auth.refresh_grace_s`, when the same new generation is given once more.
    ///
    /// # Errors
    /// [`IdentityError::Auth`] with the reason, or the store.
    pub async fn refresh(&self, _proof: RefreshProof<'_>) -> Result<TokenPair, IdentityError> {
        unavailable()
    }

    /// A user's sessions that have not ended, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn sessions(&self, _user: UserId) -> Result<Vec<SessionRecord>, IdentityError> {
        unavailable()
    }

    /// Ends a session of that user; none of its tokens is accepted from now on. This is also how one logs out.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn revoke_session(&self, _user: UserId, _session: SessionId) -> Result<(), IdentityError> {
        unavailable()
    }

    /// A new guest.
    ///
    /// # Errors
    /// The store.
    pub async fn guest(&self) -> Result<UserRecord, IdentityError> {
        unavailable()
    }

    /// The user of that external identity: found by it, or else by its email, or else made new. A `guest` becomes
    /// that user, or gives what it has to it.
    ///
    /// # Errors
    /// A disabled user ([`AuthError::UserDisabled`]), an address that belongs to somebody else at that provider,
    /// or the store.
    pub async fn sign_in(
        &self,
        _profile: ExternalProfile,
        _guest: Option<UserId>,
    ) -> Result<SignIn, IdentityError> {
        unavailable()
    }

    /// One user.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn user(&self, _user: UserId) -> Result<UserRecord, IdentityError> {
        unavailable()
    }

    /// Up to `limit` users, oldest first, those behind `after`.
    ///
    /// # Errors
    /// The store.
    pub async fn users(
        &self,
        _after: Option<UserId>,
        _limit: usize,
    ) -> Result<Page<UserRecord>, IdentityError> {
        unavailable()
    }

    /// A new member.
    ///
    /// # Errors
    /// A field that cannot be, a taken email, or the store.
    pub async fn create_user(&self, _email: &str, _name: &str) -> Result<UserRecord, IdentityError> {
        unavailable()
    }

    /// Changes a user.
    ///
    /// # Errors
    /// Not found, a field that cannot be, the last administrator, or the store.
    pub async fn update_user(&self, _user: UserId, _update: UserUpdate) -> Result<UserRecord, IdentityError> {
        unavailable()
    }

    /// Deletes a user with all keys and sessions.
    ///
    /// # Errors
    /// Not found, the last administrator, or the store.
    pub async fn delete_user(&self, _user: UserId) -> Result<(), IdentityError> {
        unavailable()
    }

    /// A new key for a user, made by somebody who may do `maker`.
    ///
    /// # Errors
    /// Permissions that the maker or the user lacks, too many keys, a field that cannot be, not found, or the store.
    pub async fn create_key(
        &self,
        _user: UserId,
        _maker: Permissions,
        _key: NewKey,
    ) -> Result<CreatedKey, IdentityError> {
        unavailable()
    }

    /// A user's keys that are not revoked, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn keys(&self, _user: UserId) -> Result<Vec<ApiKeyRecord>, IdentityError> {
        unavailable()
    }

    /// One of a user's keys that are not revoked.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn key(&self, _user: UserId, _key: KeyId) -> Result<ApiKeyRecord, IdentityError> {
        unavailable()
    }

    /// Changes a key, by somebody who may do `maker`.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key).
    pub async fn update_key(
        &self,
        _user: UserId,
        _key: KeyId,
        _maker: Permissions,
        _update: KeyUpdate,
    ) -> Result<ApiKeyRecord, IdentityError> {
        unavailable()
    }

    /// Revokes a key; it is not accepted from now on.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn revoke_key(&self, _user: UserId, _key: KeyId) -> Result<(), IdentityError> {
        unavailable()
    }
}
