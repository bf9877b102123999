//! Conversations and their items in PostgreSQL.
//!
//! The owner of a conversation is a column, which stands above the one in its record: data moves to another user in one
//! statement. A deletion removes the record and notes the conversation; its items are removed later, in steps.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::codec::{column, decode, encode, id, number};
use super::database::{Db, Statement};
use super::opening::Opening;
use super::params;
use crate::conversations::types::{ConversationRecord, Position, StoredItem};
use crate::conversations::{ConversationId, Node};
use crate::identity::UserId;
use crate::store::{
    ConversationChange, ConversationsStore, ListPart, StagedBody, StoreError, Used, readable,
};

/// Conversations.
#[derive(Debug)]
pub struct PgConversations {
    pub db: Db,
    pub opening: Arc<Opening>,
}

/// The record of a row of a conversation's owner and record.
pub fn record(row: &Row) -> Result<ConversationRecord, StoreError> {
    let record: ConversationRecord = decode(|| "a conversation".to_owned(), &column::<String>(row, 1)?)?;
    Ok(ConversationRecord { user: UserId::from_bytes(id(row, 0)?), ..record })
}

/// The columns of a [node].
const NODE: &str = "i.number, i.item_id, i.parent, i.created_at, i.deleted, i.pending";

/// The columns of an [item](item()).
pub const ITEM: &str =
    "i.number, i.item_id, i.parent, i.created_at, i.deleted, i.pending, coalesce(i.body, b.body)";

fn node(row: &Row) -> Result<Node, StoreError> {
    let damaged =
        |problem: &str| StoreError::Value { what: "an item".to_owned(), problem: problem.to_owned() };
    let small = |number: i64| u32::try_from(number).map_err(|_| damaged("its number is too large"));
    Ok(Node {
        number: small(column(row, 0)?)?,
        id: String::from_utf8(column(row, 1)?).map_err(|_| damaged("its id is no text"))?,
        parent: column::<Option<i64>>(row, 2)?.map(small).transpose()?,
        created_at: number(row, 3)?,
        deleted: column(row, 4)?,
        pending: column(row, 5)?,
    })
}

/// An item of a row of [`ITEM`].
pub fn item(row: &Row) -> Result<StoredItem, StoreError> {
    let node = node(row)?;
    let Some(body) = column::<Option<String>>(row, 6)? else {
        let problem = "a part of it is missing".to_owned();
        return Err(StoreError::Value { what: format!("item {}", node.id), problem });
    };
    let body = decode(|| format!("item {}", node.id), &body)?;
    Ok(StoredItem { node, body })
}

#[async_trait]
impl ConversationsStore for PgConversations {
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        let sql = "SELECT user_id, record FROM {s}.conversations WHERE id = $1";
        self.db.row(sql, vec![params::id(id.to_bytes())]).await?.as_ref().map(record).transpose()
    }

    async fn shared(&self, token: &str) -> Result<Option<ConversationId>, StoreError> {
        let sql = "SELECT id FROM {s}.conversations WHERE share = $1 LIMIT 1";
        let row = self.db.row(sql, vec![params::bytes(token.as_bytes())]).await?;
        Ok(row.map(|row| id(&row, 0)).transpose()?.map(ConversationId::from_bytes))
    }

    async fn list(
        &self,
        user: UserId,
        newer_than: Option<Position>,
        older_than: Option<Position>,
        newest_first: bool,
        limit: usize,
    ) -> Result<ListPart, StoreError> {
        // Of one moment, the smaller id counts as the newer one.
        let (time, id_order) = if newest_first { ("DESC", "ASC") } else { ("ASC", "DESC") };
        let sql = format!(
            "SELECT user_id, record, id, updated_us FROM {{s}}.conversations WHERE user_id = $1 \
             AND ($2::bigint IS NULL OR updated_us > $2 OR (updated_us = $2 AND id < $3)) \
             AND ($4::bigint IS NULL OR updated_us < $4 OR (updated_us = $4 AND id > $5)) \
             ORDER BY updated_us {time}, id {id_order} LIMIT $6"
        );
        let time =
            |position: Option<Position>| params::maybe_number(position.map(|position| position.updated_us));
        let place =
            |position: Option<Position>| params::maybe_id(position.map(|position| position.id.to_bytes()));
        let params = vec![
            params::id(user.to_bytes()),
            time(newer_than),
            place(newer_than),
            time(older_than),
            place(older_than),
            params::number((limit as u64).saturating_add(1)),
        ];
        let mut rows = self.db.rows(&sql, params).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let listed = |row: &Row| {
            // A damaged record is reported when it is requested by id; the others must remain visible.
            match record(row) {
                Ok(record) => Ok((record.position(), Some(record))),
                Err(StoreError::Value { .. }) => {
                    let id = ConversationId::from_bytes(id(row, 2)?);
                    Ok((Position { updated_us: number(row, 3)?, id }, None))
                }
                Err(error) => Err(error),
            }
        };
        Ok(ListPart { listed: rows.iter().map(listed).collect::<Result<_, _>>()?, has_more })
    }

    async fn nodes(&self, id: ConversationId) -> Result<Vec<Node>, StoreError> {
        let sql = format!("SELECT {NODE} FROM {{s}}.items i WHERE conversation = $1 ORDER BY number");
        self.db.rows(&sql, vec![params::id(id.to_bytes())]).await?.iter().map(node).collect()
    }

    async fn node(&self, id: ConversationId, number: u32) -> Result<Option<Node>, StoreError> {
        let sql = format!("SELECT {NODE} FROM {{s}}.items i WHERE conversation = $1 AND number = $2");
        let params = vec![params::id(id.to_bytes()), params::number(number.into())];
        self.db.row(&sql, params).await?.as_ref().map(node).transpose()
    }

    async fn node_and_size(&self, id: ConversationId, at: u32) -> Result<Option<(Node, u64)>, StoreError> {
        let sql =
            format!("SELECT {NODE}, i.bytes FROM {{s}}.items i WHERE conversation = $1 AND number = $2");
        let row = self.db.row(&sql, vec![params::id(id.to_bytes()), params::number(at.into())]).await?;
        row.map(|row| Ok((node(&row)?, number(&row, 6)?))).transpose()
    }

    async fn item(&self, id: ConversationId, number: u32) -> Result<Option<StoredItem>, StoreError> {
        let sql = format!(
            "SELECT {ITEM} FROM {{s}}.items i LEFT JOIN {{s}}.bodies b ON b.id = i.body_id \
             WHERE i.conversation = $1 AND i.number = $2"
        );
        let params = vec![params::id(id.to_bytes()), params::number(number.into())];
        self.db.row(&sql, params).await?.as_ref().map(item).transpose()
    }

    async fn items(&self, id: ConversationId, numbers: &[u32]) -> Result<Vec<StoredItem>, StoreError> {
        let sql = format!(
            "SELECT {ITEM} FROM unnest($2::bigint[]) WITH ORDINALITY AS asked (number, place) \
             JOIN {{s}}.items i ON i.conversation = $1 AND i.number = asked.number \
             LEFT JOIN {{s}}.bodies b ON b.id = i.body_id ORDER BY asked.place"
        );
        let numbers = params::numbers(numbers.iter().map(|&number| number.into()));
        self.db.rows(&sql, vec![params::id(id.to_bytes()), numbers]).await?.iter().map(item).collect()
    }

    async fn item_number(&self, id: ConversationId, item: &str) -> Result<Option<u32>, StoreError> {
        let sql = "SELECT number FROM {s}.items WHERE conversation = $1 AND item_id = $2 ORDER BY number DESC LIMIT 1";
        let row = self.db.row(sql, vec![params::id(id.to_bytes()), params::bytes(item.as_bytes())]).await?;
        let number = row.map(|row| number(&row, 0)).transpose()?;
        Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
    }

    async fn stage(&self, body: &Map<String, Value>) -> Result<StagedBody, StoreError> {
        let (staged, json) = (Uuid::now_v7(), encode(body));
        self.db.uncounted().execute_all(vec![stage_body(&self.opening, staged, json)]).await?;
        Ok(StagedBody::new(self.opening.token(&staged)))
    }

    fn discard(&self, staged: &StagedBody) -> Result<(), StoreError> {
        self.opening.discard(self.opening.staged::<Uuid>(staged.token())?);
        Ok(())
    }
}

/// Writes a body that nothing refers to yet.
pub fn stage_body(opening: &Opening, id: Uuid, json: String) -> Statement {
    Statement::new(
        "INSERT INTO {s}.bodies (id, epoch, bytes, body) VALUES ($1, $2, $3, $4)",
        vec![
            params::id(id.into_bytes()),
            params::id(opening.epoch.into_bytes()),
            params::number(json.len() as u64),
            params::text(json),
        ],
    )
}

/// Keeps a staged body, since something refers to it from now on.
pub fn keep_body(opening: &Opening, id: Uuid) -> Statement {
    Statement::of_one_row(
        "UPDATE {s}.bodies SET epoch = NULL WHERE id = $1 AND epoch = $2",
        vec![params::id(id.into_bytes()), params::id(opening.epoch.into_bytes())],
    )
}

/// The statements of a change.
///
/// # Errors
/// A token is of another opening.
pub fn statements(opening: &Opening, change: &ConversationChange) -> Result<Vec<Statement>, StoreError> {
    Ok(match change {
        ConversationChange::Put(record) => vec![put(record)],
        ConversationChange::PutItem(id, item) => vec![put_item(*id, item)],
        ConversationChange::PutStaged(id, node, staged) => {
            let body: Uuid = opening.staged(staged.token())?;
            vec![
                keep_body(opening, body),
                Statement::of_one_row(
                    "INSERT INTO {s}.items (conversation, number, item_id, parent, created_at, deleted, pending, bytes, \
                     body, body_id) SELECT $1, $2, $3, $4, $5, $6, $7, bytes, NULL, id FROM {s}.bodies WHERE id = $8 \
                     ON CONFLICT (conversation, number) DO UPDATE SET item_id = EXCLUDED.item_id, \
                     parent = EXCLUDED.parent, created_at = EXCLUDED.created_at, deleted = EXCLUDED.deleted, \
                     pending = EXCLUDED.pending, bytes = EXCLUDED.bytes, body = NULL, body_id = EXCLUDED.body_id",
                    [node_params(*id, node), vec![params::id(body.into_bytes())]]
                        .into_iter()
                        .flatten()
                        .collect(),
                ),
            ]
        }
        ConversationChange::Delete(id) => {
            let id = || vec![params::id(id.to_bytes())];
            vec![
                Statement::new("DELETE FROM {s}.conversations WHERE id = $1", id()),
                Statement::new(
                    "INSERT INTO {s}.doomed (conversation) VALUES ($1) ON CONFLICT DO NOTHING",
                    id(),
                ),
            ]
        }
    })
}

fn node_params(id: ConversationId, node: &Node) -> Vec<params::Param> {
    vec![
        params::id(id.to_bytes()),
        params::number(node.number.into()),
        params::bytes(node.id.as_bytes()),
        params::maybe_number(node.parent.map(u64::from)),
        params::number(node.created_at),
        params::flag(node.deleted),
        params::flag(node.pending),
    ]
}

/// Creates or replaces a conversation.
pub fn put(record: &ConversationRecord) -> Statement {
    Statement::new(
        "INSERT INTO {s}.conversations (id, user_id, updated_us, share, used_bytes, record) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id, \
         updated_us = EXCLUDED.updated_us, share = EXCLUDED.share, used_bytes = EXCLUDED.used_bytes, \
         record = EXCLUDED.record",
        vec![
            params::id(record.id.to_bytes()),
            params::id(record.user.to_bytes()),
            params::number(record.updated_us),
            params::maybe_bytes(record.share.as_ref().map(|share| share.token.as_bytes())),
            params::signed(Used::of_conversation(record).bytes),
            params::text(encode(record)),
        ],
    )
}

/// Creates or replaces an item.
pub fn put_item(id: ConversationId, item: &StoredItem) -> Statement {
    let json = encode(&item.body);
    let mut params = node_params(id, &item.node);
    params.push(params::number(json.len() as u64));
    params.push(params::text(json));
    Statement::new(
        "INSERT INTO {s}.items (conversation, number, item_id, parent, created_at, deleted, pending, bytes, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (conversation, number) DO UPDATE SET \
         item_id = EXCLUDED.item_id, parent = EXCLUDED.parent, created_at = EXCLUDED.created_at, \
         deleted = EXCLUDED.deleted, pending = EXCLUDED.pending, bytes = EXCLUDED.bytes, body = EXCLUDED.body, \
         body_id = NULL",
        params,
    )
}

/// Moves up to `limit` of a user's conversations to another user.
pub fn moving(from: UserId, to: UserId, limit: i64) -> Statement {
    Statement::new(
        "UPDATE {s}.conversations SET user_id = $2 WHERE id IN (SELECT id FROM {s}.conversations WHERE user_id = $1 \
         ORDER BY id LIMIT $3 FOR UPDATE)",
        vec![params::id(from.to_bytes()), params::id(to.to_bytes()), params::signed(limit)],
    )
}

/// Deletes up to `limit` of a user's conversations.
pub fn deleting(user: UserId, limit: i64) -> Statement {
    Statement::new(
        "WITH gone AS (DELETE FROM {s}.conversations WHERE id IN (SELECT id FROM {s}.conversations WHERE user_id = $1 \
         ORDER BY id LIMIT $2 FOR UPDATE) RETURNING id) \
         INSERT INTO {s}.doomed (conversation) SELECT id FROM gone ORDER BY id ON CONFLICT DO NOTHING",
        vec![params::id(user.to_bytes()), params::signed(limit)],
    )
}

/// The readable conversation of that id, locked against changes until the transaction ends.
pub async fn locked(
    transaction: &super::transaction::OpenTransaction,
    id: ConversationId,
) -> Result<Option<ConversationRecord>, StoreError> {
    let sql = "SELECT user_id, record FROM {s}.conversations WHERE id = $1 FOR UPDATE";
    let row = transaction.row(sql, &[params::id(id.to_bytes())]).await?;
    Ok(row.map(|row| readable(record(&row))).transpose()?.flatten())
}
