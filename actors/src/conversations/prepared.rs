//! New items, prepared on any thread, so that a decision on the commit thread touches no large body.

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
    /// Its id.
    pub id: String,
    /// Whether the id was given by another part of this server, so that it may be taken already.
    pub id_is_given: bool,
    /// The size of its body as JSON.
    pub bytes: u64,
    /// The title that it gives to a conversation without one.
    pub title: Option<String>,
    /// Its body.
    pub body: PreparedBody,
}

/// The body of an item that is about to be added, with its `type` and `id`.
#[derive(Clone, Debug)]
pub enum PreparedBody {
    /// A small one.
    Inline(Map<String, Value>),
    /// One that is in the store.
    Staged(Arc<UnusedBody>),
}

/// A staged body, which is discarded with its last handle unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct UnusedBody {
    staged: StagedBody,
    /// Weak: what is staged in a database that failed is removed when that is reopened.
    store: Weak<dyn ConversationsStore>,
    kept: AtomicBool,
}

impl UnusedBody {
    /// The body, for a change that refers to it. From here on it is not discarded: whether such a change was committed is
    /// not always known, and a body that is not referred to is removed by the next start.
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
    /// Prepares items, with small bodies for the time being.
    pub fn new(items: Vec<NewItem>, limits: &ConversationsConfig) -> Self {
        let mut prepared = Self::default();
        for item in items {
            let (item, body) = prepare(item, limits);
            prepared.items.push(item);
            prepared.bodies.push(body);
        }
        prepared
    }

    /// The size of all bodies as JSON.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).fold(0, u64::saturating_add)
    }

    /// Whether any body is too large for the commit thread.
    pub fn has_large(&self) -> bool {
        self.items.iter().any(PreparedItem::is_large)
    }

    /// Has all bodies where a decision takes them: those that are too large for the commit thread in the store.
    ///
    /// # Errors
    /// The database failed.
    pub fn place(mut self, store: &Arc<dyn ConversationsStore>) -> Result<Self, StoreError> {
        for (item, body) in self.items.iter_mut().zip(&self.bodies) {
            item.body = if item.is_large() {
                let staged = store.stage(body)?;
                let (store, kept) = (Arc::downgrade(store), AtomicBool::new(false));
                PreparedBody::Staged(Arc::new(UnusedBody { staged, store, kept }))
            } else {
                PreparedBody::Inline(body.clone())
            };
        }
        Ok(self)
    }

    /// The items as they are shown, once they have their places: those of `positions`.
    pub fn show(mut self, positions: &[usize], placed: Vec<Placed>) -> Vec<Item> {
        let bodies = positions.iter().map(|&at| std::mem::take(&mut self.bodies[at]));
        placed.into_iter().zip(bodies).map(|(placed, body)| placed.with_body(body)).collect()
    }

    /// All items as they are shown, once they have their places.
    pub fn show_all(self, placed: Vec<Placed>) -> Vec<Item> {
        let all: Vec<_> = (0..self.bodies.len()).collect();
        self.show(&all, placed)
    }
}

impl PreparedItem {
    /// An item whose body is small.
    pub fn inline(new: NewItem, limits: &ConversationsConfig) -> Self {
        let (item, body) = prepare(new, limits);
        Self { body: PreparedBody::Inline(body), ..item }
    }

    const fn is_large(&self) -> bool {
        self.bytes > MAX_INLINE_BYTES as u64
    }
}

/// An item without its body, and the body.
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
