//! Storage: the traits that the rest of the program uses, and the thread that commits.
//!
//! Each concern has a trait ([`AccountsStore`], [`SessionsStore`], …) with the changes that it takes; [`Stores`] is all of
//! them. The encoding of keys and values stays behind the traits, so that another database can take the place of
//! [`sled`].
//!
//! The commit thread ([`Store`]) owns the database and runs all jobs that change it. It takes all that are waiting, runs
//! them in order, and makes their changes durable with one sync. Only then do the callers get their answers, so
//! acknowledged changes survive a crash, and many concurrent writers cost one sync. Since every decision that depends on
//! stored data runs on this thread, no two can contradict each other.
//!
//! No job occupies the thread for long. Large values are written on any thread before a record refers to them
//! ([`ResponsesStore::stage`]); the contents of deleted records are removed in steps between jobs ([`Stores::cleanup`]);
//! and reads that may be long run on other threads ([`Store::look`]).
//!
//! The traits are asynchronous. A database in this process blocks instead and [says so](Stores::is_blocking): its futures
//! are ready when they are first polled, on a thread that may block.

mod accounts;
mod audit;
mod block_on;
mod commit_delay;
mod commit_marker;
mod commit_thread;
#[cfg(test)]
mod conformance;
mod conversations;
mod decision;
mod error;
pub mod files;
mod item_record;
mod look_at;
#[cfg(test)]
mod memory;
mod open;
mod postgres;
mod quota;
mod records;
mod responses;
mod schema;
mod sessions;
mod sled;
mod snapshot;
mod usage;
mod write_batch;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use crate::identity::UserId;
use async_trait::async_trait;
use tokio::sync::Notify;

pub use accounts::{AccountChange, AccountsStore, KeyHash};
pub use audit::AuditStore;
pub use block_on::block_on;
pub use commit_thread::Store;
pub use conversations::{ConversationChange, ConversationsStore, ListPart, MAX_INLINE_BYTES, StagedBody};
pub use decision::commit_once;
pub use error::{OpenError, Problem, StoreError, readable};
#[cfg(test)]
pub use open::folder_factory;
pub use open::{StoreFactory, factory, offline_factory};
pub use postgres::{Access, MigrationPlan, PgFactory};
pub use quota::{Quotas, Used};
pub use records::{KINDS, PreparedRecord, Record, RecordsStore, kind as record_kind};
pub use responses::{ResponseChange, ResponsesStore, Staged, StagedEnd};
pub use schema::{SCHEMA, upgrade};
pub use sessions::{SessionChange, SessionsStore, StoredSession};
pub use snapshot::{Scope, Snapshot};
pub use usage::UsageStore;

/// The progress of removing the contents of deleted records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupProgress {
    /// Nothing to remove.
    Nothing,
    /// More to remove.
    More,
    /// The removals have to be made durable; then [`Stores::finish_cleanup`] completes them.
    Finish,
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Commit {
    /// All changes are committed.
    Done,
    /// Another transaction changed records that the decision depends on. Nothing is committed; decide again.
    Conflict,
}

/// All stores of one database.
///
/// # Contract
///
/// - Reads see all committed changes, also those that are not durable yet. They may run on any thread.
/// - Reads that depend on one another see one state through a [`snapshot`](Self::snapshot). Decisions need none: no commit
///   comes between their reads and theirs, or theirs conflicts.
/// - [`commit`](Self::commit) is one transaction: all of its changes, or none; in that order. So is every other method that
///   writes; those can be repeated without harm, and an implementation repeats them itself after a conflict.
/// - Changes are durable once [`sync`](Self::sync) has returned, and survive a crash at any moment after that. A crash before it
///   may lose any of them, but none of a commit without all others of it, and none before one that stays.
/// - Only the commit thread writes, except for [`ResponsesStore::stage`] and its siblings, which no reader can see.
/// - A future may be dropped at any await point. A dropped read has no effect. A dropped [stage](ResponsesStore::stage) leaves
///   nothing that a reader sees: its remains are removed at once, or by the next opening. All other writes run in jobs of
///   the commit thread, which drives each to its end, whether or not somebody still waits for it: [`Store::write`] and
///   [`Store::decide`] detach the change from its caller.
/// - A deleted user, conversation or response is invisible from its commit on. Its remains are removed in bounded steps by
///   [`cleanup`](Self::cleanup), which a crash may interrupt: the next opening completes or resumes it.
#[async_trait]
pub trait Stores: Send + Sync + Debug {
    /// Users and API keys.
    fn accounts(&self) -> &dyn AccountsStore;
    /// Login sessions.
    fn sessions(&self) -> &dyn SessionsStore;
    /// Token usage.
    fn usage(&self) -> &dyn UsageStore;
    /// All records of all kinds.
    fn records(&self) -> &dyn RecordsStore;
    /// The audit log.
    fn audit(&self) -> &dyn AuditStore;
    /// Responses.
    fn responses(&self) -> &dyn ResponsesStore;
    /// Conversations and their items. Keep only weak references: a database that failed must be dropped before it is
    /// reopened.
    fn conversations(&self) -> &Arc<dyn ConversationsStore>;

    /// A view for the reads of one request, which see one state of `scope`: a transaction where the database has
    /// snapshots, or else the current state and a check of whether it has changed ([`Store::look_at`] reads again then).
    ///
    /// # Errors
    /// The database failed.
    async fn snapshot(self: Arc<Self>, scope: Scope) -> Result<Snapshot, StoreError>;

    /// The changes of credentials that were committed after the one of that number, by any server; without a number, only that of
    /// the last one. `None`: no other server can change this database.
    ///
    /// # Errors
    /// The database failed.
    async fn credential_changes(&self, seen: Option<u64>) -> Result<Option<CredentialChanges>, StoreError> {
        let _ = seen;
        Ok(None)
    }

    /// Wakes who waits for changes of credentials, as far as the database announces them.
    fn announcements(&self) -> Option<Arc<Notify>> {
        None
    }

    /// Encrypted secrets that the servers of this database share, by name.
    ///
    /// # Errors
    /// The database failed.
    async fn secrets(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(Vec::new())
    }

    /// Adds secrets whose names are not taken, and removes others.
    ///
    /// # Errors
    /// The database failed, or keeps no secrets since no other server can use it.
    async fn change_secrets(
        &self,
        add: Vec<(String, Vec<u8>)>,
        remove: Vec<String>,
    ) -> Result<(), StoreError> {
        let _ = (add, remove);
        Err(StoreError::Database("it keeps no secrets".to_owned()))
    }

    /// Tells the other servers of this database that this one runs.
    ///
    /// # Errors
    /// The database failed.
    async fn heartbeat(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The storage that a user takes.
    ///
    /// # Errors
    /// The database failed.
    async fn used(&self, user: UserId) -> Result<Used, StoreError>;

    /// The quotas of users.
    fn quotas(&self) -> Quotas;

    /// Checks whether a user may take more storage.
    ///
    /// # Errors
    /// [`StoreError::Quota`], or the database failed.
    async fn check_quota(&self, user: UserId, more: Used) -> Result<(), StoreError> {
        let Some(record) = self.accounts().user(user).await? else { return Ok(()) };
        self.quotas().check(record.kind, self.used(user).await?, more)
    }

    /// Checks whether there is space for changes.
    ///
    /// # Errors
    /// [`StoreError::OutOfSpace`].
    async fn check_space(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Commits changes in one transaction, in the order of the fields of [`Changes`].
    ///
    /// A user that is deleted becomes one of [`deleting_users`](Self::deleting_users) in the same transaction. Moved data
    /// is moved whole, however much it is: callers move most of it in [steps](Self::move_some) before.
    ///
    /// # Errors
    /// The database failed, and nothing is committed.
    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError>;

    /// The stores that a decision reads and then commits through. `attempt`: how often it has met a conflict before.
    ///
    /// A database with transactions gives a view of one, which sees one state; it ends with [`commit`](Self::commit), or
    /// without effect when it is dropped.
    ///
    /// # Errors
    /// The database failed.
    async fn decision(self: Arc<Self>, attempt: usize) -> Result<Arc<dyn Stores>, StoreError>;

    /// Returns `true` if a read of a [decision](Self::decision) failed because of another transaction, so that the decision is to
    /// be made again whatever it answered.
    fn has_conflicted(&self) -> bool {
        false
    }

    /// Returns `true` if commits may answer [`Commit::Conflict`]. The commit thread buffers changes of several decisions for a
    /// database whose commits cannot, and keeps decisions to repeat them for one whose commits can.
    fn can_conflict(&self) -> bool {
        false
    }

    /// Returns `true` if futures of this database block their thread instead of waiting. [`Store::look`] polls them on a
    /// blocking thread then, to their end.
    fn is_blocking(&self) -> bool {
        false
    }

    /// Makes all committed changes durable.
    ///
    /// # Errors
    /// The database failed.
    async fn sync(&self) -> Result<(), StoreError>;

    /// Makes a change without effect, without waiting for it to become durable: a database may refuse all changes after a
    /// failed write of its own threads, which only a change finds out.
    ///
    /// # Errors
    /// The database failed.
    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The users that are being deleted. Their data must not be shown to any caller.
    ///
    /// # Errors
    /// The database failed.
    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError>;

    /// Removes contents of deleted records until `until`, in steps that are transactions of their own.
    ///
    /// # Errors
    /// The database failed.
    async fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError>;

    /// Completes the removal of records that have nothing left; to be called once the removals are durable.
    ///
    /// # Errors
    /// The database failed.
    async fn finish_cleanup(&self) -> Result<(), StoreError>;

    /// Moves some of a user's data, except keys and sessions, to another user, in a transaction of its own; `false`: there
    /// may be more.
    ///
    /// # Errors
    /// The database failed.
    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError>;
}

/// Changes of credentials of all servers of a database: the present state of each record that was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialChanges {
    /// The changes.
    pub changes: Changes,
    /// The number of the last one.
    pub seen: u64,
    /// `true` if there may be later ones already.
    pub has_more: bool,
    /// `false` if some are no longer listed, so that everything has to be loaded.
    pub is_complete: bool,
}

/// The changes of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Users whose data, except keys and sessions, moves to another user: from, to.
    pub moves: Vec<(UserId, UserId)>,
    /// Users and keys.
    pub accounts: Vec<AccountChange>,
    /// Sessions.
    pub sessions: Vec<SessionChange>,
    /// Conversations and their items.
    pub conversations: Vec<ConversationChange>,
    /// Responses.
    pub responses: Vec<ResponseChange>,
}

impl Changes {
    /// Changes of users and keys.
    #[must_use]
    pub fn accounts(accounts: Vec<AccountChange>) -> Self {
        Self { accounts, ..Self::default() }
    }

    /// Changes of sessions.
    #[must_use]
    pub fn sessions(sessions: Vec<SessionChange>) -> Self {
        Self { sessions, ..Self::default() }
    }

    /// Changes of conversations.
    #[must_use]
    pub fn conversations(conversations: Vec<ConversationChange>) -> Self {
        Self { conversations, ..Self::default() }
    }

    /// Changes of responses.
    #[must_use]
    pub fn responses(responses: Vec<ResponseChange>) -> Self {
        Self { responses, ..Self::default() }
    }
}
