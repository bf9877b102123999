//! The edge's door to users, keys and sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::Semaphore;

use super::accounts::{self, Accounts, AccountsMessage};
use super::call::{Call, Desk};
use super::error::{AuthError, IdentityError, RETRY_AFTER};
use super::ids::{KeyId, SessionId, UserId};
use super::index::Index;
use super::sessions::{SessionRegistry, SessionsMessage};
use super::token::Grant;
use super::tokens::{Tokens, family_rules};
use super::types::{
    ApiKeyRecord, ClientNet, CreatedKey, ExternalProfile, KeyUpdate, Maker, NewKey, Origin, Page, Principal,
    RefreshProof, SessionRecord, SignIn, TokenPair, UserRecord, UserUpdate,
};
use super::users::GuestRetention;
use super::{now_s, secret};
use crate::config::AuthConfig;
use crate::service::{self, Slot};
use crate::store::Store;
use crate::supervisor::ChildSpec;

/// Most calls at a time; one more is refused.
const PLACES: usize = 4096;

/// How many credentials are ended in one change, so that others' changes come in between.
const ENDED_AT_A_TIME: usize = 100;

/// How often what came of a credential is looked for again.
const MAX_ROUNDS: usize = 100;

/// How long a call waits for an actor that is being restarted.
const RESTART_WAIT: Duration = Duration::from_secs(2);

/// A call is answered within the time of a disk write; this long means that it is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Users, keys and sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    desk: Desk,
    tokens: Arc<Tokens>,
    accounts: Arc<Slot<AccountsMessage>>,
    sessions: Arc<Slot<SessionsMessage>>,
    places: Arc<Semaphore>,
}

impl Identity {
    pub(crate) fn new(desk: Desk, tokens: Tokens) -> Self {
        Self {
            desk,
            tokens: Arc::new(tokens),
            accounts: Arc::default(),
            sessions: Arc::default(),
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// Its actors, for a supervisor to start.
    pub(crate) fn children(&self, config: &AuthConfig) -> Vec<ChildSpec> {
        let accounts = Accounts {
            desk: self.desk.clone(),
            guest_limits: config.into(),
            guest_retention: GuestRetention {
                idle_s: config.guest_idle_s,
                access_ttl_s: config.access_token_ttl_s,
            },
            ticks: 0,
        };
        let sessions = SessionRegistry {
            desk: self.desk.clone(),
            tokens: Arc::clone(&self.tokens),
            rules: family_rules(config),
            ticks: 0,
        };
        vec![
            service::child("session registry", sessions, Arc::clone(&self.sessions)),
            service::child("accounts", accounts, Arc::clone(&self.accounts)),
        ]
    }

    /// Where other parts keep what they keep.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.desk.store
    }

    /// Writes what is still to be written and closes the database. Blocks.
    pub(crate) fn close(&self) {
        accounts::note_used(&self.desk);
        self.desk.store.close();
    }

    /// What credentials are checked against.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.desk.index)
    }

    /// Whose credential this is, be it a JWT or an API key. Waits for nothing. A key that is bound to addresses is not
    /// accepted here.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate(&self, credential: &str) -> Result<Principal, AuthError> {
        if credential.starts_with(secret::PREFIX) {
            self.authenticate_key(credential, None)
        } else {
            self.authenticate_token(credential)
        }
    }

    /// Whose API key this is, shown from that address. Waits for nothing.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate_key(&self, key: &str, from: Option<IpAddr>) -> Result<Principal, AuthError> {
        if !secret::is_well_formed(key) {
            return Err(AuthError::Malformed);
        }
        self.desk.index.key(&secret::hash(key), from, now_s())
    }

    /// Whose access token this is. Waits for nothing.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate_token(&self, token: &str) -> Result<Principal, AuthError> {
        let now = now_s();
        let grant = self.tokens.access(token, now)?;
        self.desk.index.session(
            grant.user,
            grant.session,
            now.saturating_sub(self.tokens.session_lifetime_s()),
        )
    }

    /// The lists of models, each of which must have the model that a principal asks for.
    #[must_use]
    pub fn model_lists(&self, principal: &Principal) -> Vec<Vec<String>> {
        let restrictions = self.desk.index.restrictions(principal);
        restrictions.iter().filter_map(|only| only.models.clone()).collect()
    }

    /// The public keys that tokens can be checked with, as a JWK Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.tokens.ring().to_jwks()
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn database_healthy(&self) -> bool {
        self.desk.store.is_healthy()
    }

    /// Begins a session for a user who has just shown who they are.
    ///
    /// # Errors
    /// No such user, a disabled one ([`AuthError::UserDisabled`]), or the store.
    pub async fn start_session(&self, user: UserId) -> Result<TokenPair, IdentityError> {
        let granted = self.ask_sessions(|call| SessionsMessage::Start(user, None, call)).await?;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// Begins a session for a user, made by somebody else.
    ///
    /// # Errors
    /// As [`start_session`](Self::start_session), or a maker that has ended meanwhile.
    pub async fn make_session(
        &self,
        user: UserId,
        maker: impl Into<Maker>,
    ) -> Result<TokenPair, IdentityError> {
        let maker = maker.into();
        let granted = self.ask_sessions(|call| SessionsMessage::Start(user, Some(maker), call)).await?;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// New tokens for old ones. An older generation presented again ends the session, except within
    /// `auth.refresh_grace_s`, when the same new generation is given once more.
    ///
    /// # Errors
    /// [`IdentityError::Auth`] with the reason, or the store.
    pub async fn refresh(&self, proof: RefreshProof<'_>) -> Result<TokenPair, IdentityError> {
        let shown: Grant = self.tokens.refreshable(proof, now_s())?;
        let granted = self.ask_sessions(|call| SessionsMessage::Refresh(shown, call)).await??;
        Ok(self.tokens.issue(granted, now_s()))
    }

    /// Whose session a token is of that could be used to refresh it, whether it is still refreshed or not.
    #[must_use]
    pub fn session_of(&self, proof: RefreshProof<'_>) -> Option<(UserId, SessionId)> {
        let grant = self.tokens.refreshable(proof, now_s()).ok()?;
        Some((grant.user, grant.session))
    }

    /// A user's sessions that have not ended, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn sessions(&self, user: UserId) -> Result<Vec<SessionRecord>, IdentityError> {
        self.ask_sessions(|call| SessionsMessage::List(user, call)).await
    }

    /// Ends a session of that user; none of its tokens is accepted from now on. This is also how one logs out.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn revoke_session(&self, user: UserId, session: SessionId) -> Result<(), IdentityError> {
        self.ask_sessions(|call| SessionsMessage::End(user, session, call)).await
    }

    /// A new guest of somebody from that network.
    ///
    /// # Errors
    /// [`IdentityError::TooManyGuests`], or the store.
    pub async fn guest(&self, net: ClientNet) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Guest(net, call)).await
    }

    /// The user of that external identity: found by it, or else by its email, or else made new. A `guest` becomes
    /// that user and keeps its data; where the user was here before, the guest is gone and its data is the user's
    /// ([`SignIn::merged_guest`]). The guest's sessions and keys end either way, so start a session afterwards.
    ///
    /// # Errors
    /// A disabled user ([`AuthError::UserDisabled`]), an address that belongs to somebody else at that provider,
    /// or the store.
    pub async fn sign_in(
        &self,
        profile: ExternalProfile,
        guest: Option<UserId>,
    ) -> Result<SignIn, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::SignIn(profile, guest, call)).await
    }

    /// One user.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn user(&self, user: UserId) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::User(user, call)).await
    }

    /// Up to `limit` users, oldest first, those behind `after`.
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

    /// A new member.
    ///
    /// # Errors
    /// A field that cannot be, a taken email, or the store.
    pub async fn create_user(&self, email: &str, name: &str) -> Result<UserRecord, IdentityError> {
        let (email, name) = (email.to_owned(), name.to_owned());
        self.ask_accounts(|call| AccountsMessage::CreateUser(email, name, call)).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// Not found, a field that cannot be, the last administrator, or the store.
    pub async fn update_user(&self, user: UserId, update: UserUpdate) -> Result<UserRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::UpdateUser(user, update, call)).await
    }

    /// Whether a share link that this user made then (epoch seconds) still leads anywhere: it ends with its user's being
    /// disabled or deleted.
    #[must_use]
    pub fn shows_share(&self, user: UserId, made_at: u64) -> bool {
        self.desk.index.shows_share(user, made_at)
    }

    /// Deletes a user with all keys and sessions.
    ///
    /// # Errors
    /// Not found, the last administrator, or the store.
    pub async fn delete_user(&self, user: UserId) -> Result<(), IdentityError> {
        self.ask_accounts(|call| AccountsMessage::DeleteUser(user, call)).await
    }

    /// A new key for a user. One that is made with a key of the same user is no more than that one, and ends with it.
    ///
    /// # Errors
    /// Permissions that the maker or the user lacks, more than the maker's key has, too many keys, a field that cannot
    /// be, not found, a maker that has ended meanwhile, or the store.
    pub async fn create_key(
        &self,
        user: UserId,
        maker: impl Into<Maker>,
        key: NewKey,
    ) -> Result<CreatedKey, IdentityError> {
        let maker = maker.into();
        self.ask_accounts(|call| AccountsMessage::CreateKey(user, maker, key, call)).await
    }

    /// A user's keys that are not revoked, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn keys(&self, user: UserId) -> Result<Vec<ApiKeyRecord>, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Keys(user, call)).await
    }

    /// One of a user's keys that are not revoked.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn key(&self, user: UserId, key: KeyId) -> Result<ApiKeyRecord, IdentityError> {
        self.ask_accounts(|call| AccountsMessage::Key(user, key, call)).await
    }

    /// Changes a key. Who acts with a key makes keys less, and never more.
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

    /// Ends every key and session that came of a credential but `spared`, where `only` says whose, and returns how many
    /// there were.
    ///
    /// The credential should have ended before: what it asks for meanwhile is made no more, so that nothing is missed.
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
        // What was found may make something until it is ended itself; what that one made is found in the next round.
        for _ in 0..MAX_ROUNDS {
            let mut made = self.desk.index.made_by(origin);
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
    pub(super) fn desk_for_tests(&self) -> &Desk {
        &self.desk
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
        slot: &Slot<M>,
        message: impl FnOnce(Call<T>) -> M,
    ) -> Result<T, IdentityError> {
        // The place is taken before the mailbox: a mailbox has no bound of its own.
        let busy = IdentityError::Busy { retry_after: RETRY_AFTER };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy)?;
        let unavailable = || IdentityError::Unavailable { part, retry_after: RETRY_AFTER };
        let actor: ActorRef<M> = slot.running(RESTART_WAIT).await.ok_or_else(unavailable)?;
        let ask = |reply: RpcReplyPort<Result<T, IdentityError>>| message(Call::new(reply, place));
        let answer = actor.call(ask, Some(CALL_TIMEOUT)).await;
        answer.ok().and_then(|answer| answer.success_or(()).ok()).unwrap_or_else(|| Err(unavailable()))
    }
}
