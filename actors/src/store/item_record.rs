//! A conversation's item as one record of an export: its place in the conversation and its contents.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::conversations::types::StoredItem;
use crate::conversations::{ConversationId, MAX_ITEM_ID, Node};

/// An item with its place in the conversation.
#[derive(Debug, Serialize, Deserialize)]
pub struct ItemRecord {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its number in the conversation.
    pub number: u32,
    parent: Option<u32>,
    id: String,
    created_at: u64,
    deleted: bool,
    pending: bool,
    body: Map<String, Value>,
}

impl ItemRecord {
    /// The record of an item.
    pub fn new(conversation: ConversationId, item: StoredItem) -> Self {
        let Node { number, parent, id, created_at, deleted, pending } = item.node;
        Self { conversation, number, parent, id, created_at, deleted, pending, body: item.body }
    }

    /// Conversation id and number.
    pub fn key(&self) -> Vec<u8> {
        [self.conversation.to_bytes().as_slice(), &self.number.to_be_bytes()].concat()
    }

    /// The item.
    pub fn into_item(self) -> StoredItem {
        let Self { number, parent, id, created_at, deleted, pending, body, .. } = self;
        StoredItem { node: Node { number, parent, id, created_at, deleted, pending }, body }
    }
}

/// Checks an item's key and value.
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
