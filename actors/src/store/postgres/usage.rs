//! Token usage in PostgreSQL: sums by owner, day, API key and model.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio_postgres::Row;

use super::codec::{column, id, number};
use super::database::{Db, Statement};
use super::params::{self, Param};
use crate::identity::{KeyId, UserId};
use crate::store::usage::UsageRow;
use crate::store::{StoreError, UsageStore};
use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey, UsageOwner};

/// Rows read at a time where all are visited.
const PAGE: i64 = 1000;

/// Usage.
#[derive(Debug)]
pub struct PgUsage(pub Db);

/// The columns of a row.
pub const COLUMNS: &str =
    "owner, day, api_key, model, requests, prompt_tokens, cached_tokens, completion_tokens";

/// The owner of those 16 bytes.
fn owner(bytes: [u8; 16]) -> UsageOwner {
    [UsageOwner::Anonymous, UsageOwner::Deleted]
        .into_iter()
        .find(|owner| owner.to_bytes() == bytes)
        .unwrap_or(UsageOwner::User(UserId::from_bytes(bytes)))
}

/// A row of [`COLUMNS`].
pub fn usage_row(row: &Row) -> Result<UsageRow, StoreError> {
    let (key, model): ([u8; 16], Vec<u8>) = (id(row, 2)?, column(row, 3)?);
    let model = String::from_utf8(model).map_err(|_| StoreError::Value {
        what: "a row of usage".to_owned(),
        problem: "its model is no text".to_owned(),
    })?;
    Ok(UsageRow {
        key: UsageKey {
            user: owner(id(row, 0)?),
            day: Day::from_number(u32::try_from(number(row, 1)?).unwrap_or(u32::MAX)),
            key: (key != [0; 16]).then(|| KeyId::from_bytes(key)),
            model: model.into(),
        },
        counts: UsageCounts {
            requests: number(row, 4)?,
            prompt_tokens: number(row, 5)?,
            cached_tokens: number(row, 6)?,
            completion_tokens: number(row, 7)?,
        },
    })
}

fn api_key(key: &UsageKey) -> [u8; 16] {
    key.key.map_or([0; 16], KeyId::to_bytes)
}

/// The columns of rows, each as a list.
fn lists(rows: &BTreeMap<UsageKey, UsageCounts>) -> Vec<Param> {
    let counts = |count: fn(&UsageCounts) -> u64| params::numbers(rows.values().map(count));
    vec![
        params::ids(rows.keys().map(|key| key.user.to_bytes())),
        params::numbers(rows.keys().map(|key| u64::from(key.day.number()))),
        params::ids(rows.keys().map(api_key)),
        params::many_bytes(rows.keys().map(|key| key.model.as_bytes().to_vec()).collect()),
        counts(|counts| counts.requests),
        counts(|counts| counts.prompt_tokens),
        counts(|counts| counts.cached_tokens),
        counts(|counts| counts.completion_tokens),
    ]
}

/// Adds to a stored row; beyond the largest number, it is the largest.
macro_rules! adding {
    () => {
        "ON CONFLICT (owner, day, api_key, model) DO UPDATE SET \
         requests = LEAST(u.requests::numeric + EXCLUDED.requests, 9223372036854775807)::bigint, \
         prompt_tokens = LEAST(u.prompt_tokens::numeric + EXCLUDED.prompt_tokens, 9223372036854775807)::bigint, \
         cached_tokens = LEAST(u.cached_tokens::numeric + EXCLUDED.cached_tokens, 9223372036854775807)::bigint, \
         completion_tokens = \
         LEAST(u.completion_tokens::numeric + EXCLUDED.completion_tokens, 9223372036854775807)::bigint"
    };
}

#[async_trait]
impl UsageStore for PgUsage {
    async fn add(&self, batch: BatchId, rows: &[(UsageKey, UsageCounts)]) -> Result<(), StoreError> {
        let mut sums: BTreeMap<UsageKey, UsageCounts> = BTreeMap::new();
        for (key, counts) in rows {
            sums.entry(key.clone()).or_default().add(counts);
        }
        let mut params = lists(&sums);
        params.push(params::id(batch.buffer.into_bytes()));
        params.push(params::number(batch.number));
        // In the order of keys, so that servers that add to the same rows do not wait for each other in a circle.
        let sql = concat!(
            "WITH new AS (INSERT INTO {s}.usage_batch AS b (buffer, number) VALUES ($9, $10) ON CONFLICT (buffer) \
             DO UPDATE SET number = EXCLUDED.number, added_at = now() WHERE b.number < EXCLUDED.number RETURNING 1) \
             INSERT INTO {s}.usage AS u (owner, day, api_key, model, requests, prompt_tokens, cached_tokens, \
             completion_tokens) SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) AS more (a, b, c, d, e, f, g, h) \
             WHERE EXISTS (SELECT FROM new) ORDER BY a, b, c, d ",
            adding!()
        );
        self.0.execute(sql, params).await.map(|_| ())
    }

    async fn rows(
        &self,
        filter: &UsageFilter,
        visit: &mut (dyn for<'a> FnMut(&'a UsageKey, &'a UsageCounts) + Send),
    ) -> Result<(), StoreError> {
        if filter.start > filter.end {
            return Ok(());
        }
        let mut after: Option<UsageRow> = None;
        loop {
            let rows = page(&self.0, filter, after.as_ref(), PAGE).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.clone());
            rows.iter().for_each(|row| visit(&row.key, &row.counts));
        }
    }
}

/// Rows of a filter behind another row, in the order of keys.
async fn page(
    db: &Db,
    filter: &UsageFilter,
    after: Option<&UsageRow>,
    limit: i64,
) -> Result<Vec<UsageRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {{s}}.usage WHERE ($1::uuid IS NULL OR owner = $1) AND day BETWEEN $2 AND $3 \
         AND ($4::uuid IS NULL OR (owner, day, api_key, model) > ($4, $5, $6, $7)) \
         ORDER BY owner, day, api_key, model LIMIT $8"
    );
    let after = after.map(|row| &row.key);
    let params = vec![
        params::maybe_id(filter.user.map(UsageOwner::to_bytes)),
        params::number(filter.start.number().into()),
        params::number(filter.end.number().into()),
        params::maybe_id(after.map(|key| key.user.to_bytes())),
        params::maybe_number(after.map(|key| key.day.number().into())),
        params::maybe_id(after.map(api_key)),
        params::maybe_bytes(after.map(|key| key.model.as_bytes())),
        params::signed(limit),
    ];
    db.rows(&sql, params).await?.iter().map(usage_row).collect()
}

/// Moves up to `limit` of a user's rows to another owner, without their API keys.
pub fn moving(from: UserId, to: UsageOwner, limit: i64) -> Statement {
    let sql = concat!(
        "WITH gone AS (DELETE FROM {s}.usage WHERE (owner, day, api_key, model) IN (SELECT owner, day, api_key, model \
         FROM {s}.usage WHERE owner = $1 ORDER BY owner, day, api_key, model LIMIT $3 FOR UPDATE) RETURNING *) \
         INSERT INTO {s}.usage AS u (owner, day, api_key, model, requests, prompt_tokens, cached_tokens, \
         completion_tokens) SELECT $2, day, '00000000-0000-0000-0000-000000000000'::uuid, model, \
         LEAST(sum(requests), 9223372036854775807)::bigint, LEAST(sum(prompt_tokens), 9223372036854775807)::bigint, \
         LEAST(sum(cached_tokens), 9223372036854775807)::bigint, \
         LEAST(sum(completion_tokens), 9223372036854775807)::bigint FROM gone GROUP BY day, model ORDER BY day, model ",
        adding!()
    );
    Statement::new(sql, vec![params::id(from.to_bytes()), params::id(to.to_bytes()), params::signed(limit)])
}

/// Creates or replaces a row.
pub fn put(row: &UsageRow) -> Statement {
    let UsageRow { key, counts } = row;
    Statement::new(
        "INSERT INTO {s}.usage (owner, day, api_key, model, requests, prompt_tokens, cached_tokens, completion_tokens) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (owner, day, api_key, model) DO UPDATE SET \
         requests = EXCLUDED.requests, prompt_tokens = EXCLUDED.prompt_tokens, \
         cached_tokens = EXCLUDED.cached_tokens, completion_tokens = EXCLUDED.completion_tokens",
        vec![
            params::id(key.user.to_bytes()),
            params::number(key.day.number().into()),
            params::id(api_key(key)),
            params::bytes(key.model.as_bytes()),
            params::number(counts.requests),
            params::number(counts.prompt_tokens),
            params::number(counts.cached_tokens),
            params::number(counts.completion_tokens),
        ],
    )
}
