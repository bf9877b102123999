//! A store in plain memory, for tests: the traits' contract in its simplest form.
//!
//! Nothing survives its last handle. A change is applied to a copy of the state, which takes the place of the state once
//! all of it has succeeded, so that a commit is one transaction.

mod reads;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::open::StoreDraft;
use super::usage::key_bytes;
use super::{
    AccountChange, AccountsStore, AuditStore, Changes, CleanupProgress, Commit, ConversationChange,
    ConversationsStore, KeyHash, OpenError, Problem, Quotas, RecordsStore, ResponseChange, ResponsesStore,
    Scope, SessionChange, SessionsStore, Snapshot, StoreError, StoreFactory, StoredSession, Stores,
    UsageStore, Used,
};
use crate::audit::AuditRecord;
use crate::conversations::ConversationId;
use crate::conversations::types::{ConversationRecord, StoredItem};
use crate::identity::{ApiKeyRecord, SessionId, UserId, UserRecord};
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::usage::{BatchId, UsageCounts, UsageKey, UsageOwner};

/// Opens one store in memory, however often it is asked.
#[derive(Clone, Debug, Default)]
pub struct MemoryFactory {
    shared: Arc<Shared>,
    quotas: Quotas,
}

impl MemoryFactory {
    /// A factory of a store with those quotas.
    pub fn new(quotas: Quotas) -> Self {
        Self { shared: Arc::default(), quotas }
    }

    /// Lets the next commits conflict, each with one that adds a user.
    pub fn conflict(&self, times: usize) {
        self.shared.conflicts.store(times, Ordering::SeqCst);
    }
}

#[async_trait]
impl StoreFactory for MemoryFactory {
    async fn open(&self) -> Result<Box<dyn Stores>, OpenError> {
        turn().await;
        Ok(Box::new(self.open_stores()))
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn exists(&self) -> bool {
        turn().await;
        true
    }

    async fn draft(&self) -> Result<Box<dyn StoreDraft>, OpenError> {
        turn().await;
        Ok(Box::new(MemoryDraft {
            place: Arc::clone(&self.shared),
            stores: Self::new(self.quotas).open_stores(),
        }))
    }

    fn load_error(&self, error: StoreError) -> OpenError {
        OpenError::Backend(Problem::new(format!("cannot load the store: {error}"), ""))
    }
}

impl MemoryFactory {
    fn open_stores(&self) -> MemoryStores {
        MemoryStores::new(Arc::clone(&self.shared), Uuid::new_v4(), self.quotas)
    }
}

#[derive(Debug)]
struct MemoryDraft {
    place: Arc<Shared>,
    stores: MemoryStores,
}

#[async_trait]
impl StoreDraft for MemoryDraft {
    fn stores(&self) -> &dyn Stores {
        &self.stores
    }

    async fn promote(self: Box<Self>) -> Result<(), OpenError> {
        turn().await;
        let state = self.stores.memory.state().clone();
        *self.place.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    conflicts: AtomicUsize,
}

/// Lets other tasks run once. Every method of this store begins with it, so that none is ready at once.
async fn turn() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        // Not tokio's `yield_now`, which wakes through its runtime: this store also runs without one.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Something that is staged, removed again if its future is dropped before its token reached the caller.
struct Staging<'a, F: Fn(&mut State)> {
    memory: &'a Memory,
    remove: Option<F>,
}

impl<'a, F: Fn(&mut State)> Staging<'a, F> {
    /// Stages something, which takes more than one step.
    async fn run(memory: &'a Memory, put: impl FnOnce(&mut State), remove: F) {
        turn().await;
        put(&mut memory.state());
        let mut staging = Self { memory, remove: Some(remove) };
        turn().await;
        staging.remove = None;
    }
}

impl<F: Fn(&mut State)> Drop for Staging<'_, F> {
    fn drop(&mut self) {
        if let Some(remove) = &self.remove {
            remove(&mut self.memory.state());
        }
    }
}

/// Everything that is stored. Indexes are computed.
#[derive(Clone, Debug)]
struct State {
    id: Uuid,
    users: BTreeMap<UserId, UserRecord>,
    keys: BTreeMap<KeyHash, ApiKeyRecord>,
    sessions: BTreeMap<SessionId, StoredSession>,
    usage: BTreeMap<Vec<u8>, (UsageKey, UsageCounts)>,
    last_batch: Option<BatchId>,
    audit: BTreeMap<[u8; 17], AuditRecord>,
    conversations: BTreeMap<ConversationId, ConversationRecord>,
    items: BTreeMap<(ConversationId, u32), StoredItem>,
    responses: BTreeMap<ResponseId, ResponseRecord>,
    staged: BTreeMap<Uuid, ResponseRecord>,
    staged_ends: BTreeMap<Uuid, (Vec<Delta>, End)>,
    staged_bodies: BTreeMap<Uuid, Map<String, Value>>,
    deleting: BTreeSet<UserId>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            id: Uuid::new_v4(),
            users: BTreeMap::new(),
            keys: BTreeMap::new(),
            sessions: BTreeMap::new(),
            usage: BTreeMap::new(),
            last_batch: None,
            audit: BTreeMap::new(),
            conversations: BTreeMap::new(),
            items: BTreeMap::new(),
            responses: BTreeMap::new(),
            staged: BTreeMap::new(),
            staged_ends: BTreeMap::new(),
            staged_bodies: BTreeMap::new(),
            deleting: BTreeSet::new(),
        }
    }
}

#[derive(Debug)]
struct Memory {
    shared: Arc<Shared>,
    /// Distinguishes openings: data that was staged in an earlier one is gone.
    epoch: Uuid,
}

/// The store.
#[derive(Debug)]
struct MemoryStores {
    memory: Arc<Memory>,
    conversations: Arc<dyn ConversationsStore>,
    quotas: Quotas,
}

impl MemoryStores {
    fn new(shared: Arc<Shared>, epoch: Uuid, quotas: Quotas) -> Self {
        let memory = Arc::new(Memory { shared, epoch });
        let conversations = Arc::clone(&memory) as Arc<dyn ConversationsStore>;
        Self { memory, conversations, quotas }
    }
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change as a whole or not at all.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state();
        let mut next = state.clone();
        let outcome = change(&mut next)?;
        *state = next;
        Ok(outcome)
    }

    fn token(&self, id: Uuid) -> Vec<u8> {
        [self.epoch.into_bytes(), id.into_bytes()].concat()
    }

    fn staged_id(&self, token: &[u8]) -> Result<Uuid, StoreError> {
        let id = token.strip_prefix(self.epoch.as_bytes()).and_then(|id| Uuid::from_slice(id).ok());
        id.ok_or(StoreError::Reopening)
    }

    fn apply(&self, state: &mut State, changes: &Changes) -> Result<(), StoreError> {
        for &(from, to) in &changes.moves {
            state.move_all(from, to);
        }
        for change in &changes.accounts {
            match change {
                AccountChange::PutUser(user) => drop(state.users.insert(user.id, user.clone())),
                AccountChange::DeleteUser(id) => {
                    state.users.remove(id);
                    state.deleting.insert(*id);
                }
                AccountChange::PutKey(hash, key) => drop(state.keys.insert(*hash, key.clone())),
                AccountChange::DeleteKey(hash, _) => drop(state.keys.remove(hash)),
            }
        }
        for change in &changes.sessions {
            match change {
                SessionChange::Put(session) => drop(state.sessions.insert(session.id, session.clone())),
                SessionChange::End(_, id) => drop(state.sessions.remove(id)),
            }
        }
        for change in &changes.conversations {
            match change {
                ConversationChange::Put(record) => {
                    drop(state.conversations.insert(record.id, record.clone()))
                }
                ConversationChange::PutItem(id, item) => {
                    state.items.insert((*id, item.node.number), item.clone());
                }
                ConversationChange::PutStaged(id, node, staged) => {
                    let body = state.staged_bodies.remove(&self.staged_id(staged.token())?);
                    let body = body.ok_or(StoreError::Reopening)?;
                    state.items.insert((*id, node.number), StoredItem { node: node.clone(), body });
                }
                ConversationChange::Delete(id) => state.delete_conversation(*id),
            }
        }
        for change in &changes.responses {
            match change {
                ResponseChange::PutStaged(staged) => {
                    let record = state.staged.remove(&self.staged_id(staged.token())?);
                    let record = record.ok_or(StoreError::Reopening)?;
                    state.responses.insert(record.id, record);
                }
                ResponseChange::End(id, staged) => {
                    let end = state.staged_ends.remove(&self.staged_id(staged.token())?);
                    let (deltas, end) = end.ok_or(StoreError::Reopening)?;
                    if let Some(record) = state.responses.get_mut(id) {
                        (record.deltas, record.end) = (deltas, Some(end));
                    }
                }
                ResponseChange::Delete(id) => drop(state.responses.remove(id)),
            }
        }
        Ok(())
    }
}

impl State {
    fn delete_conversation(&mut self, id: ConversationId) {
        self.conversations.remove(&id);
        self.items.retain(|&(of, _), _| of != id);
    }

    fn move_all(&mut self, from: UserId, to: UserId) {
        let mine = self.conversations.values_mut().filter(|record| record.user == from);
        mine.for_each(|record| record.user = to);
        let mine = self.responses.values_mut().filter(|record| record.user == from);
        mine.for_each(|record| record.user = to);
        self.reassign(from, UsageOwner::User(to));
    }

    fn reassign(&mut self, from: UserId, to: UsageOwner) {
        for (row, counts) in std::mem::take(&mut self.usage).into_values() {
            let moved = UsageKey { user: to, key: None, ..row.clone() };
            self.add_usage(if row.user == UsageOwner::User(from) { moved } else { row }, &counts);
        }
    }

    fn add_usage(&mut self, key: UsageKey, counts: &UsageCounts) {
        self.usage.entry(key_bytes(&key)).or_insert_with(|| (key, UsageCounts::default())).1.add(counts);
    }

    /// Removes one thing that a deleted user has; `false`: there is nothing left.
    fn delete_some(&mut self, user: UserId) -> bool {
        if let Some(hash) = self.keys.iter().find(|(_, key)| key.user == user).map(|(hash, _)| *hash) {
            self.keys.remove(&hash);
        } else if let Some(id) = self.sessions.values().find(|session| session.user == user).map(|s| s.id) {
            self.sessions.remove(&id);
        } else if let Some(id) = self.conversations.values().find(|talk| talk.user == user).map(|c| c.id) {
            self.delete_conversation(id);
        } else if let Some(id) = self.responses.values().find(|record| record.user == user).map(|r| r.id) {
            self.responses.remove(&id);
        } else if self.usage.values().any(|(key, _)| key.user == UsageOwner::User(user)) {
            self.reassign(user, UsageOwner::Deleted);
        } else {
            return false;
        }
        true
    }
}

#[async_trait]
impl Stores for MemoryStores {
    fn accounts(&self) -> &dyn AccountsStore {
        &*self.memory
    }

    fn sessions(&self) -> &dyn SessionsStore {
        &*self.memory
    }

    fn usage(&self) -> &dyn UsageStore {
        &*self.memory
    }

    fn records(&self) -> &dyn RecordsStore {
        &*self.memory
    }

    fn audit(&self) -> &dyn AuditStore {
        &*self.memory
    }

    fn responses(&self) -> &dyn ResponsesStore {
        &*self.memory
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    async fn snapshot(self: Arc<Self>, _: Scope) -> Result<Snapshot, StoreError> {
        turn().await;
        let state = Mutex::new(self.memory.state().clone());
        let shared = Arc::new(Shared { state, conflicts: AtomicUsize::new(0) });
        Ok(Snapshot::fixed(Arc::new(MemoryStores::new(shared, self.memory.epoch, self.quotas))))
    }

    async fn decision(self: Arc<Self>, _attempt: usize) -> Result<Arc<dyn Stores>, StoreError> {
        Ok(self)
    }

    async fn used(&self, user: UserId) -> Result<Used, StoreError> {
        turn().await;
        let state = self.memory.state();
        let talks = state.conversations.values().filter(|record| record.user == user);
        let responses = state.responses.values().filter(|record| record.user == user);
        let json = |record| serde_json::to_vec(record).map_or(0, |json| json.len() as u64);
        let responses = responses.map(|record| Used::of_response(json(record)));
        Ok(talks.map(Used::of_conversation).chain(responses).fold(Used::default(), Used::and))
    }

    fn quotas(&self) -> Quotas {
        self.quotas
    }

    fn can_conflict(&self) -> bool {
        true
    }

    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        turn().await;
        let conflicts = &self.memory.shared.conflicts;
        if conflicts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let rival = super::conformance::user(&format!("{}@rival.example", UserId::new()));
            self.memory.state().users.insert(rival.id, rival);
            return Ok(Commit::Conflict);
        }
        self.memory.change(|state| self.memory.apply(state, changes))?;
        Ok(Commit::Done)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        turn().await;
        Ok(())
    }

    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        turn().await;
        Ok(self.memory.state().deleting.iter().copied().collect())
    }

    async fn cleanup(&self, _until: Instant) -> Result<CleanupProgress, StoreError> {
        turn().await;
        let mut state = self.memory.state();
        let deleting = state.deleting.clone();
        if deleting.is_empty() {
            return Ok(CleanupProgress::Nothing);
        }
        let more = deleting.into_iter().any(|user| state.delete_some(user));
        Ok(if more { CleanupProgress::More } else { CleanupProgress::Finish })
    }

    async fn finish_cleanup(&self) -> Result<(), StoreError> {
        turn().await;
        self.memory.state().deleting.clear();
        Ok(())
    }

    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        turn().await;
        self.memory.state().move_all(from, to);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn dropped_stage_is_removed() {
        let stores = MemoryFactory::default().open_stores();
        let body = Map::new();
        for times in 0..4 {
            let mut stage = stores.conversations.stage(&body);
            let ended = (0..times).any(|_| stage.as_mut().now_or_never().is_some());
            drop(stage);
            let staged = std::mem::take(&mut stores.memory.state().staged_bodies).len();
            assert_eq!((ended, staged), (times == 3, usize::from(times == 3)), "after {times} steps");
        }
    }
}
