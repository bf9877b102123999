//! Ids of conversations and of their items.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::identity::InvalidId;
use crate::identity::ids::id;

/// Maximum length of an item's id in bytes.
pub const MAX_ITEM_ID: usize = 64;

id!(
    /// A conversation's id, `conv_…`.
    ConversationId,
    "conv_"
);

/// Returns a new id for an item of that type: the type's prefix, as in OpenAI's ids, and a UUID version 7.
#[must_use]
pub fn new_item_id(kind: &str) -> String {
    let prefix = match kind {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "reasoning" => "rs",
        "web_search_call" => "ws",
        "file_search_call" => "fs",
        "code_interpreter_call" => "ci",
        "image_generation_call" => "ig",
        "computer_call" => "cu",
        "mcp_call" => "mcp",
        _ => "item",
    };
    format!("{prefix}_{}", Uuid::now_v7().as_simple())
}

/// Returns whether a text is a valid item id.
#[must_use]
pub fn is_item_id(text: &str) -> bool {
    (1..=MAX_ITEM_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
