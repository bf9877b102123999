//! The errors of starting the system.

use crate::identity::IdentityOpenError;

/// The reason why the system could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}: {error}")]
    Storage {
        /// The folder.
        path: String,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// Users, keys and sessions cannot be opened.
    #[error(transparent)]
    Identity(#[from] IdentityOpenError),
    /// An actor did not start.
    #[error("cannot start the actors: {0}")]
    Actor(String),
}
