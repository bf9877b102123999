//! Opening the database: whose it is, which version wrote it, and that it is the one it should be.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sled::{Db, Tree};
use uuid::Uuid;

use super::accounts::{AccountsStore, SledAccounts};
use super::conversations::{ConversationsStore, SledConversations};
use super::files::{create_private_folder, sync_folder, write_private};
use super::responses::{ResponsesStore, SledResponses};
use super::sessions::{SessionsStore, SledSessions};
use super::{StoreError, Stores};

/// The version of keys and values. One that is newer than this is refused.
const SCHEMA: u32 = 1;

/// sled's cache holds at most this; its default is 1 GiB.
const CACHE_BYTES: u64 = 64 << 20;

const ID: &[u8] = b"store_id";
const SCHEMA_KEY: &[u8] = b"schema";

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the database {path} is in use by another process: stop that server first, or give this one a data folder \
         of its own (--data-dir)"
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// It lost its contents, or is another one.
    #[error(
        "the database {path} is not the one that belongs here: {id_file} says {expected}, the database says {found}. \
         It was damaged or exchanged. Restore both from one backup; or, to begin again without any user, key or \
         session, move both away"
    )]
    WrongStore {
        /// The database.
        path: PathBuf,
        /// Where its id is kept.
        id_file: PathBuf,
        /// The id there.
        expected: String,
        /// The id in the database.
        found: String,
    },
    /// A newer program wrote it.
    #[error(
        "the database {path} was written by a newer version of this program (schema {found}, this one knows up to \
         {known}): use that version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// A file cannot be used.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// sled cannot open it.
    #[error("cannot open the database {path}: {error}")]
    Database {
        /// The database.
        path: PathBuf,
        /// What sled says.
        error: StoreError,
    },
}

/// sled's trees.
#[derive(Debug)]
pub struct SledStores {
    db: Db,
    /// The database's file once more: what sled calls a flush does not wait for the disk.
    file: File,
    accounts: SledAccounts,
    sessions: SledSessions,
    responses: SledResponses,
    conversations: Arc<dyn ConversationsStore>,
}

impl Stores for SledStores {
    fn accounts(&self) -> &dyn AccountsStore {
        &self.accounts
    }

    fn sessions(&self) -> &dyn SessionsStore {
        &self.sessions
    }

    fn responses(&self) -> &dyn ResponsesStore {
        &self.responses
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        self.file.sync_all().map_err(|error| StoreError::Database(error.to_string()))
    }
}

/// Opens `<folder>/db`, or makes it where there is none.
///
/// # Errors
/// See [`OpenError`].
pub fn open(folder: &Path) -> Result<SledStores, OpenError> {
    let path = folder.join("db");
    let id_file = folder.join("store.id");
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
    create_private_folder(&path).map_err(file_error(&path))?;
    let database_error = |error| OpenError::Database { path: path.clone(), error };
    let db = open_sled(&path)?;
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
    let stores = (|| {
        Ok(SledStores {
            file: File::open(path.join("db")).map_err(|error| StoreError::Database(error.to_string()))?,
            accounts: SledAccounts::open(&db)?,
            sessions: SledSessions::open(&db)?,
            responses: SledResponses::open(&db)?,
            conversations: Arc::new(SledConversations::open(&db)?),
            db: db.clone(),
        })
    })()
    .map_err(database_error)?;
    if expected.is_none() {
        // The id outside comes last: once it is there, the database is.
        let id = found.unwrap_or_else(|| Uuid::new_v4().as_simple().to_string());
        let write = || {
            meta.insert(ID, id.as_bytes())?;
            meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes())?;
            stores.sync()
        };
        write().map_err(database_error)?;
        sync_folder(&path).map_err(file_error(&path))?;
        write_private(&id_file, format!("{id}\n").as_bytes()).map_err(file_error(&id_file))?;
    }
    Ok(stores)
}

fn open_sled(path: &Path) -> Result<Db, OpenError> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    config.open().map_err(|error| match error {
        sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock") => {
            OpenError::Locked { path: path.to_owned() }
        }
        other => OpenError::Database { path: path.to_owned(), error: other.into() },
    })
}

fn text(meta: &Tree, key: &[u8]) -> Result<Option<String>, StoreError> {
    Ok(meta.get(key)?.map(|value| String::from_utf8_lossy(&value).into_owned()))
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
