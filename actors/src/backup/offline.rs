//! Export and import of a store that no server has open.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::Counts;
use super::constraints::{ImportConstraints, Whole};
use super::format::{ExportError, Exporter, ImportError, Importer};
use crate::config::{StorageConfig, StorageKind};
use crate::identity::{UserId, now_s};
use crate::store::files::create_private_folder;
use crate::store::{self, OpenError, Record, StoreError, Stores, block_on};

/// Maximum length of a line in bytes; records are far shorter.
const LINE: u64 = 64 << 20;

/// Maximum number of records stored at a time.
const CHUNK: usize = 500;
/// Approximate maximum number of bytes stored at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// The handling of a store that already contains data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Refuses the import.
    Fresh,
    /// Replaces the store by the import; the previous store is kept beside it.
    Replace,
    /// Adds the import's records, replacing those of the same keys.
    Merge,
}

/// The reason why an export or import failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store.
    #[error("{0} contains no store; name the server's data folder (--data-dir)")]
    NoStore(PathBuf),
    /// There is no store in the database.
    #[error(
        "the database has no tables in the schema {0}; name the server's database (storage.url, storage.schema)"
    )]
    NoTables(String),
    /// The user does not exist.
    #[error("the user {0} does not exist in the store")]
    NoUser(String),
    /// The store contains data.
    #[error(
        "the store in {0} has data already, and nothing was changed. --replace puts the import in its place and keeps \
         what was there beside it; --merge adds the import's records to it"
    )]
    NotEmpty(String),
    /// A record of the import conflicts with one of another owner in the store.
    #[error(
        "the import has a record that cannot stand beside one in the store: {0}. Nothing was changed. Delete or change \
         one of the two, or import into an empty store"
    )]
    Conflict(String),
    /// No administrator would be left.
    #[error(
        "the import would leave no administrator that is not disabled, and nothing was changed. Make or enable another \
         administrator in the store that was exported, and export it again"
    )]
    NoAdmin,
    /// The export is not accepted.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The store failed.
    #[error("the database failed: {0}")]
    Store(#[from] StoreError),
    /// A file failed.
    #[error("cannot use {what}: {error}")]
    File {
        /// The name of the file.
        what: String,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl From<ExportError> for OfflineError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => Self::Store(error),
        }
    }
}

/// Returns a function that adds the name of a file to its error.
pub fn file_error(what: impl ToString) -> impl FnOnce(io::Error) -> OfflineError {
    let what = what.to_string();
    move |error| OfflineError::File { what, error }
}

/// Writes an export of a whole store, or of the user of that id or address. Blocks; `progress` is called at the beginning and
/// then with the number of records written.
///
/// # Errors
/// See [`OfflineError`].
pub fn export(
    storage: &StorageConfig,
    user: Option<&str>,
    output: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Counts, OfflineError> {
    let factory = store::offline_factory(storage, false);
    if !block_on(factory.exists()) {
        return Err(no_store(storage));
    }
    let stores = block_on(factory.open())?;
    let stores = &*stores;
    let user = match user {
        None => None,
        Some(name) => {
            Some(block_on(find_user(stores, name))?.ok_or_else(|| OfflineError::NoUser(name.to_owned()))?)
        }
    };
    let mut exporter = Exporter::new(user);
    while let Some(piece) = block_on(exporter.next(stores))? {
        output.write_all(&piece).map_err(file_error("the output"))?;
        progress(exporter.counts().values().sum());
    }
    output.flush().map_err(file_error("the output"))?;
    Ok(exporter.counts().clone())
}

/// The error of a configuration whose store is not there.
fn no_store(storage: &StorageConfig) -> OfflineError {
    match storage.kind {
        StorageKind::Sled => OfflineError::NoStore(storage.path.clone()),
        StorageKind::Postgres => OfflineError::NoTables(storage.schema.clone()),
    }
}

/// The place of a store, for messages.
fn place(storage: &StorageConfig) -> String {
    match storage.kind {
        StorageKind::Sled => storage.path.display().to_string(),
        StorageKind::Postgres => format!("the schema {} of the database", storage.schema),
    }
}

async fn find_user(stores: &dyn Stores, name: &str) -> Result<Option<UserId>, StoreError> {
    let found = match name.parse() {
        Ok(id) => stores.accounts().user(id).await?,
        Err(_) => stores.accounts().user_by_email(&name.to_lowercase()).await?,
    };
    Ok(found.map(|user| user.id))
}

/// Imports an export. Nothing of it is visible before all of it is verified. Revocations in the existing store are kept, unless
/// `restore_revoked`. Blocks.
///
/// # Errors
/// See [`OfflineError`].
pub fn import(
    storage: &StorageConfig,
    mode: ImportMode,
    restore_revoked: bool,
    input: &mut dyn Read,
    progress: &mut dyn FnMut(u64),
) -> Result<Counts, OfflineError> {
    let folder = storage.path.as_path();
    create_private_folder(folder).map_err(file_error(folder.display()))?;
    let factory = store::offline_factory(storage, true);
    // Kept open to the end, so that no server opens the folder meanwhile.
    let here = if block_on(factory.exists()) { Some(block_on(factory.open())?) } else { None };
    let here = here.as_deref();
    if let Some(stores) = here {
        if mode == ImportMode::Merge {
            let id = block_on(stores.records().store_id())?;
            let apply: Apply<'_> = &mut |records, step| block_on(put(stores, records, step));
            return merge(folder, &id, restore_revoked, input, progress, apply);
        }
        if mode == ImportMode::Fresh && !block_on(stores.records().is_empty())? {
            return Err(OfflineError::NotEmpty(place(storage)));
        }
    }
    let draft = block_on(factory.draft())?;
    let before = here.filter(|_| mode == ImportMode::Replace);
    let counts = build(draft.stores(), before, restore_revoked, input, progress)?;
    block_on(draft.promote())?;
    Ok(counts)
}

/// Writes an import into a new store.
///
/// `before`: the store that it replaces, whose revocations are kept.
fn build(
    stores: &dyn Stores,
    before: Option<&dyn Stores>,
    restore_revoked: bool,
    input: &mut dyn Read,
    progress: &mut dyn FnMut(u64),
) -> Result<Counts, OfflineError> {
    let id = before.map(|before| block_on(before.records().store_id())).transpose()?;
    let mut whole = Whole::default();
    let mut chunk = Chunk::default();
    let mut done = 0;
    let (counts, _) = read(input, &mut |record, store| {
        let record = match before {
            Some(before) => {
                let constraints =
                    ImportConstraints { same_store: id.as_deref() == Some(store), restore_revoked };
                block_on(constraints.apply(before, record, now_s()))?
            }
            None => Some(record),
        };
        let Some(record) = record else { return Ok(()) };
        whole.note(&record)?;
        if let Some(records) = chunk.push(record) {
            block_on(stores.records().put(&records))?;
            done += records.len() as u64;
            progress(done);
        }
        Ok(())
    })?;
    block_on(stores.records().put(&chunk.records))?;
    if let Some(before) = before {
        block_on(whole.check(before, true))?;
    }
    progress(counts.values().sum());
    block_on(stores.sync())?;
    Ok(counts)
}

/// Records that are stored together.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    bytes: usize,
}

impl Chunk {
    /// Adds a record, and returns all of them once there are enough.
    fn push(&mut self, record: Record) -> Option<Vec<Record>> {
        self.bytes += record.value.len();
        self.records.push(record);
        let enough = self.records.len() >= CHUNK || self.bytes >= CHUNK_BYTES;
        enough.then(|| std::mem::take(self).records)
    }
}

/// Reads and verifies an export, passing on each record and the id of its store.
fn read(
    input: &mut dyn Read,
    visit: &mut dyn FnMut(Record, &str) -> Result<(), OfflineError>,
) -> Result<(Counts, String), OfflineError> {
    let mut importer = Importer::default();
    let mut input = BufReader::with_capacity(256 << 10, input);
    let mut line = Vec::new();
    loop {
        line.clear();
        input.by_ref().take(LINE).read_until(b'\n', &mut line).map_err(file_error("the input"))?;
        if line.is_empty() {
            let store = importer.store().unwrap_or_default().to_owned();
            return Ok((importer.finish()?, store));
        }
        let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(record) = importer.line(bytes)? {
            record.check().map_err(|problem| ImportError::Line { number: importer.lines(), problem })?;
            visit(record, importer.store().unwrap_or_default())?;
        }
    }
}

/// A step of importing verified records: first with all of them, then with the whole, then with all again.
#[derive(Debug)]
pub enum Step<'a> {
    /// Check the records for conflicts, and add them to the whole.
    Check(&'a mut Whole, ImportConstraints),
    /// Check the whole; there are no records.
    Whole(&'a Whole),
    /// Store the records.
    Put(ImportConstraints),
}

/// Executes a step with some records.
pub type Apply<'a> = &'a mut dyn FnMut(&[Record], Step<'_>) -> Result<(), OfflineError>;

/// Executes a step with some records in a store.
pub async fn put(stores: &dyn Stores, records: &[Record], step: Step<'_>) -> Result<(), OfflineError> {
    match step {
        Step::Check(whole, constraints) => {
            for record in records {
                if let Some(taken) = stores.records().conflict(record).await? {
                    let what = String::from_utf8_lossy(&taken.key).replace('\0', " ");
                    let readable = what.chars().all(|c| !c.is_control() && c != char::REPLACEMENT_CHARACTER);
                    let what = if readable { what } else { record.key_text() };
                    return Err(OfflineError::Conflict(format!("{} ({what})", taken.index)));
                }
                if let Some(record) = constraints.apply(stores, record.clone(), now_s()).await? {
                    whole.note(&record)?;
                }
            }
            Ok(())
        }
        Step::Whole(whole) => whole.check(stores, false).await,
        Step::Put(constraints) => {
            for record in records {
                if let Some(record) = constraints.apply(stores, record.clone(), now_s()).await? {
                    stores.records().put(&[record]).await?;
                }
            }
            Ok(stores.sync().await?)
        }
    }
}

/// Verifies a whole export, then passes its records on in chunks, first to be checked and then to be stored. `id`: the id of the
/// store that it is imported into. An interrupted merge can be repeated: the records already stored are stored once more.
pub fn merge(
    folder: &Path,
    id: &str,
    restore_revoked: bool,
    input: &mut dyn Read,
    progress: &mut dyn FnMut(u64),
    apply: Apply<'_>,
) -> Result<Counts, OfflineError> {
    let mut spool = tempfile::tempfile_in(folder).map_err(file_error(folder.display()))?;
    let (counts, store) = {
        let mut spool = io::BufWriter::new(&mut spool);
        // A line of the spool is a record that is verified by now.
        let read = read(input, &mut |record, _| {
            let parts = (record.kind, &record.key, String::from_utf8_lossy(&record.value));
            let line = serde_json::to_string(&parts).expect("numbers and texts have a JSON form");
            writeln!(spool, "{line}").map_err(file_error("the import's draft"))
        })?;
        spool.flush().map_err(file_error("the import's draft"))?;
        read
    };
    let constraints = ImportConstraints { same_store: store == id, restore_revoked };
    let mut whole = Whole::default();
    each_chunk(&mut spool, &mut |records| apply(records, Step::Check(&mut whole, constraints)))?;
    apply(&[], Step::Whole(&whole))?;
    let mut done = 0;
    each_chunk(&mut spool, &mut |records| {
        apply(records, Step::Put(constraints))?;
        done += records.len() as u64;
        progress(done);
        Ok(())
    })?;
    Ok(counts)
}

fn each_chunk(
    spool: &mut File,
    visit: &mut dyn FnMut(&[Record]) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    spool.rewind().map_err(file_error("the import's draft"))?;
    let mut chunk = Chunk::default();
    for line in BufReader::new(&mut *spool).lines() {
        let line = line.map_err(file_error("the import's draft"))?;
        let parts: (usize, Vec<u8>, String) = serde_json::from_str(&line)
            .map_err(|error| file_error("the import's draft")(io::Error::other(error)))?;
        let record = Record { kind: parts.0, key: parts.1, value: parts.2.into_bytes() };
        if let Some(records) = chunk.push(record) {
            visit(&records)?;
        }
    }
    if chunk.records.is_empty() { Ok(()) } else { visit(&chunk.records) }
}
