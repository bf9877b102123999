//! What is kept on disk, and when it counts as kept.
//!
//! One thread owns the database and does all that blocks. Work comes to it as jobs; it takes all that wait, runs
//! them in order, and makes their changes durable with one `fsync`. Only then is anybody told, so what was
//! acknowledged survives a crash, and many writers at a time cost one wait. Since every decision that depends on
//! what is stored runs on this thread, no two can contradict each other.
//!
//! No job holds the thread for long. What is large is written before anybody refers to it, on any thread
//! ([`ResponsesStore::stage`]); what is deleted is noted and removed in steps between jobs ([`Stores::sweep`]); and
//! reads that may be long go past it ([`Store::view`]): sled serves any thread.
//!
//! Each concern has a trait ([`AccountsStore`], [`SessionsStore`]); how keys and values are written stays behind it,
//! so that another database can take sled's place.

mod accounts;
mod audit;
mod conversation_keys;
mod conversations;
mod db;
mod doomed;
pub mod files;
mod group;
mod item_record;
mod item_value;
mod mark;
mod migrations;
mod open_error;
mod pace;
mod quota;
mod records;
mod response_head;
mod response_links;
mod responses;
mod sessions;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use crate::identity::UserId;
use crate::usage::Payer;

pub use accounts::{AccountChange, AccountsStore, KeyHash};
pub use audit::AuditStore;
pub use conversations::{ConversationChange, ConversationsStore};
pub use db::{SledStores, open};
pub use doomed::Swept;
pub use migrations::{SCHEMA, upgrade};
pub use open_error::OpenError;
pub use quota::{Quotas, Used};
pub use records::{KINDS, Ready, Record, RecordsStore, kind as record_kind};
pub use responses::{ResponseChange, ResponsesStore, Staged};
pub use sessions::{SessionChange, SessionsStore, StoredSession};
pub use usage::UsageStore;
pub use writer::Store;

/// Keys or sessions of a user who is gone that are deleted at a time.
const KEYS_AT_ONCE: usize = 64;

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
    /// Who did what.
    fn audit(&self) -> &dyn AuditStore;
    /// What a user has.
    ///
    /// # Errors
    /// The database failed.
    fn used(&self, _user: UserId) -> Result<Used, StoreError> {
        Ok(Used::default())
    }

    /// What users may have.
    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    /// Whether a user may have more.
    ///
    /// # Errors
    /// [`StoreError::Quota`], or the database failed.
    fn check_quota(&self, user: UserId, more: Used) -> Result<(), StoreError> {
        let Some(record) = self.accounts().user(user)? else { return Ok(()) };
        self.quotas().check(record.kind, self.used(user)?, more)
    }

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

    /// Makes a change of no consequence, without waiting for the disk. sled refuses every change once one of its own
    /// threads could not write, and nobody but a change is told so.
    ///
    /// # Errors
    /// The database failed.
    fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Notes that a user is being forgotten, or that it is done.
    ///
    /// # Errors
    /// The database failed.
    fn note_forgotten(&self, user: UserId, begins: bool) -> Result<(), StoreError>;

    /// Those who are being forgotten: nobody is to see anything of them any more.
    ///
    /// # Errors
    /// The database failed.
    fn forgotten(&self) -> Result<Vec<UserId>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes some of what is noted as gone, until then. Notes are removed by [`swept`](Self::swept).
    ///
    /// # Errors
    /// The database failed.
    fn sweep(&self, _until: Instant) -> Result<Swept, StoreError> {
        Ok(Swept::Nothing)
    }

    /// Removes the notes of which nothing is left; to be called once the removals are durable.
    ///
    /// # Errors
    /// The database failed.
    fn swept(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes some of every trace of a user beyond the account. What they used stays in the totals, without a word of
    /// whose it was. `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn forget_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys: Vec<_> = self.accounts().some_keys(user, KEYS_AT_ONCE)?;
        if !keys.is_empty() {
            let changes = keys.into_iter().map(|(hash, record)| AccountChange::DeleteKey(hash, record));
            self.accounts().commit(&changes.collect::<Vec<_>>())?;
            return Ok(false);
        }
        let sessions = self.sessions().some_sessions(user, KEYS_AT_ONCE)?;
        if !sessions.is_empty() {
            let changes = sessions.into_iter().map(|id| SessionChange::End(user, id));
            self.sessions().commit(&changes.collect::<Vec<_>>())?;
            return Ok(false);
        }
        Ok(self.usage().reassign_some(user, Payer::Deleted)?
            && self.conversations().delete_some(user)?
            && self.responses().delete_some(user)?)
    }

    /// Gives some of what a user has beside keys and sessions to another; `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        Ok(self.conversations().move_some(from, to)?
            && self.responses().move_some(from, to)?
            && self.usage().reassign_some(from, Payer::User(to))?)
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
        // First what moves: after a crash in between, both users are still there to be made one. Whoever decides on it
        // has moved what there is in steps before; what came meanwhile is little.
        for &(from, to) in &changes.moves {
            while !self.move_some(from, to)? {}
        }
        let deleted = || {
            changes.accounts.iter().filter_map(|change| match change {
                AccountChange::DeleteUser(id) => Some(*id),
                _ => None,
            })
        };
        // Noted first, then the account at once: a user is never half there. The rest goes in steps, in this process or,
        // after a crash, when the next one starts.
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
    /// The user has as much as one may have.
    #[error(
        "this would be more than the {limit} {unit} that one user may keep ({quota}); delete something first"
    )]
    Quota {
        /// The setting.
        quota: String,
        /// How much.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Something of the same id was deleted and is still being removed.
    #[error("something of the same id is still being removed; try again in a moment")]
    Removing,
}

/// Leaves out what cannot be read, and says so: one bad record must not take the others with it.
fn readable<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ StoreError::Value { .. }) => {
            tracing::error!(%error, "a record of the store is damaged and left out; import it again from an export");
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
