//! The keys of conversations and their items, and the storage that they take.

use std::ops::Bound;

use sled::Db;

use super::codec::decode;
use crate::conversations::ConversationId;
use crate::conversations::types::{ConversationRecord, Position};
use crate::identity::UserId;
use crate::store::{StoreError, Used, readable};

/// Computes the storage of every user's conversations from the records.
pub fn count(db: &Db, add: &mut dyn FnMut(UserId, Used)) -> Result<(), StoreError> {
    for entry in &db.open_tree("conv")? {
        let record = decode::<ConversationRecord>(|| "a conversation".to_owned(), &entry?.1);
        if let Some(record) = readable(record)? {
            add(record.user, Used::of_conversation(&record));
        }
    }
    Ok(())
}

pub fn by_user_key(user: UserId, position: Position) -> Vec<u8> {
    let age = !position.updated_us;
    [user.to_bytes().as_slice(), &age.to_be_bytes(), &position.id.to_bytes()].concat()
}

pub fn position(key: &[u8]) -> Result<Position, StoreError> {
    let wrong = || StoreError::Value {
        what: "an index of conversations".to_owned(),
        problem: format!("its key has {} bytes, expected 40", key.len()),
    };
    let (age, id) = key.get(16..).and_then(<[u8]>::split_first_chunk::<8>).ok_or_else(wrong)?;
    let id = <[u8; 16]>::try_from(id).map_err(|_| wrong())?;
    Ok(Position { updated_us: !u64::from_be_bytes(*age), id: ConversationId::from_bytes(id) })
}

/// Returns `true` if a range of keys is empty; sled panics if its end is before its start.
pub fn range_is_empty(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    let (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) =
        (start, end)
    else {
        return false;
    };
    from >= to
}

/// The prefix of the keys of an item's chunks.
pub fn item_prefix(id: ConversationId, number: u32) -> Vec<u8> {
    [id.to_bytes().as_slice(), &number.to_be_bytes()].concat()
}

pub fn item_key(id: ConversationId, number: u32, chunk: u16) -> Vec<u8> {
    [id.to_bytes().as_slice(), &number.to_be_bytes(), &chunk.to_be_bytes()].concat()
}

pub fn item_id_key(id: ConversationId, item: &str) -> Vec<u8> {
    [id.to_bytes().as_slice(), item.as_bytes()].concat()
}

/// The number and the chunk in an item's key.
pub fn number_and_chunk(key: &[u8]) -> Result<(u32, u16), StoreError> {
    let parts = key.get(16..).and_then(<[u8]>::split_first_chunk::<4>);
    let parts = parts.and_then(|(number, rest)| Some((*number, <[u8; 2]>::try_from(rest).ok()?)));
    let (number, chunk) = parts.ok_or_else(|| StoreError::Value {
        what: "an item".to_owned(),
        problem: format!("its key has {} bytes, expected 22", key.len()),
    })?;
    Ok((u32::from_be_bytes(number), u16::from_be_bytes(chunk)))
}

/// Returns `true` if a key is that of an item's first chunk.
pub fn is_first_chunk(key: &[u8]) -> bool {
    key.ends_with(&[0; 2])
}

pub fn conversation_id(what: &str, bytes: &[u8]) -> Result<ConversationId, StoreError> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| StoreError::Value {
        what: what.to_owned(),
        problem: format!("{} bytes, expected 16", bytes.len()),
    })?;
    Ok(ConversationId::from_bytes(bytes))
}
