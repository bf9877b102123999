//! Columns of rows as the values of the program.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;
use uuid::Uuid;

use crate::store::StoreError;

/// A column.
///
/// # Errors
/// It is not of that type.
pub fn column<T: FromSqlOwned>(row: &Row, at: usize) -> Result<T, StoreError> {
    row.try_get(at).map_err(|_| StoreError::Value {
        what: format!("column {at} of a row"),
        problem: "it has another type; this program and the schema do not fit together".to_owned(),
    })
}

/// A column with an id.
///
/// # Errors
/// As [`column()`].
pub fn id(row: &Row, at: usize) -> Result<[u8; 16], StoreError> {
    column::<Uuid>(row, at).map(Uuid::into_bytes)
}

/// A column with a number.
///
/// # Errors
/// As [`column()`].
pub fn number(row: &Row, at: usize) -> Result<u64, StoreError> {
    column(row, at).map(super::params::unsigned)
}

/// JSON text as a value. `what`: the record, for an error.
///
/// # Errors
/// It is damaged.
pub fn decode<T: DeserializeOwned>(what: impl FnOnce() -> String, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Value { what: what(), problem: error.to_string() })
}

/// The JSON text of a value.
pub fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value)
        .expect("records are structs of text, numbers and lists, which have a JSON form")
}
