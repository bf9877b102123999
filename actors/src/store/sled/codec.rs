//! Encoding of keys and values, and conversion of sled's errors.

use sled::Tree;
use sled::transaction::TransactionError;

use crate::store::StoreError;

/// Decodes a JSON value.
pub fn decode<T: serde::de::DeserializeOwned>(
    what: impl FnOnce() -> String,
    value: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Value { what: what(), problem: error.to_string() })
}

/// The serde form of a value.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are structs of text, numbers and lists, which have a JSON form")
}

/// An id at the end of a key.
pub fn id_bytes(what: &str, bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    let end = bytes.len().saturating_sub(16);
    <[u8; 16]>::try_from(&bytes[end..]).map_err(|_| StoreError::Value {
        what: what.to_owned(),
        problem: format!("its key has {} bytes, expected at least 16", bytes.len()),
    })
}

/// A text of the `meta` tree.
pub fn text(meta: &Tree, key: &[u8]) -> Result<Option<String>, StoreError> {
    Ok(meta.get(key)?.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

/// A number of the `meta` tree; 0 where there is none.
pub fn number(meta: &Tree, key: &[u8]) -> Result<u64, StoreError> {
    let value = meta.get(key)?.and_then(|value| <[u8; 8]>::try_from(value.as_ref()).ok());
    Ok(value.map_or(0, u64::from_be_bytes))
}

/// The error of a transaction.
pub fn transaction_error(error: TransactionError<StoreError>) -> StoreError {
    match error {
        TransactionError::Abort(error) => error,
        TransactionError::Storage(error) => error.into(),
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
                Self::OutOfSpace(error.to_string())
            }
            _ => Self::Database(error.to_string()),
        }
    }
}
