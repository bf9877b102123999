//! Transactions that stay open over several calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future::{join, join_all};
use tokio::sync::Mutex;
use tokio_postgres::Row;

use super::database::{CommitCount, Database, Lane, Statement, borrowed, runtime, timed};
use super::errors::{is_conflict, is_disconnect, store_error};
use super::params::Param;
use crate::store::StoreError;

/// Statements sent to the database before the first answer.
const PIPELINED: usize = 24;

/// Time to roll back; a connection that takes longer is closed, which does the same.
const ROLLBACK: Duration = Duration::from_secs(2);

/// The changes of others that a transaction sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what is committed when it begins.
    ReadCommitted,
    /// All statements see one state, and nothing is written.
    Snapshot,
    /// As if no other transaction ran beside it, or else it conflicts.
    Serializable,
    /// The same, while no other decision is under way: it conflicts with none.
    Alone,
}

/// An open transaction on a connection of the pool. Dropped without a commit, it is rolled back.
pub struct OpenTransaction {
    database: Arc<Database>,
    /// `None`: it has ended.
    client: Mutex<Option<Object>>,
    /// `true` if a statement failed, after which a commit would be none.
    failed: AtomicBool,
    conflicted: AtomicBool,
}

impl fmt::Debug for OpenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTransaction").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl OpenTransaction {
    /// Begins a transaction, on the runtime of the connections.
    ///
    /// # Errors
    /// The database failed.
    pub async fn begin(
        database: &Arc<Database>,
        lane: Lane,
        isolation: Isolation,
    ) -> Result<Self, StoreError> {
        let level = match isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::Snapshot => "REPEATABLE READ READ ONLY",
            Isolation::Serializable | Isolation::Alone => "SERIALIZABLE",
        };
        let ms = database.statement_timeout.as_millis();
        // Many commits share one sync, for which the commit thread waits before it answers anybody.
        let mut begin = format!(
            "BEGIN ISOLATION LEVEL {level}; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {ms}; SET LOCAL synchronous_commit = off"
        );
        // LOCK takes no snapshot, so one that waited sees what its rivals committed meanwhile. A scan of a whole table, which
        // the planner prefers for small ones, would conflict with any change of it.
        match isolation {
            Isolation::Serializable => {
                begin += "; SET LOCAL enable_seqscan = off; LOCK TABLE {s}.decision IN ROW SHARE MODE";
            }
            Isolation::Alone => begin += "; LOCK TABLE {s}.decision IN EXCLUSIVE MODE",
            Isolation::ReadCommitted | Isolation::Snapshot => {}
        }
        let begin = database.sql(&begin);
        let mut tries = 0;
        loop {
            let mut client = Some(database.client(lane).await?);
            match timed!(database, client, |client| client.batch_execute(&begin)) {
                Ok(()) => {
                    return Ok(Self {
                        database: Arc::clone(database),
                        client: Mutex::new(client),
                        failed: false.into(),
                        conflicted: false.into(),
                    });
                }
                // Cut while it was idle: nothing has begun.
                Err(error) if is_disconnect(&error) && tries < 2 => {
                    tries += 1;
                    drop(client.map(Object::take));
                }
                Err(error) => {
                    drop(client.map(Object::take));
                    return Err(store_error(&error));
                }
            }
        }
    }

    /// Returns whether a statement met a change of another transaction, so that all of it is to be repeated.
    pub fn has_conflicted(&self) -> bool {
        self.conflicted.load(Ordering::Acquire)
    }

    fn note(&self, error: &tokio_postgres::Error) -> StoreError {
        self.failed.store(true, Ordering::Release);
        if is_conflict(error) {
            self.conflicted.store(true, Ordering::Release);
        }
        store_error(error)
    }

    /// Reads rows.
    ///
    /// # Errors
    /// The database failed, or [`StoreError::Conflict`].
    pub async fn rows(&self, sql: &str, params: &[Param]) -> Result<Vec<Row>, StoreError> {
        let mut client = self.client.lock().await;
        let params = borrowed(params);
        let outcome = timed!(self.database, client, |client| client.query_typed(sql, &params));
        outcome.map_err(|error| self.note(&error))
    }

    /// Reads a row by a statement with a schema in it.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub async fn row(&self, sql: &str, params: &[Param]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(&self.database.sql(sql), params).await?.into_iter().next())
    }

    /// Runs statements in their order, and returns the numbers of rows that they concerned.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), or [`StoreError::Reopening`] where a row is missing.
    pub async fn run(&self, statements: &[Statement]) -> Result<Vec<u64>, StoreError> {
        let mut client = self.client.lock().await;
        let mut counts = Vec::with_capacity(statements.len());
        for some in statements.chunks(PIPELINED) {
            let prepared: Vec<_> = some
                .iter()
                .map(|statement| (self.database.sql(statement.sql), borrowed(&statement.params)))
                .collect();
            // All are sent, in their order, before the first is answered.
            let outcomes = timed!(self.database, client, |client| join_all(
                prepared.iter().map(|(sql, params)| client.execute_typed(sql, params))
            ));
            for (statement, outcome) in some.iter().zip(outcomes) {
                let count = outcome.map_err(|error| self.note(&error))?;
                if statement.rows.is_some_and(|rows| rows != count) {
                    self.failed.store(true, Ordering::Release);
                    return Err(StoreError::Reopening);
                }
                counts.push(count);
            }
        }
        Ok(counts)
    }

    /// Commits. `count`: leaves the number of this commit in the database.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], with nothing committed; or the database failed, and it is unknown whether it is committed.
    pub async fn commit(&self, count: Option<&CommitCount>) -> Result<(), StoreError> {
        let mut client = self.client.lock().await;
        if self.failed.load(Ordering::Acquire) {
            let conflicted = self.has_conflicted();
            let failed = StoreError::Database("a statement of the transaction failed".to_owned());
            return Err(if conflicted { StoreError::Conflict } else { failed });
        }
        let next = count.map(CommitCount::next);
        let counted = async |client: &tokio_postgres::Client| match &next {
            None => Ok(1),
            Some((_, Statement { sql, params, .. })) => {
                client.execute_typed(&self.database.sql(sql), &borrowed(params)).await
            }
        };
        // Both are sent before the first is answered. After a statement that failed, the second rolls back.
        let (rows, outcome) =
            timed!(self.database, client, |client| join(counted(client), client.batch_execute("COMMIT")));
        let connection = client.take();
        let ended = rows.and_then(|rows| outcome.map(|()| rows)).map_err(|error| {
            if is_disconnect(&error) {
                drop(connection.map(Object::take));
            }
            self.note(&error)
        });
        match (ended?, count.zip(next)) {
            (1, Some((count, (number, _)))) => count.done(number),
            // Another opening of this server has taken over. What is committed is not acknowledged.
            (_, Some(_)) => return Err(StoreError::Reopening),
            (_, None) => {}
        }
        Ok(())
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        let Some(client) = self.client.get_mut().take() else { return };
        // Without a runtime there is no connection either.
        let Ok(runtime) = runtime() else { return };
        runtime.spawn(async move {
            match tokio::time::timeout(ROLLBACK, client.batch_execute("ROLLBACK")).await {
                Ok(Ok(())) => drop(client),
                _ => drop(Object::take(client)),
            }
        });
    }
}
