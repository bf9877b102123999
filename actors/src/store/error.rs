//! Errors of stores.

use std::fmt;

/// A failure of the database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database reported it.
    #[error("{0}")]
    Database(String),
    /// A stored value is damaged.
    #[error("the value of {what} cannot be read: {problem}")]
    Value {
        /// The record.
        what: String,
        /// The problem.
        problem: String,
    },
    /// No space for changes. Reads still work.
    #[error("no storage space left: {0}")]
    OutOfSpace(String),
    /// The database failed and could not be reopened yet.
    #[error("the database is being reopened")]
    Reopening,
    /// Concurrent transactions changed records that a decision depends on, in every attempt.
    #[error("other transactions changed the same records at the same time; try again")]
    Conflict,
    /// The user's storage quota is used up.
    #[error("this would exceed the quota of {limit} {unit} per user ({quota}); delete something first")]
    Quota {
        /// The setting.
        quota: String,
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
    /// A deleted record of the same id is still being removed.
    #[error("a deleted record of the same id is still being removed; try again in a moment")]
    Removing,
}

/// Skips a damaged record and logs it, so that it does not make the others unreadable.
pub fn readable<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ StoreError::Value { .. }) => {
            tracing::error!(%error, "a record of the store is damaged and skipped; restore it from an export");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The reason that a store cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0}")]
    InUse(Problem),
    /// The store is not the expected one, or has lost its contents.
    #[error("{0}")]
    WrongStore(Problem),
    /// A newer program wrote it.
    #[error("{0}")]
    Newer(Problem),
    /// The store has lost acknowledged changes.
    #[error("{0}")]
    Behind(Problem),
    /// The database failed.
    #[error("{0}")]
    Backend(Problem),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Backend(Problem::new(error.to_string(), ""))
    }
}

/// A problem of a database and its remedy, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The problem, without a full stop.
    pub message: String,
    /// The remedy; empty if it follows from the problem.
    pub remedy: String,
}

impl Problem {
    /// A problem with a remedy.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remedy.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}. {}", self.message, self.remedy),
        }
    }
}
