//! Wire types that the resources about conversations share.
//!
//! Source: `ConversationResource`, `ConversationItem` and `ConversationItemList` in OpenAI's API description.

use std::collections::BTreeMap;

use jan_actors::conversations::{
    ConversationError, ConversationId, ConversationRecord, Item, NewItem, chat, item,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::ApiError;

/// Maximum number of items in one request, as in OpenAI's API.
pub const MAX_ITEMS_AT_ONCE: usize = 20;

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    #[schema(example = "conv_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `conversation`.
    object: &'static str,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds of the last change.
    updated_at: u64,
    /// Its title; derived from the first user message by default.
    title: Option<String>,
    /// Its model.
    model: Option<String>,
    /// The caller's metadata.
    metadata: BTreeMap<String, String>,
    /// The number of items, of all branches.
    item_count: u32,
    /// True if it has a share link.
    shared: bool,
}

impl Conversation {
    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl From<ConversationRecord> for Conversation {
    fn from(record: ConversationRecord) -> Self {
        Self {
            id: record.id.to_string(),
            object: "conversation",
            created_at: record.created_at,
            updated_at: record.updated_us / 1_000_000,
            title: record.title,
            model: record.model,
            metadata: record.metadata,
            item_count: record.items,
            shared: record.share.is_some(),
        }
    }
}

/// A conversation with its messages.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationWithMessages {
    #[serde(flatten)]
    conversation: Conversation,
    /// The messages of the active branch, oldest first.
    messages: Vec<ChatMessage>,
}

impl ConversationWithMessages {
    /// Creates the object with the messages among its items.
    pub fn new(record: ConversationRecord, items: &[Item]) -> Self {
        Self { conversation: record.into(), messages: messages(items) }
    }
}

/// Returns the messages among items. Reasoning and calls of built-in tools are available only as items.
pub fn messages(items: &[Item]) -> Vec<ChatMessage> {
    items.iter().filter_map(ChatMessage::of).collect()
}

/// A message in the format of chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatMessage {
    /// The id of its item.
    id: String,
    /// Its parent; null: the beginning.
    parent_id: Option<String>,
    /// Unix seconds.
    created_at: u64,
    /// `completed`, `in_progress` during generation, `incomplete` if it was interrupted.
    status: Value,
    /// `role`, `content` and, if present, `tool_calls` and `tool_call_id`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    message: Value,
}

impl ChatMessage {
    fn of(item: &Item) -> Option<Self> {
        Some(Self {
            id: item.id.clone(),
            parent_id: item.parent.clone(),
            created_at: item.created_at,
            status: item.body.get("status").cloned().unwrap_or_default(),
            message: chat::message(&item.body)?,
        })
    }
}

/// An item: OpenAI's object with its time of creation and its parent.
#[derive(Debug)]
pub struct WireItem(pub Item);

impl Serialize for WireItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Item { parent, created_at, body, .. } = &self.0;
        let mut map = serializer.serialize_map(Some(body.len() + 2))?;
        for (name, value) in body {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("created_at", created_at)?;
        map.serialize_entry("parent_id", parent)?;
        map.end()
    }
}

/// A list of items. Source: `ConversationItemList`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConversationItemList)]
pub struct ItemList {
    /// Always `list`.
    object: &'static str,
    /// The items: OpenAI's objects with additional `created_at` (Unix seconds) and `parent_id`.
    #[schema(value_type = Vec<Object>)]
    data: Vec<WireItem>,
    /// The first one's id; empty if there is none.
    first_id: String,
    /// The last one's id, the value of `after` for the next page. Empty if there is none.
    last_id: String,
    /// True if there are more.
    has_more: bool,
}

impl ItemList {
    /// Creates a list with a part of the items, or all of them.
    pub fn new(data: Vec<Item>, has_more: bool) -> Self {
        let id = |item: Option<&Item>| item.map(|item| item.id.clone()).unwrap_or_default();
        Self {
            object: "list",
            first_id: id(data.first()),
            last_id: id(data.last()),
            data: data.into_iter().map(WireItem).collect(),
            has_more,
        }
    }
}

/// Parses a conversation's id. A malformed one is reported as not found.
pub fn parse_id(id: &str) -> Result<ConversationId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("conversation", id))
}

/// Checks the items of a request.
pub fn check_items(field: &str, items: Vec<Value>, max_bytes: usize) -> Result<Vec<NewItem>, ApiError> {
    if items.len() > MAX_ITEMS_AT_ONCE {
        return Err(ApiError::invalid_value(
            field,
            format!(
                "'{field}' has {} items; at most {MAX_ITEMS_AT_ONCE} can be added at a time.",
                items.len()
            ),
        ));
    }
    let check = |(index, item)| item::check(item, &format!("{field}[{index}]"), max_bytes);
    items.into_iter().enumerate().map(check).collect::<Result<_, _>>().map_err(ApiError::from_conversation)
}

/// Checks items that this server created from a request's messages.
pub fn own_items(bodies: Vec<Map<String, Value>>, max_bytes: usize) -> Result<Vec<NewItem>, ApiError> {
    let own = |body| item::own(body, max_bytes);
    bodies.into_iter().map(own).collect::<Result<_, _>>().map_err(|error| match error {
        ConversationError::Invalid { problem, .. } => {
            ApiError::invalid_value("messages", format!("Invalid 'messages': one of them {problem}."))
        }
        error => ApiError::from_conversation(error),
    })
}
