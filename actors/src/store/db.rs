//! Opening the database: whose it is, which version wrote it, and that it is the one it should be.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sled::{Db, Tree};
use uuid::Uuid;

use super::accounts::{AccountsStore, SledAccounts};
use super::audit::{AuditStore, SledAudit};
use super::conversations::{ConversationsStore, SledConversations};
use super::doomed::{Doomed, Notes, Swept};
use super::files::{create_private_folder, sync_folder, write_private};
use super::mark::{Mark, Reached};
use super::migrations::{SCHEMA, steps_from};
use super::open_error::OpenError;
use super::quota::{Quotas, Sums, Used};
use super::records::{RecordsStore, SledRecords};
use super::responses::{ResponsesStore, SledResponses};
use super::sessions::{SessionsStore, SledSessions};
use super::usage::{SledUsage, UsageStore};
use super::{StoreError, Stores};
use crate::conversations::ConversationId;
use crate::identity::UserId;

/// Of sled's cache where only little is done; its own default is 1 GiB.
const CACHE_BYTES: u64 = 64 << 20;

/// How long a lock on the database may be held by others before it is refused.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Of work that nobody waits behind.
const FOREVER: Duration = Duration::from_secs(3600);

const ID: &[u8] = b"store_id";
const SCHEMA_KEY: &[u8] = b"schema";
const COMMIT: &[u8] = b"commit";
const PROBE: &[u8] = b"probe";

/// sled's trees.
#[derive(Debug)]
pub struct SledStores {
    db: Db,
    meta: Tree,
    forget: Tree,
    /// The database's file once more: what sled calls a flush does not wait for the disk.
    file: File,
    folder: PathBuf,
    min_free_bytes: u64,
    quotas: Quotas,
    sums: Sums,
    mark: Mark,
    /// The number of the last sync.
    commit: AtomicU64,
    accounts: SledAccounts,
    sessions: SledSessions,
    usage: SledUsage,
    records: SledRecords,
    audit: SledAudit,
    responses: SledResponses,
    /// The same twice: what is asked for, and what removes.
    conversations: Arc<dyn ConversationsStore>,
    items: Arc<SledConversations>,
    notes: Notes,
    /// Whether somebody may be noted as forgotten, and who is forgotten whole but for the note.
    forgetting: AtomicBool,
    forgotten: Mutex<Vec<UserId>>,
}

impl Stores for SledStores {
    fn accounts(&self) -> &dyn AccountsStore {
        &self.accounts
    }

    fn sessions(&self) -> &dyn SessionsStore {
        &self.sessions
    }

    fn usage(&self) -> &dyn UsageStore {
        &self.usage
    }

    fn records(&self) -> &dyn RecordsStore {
        &self.records
    }

    fn audit(&self) -> &dyn AuditStore {
        &self.audit
    }

    fn used(&self, user: UserId) -> Result<Used, StoreError> {
        self.sums.of(user)
    }

    fn quotas(&self) -> Quotas {
        self.quotas
    }

    fn room(&self) -> Result<(), StoreError> {
        if self.min_free_bytes == 0 {
            return Ok(());
        }
        // Where the system does not say, sled will find out.
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= self.min_free_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        Err(StoreError::Full(format!(
            "{} MiB are free under {}, {} are to stay free (storage.min_free_mib)",
            mib(free),
            self.folder.display(),
            mib(self.min_free_bytes)
        )))
    }

    fn note_forgotten(&self, user: UserId, begins: bool) -> Result<(), StoreError> {
        match begins {
            true => self.forget.insert(user.to_bytes(), &[])?,
            false => self.forget.remove(user.to_bytes())?,
        };
        if begins {
            self.forgetting.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn forgotten(&self) -> Result<Vec<UserId>, StoreError> {
        self.forget.iter().keys().map(|user| forgotten_user(&user?)).collect()
    }

    fn sweep(&self, until: Instant) -> Result<Swept, StoreError> {
        if self.forget_until(until)? {
            return Ok(Swept::More);
        }
        let removed = self.notes.sweep(until, |doomed, until| match doomed {
            Doomed::Conversation(id) => self.items.remove_items(ConversationId::from_bytes(id), until),
            Doomed::Body(id) => self.responses.remove_body(id, until),
        })?;
        let waiting = !self.forgotten_whole().is_empty();
        Ok(if removed == Swept::Nothing && waiting { Swept::Finish } else { removed })
    }

    fn swept(&self) -> Result<(), StoreError> {
        for user in std::mem::take(&mut *self.forgotten_whole()) {
            self.note_forgotten(user, false)?;
        }
        self.notes.finish()
    }

    fn responses(&self) -> &dyn ResponsesStore {
        &self.responses
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    fn probe(&self) -> Result<(), StoreError> {
        // Both, since sled leaves out a change that changes nothing.
        self.meta.insert(PROBE, &[])?;
        self.meta.remove(PROBE)?;
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let commit = self.commit.load(Ordering::Relaxed) + 1;
        self.meta.insert(COMMIT, &commit.to_be_bytes())?;
        self.db.flush()?;
        self.file.sync_all().map_err(|error| StoreError::from(&error))?;
        self.commit.store(commit, Ordering::Relaxed);
        self.mark.write(Reached { commit, length: 0 }).map_err(|error| StoreError::from(&error))
    }
}

impl SledStores {
    /// Refuses changes while the disk has less than that free.
    #[must_use]
    pub fn reserving(mut self, min_free_bytes: u64) -> Self {
        self.min_free_bytes = min_free_bytes;
        self
    }

    fn forgotten_whole(&self) -> MutexGuard<'_, Vec<UserId>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses users what is more than this.
    #[must_use]
    pub const fn allowing(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// Forgets those who are noted, until then. `true`: there is more to do.
    fn forget_until(&self, until: Instant) -> Result<bool, StoreError> {
        if !self.forgetting.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        for user in self.forget.iter().keys() {
            let user = forgotten_user(&user?)?;
            if self.forgotten_whole().contains(&user) {
                continue;
            }
            // One whose deletion was noted and not decided stays.
            while self.accounts.user(user)?.is_none() && !self.forget_some(user)? {
                if Instant::now() >= until {
                    self.forgetting.store(true, Ordering::Release);
                    return Ok(true);
                }
            }
            self.forgotten_whole().push(user);
        }
        Ok(false)
    }

    /// Does what a crash left undone of forgetting users. What is left of their conversations nobody finds.
    fn finish_forgetting(&self) -> Result<(), StoreError> {
        while self.forget_until(Instant::now() + FOREVER)? {}
        for user in std::mem::take(&mut *self.forgotten_whole()) {
            self.note_forgotten(user, false)?;
        }
        Ok(())
    }

    /// Removes everything that is noted as gone. Blocks.
    ///
    /// # Errors
    /// The database failed.
    pub fn sweep_all(&self) -> Result<(), StoreError> {
        loop {
            match self.sweep(Instant::now() + FOREVER)? {
                Swept::Nothing => return Ok(()),
                Swept::More => {}
                Swept::Finish => {
                    self.sync()?;
                    self.swept()?;
                }
            }
        }
    }

    /// Notes the file's length, which stays until the next start.
    fn close(&self) {
        let commit = self.commit.load(Ordering::Relaxed);
        if commit > 0
            && self.db.flush().is_ok()
            && self.file.sync_all().is_ok()
            && let Ok(file) = self.file.metadata()
        {
            // Without it a shortened file may go unnoticed, which is no reason to fail.
            let _ = self.mark.write(Reached { commit, length: file.len() });
        }
    }
}

impl Drop for SledStores {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens `<folder>/db`, or makes it where there is none.
///
/// # Errors
/// See [`OpenError`].
pub fn open(folder: &Path) -> Result<SledStores, OpenError> {
    let stores = open_caching(folder, CACHE_BYTES)?;
    // There is nobody who could do it later.
    let database_error = |error| OpenError::Database { path: folder.join("db"), error };
    stores.sweep_all().map_err(database_error)?;
    Ok(stores)
}

/// The same, with so much memory for what is read.
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
        // sled opens a file that was cut off as an empty database.
        (Some(_), None) => return Err(wrong("nothing: it is empty")),
        _ => {}
    }
    let schema = schema(&meta).map_err(database_error)?;
    if let Some(found) = schema.filter(|&found| found > SCHEMA) {
        return Err(OpenError::Newer { path, found, known: SCHEMA });
    }
    let commit = number(&meta, COMMIT).map_err(database_error)?;
    // Not before it is known to be ours and locked: the file is another server's otherwise.
    let (mark, reached) = Mark::open(&mark_file).map_err(file_error(&mark_file))?;
    if expected.is_some() && commit < reached.commit {
        return Err(behind(format!("change {}", reached.commit), format!("change {commit}")));
    }
    if expected.is_some() && length < reached.length {
        return Err(behind(format!("{} bytes", reached.length), format!("{length} bytes")));
    }
    // From here on the file may become shorter.
    mark.write(Reached { length: 0, ..reached }).map_err(file_error(&mark_file))?;
    let stores = (|| {
        let notes = Notes::open(&db)?;
        let sums = Sums::open(&db)?;
        let items = Arc::new(SledConversations::noting(&db, notes.clone())?);
        Ok(SledStores {
            file: File::open(path.join("db")).map_err(|error| StoreError::from(&error))?,
            folder: folder.to_owned(),
            min_free_bytes: 0,
            quotas: Quotas::default(),
            sums: sums.clone(),
            mark,
            commit: commit.into(),
            meta: meta.clone(),
            forget: db.open_tree("forget")?,
            accounts: SledAccounts::open(&db)?,
            sessions: SledSessions::open(&db)?,
            usage: SledUsage::open(&db)?,
            records: SledRecords::open(&db, &notes)?,
            audit: SledAudit::open(&db)?,
            responses: SledResponses::open(&db, notes.clone())?,
            conversations: Arc::clone(&items) as Arc<dyn ConversationsStore>,
            items,
            notes,
            forgetting: true.into(),
            forgotten: Mutex::default(),
            db: db.clone(),
        })
    })()
    .map_err(database_error)?;
    if expected.is_none() {
        // The id outside comes last: once it is there, the database is.
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
    stores.finish_forgetting().map_err(database_error)?;
    Ok(stores)
}

/// Brings an older schema up to this one.
fn migrate(stores: &SledStores, from: u32) -> Result<(), StoreError> {
    for (to, step) in steps_from(from) {
        tracing::warn!(
            to,
            "the database is brought to another schema; older versions cannot open it afterwards"
        );
        step(&stores.db)?;
        // What the step did is on disk before the number says so.
        stores.sync()?;
        stores.meta.insert(SCHEMA_KEY, &to.to_be_bytes())?;
        stores.sync()?;
    }
    Ok(())
}

/// Removes what a process left behind that was killed while sled wrote a snapshot: sled takes it for one that is damaged
/// and refuses to open, although the one before it is still there and whole.
fn drop_half_written(path: &Path) {
    let Ok(file) = File::open(path.join("db")) else { return };
    // Who has the database may be writing one at this moment.
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&file, lock).is_err() {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "a snapshot that was not finished is removed");
            // Left there, opening says what is wrong.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Waits a moment for whoever holds the lock: it outlives its holder's last handle by as long as sled's threads take to
/// end, and a process that is just being started from the same one holds it until it runs its own program.
fn open_sled(path: &Path, cache_bytes: u64) -> Result<Db, OpenError> {
    let begun = Instant::now();
    loop {
        match try_open_sled(path, cache_bytes) {
            Err(OpenError::Locked { .. }) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

fn try_open_sled(path: &Path, cache_bytes: u64) -> Result<Db, OpenError> {
    drop_half_written(path);
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    // sled panics over some damage.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
        .unwrap_or_else(|_| Err(sled::Error::ReportableBug("it is damaged".to_owned())));
    opened.map_err(|error| match error {
        sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock") => {
            OpenError::Locked { path: path.to_owned() }
        }
        other => OpenError::Database { path: path.to_owned(), error: other.into() },
    })
}

fn forgotten_user(key: &[u8]) -> Result<UserId, StoreError> {
    id_bytes("a user to be forgotten", key).map(UserId::from_bytes)
}

fn text(meta: &Tree, key: &[u8]) -> Result<Option<String>, StoreError> {
    Ok(meta.get(key)?.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

fn number(meta: &Tree, key: &[u8]) -> Result<u64, StoreError> {
    let value = meta.get(key)?.and_then(|value| <[u8; 8]>::try_from(value.as_ref()).ok());
    Ok(value.map_or(0, u64::from_be_bytes))
}

fn schema(meta: &Tree) -> Result<Option<u32>, StoreError> {
    let Some(value) = meta.get(SCHEMA_KEY)? else { return Ok(None) };
    let bytes = <[u8; 4]>::try_from(value.as_ref()).map_err(|_| StoreError::Value {
        what: "meta/schema".to_owned(),
        problem: format!("{} bytes, expected 4", value.len()),
    })?;
    Ok(Some(u32::from_be_bytes(bytes)))
}

/// A value that is there, read by its serde form.
pub(super) fn decode<T: serde::de::DeserializeOwned>(
    what: impl FnOnce() -> String,
    value: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Value { what: what(), problem: error.to_string() })
}

/// The serde form of a value.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are structs of text, numbers and lists, which have a JSON form")
}

/// An id at the end of a key.
pub(super) fn id_bytes(what: &str, bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    let end = bytes.len().saturating_sub(16);
    <[u8; 16]>::try_from(&bytes[end..]).map_err(|_| StoreError::Value {
        what: what.to_owned(),
        problem: format!("its key has {} bytes, expected at least 16", bytes.len()),
    })
}
