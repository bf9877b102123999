//! Write batch: one transaction for the changes of many decisions.
//!
//! A transaction costs some writes of its own, however little it changes; with many writers that is most of the work. So
//! the changes to conversations of one round are buffered here, where later decisions of the round see them, and are
//! committed together. Writers get their answers after that and after the sync that follows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};

use super::conversations::Visit;
use super::{
    AccountChange, AccountsStore, AuditStore, Changes, CleanupProgress, Commit, ConversationChange,
    ConversationsStore, Quotas, RecordsStore, ResponsesStore, SessionsStore, StagedBody, StoreError, Stores,
    UsageStore, Used, commit_once,
};
use crate::conversations::item::size as item_size;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;

/// Maximum number of buffered conversations and items, which bounds the memory of a transaction.
const MAX_PENDING: usize = 128;

/// Size of new items, as JSON, from which the batch is committed, which bounds the time of a transaction.
const MAX_PENDING_BYTES: i64 = 1 << 20;

/// Conversations with buffered changes. Reads that the buffer cannot answer flush it first.
#[derive(Debug)]
pub struct WriteBatch {
    stores: Arc<dyn Stores>,
    pending: Mutex<Pending>,
}

/// The latest state of every changed record.
#[derive(Debug, Default)]
struct Pending {
    records: BTreeMap<ConversationId, ConversationRecord>,
    items: BTreeMap<(ConversationId, u32), StoredItem>,
    numbers: HashMap<(ConversationId, String), u32>,
    /// Changes of users' storage totals that the database does not have yet.
    used: HashMap<UserId, Used>,
    /// The sum of these changes.
    total: Used,
    /// The reason why a commit failed; every writer of this round gets it.
    failed: Option<StoreError>,
}

impl Pending {
    fn uses(&mut self, user: UserId, more: Used) {
        let used = self.used.entry(user).or_default();
        *used = used.and(more);
        self.total = self.total.and(more);
    }
}

impl WriteBatch {
    /// An empty batch over a database.
    pub fn new(stores: Arc<dyn Stores>) -> Self {
        Self { stores, pending: Mutex::default() }
    }

    fn inner(&self) -> &dyn ConversationsStore {
        &**self.stores.conversations()
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits the buffered changes in one transaction.
    ///
    /// # Errors
    /// The database failed, now or earlier in this round.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut pending = self.pending();
        if let Some(error) = &pending.failed {
            return Err(error.clone());
        }
        let Pending { records, items, .. } = std::mem::take(&mut *pending);
        let items = items.into_iter().map(|((id, _), item)| ConversationChange::PutItem(id, item));
        let changes: Vec<_> = items.chain(records.into_values().map(ConversationChange::Put)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let committed = commit_once(&*self.stores, &Changes::conversations(changes));
        committed.inspect_err(|error| pending.failed = Some(error.clone()))
    }

    /// Buffers changes of conversations, and commits others after those that are buffered.
    ///
    /// # Errors
    /// The database failed.
    pub fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        let Changes { moves, accounts, sessions, conversations, responses } = changes;
        let deletes_user = accounts.iter().any(|change| matches!(change, AccountChange::DeleteUser(_)));
        if moves.is_empty() && conversations.is_empty() && responses.is_empty() && !deletes_user {
            // Changes of credentials do not depend on conversations, and every decision on those reads their user.
            return self.stores.commit(changes);
        }
        let only_conversations =
            moves.is_empty() && accounts.is_empty() && sessions.is_empty() && responses.is_empty();
        // A deletion has to see the conversation in the database; a staged body is there already.
        let bufferable = conversations
            .iter()
            .all(|change| matches!(change, ConversationChange::Put(_) | ConversationChange::PutItem(..)));
        if only_conversations && bufferable {
            self.buffer(conversations)?;
            return Ok(Commit::Done);
        }
        self.flush()?;
        self.stores.commit(changes)
    }

    fn buffer(&self, changes: &[ConversationChange]) -> Result<(), StoreError> {
        let mut before = Vec::new();
        for change in changes {
            if let ConversationChange::Put(record) = change {
                before.extend(self.conversation(record.id)?);
            }
        }
        let mut pending = self.pending();
        for record in &before {
            pending.uses(record.user, Used::of_conversation(record).less());
        }
        for change in changes {
            match change {
                ConversationChange::Put(record) => {
                    pending.uses(record.user, Used::of_conversation(record));
                    pending.records.insert(record.id, record.clone());
                }
                ConversationChange::PutItem(id, item) => {
                    pending.numbers.insert((*id, item.node.id.clone()), item.node.number);
                    pending.items.insert((*id, item.node.number), item.clone());
                }
                ConversationChange::PutStaged(..) | ConversationChange::Delete(_) => {}
            }
        }
        let full = pending.records.len() + pending.items.len() >= MAX_PENDING
            || pending.total.bytes >= MAX_PENDING_BYTES;
        drop(pending);
        if full { self.flush() } else { Ok(()) }
    }
}

impl ConversationsStore for WriteBatch {
    fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        let pending = self.pending().records.get(&id).cloned();
        pending.map_or_else(|| self.inner().conversation(id), |record| Ok(Some(record)))
    }

    fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        self.flush()?;
        self.inner().shared(token)
    }

    fn positions(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        visit: Visit<'_, Position>,
    ) -> Result<(), StoreError> {
        self.flush()?;
        self.inner().positions(user, newer_than, older_than, newest_first, visit)
    }

    fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
        self.flush()?;
        self.inner().nodes(id)
    }

    fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        let pending = self.pending().items.get(&(id, number)).map(|item| item.node.clone());
        pending.map_or_else(|| self.inner().node(id, number), |node| Ok(Some(node)))
    }

    fn node_and_size(&self, id: ConversationId, number: u32) -> Result<Option<(Node, u64)>, StoreError> {
        let sized = |item: &StoredItem| (item.node.clone(), item_size(&item.body) as u64);
        let pending = self.pending().items.get(&(id, number)).map(sized);
        pending.map_or_else(|| self.inner().node_and_size(id, number), |sized| Ok(Some(sized)))
    }

    fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        let pending = self.pending().items.get(&(id, number)).cloned();
        pending.map_or_else(|| self.inner().item(id, number), |item| Ok(Some(item)))
    }

    fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        let pending = self.pending().numbers.get(&(id, item.to_owned())).copied();
        pending.map_or_else(|| self.inner().item_number(id, item), |number| Ok(Some(number)))
    }

    fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        self.inner().stage(body)
    }

    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError> {
        self.inner().discard(staged)
    }
}

/// All stores, with buffered changes to conversations.
#[derive(Debug)]
pub struct BatchedStores<'a> {
    stores: &'a dyn Stores,
    batch: &'a Arc<WriteBatch>,
    conversations: Arc<dyn ConversationsStore>,
}

impl<'a> BatchedStores<'a> {
    /// These stores, buffered in that batch.
    pub fn new(stores: &'a dyn Stores, batch: &'a Arc<WriteBatch>) -> Self {
        Self { stores, batch, conversations: Arc::clone(batch) as Arc<dyn ConversationsStore> }
    }

    /// Keeps the order of changes. The batch keeps an error for the end of the round.
    fn in_order(&self) -> &'a dyn Stores {
        let _ = self.batch.flush();
        self.stores
    }
}

impl Stores for BatchedStores<'_> {
    fn accounts(&self) -> &dyn AccountsStore {
        self.stores.accounts()
    }

    fn sessions(&self) -> &dyn SessionsStore {
        self.stores.sessions()
    }

    fn usage(&self) -> &dyn UsageStore {
        self.stores.usage()
    }

    fn records(&self) -> &dyn RecordsStore {
        self.in_order().records()
    }

    fn audit(&self) -> &dyn AuditStore {
        self.stores.audit()
    }

    fn check_space(&self) -> Result<(), StoreError> {
        self.stores.check_space()
    }

    fn responses(&self) -> &dyn ResponsesStore {
        self.in_order().responses()
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.batch.flush()?;
        self.stores.sync()
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.stores.probe()
    }

    fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        self.batch.commit(changes)
    }

    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        self.in_order().move_some(from, to)
    }

    fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        self.in_order().cleanup(until)
    }

    fn finish_cleanup(&self) -> Result<(), StoreError> {
        self.in_order().finish_cleanup()
    }

    fn used(&self, user: UserId) -> Result<Used, StoreError> {
        let more = self.batch.pending().used.get(&user).copied().unwrap_or_default();
        Ok(self.stores.used(user)?.and(more))
    }

    fn quotas(&self) -> Quotas {
        self.stores.quotas()
    }

    fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        self.stores.deleting_users()
    }
}

#[cfg(test)]
#[path = "write_batch_tests.rs"]
mod tests;
