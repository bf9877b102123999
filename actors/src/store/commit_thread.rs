//! The commit thread: runs jobs in order, makes the changes of a batch durable with one sync, then runs their callbacks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::commit_delay::CommitDelay;
use super::write_batch::{BatchedStores, WriteBatch};
use super::{CleanupProgress, OpenError, Problem, StoreError, StoreFactory, Stores, block_on};

/// Maximum number of jobs that share one sync, which bounds how long the first waits for the last.
const MAX_JOBS: usize = 1024;

/// A round ends and is made durable once its jobs have taken this long.
const ROUND_TIME: Duration = Duration::from_millis(20);

/// The duration of a step of removing the contents of deleted records. Jobs that arrive meanwhile wait for its end.
const CLEANUP_STEP: Duration = Duration::from_millis(4);

/// The minimum time between two attempts to reopen the database.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The time after which a caller gives up: each job takes milliseconds, so the thread is stuck.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the database and loads the part that is mirrored in memory; called again after a failure.
type Open = Box<dyn Fn() -> Result<Arc<dyn Stores>, OpenError> + Send>;

/// A completion callback, called in order once the job's changes are durable or have failed.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A job that reads. `Err`: there is no database.
type Read = Box<dyn FnOnce(Result<Arc<dyn Stores>, StoreError>) + Send>;

/// A job that writes, driven to its end; returns whether it changed anything, and its callback.
type Write = Box<dyn FnOnce(Result<Arc<dyn Stores>, StoreError>) -> (bool, Finish) + Send>;

enum Job {
    Read(Read),
    Write(Write),
    Close,
}

/// The handle of the commit thread. Jobs run in the order in which they are submitted.
pub struct Store {
    jobs: Sender<Job>,
    /// The number of writes that have not started.
    queued: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
    view: View,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The database for reads on other threads. Weak, since a database that failed must be dropped before it is reopened.
type View = Arc<Mutex<Option<Weak<dyn Stores>>>>;

fn upgrade(view: &View) -> Option<Arc<dyn Stores>> {
    view.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("healthy", &self.is_healthy()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, or creates it. Blocks. `load` gets its contents, now and whenever it had to be reopened.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open<F>(
        factory: Box<dyn StoreFactory>,
        load: impl Fn(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<Self, OpenError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        if !factory.is_durable() {
            tracing::warn!("the store is not durable: its contents end with this process");
        }
        Self::start(Box::new(move || {
            let stores: Arc<dyn Stores> = block_on(factory.open())?.into();
            block_on(load(Arc::clone(&stores))).map_err(|error| factory.load_error(error))?;
            Ok(stores)
        }))
    }

    pub(super) fn start(open: Open) -> Result<Self, OpenError> {
        let (jobs, receiver) = mpsc::channel();
        let (healthy, queued) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let view = View::default();
        let mut committer = CommitThread {
            open,
            stores: None,
            view: Arc::clone(&view),
            queued: Arc::clone(&queued),
            delay: CommitDelay::default(),
            healthy: Arc::clone(&healthy),
            last_reopen: Instant::now(),
            out_of_space: false,
            failed_out_of_space: false,
        };
        let (opened, opening) = mpsc::channel();
        // A driver of a database may need its runtime, wherever its futures are polled.
        let runtime = Handle::try_current().ok();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            match (committer.open)() {
                Ok(stores) => committer.publish(stores),
                Err(error) => return drop(opened.send(Err(error))),
            }
            let _ = opened.send(Ok(()));
            committer.run(&receiver);
        });
        let problem = |what: &str| OpenError::Backend(Problem::new(what, ""));
        let thread = thread.map_err(|error| problem(&format!("cannot start the commit thread: {error}")))?;
        opening.recv().unwrap_or_else(|_| Err(problem("opening the database panicked")))?;
        Ok(Self { jobs, queued, healthy, view, thread: Mutex::new(Some(thread)) })
    }

    /// Returns `true` if the last access to the database succeeded.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Runs `turn` on the commit thread, after the jobs that were submitted before. Should it panic, it is dropped.
    pub fn read(&self, turn: impl FnOnce(Result<Arc<dyn Stores>, StoreError>) + Send + 'static) {
        // A closed store drops the job, and with it the reply that its caller waits for.
        let _ = self.jobs.send(Job::Read(Box::new(turn)));
    }

    /// The database for reads that may take long, on any thread that may block. Drop it soon: while it is held, a database
    /// that failed cannot be reopened.
    ///
    /// # Errors
    /// The database failed and could not be reopened yet.
    pub async fn view(&self) -> Result<Arc<dyn Stores>, StoreError> {
        if let Some(stores) = upgrade(&self.view) {
            return Ok(stores);
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.read(move |stores| {
            let _ = reply.send(stores.map(|_| ()));
        });
        answer.await.map_err(|_| StoreError::Reopening)??;
        upgrade(&self.view).ok_or(StoreError::Reopening)
    }

    /// Reads beside the commit thread. A database that [blocks](Stores::is_blocking) is read on a blocking thread, to the
    /// end; another one in a task that ends when this future is dropped.
    ///
    /// # Errors
    /// There is no database, or `look` returns it.
    pub async fn look<T, E, F>(
        &self,
        look: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let stores = self.view().await?;
        let looked = match stores.is_blocking() {
            true => tokio::task::spawn_blocking(move || block_on(look(stores))).await,
            false => AbortOnDropHandle::new(tokio::spawn(look(stores))).await,
        };
        looked.unwrap_or_else(|_| Err(StoreError::Database("a read panicked".to_owned()).into()))
    }

    /// [`look`](Self::look) for a thread that may block.
    ///
    /// # Errors
    /// There is no database, or `look` returns it.
    pub fn look_blocking<T, E, F>(&self, look: impl FnOnce(Arc<dyn Stores>) -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        if upgrade(&self.view).is_none() {
            let (reply, answer) = mpsc::channel();
            self.read(move |stores| {
                let _ = reply.send(stores.map(|_| ()));
            });
            answer.recv_timeout(TIMEOUT).unwrap_or(Err(StoreError::Reopening))?;
        }
        block_on(look(upgrade(&self.view).ok_or(StoreError::Reopening)?))
    }

    /// [`write`](Self::write) for a thread that may block.
    ///
    /// # Errors
    /// There is no database, it failed, or `change` returns it.
    pub fn write_blocking<T, E, F>(
        &self,
        change: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = mpsc::channel();
        self.write(change, move |outcome| {
            let _ = reply.send(outcome);
        });
        answer.recv_timeout(TIMEOUT).unwrap_or_else(|_| Err(StoreError::Reopening.into()))
    }

    /// Runs `change` to its end, makes its changes durable, and then runs `done`, both on the commit thread. Callbacks run in
    /// the order of their changes, so that readers of their publications never see an older state after a newer one. `done`
    /// gets the error if the changes did not become durable.
    pub fn write<T, E, F>(
        &self,
        change: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
        done: impl FnOnce(Result<T, E>) + Send + 'static,
    ) where
        F: Future<Output = Result<T, E>>,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let job = move |stores: Result<Arc<dyn Stores>, StoreError>| -> (bool, Finish) {
            let outcome = stores.map_err(E::from).and_then(|stores| block_on(change(stores)));
            let changed = outcome.is_ok();
            let finish = move |synced: Result<(), StoreError>| match synced {
                Err(error) if changed => done(Err(error.into())),
                _ => done(outcome),
            };
            (changed, Box::new(finish))
        };
        self.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Write(Box::new(job)));
    }

    /// Runs all submitted jobs, then closes the database. Blocks.
    pub fn close(&self) {
        let _ = self.jobs.send(Job::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A job that drops the last handle must not wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// The state of the commit thread.
struct CommitThread {
    open: Open,
    stores: Option<Arc<dyn Stores>>,
    view: View,
    queued: Arc<AtomicUsize>,
    delay: CommitDelay,
    healthy: Arc<AtomicBool>,
    /// The time of the last attempt to reopen the database.
    last_reopen: Instant,
    /// `true` if space was lacking at the last check.
    out_of_space: bool,
    /// `true` if it failed for lack of space, and could not be reopened since.
    failed_out_of_space: bool,
}

impl CommitThread {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Some(first) = self.next(jobs) {
            let mut finishes = Vec::new();
            let mut changed = false;
            let mut refused = false;
            let mut close = false;
            self.reopen();
            let batchable = self.stores.as_ref().filter(|stores| !stores.can_conflict());
            let batch = batchable.map(|stores| Arc::new(WriteBatch::new(Arc::clone(stores))));
            // Checked once a round, at its first write.
            let mut room = None;
            let mut left = MAX_JOBS;
            let began = Instant::now();
            let mut idle = None;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                let job_began = Instant::now();
                match job {
                    Job::Read(read) => {
                        // It sees earlier changes of this round. The batch keeps an error for the end of the round.
                        let _ = batch.as_ref().map(|batch| block_on(batch.flush()));
                        let _ = guarded(|| read(self.shared()));
                    }
                    Job::Write(write) => {
                        self.queued.fetch_sub(1, Ordering::Relaxed);
                        let room = room.get_or_insert_with(|| self.room()).clone();
                        let stores = room.and(self.shared()).map(|stores| -> Arc<dyn Stores> {
                            match &batch {
                                Some(batch) => Arc::new(BatchedStores::new(batch)),
                                None => stores,
                            }
                        });
                        let open = stores.is_ok();
                        let done = guarded(|| write(stores));
                        let changes = done.as_ref().is_some_and(|(changes, _)| *changes);
                        changed |= changes;
                        refused |= open && !changes;
                        finishes.extend(done.map(|(_, finish)| finish));
                    }
                    Job::Close => {
                        close = true;
                        break;
                    }
                }
                note_long("a job", job_began.elapsed());
                left -= 1;
                if left > 0 && began.elapsed() < ROUND_TIME {
                    next = jobs.try_recv().ok().or_else(|| {
                        let idle = idle.get_or_insert_with(Instant::now).elapsed();
                        jobs.recv_timeout(self.delay.remaining(finishes.len(), idle)?).ok()
                    });
                }
            }
            let flush_began = Instant::now();
            let flushed = batch.map_or(Ok(()), |batch| block_on(batch.flush()));
            note_long("a batch of changes", flush_began.elapsed());
            // Here as well, since there may always be another job.
            let progress = self.cleanup();
            let started = Instant::now();
            let synced = match changed {
                true => self.sync(flushed),
                false if refused => self.probe(),
                false => Ok(()),
            };
            if changed {
                self.delay.record(finishes.len(), self.queued.load(Ordering::Relaxed), started.elapsed());
            }
            if changed && synced.is_ok() && progress == Some(CleanupProgress::Finish) {
                self.complete_cleanup();
            }
            for finish in finishes {
                let _ = guarded(|| finish(synced.clone()));
            }
            if close {
                break;
            }
        }
    }

    /// The next job. While there is none, contents of deleted records are removed.
    fn next(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            match jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            match self.cleanup() {
                Some(CleanupProgress::More) => {}
                Some(CleanupProgress::Finish) => self.sync_cleanup(),
                Some(CleanupProgress::Nothing) | None => return jobs.recv().ok(),
            }
        }
    }

    /// A step of removing contents of deleted records. `None`: it failed, and is tried again after the next job.
    fn cleanup(&self) -> Option<CleanupProgress> {
        // Removals are writes as well and have to wait for space.
        let stores = self.stores.as_ref().filter(|_| !self.out_of_space)?;
        match guarded(|| block_on(stores.cleanup(Instant::now() + CLEANUP_STEP)))? {
            Ok(progress) => Some(progress),
            Err(error) => {
                tracing::warn!(%error, "removing deleted records failed; it is tried again later");
                None
            }
        }
    }

    /// Makes removals durable and completes them.
    fn sync_cleanup(&mut self) {
        if self.sync(Ok(())).is_ok() {
            self.complete_cleanup();
        }
    }

    /// Completes removals that are durable.
    fn complete_cleanup(&self) {
        if let Some(Err(error)) =
            self.stores.as_ref().and_then(|stores| guarded(|| block_on(stores.finish_cleanup())))
        {
            tracing::warn!(%error, "completing a removal failed; it is done again at the next start");
        }
    }

    /// Makes a database available for reads.
    fn publish(&mut self, stores: Arc<dyn Stores>) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&stores));
        self.stores = Some(stores);
    }

    fn stores(&self) -> Result<&dyn Stores, StoreError> {
        self.stores.as_deref().ok_or(StoreError::Reopening)
    }

    fn shared(&self) -> Result<Arc<dyn Stores>, StoreError> {
        self.stores.clone().ok_or(StoreError::Reopening)
    }

    /// Checks for space before a write: a database that runs out of it in the middle fails and has to be reopened, which
    /// may need space as well.
    fn room(&mut self) -> Result<(), StoreError> {
        let room = match &self.stores {
            Some(stores) => block_on(stores.check_space()),
            // Opening needs space, so this can last as long as space is lacking.
            None if self.failed_out_of_space => {
                Err(StoreError::OutOfSpace("the database waits for room".to_owned()))
            }
            None => Err(StoreError::Reopening),
        };
        let full = matches!(room, Err(StoreError::OutOfSpace(_)));
        if full != self.out_of_space {
            match &room {
                Err(error) => tracing::error!(%error, "nothing is changed until there is room again"),
                Ok(()) => tracing::warn!("there is room on the disk again"),
            }
            self.out_of_space = full;
        }
        room
    }

    /// Makes changes durable. After a failure it is unknown which of them are: the state in memory may never have been
    /// written. So the database is dropped and reopened.
    ///
    /// `flushed`: the outcome of committing the batch.
    fn sync(&mut self, flushed: Result<(), StoreError>) -> Result<(), StoreError> {
        let synced = flushed.and_then(|()| self.stores().and_then(|stores| block_on(stores.sync())));
        synced.inspect_err(|error| self.drop_failed(error))
    }

    /// Checks whether a change was refused because the database has failed.
    fn probe(&mut self) -> Result<(), StoreError> {
        self.stores().and_then(|stores| block_on(stores.probe())).inspect_err(|error| self.drop_failed(error))
    }

    /// Drops a database that failed.
    fn drop_failed(&mut self, error: &StoreError) {
        tracing::error!(%error, "the database failed; unacknowledged changes are lost, and it is reopened");
        self.healthy.store(false, Ordering::Relaxed);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.stores = None;
        self.failed_out_of_space = matches!(error, StoreError::OutOfSpace(_));
    }

    /// Reopens the database after a failure, unless that was tried a moment ago.
    fn reopen(&mut self) {
        if self.stores.is_some() || self.last_reopen.elapsed() < REOPEN_INTERVAL {
            return;
        }
        self.last_reopen = Instant::now();
        match (self.open)() {
            Ok(stores) => {
                tracing::warn!("the database is reopened");
                self.publish(stores);
                self.healthy.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::error!(%error, "the database cannot be reopened"),
        }
    }
}

/// Logs a step that kept all others waiting for longer than a round may take, apart from the sync.
fn note_long(what: &str, took: Duration) {
    if took > ROUND_TIME {
        tracing::debug!(?took, "{what} held the commit thread");
    }
}

/// Catches the panic of a job. Its caller notices that its reply was dropped.
fn guarded<T>(job: impl FnOnce() -> T) -> Option<T> {
    // No inconsistent state remains: the database changes in transactions, and the job's captures are dropped.
    let outcome = catch_unwind(AssertUnwindSafe(job));
    if outcome.is_err() {
        tracing::error!("a job of the commit thread panicked");
    }
    outcome.ok()
}

#[cfg(test)]
#[path = "commit_thread_tests.rs"]
mod tests;
