//! Conversations in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `conv` | conversation id | [`ConversationRecord`] |
//! | `conv_by_user` | user id, inverted time of the last change, conversation id | nothing |
//! | `item` | conversation id, number, chunk | a [`StoredItem`], or a further chunk of one |
//! | `item_id` | conversation id, item id | number |
//! | `share` | token | conversation id |
//!
//! Newest first is a forward scan of `conv_by_user`. Larger items are split into consecutive chunks, or refer to a
//! [body](super::bodies) that was staged. All changes of one decision are one transaction.
//!
//! A deletion removes the record and its index entries and adds a tombstone ([`tombstones`]); the items are removed later,
//! in steps. Every read begins with the conversation's record, so none sees them meanwhile.

use std::borrow::Cow;
use std::ops::Bound;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value};
use sled::transaction::{ConflictableTransactionResult, Transactional, TransactionalTree};
use sled::{Db, IVec, Tree};

use super::bodies::{Bodies, Body};
use super::codec::{decode, encode, transaction_error};
use super::conversation_keys::{
    by_user_key, conversation_id, is_first_chunk, item_id_key, item_key, item_prefix, number_and_chunk,
    position, range_is_empty,
};
use super::item_value::{self, Content};
use super::quota::{TotalChanges, Totals};
use super::tombstones::{self, Tombstone};
use super::watchers::Watchers;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;
use crate::store::{
    ConversationChange, ConversationsStore, ListPart, Scope, StagedBody, StoreError, Used, readable,
};

/// Maximum number of conversations deleted or moved in one transaction, which bounds its memory and time.
const MAX_PER_STEP: usize = 16;

/// The trees of conversations.
#[derive(Debug)]
pub struct SledConversations {
    conversation: Tree,
    by_user: Tree,
    item: Tree,
    item_id: Tree,
    share: Tree,
    bodies: Bodies,
    totals: Totals,
    watchers: Watchers,
}

/// Maximum number of attempts of a read that races with changes of the item.
const MAX_READS: usize = 100;

impl SledConversations {
    /// Opens the trees, or creates them.
    pub fn open(db: &Db, bodies: Bodies, watchers: Watchers) -> Result<Self, StoreError> {
        Ok(Self {
            conversation: db.open_tree("conv")?,
            by_user: db.open_tree("conv_by_user")?,
            item: db.open_tree("item")?,
            item_id: db.open_tree("item_id")?,
            share: db.open_tree("share")?,
            bodies,
            totals: Totals::open(db)?,
            watchers,
        })
    }

    /// Removes items of a deleted conversation until `until`. `true`: none is left.
    pub fn remove_items(&self, id: ConversationId, until: Instant) -> Result<bool, StoreError> {
        // The tombstone of a body is there before the item that refers to it is not.
        let doom = |first: &[u8]| match item_value::referred_body(first) {
            Some(body) => self.bodies.discard(body),
            None => Ok(()),
        };
        let remove = |key: &[u8], value: &[u8]| if is_first_chunk(key) { doom(value) } else { Ok(()) };
        Ok(tombstones::remove_prefix_after(&self.item, &id.to_bytes(), until, remove)?
            && tombstones::remove_prefix(&self.item_id, &id.to_bytes(), until)?)
    }

    /// The concatenated chunks of an item; empty where there is none.
    fn chunks(&self, id: ConversationId, number: u32) -> Result<Vec<u8>, StoreError> {
        let mut whole = Vec::new();
        for chunk in self.item.scan_prefix(item_prefix(id, number)).values() {
            let chunk = chunk?;
            whole.extend_from_slice(&chunk);
            if !item_value::has_more(&chunk) {
                break;
            }
        }
        Ok(whole)
    }

    /// The keys of an item's chunks after the first.
    fn more_chunks(&self, id: ConversationId, number: u32) -> Result<Vec<IVec>, StoreError> {
        let keys = self.item.scan_prefix(item_prefix(id, number)).keys().skip(1);
        Ok(keys.collect::<Result<_, _>>()?)
    }
}

/// Reads that are used within this database as well.
impl SledConversations {
    pub fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        let value = self.conversation.get(id.to_bytes())?;
        value.map(|value| decode(|| id.to_string(), &value)).transpose()
    }

    /// Visits the positions of a user's conversations between two bounds, both excluded; newest first, or else oldest
    /// first. Ends once `visit` returns `false`.
    pub fn positions(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        visit: &mut dyn FnMut(Position) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        // Newer conversations have smaller keys.
        let first = [user.to_bytes().as_slice(), &[0; 24]].concat();
        let last = [user.to_bytes().as_slice(), &[0xff; 24]].concat();
        let start = older_than.map_or(Bound::Included(first), |end| Bound::Excluded(by_user_key(user, end)));
        let end = newer_than.map_or(Bound::Included(last), |end| Bound::Excluded(by_user_key(user, end)));
        if range_is_empty(&start, &end) {
            return Ok(());
        }
        let mut keys = self.by_user.range((start, end)).keys();
        while let Some(key) = if newest_first { keys.next() } else { keys.next_back() } {
            let Some(position) = readable(position(&key?))? else { continue };
            if !visit(position)? {
                break;
            }
        }
        Ok(())
    }

    pub fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        let first = self.item.get(item_key(id, number, 0))?;
        first.map(|first| item_value::read_node(number, &first)).transpose()
    }

    pub fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        for _ in 0..MAX_READS {
            let whole = self.chunks(id, number)?;
            if whole.is_empty() {
                return Ok(None);
            }
            let (node, content) = item_value::read(number, &whole)?;
            let body = match content {
                Content::Json(json) => return item_value::item(node, json).map(Some),
                Content::Refers(body) => body,
            };
            if let Some(json) = self.bodies.read(&body.id, body.parts)? {
                return item_value::item(node, &json).map(Some);
            }
            // It was changed or deleted meanwhile; or else it is damaged.
            if self.chunks(id, number)? == whole {
                break;
            }
        }
        Err(StoreError::Value {
            what: format!("item {number} of {id}"),
            problem: "a part of it is missing".to_owned(),
        })
    }

    pub fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        Ok(StagedBody::new(self.bodies.token(&self.bodies.stage(&encode(body))?)))
    }
}

#[async_trait]
impl ConversationsStore for SledConversations {
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        self.conversation(id)
    }

    async fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        let value = self.share.get(token.as_bytes())?;
        value.map(|value| conversation_id("a share link", &value)).transpose()
    }

    async fn list(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        limit: usize,
    ) -> Result<ListPart, StoreError> {
        let (mut listed, mut has_more) = (Vec::new(), false);
        self.positions(user, newer_than, older_than, newest_first, &mut |position| {
            if listed.len() == limit {
                has_more = true;
                return Ok(false);
            }
            let record = match self.conversation(position.id) {
                // A damaged record is reported when it is requested by id; the others must remain visible.
                Err(StoreError::Value { .. }) => None,
                record => record?,
            };
            let there = |record: &ConversationRecord| record.position() == position && record.user == user;
            listed.push((position, record.filter(there)));
            Ok(true)
        })?;
        Ok(ListPart { listed, has_more })
    }

    async fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
        let mut nodes = Vec::new();
        for entry in self.item.scan_prefix(id.to_bytes()) {
            let (key, value) = entry?;
            let (number, chunk) = number_and_chunk(&key)?;
            if chunk == 0 {
                nodes.push(item_value::read_node(number, &value)?);
            }
        }
        Ok(nodes)
    }

    async fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        self.node(id, number)
    }

    async fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        self.item(id, number)
    }

    async fn node_and_size(
        &self,
        id: ConversationId,
        number: u32,
    ) -> Result<Option<(Node, u64)>, StoreError> {
        let whole = self.chunks(id, number)?;
        if whole.is_empty() {
            return Ok(None);
        }
        let (node, content) = item_value::read(number, &whole)?;
        let size = match content {
            Content::Json(json) => json.len() as u64,
            Content::Refers(body) => body.bytes,
        };
        Ok(Some((node, size)))
    }

    async fn items(&self, id: ConversationId, numbers: &[u32]) -> Result<Vec<StoredItem>, StoreError> {
        numbers.iter().filter_map(|&number| self.item(id, number).transpose()).collect()
    }

    async fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        let Some(value) = self.item_id.get(item_id_key(id, item))? else { return Ok(None) };
        let bytes = <[u8; 4]>::try_from(value.as_ref()).map_err(|_| StoreError::Value {
            what: format!("the number of {item}"),
            problem: format!("{} bytes, expected 4", value.len()),
        })?;
        Ok(Some(u32::from_be_bytes(bytes)))
    }

    async fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        self.stage(body)
    }

    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError> {
        self.bodies.discard(self.bodies.staged::<Body>(staged.token())?.id)
    }
}

impl SledConversations {
    /// Deletes a few conversations of a user; `false`: there may be more.
    pub fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(MAX_PER_STEP);
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let positions = keys.iter().map(|key| readable(position(key))).collect::<Result<Vec<_>, _>>()?;
        let deletions = positions.into_iter().flatten().map(|position| Prepared::Delete(position.id));
        self.apply(&deletions.collect::<Vec<_>>(), vec![Scope::User(user)])?;
        // The entries of damaged conversations, too.
        for key in &keys {
            self.by_user.remove(key)?;
        }
        Ok(keys.len() < MAX_PER_STEP)
    }

    /// Moves a few conversations to another user; `false`: there may be more.
    pub fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        let (mut moved, mut seen) = (Vec::new(), 0);
        self.positions(from, None, None, true, &mut |position| {
            seen += 1;
            let record = readable(self.conversation(position.id))?.flatten();
            moved.extend(record.map(|record| Prepared::moved(record, to)));
            Ok(seen < MAX_PER_STEP)
        })?;
        self.apply(&moved, vec![Scope::User(from)])?;
        // Entries without a record would be found again and again.
        Ok(seen < MAX_PER_STEP || moved.is_empty())
    }

    /// Stores a conversation of an import. Stored items beyond its last item are deleted.
    pub fn put_imported(&self, record: &ConversationRecord) -> Result<(), StoreError> {
        let mut stale = Stale::default();
        for entry in self.item.range(item_prefix(record.id, record.next)..) {
            let (key, value) = entry?;
            if !key.starts_with(&record.id.to_bytes()) {
                break;
            }
            let (number, chunk) = number_and_chunk(&key)?;
            if chunk == 0 {
                let node = item_value::read_node(number, &value)?;
                stale.item_ids.push(item_id_key(record.id, &node.id).into());
            }
            stale.items.push(key);
        }
        let list = self.list_of(record.id)?;
        let put = Prepared::Put(Cow::Borrowed(record), encode(record));
        self.apply(&[Prepared::Remove(stale), put], list.into_iter().collect())
    }

    /// Stores an item of an import in place of the one of its number.
    pub fn put_imported_item(
        &self,
        id: ConversationId,
        number: u32,
        put: &ConversationChange,
    ) -> Result<(), StoreError> {
        let before = self.node(id, number)?;
        let item_ids = before.map(|node| item_id_key(id, &node.id).into());
        let stale = Stale { item_ids: item_ids.into_iter().collect(), ..Stale::default() };
        self.apply(&[Prepared::Remove(stale), self.prepare(put)?], Vec::new())
    }

    /// The trees of a transaction, next to those of tombstones and totals.
    pub const fn trees(&self) -> [&Tree; 5] {
        [&self.conversation, &self.by_user, &self.item, &self.item_id, &self.share]
    }

    /// Applies changes in one transaction of their own. `scopes`: scopes that they concern beside those of their conversations
    /// and of the users that have them afterwards.
    fn apply(&self, prepared: &[Prepared<'_>], mut scopes: Vec<Scope>) -> Result<(), StoreError> {
        if prepared.is_empty() {
            return Ok(());
        }
        let [conversation, by_user, item, item_id, share] = self.trees();
        let tombstones = self.bodies.tombstones.tree();
        let set = [conversation, by_user, item, item_id, share, tombstones, self.totals.tree()];
        self.scopes(prepared, &mut scopes)?;
        let run = || {
            set.as_slice().transaction(|trees| {
                let totals = TotalChanges::default();
                let (own, shared) = trees.split_first_chunk().expect("there are seven trees");
                let [tombstones, sums] = shared else { unreachable!("there are seven trees") };
                let transaction = Transaction::new(own, tombstones, &totals);
                prepared.iter().try_for_each(|change| transaction.apply(change))?;
                totals.write(sums)
            })
        };
        let outcome = self.watchers.changing(scopes, run);
        self.bodies.tombstones.notify();
        outcome.map_err(transaction_error)
    }

    /// Adds the scopes that changes concern: the conversations, and the lists that they are in before and afterwards.
    pub fn scopes(&self, prepared: &[Prepared<'_>], scopes: &mut Vec<Scope>) -> Result<(), StoreError> {
        for change in prepared {
            let (id, user) = match change {
                Prepared::Put(record, _) => (record.id, Some(record.user)),
                Prepared::PutItem { conversation, .. } => (*conversation, None),
                Prepared::Delete(id) => (*id, None),
                // Beside a change that puts its conversation.
                Prepared::Remove(_) => continue,
            };
            scopes.push(Scope::Conversation(id));
            scopes.extend(user.map(Scope::User));
            if matches!(change, Prepared::Delete(_)) {
                scopes.extend(self.list_of(id)?);
            }
        }
        Ok(())
    }

    /// The list that a conversation is in.
    fn list_of(&self, id: ConversationId) -> Result<Option<Scope>, StoreError> {
        let record = readable(self.conversation(id))?.flatten();
        Ok(record.map(|record| Scope::User(record.user)))
    }

    /// Prepares a change for the transaction, which may run several times and cannot scan.
    pub fn prepare<'a>(&self, change: &'a ConversationChange) -> Result<Prepared<'a>, StoreError> {
        Ok(match change {
            ConversationChange::Put(record) => Prepared::Put(Cow::Borrowed(record), encode(record)),
            ConversationChange::PutItem(id, item) => Prepared::PutItem {
                conversation: *id,
                node: &item.node,
                chunks: item_value::write(item),
                stale: self.more_chunks(*id, item.node.number)?,
                staged: None,
            },
            ConversationChange::PutStaged(id, node, staged) => {
                let body: Body = self.bodies.staged(staged.token())?;
                Prepared::PutItem {
                    conversation: *id,
                    node,
                    chunks: vec![item_value::write_reference(node, &body)],
                    stale: self.more_chunks(*id, node.number)?,
                    staged: Some(body.id),
                }
            }
            ConversationChange::Delete(id) => Prepared::Delete(*id),
        })
    }
}

/// A change that can be applied without a scan.
pub enum Prepared<'a> {
    /// Creates or replaces a conversation: its record and the value of it.
    Put(Cow<'a, ConversationRecord>, Vec<u8>),
    /// Creates or replaces an item: its chunks, the keys of its former ones, and the staged body that they refer to.
    PutItem {
        conversation: ConversationId,
        node: &'a Node,
        chunks: Vec<Vec<u8>>,
        stale: Vec<IVec>,
        staged: Option<[u8; 16]>,
    },
    /// Deletes a conversation.
    Delete(ConversationId),
    /// Removes items.
    Remove(Stale),
}

impl Prepared<'_> {
    /// Moves a conversation to another user.
    pub fn moved(record: ConversationRecord, to: UserId) -> Self {
        let record = ConversationRecord { user: to, ..record };
        let value = encode(&record);
        Self::Put(Cow::Owned(record), value)
    }
}

/// Keys of items that the new state does not have.
#[derive(Default)]
pub struct Stale {
    items: Vec<IVec>,
    item_ids: Vec<IVec>,
}

/// The trees in a transaction.
pub struct Transaction<'a> {
    conversation: &'a TransactionalTree,
    by_user: &'a TransactionalTree,
    item: &'a TransactionalTree,
    item_id: &'a TransactionalTree,
    share: &'a TransactionalTree,
    tombstones: &'a TransactionalTree,
    totals: &'a TotalChanges,
}

impl<'a> Transaction<'a> {
    /// A transaction over [`SledConversations::trees`].
    pub const fn new(
        [conversation, by_user, item, item_id, share]: &'a [TransactionalTree; 5],
        tombstones: &'a TransactionalTree,
        totals: &'a TotalChanges,
    ) -> Self {
        Self { conversation, by_user, item, item_id, share, tombstones, totals }
    }
}

impl Transaction<'_> {
    /// Applies a change.
    pub fn apply(&self, change: &Prepared<'_>) -> ConflictableTransactionResult<(), StoreError> {
        match change {
            Prepared::Put(record, value) => {
                let before = self.conversation.insert(&record.id.to_bytes(), value.as_slice())?;
                self.remove_index_entries(before.as_deref())?;
                self.totals.add(record.user, Used::of_conversation(record));
                self.by_user.insert(by_user_key(record.user, record.position()), &[])?;
                if let Some(share) = &record.share {
                    self.share.insert(share.token.as_bytes(), &record.id.to_bytes())?;
                }
            }
            Prepared::PutItem { conversation, node, chunks, stale, staged } => {
                for key in stale {
                    self.item.remove(key)?;
                }
                for (chunk, value) in (0u16..).zip(chunks) {
                    let key = item_key(*conversation, node.number, chunk);
                    self.doom_body(&key, self.item.insert(key.as_slice(), value.as_slice())?)?;
                }
                if let Some(body) = staged {
                    tombstones::clear(self.tombstones, Tombstone::Body(*body))?;
                }
                let number = node.number.to_be_bytes();
                self.item_id.insert(item_id_key(*conversation, &node.id), number.as_slice())?;
            }
            Prepared::Delete(id) => {
                let before = self.conversation.remove(&id.to_bytes())?;
                self.remove_index_entries(before.as_deref())?;
                tombstones::add(self.tombstones, Tombstone::Conversation(id.to_bytes()))?;
            }
            Prepared::Remove(stale) => self.remove(stale)?,
        }
        Ok(())
    }

    fn remove(&self, stale: &Stale) -> ConflictableTransactionResult<(), StoreError> {
        for key in &stale.items {
            self.doom_body(key, self.item.remove(key)?)?;
        }
        for key in &stale.item_ids {
            self.item_id.remove(key)?;
        }
        Ok(())
    }

    /// Adds a tombstone for the body that the former chunk of that key referred to.
    fn doom_body(&self, key: &[u8], before: Option<IVec>) -> ConflictableTransactionResult<(), StoreError> {
        let before = before.filter(|_| is_first_chunk(key));
        match before.and_then(|before| item_value::referred_body(&before)) {
            Some(body) => tombstones::add(self.tombstones, Tombstone::Body(body)),
            None => Ok(()),
        }
    }

    fn remove_index_entries(&self, value: Option<&[u8]>) -> ConflictableTransactionResult<(), StoreError> {
        let Some(value) = value else { return Ok(()) };
        // The entries of a damaged conversation are unknown.
        let Ok(before) = serde_json::from_slice::<ConversationRecord>(value) else { return Ok(()) };
        self.totals.add(before.user, Used::of_conversation(&before).less());
        self.by_user.remove(by_user_key(before.user, before.position()))?;
        if let Some(share) = &before.share {
            self.share.remove(share.token.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "conversations_tests.rs"]
mod tests;
