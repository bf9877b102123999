//! Errors of stores.

use std::io;
use std::path::PathBuf;

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
    /// There is no space for changes. Reads still work.
    #[error("no room on the disk: {0}")]
    Full(String),
    /// The database failed and could not be reopened yet.
    #[error("the database is being reopened")]
    Reopening,
    /// The user's storage quota is used up.
    #[error(
        "this would be more than the {limit} {unit} that one user may keep ({quota}); delete something first"
    )]
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
            tracing::error!(%error, "a record of the store is damaged and left out; import it again from an export");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The reason that a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the database {path} is in use by another process: stop that server first, or give this one a data folder \
         of its own (--data-dir)"
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// It lost its contents, or is another database.
    #[error(
        "the database {path} is not the one that belongs here: {id_file} says {expected}, the database says {found}. \
         It was damaged or exchanged. Restore both from one backup; or, to begin again without any user, key or \
         session, move both away"
    )]
    WrongStore {
        /// The database.
        path: PathBuf,
        /// The file with the expected id.
        id_file: PathBuf,
        /// The expected id.
        expected: String,
        /// The id in the database.
        found: String,
    },
    /// A newer program wrote it.
    #[error(
        "the database {path} was written by a newer version of this program (schema {found}, this one knows up to \
         {known}): use that version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// It has lost changes.
    #[error(
        "the database {path} has lost what was stored last: {mark_file} says {expected}, the database says {found}. \
         It was cut off or is an older copy. Restore the whole data folder from one backup; or, to go on from this \
         older state and without what came after it, delete {mark_file}"
    )]
    Behind {
        /// The database.
        path: PathBuf,
        /// The file of the commit marker.
        mark_file: PathBuf,
        /// The expected position.
        expected: String,
        /// The position found.
        found: String,
    },
    /// A file cannot be used.
    #[error("cannot use {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// sled cannot open it.
    #[error(
        "cannot open the database {path}: {error}. Where it is damaged, restore the whole data folder from one backup, \
         or import an export (jan-server import)"
    )]
    Database {
        /// The database.
        path: PathBuf,
        /// The error.
        error: StoreError,
    },
}
