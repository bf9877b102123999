//! What conversations are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::ConversationId;
use super::tree::Node;
use crate::identity::UserId;

/// A conversation without its items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationRecord {
    /// Its id.
    pub id: ConversationId,
    /// Whose it is.
    pub user: UserId,
    /// What it is about: given, or made from the first thing that its user says.
    pub title: Option<String>,
    /// The model that it is held with.
    pub model: Option<String>,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, String>,
    /// When it was begun (epoch seconds).
    pub created_at: u64,
    /// When it was last changed (epoch microseconds).
    pub updated_us: u64,
    /// How many items it has, all branches together.
    pub items: u32,
    /// Their size as JSON.
    pub bytes: u64,
    /// The number of the next item.
    pub next: u32,
    /// The last item of the active branch; `None`: it is empty.
    pub head: Option<u32>,
    /// Where anybody can read it.
    pub share: Option<Share>,
}

impl ConversationRecord {
    /// Where it stands among its user's conversations.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { updated_us: self.updated_us, id: self.id }
    }
}

/// A link that anybody can read the conversation by, as it was when the link was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What nobody can guess.
    pub token: String,
    /// The last item that it shows.
    pub head: Option<u32>,
    /// When it was made (epoch seconds).
    pub created_at: u64,
    /// When it ends (epoch seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl Share {
    /// Whether it has ended by itself. `now`: epoch seconds.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// Where a conversation stands among its user's: by the last change, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// When it was last changed (epoch microseconds).
    pub updated_us: u64,
    /// Which one.
    pub id: ConversationId,
}

/// An item as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredItem {
    /// Where it hangs.
    pub node: Node,
    /// OpenAI's object; empty when it was deleted.
    pub body: Map<String, Value>,
}

/// An item as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its id, as in the body.
    pub id: String,
    /// What it answers; `None`: the beginning.
    pub parent: Option<String>,
    /// When it was added (epoch seconds).
    pub created_at: u64,
    /// OpenAI's object with `type`, `id` and `status`. An answer that runs is `in_progress`, one that broke off
    /// `incomplete`.
    pub body: Map<String, Value>,
}

/// An item that was added, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub id: String,
    /// The id of the item that it answers; `None`: it is at the beginning.
    pub parent: Option<String>,
    /// The time of its addition (epoch seconds).
    pub created_at: u64,
}

impl Placed {
    /// The item as it is shown.
    #[must_use]
    pub fn with_body(self, body: Map<String, Value>) -> Item {
        let Self { id, parent, created_at } = self;
        Item { id, parent, created_at, body }
    }
}

/// An item to be added, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// Its id; `None`: a new one.
    pub id: Option<String>,
    /// OpenAI's object without `id`.
    pub body: Map<String, Value>,
}

/// What new items hang on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// The last item of the active branch.
    #[default]
    Head,
    /// Nothing: they begin the conversation once more.
    Beginning,
    /// That item. What hangs on it already stays, as another branch.
    After(String),
}

/// A conversation to be begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewConversation {
    /// Its title; absent: made from the first user message.
    pub title: Option<String>,
    /// The model that it is held with.
    pub model: Option<String>,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, String>,
    /// What it begins with.
    pub items: Vec<NewItem>,
}

/// What to change about a conversation. What is `None` stays; an inner `None` is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversationUpdate {
    /// Its title.
    pub title: Option<Option<String>>,
    /// The model that it is held with.
    pub model: Option<Option<String>>,
    /// All of the caller's own notes.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Which of a user's conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationQuery {
    /// At most so many.
    pub limit: usize,
    /// Those behind that place, in the order asked for.
    pub after: Option<Position>,
    /// Those before that place, in the order asked for: the ones next to it, if `after` is not given.
    pub before: Option<Position>,
    /// The last changed first.
    pub newest_first: bool,
    /// Those held with that model.
    pub model: Option<String>,
    /// Those whose title or items have that text, upper or lower case.
    pub text: Option<String>,
    /// Those that a share link leads to.
    pub shared: bool,
}

/// A part of a user's conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationPage {
    /// In the order asked for.
    pub data: Vec<ConversationRecord>,
    /// Whether there may be more in the direction asked for.
    pub has_more: bool,
    /// Where to go on in that direction. A search looks at a bounded part at a time, so it may find less than it was
    /// asked for, or nothing, and still have more.
    pub next: Option<Position>,
}

/// A part of the active branch.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemPage {
    /// In the order asked for.
    pub data: Vec<Item>,
    /// Whether there is more behind the last one.
    pub has_more: bool,
}

/// A branch as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchView {
    /// Its last item.
    pub head: Item,
    /// The last item that it shares with another branch.
    pub fork: Option<String>,
    /// How many items lead to its head, the head among them.
    pub items: usize,
    /// Whether it is the one that goes on.
    pub active: bool,
}

/// A conversation with all its items, of all branches, in the order they came in.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeConversation {
    /// Itself.
    pub record: ConversationRecord,
    /// All items.
    pub items: Vec<Item>,
    /// The id of the last item of the active branch.
    pub head: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Completed,
    /// It broke off.
    Incomplete,
}
