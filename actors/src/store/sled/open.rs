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
use super::bodies::Bodies;
use super::codec::{number, text};
use super::conversations::SledConversations;
use super::migrations::steps_from;
use super::quota::Totals;
use super::records::SledRecords;
use super::responses::SledResponses;
use super::sessions::SledSessions;
use super::tombstones::Tombstones;
use super::usage::SledUsage;
use super::watchers::Watchers;
use super::{COMMIT, SledStores, open_error};
use crate::store::commit_marker::{CommitMarker, CommitPosition};
use crate::store::files::{create_private_folder, sync_folder, write_private};
use crate::store::{ConversationsStore, OpenError, Quotas, SCHEMA, StoreError};

/// The time to wait for another process to release its lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

const ID: &[u8] = b"store_id";
const SCHEMA_KEY: &[u8] = b"schema";

/// Opens `<folder>/db`, or creates it, with a cache of that size.
///
/// # Errors
/// See [`OpenError`].
pub fn open(folder: &Path, cache_bytes: u64) -> Result<SledStores, OpenError> {
    let path = folder.join("db");
    let id_file = folder.join("store.id");
    let marker_file = folder.join("store.commit");
    let expected = match std::fs::read_to_string(&id_file) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(open_error::file(&id_file)(error)),
    };
    let wrong = |found: &str| {
        open_error::wrong_store(&path, &id_file, expected.as_deref().unwrap_or_default(), found)
    };
    if expected.is_some() && !path.join("db").exists() {
        return Err(wrong("nothing: it is not there"));
    }
    create_private_folder(&path).map_err(open_error::file(&path))?;
    let length = std::fs::metadata(path.join("db")).map_or(0, |file| file.len());
    let database_error = |error: StoreError| open_error::database(&path, &error);
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
        return Err(open_error::newer(&path, found, SCHEMA));
    }
    let commit = number(&meta, COMMIT).map_err(database_error)?;
    // Not before the lock is held: the file belongs to another server otherwise.
    let (marker, reached) = CommitMarker::open(&marker_file).map_err(open_error::file(&marker_file))?;
    if expected.is_some() && commit < reached.commit {
        let (expected, found) = (format!("change {}", reached.commit), format!("change {commit}"));
        return Err(open_error::behind(&path, &marker_file, expected, found));
    }
    if expected.is_some() && length < reached.length {
        let (expected, found) = (format!("{} bytes", reached.length), format!("{length} bytes"));
        return Err(open_error::behind(&path, &marker_file, expected, found));
    }
    // From here on the file may become shorter.
    marker.write(CommitPosition { length: 0, ..reached }).map_err(open_error::file(&marker_file))?;
    let stores = (|| {
        let tombstones = Tombstones::open(&db)?;
        let bodies = Bodies::open(&db, tombstones.clone())?;
        let watchers = Watchers::default();
        let items = Arc::new(SledConversations::open(&db, bodies.clone(), watchers.clone())?);
        Ok(SledStores {
            file: File::open(path.join("db")).map_err(|error| StoreError::from(&error))?,
            folder: folder.to_owned(),
            min_free_bytes: 0,
            quotas: Quotas::default(),
            totals: Totals::open(&db)?,
            marker,
            commit: commit.into(),
            meta: meta.clone(),
            accounts: SledAccounts::open(&db)?,
            sessions: SledSessions::open(&db)?,
            usage: SledUsage::open(&db)?,
            records: SledRecords::open(&db, &bodies, &watchers)?,
            audit: SledAudit::open(&db)?,
            responses: SledResponses::open(&db, bodies)?,
            conversations: Arc::clone(&items) as Arc<dyn ConversationsStore>,
            items,
            tombstones,
            watchers,
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
        sync_folder(&path).map_err(open_error::file(&path))?;
        write_private(&id_file, format!("{id}\n").as_bytes()).map_err(open_error::file(&id_file))?;
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
pub(super) fn open_sled(path: &Path, cache_bytes: u64) -> Result<Db, OpenError> {
    let started = Instant::now();
    loop {
        match try_open_sled(path, cache_bytes) {
            Err(OpenError::InUse(_)) if started.elapsed() < LOCK_TIMEOUT => {
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
            open_error::in_use(path)
        }
        other => open_error::database(path, &other.into()),
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
