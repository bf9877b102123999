//! The edge's handle to users, keys and sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::Semaphore;

use super::accounts::{self, Accounts, AccountsMessage};
use super::call::{Call, IdentityWriter};
use super::credentials::CredentialNotices;
use super::error::{AuthError, IdentityError, RETRY_AFTER};
use super::ids::{KeyId, SessionId, UserId};
use super::party::ClientNet;
use super::remote::Freshness;
use super::sessions::{SessionRegistry, SessionsMessage};
use super::token::Grant;
use super::tokens::{Tokens, family_rules};
use super::types::{
    ApiKeyRecord, CreatedKey, ExternalProfile, KeyUpdate, Maker, NewKey, Origin, Page, Principal,
    RefreshProof, SessionRecord, SignIn, TokenPair, UserKind, UserRecord, UserUpdate,
};
use super::users::GuestRetention;
use super::{now_s, secret};
use crate::config::AuthConfig;
use crate::service::{self, ActorAddress};
use crate::store::Store;
use crate::supervisor::ChildSpec;

/// Maximum number of concurrent calls; one more is refused.
const MAX_CONCURRENT_CALLS: usize = 4096;

/// Number of credentials ended in one change, so that other changes get their turn in between.
const ENDED_AT_A_TIME: usize = 100;

/// Maximum number of searches for what a credential created.
const MAX_ROUNDS: usize = 100;

/// Maximum time that a call waits for an actor that is being restarted.
const RESTART_WAIT: Duration = Duration::from_secs(2);

/// Maximum time of a call. A call is answered within the time of a disk write; one that takes this long is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Handle to users, keys and sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    writer: IdentityWriter,
    tokens: Arc<Tokens>,
    accounts: Arc<ActorAddress<AccountsMessage>>,
    sessions: Arc<ActorAddress<SessionsMessage>>,
    places: Arc<Semaphore>,
    freshness: Arc<Freshness>,
}

impl Identity {
    pub(crate) fn new(writer: IdentityWriter, tokens: Tokens, freshness: Arc<Freshness>) -> Self {
        Self {
            writer,
            tokens: Arc::new(tokens),
            accounts: Arc::default(),
            sessions: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)),
            freshness,
        }
    }

    /// Returns its actors, for a supervisor to start.
    pub(crate) fn children(&self, config: &AuthConfig) -> Vec<ChildSpec> {
        let accounts = Accounts {
            writer: self.writer.clone(),
            guest_limits: config.into(),
            guest_retention: GuestRetention {
                idle_s: config.guest_idle_s,
                access_ttl_s: config.access_token_ttl_s,
            },
            ticks: 0,
        };
        let sessions = SessionRegistry {
            writer: self.writer.clone(),
            tokens: Arc::clone(&self.tokens),
            rules: family_rules(config),
            ticks: 0,
        };
        vec![
            service::child("session registry", sessions, Arc::clone(&self.sessions)),
            service::child("accounts", accounts, Arc::clone(&self.accounts)),
        ]
    }

    /// Returns the store, which other components share.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.writer.store
    }

    /// Writes pending data and closes the database. Blocks.
    pub(crate) fn close(&self) {
        accounts::note_used(&self.writer);
        self.writer.store.close();
    }

    /// Returns all users.
    pub(crate) fn user_ids(&self) -> Vec<UserId> {
        let kinds = [UserKind::Admin, UserKind::Member, UserKind::Guest];
        kinds.into_iter().flat_map(|kind| self.writer.index.users_of(kind)).collect()
    }

    /// Returns the notices of changes to credentials.
    pub(crate) fn notices(&self) -> Arc<dyn CredentialNotices> {
        Arc::clone(&self.writer.notices)
    }

    /// Returns the principal of a credential, either a JWT or an API key. Does not wait. A key that is restricted to addresses is
    /// not accepted here.
    ///
    /// # Errors
    /// The reason why it is not accepted.
    pub fn authenticate(&self, credential: &str) -> Result<Principal, AuthError> {
        if credential.starts_with(secret::PREFIX) {
            self.authenticate_key(credential, None)
        } else {
            self.authenticate_token(credential)
        }
    }

    /// Returns the principal of an API key presented from that address. Does not wait.
    ///
    /// # Errors
    /// The reason why it is not accepted.
    pub fn authenticate_key(&self, key: &str, from: Option<IpAddr>) -> Result<Principal, AuthError> {
        if !secret::is_well_formed(key) {
            return Err(AuthError::Malformed);
        }
        self.check_fresh()?;
        self.writer.index.key(&secret::hash(key), from, now_s())
    }

    /// Returns the principal of an access token. Does not wait.
    ///
    /// # Errors
    /// The reason why it is not accepted.
    pub fn authenticate_token(&self, token: &str) -> Result<Principal, AuthError> {
        let now = now_s();
        let grant = self.tokens.access(token, now)?;
        self.check_fresh()?;
        self.writer.index.session(
            grant.user,
            grant.session,
            now.saturating_sub(self.tokens.session_lifetime_s()),
        )
    }

    /// Refuses to rely on an index that may lack revocations of other servers.
    fn check_fresh(&self) -> Result<(), AuthError> {
        if self.freshness.is_fresh() { Ok(()) } else { Err(AuthError::Unchecked) }
    }

    /// Returns the lists of allowed models of a principal; a requested model must be in each of them.
    #[must_use]
    pub fn model_lists(&self, principal: &Principal) -> Vec<Vec<String>> {
        let restrictions = self.writer.index.restrictions(principal);
        restrictions.iter().filter_map(|only| only.models.clone()).collect()
    }

    /// Returns the public keys that tokens can be checked with, as a JWK Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.tokens.ring().to_jwks()
    }

    /// Returns whether the store accepts writes.
    #[must_use]
    pub fn database_healthy(&self) -> bool {
        self.writer.store.is_healthy()
    }

    /// Begins a session for a user who has just authenticated.
    ///
    /// # Errors
    /// No such user, a disabled one ([`AuthError::UserDisabled`]), or the store.
    pub async fn start_session(&self, user: UserId) -> Result<TokenPair, IdentityError> {
        let granted = self.ask_sessions(|call| SessionsMessage::Start(user, None, call)).await?;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// Begins a session for a user on behalf of another caller.
    ///
    /// # Errors
    /// As [`start_session`](Self::start_session), or the maker's credential has ended meanwhile.
    pub async fn make_session(
        &self,
        user: UserId,
        maker: impl Into<Maker>,
    ) -> Result<TokenPair, IdentityError> {
        let maker = maker.into();
        let granted = self.ask_sessions(|call| SessionsMessage::Start(user, Some(maker), call)).await?;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// Exchanges tokens for new ones. An older generation presented again ends the session, except within `auth.refresh_grace_s`,
    /// when the same new generation is returned once more.
    ///
    /// # Errors
    /// [`IdentityError::Auth`] with the reason, or the store.
    pub async fn refresh(&self, proof: RefreshProof<'_>) -> Result<TokenPair, IdentityError> {
        let shown: Grant = self.tokens.refreshable(proof, now_s())?;
        let granted = self.ask_sessions(|call| SessionsMessage::Refresh(shown, call)).await??;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// Returns the user and session of a token that could be used to refresh it, whether or not the session has ended.
    #[must_use]
    pub fn session_of(&self, proof: RefreshProof<'_>) -> Option<(UserId, SessionId)> {
        let grant = self.tokens.refreshable(proof, now_s()).ok()?;
        Some((grant.user, grant.session))
    }

    /// Returns a user's sessions that have not ended, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn sessions(&self, user: UserId) -> Result<Vec<SessionRecord>, IdentityError> {
        self.ask_sessions(|call| SessionsMessage::List(user, call)).await
    }

    /// Ends a session of that user, as in a logout; none of its tokens is accepted from now on.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn revoke_session(&self, user: UserId, session: SessionId) -> Result<(), IdentityError> {
        self.ask_sessions(|call| SessionsMessage::End(user, session, call)).await
    }

    /// Creates a guest for a caller of that network.
    ///
    /// # Errors
    /// [`IdentityError::TooManyGuests`], or the store.
    pub async fn guest(&self, net: ClientNet) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Guest(net, call)).await
    }

    /// Returns the user of that external identity, found by it or by its email address, or else newly created. A `guest` becomes
    /// that user and keeps its data; if the user already exists, the guest is deleted and its data belongs to the user
    /// ([`SignIn::merged_guest`]). The guest's sessions and keys end either way, so start a session afterwards.
    ///
    /// # Errors
    /// A disabled user ([`AuthError::UserDisabled`]), an address that belongs to another user at that provider, or the store.
    pub async fn sign_in(
        &self,
        profile: ExternalProfile,
        guest: Option<UserId>,
    ) -> Result<SignIn, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::SignIn(profile, guest, call)).await
    }

    /// Returns one user.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn user(&self, user: UserId) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::User(user, call)).await
    }

    /// Returns up to `limit` users after `after`, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn users(
        &self,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<UserRecord>, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Users(after, limit, call)).await
    }

    /// Creates a member.
    ///
    /// # Errors
    /// An invalid field, a taken email address, or the store.
    pub async fn create_user(&self, email: &str, name: &str) -> Result<UserRecord, IdentityError> {
        let (email, name) = (email.to_owned(), name.to_owned());
        self.ask_accounts(|call| AccountsMessage::CreateUser(email, name, call)).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// Not found, an invalid field, the last administrator, or the store.
    pub async fn update_user(&self, user: UserId, update: UserUpdate) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::UpdateUser(user, update, call)).await
    }

    /// Returns whether a share link that this user created at that time (epoch seconds) still works: it stops working when its
    /// user is disabled or deleted.
    #[must_use]
    pub fn shows_share(&self, user: UserId, made_at: u64) -> bool {
        self.writer.index.shows_share(user, made_at)
    }

    /// Deletes a user with all keys and sessions.
    ///
    /// # Errors
    /// Not found, the last administrator, or the store.
    pub async fn delete_user(&self, user: UserId) -> Result<(), IdentityError> {
        self.ask_accounts(|call| AccountsMessage::DeleteUser(user, call)).await
    }

    /// Creates a key for a user. A key created with a key of the same user grants no more than that one, and ends with it.
    ///
    /// # Errors
    /// Permissions that the maker or the user lacks, more than the maker's key has, too many keys, an invalid field, not found, a
    /// maker's credential that has ended meanwhile, or the store.
    pub async fn create_key(
        &self,
        user: UserId,
        maker: impl Into<Maker>,
        key: NewKey,
    ) -> Result<CreatedKey, IdentityError> {
        let maker = maker.into();
        self.ask_accounts(|call| AccountsMessage::CreateKey(user, maker, key, call)).await
    }

    /// Returns a user's keys that are not revoked, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn keys(&self, user: UserId) -> Result<Vec<ApiKeyRecord>, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Keys(user, call)).await
    }

    /// Returns one of a user's keys that are not revoked.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn key(&self, user: UserId, key: KeyId) -> Result<ApiKeyRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Key(user, key, call)).await
    }

    /// Changes a key. A caller that acts with a key can only reduce keys.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key).
    pub async fn update_key(
        &self,
        user: UserId,
        key: KeyId,
        maker: impl Into<Maker>,
        update: KeyUpdate,
    ) -> Result<ApiKeyRecord, IdentityError> {
        let maker = maker.into();
        self.ask_accounts(|call| AccountsMessage::UpdateKey(user, key, maker, update, call)).await
    }

    /// Revokes a key; it is not accepted from now on.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn revoke_key(&self, user: UserId, key: KeyId) -> Result<(), IdentityError> {
        self.ask_accounts(|call| AccountsMessage::RevokeKey(user, key, call)).await
    }

    /// Ends every key and session that a credential created, except `spared` and, if `only` is given, those of other users.
    /// Returns the number of ended ones.
    ///
    /// The credential should have ended before: then none of its pending requests creates anything, and nothing is missed.
    ///
    /// # Errors
    /// The store.
    pub async fn end_made_by(
        &self,
        origin: Origin,
        spared: Option<Origin>,
        only: Option<UserId>,
    ) -> Result<usize, IdentityError> {
        let mut ended = 0;
        // A credential found here may create others until it is ended itself; the next round finds those.
        for _ in 0..MAX_ROUNDS {
            let mut made = self.writer.index.made_by(origin);
            made.retain(|made| Some(*made) != spared && only.is_none_or(|only| made.user == only));
            if made.is_empty() {
                return Ok(ended);
            }
            ended += made.len();
            for some in made.chunks(ENDED_AT_A_TIME) {
                let some = some.to_vec();
                self.ask_accounts(|call| AccountsMessage::End(some, call)).await?;
            }
        }
        Err(IdentityError::Busy { retry_after: RETRY_AFTER })
    }

    #[cfg(test)]
    pub(super) fn writer_for_tests(&self) -> &IdentityWriter {
        &self.writer
    }

    /// Kills both actors as a panic would, and returns when they are gone.
    #[cfg(test)]
    pub(super) async fn kill_actors_for_tests(&self) {
        let accounts = self.accounts.running(RESTART_WAIT).await.expect("it runs");
        let sessions = self.sessions.running(RESTART_WAIT).await.expect("it runs");
        accounts.kill_and_wait(None).await.expect("it ends");
        sessions.kill_and_wait(None).await.expect("it ends");
    }

    async fn ask_accounts<T: Send + 'static>(
        &self,
        message: impl FnOnce(Call<T>) -> AccountsMessage,
    ) -> Result<T, IdentityError> {
        self.ask("accounts", &self.accounts, message).await
    }

    async fn ask_sessions<T: Send + 'static>(
        &self,
        message: impl FnOnce(Call<T>) -> SessionsMessage,
    ) -> Result<T, IdentityError> {
        self.ask("session registry", &self.sessions, message).await
    }

    async fn ask<M: Message, T: Send + 'static>(
        &self,
        part: &'static str,
        address: &ActorAddress<M>,
        message: impl FnOnce(Call<T>) -> M,
    ) -> Result<T, IdentityError> {
        // The place is taken before sending: a mailbox has no bound of its own.
        let busy = IdentityError::Busy { retry_after: RETRY_AFTER };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy)?;
        let unavailable = || IdentityError::Unavailable { part, retry_after: RETRY_AFTER };
        let actor: ActorRef<M> = address.running(RESTART_WAIT).await.ok_or_else(unavailable)?;
        let ask = |reply: RpcReplyPort<Result<T, IdentityError>>| message(Call::new(reply, place));
        let answer = actor.call(ask, Some(CALL_TIMEOUT)).await;
        answer.ok().and_then(|answer| answer.success_or(()).ok()).unwrap_or_else(|| Err(unavailable()))
    }
}
