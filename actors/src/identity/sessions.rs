//! The actor of login sessions, and the decisions about them.
//!
//! As with [`accounts`](super::accounts), decisions run on the store's thread and are answered once they are durable.

use std::sync::Arc;
use std::time::Duration;

use super::api_keys;
use super::call::{Call, IdentityWriter};
use super::error::{AuthError, IdentityError};
use super::family::{Family, FamilyRules, Presented};
use super::ids::{SessionId, UserId};
use super::now_s;
use super::token::Grant;
use super::tokens::Tokens;
use super::types::{Maker, SessionRecord};
use super::users::{self, Decision};
use crate::service::{Service, Tick};
use crate::store::{Changes, Scope, SessionChange, StoreError, StoredSession, Stores};

/// Interval at which new signing keys are looked for.
const TICK: Duration = Duration::from_secs(2);

/// Number of ticks between deletions of expired sessions.
const SWEEP_TICKS: u64 = 1800;

/// Messages of the session registry.
#[derive(Debug)]
pub enum SessionsMessage {
    /// Begins a session for that user, who has signed in or for whom the maker creates it.
    Start(UserId, Option<Maker>, Call<Granted>),
    /// Exchanges tokens of that generation for new ones. An inner error also changes something: it may end the session.
    Refresh(Grant, Call<Result<Granted, AuthError>>),
    /// Lists a user's sessions.
    List(UserId, Call<Vec<SessionRecord>>),
    /// Ends a session of that user.
    End(UserId, SessionId, Call<()>),
    /// Periodic maintenance.
    Tick,
}

/// The grant that new tokens are issued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The grant.
    pub grant: Grant,
    /// Time at which the session ends at the latest; none of its tokens is valid for longer.
    pub ends_at: u64,
}

/// The actor of login sessions.
#[derive(Clone, Debug)]
pub struct SessionRegistry {
    /// Executes decisions.
    pub writer: IdentityWriter,
    /// The signing keys.
    pub tokens: Arc<Tokens>,
    /// The rules by which generations are judged.
    pub rules: FamilyRules,
    /// Number of ticks since the start.
    pub ticks: u64,
}

impl Service for SessionRegistry {
    type Message = SessionsMessage;

    const TICK: Option<Tick<SessionsMessage>> = Some((TICK, || SessionsMessage::Tick));

    fn handle(&mut self, message: SessionsMessage) {
        let Self { writer, rules, .. } = self;
        let (rules, now) = (*rules, now_s());
        match message {
            SessionsMessage::Start(user, maker, call) => {
                writer.decide(
                    call,
                    move |stores| async move { start(&*stores, user, maker, now, rules).await },
                );
            }
            SessionsMessage::Refresh(shown, call) => {
                writer.decide(call, move |stores| async move { refresh(&*stores, shown, now, rules).await });
            }
            SessionsMessage::List(user, call) => {
                writer.look(call, Scope::User(user), move |stores| async move {
                    list(&*stores, user, now, rules).await
                })
            }
            SessionsMessage::End(user, id, call) => {
                writer.decide(call, move |stores| async move { end(&*stores, user, id).await })
            }
            SessionsMessage::Tick => {
                self.ticks += 1;
                if let Err(error) = self.tokens.reload(now) {
                    tracing::warn!(%error, "the signing keys cannot be reloaded; the known ones remain in use");
                }
                if self.ticks.is_multiple_of(SWEEP_TICKS) {
                    writer.maintain(
                        move |stores| async move { over(&*stores, now, rules).await },
                        move |stores, found| async move { Ok(sweep(&*stores, &found, now, rules).await?) },
                    );
                }
            }
        }
    }
}

/// Begins a session.
pub async fn start(
    stores: &dyn Stores,
    user: UserId,
    maker: Option<Maker>,
    now: u64,
    rules: FamilyRules,
) -> Decision<Granted> {
    if users::find(stores, user).await?.disabled {
        return Err(AuthError::UserDisabled.into());
    }
    let made_by = match maker {
        Some(maker) => api_keys::origins(stores, maker, now).await?,
        None => Vec::new(),
    };
    let session =
        StoredSession { id: SessionId::new(), user, created_at: now, family: Family::new(now), made_by };
    let grant = Grant { user, session: session.id, generation: session.family.generation };
    Ok((Granted { grant, ends_at: rules.ends_at(now) }, change(SessionChange::Put(session))))
}

/// Decides on tokens of a generation that are presented for new ones.
pub async fn refresh(
    stores: &dyn Stores,
    shown: Grant,
    now: u64,
    rules: FamilyRules,
) -> Decision<Result<Granted, AuthError>> {
    let session =
        stores.sessions().session(shown.session).await?.filter(|session| session.user == shown.user);
    let (Some(session), Some(user)) = (session, stores.accounts().user(shown.user).await?) else {
        return Ok((Err(AuthError::SessionRevoked), Changes::default()));
    };
    if user.disabled {
        return Ok((Err(AuthError::UserDisabled), Changes::default()));
    }
    let end = || change(SessionChange::End(session.user, session.id));
    let granted = |generation| Granted {
        grant: Grant { generation, ..shown },
        ends_at: rules.ends_at(session.created_at),
    };
    Ok(match session.family.present(shown.generation, session.created_at, now, rules) {
        Presented::Next(family) => {
            let granted = granted(family.generation);
            (Ok(granted), change(SessionChange::Put(StoredSession { family, ..session })))
        }
        Presented::Again => (Ok(granted(session.family.generation)), Changes::default()),
        Presented::TooLate => (Err(AuthError::RefreshWindowOver), end()),
        Presented::Reused => {
            tracing::warn!(session = %session.id, user = %session.user, "a superseded token was presented: the session is ended");
            (Err(AuthError::TokenReused), end())
        }
    })
}

/// Returns a user's sessions that can still be refreshed, oldest first.
pub async fn list(
    stores: &dyn Stores,
    user: UserId,
    now: u64,
    rules: FamilyRules,
) -> Result<Vec<SessionRecord>, IdentityError> {
    let sessions = stores.sessions().sessions(user).await?.into_iter();
    let records = sessions.map(|session| SessionRecord {
        id: session.id,
        user: session.user,
        created_at: session.created_at,
        refreshed_at: session.family.since,
        expires_at: session.family.expires_at(session.created_at, rules),
        made_by: session.made_by.last().map(|origin| origin.with),
    });
    Ok(records.filter(|record| now < record.expires_at).collect())
}

/// Ends a session of that user.
pub async fn end(stores: &dyn Stores, user: UserId, id: SessionId) -> Decision<()> {
    let session = stores.sessions().session(id).await?.filter(|session| session.user == user);
    let session = session.ok_or_else(|| IdentityError::NotFound { what: "session", id: id.to_string() })?;
    Ok(((), change(SessionChange::End(user, session.id))))
}

/// Returns the sessions that can no longer be refreshed, and those of users who are gone.
pub async fn over(stores: &dyn Stores, now: u64, rules: FamilyRules) -> Result<Vec<SessionId>, StoreError> {
    let mut sessions = Vec::new();
    stores.sessions().each_session(&mut |session| sessions.push(session)).await?;
    let mut found = Vec::new();
    for session in sessions {
        if is_over(stores, &session, now, rules).await? {
            found.push(session.id);
        }
    }
    Ok(found)
}

/// Deletes those of the sessions that still qualify.
pub async fn sweep(
    stores: &dyn Stores,
    sessions: &[SessionId],
    now: u64,
    rules: FamilyRules,
) -> Result<Changes, StoreError> {
    let mut changes = Changes::default();
    for &id in sessions {
        if let Some(session) = stores.sessions().session(id).await?
            && is_over(stores, &session, now, rules).await?
        {
            changes.sessions.push(SessionChange::End(session.user, id));
        }
    }
    Ok(changes)
}

async fn is_over(
    stores: &dyn Stores,
    session: &StoredSession,
    now: u64,
    rules: FamilyRules,
) -> Result<bool, StoreError> {
    Ok(session.family.expires_at(session.created_at, rules) <= now
        || stores.accounts().user(session.user).await?.is_none())
}

fn change(change: SessionChange) -> Changes {
    Changes::sessions(vec![change])
}
