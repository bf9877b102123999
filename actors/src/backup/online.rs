//! Export and import of the store of a running server.
//!
//! An export reads some hundred records at a time and continues when they have been taken; it takes no turn on the store's
//! thread, so it delays no writer. An import stores as many records as it can within some milliseconds, and then other writers
//! get their turn. An export is no snapshot of one moment: each record is consistent, records that exist from its beginning to
//! its end are included, and records that are added or deleted meanwhile may be.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Counts;
use super::constraints::ImportConstraints;
use super::format::{ExportError, Exporter};
use super::offline::{self, OfflineError, Step};
use crate::identity::credentials::CredentialNotices;
use crate::identity::{ApiKeyRecord, UserId, UserRecord, now_s};
use crate::store::{
    AccountChange, Changes, KINDS, KeyHash, PreparedRecord, Record, SessionChange, Store, StoreError,
    StoredSession, Stores,
};

/// Maximum time to read a piece. A piece takes milliseconds; this long means that the disk is stuck.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time that an import holds the store's thread.
const STEP: Duration = Duration::from_millis(5);

/// Maximum time that an import waits for pending removals, and the interval of its checks.
const REMOVING: Duration = Duration::from_secs(30);
const REMOVING_AGAIN: Duration = Duration::from_millis(10);

/// The reason why an export or import failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The export is not accepted, or conflicts with the store.
    #[error(transparent)]
    Import(#[from] OfflineError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's thread does not answer.
    #[error("the database does not respond; try again later")]
    Timeout,
}

/// Exports and imports of the store of a running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backup {
    store: Arc<Store>,
    notices: Arc<dyn CredentialNotices>,
    folder: PathBuf,
}

impl Backup {
    pub(crate) fn new(store: Arc<Store>, notices: Arc<dyn CredentialNotices>, folder: PathBuf) -> Self {
        Self { store, notices, folder }
    }

    /// Returns an export of everything, or of one user's records.
    #[must_use]
    pub fn export(&self, user: Option<UserId>) -> ExportStream {
        ExportStream { store: Arc::clone(&self.store), exporter: Some(Exporter::new(user)) }
    }

    /// Imports an export that arrives through `body`: its records replace those of the same keys. Nothing of it is visible before
    /// all of it is verified. Revocations in the store are kept, unless `restore_revoked`.
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
        let id = self.store.look_blocking(|stores| async move { stores.records().store_id().await })?;
        let apply: offline::Apply<'_> = &mut |records, step| self.apply(records, step);
        offline::merge(&self.folder, &id, restore_revoked, &mut reader, &mut |_| (), apply)
    }

    fn apply(&self, records: &[Record], step: Step<'_>) -> Result<(), OfflineError> {
        let Step::Put(constraints) = step else {
            return self
                .store
                .look_blocking(|stores| async move { offline::put(&*stores, records, step).await });
        };
        let ready: Result<Vec<PreparedRecord>, OfflineError> =
            self.store.look_blocking(|stores| async move {
                stores.check_space().await?;
                let mut ready = Vec::with_capacity(records.len());
                for record in records {
                    ready.push(stores.records().prepare(record.clone()).await?);
                }
                Ok(ready)
            });
        self.put(Arc::new(ready?), constraints)
    }

    /// Stores records, a few at a time. They apply to credentials as soon as they are durable.
    fn put(
        &self,
        ready: Arc<Vec<PreparedRecord>>,
        constraints: ImportConstraints,
    ) -> Result<(), OfflineError> {
        let (mut done, begun) = (0, Instant::now());
        while done < ready.len() {
            let (all, notices) = (Arc::clone(&ready), Arc::clone(&self.notices));
            let (place, (reply, answer)) = (notices.place(), std::sync::mpsc::channel());
            self.store.write(
                move |stores| async move { put_some(&*stores, &all, done, constraints).await },
                move |outcome: Result<_, StoreError>| {
                    let _ = reply.send(outcome.map(|(next, changes)| {
                        notices.publish_after(place, &changes);
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

/// Stores records from the given one on, for a limited time; returns the next one, and the changes for the index of credentials.
/// Revocations are looked up here, where none happens concurrently.
async fn put_some(
    stores: &dyn Stores,
    all: &[PreparedRecord],
    from: usize,
    constraints: ImportConstraints,
) -> Result<(usize, Changes), StoreError> {
    let (until, mut next, mut changes) = (Instant::now() + STEP, from, Changes::default());
    while next < all.len() && (next == from || Instant::now() < until) {
        let mut ready = Cow::Borrowed(&all[next]);
        if constraints.concerns(&ready.record) {
            match constraints.apply(stores, ready.record.clone(), now_s()).await? {
                Some(record) => ready = Cow::Owned(ready.into_owned().with(record)),
                None => {
                    next += 1;
                    continue;
                }
            }
        }
        match stores.records().put_prepared(&ready).await {
            Ok(()) => credentials(&ready.record, &mut changes),
            // The records stored so far are made durable first.
            Err(StoreError::Removing) if next > from => break,
            Err(error) => return Err(error),
        }
        next += 1;
    }
    Ok((next, changes))
}

/// Adds the changes that a stored record means for the index of credentials.
fn credentials(Record { kind, key, value }: &Record, changes: &mut Changes) {
    // The record was checked before.
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
    /// `None` once the export has ended.
    exporter: Option<Exporter>,
}

impl ExportStream {
    /// Returns the next lines; `None` after the last or after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes, BackupError>> {
        loop {
            let mut exporter = self.exporter.take()?;
            let piece = self.store.look(move |stores| async move {
                let piece = exporter.next(&*stores).await;
                Ok::<_, StoreError>((piece, exporter))
            });
            let (piece, exporter) = match tokio::time::timeout(PIECE_TIMEOUT, piece).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Some(Err(error.into())),
                Err(_) => return Some(Err(BackupError::Timeout)),
            };
            match piece {
                Ok(None) => return None,
                Err(ExportError::Store(error)) => return Some(Err(error.into())),
                // Records that are not the user's give empty pieces.
                Ok(Some(lines)) if lines.is_empty() => self.exporter = Some(exporter),
                Ok(Some(lines)) => {
                    self.exporter = Some(exporter);
                    return Some(Ok(lines.into()));
                }
            }
        }
    }
}

/// Reader of a body that arrives in another task.
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
