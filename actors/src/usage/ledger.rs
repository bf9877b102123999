//! The ledger: the edge's handle, and the actor that stores usage.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use super::buffer::{Batch, UsageBuffer};
use super::report::{Report, UsageFilter, UsageGrouping, UsagePage};
use super::types::{UsageCounts, UsageKey};
use crate::store::{Store, StoreError, Stores};
use crate::supervisor::ChildSpec;

/// Interval at which the usage of unfinished requests is stored: the most that a killed server loses.
const TICK: Duration = Duration::from_secs(1);

/// Maximum time that the end of a request waits for its usage to be on disk. A full or broken disk must not delay answers; the
/// usage stays in the buffer until it can be written.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time that the server's stop waits for the remaining usage.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time of a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why there is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not answer in time.
    #[error("the database does not respond; try again later")]
    Timeout,
}

/// Counter of usage. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UsageLedger {
    store: Arc<Store>,
    buffer: Arc<Mutex<UsageBuffer>>,
    progress: Arc<watch::Sender<Progress>>,
}

/// The progress of the store.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The number of the last batch on disk.
    durable: u64,
    /// Number of times that a batch could not be written.
    failures: u64,
}

impl UsageLedger {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, buffer: Arc::default(), progress: Arc::new(watch::Sender::new(Progress::default())) }
    }

    /// Returns its actor, for a supervisor to start.
    pub(crate) fn child(&self) -> ChildSpec {
        ChildSpec::new("usage ledger", || Ledger, self.clone())
    }

    /// Adds usage. Does not wait; the usage is on disk within a second.
    pub fn add(&self, key: &UsageKey, counts: &UsageCounts) {
        self.buffer().add(key, counts);
    }

    /// Returns when all usage added so far is on disk, or cannot be written now, or after a second.
    pub async fn settle(&self) {
        self.settle_within(SETTLE_TIMEOUT).await;
    }

    async fn settle_within(&self, limit: Duration) {
        let needed = self.buffer().last_needed();
        let mut progress = self.progress.subscribe();
        let failures = progress.borrow().failures;
        let settled = async {
            loop {
                self.flush();
                // The batch being written may be the one before the needed one.
                let seen = *progress.borrow_and_update();
                let over = seen.durable >= needed || seen.failures > failures;
                if over || progress.changed().await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(limit, settled).await.is_err() {
            tracing::warn!("usage is not durable yet; it is buffered and written later");
        }
    }

    /// Passes the usage to the store, unless the store is still writing the previous batch.
    fn flush(&self) {
        let Some(batch) = self.buffer().take() else { return };
        let number = batch.id.number;
        let ledger = self.clone();
        let guard = BatchGuard(Some(self.clone()));
        self.store.write(
            move |stores| async move { record(&*stores, &batch).await },
            move |outcome: Result<(), StoreError>| {
                guard.settled();
                if let Err(error) = &outcome {
                    tracing::warn!(%error, "usage could not be stored yet; the write is retried");
                }
                ledger.buffer().done(outcome.is_ok());
                ledger.progress.send_modify(|progress| match outcome {
                    Ok(()) => progress.durable = number,
                    Err(_) => progress.failures += 1,
                });
            },
        );
    }

    /// Stores the remaining usage.
    pub(crate) async fn close(&self) {
        self.settle_within(CLOSE_TIMEOUT).await;
    }

    /// Returns usage by day. Usage of the last second may be missing.
    ///
    /// # Errors
    /// The store.
    pub async fn report(
        &self,
        filter: UsageFilter,
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<UsagePage, UsageError> {
        self.flush();
        // After the batch; the read itself may take long and needs no turn.
        let (reply, turn) = tokio::sync::oneshot::channel();
        self.store.read(move |_| {
            let _ = reply.send(());
        });
        let report = async {
            let _ = turn.await;
            self.store
                .look(move |stores| async move { report(&*stores, &filter, grouping, limit).await })
                .await
        };
        match tokio::time::timeout(REPORT_TIMEOUT, report).await {
            Ok(report) => Ok(report?),
            Err(_) => Err(UsageError::Timeout),
        }
    }

    fn buffer(&self) -> MutexGuard<'_, UsageBuffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard for a job that panicked or was dropped by a closed store and did not write its batch.
struct BatchGuard(Option<UsageLedger>);

impl BatchGuard {
    fn settled(mut self) {
        self.0 = None;
    }
}

impl Drop for BatchGuard {
    fn drop(&mut self) {
        if let Some(ledger) = self.0.take() {
            ledger.buffer().done(false);
        }
    }
}

async fn report(
    stores: &dyn Stores,
    filter: &UsageFilter,
    grouping: UsageGrouping,
    limit: usize,
) -> Result<UsagePage, StoreError> {
    let mut report = Report::new(grouping, limit);
    // The identity of a user who is being deleted is no longer reported.
    let forgotten = stores.deleting_users().await?;
    let is_forgotten = |key: &UsageKey| key.user.user().is_some_and(|user| forgotten.contains(&user));
    stores
        .usage()
        .rows(filter, &mut |key, counts| {
            if !is_forgotten(key) {
                report.add(key, counts);
            } else if filter.user.is_none() {
                report.add(&key.anonymised(), counts);
            }
        })
        .await?;
    Ok(report.finish())
}

/// Adds a batch. Usage of a user who has been deleted meanwhile is counted without the user's identity.
async fn record(stores: &dyn Stores, batch: &Batch) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(batch.rows.len());
    for (key, counts) in &batch.rows {
        let gone = match key.user.user() {
            Some(user) => stores.accounts().user(user).await?.is_none(),
            None => false,
        };
        rows.push((if gone { key.anonymised() } else { key.clone() }, *counts));
    }
    stores.usage().add(batch.id, &rows).await
}

/// The actor, which flushes periodically.
#[derive(Debug)]
struct Ledger;

#[derive(Debug)]
struct Tick;

#[ractor::async_trait]
impl Actor for Ledger {
    type Msg = Tick;
    type State = UsageLedger;
    type Arguments = UsageLedger;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        ledger: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(TICK, || Tick);
        Ok(ledger)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        _: Self::Msg,
        ledger: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        ledger.flush();
        Ok(())
    }
}
