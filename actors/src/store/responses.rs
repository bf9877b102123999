//! Stored responses.

use std::fmt::Debug;

use super::StoreError;
use super::quota::Used;
use crate::identity::UserId;
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use async_trait::async_trait;

/// A change of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseChange {
    /// Creates or replaces a response whose bodies are staged.
    PutStaged(Staged),
    /// Ends a response. A deleted one stays deleted.
    End(ResponseId, StagedEnd),
    /// Deletes a response.
    Delete(ResponseId),
}

/// A response whose bodies are written, but not referred to by any record yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    id: ResponseId,
    user: UserId,
    used: Used,
    token: Vec<u8>,
}

impl Staged {
    /// A staged response. `token` has a meaning for the store alone that staged it.
    #[must_use]
    pub const fn new(id: ResponseId, user: UserId, used: Used, token: Vec<u8>) -> Self {
        Self { id, user, used, token }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> ResponseId {
        self.id
    }

    /// Its owner.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.user
    }

    /// The storage that it takes of its owner's quota.
    #[must_use]
    pub const fn used(&self) -> Used {
        self.used
    }

    /// The token of the store that staged it.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }
}

/// The result of a response, written, but not referred to by any record yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedEnd {
    token: Vec<u8>,
}

impl StagedEnd {
    /// A staged result. `token` has a meaning for the store alone that staged it.
    #[must_use]
    pub const fn new(token: Vec<u8>) -> Self {
        Self { token }
    }

    /// The token of the store that staged it.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }
}

/// Responses. Reads see committed changes, also those that are not durable yet. Reads and staging may run on any thread.
#[async_trait]
pub trait ResponsesStore: Debug + Send + Sync {
    /// One response.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError>;

    /// Returns the owner of a response.
    ///
    /// # Errors
    /// The database failed.
    async fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError>;

    /// Up to `limit` of a user's responses after `after`, oldest first.
    ///
    /// # Errors
    /// The database failed.
    #[cfg_attr(not(test), expect(dead_code, reason = "no route lists responses yet"))]
    async fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError>;

    /// The responses that have not ended.
    ///
    /// # Errors
    /// The database failed.
    async fn running(&self) -> Result<Vec<ResponseId>, StoreError>;

    /// Up to `limit` responses created before `epoch_s`, oldest first.
    ///
    /// # Errors
    /// The database failed.
    async fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError>;

    /// All users who have responses.
    ///
    /// # Errors
    /// The database failed.
    async fn owners(&self) -> Result<Vec<UserId>, StoreError>;

    /// Writes the bodies of a response. It is not visible before it is [put](ResponseChange::PutStaged); should that never
    /// happen, the next start removes the bodies.
    ///
    /// # Errors
    /// The database failed.
    async fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError>;

    /// Writes the result of a response.
    ///
    /// # Errors
    /// The database failed.
    async fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError>;

    /// Removes a staged response that is not to be put after all; not awaited, as
    /// [`ConversationsStore::discard`](super::ConversationsStore::discard).
    ///
    /// # Errors
    /// The database failed.
    fn discard(&self, staged: &Staged) -> Result<(), StoreError>;

    /// Deletes a few responses of a user, in transactions of its own; `false`: there may be more. On the commit thread
    /// only.
    ///
    /// # Errors
    /// The database failed.
    async fn delete_some(&self, user: UserId) -> Result<bool, StoreError>;
}
