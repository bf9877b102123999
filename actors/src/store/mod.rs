//! What is kept on disk, and when it counts as kept.
//!
//! One thread owns the database and does all that blocks. Work comes to it as jobs; it takes all that wait, runs
//! them in order, and makes their changes durable with one `fsync`. Only then is anybody told, so what was
//! acknowledged survives a crash, and many writers at a time cost one wait. Since every decision that depends on
//! what is stored runs on this thread, no two can contradict each other.
//!
//! Each concern has a trait ([`AccountsStore`], [`SessionsStore`]); how keys and values are written stays behind it,
//! so that another database can take sled's place.

mod accounts;
mod conversations;
mod db;
pub mod files;
mod group;
mod item_record;
mod item_value;
mod mark;
mod migrations;
mod pace;
mod records;
mod responses;
mod sessions;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use crate::identity::UserId;
use crate::usage::Payer;

pub use accounts::{AccountChange, AccountsStore, KeyHash};
pub use conversations::{ConversationChange, ConversationsStore};
pub use db::{OpenError, open};
pub use migrations::SCHEMA;
pub use records::{KINDS, Record, RecordsStore, kind as record_kind};
pub use responses::{ResponseChange, ResponsesStore};
pub use sessions::{SessionChange, SessionsStore, StoredSession};
pub use usage::UsageStore;
pub use writer::Store;

/// The stores of all concerns.
pub trait Stores: Send + Sync + Debug {
    /// Users and API keys.
    fn accounts(&self) -> &dyn AccountsStore;
    /// Login sessions.
    fn sessions(&self) -> &dyn SessionsStore;
    /// Who used how much.
    fn usage(&self) -> &dyn UsageStore;
    /// All records, whatever their kind.
    fn records(&self) -> &dyn RecordsStore;
    /// Whether there is room for changes.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Responses.
    fn responses(&self) -> &dyn ResponsesStore;
    /// Conversations and their items. To be kept weakly: what failed must be let go before it is opened again.
    fn conversations(&self) -> &Arc<dyn ConversationsStore>;
    /// Makes every change so far durable.
    ///
    /// # Errors
    /// The database failed.
    fn sync(&self) -> Result<(), StoreError>;

    /// Notes that a user is being forgotten, or that it is done.
    ///
    /// # Errors
    /// The database failed.
    fn note_forgotten(&self, user: UserId, begins: bool) -> Result<(), StoreError>;

    /// Removes every trace of a user beyond account, keys and sessions. What they used stays in the totals, without
    /// a word of whose it was.
    ///
    /// # Errors
    /// The database failed.
    fn forget(&self, user: UserId) -> Result<(), StoreError> {
        self.conversations().delete_all(user)?;
        self.responses().commit(&[ResponseChange::DeleteUser(user)])?;
        self.usage().reassign(user, Payer::Deleted)
    }

    /// Makes these changes: those to users and keys at once or not at all, then those to sessions. Durable after
    /// [`sync`](Self::sync).
    ///
    /// A crash between the two leaves at most sessions of a user who is gone, which is why it is in this order: such
    /// sessions are of no use and are dropped at the next start.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        // First what moves: after a crash in between, both users are still there to be made one.
        for &(from, to) in &changes.moves {
            self.conversations().move_all(from, to)?;
            self.responses().commit(&[ResponseChange::MoveUser { from, to }])?;
            self.usage().reassign(from, Payer::User(to))?;
        }
        let deleted = || {
            changes.accounts.iter().filter_map(|change| match change {
                AccountChange::DeleteUser(id) => Some(*id),
                _ => None,
            })
        };
        // Noted first, then the account at once: a user is never half there, and what a crash leaves undone of the
        // rest, the next start does.
        for user in deleted() {
            self.note_forgotten(user, true)?;
        }
        if !changes.accounts.is_empty() {
            self.accounts().commit(&changes.accounts)?;
        }
        for user in deleted() {
            self.forget(user)?;
            self.note_forgotten(user, false)?;
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

/// What a decision changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Users and keys.
    pub accounts: Vec<AccountChange>,
    /// Sessions.
    pub sessions: Vec<SessionChange>,
    /// Responses.
    pub responses: Vec<ResponseChange>,
    /// From whom to whom everything goes that a user has beside keys and sessions.
    pub moves: Vec<(UserId, UserId)>,
}

/// The database failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It said so.
    #[error("{0}")]
    Database(String),
    /// A value is not what this program writes.
    #[error("the value of {what} cannot be read: {problem}")]
    Value {
        /// Of what.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no room on the disk; what is there can be read.
    #[error("no room on the disk: {0}")]
    Full(String),
    /// It failed before and could not be opened again yet.
    #[error("it is being opened again")]
    Reopening,
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match &error {
            sled::Error::Io(io) => io.into(),
            _ => Self::Database(error.to_string()),
        }
    }
}

impl From<&std::io::Error> for StoreError {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full(error.to_string())
            }
            _ => Self::Database(error.to_string()),
        }
    }
}
