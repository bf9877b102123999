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
mod item_value;
mod responses;
mod sessions;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::identity::UserId;

pub use accounts::{AccountChange, AccountsStore, KeyHash};
pub use conversations::{ConversationChange, ConversationsStore};
pub use db::OpenError;
pub use responses::{ResponseChange, ResponsesStore};
pub use sessions::{SessionChange, SessionsStore, StoredSession};
pub use writer::Store;

/// The stores of all concerns.
pub trait Stores: Send {
    /// Users and API keys.
    fn accounts(&self) -> &dyn AccountsStore;
    /// Login sessions.
    fn sessions(&self) -> &dyn SessionsStore;
    /// Responses.
    fn responses(&self) -> &dyn ResponsesStore;
    /// Conversations and their items. To be kept weakly: what failed must be let go before it is opened again.
    fn conversations(&self) -> &Arc<dyn ConversationsStore>;
    /// Makes every change so far durable.
    ///
    /// # Errors
    /// The database failed.
    fn sync(&self) -> Result<(), StoreError>;

    /// Makes these changes: those to users and keys at once or not at all, then those to sessions. Durable after
    /// [`sync`](Self::sync).
    ///
    /// A crash between the two leaves at most sessions of a user who is gone, which is why it is in this order: such
    /// sessions are of no use and are dropped at the next start.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        // First what a user has: after a crash in between, the user is still there to be deleted again.
        for (from, to) in &changes.moves {
            self.conversations().move_all(*from, *to)?;
            self.responses().commit(&[ResponseChange::MoveUser { from: *from, to: *to }])?;
        }
        for change in &changes.accounts {
            if let AccountChange::DeleteUser(id) = change {
                self.conversations().delete_all(*id)?;
                self.responses().commit(&[ResponseChange::DeleteUser(*id)])?;
            }
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
    /// It failed before and could not be opened again yet.
    #[error("it is being opened again")]
    Reopening,
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Database(error.to_string())
    }
}
