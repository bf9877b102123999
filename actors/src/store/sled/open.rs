//! Opening a sled database: checks that it is the expected one, complete, and of a known schema.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sled::{Db, Tree};
use uuid::Uuid;

use super::accounts::SledAccounts;
use super::audit::SledAudit;
use super::codec::{number, text};
use super::commit_marker::{CommitMarker, CommitPosition};
use super::conversations::SledConversations;
use super::migrations::steps_from;
use super::quota::Totals;
use super::records::SledRecords;
use super::responses::SledResponses;
use super::sessions::SledSessions;
use super::tombstones::Tombstones;
use super::usage::SledUsage;
use super::{COMMIT, SledStores};
use crate::store::files::{create_private_folder, sync_folder, write_private};
use crate::store::{ConversationsStore, OpenError, Quotas, SCHEMA, StoreError, Stores};

/// The size of sled's cache for commands that do little; sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 64 << 20;

/// How long to wait for another process to release its lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

const ID: &[u8] = b"store_id";
const SCHEMA_KEY: &[u8] = b"schema";

/// Opens `<folder>/db`, or creates it, and completes what is left of deletions.
///
/// # Errors
/// See [`OpenError`].
pub fn open(folder: &Path) -> Result<SledStores, OpenError> {
    let stores = open_caching(folder, CACHE_BYTES)?;
    // No commit thread will do it later.
    let database_error = |error| OpenError::Database { path: folder.join("db"), error };
    stores.cleanup_all().map_err(database_error)?;
    Ok(stores)
}

/// Opens `<folder>/db`, or creates it, with a cache of that size.
///
/// # Errors
/// See [`OpenError`].
pub fn open_caching(folder: &Path, cache_bytes: u64) -> Result<SledStores, OpenError> {
    let path = folder.join("db");
    let id_file = folder.join("store.id");
    let mark_file = folder.join("store.commit");
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::File { path, error }
    };
    let expected = match std::fs::read_to_string(&id_file) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(&id_file)(error)),
    };
    let wrong = |found: &str| OpenError::WrongStore {
        path: path.clone(),
        id_file: id_file.clone(),
        expected: expected.clone().unwrap_or_default(),
        found: found.to_owned(),
    };
    if expected.is_some() && !path.join("db").exists() {
        return Err(wrong("nothing: it is not there"));
    }
    let behind = |expected: String, found: String| OpenError::Behind {
        path: path.clone(),
        mark_file: mark_file.clone(),
        expected,
        found,
    };
    create_private_folder(&path).map_err(file_error(&path))?;
    let length = std::fs::metadata(path.join("db")).map_or(0, |file| file.len());
    let database_error = |error| OpenError::Database { path: path.clone(), error };
    let db = open_sled(&path, cache_bytes)?;
    let meta = db.open_tree("meta").map_err(|error| database_error(error.into()))?;
    let found = text(&meta, ID).map_err(database_error)?;
    match (&expected, &found) {
        (Some(expected), Some(found)) if expected != found => return Err(wrong(found)),
        // sled opens a truncated file as an empty database.
        (Some(_), None) => return Err(wrong("nothing: it is empty")),
        _ => {}
    }
    let schema = schema(&meta).map_err(database_error)?;
    if let Some(found) = schema.filter(|&found| found > SCHEMA) {
        return Err(OpenError::Newer { path, found, known: SCHEMA });
    }
    let commit = number(&meta, COMMIT).map_err(database_error)?;
    // Not before the lock is held: the file belongs to another server otherwise.
    let (marker, reached) = CommitMarker::open(&mark_file).map_err(file_error(&mark_file))?;
    if expected.is_some() && commit < reached.commit {
        return Err(behind(format!("change {}", reached.commit), format!("change {commit}")));
    }
    if expected.is_some() && length < reached.length {
        return Err(behind(format!("{} bytes", reached.length), format!("{length} bytes")));
    }
    // From here on the file may become shorter.
    marker.write(CommitPosition { length: 0, ..reached }).map_err(file_error(&mark_file))?;
    let stores = (|| {
        let tombstones = Tombstones::open(&db)?;
        let items = Arc::new(SledConversations::open(&db, tombstones.clone())?);
        Ok(SledStores {
            file: File::open(path.join("db")).map_err(|error| StoreError::from(&error))?,
            folder: folder.to_owned(),
            min_free_bytes: 0,
            quotas: Quotas::default(),
            totals: Totals::open(&db)?,
            marker,
            commit: commit.into(),
            meta: meta.clone(),
            forget: db.open_tree("forget")?,
            accounts: SledAccounts::open(&db)?,
            sessions: SledSessions::open(&db)?,
            usage: SledUsage::open(&db)?,
            records: SledRecords::open(&db, &tombstones)?,
            audit: SledAudit::open(&db)?,
            responses: SledResponses::open(&db, tombstones.clone())?,
            conversations: Arc::clone(&items) as Arc<dyn ConversationsStore>,
            items,
            tombstones,
            deletions_pending: true.into(),
            deleted: Mutex::default(),
            db: db.clone(),
        })
    })()
    .map_err(database_error)?;
    if expected.is_none() {
        // The id outside comes last: where it is, the database is complete.
        let id = found.unwrap_or_else(|| Uuid::new_v4().as_simple().to_string());
        let write = || {
            meta.insert(ID, id.as_bytes())?;
            if schema.is_none() {
                meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes())?;
            }
            stores.sync()
        };
        write().map_err(database_error)?;
        sync_folder(&path).map_err(file_error(&path))?;
        write_private(&id_file, format!("{id}\n").as_bytes()).map_err(file_error(&id_file))?;
    }
    migrate(&stores, schema.unwrap_or(SCHEMA)).map_err(database_error)?;
    stores.finish_deletions().map_err(database_error)?;
    Ok(stores)
}

/// Migrates an older schema to the present one.
fn migrate(stores: &SledStores, from: u32) -> Result<(), StoreError> {
    for (to, step) in steps_from(from) {
        tracing::warn!(
            to,
            "the database is migrated to another schema; older versions of this program cannot open it afterwards"
        );
        step(&stores.db)?;
        // The step is durable before the schema number is.
        stores.sync()?;
        stores.meta.insert(SCHEMA_KEY, &to.to_be_bytes())?;
        stores.sync()?;
    }
    Ok(())
}

/// Removes a snapshot that sled had not finished when its process was killed: sled would refuse to open it as damaged,
/// although the snapshot before it is complete.
fn remove_unfinished_snapshots(path: &Path) {
    let Ok(file) = File::open(path.join("db")) else { return };
    // A process that has the database open may be writing one.
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&file, lock).is_err() {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "an unfinished snapshot is removed");
            // Should this fail, opening reports the problem.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Waits a moment for the lock: sled's threads hold it a little longer than the last handle, and a child process that is
/// being started inherits it until it runs its own program.
fn open_sled(path: &Path, cache_bytes: u64) -> Result<Db, OpenError> {
    let started = Instant::now();
    loop {
        match try_open_sled(path, cache_bytes) {
            Err(OpenError::Locked { .. }) if started.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

fn try_open_sled(path: &Path, cache_bytes: u64) -> Result<Db, OpenError> {
    remove_unfinished_snapshots(path);
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    // sled panics on some kinds of damage.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
        .unwrap_or_else(|_| Err(sled::Error::ReportableBug("it is damaged".to_owned())));
    opened.map_err(|error| match error {
        sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock") => {
            OpenError::Locked { path: path.to_owned() }
        }
        other => OpenError::Database { path: path.to_owned(), error: other.into() },
    })
}

fn schema(meta: &Tree) -> Result<Option<u32>, StoreError> {
    let Some(value) = meta.get(SCHEMA_KEY)? else { return Ok(None) };
    let bytes = <[u8; 4]>::try_from(value.as_ref()).map_err(|_| StoreError::Value {
        what: "meta/schema".to_owned(),
        problem: format!("{} bytes, expected 4", value.len()),
    })?;
    Ok(Some(u32::from_be_bytes(bytes)))
}
