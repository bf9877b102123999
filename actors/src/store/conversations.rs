//! Conversations on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `conv` | conversation id | [`ConversationRecord`] |
//! | `conv_by_user` | user id, all ones less the time of the last change, conversation id | nothing |
//! | `item` | conversation id, number, chunk | a [`StoredItem`] or the rest of one |
//! | `item_id` | conversation id, item id | number |
//! | `share` | token | conversation id |
//!
//! Newest first is a forward scan of `conv_by_user`. sled wants values below 100 KiB, so a larger item lies in several
//! chunks, one behind the other. All changes of one decision are one transaction.
//!
//! A deletion removes what leads to a conversation and notes that it is gone ([`doomed`]); its items go in
//! steps. Every decision and every view begins with the conversation's record, so nobody finds them meanwhile.
//!
//! Reads need no turn on the store's thread: sled serves any thread, and a read that waited there would wait for
//! other people's `fsync`. [`Stores::conversations`](super::Stores::conversations) can therefore be kept (weakly) and
//! read from anywhere; it must not be written to from anywhere but the store's thread.

use std::fmt::Debug;
use std::ops::Bound;
use std::time::Instant;

use sled::transaction::{ConflictableTransactionResult, TransactionError, Transactional, TransactionalTree};
use sled::{Db, IVec, Tree};

use super::conversation_keys::{
    by_user_key, conversation_id, item_id_key, item_key, item_prefix, number_and_chunk, position,
    range_is_empty,
};
use super::db::{decode, encode};
use super::doomed::{self, Doomed, Notes};
use super::item_value;
use super::quota::{Changed, Sums, Used};
use super::{StoreError, readable};
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;

/// Conversations deleted or moved in one transaction when a user is: bounds its memory and its time.
const PER_TRANSACTION: usize = 16;

/// A change to conversations.
#[derive(Clone, Debug, PartialEq)]
pub enum ConversationChange {
    /// A new conversation, or a new state of one.
    Put(ConversationRecord),
    /// A new item, or a new state of one.
    PutItem(ConversationId, StoredItem),
    /// The conversation is gone with its items and what leads to it.
    Delete(ConversationId),
}

/// Told of each thing; goes on while it says `true`.
pub type Visit<'a, T> = &'a mut dyn FnMut(T) -> Result<bool, StoreError>;

/// Conversations. What a read gives includes changes that are not durable yet.
pub trait ConversationsStore: Debug + Send + Sync {
    /// One conversation.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError>;

    /// The conversation that a share link's token leads to.
    ///
    /// # Errors
    /// The database failed.
    fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError>;

    /// The places of a user's conversations between two, both left out; newest first, or else oldest first. A change
    /// that is made meanwhile may be seen or not: who visits compares the place with the record's.
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

    /// Where the items of a conversation hang, without what is in them, in the order they came in.
    ///
    /// # Errors
    /// The database failed.
    fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError>;

    /// Where one item hangs.
    ///
    /// # Errors
    /// The database failed.
    fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError>;

    /// One item.
    ///
    /// # Errors
    /// The database failed.
    fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError>;

    /// The number of the item of that id, also of one that was deleted.
    ///
    /// # Errors
    /// The database failed.
    fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError>;

    /// Makes these changes at once or not at all. On the store's thread only.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &[ConversationChange]) -> Result<(), StoreError>;

    /// Gives a few conversations of one user to another; `false`: there may be more. On the store's thread only.
    ///
    /// # Errors
    /// The database failed.
    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        let (mut changes, mut seen) = (Vec::new(), 0);
        self.some_of(from, &mut |id| {
            seen += 1;
            if let Some(record) = readable(self.conversation(id))?.flatten() {
                changes.push(ConversationChange::Put(ConversationRecord { user: to, ..record }));
            }
            Ok(true)
        })?;
        if !changes.is_empty() {
            self.commit(&changes)?;
        }
        // Places without a record lead nowhere, again and again.
        Ok(seen < PER_TRANSACTION || changes.is_empty())
    }

    /// Deletes a few conversations of a user; `false`: there may be more. On the store's thread only.
    ///
    /// # Errors
    /// The database failed.
    fn delete_some(&self, user: UserId) -> Result<bool, StoreError>;

    /// A few conversations of a user, for [`move_some`](Self::move_some).
    ///
    /// # Errors
    /// The database failed.
    fn some_of(&self, user: UserId, visit: Visit<'_, ConversationId>) -> Result<(), StoreError> {
        let mut left = PER_TRANSACTION;
        self.positions(user, None, None, true, &mut |position| {
            left -= 1;
            Ok(visit(position.id)? && left > 0)
        })
    }
}

/// The trees.
#[derive(Debug)]
pub struct SledConversations {
    conversation: Tree,
    by_user: Tree,
    item: Tree,
    item_id: Tree,
    share: Tree,
    notes: Notes,
    sums: Sums,
}

impl SledConversations {
    /// Opens the trees, or makes them.
    #[cfg(test)]
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Self::noting(db, Notes::open(db)?)
    }

    /// The same, with the notes of the whole store.
    pub fn noting(db: &Db, notes: Notes) -> Result<Self, StoreError> {
        Ok(Self {
            conversation: db.open_tree("conv")?,
            by_user: db.open_tree("conv_by_user")?,
            item: db.open_tree("item")?,
            item_id: db.open_tree("item_id")?,
            share: db.open_tree("share")?,
            notes,
            sums: Sums::open(db)?,
        })
    }

    /// Removes some of what is left of a deleted conversation, until then. `true`: nothing is.
    pub fn remove_items(&self, id: ConversationId, until: Instant) -> Result<bool, StoreError> {
        Ok(doomed::remove_prefix(&self.item, &id.to_bytes(), until)?
            && doomed::remove_prefix(&self.item_id, &id.to_bytes(), until)?)
    }

    /// The keys of an item's chunks behind the first.
    fn more_chunks(&self, id: ConversationId, number: u32) -> Result<Vec<IVec>, StoreError> {
        let keys = self.item.scan_prefix(item_prefix(id, number)).keys().skip(1);
        Ok(keys.collect::<Result<_, _>>()?)
    }
}

impl ConversationsStore for SledConversations {
    fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        let value = self.conversation.get(id.to_bytes())?;
        value.map(|value| decode(|| id.to_string(), &value)).transpose()
    }

    fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        let value = self.share.get(token.as_bytes())?;
        value.map(|value| conversation_id("a share link", &value)).transpose()
    }

    fn positions(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        visit: Visit<'_, Position>,
    ) -> Result<(), StoreError> {
        // What is newer has the smaller key.
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

    fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
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

    fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        let first = self.item.get(item_key(id, number, 0))?;
        first.map(|first| item_value::read_node(number, &first)).transpose()
    }

    fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        let mut chunks = self.item.scan_prefix(item_prefix(id, number)).values();
        let Some(first) = chunks.next() else { return Ok(None) };
        let first = first?;
        if !item_value::has_more(&first) {
            return item_value::read(number, &first).map(Some);
        }
        let mut whole = first.to_vec();
        for chunk in chunks {
            whole.extend_from_slice(&chunk?);
        }
        item_value::read(number, &whole).map(Some)
    }

    fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        let Some(value) = self.item_id.get(item_id_key(id, item))? else { return Ok(None) };
        let bytes = <[u8; 4]>::try_from(value.as_ref()).map_err(|_| StoreError::Value {
            what: format!("the number of {item}"),
            problem: format!("{} bytes, expected 4", value.len()),
        })?;
        Ok(Some(u32::from_be_bytes(bytes)))
    }

    fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(PER_TRANSACTION);
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let positions = keys.iter().map(|key| readable(position(key))).collect::<Result<Vec<_>, _>>()?;
        let changes: Vec<_> =
            positions.into_iter().flatten().map(|position| ConversationChange::Delete(position.id)).collect();
        self.commit(&changes)?;
        // What led to damaged ones, too.
        for key in &keys {
            self.by_user.remove(key)?;
        }
        Ok(keys.len() < PER_TRANSACTION)
    }

    fn commit(&self, changes: &[ConversationChange]) -> Result<(), StoreError> {
        let prepared = changes.iter().map(|change| self.prepare(change)).collect::<Result<Vec<_>, _>>()?;
        self.apply(&prepared)
    }
}

impl SledConversations {
    /// Puts a conversation of an import in. Items that are here and that it does not know are gone.
    pub fn put_imported(&self, record: &ConversationRecord) -> Result<(), StoreError> {
        let mut gone = Stale::default();
        for entry in self.item.range(item_prefix(record.id, record.next)..) {
            let (key, value) = entry?;
            if !key.starts_with(&record.id.to_bytes()) {
                break;
            }
            let (number, chunk) = number_and_chunk(&key)?;
            if chunk == 0 {
                let node = item_value::read_node(number, &value)?;
                gone.item_ids.push(item_id_key(record.id, &node.id).into());
            }
            gone.items.push(key);
        }
        self.apply(&[Prepared::Remove(gone), Prepared::Put(record, encode(record))])
    }

    /// Puts an item of an import in, in place of the one of its number.
    pub fn put_imported_item(&self, id: ConversationId, item: &StoredItem) -> Result<(), StoreError> {
        let before = self.node(id, item.node.number)?.filter(|node| node.id != item.node.id);
        let item_ids = before.map(|node| item_id_key(id, &node.id).into());
        let gone = Stale { item_ids: item_ids.into_iter().collect(), ..Stale::default() };
        let put = ConversationChange::PutItem(id, item.clone());
        self.apply(&[Prepared::Remove(gone), self.prepare(&put)?])
    }

    /// Makes changes at once or not at all.
    fn apply(&self, prepared: &[Prepared<'_>]) -> Result<(), StoreError> {
        let Self { conversation, by_user, item, item_id, share, notes, sums } = self;
        let trees = (conversation, by_user, item, item_id, share, notes.tree(), sums.tree());
        let outcome = trees.transaction(|(conversation, by_user, item, item_id, share, notes, sums)| {
            let changed = Changed::default();
            let trees = Transaction { conversation, by_user, item, item_id, share, notes, changed: &changed };
            prepared.iter().try_for_each(|change| trees.apply(change))?;
            changed.write(sums)
        });
        if prepared.iter().any(|change| matches!(change, Prepared::Delete(_))) {
            self.notes.added();
        }
        outcome.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => error.into(),
        })
    }

    /// Does what can be done before the transaction, which may run several times and cannot scan.
    fn prepare<'a>(&self, change: &'a ConversationChange) -> Result<Prepared<'a>, StoreError> {
        Ok(match change {
            ConversationChange::Put(record) => Prepared::Put(record, encode(record)),
            ConversationChange::PutItem(id, item) => Prepared::PutItem {
                conversation: *id,
                item,
                chunks: item_value::write(item),
                stale: self.more_chunks(*id, item.node.number)?,
            },
            ConversationChange::Delete(id) => Prepared::Delete(*id),
        })
    }
}

enum Prepared<'a> {
    Put(&'a ConversationRecord, Vec<u8>),
    PutItem { conversation: ConversationId, item: &'a StoredItem, chunks: Vec<Vec<u8>>, stale: Vec<IVec> },
    Delete(ConversationId),
    Remove(Stale),
}

/// Keys of items that a new state does not have.
#[derive(Default)]
struct Stale {
    items: Vec<IVec>,
    item_ids: Vec<IVec>,
}

struct Transaction<'a> {
    conversation: &'a TransactionalTree,
    by_user: &'a TransactionalTree,
    item: &'a TransactionalTree,
    item_id: &'a TransactionalTree,
    share: &'a TransactionalTree,
    notes: &'a TransactionalTree,
    changed: &'a Changed,
}

impl Transaction<'_> {
    fn apply(&self, change: &Prepared<'_>) -> ConflictableTransactionResult<(), StoreError> {
        match change {
            Prepared::Put(record, value) => {
                let before = self.conversation.insert(&record.id.to_bytes(), value.as_slice())?;
                self.forget_what_leads_to(before.as_deref())?;
                self.changed.add(record.user, Used::of_conversation(record));
                self.by_user.insert(by_user_key(record.user, record.position()), &[])?;
                if let Some(share) = &record.share {
                    self.share.insert(share.token.as_bytes(), &record.id.to_bytes())?;
                }
            }
            Prepared::PutItem { conversation, item, chunks, stale } => {
                for key in stale {
                    self.item.remove(key)?;
                }
                for (chunk, value) in (0u16..).zip(chunks) {
                    self.item.insert(item_key(*conversation, item.node.number, chunk), value.as_slice())?;
                }
                self.item_id.insert(
                    item_id_key(*conversation, &item.node.id),
                    item.node.number.to_be_bytes().as_slice(),
                )?;
            }
            Prepared::Delete(id) => {
                let before = self.conversation.remove(&id.to_bytes())?;
                self.forget_what_leads_to(before.as_deref())?;
                doomed::doom(self.notes, Doomed::Conversation(id.to_bytes()))?;
            }
            Prepared::Remove(stale) => self.remove(stale)?,
        }
        Ok(())
    }

    fn remove(&self, stale: &Stale) -> ConflictableTransactionResult<(), StoreError> {
        for key in &stale.items {
            self.item.remove(key)?;
        }
        for key in &stale.item_ids {
            self.item_id.remove(key)?;
        }
        Ok(())
    }

    fn forget_what_leads_to(&self, value: Option<&[u8]>) -> ConflictableTransactionResult<(), StoreError> {
        let Some(value) = value else { return Ok(()) };
        // What a damaged one led to is not known any more.
        let Ok(before) = serde_json::from_slice::<ConversationRecord>(value) else { return Ok(()) };
        self.changed.add(before.user, Used::of_conversation(&before).less());
        self.by_user.remove(by_user_key(before.user, before.position()))?;
        if let Some(share) = &before.share {
            self.share.remove(share.token.as_bytes())?;
        }
        Ok(())
    }
}
