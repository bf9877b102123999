//! All kinds of records over the tables.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Row;

use super::codec::{column, encode, id};
use super::conversations::{self, ITEM, PgConversations};
use super::database::{Db, Statement};
use super::params::{self, Param};
use super::responses::PgResponses;
use super::{accounts, audit, responses, sessions, usage};
use crate::audit::AuditRecord;
use crate::conversations::ConversationId;
use crate::conversations::types::{ConversationRecord, StoredItem};
use crate::identity::{ApiKeyRecord, UserId, UserRecord, now_s};
use crate::responses::{End, ResponseId, ResponseRecord};
use crate::store::conversations::MAX_INLINE_BYTES;
use crate::store::item_record::ItemRecord;
use crate::store::records::{KINDS, StagedRecord, UniqueKey};
use crate::store::usage::{UsageRow, key_bytes};
use crate::store::{
    ConversationChange, ConversationsStore, PreparedRecord, Record, RecordsStore, ResponseChange,
    ResponsesStore, StoreError, StoredSession, readable,
};

/// Rows with large contents read at a time.
const LARGE_ROWS: usize = 16;

/// All records.
#[derive(Debug)]
pub struct PgRecords {
    pub db: Db,
    pub conversations: PgConversations,
    pub responses: PgResponses,
}

/// A key of an export, as the columns that it consists of.
struct Key<'a>(&'a [u8]);

impl Key<'_> {
    fn part<const N: usize>(&self, from: usize) -> Result<[u8; N], StoreError> {
        let part = self.0.get(from..).and_then(<[u8]>::first_chunk);
        part.copied().ok_or_else(|| StoreError::Value {
            what: "the key of a record".to_owned(),
            problem: format!("it has {} bytes, which are too few", self.0.len()),
        })
    }

    fn id(&self, from: usize) -> Result<Param, StoreError> {
        self.part(from).map(params::id)
    }

    fn number(&self, from: usize) -> Result<Param, StoreError> {
        Ok(params::number(u32::from_be_bytes(self.part(from)?).into()))
    }
}

/// The statement that reads records of a kind behind a key, and the parameters of the key.
fn reading(kind: &str, after: Option<&[u8]>) -> Result<(String, Vec<Param>), StoreError> {
    let key = after.map(Key);
    let by_id = |table: &str, columns: &str| {
        let bound = if after.is_some() { "WHERE t.id > $1" } else { "" };
        format!("SELECT {columns} FROM {{s}}.{table} t {bound} ORDER BY t.id")
    };
    let id_of = |key: &Option<Key<'_>>| key.iter().map(|key| key.id(0)).collect::<Result<Vec<_>, _>>();
    Ok(match kind {
        "user" => (by_id("users", "id, record"), id_of(&key)?),
        "session" => (by_id("sessions", "id, record"), id_of(&key)?),
        "conversation" => (by_id("conversations", "user_id, record, id"), id_of(&key)?),
        "response" => (by_id("responses", "id"), id_of(&key)?),
        "key" => {
            let bound = if after.is_some() { "WHERE hash > $1" } else { "" };
            let params = after.into_iter().map(params::bytes).collect();
            (format!("SELECT hash, record FROM {{s}}.keys {bound} ORDER BY hash"), params)
        }
        "usage" => {
            let bound =
                if after.is_some() { "WHERE (owner, day, api_key, model) > ($1, $2, $3, $4)" } else { "" };
            let params = key.map(|key| {
                Ok::<_, StoreError>(vec![
                    key.id(0)?,
                    key.number(16)?,
                    key.id(20)?,
                    params::bytes(key.0.get(36..).unwrap_or_default()),
                ])
            });
            let order = "ORDER BY owner, day, api_key, model";
            let sql = format!("SELECT {} FROM {{s}}.usage {bound} {order}", usage::COLUMNS);
            (sql, params.transpose()?.unwrap_or_default())
        }
        "item" => {
            let bound = if after.is_some() { "AND (i.conversation, i.number) > ($1, $2)" } else { "" };
            let sql = format!(
                "SELECT {ITEM}, i.conversation FROM {{s}}.items i LEFT JOIN {{s}}.bodies b ON b.id = i.body_id \
                 WHERE NOT EXISTS (SELECT FROM {{s}}.doomed d WHERE d.conversation = i.conversation) {bound} \
                 ORDER BY i.conversation, i.number"
            );
            let params = key.map(|key| Ok::<_, StoreError>(vec![key.id(0)?, key.number(16)?]));
            (sql, params.transpose()?.unwrap_or_default())
        }
        "audit" => {
            let bound = if after.is_some() { "WHERE (class, id) > ($1, $2)" } else { "" };
            let params = key.map(|key| {
                let [class] = key.part::<1>(0)?;
                Ok::<_, StoreError>(vec![params::small(class.into()), key.id(1)?])
            });
            let sql = format!("SELECT class, id, record FROM {{s}}.audit {bound} ORDER BY class, id");
            (sql, params.transpose()?.unwrap_or_default())
        }
        other => return Err(unknown(other)),
    })
}

fn unknown(kind: &str) -> StoreError {
    StoreError::Database(format!("it has no records of the kind {kind}"))
}

/// The record of a row of [`reading`]; of a response only its key.
fn record(kind: usize, row: &Row) -> Result<Record, StoreError> {
    let record = |key: &[u8], value: String| Record { kind, key: key.to_vec(), value: value.into_bytes() };
    Ok(match KINDS[kind].name {
        "user" | "session" => record(&id(row, 0)?, column(row, 1)?),
        "key" => record(&column::<Vec<u8>>(row, 0)?, column(row, 1)?),
        "response" => record(&id(row, 0)?, String::new()),
        "conversation" => {
            let talk = conversations::record(row)?;
            record(&talk.id.to_bytes(), encode(&talk))
        }
        "usage" => {
            let row = usage::usage_row(row)?;
            record(&key_bytes(&row.key), encode(&row))
        }
        "item" => {
            let item = ItemRecord::new(ConversationId::from_bytes(id(row, 7)?), conversations::item(row)?);
            record(&item.key(), encode(&item))
        }
        "audit" => {
            let class = u8::try_from(column::<i16>(row, 0)?).unwrap_or(u8::MAX);
            record(&[[class].as_slice(), &id(row, 1)?].concat(), column(row, 2)?)
        }
        other => return Err(unknown(other)),
    })
}

/// The key of a row of [`reading`] whose record is damaged, where it can be told.
fn key_of(kind: usize, row: &Row) -> Result<Vec<u8>, StoreError> {
    Ok(match KINDS[kind].name {
        "item" => {
            let number = u32::try_from(column::<i64>(row, 0)?).unwrap_or(u32::MAX);
            [id(row, 7)?.as_slice(), &number.to_be_bytes()].concat()
        }
        "conversation" => id(row, 2)?.to_vec(),
        _ => record(kind, row)?.key,
    })
}

impl PgRecords {
    /// Refuses an id whose deleted items are still being removed, since that would remove the new ones, too.
    async fn put_conversation(&self, record: ConversationRecord) -> Result<(), StoreError> {
        let record = Arc::new(record);
        self.db
            .transact(move |transaction| {
                let record = Arc::clone(&record);
                async move {
                    check_removed(&transaction, record.id).await?;
                    let stale = Statement::new(
                        "DELETE FROM {s}.items WHERE conversation = $1 AND number >= $2",
                        vec![params::id(record.id.to_bytes()), params::number(record.next.into())],
                    );
                    transaction.run(&[stale, conversations::put(&record)]).await.map(|_| ())
                }
            })
            .await
    }

    /// Stores an item, unless it belongs to no stored conversation: an export is no snapshot, and may have items of a turn
    /// that came after its conversation. Returns whether it is stored.
    async fn put_item(&self, of: ConversationId, change: ConversationChange) -> Result<bool, StoreError> {
        let (opening, change) = (Arc::clone(&self.conversations.opening), Arc::new(change));
        self.db
            .transact(move |transaction| {
                let (opening, change) = (Arc::clone(&opening), Arc::clone(&change));
                async move {
                    check_removed(&transaction, of).await?;
                    let talk = conversations::locked(&transaction, of).await?;
                    let place = change.item_number().zip(talk);
                    if place.is_none_or(|(number, talk)| number >= talk.next) {
                        return Ok(false);
                    }
                    transaction.run(&conversations::statements(&opening, &change)?).await?;
                    Ok(true)
                }
            })
            .await
    }

    async fn put_user(&self, user: UserRecord, json: String) -> Result<(), StoreError> {
        let put = Arc::new((user, json));
        self.db
            .transact(move |transaction| {
                let put = Arc::clone(&put);
                async move {
                    let sql = "SELECT 1 FROM {s}.deleting WHERE user_id = $1";
                    if transaction.row(sql, &[params::id(put.0.id.to_bytes())]).await?.is_some() {
                        return Err(StoreError::Removing);
                    }
                    transaction.run(&[accounts::put_user(&put.0, put.1.clone())]).await.map(|_| ())
                }
            })
            .await
    }
}

async fn check_removed(
    transaction: &super::transaction::OpenTransaction,
    id: ConversationId,
) -> Result<(), StoreError> {
    let sql = "SELECT 1 FROM {s}.doomed WHERE conversation = $1";
    match transaction.row(sql, &[params::id(id.to_bytes())]).await? {
        Some(_) => Err(StoreError::Removing),
        None => Ok(()),
    }
}

#[async_trait]
impl RecordsStore for PgRecords {
    async fn store_id(&self) -> Result<String, StoreError> {
        let row = self.db.row("SELECT value FROM {s}.meta WHERE key = 'store_id'", Vec::new()).await?;
        Ok(row.map(|row| column(&row, 0)).transpose()?.unwrap_or_default())
    }

    async fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let name = KINDS[kind].name;
        let some =
            if matches!(name, "item" | "response" | "conversation") { limit.min(LARGE_ROWS) } else { limit };
        let (mut records, mut size) = (Vec::new(), 0);
        let mut after = after.map(<[u8]>::to_vec);
        loop {
            let (sql, params) = reading(name, after.as_deref())?;
            let rows = self.db.rows(&format!("{sql} LIMIT {some}"), params).await?;
            for row in &rows {
                let mut record = readable(record(kind, row))?;
                if name == "response"
                    && let Some(key) = record.take()
                {
                    let id = ResponseId::from_bytes(Key(&key.key).part(0)?);
                    let response = readable(self.responses.response(id).await)?.flatten();
                    record = response.map(|response| Record { value: encode(&response).into_bytes(), ..key });
                }
                let Some(record) = record else { continue };
                size += record.value.len();
                records.push(record);
                if records.len() >= limit || size >= bytes {
                    return Ok(records);
                }
            }
            let Some(last) = rows.last().filter(|_| rows.len() == some) else { return Ok(records) };
            after = Some(key_of(kind, last)?);
        }
    }

    async fn prepare(&self, record: Record) -> Result<PreparedRecord, StoreError> {
        match KINDS[record.kind].name {
            "item" if record.value.len() > MAX_INLINE_BYTES => {
                let item: ItemRecord = record.parse()?;
                let id = item.conversation;
                let StoredItem { node, body } = item.into_item();
                let staged = StagedRecord::Item(id, node, self.conversations.stage(&body).await?);
                return Ok(PreparedRecord { record: record.without_value(), staged: Some(staged) });
            }
            "response" => {}
            _ => return Ok(PreparedRecord { record, staged: None }),
        }
        let mut response: ResponseRecord = record.parse()?;
        // It may run in another server, but not in this one.
        if response.end.is_none() && self.responses.owner(response.id).await?.is_none() {
            response.end = Some(End::lost(now_s()));
        }
        let staged = self.responses.stage(&response).await?;
        Ok(PreparedRecord { record: record.without_value(), staged: Some(StagedRecord::Response(staged)) })
    }

    async fn put_prepared(&self, prepared: &PreparedRecord) -> Result<(), StoreError> {
        let record = &prepared.record;
        match &prepared.staged {
            Some(StagedRecord::Response(staged)) => {
                let put = ResponseChange::PutStaged(staged.clone());
                let statements = responses::statements(&self.responses.opening, &put)?;
                return self.db.execute_all(statements).await.map(|_| ());
            }
            Some(StagedRecord::Item(id, node, body)) => {
                let put = ConversationChange::PutStaged(*id, node.clone(), body.clone());
                if !self.put_item(*id, put).await? {
                    self.conversations.discard(body)?;
                }
                return Ok(());
            }
            None => {}
        }
        let json = || String::from_utf8_lossy(&record.value).into_owned();
        let statement = match KINDS[record.kind].name {
            "user" => return self.put_user(record.parse()?, json()).await,
            "conversation" => return self.put_conversation(record.parse()?).await,
            "item" => {
                let item: ItemRecord = record.parse()?;
                let id = item.conversation;
                return self
                    .put_item(id, ConversationChange::PutItem(id, item.into_item()))
                    .await
                    .map(|_| ());
            }
            "key" => accounts::put_key(&record.key, &record.parse::<ApiKeyRecord>()?, json()),
            "session" => sessions::put(&record.parse::<StoredSession>()?, json()),
            "usage" => usage::put(&record.parse::<UsageRow>()?),
            "audit" => audit::put(&[record.parse::<AuditRecord>()?]),
            other => return Err(unknown(other)),
        };
        self.db.execute_all(vec![statement]).await.map(|_| ())
    }

    async fn conflict(&self, record: &Record) -> Result<Option<UniqueKey>, StoreError> {
        for unique in record.unique_keys()? {
            let key = Key(&unique.key);
            let (sql, params) = match unique.index {
                "user_by_email" => (
                    "SELECT 1 FROM {s}.users WHERE email = $1 AND id <> $2",
                    vec![params::bytes(&unique.key), Key(&record.key).id(0)?],
                ),
                "user_by_external" => (
                    "SELECT 1 FROM {s}.users WHERE external = $1 AND id <> $2",
                    vec![params::bytes(&unique.key), Key(&record.key).id(0)?],
                ),
                "key_by_user" => (
                    "SELECT 1 FROM {s}.keys WHERE user_id = $1 AND id = $2 AND hash <> $3",
                    vec![key.id(0)?, key.id(16)?, params::bytes(&record.key)],
                ),
                // The id alone is a session's key.
                _ => continue,
            };
            if self.db.row(sql, params).await?.is_some() {
                return Ok(Some(unique));
            }
        }
        Ok(None)
    }

    async fn stored(&self, of: &Record) -> Result<Option<Vec<u8>>, StoreError> {
        let key = Key(&of.key);
        let (sql, params) = match KINDS[of.kind].name {
            "user" => ("SELECT record FROM {s}.users WHERE id = $1", vec![key.id(0)?]),
            "session" => ("SELECT record FROM {s}.sessions WHERE id = $1", vec![key.id(0)?]),
            "key" => ("SELECT record FROM {s}.keys WHERE hash = $1", vec![params::bytes(&of.key)]),
            "audit" => (
                "SELECT record FROM {s}.audit WHERE class = $1 AND id = $2",
                vec![params::small(key.part::<1>(0)?[0].into()), key.id(1)?],
            ),
            "conversation" => {
                let id = ConversationId::from_bytes(key.part(0)?);
                let talk = self.conversations.conversation(id).await?;
                return Ok(talk.map(|talk| encode(&talk).into_bytes()));
            }
            // Those are not stored in the form of an export.
            _ => return Ok(None),
        };
        let row = self.db.row(sql, params).await?;
        Ok(row.map(|row| column::<String>(&row, 0)).transpose()?.map(String::into_bytes))
    }

    async fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError> {
        if KINDS[record.kind].name != "item" {
            return record.named_owner();
        }
        let Some(key) = record.key.first_chunk::<16>() else { return Ok(None) };
        let conversation = self.conversations.conversation(ConversationId::from_bytes(*key)).await?;
        Ok(conversation.map(|conversation| conversation.user))
    }
}
