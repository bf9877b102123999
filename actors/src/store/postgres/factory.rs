//! Opening a PostgreSQL store, and drafts that take the place of one.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::codec::{column, number};
use super::database::{Database, Db, Lane, THREAD_NAME, on_runtime, runtime};
use super::migrations::{self, MigrationPlan};
use super::opening::Opening;
use super::opening_checks::ServerSettings;
use super::state_files::{self, StateFiles};
use super::url::targets;
use super::{PgStores, errors, params};
use crate::config::StorageConfig;
use crate::store::open::{StoreDraft, StoreFactory};
use crate::store::{OpenError, Problem, Quotas, StoreError, Stores};

/// Time to tell the others that this server has stopped.
const FAREWELL: Duration = Duration::from_secs(1);

/// Counts the servers that run, or were killed a moment ago, except one.
const RUNNING_SERVERS: &str = "SELECT count(*) FROM {s}.server WHERE running AND NOT temporary AND id <> $1 \
                               AND seen_at > now() - interval '30 s'";

/// Use of a database by a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a server, as one of several.
    Server,
    /// By a command beside servers.
    Beside,
    /// By a command while no server runs.
    Alone,
}

/// Opens the store of a configuration.
pub struct PgFactory {
    storage: StorageConfig,
    access: Access,
    quotas: Quotas,
    /// The lock of the data folder, for as long as this process lives.
    lock: Mutex<Option<File>>,
    /// Made once, since a pool is shared by all openings.
    database: Mutex<Option<Arc<Database>>>,
}

impl fmt::Debug for PgFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgFactory").field("access", &self.access).finish_non_exhaustive()
    }
}

fn backend(message: impl fmt::Display) -> OpenError {
    OpenError::Backend(Problem::new(message.to_string(), ""))
}

impl PgFactory {
    /// The factory of a configuration's store.
    pub fn new(storage: &StorageConfig, access: Access) -> Self {
        let quotas = if access == Access::Server { Quotas::new(storage) } else { Quotas::default() };
        Self { storage: storage.clone(), access, quotas, lock: Mutex::default(), database: Mutex::default() }
    }

    fn database(&self) -> Result<Arc<Database>, OpenError> {
        let mut made = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*made {
            return Ok(Arc::clone(database));
        }
        let targets = targets(&self.storage).map_err(backend)?;
        let database = Arc::new(Database::new(&self.storage, targets).map_err(backend)?);
        Ok(Arc::clone(made.insert(database)))
    }

    /// Locks the data folder for as long as this process lives.
    fn lock_folder(&self) -> Result<(), OpenError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = Some(state_files::lock(&self.storage.path)?);
        }
        Ok(())
    }

    /// Opens a schema. `files`: what this server remembers of it. `own`: the server of the data folder.
    async fn open_stores(
        &self,
        database: Arc<Database>,
        files: Option<StateFiles>,
        own: Option<Uuid>,
    ) -> Result<PgStores, OpenError> {
        let (access, quotas) = (self.access, self.quotas);
        let (allow_unsafe, shared) = (self.storage.allow_unsafe_durability, self.storage.shared);
        on_runtime(async move {
            let client = direct(&database).await?;
            let name = database.targets.pool.name();
            ServerSettings::of(&client).await?.check(&name, allow_unsafe)?;
            migrations::migrate(&client, database.schema()).await?;
            // What the role or the pooler sets for queries may differ.
            let pooled = database.client(Lane::Shared).await?;
            ServerSettings::of(&pooled).await?.check(&name, allow_unsafe)?;
            drop(pooled);
            let db = Db { database, transaction: None, count: None };
            let is_only_one = access == Access::Server && !shared;
            if is_only_one {
                refuse_other_servers(&db, own, &name).await?;
            }
            if access == Access::Alone {
                refuse_running_servers(&db, own, &name).await?;
            }
            let stores = register(db.clone(), files, quotas, &name).await?;
            if is_only_one {
                // Another one may have registered since: now at least one of the two sees the other, and goes away.
                refuse_other_servers(&db, own, &name).await?;
            }
            Ok(stores)
        })
        .await
    }

    /// Returns the migrations that are still to be applied.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn plan(&self) -> Result<MigrationPlan, OpenError> {
        let database = self.database()?;
        on_runtime(async move { migrations::plan(&direct(&database).await?, database.schema()).await }).await
    }
}

impl PgFactory {
    /// Applies the migrations that are missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn migrate(&self) -> Result<(), OpenError> {
        let database = self.database()?;
        on_runtime(async move { migrations::migrate(&direct(&database).await?, database.schema()).await })
            .await
    }
}

/// A connection of its own, which ends when it is dropped.
async fn direct(database: &Database) -> Result<Client, OpenError> {
    let (client, connection) = database.connect_direct().await.map_err(|error| {
        let remedy =
            "Check storage.url (or storage.direct_url), and that the database runs and lets this server in";
        OpenError::Backend(Problem::new(error, remedy))
    })?;
    runtime()?.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = errors::message(&error), "a connection to the database ended");
        }
    });
    Ok(client)
}

/// Makes this server known, after checking that the database is the one that it knows.
async fn register(
    db: Db,
    files: Option<StateFiles>,
    quotas: Quotas,
    name: &str,
) -> Result<PgStores, OpenError> {
    let meta = "SELECT (SELECT value FROM {s}.meta WHERE key = 'store_id'), \
                coalesce((SELECT value FROM {s}.meta WHERE key = 'replaces'), '')";
    let row = db.row(meta, Vec::new()).await?.ok_or_else(|| backend("the database has no store id"))?;
    let (store, replaces): (String, String) = (column(&row, 0)?, column(&row, 1)?);
    let server = files.as_ref().map_or_else(Uuid::new_v4, |files| files.server);
    let sql = "SELECT commits FROM {s}.server WHERE id = $1";
    let row = db.row(sql, vec![params::id(server.into_bytes())]).await?;
    let commits = row.map(|row| number(&row, 0)).transpose()?.unwrap_or_default();
    if let Some(files) = &files
        && !files.check(&store, &replaces, commits, name)?
    {
        files.remember(&store, commits)?;
    }
    let opening = Arc::new(Opening::new(server, commits));
    db.execute(
        "INSERT INTO {s}.server (id, epoch, temporary) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET \
         epoch = EXCLUDED.epoch, seen_at = now(), running = true, written = 0",
        vec![
            params::id(server.into_bytes()),
            params::id(opening.epoch.into_bytes()),
            params::flag(files.is_none()),
        ],
    )
    .await?;
    let stores = PgStores::new(db, opening, files.map(Arc::new), quotas);
    stores.remove_stale_stages().await?;
    Ok(stores)
}

/// Refuses to be a second server.
async fn refuse_other_servers(db: &Db, this: Option<Uuid>, name: &str) -> Result<(), OpenError> {
    let sql = "SELECT count(*) FROM {s}.server WHERE running AND NOT temporary AND id <> $1 \
               AND seen_at > now() - interval '15 s'";
    let row = db.row(sql, vec![params::id(this.unwrap_or_default().into_bytes())]).await?;
    match row.map(|row| number(&row, 0)).transpose()?.unwrap_or_default() {
        0 => Ok(()),
        running => Err(OpenError::InUse(Problem::new(
            format!(
                "{running} other server(s) use the schema {} of the database {name}, or did a moment ago without having \
                 been stopped",
                db.database.schema()
            ),
            "Stop them first, or give this one a schema of its own (storage.schema); or let several use it \
             (storage.shared = true), after reading in docs/postgresql.md what they do not share",
        ))),
    }
}

/// Refuses to change a store under the feet of servers, except the one of the data folder, which is known to have ended.
async fn refuse_running_servers(db: &Db, own: Option<Uuid>, name: &str) -> Result<(), OpenError> {
    let row = db.row(RUNNING_SERVERS, vec![params::id(own.unwrap_or_default().into_bytes())]).await?;
    match row.map(|row| number(&row, 0)).transpose()?.unwrap_or_default() {
        0 => Ok(()),
        running => Err(servers_run(running, name)),
    }
}

fn servers_run(running: u64, name: &str) -> OpenError {
    OpenError::InUse(Problem::new(
        format!(
            "{running} server(s) use the database {name}, or did half a minute ago without having been stopped"
        ),
        "Stop them first and wait for half a minute; or import through a running server (POST /api/v1/admin/import)",
    ))
}

#[async_trait]
impl StoreFactory for PgFactory {
    async fn open(&self) -> Result<Box<dyn Stores>, OpenError> {
        let database = self.database()?;
        let folder = &self.storage.path;
        let (files, own) = match self.access {
            Access::Server => {
                self.lock_folder()?;
                let files = StateFiles::open(folder)?;
                let own = files.server;
                (Some(files), Some(own))
            }
            // The server of this folder may have been killed a moment ago.
            Access::Alone if state_files::exist(folder) => {
                self.lock_folder()?;
                (None, Some(StateFiles::open(folder)?.server))
            }
            Access::Beside | Access::Alone => (None, None),
        };
        Ok(Box::new(self.open_stores(database, files, own).await?))
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn exists(&self) -> bool {
        // Opening reports what is wrong.
        let Ok(database) = self.database() else { return true };
        let exists =
            on_runtime(async move { migrations::exists(&direct(&database).await?, database.schema()).await });
        exists.await.unwrap_or(true)
    }

    async fn draft(&self) -> Result<Box<dyn StoreDraft>, OpenError> {
        let database = self.database()?;
        let draft = Arc::new(database.with_schema(&format!("{}_import", database.schema())));
        let dropped = Arc::clone(&draft);
        on_runtime(async move { drop_schema(&dropped).await }).await?;
        // The folder's own server is known to have ended, and cannot start meanwhile.
        let own = if state_files::exist(&self.storage.path) {
            self.lock_folder()?;
            StateFiles::open(&self.storage.path)?.server
        } else {
            Uuid::nil()
        };
        let stores = self.open_stores(Arc::clone(&draft), None, None).await?;
        Ok(Box::new(PgDraft { place: database, draft, stores, own, promoted: false }))
    }

    fn load_error(&self, error: StoreError) -> OpenError {
        backend(format!("cannot load the database's contents: {error}"))
    }
}

async fn drop_schema(database: &Database) -> Result<(), OpenError> {
    let client = direct(database).await?;
    let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", database.schema());
    client.batch_execute(&sql).await.map_err(|error| {
        backend(format!("cannot remove the draft of an import: {}", errors::message(&error)))
    })
}

/// A new store in a schema of its own.
#[derive(Debug)]
struct PgDraft {
    place: Arc<Database>,
    draft: Arc<Database>,
    stores: PgStores,
    /// The server of the data folder.
    own: Uuid,
    promoted: bool,
}

#[async_trait]
impl StoreDraft for PgDraft {
    fn stores(&self) -> &dyn Stores {
        &self.stores
    }

    /// Both schemas are renamed in one transaction, unless a server has started since the draft was begun: what it acknowledged
    /// would be gone.
    async fn promote(mut self: Box<Self>) -> Result<(), OpenError> {
        let (database, draft, own) = (Arc::clone(&self.place), Arc::clone(&self.draft), self.own);
        on_runtime(async move {
            let client = direct(&database).await?;
            let (place, draft) = (database.schema(), draft.schema());
            let failed = |error: &tokio_postgres::Error| {
                OpenError::Backend(Problem::new(
                    format!("cannot put the import in the place of the store: {}", errors::message(error)),
                    "Renaming a schema needs the right to create one (GRANT CREATE ON DATABASE)",
                ))
            };
            let mut sql = String::new();
            client.batch_execute("BEGIN").await.map_err(|error| failed(&error))?;
            if migrations::exists(&client, place).await? {
                // No server registers or commits from here on. A transaction that is given up ends with its connection.
                let lock = database.sql("LOCK TABLE {s}.server IN SHARE ROW EXCLUSIVE MODE");
                client.batch_execute(&lock).await.map_err(|error| failed(&error))?;
                let row = client.query_typed_one(&database.sql(RUNNING_SERVERS), &[(&own, Type::UUID)]).await;
                let running = number(&row.map_err(|error| failed(&error))?, 0)?;
                if running > 0 {
                    return Err(servers_run(running, &database.targets.pool.name()));
                }
                let kept = format!("{place}_before_import_{}", jiff::Timestamp::now().as_second());
                // The servers' folders know the store that was here, and accept the one that took its place.
                sql += &format!(
                    "INSERT INTO {draft}.meta (key, value) SELECT 'replaces', string_agg(value, ' ') FROM {place}.meta \
                     WHERE key IN ('store_id', 'replaces'); ALTER SCHEMA {place} RENAME TO {kept}; {};",
                    migrations::functions(&kept)
                );
            }
            sql += &format!("ALTER SCHEMA {draft} RENAME TO {place}; {}; COMMIT", migrations::functions(place));
            client.batch_execute(&sql).await.map_err(|error| failed(&error))
        })
        .await?;
        self.promoted = true;
        Ok(())
    }
}

impl Drop for PgDraft {
    fn drop(&mut self) {
        if self.promoted {
            return;
        }
        let draft = Arc::clone(&self.draft);
        // Whatever is left of it is removed before the next draft.
        let _ = crate::store::block_on(on_runtime(async move { drop_schema(&draft).await }));
    }
}

impl PgStores {
    /// Makes everything that was committed before durable, and counts it: the commit that this waits for comes after them in
    /// the database's log, here and on its synchronous standbys.
    ///
    /// # Errors
    /// The database failed, or has lost what it acknowledged before.
    pub(super) async fn make_durable(&self) -> Result<(), StoreError> {
        let opening = &self.opening;
        let sql = "UPDATE {s}.server SET commits = commits + 1, seen_at = now() WHERE id = $1 AND epoch = $2 \
                   AND written >= $3 RETURNING commits";
        let params = vec![
            params::id(opening.server.into_bytes()),
            params::id(opening.epoch.into_bytes()),
            params::number(opening.count.written.load(std::sync::atomic::Ordering::Acquire)),
        ];
        // It has crashed since, or another one took its place, and commits that were not durable are gone; or another opening
        // of this server has taken over.
        let row = self.db.row_on_commit_thread(sql, params).await?.ok_or(StoreError::Reopening)?;
        let commits = number(&row, 0)?;
        let before = opening.commits.swap(commits, std::sync::atomic::Ordering::AcqRel);
        if commits <= before {
            return Err(StoreError::Database("it has lost changes that it acknowledged".to_owned()));
        }
        match &self.files {
            Some(files) => files.reach(commits).map_err(|error| StoreError::from(&error)),
            None => Ok(()),
        }
    }
}

/// Tells the others that this server has stopped.
impl Drop for PgStores {
    fn drop(&mut self) {
        if self.db.transaction.is_some() {
            return;
        }
        let (db, opening, temporary) = (self.db.clone(), Arc::clone(&self.opening), self.files.is_none());
        let sql = if temporary {
            "DELETE FROM {s}.server WHERE id = $1 AND epoch = $2"
        } else {
            "UPDATE {s}.server SET running = false WHERE id = $1 AND epoch = $2"
        };
        let ids = vec![params::id(opening.server.into_bytes()), params::id(opening.epoch.into_bytes())];
        let tell = async move {
            // A database that is away, or whose schema was renamed, cannot be told.
            let _ = tokio::time::timeout(FAREWELL, db.uncounted().execute(sql, ids)).await;
            Ok::<_, StoreError>(())
        };
        if std::thread::current().name() == Some(THREAD_NAME) {
            if let Ok(runtime) = runtime() {
                runtime.spawn(tell);
            }
        } else {
            // Before the process ends.
            let _ = crate::store::block_on(on_runtime(tell));
        }
    }
}
