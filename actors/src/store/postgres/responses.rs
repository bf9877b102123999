//! Stored responses in PostgreSQL.
//!
//! A response refers to its request and, once it has ended, to a body with its result. A request that continues that of an
//! earlier response refers to it instead of repeating its items; the earlier one then stays for as long as it is referred
//! to, whatever becomes of its response (the triggers of `functions.sql`).

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::codec::{column, decode, encode, id};
use super::conversations::{keep_body, stage_body};
use super::database::{Db, Statement};
use super::opening::Opening;
use super::params;
use crate::identity::UserId;
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::store::{ResponseChange, ResponsesStore, Staged, StagedEnd, StoreError, Used, readable};

/// Maximum number of requests that one response is read from: beyond it, the history is stored again.
const MAX_DEPTH: i32 = 256;

/// Responses deleted or moved in one step.
pub const PER_STEP: i64 = 16;

/// Responses.
#[derive(Debug)]
pub struct PgResponses {
    pub db: Db,
    pub opening: Arc<Opening>,
}

/// A request, with the items since the one that it continues.
#[derive(Deserialize)]
struct Request {
    created_at: u64,
    background: bool,
    shown: Value,
    history: Vec<Value>,
    input: Vec<Value>,
}

#[derive(Serialize)]
struct NewRequest<'a> {
    created_at: u64,
    background: bool,
    shown: &'a Value,
    history: &'a [Value],
    input: &'a [Value],
}

/// The result of a response.
#[derive(Serialize, Deserialize)]
struct Outcome {
    deltas: Vec<Delta>,
    end: End,
}

/// The contents of a token of a staged response.
#[derive(Serialize, Deserialize)]
struct StagedResponse {
    request: Uuid,
    result: Option<Uuid>,
}

/// The contents of a token of a staged result.
#[derive(Serialize, Deserialize)]
struct StagedResult {
    id: Uuid,
    bytes: u64,
}

/// The requests that a response is read from, the oldest first, and its owner and result.
const READ: &str = "WITH RECURSIVE head AS (SELECT user_id, request, result FROM {s}.responses WHERE id = $1), \
    chain AS (SELECT q.id, q.before, q.body, q.depth, 0 AS step FROM {s}.requests q JOIN head ON q.id = head.request \
    UNION ALL SELECT q.id, q.before, q.body, q.depth, c.step + 1 FROM {s}.requests q JOIN chain c ON q.id = c.before) \
    SELECT head.user_id, head.request, chain.depth, chain.body, \
    CASE WHEN chain.step = 0 THEN (SELECT b.body FROM {s}.bodies b WHERE b.id = head.result) END, \
    head.result IS NOT NULL FROM head JOIN chain ON true ORDER BY chain.step DESC";

/// A response as it is stored.
struct Found {
    user: UserId,
    request: [u8; 16],
    depth: i32,
    whole: Request,
    result: Option<Outcome>,
}

fn found(what: ResponseId, rows: &[Row]) -> Result<Option<Found>, StoreError> {
    let Some(last) = rows.last() else { return Ok(None) };
    let mut history = Vec::new();
    let mut whole: Option<Request> = None;
    for row in rows {
        // The items of those before come first.
        if let Some(earlier) = whole.take() {
            history.extend(earlier.history.into_iter().chain(earlier.input));
        }
        whole = Some(decode(|| what.to_string(), &column::<String>(row, 3)?)?);
    }
    let Some(mut whole) = whole else { return Ok(None) };
    history.append(&mut whole.history);
    whole.history = history;
    let result = column::<Option<String>>(last, 4)?;
    if column::<bool>(last, 5)? && result.is_none() {
        return Err(StoreError::Value {
            what: what.to_string(),
            problem: "its result is missing".to_owned(),
        });
    }
    Ok(Some(Found {
        user: UserId::from_bytes(id(last, 0)?),
        request: id(last, 1)?,
        depth: column(last, 2)?,
        whole,
        result: result.map(|json| decode(|| what.to_string(), &json)).transpose()?,
    }))
}

impl PgResponses {
    async fn find(&self, what: ResponseId) -> Result<Option<Found>, StoreError> {
        found(what, &self.db.rows(READ, vec![params::id(what.to_bytes())]).await?)
    }

    /// The request that a response may refer to for the beginning of its history, its depth, and the number of items there.
    async fn continued(&self, record: &ResponseRecord) -> Result<Option<([u8; 16], i32, usize)>, StoreError> {
        let previous = record.shown["previous_response_id"].as_str().and_then(|id| id.parse().ok());
        let Some(previous) = previous else { return Ok(None) };
        let Some(found) = readable(self.find(previous).await)?.flatten() else { return Ok(None) };
        let items = found.whole.history.len() + found.whole.input.len();
        // The caller's history may differ from that of the response it names.
        let same = found.user == record.user
            && found.depth < MAX_DEPTH
            && items > 0
            && items <= record.history.len()
            && found.whole.history.iter().chain(&found.whole.input).eq(&record.history[..items]);
        Ok(same.then_some((found.request, found.depth, items)))
    }

    async fn ids(
        &self,
        sql: &'static str,
        params: Vec<params::Param>,
    ) -> Result<Vec<ResponseId>, StoreError> {
        let rows = self.db.rows(sql, params).await?;
        rows.iter().map(|row| Ok(ResponseId::from_bytes(id(row, 0)?))).collect()
    }
}

#[async_trait]
impl ResponsesStore for PgResponses {
    async fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        let Some(Found { user, whole, result, .. }) = self.find(id).await? else { return Ok(None) };
        let Request { created_at, background, shown, history, input } = whole;
        let (deltas, end) = result.map_or((Vec::new(), None), |result| (result.deltas, Some(result.end)));
        let record = ResponseRecord::new(user, created_at, shown);
        Ok(Some(ResponseRecord { id, background, history, input, deltas, end, ..record }))
    }

    async fn owner(&self, of: ResponseId) -> Result<Option<UserId>, StoreError> {
        let sql = "SELECT user_id FROM {s}.responses WHERE id = $1";
        let row = self.db.row(sql, vec![params::id(of.to_bytes())]).await?;
        Ok(row.map(|row| id(&row, 0)).transpose()?.map(UserId::from_bytes))
    }

    async fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        let sql = "SELECT id FROM {s}.responses WHERE user_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3";
        let after = params::maybe_id(after.map(ResponseId::to_bytes));
        self.ids(sql, vec![params::id(user.to_bytes()), after, params::number(limit as u64)]).await
    }

    async fn running(&self) -> Result<Vec<ResponseId>, StoreError> {
        // Those that another server runs are left to it for as long as it says that it lives.
        let sql = "SELECT id FROM {s}.responses r WHERE result IS NULL AND NOT EXISTS (SELECT FROM {s}.server s \
                   WHERE s.id = r.server AND s.id <> $1 AND s.running AND NOT s.temporary \
                   AND s.seen_at > now() - interval '30 s') ORDER BY id";
        self.ids(sql, vec![params::id(self.opening.server.into_bytes())]).await
    }

    async fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError> {
        // The first 48 bits of an id are its milliseconds.
        let millis = epoch_s.saturating_mul(1000).min((1 << 48) - 1).to_be_bytes();
        let mut bound = [0; 16];
        bound[..6].copy_from_slice(&millis[2..]);
        let sql = "SELECT id FROM {s}.responses WHERE id < $1 ORDER BY id LIMIT $2";
        self.ids(sql, vec![params::id(bound), params::number(limit as u64)]).await
    }

    async fn owners(&self) -> Result<Vec<UserId>, StoreError> {
        // A look at the index for each user, rather than at every response.
        let sql = "WITH RECURSIVE owner AS (\
                   (SELECT user_id FROM {s}.responses ORDER BY user_id LIMIT 1) UNION ALL \
                   SELECT (SELECT r.user_id FROM {s}.responses r WHERE r.user_id > owner.user_id ORDER BY r.user_id LIMIT 1) \
                   FROM owner WHERE owner.user_id IS NOT NULL) \
                   SELECT user_id FROM owner WHERE user_id IS NOT NULL ORDER BY user_id";
        let rows = self.db.rows(sql, Vec::new()).await?;
        rows.iter().map(|row| Ok(UserId::from_bytes(id(row, 0)?))).collect()
    }

    async fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError> {
        let ResponseRecord {
            id: response,
            user,
            created_at,
            background,
            ref shown,
            ref history,
            ref input,
            ..
        } = *record;
        let mut before = self.continued(record).await?;
        loop {
            let items = before.map_or(0, |(_, _, items)| items);
            let body =
                encode(&NewRequest { created_at, background, shown, history: &history[items..], input });
            let staged = StagedResponse {
                request: Uuid::now_v7(),
                result: record.end.as_ref().map(|_| Uuid::now_v7()),
            };
            let mut bytes = body.len() as u64;
            let mut statements = vec![Statement::new(
                "INSERT INTO {s}.requests (id, user_id, before, depth, bytes, epoch, body) \
                 VALUES ($1, $2, $3, $4::bigint::integer, $5, $6, $7)",
                vec![
                    params::id(staged.request.into_bytes()),
                    params::id(user.to_bytes()),
                    params::maybe_id(before.map(|(id, _, _)| id)),
                    params::signed(before.map_or(1, |(_, depth, _)| i64::from(depth) + 1)),
                    params::number(bytes),
                    params::id(self.opening.epoch.into_bytes()),
                    params::text(body),
                ],
            )];
            if let (Some(result), Some(end)) = (staged.result, &record.end) {
                let json = encode(&Outcome { deltas: record.deltas.clone(), end: end.clone() });
                bytes += json.len() as u64;
                statements.push(stage_body(&self.opening, result, json));
            }
            match self.db.uncounted().execute_all(statements).await {
                Ok(_) => {
                    let token = self.opening.token(&staged);
                    return Ok(Staged::new(response, user, Used::of_response(bytes), token));
                }
                // The one that it continues was deleted meanwhile, so that it has to be whole.
                Err(StoreError::Conflict) if before.is_some() => before = None,
                Err(error) => return Err(error),
            }
        }
    }

    async fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError> {
        let (id, json) = (Uuid::now_v7(), encode(&Outcome { deltas, end }));
        let bytes = json.len() as u64;
        self.db.uncounted().execute_all(vec![stage_body(&self.opening, id, json)]).await?;
        Ok(StagedEnd::new(self.opening.token(&StagedResult { id, bytes })))
    }

    fn discard(&self, staged: &Staged) -> Result<(), StoreError> {
        let StagedResponse { request, result } = self.opening.staged(staged.token())?;
        self.opening.discard(request);
        result.into_iter().for_each(|result| self.opening.discard(result));
        Ok(())
    }

    async fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        let deleted = self.db.execute_all(vec![deleting(user, PER_STEP)]).await?[0];
        Ok(deleted < PER_STEP as u64)
    }
}

/// The statements of a change.
///
/// # Errors
/// A token is of another opening.
pub fn statements(opening: &Opening, change: &ResponseChange) -> Result<Vec<Statement>, StoreError> {
    Ok(match change {
        ResponseChange::PutStaged(staged) => {
            let StagedResponse { request, result } = opening.staged(staged.token())?;
            let mut statements = vec![
                Statement::of_one_row(
                    "UPDATE {s}.requests SET epoch = NULL WHERE id = $1 AND epoch = $2",
                    vec![params::id(request.into_bytes()), params::id(opening.epoch.into_bytes())],
                ),
                deletion(staged.id()),
            ];
            statements.extend(result.map(|result| keep_body(opening, result)));
            statements.push(Statement::new(
                "INSERT INTO {s}.responses (id, user_id, request, result, used_bytes, server) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
                vec![
                    params::id(staged.id().to_bytes()),
                    params::id(staged.user().to_bytes()),
                    params::id(request.into_bytes()),
                    params::maybe_id(result.map(Uuid::into_bytes)),
                    params::signed(staged.used().bytes),
                    params::id(opening.server.into_bytes()),
                ],
            ));
            statements
        }
        ResponseChange::End(id, staged) => {
            let StagedResult { id: result, bytes } = opening.staged(staged.token())?;
            let ids = || vec![params::id(id.to_bytes()), params::id(result.into_bytes())];
            let mut more = ids();
            more.push(params::number(bytes));
            vec![
                keep_body(opening, result),
                Statement::new(
                    "UPDATE {s}.responses r SET result = $2, used_bytes = used_bytes + $3 - \
                     coalesce((SELECT b.bytes FROM {s}.bodies b WHERE b.id = r.result), 0) WHERE id = $1",
                    more,
                ),
                // A response that was deleted stays deleted.
                Statement::new(
                    "DELETE FROM {s}.bodies WHERE id = $2 AND NOT EXISTS \
                     (SELECT FROM {s}.responses r WHERE r.id = $1 AND r.result = $2)",
                    ids(),
                ),
            ]
        }
        ResponseChange::Delete(id) => vec![deletion(*id)],
    })
}

fn deletion(id: ResponseId) -> Statement {
    Statement::new("DELETE FROM {s}.responses WHERE id = $1", vec![params::id(id.to_bytes())])
}

/// Deletes up to `limit` of a user's responses.
pub fn deleting(user: UserId, limit: i64) -> Statement {
    Statement::new(
        "DELETE FROM {s}.responses WHERE id IN (SELECT id FROM {s}.responses WHERE user_id = $1 ORDER BY id LIMIT $2 \
         FOR UPDATE)",
        vec![params::id(user.to_bytes()), params::signed(limit)],
    )
}

/// Moves up to `limit` of a user's responses, and of their requests, to another user.
pub fn moving(from: UserId, to: UserId, limit: i64) -> Vec<Statement> {
    let params = || vec![params::id(from.to_bytes()), params::id(to.to_bytes()), params::signed(limit)];
    vec![
        Statement::new(
            "UPDATE {s}.responses SET user_id = $2 WHERE id IN (SELECT id FROM {s}.responses WHERE user_id = $1 \
             ORDER BY id LIMIT $3 FOR UPDATE)",
            params(),
        ),
        Statement::new(
            "UPDATE {s}.requests SET user_id = $2 WHERE id IN (SELECT id FROM {s}.requests WHERE user_id = $1 \
             ORDER BY id LIMIT $3 FOR UPDATE)",
            params(),
        ),
    ]
}
