//! New items, prepared on any thread, so that a decision on the commit thread handles no large body.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use serde_json::{Map, Value};

use super::ids::new_item_id;
use super::types::{Item, NewItem, Placed};
use super::{item, title};
use crate::config::ConversationsConfig;
use crate::store::{ConversationsStore, MAX_INLINE_BYTES, StagedBody, StoreError};

/// An item that is about to be added.
#[derive(Clone, Debug)]
pub struct PreparedItem {
    /// The item's id.
    pub id: String,
    /// True if the id was assigned by another component of this server, so that it may be taken already.
    pub id_is_given: bool,
    /// The size of its body as JSON in bytes.
    pub bytes: u64,
    /// The title that it gives to a conversation without one.
    pub title: Option<String>,
    /// The body.
    pub body: PreparedBody,
}

/// The body of an item that is about to be added, with its `type` and `id`.
#[derive(Clone, Debug)]
pub enum PreparedBody {
    /// A small body.
    Inline(Map<String, Value>),
    /// A body that is in the store already.
    Staged(Arc<UnusedBody>),
}

/// A staged body, which is discarded with its last handle unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct UnusedBody {
    staged: StagedBody,
    /// Weak: a body staged in a failed database is removed when that is reopened.
    store: Weak<dyn ConversationsStore>,
    kept: AtomicBool,
}

impl UnusedBody {
    /// Returns the body for a change that refers to it. It is no longer discarded: it is not always known whether such a change
    /// was committed, and a body without a reference is removed at the next start.
    pub fn keep(&self) -> StagedBody {
        self.kept.store(true, Ordering::Relaxed);
        self.staged.clone()
    }
}

impl Drop for UnusedBody {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed)
            && let Some(store) = self.store.upgrade()
            && let Err(error) = store.discard(&self.staged)
        {
            tracing::debug!(%error, "a staged body could not be discarded");
        }
    }
}

/// Items that are about to be added, and their bodies as they are shown.
#[derive(Debug, Default)]
pub struct PreparedItems {
    /// The items.
    pub items: Vec<PreparedItem>,
    /// Their bodies, with `type` and `id`.
    pub bodies: Vec<Map<String, Value>>,
}

impl PreparedItems {
    /// Prepares items, for now with inline bodies.
    pub fn new(items: Vec<NewItem>, limits: &ConversationsConfig) -> Self {
        let mut prepared = Self::default();
        for item in items {
            let (item, body) = prepare(item, limits);
            prepared.items.push(item);
            prepared.bodies.push(body);
        }
        prepared
    }

    /// Returns the size of all bodies as JSON in bytes.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).fold(0, u64::saturating_add)
    }

    /// Returns whether any body is too large for the commit thread.
    pub fn has_large(&self) -> bool {
        self.items.iter().any(PreparedItem::is_large)
    }

    /// Makes all bodies available to a decision: those that are too large for the commit thread are staged in the store.
    ///
    /// # Errors
    /// The database failed.
    pub async fn place(mut self, store: &Arc<dyn ConversationsStore>) -> Result<Self, StoreError> {
        for (item, body) in self.items.iter_mut().zip(&self.bodies) {
            item.body = if item.is_large() {
                let staged = store.stage(body).await?;
                let (store, kept) = (Arc::downgrade(store), AtomicBool::new(false));
                PreparedBody::Staged(Arc::new(UnusedBody { staged, store, kept }))
            } else {
                PreparedBody::Inline(body.clone())
            };
        }
        Ok(self)
    }

    /// Returns the items of `positions` as they are shown, with their places.
    pub fn show(mut self, positions: &[usize], placed: Vec<Placed>) -> Vec<Item> {
        let bodies = positions.iter().map(|&at| std::mem::take(&mut self.bodies[at]));
        placed.into_iter().zip(bodies).map(|(placed, body)| placed.with_body(body)).collect()
    }

    /// Returns all items as they are shown, with their places.
    pub fn show_all(self, placed: Vec<Placed>) -> Vec<Item> {
        let all: Vec<_> = (0..self.bodies.len()).collect();
        self.show(&all, placed)
    }
}

impl PreparedItem {
    /// Returns an item whose body is small.
    pub fn inline(new: NewItem, limits: &ConversationsConfig) -> Self {
        let (item, body) = prepare(new, limits);
        Self { body: PreparedBody::Inline(body), ..item }
    }

    const fn is_large(&self) -> bool {
        self.bytes > MAX_INLINE_BYTES as u64
    }
}

/// Returns an item without its body, and the body.
fn prepare(new: NewItem, limits: &ConversationsConfig) -> (PreparedItem, Map<String, Value>) {
    let kind = item::kind(&new.body).to_owned();
    let id_is_given = new.id.is_some();
    let id = new.id.unwrap_or_else(|| new_item_id(&kind));
    let mut body = Map::new();
    body.insert("type".to_owned(), Value::String(kind));
    body.insert("id".to_owned(), Value::String(id.clone()));
    body.extend(new.body);
    let title = match item::role(&body) {
        Some("user") => title::from_text(&item::text_of(&body), limits.max_title_chars),
        _ => None,
    };
    let bytes = item::size(&body) as u64;
    let none = PreparedBody::Inline(Map::new());
    (PreparedItem { id, id_is_given, bytes, title, body: none }, body)
}
