//! Conversations and their items.

use std::fmt::Debug;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::StoreError;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;

/// Maximum size of an item's body, as JSON, in a [`ConversationChange::PutItem`] of a request; larger ones are staged. With the
/// number of items that a request may add, it bounds the data that the commit thread writes for one request.
pub const MAX_INLINE_BYTES: usize = 32 * 1024;

/// An item's body that is written, but not referred to by any item yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedBody {
    token: Vec<u8>,
}

impl StagedBody {
    /// A staged body. `token` has a meaning for the store alone that staged it.
    #[must_use]
    pub const fn new(token: Vec<u8>) -> Self {
        Self { token }
    }

    /// The token of the store that staged it.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }
}

/// A change of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConversationChange {
    /// Creates or replaces a conversation.
    Put(ConversationRecord),
    /// Creates or replaces an item.
    PutItem(ConversationId, StoredItem),
    /// Creates or replaces an item whose body is staged.
    PutStaged(ConversationId, Node, StagedBody),
    /// Deletes a conversation with its items.
    Delete(ConversationId),
}

impl ConversationChange {
    /// The number of the item that it puts.
    pub const fn item_number(&self) -> Option<u32> {
        match self {
            Self::PutItem(_, StoredItem { node, .. }) | Self::PutStaged(_, node, _) => Some(node.number),
            Self::Put(_) | Self::Delete(_) => None,
        }
    }
}

/// A conversation in a list, and its position there. `None`: the record is damaged, or the conversation has moved in the
/// list or is gone since its position was read.
pub type Listed = (Position, Option<ConversationRecord>);

/// A part of the list of a user's conversations.
#[derive(Debug)]
pub struct ListPart {
    /// The conversations.
    pub listed: Vec<Listed>,
    /// `true` if there are further ones between the same positions.
    pub has_more: bool,
}

/// Conversations and their items. Reads see committed changes, also those that are not durable yet, and may run on any
/// thread.
#[async_trait]
pub trait ConversationsStore: Debug + Send + Sync {
    /// One conversation.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError>;

    /// The conversation of a share link's token.
    ///
    /// # Errors
    /// The database failed.
    async fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError>;

    /// Up to `limit` of a user's conversations between two positions, both excluded; newest first, or else oldest first.
    ///
    /// # Errors
    /// The database failed.
    async fn list(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        limit: usize,
    ) -> Result<ListPart, StoreError>;

    /// The nodes of a conversation's items, without their contents, in order of their numbers.
    ///
    /// # Errors
    /// The database failed.
    async fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError>;

    /// The node of one item, without its contents.
    ///
    /// # Errors
    /// The database failed.
    async fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError>;

    /// The node of one item and the size of its body as JSON. Reads no large body.
    ///
    /// # Errors
    /// The database failed.
    async fn node_and_size(&self, id: ConversationId, number: u32)
    -> Result<Option<(Node, u64)>, StoreError>;

    /// One item.
    ///
    /// # Errors
    /// The database failed.
    async fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError>;

    /// The items of those numbers that there are, in the order of `numbers`.
    ///
    /// # Errors
    /// The database failed.
    async fn items(&self, id: ConversationId, numbers: &[u32]) -> Result<Vec<StoredItem>, StoreError> {
        let mut items = Vec::with_capacity(numbers.len());
        for &number in numbers {
            items.extend(self.item(id, number).await?);
        }
        Ok(items)
    }

    /// The number of the item of that id, which may be deleted.
    ///
    /// # Errors
    /// The database failed.
    async fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError>;

    /// Writes the body of an item, on any thread. No reader sees it before it is [put](ConversationChange::PutStaged); should
    /// that never happen, the next start removes it.
    ///
    /// # Errors
    /// The database failed.
    async fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError>;

    /// Removes a staged body that is not to be put after all. Called where a handle is dropped, so it cannot be awaited:
    /// a database that has to wait notes the body and removes it later.
    ///
    /// # Errors
    /// The database failed.
    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError>;
}
