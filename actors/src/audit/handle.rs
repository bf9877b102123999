//! The edge's handle to the audit log, and the actor of its periodic work.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor as RactorActor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::coalesce::Coalescer;
use super::record::{AuditFilter, AuditId, AuditOutcome, AuditPage, AuditRecord, Class, LOST};
use super::stream::Stream;
use crate::config::AuditConfig;
use crate::identity::now_s;
use crate::store::{Store, StoreError};
use crate::supervisor::ChildSpec;

/// Interval at which counts are written, and failed writes are retried.
const TICK: Duration = Duration::from_secs(1);

/// Interval at which old records are removed and the remaining ones are counted.
const PASS_EVERY: Duration = Duration::from_secs(3600);

/// Maximum number of records that wait to be stored, for example while the disk is full.
const MAX_WAITING: usize = 4096;

/// Number of records stored in one job of the store's thread.
const PER_JOB: usize = 128;

/// Number of records removed in one job.
const REMOVED_PER_JOB: usize = 256;

/// Maximum number of records examined for one page, including those that the filter excludes.
const LOOKED_AT: usize = 50_000;

/// Maximum time to read a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time that the server's stop waits for records that are not stored yet.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

const DAY_S: u64 = 86_400;

/// The reason why a page could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not answer in time.
    #[error("the database does not respond; try again later")]
    Timeout,
}

/// Handle to the audit log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    store: Arc<Store>,
    stream: Option<Stream>,
    config: Arc<AuditConfig>,
    began: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    coalescer: Coalescer,
    waiting: VecDeque<AuditRecord>,
    /// Number of records in the running job.
    writing: usize,
    /// True if the last job failed; the failure is logged once.
    failing: bool,
    /// Number of records dropped because the queue was full.
    lost: u64,
    /// Number of stored records of each class, once it is known.
    kept: Option<[usize; 2]>,
    /// Records stored during the count.
    added: [usize; 2],
}

impl Audit {
    /// Opens a log that stores its records in `store` and writes them to the configured stream.
    ///
    /// # Errors
    /// `audit.stream` names a file that cannot be opened.
    pub(crate) fn new(store: Arc<Store>, config: AuditConfig) -> io::Result<Self> {
        let stream = Stream::open(&config.stream)?;
        let state = Arc::default();
        Ok(Self { store, stream, config: Arc::new(config), began: Instant::now(), state })
    }

    /// Returns its actor, for a supervisor to start.
    pub(crate) fn child(&self) -> ChildSpec {
        ChildSpec::new("audit log", || AuditActor, self.clone())
    }

    /// Records an event. Does not wait: the record is on the stream and on disk within some milliseconds.
    pub fn record(&self, record: AuditRecord) {
        let now = self.now();
        let mut state = self.state();
        let counted = state.coalescer.drain(now);
        let record = state.coalescer.admit(now, record);
        self.take(&mut state, counted.into_iter().chain(record));
        drop(state);
        self.flush();
    }

    fn take(&self, state: &mut State, records: impl Iterator<Item = AuditRecord>) {
        for record in records {
            if let Some(stream) = &self.stream {
                stream.write(&record);
            }
            if self.config.retention_days == 0 {
                continue;
            }
            if state.waiting.len() + state.writing < MAX_WAITING {
                state.waiting.push_back(record);
            } else {
                state.lost = state.lost.saturating_add(record.count);
            }
        }
    }

    /// Passes waiting records to the store, unless its previous job is still running: so a batch of the store has at most one
    /// such job, and changes that arrive meanwhile share its sync.
    fn flush(&self) {
        let mut state = self.state();
        if state.writing > 0 || state.waiting.is_empty() {
            return;
        }
        let some = state.waiting.len().min(PER_JOB);
        let batch: Arc<[AuditRecord]> = state.waiting.drain(..some).collect();
        state.writing = batch.len();
        let remove = self.too_many(&state, &batch);
        drop(state);
        let job = Arc::clone(&batch);
        let undone = BatchGuard(Some((self.clone(), batch)));
        self.store.write(
            move |stores| async move {
                stores.audit().add(&job).await?;
                let mut removed = [0; 2];
                for class in Class::ALL {
                    let some = remove[class as usize];
                    removed[class as usize] = stores.audit().remove_oldest(class, None, some).await?;
                }
                Ok(removed)
            },
            move |outcome| undone.settle(outcome),
        );
    }

    /// Returns how many records of each class have to be removed to make room for these.
    fn too_many(&self, state: &State, batch: &[AuditRecord]) -> [usize; 2] {
        let Some(kept) = state.kept else { return [0; 2] };
        Class::ALL.map(|class| {
            let new = batch.iter().filter(|record| record.class() == class).count();
            let most = self.config.most_of(class as usize);
            (kept[class as usize] + new).saturating_sub(most).min(REMOVED_PER_JOB)
        })
    }

    fn settled(&self, batch: &[AuditRecord], outcome: Result<[usize; 2], StoreError>) {
        let mut state = self.state();
        state.writing = 0;
        match outcome {
            Ok(removed) => {
                state.failing = false;
                for class in Class::ALL {
                    let at = class as usize;
                    let new = batch.iter().filter(|record| record.class() == class).count();
                    state.added[at] = (state.added[at] + new).saturating_sub(removed[at]);
                    if let Some(kept) = &mut state.kept {
                        kept[at] = (kept[at] + new).saturating_sub(removed[at]);
                    }
                }
                drop(state);
                self.flush();
            }
            Err(error) => {
                if !std::mem::replace(&mut state.failing, true) {
                    tracing::warn!(%error, "the audit log could not be stored yet; the write is retried");
                }
                batch.iter().rev().for_each(|record| state.waiting.push_front(record.clone()));
            }
        }
    }

    /// Returns a page of records, newest first. Records of the last milliseconds may be missing.
    ///
    /// # Errors
    /// The store.
    pub async fn page(&self, filter: AuditFilter, limit: usize) -> Result<AuditPage, AuditError> {
        self.flush();
        // After the records just passed to the store; the read itself may take long and needs no turn.
        let (reply, turn) = oneshot::channel();
        self.store.read(move |_| {
            let _ = reply.send(());
        });
        let page = async {
            let _ = turn.await;
            self.store
                .look(move |stores| async move { stores.audit().page(&filter, limit, LOOKED_AT).await })
                .await
        };
        match tokio::time::timeout(PAGE_TIMEOUT, page).await {
            Ok(page) => Ok(page?),
            Err(_) => Err(AuditError::Timeout),
        }
    }

    /// Performs the periodic work.
    fn tick(&self) {
        let now = self.now();
        let mut state = self.state();
        let mut records = state.coalescer.drain(now);
        if state.lost > 0 && state.waiting.is_empty() && state.writing == 0 {
            let count = std::mem::take(&mut state.lost);
            records.push(AuditRecord { count, ..AuditRecord::new(LOST, AuditOutcome::Failed) });
        }
        self.take(&mut state, records.into_iter());
        drop(state);
        self.flush();
    }

    /// Removes records that are too old, and counts the remaining ones.
    async fn pass(&self) -> Result<(), StoreError> {
        let days = u64::from(self.config.retention_days);
        let before = match days {
            // Disabled: all records stored before are removed.
            0 => AuditId::from_bytes([0xff; 16]),
            days => AuditId::first_of(now_s().saturating_sub(days * DAY_S)),
        };
        for class in Class::ALL {
            while self.remove(class, Some(before), REMOVED_PER_JOB).await? == REMOVED_PER_JOB {}
        }
        self.state().added = [0; 2];
        let counted = self.store.look(|stores| async move { stores.audit().count().await }).await?;
        self.note_counted(counted);
        for class in Class::ALL {
            loop {
                let kept = self.state().kept.map_or(0, |kept| kept[class as usize]);
                let some = kept.saturating_sub(self.config.most_of(class as usize)).min(REMOVED_PER_JOB);
                if some == 0 || self.remove(class, None, some).await? == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    fn note_counted(&self, counted: [usize; 2]) {
        let mut state = self.state();
        let added = state.added;
        state.kept = Some([counted[0] + added[0], counted[1] + added[1]]);
    }

    async fn remove(&self, class: Class, before: Option<AuditId>, some: usize) -> Result<usize, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.store.write(
            move |stores| async move { stores.audit().remove_oldest(class, before, some).await },
            move |outcome: Result<usize, StoreError>| {
                let _ = reply.send(outcome);
            },
        );
        let removed = answer.await.unwrap_or(Err(StoreError::Reopening))?;
        if let Some(kept) = &mut self.state().kept {
            kept[class as usize] = kept[class as usize].saturating_sub(removed);
        }
        Ok(removed)
    }

    /// Stores the remaining records.
    pub(crate) async fn close(&self) {
        let counted = self.state().coalescer.drain_all();
        self.take(&mut self.state(), counted.into_iter());
        let stored = async {
            loop {
                self.flush();
                if self.is_idle() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, stored).await.is_err() {
            tracing::warn!("the last records of the audit log could not be written down");
        }
        if let Some(stream) = self.stream.clone() {
            let _ = tokio::task::spawn_blocking(move || stream.close()).await;
        }
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.writing == 0 && state.waiting.is_empty()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard for a job that panicked or was dropped by a closed store and did not write its batch.
struct BatchGuard(Option<(Audit, Arc<[AuditRecord]>)>);

impl BatchGuard {
    fn settle(mut self, outcome: Result<[usize; 2], StoreError>) {
        if let Some((audit, batch)) = self.0.take() {
            audit.settled(&batch, outcome);
        }
    }
}

impl Drop for BatchGuard {
    fn drop(&mut self) {
        if let Some((audit, batch)) = self.0.take() {
            audit.settled(&batch, Err(StoreError::Reopening));
        }
    }
}

/// The actor, which performs the periodic work.
#[derive(Debug)]
struct AuditActor;

#[derive(Debug)]
enum AuditMessage {
    Tick,
    Pass,
}

#[ractor::async_trait]
impl RactorActor for AuditActor {
    type Msg = AuditMessage;
    type State = Audit;
    type Arguments = Audit;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        audit: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(TICK, || AuditMessage::Tick);
        myself.send_interval(PASS_EVERY, || AuditMessage::Pass);
        // An actor that has just been spawned receives messages.
        let _ = myself.cast(AuditMessage::Pass);
        Ok(audit)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        audit: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AuditMessage::Tick => audit.tick(),
            AuditMessage::Pass => {
                if let Err(error) = audit.pass().await {
                    tracing::warn!(%error, "removing expired audit records failed; it is retried later");
                }
            }
        }
        Ok(())
    }
}
