//! Export and import of a store that is being served.
//!
//! An export reads some hundred records at a time on the store's thread and goes on when they have been taken, so that
//! it holds nobody up. It is no snapshot of one moment: each record is whole, what was there from its begin to its end
//! is in it, and what came or went meanwhile may be.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Counts;
use super::format::{ExportError, Exporter};
use super::offline::{self, OfflineError, Step};
use crate::identity::{Index, UserId};
use crate::store::{Record, Store, StoreError};

/// The store's thread does a piece within milliseconds; this long means that it is stuck.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("the database does not answer; try again later")]
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
    /// of it is there before all of it is verified.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn import(&self, body: mpsc::Receiver<io::Result<Bytes>>) -> Result<Counts, BackupError> {
        let backup = self.clone();
        let merged = tokio::task::spawn_blocking(move || backup.merge(body)).await;
        let counts = merged.map_err(|_| BackupError::Timeout)??;
        // Checking credentials reads memory, which takes the new state over at once.
        let (index, (reply, answer)) = (Arc::clone(&self.index), oneshot::channel());
        self.store.read(move |stores| {
            let _ = reply.send(stores.and_then(|stores| index.load(stores)));
        });
        tokio::time::timeout(PIECE_TIMEOUT, answer)
            .await
            .map_err(|_| BackupError::Timeout)?
            .map_err(|_| BackupError::Timeout)??;
        Ok(counts)
    }

    fn merge(&self, body: mpsc::Receiver<io::Result<Bytes>>) -> Result<Counts, OfflineError> {
        let mut reader = ChannelReader { body, rest: Bytes::new() };
        offline::merge(&self.folder, &mut reader, &mut |_| (), &mut |records, step| {
            self.apply(records.to_vec(), step)
        })
    }

    fn apply(&self, records: Vec<Record>, step: Step) -> Result<(), OfflineError> {
        let (reply, answer) = blocking::channel();
        match step {
            Step::Check => self.store.read(move |stores| {
                let checked = stores.map_err(OfflineError::from);
                let _ = reply.send(checked.and_then(|stores| offline::put(stores, &records, step)));
            }),
            // Made durable by the store's thread, together with whatever else waits.
            Step::Put => self.store.write(
                move |stores| stores.records().put(&records).map_err(OfflineError::from),
                move |outcome| {
                    let _ = reply.send(outcome);
                },
            ),
        }
        answer.recv_timeout(PIECE_TIMEOUT).unwrap_or(Err(StoreError::Reopening.into()))
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
            let (reply, answer) = oneshot::channel();
            self.store.read(move |stores| {
                let piece = stores.map_err(ExportError::from).and_then(|stores| exporter.next(stores));
                let _ = reply.send((piece, exporter));
            });
            let Ok(Ok((piece, exporter))) = tokio::time::timeout(PIECE_TIMEOUT, answer).await else {
                return Some(Err(BackupError::Timeout));
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
