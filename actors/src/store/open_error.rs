//! Why a database cannot be used.

use std::io;
use std::path::PathBuf;

use super::StoreError;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the database {path} is in use by another process: stop that server first, or give this one a data folder \
         of its own (--data-dir)"
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// It lost its contents, or is another one.
    #[error(
        "the database {path} is not the one that belongs here: {id_file} says {expected}, the database says {found}. \
         It was damaged or exchanged. Restore both from one backup; or, to begin again without any user, key or \
         session, move both away"
    )]
    WrongStore {
        /// The database.
        path: PathBuf,
        /// Where its id is kept.
        id_file: PathBuf,
        /// The id there.
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
    /// It is not as far as it was.
    #[error(
        "the database {path} has lost what was stored last: {mark_file} says {expected}, the database says {found}. \
         It was cut off or is an older copy. Restore the whole data folder from one backup; or, to go on from this \
         older state and without what came after it, delete {mark_file}"
    )]
    Behind {
        /// The database.
        path: PathBuf,
        /// Where it is noted how far it was.
        mark_file: PathBuf,
        /// How far it was.
        expected: String,
        /// How far it is.
        found: String,
    },
    /// A file cannot be used.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
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
        /// What sled says.
        error: StoreError,
    },
}
