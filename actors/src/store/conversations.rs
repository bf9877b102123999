//! Conversations and their items.

use std::fmt::Debug;

use super::StoreError;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;

/// A change of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConversationChange {
    /// Creates or replaces a conversation.
    Put(ConversationRecord),
    /// Creates or replaces an item.
    PutItem(ConversationId, StoredItem),
    /// Deletes a conversation with its items.
    Delete(ConversationId),
}

/// A visitor of results; the visit ends once it returns `false`.
pub type Visit<'a, T> = &'a mut dyn FnMut(T) -> Result<bool, StoreError>;

/// Conversations and their items. Reads see committed changes, also those that are not durable yet, and may run on any
/// thread.
pub trait ConversationsStore: Debug + Send + Sync {
    /// One conversation.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError>;

    /// The conversation of a share link's token.
    ///
    /// # Errors
    /// The database failed.
    fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError>;

    /// Visits the positions of a user's conversations between two bounds, both excluded; newest first, or else oldest
    /// first. Concurrent changes may be seen or not: compare the position with the record's.
    ///
    /// # Errors
    /// The database failed.
    fn positions(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        visit: Visit<'_, Position>,
    ) -> Result<(), StoreError>;

    /// The nodes of a conversation's items, without their contents, in order of their numbers.
    ///
    /// # Errors
    /// The database failed.
    fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError>;

    /// The node of one item, without its contents.
    ///
    /// # Errors
    /// The database failed.
    fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError>;

    /// One item.
    ///
    /// # Errors
    /// The database failed.
    fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError>;

    /// The number of the item of that id, which may be deleted.
    ///
    /// # Errors
    /// The database failed.
    fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError>;
}
