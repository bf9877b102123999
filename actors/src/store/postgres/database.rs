//! The connections to a database, and the statements that run on them.
//!
//! Every statement runs in a task of a runtime of its own, to its end or its timeout: a caller that goes away leaves no
//! connection in the middle of a statement, and a store works on any thread. No session state is used and no prepared
//! statement has a name, so a connection pooler may give each transaction another connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio::time::error::Elapsed;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::errors::{self, store_error};
use super::params::{self, Param};
use super::tls::Tls;
use super::transaction::{Isolation, OpenTransaction};
use super::url::{Target, Targets};
use crate::config::StorageConfig;
use crate::store::StoreError;

/// Threads that drive all connections; they wait for sockets and copy bytes.
const THREADS: usize = 2;

/// Their name.
pub const THREAD_NAME: &str = "postgres";

/// Maximum number of times that a write is repeated after a conflict.
const MAX_ATTEMPTS: u32 = 16;

/// Time that a statement gets beyond its timeout to report that the database cancelled it.
const GRACE: Duration = Duration::from_secs(1);

/// Waits for a statement on a connection (`Option<Object>`), which is gone afterwards if it has not ended in time.
macro_rules! timed {
    ($database:expr, $client:expr, |$connection:ident| $run:expr) => {{
        let outcome = match $client.as_ref() {
            Some($connection) => Some($database.limited($run).await),
            None => None,
        };
        match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => return Err($database.give_up($client.take())),
            None => return Err(crate::store::StoreError::Reopening),
        }
    }};
}
pub(super) use timed;

/// Runs a future on the runtime of all connections, to its end, whether or not its caller waits for it.
pub async fn on_runtime<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    match runtime()?.spawn(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Database("a statement panicked".to_owned()).into()),
    }
}

/// The runtime of all connections.
pub fn runtime() -> Result<&'static tokio::runtime::Runtime, StoreError> {
    static RUNTIME: OnceLock<Result<tokio::runtime::Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(THREADS)
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()
            .map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|error| StoreError::Database(format!("cannot start its threads: {error}")))
}

/// Connections that only the commit thread uses, so that no crowd of readers keeps changes from being made. It uses one at a
/// time; another one may still be rolling back.
const WRITERS: usize = 2;

/// The use of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// By anybody.
    Shared,
    /// By the commit thread.
    CommitThread,
    /// By the reader of changes of credentials, without which no credential is accepted for long.
    Mirror,
}

/// The connections to one database.
pub struct Database {
    pool: Pool,
    writers: Pool,
    mirror: Pool,
    tls: Tls,
    pub(super) targets: Targets,
    schema: String,
    pub(super) statement_timeout: Duration,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("name", &self.targets.pool.name()).finish_non_exhaustive()
    }
}

impl Database {
    /// The database of a configuration; nothing is connected yet.
    ///
    /// # Errors
    /// A setting is wrong, or a file of roots cannot be read.
    pub fn new(storage: &StorageConfig, targets: Targets) -> Result<Self, String> {
        let tls = Tls::new(&targets.pool.protection)?;
        let wait = Some(Duration::from_millis(storage.connect_timeout_ms));
        let pool = |size| {
            let manager = Manager::from_config(
                targets.pool.config.clone(),
                tls.clone(),
                ManagerConfig { recycling_method: RecyclingMethod::Fast },
            );
            let pool = Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1);
            let pool = pool.wait_timeout(wait).create_timeout(wait).recycle_timeout(wait).build();
            pool.map_err(|error| error.to_string())
        };
        Ok(Self {
            pool: pool(storage.pool_size.saturating_sub(WRITERS).max(1))?,
            writers: pool(WRITERS)?,
            mirror: pool(1)?,
            tls,
            targets,
            schema: storage.schema.clone(),
            statement_timeout: Duration::from_millis(storage.statement_timeout_ms),
        })
    }

    /// The same database with the tables of another schema.
    pub fn with_schema(&self, schema: &str) -> Self {
        Self {
            pool: self.pool.clone(),
            writers: self.writers.clone(),
            mirror: self.mirror.clone(),
            tls: self.tls.clone(),
            targets: self.targets.clone(),
            schema: schema.to_owned(),
            statement_timeout: self.statement_timeout,
        }
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A statement with the schema in place of `{s}`, and its name in place of `{name}`. The name was checked to have no
    /// character that would need quoting.
    pub fn sql(&self, statement: &str) -> String {
        statement.replace("{s}", &self.schema).replace("{name}", &self.schema)
    }

    /// A connection.
    pub(super) async fn client(&self, lane: Lane) -> Result<Object, StoreError> {
        let pool = match lane {
            Lane::Shared => &self.pool,
            Lane::CommitThread => &self.writers,
            Lane::Mirror => &self.mirror,
        };
        pool.get().await.map_err(|error| {
            StoreError::Database(match error {
                PoolError::Backend(error) => {
                    format!("cannot connect to {}: {}", self.targets.pool.name(), errors::message(&error))
                }
                PoolError::Timeout(TimeoutType::Wait) => {
                    "all connections of the pool are in use (storage.pool_size)".to_owned()
                }
                PoolError::Timeout(_) => {
                    format!("cannot connect to {}: no answer in time", self.targets.pool.name())
                }
                other => format!("cannot connect to {}: {other}", self.targets.pool.name()),
            })
        })
    }

    /// A connection of its own past the pooler, which ends when the client is dropped.
    pub(super) async fn connect_direct(
        &self,
    ) -> Result<
        (
            Client,
            tokio_postgres::Connection<tokio_postgres::Socket, super::tls::Encrypted<tokio_postgres::Socket>>,
        ),
        String,
    > {
        let Target { config, protection } = &self.targets.direct;
        let tls = Tls::new(protection)?;
        let connected = tokio::time::timeout(self.statement_timeout, config.connect(tls)).await;
        connected
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| errors::message(&error))
            .map_err(|error| format!("cannot connect to {}: {error}", self.targets.direct.name()))
    }

    /// Waits for a statement as long as one may take.
    pub(super) async fn limited<T>(&self, statement: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::time::timeout(self.statement_timeout + GRACE, statement).await
    }

    /// Gives up a connection whose statement has not ended: it is cancelled, and the connection is not used again.
    pub(super) fn give_up(&self, connection: Option<Object>) -> StoreError {
        if let Some(connection) = connection {
            self.abandon(connection);
        }
        let ms = self.statement_timeout.as_millis();
        StoreError::Database(format!("no answer within {ms} ms (storage.statement_timeout_ms)"))
    }

    /// Cancels what a connection does and closes it.
    fn abandon(&self, connection: Object) {
        let (token, tls) = (connection.cancel_token(), self.tls.clone());
        drop(Object::take(connection));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(GRACE, token.cancel_query(tls)).await;
        });
    }
}

/// A statement that changes something.
#[derive(Debug)]
pub struct Statement {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Param>,
    /// The number of rows that it has to concern, or else what it refers to is not there any more.
    pub(super) rows: Option<u64>,
}

impl Statement {
    /// A statement.
    pub fn new(sql: &'static str, params: Vec<Param>) -> Self {
        Self { sql, params, rows: None }
    }

    /// A statement that has to concern one row.
    pub fn of_one_row(sql: &'static str, params: Vec<Param>) -> Self {
        Self { rows: Some(1), ..Self::new(sql, params) }
    }
}

/// The parameters as the driver takes them.
pub fn borrowed(params: &[Param]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    params.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
}

/// The number of a server's last commit, which each commit of the commit thread leaves in the database. A database that
/// crashed, or another one that took its place, has lost commits that were not durable yet: then the number there is smaller.
#[derive(Debug)]
pub struct CommitCount {
    /// The server.
    pub server: Uuid,
    /// Its opening.
    pub epoch: Uuid,
    /// The last number that was given to a commit; none is given twice.
    pub issued: AtomicU64,
    /// The number of the last commit that is known to have been made.
    pub written: AtomicU64,
}

impl CommitCount {
    /// The number that the next commit gets, and the statement that leaves it there, which concerns no row if a commit that is
    /// known to have been made is gone: else the number of this one would hide that.
    pub(super) fn next(&self) -> (u64, Statement) {
        let known = self.written.load(Ordering::Acquire);
        let next = self.issued.fetch_add(1, Ordering::AcqRel) + 1;
        let sql = "UPDATE {s}.server SET written = GREATEST(written, $1) WHERE id = $2 AND epoch = $3 AND written >= $4";
        let [server, epoch] = [self.server, self.epoch].map(|id| params::id(id.into_bytes()));
        (next, Statement::of_one_row(sql, vec![params::number(next), server, epoch, params::number(known)]))
    }

    /// Notes that the commit of that number was made.
    pub(super) fn done(&self, number: u64) {
        self.written.fetch_max(number, Ordering::AcqRel);
    }
}

/// The way in which the statements of a store run: each by itself, or all in one transaction. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pub(super) database: Arc<Database>,
    pub(super) transaction: Option<Arc<OpenTransaction>>,
    /// Of writes on the commit thread.
    pub(super) count: Option<Arc<CommitCount>>,
}

impl Db {
    /// The same for writes on other threads, which are not counted.
    pub fn uncounted(&self) -> Self {
        Self { count: None, ..self.clone() }
    }

    /// Reads rows.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rows(&self, sql: &str, params: Vec<Param>) -> Result<Vec<Row>, StoreError> {
        self.rows_by(Lane::Shared, sql, params).await
    }

    /// Reads rows on a connection of that use.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rows_by(&self, lane: Lane, sql: &str, params: Vec<Param>) -> Result<Vec<Row>, StoreError> {
        let (sql, database) = (self.database.sql(sql), Arc::clone(&self.database));
        match self.transaction.clone() {
            Some(transaction) => on_runtime(async move { transaction.rows(&sql, &params).await }).await,
            None => on_runtime(async move { read(&database, lane, &sql, &params).await }).await,
        }
    }

    /// Runs a statement by itself on a connection of the commit thread, and returns its row, where there is one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn row_on_commit_thread(
        &self,
        sql: &str,
        params: Vec<Param>,
    ) -> Result<Option<Row>, StoreError> {
        let (sql, database) = (self.database.sql(sql), Arc::clone(&self.database));
        let rows = on_runtime(async move { read(&database, Lane::CommitThread, &sql, &params).await });
        Ok(rows.await?.into_iter().next())
    }

    /// The connections of its writes.
    fn lane(&self) -> Lane {
        if self.count.is_some() { Lane::CommitThread } else { Lane::Shared }
    }

    /// Reads a row, where there is one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn row(&self, sql: &str, params: Vec<Param>) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Runs one statement, and returns the number of rows that it concerned.
    ///
    /// # Errors
    /// The database failed.
    pub async fn execute(&self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        Ok(self.execute_all(vec![Statement::new(sql, params)]).await?[0])
    }

    /// Runs statements in one transaction, and repeats it after a conflict.
    ///
    /// # Errors
    /// The database failed, [`StoreError::Reopening`] where a row is missing, or [`StoreError::Conflict`] in every attempt.
    pub async fn execute_all(&self, statements: Vec<Statement>) -> Result<Vec<u64>, StoreError> {
        let statements = Arc::new(statements);
        self.transact(move |transaction| {
            let statements = Arc::clone(&statements);
            async move { transaction.run(&statements).await }
        })
        .await
    }

    /// Works in one transaction, and repeats that after a conflict. In a transaction that is open already, it is a part of
    /// that one.
    ///
    /// # Errors
    /// As [`execute_all`](Self::execute_all), or of `work`.
    pub async fn transact<T, F>(
        &self,
        work: impl Fn(Arc<OpenTransaction>) -> F + Send + Sync + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        if let Some(transaction) = self.transaction.clone() {
            return on_runtime(async move { work(transaction).await }).await;
        }
        let (database, count, lane) = (Arc::clone(&self.database), self.count.clone(), self.lane());
        on_runtime(async move {
            for attempt in 0..MAX_ATTEMPTS {
                let transaction = OpenTransaction::begin(&database, lane, Isolation::ReadCommitted).await?;
                let transaction = Arc::new(transaction);
                match work(Arc::clone(&transaction)).await {
                    Ok(value) => match transaction.commit(count.as_deref()).await {
                        Ok(()) => return Ok(value),
                        Err(StoreError::Conflict) => {}
                        Err(error) => return Err(error),
                    },
                    Err(StoreError::Conflict) => {}
                    Err(error) => return Err(error),
                }
                drop(transaction);
                pause(attempt).await;
            }
            Err(StoreError::Conflict)
        })
        .await
    }
}

/// Waits a little before an attempt, longer after each, so that rivals do not meet again.
pub async fn pause(attempt: u32) {
    let most = 2u64 << attempt.min(6);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
}

/// Reads by itself. A connection that was cut while it was idle is found out here, and the read is made once more.
async fn read(database: &Database, lane: Lane, sql: &str, params: &[Param]) -> Result<Vec<Row>, StoreError> {
    let mut tries = 0;
    loop {
        let mut client = Some(database.client(lane).await?);
        let params = borrowed(params);
        let outcome = timed!(database, client, |client| client.query_typed(sql, &params));
        match outcome {
            Ok(rows) => return Ok(rows),
            Err(error) if errors::is_disconnect(&error) && tries < 2 => {
                tries += 1;
                drop(client.map(Object::take));
            }
            Err(error) => return Err(store_error(&error)),
        }
    }
}
