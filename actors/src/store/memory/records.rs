//! Records of exports, over the state in memory.

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{Memory, State, turn};
use crate::audit::AuditRecord;
use crate::conversations::types::ConversationRecord;
use crate::identity::{ApiKeyRecord, UserId, UserRecord, now_s};
use crate::responses::{End, ResponseRecord};
use crate::store::audit::key as audit_key;
use crate::store::item_record::ItemRecord;
use crate::store::records::{StagedRecord, UniqueKey};
use crate::store::usage::{UsageRow, key_bytes};
use crate::store::{
    KINDS, KeyHash, PreparedRecord, Record, RecordsStore, ResponsesStore, StoreError, StoredSession,
    record_kind,
};
use crate::usage::{UsageCounts, UsageKey};

impl State {
    /// All records of a kind, in the order of their keys.
    fn records(&self, kind: usize) -> Vec<Record> {
        let record = |key: &[u8], value: Vec<u8>| Record { kind, key: key.to_vec(), value };
        let mut records: Vec<Record> = match KINDS[kind].name {
            "user" => self.users.values().map(|user| record(&user.id.to_bytes(), json(user))).collect(),
            "key" => self.keys.iter().map(|(hash, key)| record(hash, json(key))).collect(),
            "session" => {
                self.sessions.values().map(|session| record(&session.id.to_bytes(), json(session))).collect()
            }
            "usage" => {
                let row = |(key, counts): &(UsageKey, UsageCounts)| {
                    json(&UsageRow { key: key.clone(), counts: *counts })
                };
                self.usage.iter().map(|(key, value)| record(key, row(value))).collect()
            }
            "conversation" => {
                self.conversations.values().map(|talk| record(&talk.id.to_bytes(), json(talk))).collect()
            }
            "item" => {
                let items = self.items.iter().map(|(&(id, _), item)| ItemRecord::new(id, item.clone()));
                items.map(|item| record(&item.key(), json(&item))).collect()
            }
            "response" => self.responses.values().map(|one| record(&one.id.to_bytes(), json(one))).collect(),
            "audit" => self.audit.iter().map(|(key, entry)| record(key, json(entry))).collect(),
            other => panic!("the memory store does not know the kind {other}"),
        };
        records.sort_by(|a, b| a.key.cmp(&b.key));
        records
    }

    fn put(&mut self, record: &Record) -> Result<(), StoreError> {
        match KINDS[record.kind].name {
            "user" => {
                let user: UserRecord = record.parse()?;
                if self.deleting.contains(&user.id) {
                    return Err(StoreError::Removing);
                }
                self.users.insert(user.id, user);
            }
            "key" => {
                let hash = KeyHash::try_from(record.key.as_slice()).map_err(|_| StoreError::Reopening)?;
                self.keys.insert(hash, record.parse::<ApiKeyRecord>()?);
            }
            "session" => {
                let session: StoredSession = record.parse()?;
                self.sessions.insert(session.id, session);
            }
            "usage" => {
                let row: UsageRow = record.parse()?;
                self.usage.insert(key_bytes(&row.key), (row.key, row.counts));
            }
            "conversation" => {
                let talk: ConversationRecord = record.parse()?;
                self.items.retain(|&(id, number), _| id != talk.id || number < talk.next);
                self.conversations.insert(talk.id, talk);
            }
            "item" => {
                let item: ItemRecord = record.parse()?;
                let id = item.conversation;
                if self.conversations.get(&id).is_some_and(|talk| item.number < talk.next) {
                    self.items.insert((id, item.number), item.into_item());
                }
            }
            "audit" => {
                let entry: AuditRecord = record.parse()?;
                self.audit.insert(audit_key(entry.class(), entry.id), entry);
            }
            other => panic!("a record of the kind {other} is put otherwise"),
        }
        Ok(())
    }
}

#[async_trait]
impl RecordsStore for Memory {
    async fn store_id(&self) -> Result<String, StoreError> {
        turn().await;
        Ok(self.state().id.as_simple().to_string())
    }

    async fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        turn().await;
        let mut size = 0;
        let mut page = Vec::new();
        let all = self.state().records(kind).into_iter();
        for record in all.filter(|record| after.is_none_or(|after| record.key.as_slice() > after)) {
            size += record.value.len();
            page.push(record);
            if page.len() >= limit || size >= bytes {
                break;
            }
        }
        Ok(page)
    }

    async fn prepare(&self, record: Record) -> Result<PreparedRecord, StoreError> {
        turn().await;
        if Some(record.kind) != record_kind("response") {
            return Ok(PreparedRecord { record, staged: None });
        }
        let mut response: ResponseRecord = record.parse()?;
        if response.end.is_none() && self.response(response.id).await?.is_none() {
            response.end = Some(End::lost(now_s()));
        }
        let staged = self.stage(&response).await?;
        Ok(PreparedRecord { record, staged: Some(StagedRecord::Response(staged)) })
    }

    async fn put_prepared(&self, prepared: &PreparedRecord) -> Result<(), StoreError> {
        turn().await;
        let Some(StagedRecord::Response(staged)) = &prepared.staged else {
            return self.change(|state| state.put(&prepared.record));
        };
        let id: Uuid = self.staged_id(staged.token())?;
        let mut state = self.state();
        let response = state.staged.remove(&id).ok_or(StoreError::Reopening)?;
        state.responses.insert(response.id, response);
        Ok(())
    }

    async fn conflict(&self, record: &Record) -> Result<Option<UniqueKey>, StoreError> {
        turn().await;
        let mine = record.unique_keys()?;
        for other in self.state().records(record.kind) {
            let theirs = other.unique_keys()?;
            if other.key != record.key
                && let Some(key) = mine.iter().find(|key| theirs.contains(key))
            {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    async fn stored(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError> {
        turn().await;
        let all = self.state().records(record.kind);
        Ok(all.into_iter().find(|other| other.key == record.key).map(|record| record.value))
    }

    async fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError> {
        turn().await;
        if Some(record.kind) != record_kind("item") {
            return record.named_owner();
        }
        let item: ItemRecord = record.parse()?;
        Ok(self.state().conversations.get(&item.conversation).map(|talk| talk.user))
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have a JSON form")
}
