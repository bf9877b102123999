//! Errors of the driver in the words of stores. None shows a value of a record, a statement or a password.

use std::error::Error as _;

use tokio_postgres::error::{Error, SqlState};

use crate::store::StoreError;

/// Returns whether a transaction lost against another one, and may succeed when it is repeated.
///
/// A unique or foreign key is violated where another transaction committed after this one had read.
pub fn is_conflict(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        [
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::UNIQUE_VIOLATION,
            &SqlState::FOREIGN_KEY_VIOLATION,
            &SqlState::LOCK_NOT_AVAILABLE,
        ]
        .contains(&code)
    })
}

/// Returns whether the connection is gone, rather than the statement wrong.
pub fn is_disconnect(error: &Error) -> bool {
    error.is_closed()
        || error.code().is_none() && error.source().is_some_and(|cause| cause.is::<std::io::Error>())
        || error.code().is_some_and(|code| {
            [
                &SqlState::ADMIN_SHUTDOWN,
                &SqlState::CRASH_SHUTDOWN,
                &SqlState::CANNOT_CONNECT_NOW,
                &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            ]
            .contains(&code)
                || code.code().starts_with("08")
        })
}

/// The message of an error: of one of the database its own words and its code, without the details, which repeat values.
pub fn message(error: &Error) -> String {
    if let Some(database) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", database.message(), database.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The error of a store.
pub fn store_error(error: &Error) -> StoreError {
    if is_conflict(error) {
        return StoreError::Conflict;
    }
    match error.code() {
        Some(&SqlState::DISK_FULL) => StoreError::OutOfSpace(message(error)),
        _ => StoreError::Database(message(error)),
    }
}
