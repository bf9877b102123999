//! Types of conversations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::ConversationId;
use super::tree::Node;
use crate::identity::UserId;

/// A conversation without its items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationRecord {
    /// The conversation's id.
    pub id: ConversationId,
    /// The user that owns the conversation.
    pub user: UserId,
    /// The title: set by the caller, or derived from the first user message.
    pub title: Option<String>,
    /// The conversation's model.
    pub model: Option<String>,
    /// The caller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Time of creation (epoch seconds).
    pub created_at: u64,
    /// Time of the last change (epoch microseconds).
    pub updated_us: u64,
    /// Number of its items in all branches.
    pub items: u32,
    /// The size of its items as JSON in bytes.
    pub bytes: u64,
    /// The number of the next item.
    pub next: u32,
    /// The last item of the active branch; `None`: the branch is empty.
    pub head: Option<u32>,
    /// The public link, if there is one.
    pub share: Option<Share>,
}

impl ConversationRecord {
    /// Returns its position among its user's conversations.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { updated_us: self.updated_us, id: self.id }
    }
}

/// A public link to the conversation in its state at the link's creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// A random token that cannot be guessed.
    pub token: String,
    /// The last item that it shows.
    pub head: Option<u32>,
    /// Time of creation (epoch seconds).
    pub created_at: u64,
    /// Time at which it expires (epoch seconds). `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl Share {
    /// Returns whether it has expired. `now`: epoch seconds.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// The position of a conversation among its user's: by the last change, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Time of the last change (epoch microseconds).
    pub updated_us: u64,
    /// The conversation's id.
    pub id: ConversationId,
}

/// An item as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredItem {
    /// The position and the state.
    pub node: Node,
    /// OpenAI's object; empty if the item is deleted.
    pub body: Map<String, Value>,
}

/// An item as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The item's id, as in the body.
    pub id: String,
    /// The id of the item that it answers; `None`: it is at the beginning.
    pub parent: Option<String>,
    /// Time of its addition (epoch seconds).
    pub created_at: u64,
    /// OpenAI's object with `type`, `id` and `status`. A running answer is `in_progress`, an aborted one `incomplete`.
    pub body: Map<String, Value>,
}

/// An added item without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The item's id.
    pub id: String,
    /// The id of the item that it answers; `None`: it is at the beginning.
    pub parent: Option<String>,
    /// The time of its addition (epoch seconds).
    pub created_at: u64,
}

impl Placed {
    /// Returns the item as it is shown.
    #[must_use]
    pub fn with_body(self, body: Map<String, Value>) -> Item {
        let Self { id, parent, created_at } = self;
        Item { id, parent, created_at, body }
    }
}

/// A checked item to be added.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// The item's id; `None`: a new one.
    pub id: Option<String>,
    /// OpenAI's object without `id`.
    pub body: Map<String, Value>,
}

/// The parent of new items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// The last item of the active branch.
    #[default]
    Head,
    /// None: the items begin the conversation once more.
    Beginning,
    /// That item. Its existing children remain, as another branch.
    After(String),
}

/// A conversation to be created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewConversation {
    /// The title; `None`: derived from the first user message.
    pub title: Option<String>,
    /// The conversation's model.
    pub model: Option<String>,
    /// The caller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// The first items.
    pub items: Vec<NewItem>,
}

/// Changes to a conversation. `None` leaves a field unchanged; an inner `None` removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversationUpdate {
    /// The title.
    pub title: Option<Option<String>>,
    /// The conversation's model.
    pub model: Option<Option<String>>,
    /// The metadata, which replaces all of the caller's metadata.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A query over a user's conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationQuery {
    /// Maximum number of conversations.
    pub limit: usize,
    /// Only those after this position, in the requested order.
    pub after: Option<Position>,
    /// Only those before this position, in the requested order: the nearest ones, if `after` is not set.
    pub before: Option<Position>,
    /// True to list the last changed first.
    pub newest_first: bool,
    /// Only those with this model.
    pub model: Option<String>,
    /// Only those whose title or items contain this text, ignoring case.
    pub text: Option<String>,
    /// Only those with a public link.
    pub shared: bool,
}

/// A part of a user's conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationPage {
    /// The conversations in the requested order.
    pub data: Vec<ConversationRecord>,
    /// True if there may be more in the requested direction.
    pub has_more: bool,
    /// The position to continue from in that direction. A search examines a bounded part at a time, so it may return fewer
    /// results than requested, or none, and still have more.
    pub next: Option<Position>,
}

/// A part of the active branch.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemPage {
    /// The items in the requested order.
    pub data: Vec<Item>,
    /// True if more items follow.
    pub has_more: bool,
}

/// A branch as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchView {
    /// The last item.
    pub head: Item,
    /// The id of the last item that it shares with another branch.
    pub fork: Option<String>,
    /// Number of items on the path to its head, including the head.
    pub items: usize,
    /// True if it is the active branch.
    pub active: bool,
}

/// A conversation with the items of all branches, in the order of their arrival.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeConversation {
    /// The conversation.
    pub record: ConversationRecord,
    /// The items of all branches.
    pub items: Vec<Item>,
    /// The id of the last item of the active branch.
    pub head: Option<String>,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Completed by the model.
    Completed,
    /// Aborted.
    Incomplete,
}
