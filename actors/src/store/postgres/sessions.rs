//! Login sessions in PostgreSQL.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::codec::{column, decode, encode, id};
use super::database::{Db, Statement};
use super::params;
use crate::identity::{SessionId, UserId};
use crate::store::{SessionChange, SessionsStore, StoreError, StoredSession, readable};

/// Rows read at a time where all are visited.
const PAGE: i64 = 1000;

/// Sessions.
#[derive(Debug)]
pub struct PgSessions(pub Db);

fn session(row: &Row) -> Result<StoredSession, StoreError> {
    decode(|| "a session".to_owned(), &column::<String>(row, 0)?)
}

#[async_trait]
impl SessionsStore for PgSessions {
    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let sql = "SELECT record FROM {s}.sessions WHERE id = $1";
        self.0.row(sql, vec![params::id(id.to_bytes())]).await?.as_ref().map(session).transpose()
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<StoredSession>, StoreError> {
        let sql = "SELECT record FROM {s}.sessions WHERE user_id = $1 ORDER BY id";
        let rows = self.0.rows(sql, vec![params::id(user.to_bytes())]).await?;
        rows.iter().filter_map(|row| readable(session(row)).transpose()).collect()
    }

    async fn each_session(&self, visit: &mut (dyn FnMut(StoredSession) + Send)) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let sql =
                "SELECT record, id FROM {s}.sessions WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
            let rows = self.0.rows(sql, vec![params::maybe_id(after), params::signed(PAGE)]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(id(last, 1)?);
            for row in &rows {
                if let Some(session) = readable(session(row))? {
                    visit(session);
                }
            }
        }
    }
}

/// The statement of a change.
pub fn statement(change: &SessionChange) -> Statement {
    match change {
        SessionChange::Put(session) => put(session, encode(session)),
        SessionChange::End(_, id) => {
            Statement::new("DELETE FROM {s}.sessions WHERE id = $1", vec![params::id(id.to_bytes())])
        }
    }
}

/// Creates or replaces a session.
pub fn put(session: &StoredSession, json: String) -> Statement {
    Statement::new(
        "INSERT INTO {s}.sessions (id, user_id, record) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET \
         user_id = EXCLUDED.user_id, record = EXCLUDED.record",
        vec![params::id(session.id.to_bytes()), params::id(session.user.to_bytes()), params::text(json)],
    )
}
