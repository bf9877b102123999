//! Parameters of statements, each with its type, so that no statement has to be prepared first: prepared statements of a
//! name do not survive a connection pooler that changes connections between transactions.

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// A parameter.
pub type Param = (Box<dyn ToSql + Sync + Send>, Type);

/// An id.
pub fn id(bytes: [u8; 16]) -> Param {
    (Box::new(Uuid::from_bytes(bytes)), Type::UUID)
}

/// An id or nothing.
pub fn maybe_id(bytes: Option<[u8; 16]>) -> Param {
    (Box::new(bytes.map(Uuid::from_bytes)), Type::UUID)
}

/// Ids.
pub fn ids(all: impl IntoIterator<Item = [u8; 16]>) -> Param {
    (Box::new(all.into_iter().map(Uuid::from_bytes).collect::<Vec<_>>()), Type::UUID_ARRAY)
}

/// Bytes.
pub fn bytes(bytes: &[u8]) -> Param {
    (Box::new(bytes.to_vec()), Type::BYTEA)
}

/// Bytes or nothing.
pub fn maybe_bytes(bytes: Option<&[u8]>) -> Param {
    (Box::new(bytes.map(<[u8]>::to_vec)), Type::BYTEA)
}

/// Several byte strings.
pub fn many_bytes(all: Vec<Vec<u8>>) -> Param {
    (Box::new(all), Type::BYTEA_ARRAY)
}

/// Text, without a zero byte.
pub fn text(text: impl Into<String>) -> Param {
    (Box::new(text.into()), Type::TEXT)
}

/// Several texts.
pub fn texts(all: Vec<String>) -> Param {
    (Box::new(all), Type::TEXT_ARRAY)
}

/// A number; what is beyond the column is its largest.
pub fn number(number: u64) -> Param {
    (Box::new(saturated(number)), Type::INT8)
}

/// A number with a sign.
pub fn signed(number: i64) -> Param {
    (Box::new(number), Type::INT8)
}

/// A number or nothing.
pub fn maybe_number(number: Option<u64>) -> Param {
    (Box::new(number.map(saturated)), Type::INT8)
}

/// Several numbers.
pub fn numbers(all: impl IntoIterator<Item = u64>) -> Param {
    (Box::new(all.into_iter().map(saturated).collect::<Vec<_>>()), Type::INT8_ARRAY)
}

/// A small number.
pub fn small(number: i16) -> Param {
    (Box::new(number), Type::INT2)
}

/// Several small numbers.
pub fn smalls(all: Vec<i16>) -> Param {
    (Box::new(all), Type::INT2_ARRAY)
}

/// A truth value.
pub fn flag(flag: bool) -> Param {
    (Box::new(flag), Type::BOOL)
}

/// A number as the column has it.
pub fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of a column, which is never negative.
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
