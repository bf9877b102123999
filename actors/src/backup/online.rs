//! Export and import of a store that is being served.
//!
//! An export reads some hundred records at a time and goes on when they have been taken; it takes no turn on the store's
//! thread, so it holds nobody up. An import puts as many records in as it can within some milliseconds, and then others
//! have their turn. It is no snapshot of one moment: each record is whole, what was there from its begin to its end
//! is in it, and what came or went meanwhile may be.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Counts;
use super::format::{ExportError, Exporter};
use super::keep::Keep;
use super::offline::{self, OfflineError, Step};
use crate::identity::{ApiKeyRecord, Index, UserId, UserRecord, now_s};
use crate::store::{
    AccountChange, Changes, KINDS, KeyHash, PreparedRecord, Record, SessionChange, Store, StoreError,
    StoredSession, Stores,
};

/// A piece is read within milliseconds; this long means that the disk is stuck.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an import may hold the store's thread at a time.
const STEP: Duration = Duration::from_millis(5);

/// How long an import waits for what is still being removed, and how often it looks.
const REMOVING: Duration = Duration::from_secs(30);
const REMOVING_AGAIN: Duration = Duration::from_millis(10);

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The export is not taken in, or cannot stand beside what is there.
    #[error(transparent)]
    Import(#[from] OfflineError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's thread does not answer.
    #[error("the database does not respond; try again later")]
    Timeout,
}

/// Exports and imports of a store that is being served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backup {
    store: Arc<Store>,
    index: Arc<Index>,
    folder: PathBuf,
}

impl Backup {
    pub(crate) fn new(store: Arc<Store>, index: Arc<Index>, folder: PathBuf) -> Self {
        Self { store, index, folder }
    }

    /// An export of everything, or of what is a user's.
    #[must_use]
    pub fn export(&self, user: Option<UserId>) -> ExportStream {
        ExportStream { store: Arc::clone(&self.store), exporter: Some(Exporter::new(user)) }
    }

    /// Takes an export in that comes through `body`: its records are put in place of those of the same keys. Nothing
    /// of it is there before all of it is verified. What was revoked here stays so, unless `restore_revoked`.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn import(
        &self,
        body: mpsc::Receiver<io::Result<Bytes>>,
        restore_revoked: bool,
    ) -> Result<Counts, BackupError> {
        let backup = self.clone();
        let merged = tokio::task::spawn_blocking(move || backup.merge(body, restore_revoked)).await;
        Ok(merged.map_err(|_| BackupError::Timeout)??)
    }

    fn merge(
        &self,
        body: mpsc::Receiver<io::Result<Bytes>>,
        restore_revoked: bool,
    ) -> Result<Counts, OfflineError> {
        let mut reader = ChannelReader { body, rest: Bytes::new() };
        let id = self.store.look_blocking(|stores| stores.records().store_id())?;
        let apply: offline::Apply<'_> = &mut |records, step| self.apply(records, step);
        offline::merge(&self.folder, &id, restore_revoked, &mut reader, &mut |_| (), apply)
    }

    fn apply(&self, records: &[Record], step: Step<'_>) -> Result<(), OfflineError> {
        let Step::Put(keep) = step else {
            return self.store.look_blocking(|stores| offline::put(stores, records, step));
        };
        let ready: Result<Vec<PreparedRecord>, OfflineError> = self.store.look_blocking(|stores| {
            stores.check_space()?;
            let ready = records.iter().map(|record| stores.records().prepare(record.clone()));
            Ok(ready.collect::<Result<_, _>>()?)
        });
        self.put(Arc::new(ready?), keep)
    }

    /// Puts records in, a few at a time. They hold for credentials as soon as they are durable.
    fn put(&self, ready: Arc<Vec<PreparedRecord>>, keep: Keep) -> Result<(), OfflineError> {
        let (mut done, begun) = (0, Instant::now());
        while done < ready.len() {
            let (all, index) = (Arc::clone(&ready), Arc::clone(&self.index));
            let (reply, answer) = std::sync::mpsc::channel();
            self.store.write(
                move |stores: &dyn Stores| put_some(stores, &all, done, keep),
                move |outcome: Result<_, StoreError>| {
                    let _ = reply.send(outcome.map(|(next, changes)| {
                        index.apply(&changes);
                        next
                    }));
                },
            );
            match answer.recv_timeout(PIECE_TIMEOUT).unwrap_or(Err(StoreError::Reopening)) {
                Ok(next) => done = next,
                Err(StoreError::Removing) if begun.elapsed() < REMOVING => std::thread::sleep(REMOVING_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Puts records in from that one on, for a while: the next one, and what the index of credentials has to know. What was
/// revoked is looked up here, where nothing is revoked meanwhile.
fn put_some(
    stores: &dyn Stores,
    all: &[PreparedRecord],
    from: usize,
    keep: Keep,
) -> Result<(usize, Changes), StoreError> {
    let (until, mut next, mut changes) = (Instant::now() + STEP, from, Changes::default());
    while next < all.len() && (next == from || Instant::now() < until) {
        let mut ready = Cow::Borrowed(&all[next]);
        if keep.concerns(&ready.record) {
            match keep.apply(stores, ready.record.clone(), now_s())? {
                Some(record) => ready = Cow::Owned(ready.into_owned().with(record)),
                None => {
                    next += 1;
                    continue;
                }
            }
        }
        match stores.records().put_prepared(&ready) {
            Ok(()) => credentials(&ready.record, &mut changes),
            // What is in already is to be made durable.
            Err(StoreError::Removing) if next > from => break,
            Err(error) => return Err(error),
        }
        next += 1;
    }
    Ok((next, changes))
}

/// What the index of credentials has to know of a record that was put in.
fn credentials(Record { kind, key, value }: &Record, changes: &mut Changes) {
    // It was checked before.
    match KINDS[*kind].name {
        "user" => {
            let user: Option<UserRecord> = serde_json::from_slice(value).ok();
            changes.accounts.extend(user.map(AccountChange::PutUser));
        }
        "key" => {
            let record: Option<ApiKeyRecord> = serde_json::from_slice(value).ok();
            let hash = KeyHash::try_from(key.as_slice()).ok();
            let put = hash.zip(record).map(|(hash, record)| AccountChange::PutKey(hash, record));
            changes.accounts.extend(put);
        }
        "session" => {
            let session: Option<StoredSession> = serde_json::from_slice(value).ok();
            changes.sessions.extend(session.map(SessionChange::Put));
        }
        _ => {}
    }
}

/// The pieces of an export.
#[derive(Debug)]
pub struct ExportStream {
    store: Arc<Store>,
    /// `None` once it has ended.
    exporter: Option<Exporter>,
}

impl ExportStream {
    /// The next lines; `None` behind the last. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes, BackupError>> {
        loop {
            let mut exporter = self.exporter.take()?;
            let piece = self.store.look(move |stores| -> Result<_, StoreError> {
                let piece = exporter.next(stores);
                Ok((piece, exporter))
            });
            let (piece, exporter) = match tokio::time::timeout(PIECE_TIMEOUT, piece).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Some(Err(error.into())),
                Err(_) => return Some(Err(BackupError::Timeout)),
            };
            match piece {
                Ok(None) => return None,
                Err(ExportError::Store(error)) => return Some(Err(error.into())),
                // What is not the user's gives pieces with nothing in them.
                Ok(Some(lines)) if lines.is_empty() => self.exporter = Some(exporter),
                Ok(Some(lines)) => {
                    self.exporter = Some(exporter);
                    return Some(Ok(lines.into()));
                }
            }
        }
    }
}

/// A body that arrives elsewhere, read here.
struct ChannelReader {
    body: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.body.blocking_recv() {
                Some(bytes) => self.rest = bytes?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
