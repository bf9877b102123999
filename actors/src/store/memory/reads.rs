//! The traits of each concern, over the state in memory.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Memory, Staging, State, turn};
use crate::audit::{AuditFilter, AuditId, AuditPage, AuditRecord, Class};
use crate::conversations::item::size as item_size;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::{ApiKeyRecord, ExternalId, KeyId, SessionId, UserId, UserRecord};
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::store::audit::key as audit_key;
use crate::store::{
    AccountsStore, AuditStore, ConversationsStore, KeyHash, ListPart, ResponsesStore, SessionsStore, Staged,
    StagedBody, StagedEnd, StoreError, StoredSession, UsageStore, Used,
};
use crate::usage::{BatchId, UsageCounts, UsageFilter, UsageKey};

#[async_trait]
impl AccountsStore for Memory {
    async fn user(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        turn().await;
        Ok(self.state().users.get(&id).cloned())
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        turn().await;
        Ok(self.state().users.values().find(|user| user.email.as_deref() == Some(email)).cloned())
    }

    async fn user_by_external(&self, id: &ExternalId) -> Result<Option<UserRecord>, StoreError> {
        turn().await;
        Ok(self.state().users.values().find(|user| user.external.as_ref() == Some(id)).cloned())
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserRecord>, StoreError> {
        turn().await;
        let state = self.state();
        let users = state.users.values().filter(|user| after.is_none_or(|after| user.id > after));
        Ok(users.take(limit).cloned().collect())
    }

    async fn key(&self, user: UserId, key: KeyId) -> Result<Option<(KeyHash, ApiKeyRecord)>, StoreError> {
        turn().await;
        Ok(self.keys(user).await?.into_iter().find(|(_, record)| record.id == key))
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKeyRecord>, StoreError> {
        turn().await;
        Ok(self.state().keys.get(hash).cloned())
    }

    async fn keys(&self, user: UserId) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError> {
        turn().await;
        let state = self.state();
        let mine = state.keys.iter().filter(|(_, key)| key.user == user);
        let mut keys: Vec<_> = mine.map(|(hash, key)| (*hash, key.clone())).collect();
        keys.sort_by_key(|(_, key)| key.id.to_bytes());
        Ok(keys)
    }

    async fn key_count(&self, user: UserId, at_most: usize) -> Result<usize, StoreError> {
        turn().await;
        Ok(self.keys(user).await?.len().min(at_most))
    }

    async fn each_key(
        &self,
        visit: &mut (dyn FnMut(KeyHash, ApiKeyRecord) + Send),
    ) -> Result<(), StoreError> {
        turn().await;
        self.state().clone().keys.into_iter().for_each(|(hash, key)| visit(hash, key));
        Ok(())
    }
}

#[async_trait]
impl SessionsStore for Memory {
    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        turn().await;
        Ok(self.state().sessions.get(&id).cloned())
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError> {
        turn().await;
        Ok(self.state().sessions.values().filter(|session| session.user == user).cloned().collect())
    }

    async fn each_session(&self, visit: &mut (dyn FnMut(StoredSession) + Send)) -> Result<(), StoreError> {
        turn().await;
        self.state().clone().sessions.into_values().for_each(visit);
        Ok(())
    }
}

#[async_trait]
impl UsageStore for Memory {
    async fn add(&self, batch: BatchId, rows: &[(UsageKey, UsageCounts)]) -> Result<(), StoreError> {
        turn().await;
        let mut state = self.state();
        if state.last_batch.replace(batch) != Some(batch) {
            rows.iter().for_each(|(key, counts)| state.add_usage(key.clone(), counts));
        }
        Ok(())
    }

    async fn rows(
        &self,
        filter: &UsageFilter,
        visit: &mut (dyn for<'a> FnMut(&'a UsageKey, &'a UsageCounts) + Send),
    ) -> Result<(), StoreError> {
        turn().await;
        let state = self.state().clone();
        let mine = state.usage.values().filter(|(key, _)| filter.user.is_none_or(|user| key.user == user));
        let mine = mine.filter(|(key, _)| filter.start <= key.day && key.day <= filter.end);
        mine.for_each(|(key, counts)| visit(key, counts));
        Ok(())
    }
}

#[async_trait]
impl AuditStore for Memory {
    async fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        turn().await;
        let mut state = self.state();
        for record in records {
            state.audit.insert(audit_key(record.class(), record.id), record.clone());
        }
        Ok(())
    }

    async fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError> {
        turn().await;
        let (low, high) = filter.bounds();
        let state = self.state();
        let range = state.audit.values().filter(|record| record.id >= low);
        let mut range: Vec<_> = range.filter(|record| high.is_none_or(|high| record.id < high)).collect();
        range.sort_by_key(|record| std::cmp::Reverse(record.id));
        let mut page = AuditPage::default();
        let mut last = None;
        for (read, record) in range.into_iter().enumerate() {
            if page.records.len() >= limit || read >= look {
                page.next = last;
                break;
            }
            last = Some(record.id);
            page.records.extend(Some(record).filter(|record| filter.lets_through(record)).cloned());
        }
        Ok(page)
    }

    async fn count(&self) -> Result<[usize; 2], StoreError> {
        let mut counts = [0; 2];
        self.state().audit.values().for_each(|record| counts[record.class() as usize] += 1);
        Ok(counts)
    }

    async fn remove_oldest(
        &self,
        class: Class,
        before: Option<AuditId>,
        most: usize,
    ) -> Result<usize, StoreError> {
        turn().await;
        let mut state = self.state();
        let oldest = state.audit.iter().filter(|(_, record)| record.class() == class);
        let oldest = oldest.filter(|(_, record)| before.is_none_or(|before| record.id < before));
        let keys: Vec<_> = oldest.map(|(key, _)| *key).take(most).collect();
        keys.iter().for_each(|key| drop(state.audit.remove(key)));
        Ok(keys.len())
    }
}

#[async_trait]
impl ConversationsStore for Memory {
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        turn().await;
        Ok(self.state().conversations.get(&id).cloned())
    }

    async fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        turn().await;
        let state = self.state();
        let is_shared =
            |record: &&ConversationRecord| record.share.as_ref().is_some_and(|s| s.token == token);
        Ok(state.conversations.values().find(is_shared).map(|record| record.id))
    }

    async fn list(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        limit: usize,
    ) -> Result<ListPart, StoreError> {
        turn().await;
        let state = self.state();
        let mine = state.conversations.values().filter(|record| record.user == user);
        // Newest first; those of one moment by id.
        let rank = |position: Position| (std::cmp::Reverse(position.updated_us), position.id);
        let mut listed: Vec<_> = mine.map(|record| (record.position(), Some(record.clone()))).collect();
        listed.retain(|&(position, _)| {
            newer_than.is_none_or(|bound| rank(position) < rank(bound))
                && older_than.is_none_or(|bound| rank(position) > rank(bound))
        });
        listed.sort_by_key(|&(position, _)| rank(position));
        if !newest_first {
            listed.reverse();
        }
        let has_more = listed.len() > limit;
        listed.truncate(limit);
        Ok(ListPart { listed, has_more })
    }

    async fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
        turn().await;
        let state = self.state();
        Ok(state.items.range((id, 0)..=(id, u32::MAX)).map(|(_, item)| item.node.clone()).collect())
    }

    async fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        turn().await;
        Ok(self.item(id, number).await?.map(|item| item.node))
    }

    async fn node_and_size(
        &self,
        id: ConversationId,
        number: u32,
    ) -> Result<Option<(Node, u64)>, StoreError> {
        turn().await;
        Ok(self.item(id, number).await?.map(|item| (item.node, item_size(&item.body) as u64)))
    }

    async fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        turn().await;
        Ok(self.state().items.get(&(id, number)).cloned())
    }

    async fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        turn().await;
        Ok(self.nodes(id).await?.into_iter().find(|node| node.id == item).map(|node| node.number))
    }

    async fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        let (id, body) = (Uuid::new_v4(), body.clone());
        let put = |state: &mut State| drop(state.staged_bodies.insert(id, body));
        Staging::run(self, put, |state| drop(state.staged_bodies.remove(&id))).await;
        Ok(StagedBody::new(self.token(id)))
    }

    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError> {
        let id = self.staged_id(staged.token())?;
        self.state().staged_bodies.remove(&id);
        Ok(())
    }
}

#[async_trait]
impl ResponsesStore for Memory {
    async fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        turn().await;
        Ok(self.state().responses.get(&id).cloned())
    }

    async fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError> {
        turn().await;
        Ok(self.response(id).await?.map(|record| record.user))
    }

    async fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        turn().await;
        let state = self.state();
        let mine = state.responses.values().filter(|record| record.user == user).map(|record| record.id);
        Ok(mine.filter(|&id| after.is_none_or(|after| id > after)).take(limit).collect())
    }

    async fn running(&self) -> Result<Vec<ResponseId>, StoreError> {
        turn().await;
        let state = self.state();
        Ok(state.responses.values().filter(|record| record.end.is_none()).map(|record| record.id).collect())
    }

    async fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError> {
        turn().await;
        // The first 48 bits of an id are its milliseconds.
        let millis = epoch_s.saturating_mul(1000).min((1 << 48) - 1).to_be_bytes();
        let state = self.state();
        let old = state.responses.keys().filter(|id| id.to_bytes()[..6] < millis[2..]);
        Ok(old.take(limit).copied().collect())
    }

    async fn owners(&self) -> Result<Vec<UserId>, StoreError> {
        turn().await;
        let owners: BTreeSet<_> = self.state().responses.values().map(|record| record.user).collect();
        Ok(owners.into_iter().collect())
    }

    async fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError> {
        let id = Uuid::new_v4();
        let put = |state: &mut State| drop(state.staged.insert(id, record.clone()));
        Staging::run(self, put, |state| drop(state.staged.remove(&id))).await;
        let bytes = serde_json::to_vec(record).map_or(0, |json| json.len() as u64);
        Ok(Staged::new(record.id, record.user, Used::of_response(bytes), self.token(id)))
    }

    async fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError> {
        let id = Uuid::new_v4();
        let put = |state: &mut State| drop(state.staged_ends.insert(id, (deltas, end)));
        Staging::run(self, put, |state| drop(state.staged_ends.remove(&id))).await;
        Ok(StagedEnd::new(self.token(id)))
    }

    fn discard(&self, staged: &Staged) -> Result<(), StoreError> {
        let id = self.staged_id(staged.token())?;
        self.state().staged.remove(&id);
        Ok(())
    }

    async fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        turn().await;
        self.state().responses.retain(|_, record| record.user != user);
        Ok(true)
    }
}
