//! Items as records of an export, read from their chunks.

use super::conversation_keys::number_and_chunk;
use super::conversations::SledConversations;
use crate::conversations::ConversationId;
use crate::store::StoreError;
use crate::store::item_record::ItemRecord;

/// The item whose first chunk has that key; `None` for the key of a later chunk.
pub fn at(store: &SledConversations, key: &[u8]) -> Result<Option<ItemRecord>, StoreError> {
    let (number, chunk) = number_and_chunk(key)?;
    let Some(conversation) = key.first_chunk::<16>().filter(|_| chunk == 0) else { return Ok(None) };
    let conversation = ConversationId::from_bytes(*conversation);
    Ok(store.item(conversation, number)?.map(|item| ItemRecord::new(conversation, item)))
}

/// The last key that a chunk of an item of that [`ItemRecord::key`] can have.
pub fn last_key(key: &[u8]) -> Vec<u8> {
    [key, &[0xff; 2]].concat()
}
