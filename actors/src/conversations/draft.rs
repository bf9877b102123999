//! A conversation to which items are being added.

use super::error::ConversationError;
use super::ids::ConversationId;
use super::prepared::{PreparedBody, PreparedItem};
use super::rules::Rules;
use super::tree::Node;
use super::types::{Anchor, ConversationRecord, Placed, StoredItem};
use crate::store::{ConversationChange, ConversationsStore};

/// The draft of a conversation to which items are being added.
#[derive(Debug)]
pub struct Draft {
    pub record: ConversationRecord,
    /// The positions of the items.
    pub placed: Vec<Placed>,
    pub stored: Vec<(Node, PreparedBody)>,
    /// The id of the item that the next item answers.
    pub nearest: Option<String>,
}

impl Draft {
    pub const fn new(record: ConversationRecord) -> Self {
        Self { record, placed: Vec::new(), stored: Vec::new(), nearest: None }
    }

    /// Returns the number of the item that new items follow.
    pub async fn parent_of(
        &mut self,
        store: &dyn ConversationsStore,
        anchor: &Anchor,
    ) -> Result<Option<u32>, ConversationError> {
        let number = match anchor {
            Anchor::Head => self.record.head,
            Anchor::Beginning => None,
            Anchor::After(item) => {
                let number = store.item_number(self.record.id, item).await?;
                Some(number.ok_or_else(|| ConversationError::not_found("item", item))?)
            }
        };
        self.nearest = nearest(store, self.record.id, number).await?;
        Ok(number)
    }

    /// Adds items, each after the previous one.
    pub fn add(
        &mut self,
        items: Vec<PreparedItem>,
        mut parent: Option<u32>,
        rules: &Rules,
    ) -> Result<(), ConversationError> {
        for item in items {
            parent = Some(self.add_one(item, parent, false, rules)?);
        }
        rules.touch(&mut self.record);
        Ok(())
    }

    /// Adds an item and returns its number.
    pub fn add_one(
        &mut self,
        new: PreparedItem,
        parent: Option<u32>,
        pending: bool,
        rules: &Rules,
    ) -> Result<u32, ConversationError> {
        let record = &mut self.record;
        let limits = &rules.limits;
        // Deleted items keep their places in the tree, so they count here.
        if record.next >= limits.max_items {
            return Err(ConversationError::Full { limit: limits.max_items.into(), unit: "items" });
        }
        let PreparedItem { id, bytes, title, body, .. } = new;
        record.bytes = record.bytes.saturating_add(bytes);
        if record.bytes > limits.max_bytes {
            return Err(ConversationError::Full { limit: limits.max_bytes, unit: "bytes of items" });
        }
        record.title = record.title.take().or(title);
        let number = record.next;
        let node =
            Node { number, parent, id: id.clone(), created_at: rules.now_s(), deleted: false, pending };
        record.next += 1;
        record.items += 1;
        record.head = Some(number);
        let parent = self.nearest.replace(id.clone());
        self.placed.push(Placed { id, parent, created_at: node.created_at });
        self.stored.push((node, body));
        Ok(number)
    }

    /// Returns the changes that add the items.
    pub fn into_changes(self) -> Vec<ConversationChange> {
        let id = self.record.id;
        let items = self.stored.into_iter().map(|(node, body)| match body {
            PreparedBody::Inline(body) => ConversationChange::PutItem(id, StoredItem { node, body }),
            PreparedBody::Staged(body) => ConversationChange::PutStaged(id, node, body.keep()),
        });
        items.chain([ConversationChange::Put(self.record)]).collect()
    }
}

/// Returns the id of an item, or of the nearest one before it that is not deleted.
pub async fn nearest(
    store: &dyn ConversationsStore,
    id: ConversationId,
    mut number: Option<u32>,
) -> Result<Option<String>, ConversationError> {
    while let Some(at) = number {
        match store.node(id, at).await? {
            Some(node) if !node.deleted => return Ok(Some(node.id)),
            Some(node) => number = node.parent.filter(|&parent| parent < at),
            None => break,
        }
    }
    Ok(None)
}
