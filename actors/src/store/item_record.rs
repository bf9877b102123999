//! A conversation's item as one record: what its chunks say, as one JSON object.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::StoreError;
use super::conversation_keys::{item_prefix, number_and_chunk};
use super::conversations::{ConversationsStore, SledConversations};
use crate::conversations::types::StoredItem;
use crate::conversations::{ConversationId, MAX_ITEM_ID, Node};

/// An item and where it hangs.
#[derive(Debug, Serialize, Deserialize)]
pub struct ItemRecord {
    pub conversation: ConversationId,
    pub number: u32,
    parent: Option<u32>,
    id: String,
    created_at: u64,
    deleted: bool,
    pending: bool,
    body: Map<String, Value>,
}

impl ItemRecord {
    fn new(conversation: ConversationId, item: StoredItem) -> Self {
        let Node { number, parent, id, created_at, deleted, pending } = item.node;
        Self { conversation, number, parent, id, created_at, deleted, pending, body: item.body }
    }

    /// Conversation id and number.
    pub fn key(&self) -> Vec<u8> {
        item_prefix(self.conversation, self.number)
    }

    /// As the store takes it.
    pub fn into_item(self) -> StoredItem {
        let Self { number, parent, id, created_at, deleted, pending, body, .. } = self;
        StoredItem { node: Node { number, parent, id, created_at, deleted, pending }, body }
    }
}

/// What is wrong with an item of that key.
pub fn check(key: &[u8], value: &[u8]) -> Result<(), String> {
    let item: ItemRecord = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if key != item.key() {
        return Err("its key is another item's".to_owned());
    }
    if item.id.len() > MAX_ITEM_ID {
        return Err(format!("its id is longer than {MAX_ITEM_ID} bytes"));
    }
    if item.parent.is_some_and(|parent| parent >= item.number) {
        return Err("it hangs on an item that comes after it".to_owned());
    }
    Ok(())
}

/// The item whose first chunk has that key; `None` where it is another chunk's.
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
