//! Write batch: one transaction for the changes of many decisions.
//!
//! A transaction costs some writes of its own, however little it changes; with many writers that is most of the work. So
//! the changes to conversations of one round are buffered here, where later decisions of the round see them, and are
//! committed together. Writers get their answers after that and after the sync that follows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{
    AccountChange, AccountsStore, AuditStore, Changes, CleanupProgress, Commit, ConversationChange,
    ConversationsStore, ListPart, Quotas, RecordsStore, ResponsesStore, Scope, SessionsStore, Snapshot,
    StagedBody, StoreError, Stores, UsageStore, Used, block_on, commit_once,
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
    pub async fn flush(&self) -> Result<(), StoreError> {
        let changes: Vec<_> = {
            let mut pending = self.pending();
            if let Some(error) = &pending.failed {
                return Err(error.clone());
            }
            let Pending { records, items, .. } = std::mem::take(&mut *pending);
            let items = items.into_iter().map(|((id, _), item)| ConversationChange::PutItem(id, item));
            items.chain(records.into_values().map(ConversationChange::Put)).collect()
        };
        if changes.is_empty() {
            return Ok(());
        }
        let committed = commit_once(&*self.stores, &Changes::conversations(changes)).await;
        committed.inspect_err(|error| self.pending().failed = Some(error.clone()))
    }

    /// Buffers changes of conversations, and commits others after those that are buffered.
    ///
    /// # Errors
    /// The database failed.
    pub async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        let Changes { moves, accounts, sessions, conversations, responses } = changes;
        let deletes_user = accounts.iter().any(|change| matches!(change, AccountChange::DeleteUser(_)));
        if moves.is_empty() && conversations.is_empty() && responses.is_empty() && !deletes_user {
            // Changes of credentials do not depend on conversations, and every decision on those reads their user.
            return self.stores.commit(changes).await;
        }
        let only_conversations =
            moves.is_empty() && accounts.is_empty() && sessions.is_empty() && responses.is_empty();
        // A deletion has to see the conversation in the database; a staged body is there already.
        let bufferable = conversations
            .iter()
            .all(|change| matches!(change, ConversationChange::Put(_) | ConversationChange::PutItem(..)));
        if only_conversations && bufferable {
            self.buffer(conversations).await?;
            return Ok(Commit::Done);
        }
        self.flush().await?;
        self.stores.commit(changes).await
    }

    async fn buffer(&self, changes: &[ConversationChange]) -> Result<(), StoreError> {
        let mut before = Vec::new();
        for change in changes {
            if let ConversationChange::Put(record) = change {
                before.extend(self.conversation(record.id).await?);
            }
        }
        if self.put_all(changes, &before) { self.flush().await } else { Ok(()) }
    }

    /// Takes changes into the buffer, in the place of those records. Returns `true` if it is full then.
    fn put_all(&self, changes: &[ConversationChange], before: &[ConversationRecord]) -> bool {
        let mut pending = self.pending();
        for record in before {
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
        pending.records.len() + pending.items.len() >= MAX_PENDING || pending.total.bytes >= MAX_PENDING_BYTES
    }
}

#[async_trait]
impl ConversationsStore for WriteBatch {
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        let pending = self.pending().records.get(&id).cloned();
        match pending {
            Some(pending) => Ok(Some(pending)),
            None => self.inner().conversation(id).await,
        }
    }

    async fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        self.flush().await?;
        self.inner().shared(token).await
    }

    async fn list(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        limit: usize,
    ) -> Result<ListPart, StoreError> {
        self.flush().await?;
        self.inner().list(user, newer_than, older_than, newest_first, limit).await
    }

    async fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
        self.flush().await?;
        self.inner().nodes(id).await
    }

    async fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        let pending = self.pending().items.get(&(id, number)).map(|item| item.node.clone());
        match pending {
            Some(pending) => Ok(Some(pending)),
            None => self.inner().node(id, number).await,
        }
    }

    async fn node_and_size(
        &self,
        id: ConversationId,
        number: u32,
    ) -> Result<Option<(Node, u64)>, StoreError> {
        let sized = |item: &StoredItem| (item.node.clone(), item_size(&item.body) as u64);
        let pending = self.pending().items.get(&(id, number)).map(sized);
        match pending {
            Some(pending) => Ok(Some(pending)),
            None => self.inner().node_and_size(id, number).await,
        }
    }

    async fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        let pending = self.pending().items.get(&(id, number)).cloned();
        match pending {
            Some(pending) => Ok(Some(pending)),
            None => self.inner().item(id, number).await,
        }
    }

    async fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        let pending = self.pending().numbers.get(&(id, item.to_owned())).copied();
        match pending {
            Some(pending) => Ok(Some(pending)),
            None => self.inner().item_number(id, item).await,
        }
    }

    async fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        self.inner().stage(body).await
    }

    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError> {
        self.inner().discard(staged)
    }
}

/// All stores, with buffered changes to conversations. For the commit thread only.
#[derive(Debug)]
pub struct BatchedStores {
    stores: Arc<dyn Stores>,
    batch: Arc<WriteBatch>,
    conversations: Arc<dyn ConversationsStore>,
}

impl BatchedStores {
    /// The stores of a batch, buffered in it.
    pub fn new(batch: &Arc<WriteBatch>) -> Self {
        let conversations = Arc::clone(batch) as Arc<dyn ConversationsStore>;
        Self { stores: Arc::clone(&batch.stores), batch: Arc::clone(batch), conversations }
    }

    /// Keeps the order of changes. The batch keeps an error for the end of the round.
    async fn in_order(&self) -> &dyn Stores {
        let _ = self.batch.flush().await;
        &*self.stores
    }

    /// [`in_order`](Self::in_order) for accessors, which cannot wait; the commit thread may block.
    fn in_order_blocking(&self) -> &dyn Stores {
        block_on(self.in_order())
    }
}

#[async_trait]
impl Stores for BatchedStores {
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
        self.in_order_blocking().records()
    }

    fn audit(&self) -> &dyn AuditStore {
        self.stores.audit()
    }

    async fn check_space(&self) -> Result<(), StoreError> {
        self.stores.check_space().await
    }

    fn responses(&self) -> &dyn ResponsesStore {
        self.in_order_blocking().responses()
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.batch.flush().await?;
        self.stores.sync().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.stores.probe().await
    }

    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        self.batch.commit(changes).await
    }

    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        self.in_order().await.move_some(from, to).await
    }

    async fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        self.in_order().await.cleanup(until).await
    }

    async fn finish_cleanup(&self) -> Result<(), StoreError> {
        self.in_order().await.finish_cleanup().await
    }

    fn is_blocking(&self) -> bool {
        self.stores.is_blocking()
    }

    async fn snapshot(self: Arc<Self>, _: Scope) -> Result<Snapshot, StoreError> {
        // Nothing is committed between the reads of a job.
        Ok(Snapshot::fixed(self))
    }

    async fn decision(self: Arc<Self>, _attempt: usize) -> Result<Arc<dyn Stores>, StoreError> {
        Ok(self)
    }

    async fn used(&self, user: UserId) -> Result<Used, StoreError> {
        let more = self.batch.pending().used.get(&user).copied().unwrap_or_default();
        Ok(self.stores.used(user).await?.and(more))
    }

    fn quotas(&self) -> Quotas {
        self.stores.quotas()
    }

    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        self.stores.deleting_users().await
    }
}

#[cfg(test)]
#[path = "write_batch_tests.rs"]
mod tests;
