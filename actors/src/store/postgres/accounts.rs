//! Users and API keys in PostgreSQL.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::codec::{column, decode, encode, number};
use super::database::{Db, Statement};
use super::params;
use crate::identity::{ApiKeyRecord, ExternalId, KeyId, UserId, UserRecord};
use crate::store::{AccountChange, AccountsStore, KeyHash, StoreError, readable};

/// Rows read at a time where all are visited.
const PAGE: i64 = 1000;

/// Users and keys.
#[derive(Debug)]
pub struct PgAccounts(pub Db);

/// The key of an external identity in its index.
pub fn external_key(id: &ExternalId) -> Vec<u8> {
    [id.issuer.as_bytes(), &[0], id.subject.as_bytes()].concat()
}

fn user(row: &Row) -> Result<UserRecord, StoreError> {
    decode(|| "a user".to_owned(), &column::<String>(row, 0)?)
}

fn key(row: &Row) -> Result<(KeyHash, ApiKeyRecord), StoreError> {
    let hash: Vec<u8> = column(row, 0)?;
    let hash = KeyHash::try_from(hash.as_slice()).map_err(|_| StoreError::Value {
        what: "an API key".to_owned(),
        problem: format!("its hash has {} bytes, expected 32", hash.len()),
    })?;
    Ok((hash, decode(|| "an API key".to_owned(), &column::<String>(row, 1)?)?))
}

/// The readable ones of several rows.
pub fn keys(rows: &[Row]) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError> {
    rows.iter().filter_map(|row| readable(key(row)).transpose()).collect()
}

#[async_trait]
impl AccountsStore for PgAccounts {
    async fn user(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        let row = self.0.row("SELECT record FROM {s}.users WHERE id = $1", vec![params::id(id.to_bytes())]);
        row.await?.as_ref().map(user).transpose()
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        let sql = "SELECT record FROM {s}.users WHERE email = $1";
        self.0.row(sql, vec![params::bytes(email.as_bytes())]).await?.as_ref().map(user).transpose()
    }

    async fn user_by_external(&self, id: &ExternalId) -> Result<Option<UserRecord>, StoreError> {
        let sql = "SELECT record FROM {s}.users WHERE external = $1";
        self.0.row(sql, vec![params::bytes(&external_key(id))]).await?.as_ref().map(user).transpose()
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserRecord>, StoreError> {
        // Damaged records are left out, so a page may need more rows than it has.
        let (mut users, mut after) = (Vec::new(), after.map(UserId::to_bytes));
        while users.len() < limit {
            let sql =
                "SELECT record, id FROM {s}.users WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
            let left = limit - users.len();
            let rows = self.0.rows(sql, vec![params::maybe_id(after), params::number(left as u64)]).await?;
            for row in &rows {
                users.extend(readable(user(row))?);
            }
            if rows.len() < left {
                break;
            }
            after = rows.last().map(|row| super::codec::id(row, 1)).transpose()?;
        }
        Ok(users)
    }

    async fn key(&self, user: UserId, id: KeyId) -> Result<Option<(KeyHash, ApiKeyRecord)>, StoreError> {
        let sql = "SELECT hash, record FROM {s}.keys WHERE user_id = $1 AND id = $2";
        let row = self.0.row(sql, vec![params::id(user.to_bytes()), params::id(id.to_bytes())]).await?;
        row.as_ref().map(key).transpose()
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKeyRecord>, StoreError> {
        let sql = "SELECT hash, record FROM {s}.keys WHERE hash = $1";
        let row = self.0.row(sql, vec![params::bytes(hash)]).await?;
        Ok(row.as_ref().map(key).transpose()?.map(|(_, record)| record))
    }

    async fn keys(&self, user: UserId) -> Result<Vec<(KeyHash, ApiKeyRecord)>, StoreError> {
        let sql = "SELECT hash, record FROM {s}.keys WHERE user_id = $1 ORDER BY id";
        keys(&self.0.rows(sql, vec![params::id(user.to_bytes())]).await?)
    }

    async fn key_count(&self, user: UserId, at_most: usize) -> Result<usize, StoreError> {
        let sql = "SELECT count(*) FROM (SELECT FROM {s}.keys WHERE user_id = $1 LIMIT $2) AS counted";
        let row = self.0.row(sql, vec![params::id(user.to_bytes()), params::number(at_most as u64)]).await?;
        let count = row.as_ref().map(|row| number(row, 0)).transpose()?.unwrap_or_default();
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    async fn each_key(
        &self,
        visit: &mut (dyn FnMut(KeyHash, ApiKeyRecord) + Send),
    ) -> Result<(), StoreError> {
        let mut after: Vec<u8> = Vec::new();
        loop {
            let sql = "SELECT hash, record FROM {s}.keys WHERE hash > $1 ORDER BY hash LIMIT $2";
            let rows = self.0.rows(sql, vec![params::bytes(&after), params::signed(PAGE)]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = column(last, 0)?;
            keys(&rows)?.into_iter().for_each(|(hash, record)| visit(hash, record));
        }
    }
}

/// The statements of a change.
pub fn statements(change: &AccountChange) -> Vec<Statement> {
    match change {
        AccountChange::PutUser(record) => vec![put_user(record, encode(record))],
        AccountChange::DeleteUser(id) => vec![
            Statement::new("DELETE FROM {s}.users WHERE id = $1", vec![params::id(id.to_bytes())]),
            Statement::new(
                "INSERT INTO {s}.deleting (user_id) VALUES ($1) ON CONFLICT DO NOTHING",
                vec![params::id(id.to_bytes())],
            ),
        ],
        AccountChange::PutKey(hash, record) => vec![put_key(hash, record, encode(record))],
        AccountChange::DeleteKey(hash, _) => {
            vec![Statement::new("DELETE FROM {s}.keys WHERE hash = $1", vec![params::bytes(hash)])]
        }
    }
}

/// Creates or replaces a user.
pub fn put_user(user: &UserRecord, json: String) -> Statement {
    let external = user.external.as_ref().map(external_key);
    Statement::new(
        "INSERT INTO {s}.users (id, email, external, record) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET \
         email = EXCLUDED.email, external = EXCLUDED.external, record = EXCLUDED.record",
        vec![
            params::id(user.id.to_bytes()),
            params::maybe_bytes(user.email.as_deref().map(str::as_bytes)),
            params::maybe_bytes(external.as_deref()),
            params::text(json),
        ],
    )
}

/// Creates or replaces a key.
pub fn put_key(hash: &[u8], key: &ApiKeyRecord, json: String) -> Statement {
    Statement::new(
        "INSERT INTO {s}.keys (hash, user_id, id, record) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO UPDATE SET \
         user_id = EXCLUDED.user_id, id = EXCLUDED.id, record = EXCLUDED.record",
        vec![
            params::bytes(hash),
            params::id(key.user.to_bytes()),
            params::id(key.id.to_bytes()),
            params::text(json),
        ],
    )
}
