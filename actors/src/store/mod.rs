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
//! and reads that may be long run on other threads ([`Store::view`]).

mod accounts;
mod audit;
mod commit_delay;
mod commit_thread;
mod conversations;
mod error;
pub mod files;
mod item_record;
mod quota;
mod records;
mod responses;
mod schema;
mod sessions;
mod sled;
mod usage;
mod write_batch;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use crate::identity::UserId;
use crate::usage::Payer;

pub use self::sled::{SledStores, open};
pub use accounts::{AccountChange, AccountsStore, KeyHash};
pub use audit::AuditStore;
pub use commit_thread::Store;
pub use conversations::{ConversationChange, ConversationsStore};
pub use error::{OpenError, StoreError, readable};
pub use quota::{Quotas, Used};
pub use records::{KINDS, PreparedRecord, Record, RecordsStore, kind as record_kind};
pub use responses::{ResponseChange, ResponsesStore, Staged, StagedEnd};
pub use schema::{SCHEMA, upgrade};
pub use sessions::{SessionChange, SessionsStore, StoredSession};
pub use usage::UsageStore;

/// Maximum number of a deleted user's keys or sessions removed at a time.
const MAX_PER_STEP: usize = 64;

/// The progress of removing the contents of deleted records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupProgress {
    /// There is nothing to remove.
    Nothing,
    /// There is more to remove.
    More,
    /// The removals have to be made durable; then [`Stores::finish_cleanup`] completes them.
    Finish,
}

/// All stores of one database.
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
    /// The storage that a user takes.
    ///
    /// # Errors
    /// The database failed.
    fn used(&self, _user: UserId) -> Result<Used, StoreError> {
        Ok(Used::default())
    }

    /// The quotas of users.
    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    /// Checks whether a user may take more storage.
    ///
    /// # Errors
    /// [`StoreError::Quota`], or the database failed.
    fn check_quota(&self, user: UserId, more: Used) -> Result<(), StoreError> {
        let Some(record) = self.accounts().user(user)? else { return Ok(()) };
        self.quotas().check(record.kind, self.used(user)?, more)
    }

    /// Checks whether there is space for changes.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Responses.
    fn responses(&self) -> &dyn ResponsesStore;
    /// Conversations and their items. Keep only weak references: a database that failed must be dropped before it is
    /// reopened.
    fn conversations(&self) -> &Arc<dyn ConversationsStore>;
    /// Makes all changes so far durable.
    ///
    /// # Errors
    /// The database failed.
    fn sync(&self) -> Result<(), StoreError>;

    /// Makes a change without effect, without waiting for it to become durable: a database may refuse all changes after a
    /// failed write of its own threads, which only a change finds out.
    ///
    /// # Errors
    /// The database failed.
    fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Marks a user as being deleted, or removes the mark.
    ///
    /// # Errors
    /// The database failed.
    fn note_forgotten(&self, user: UserId, begins: bool) -> Result<(), StoreError>;

    /// The users that are being deleted. Their data must not be shown to anybody.
    ///
    /// # Errors
    /// The database failed.
    fn forgotten(&self) -> Result<Vec<UserId>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes contents of deleted records until `until`. [`finish_cleanup`](Self::finish_cleanup) removes their
    /// tombstones.
    ///
    /// # Errors
    /// The database failed.
    fn cleanup(&self, _until: Instant) -> Result<CleanupProgress, StoreError> {
        Ok(CleanupProgress::Nothing)
    }

    /// Removes the tombstones of records that have nothing left; to be called once the removals are durable.
    ///
    /// # Errors
    /// The database failed.
    fn finish_cleanup(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes some of a deleted user's data. The usage stays in the totals, without its user. `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn forget_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys: Vec<_> = self.accounts().some_keys(user, MAX_PER_STEP)?;
        if !keys.is_empty() {
            let changes = keys.into_iter().map(|(hash, record)| AccountChange::DeleteKey(hash, record));
            self.accounts().commit(&changes.collect::<Vec<_>>())?;
            return Ok(false);
        }
        let sessions = self.sessions().some_sessions(user, MAX_PER_STEP)?;
        if !sessions.is_empty() {
            let changes = sessions.into_iter().map(|id| SessionChange::End(user, id));
            self.sessions().commit(&changes.collect::<Vec<_>>())?;
            return Ok(false);
        }
        Ok(self.usage().reassign_some(user, Payer::Deleted)?
            && self.conversations().delete_some(user)?
            && self.responses().delete_some(user)?)
    }

    /// Moves some of a user's data, except keys and sessions, to another user; `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        Ok(self.conversations().move_some(from, to)?
            && self.responses().move_some(from, to)?
            && self.usage().reassign_some(from, Payer::User(to))?)
    }

    /// Commits changes: first moves, then users and keys in one transaction, then sessions in another one, then responses.
    /// They are durable after [`sync`](Self::sync).
    ///
    /// A crash in between leaves at most sessions of a deleted user, which are of no use and dropped at the next start.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        // Moves come first: after a crash in between, both users still exist and can be merged again. Callers move most
        // of the data in steps before, so that there is little left.
        for &(from, to) in &changes.moves {
            while !self.move_some(from, to)? {}
        }
        let deleted = || {
            changes.accounts.iter().filter_map(|change| match change {
                AccountChange::DeleteUser(id) => Some(*id),
                _ => None,
            })
        };
        // First the mark, then the account in one transaction: no user is ever half deleted. The data is removed in
        // steps, by this process or, after a crash, by the next one.
        for user in deleted() {
            self.note_forgotten(user, true)?;
        }
        if !changes.accounts.is_empty() {
            self.accounts().commit(&changes.accounts)?;
        }
        if !changes.sessions.is_empty() {
            self.sessions().commit(&changes.sessions)?;
        }
        if !changes.responses.is_empty() {
            self.responses().commit(&changes.responses)?;
        }
        Ok(())
    }
}

/// The changes of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Users and keys.
    pub accounts: Vec<AccountChange>,
    /// Sessions.
    pub sessions: Vec<SessionChange>,
    /// Responses.
    pub responses: Vec<ResponseChange>,
    /// Users whose data, except keys and sessions, moves to another user: from, to.
    pub moves: Vec<(UserId, UserId)>,
}
