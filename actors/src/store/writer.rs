//! The store's thread: jobs in order, one `fsync` for all that wait, and then the word that it is done.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::db;
use super::group::{Group, Grouped};
use super::pace::Pace;
use super::{OpenError, Quotas, StoreError, Stores, Swept};
use crate::config::StorageConfig;

/// Most jobs that share one `fsync`; bounds how long the first waits for the last.
const BATCH: usize = 1024;

/// Once the jobs of a round have taken this long, it is made durable and the others are the next one's.
const ROUND: Duration = Duration::from_millis(20);

/// A step of removing what is gone takes about this long at most; a job that comes meanwhile waits for its end.
const STEP: Duration = Duration::from_millis(4);

/// After a failure the database is opened again at most this often.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// The store's thread does each job within milliseconds; this long means that it is stuck.
const WAIT: Duration = Duration::from_secs(30);

/// What opens the database and whoever mirrors it in memory, each time.
type Open = Box<dyn Fn() -> Result<Box<dyn Stores>, OpenError> + Send>;

/// Told, in order, once the job's changes are durable or are known not to be.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Runs at once. `Err`: there is no database.
type Read = Box<dyn FnOnce(Result<&dyn Stores, StoreError>) + Send>;

/// Runs, and is finished after the sync; `true` when it changed something.
type Write = Box<dyn FnOnce(Result<&dyn Stores, StoreError>) -> (bool, Finish) + Send>;

enum Job {
    Read(Read),
    Write(Write),
    Close,
}

/// The door to the database. Jobs are run in the order they are given, whoever gives them.
pub struct Store {
    jobs: Sender<Job>,
    /// Writes that nobody has begun.
    queued: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
    view: View,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The database for reads on other threads. Weak: one that failed must be let go before it is opened again.
type View = Arc<Mutex<Option<Weak<dyn Stores>>>>;

fn look_up(view: &View) -> Option<Arc<dyn Stores>> {
    view.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("healthy", &self.is_healthy()).finish_non_exhaustive()
    }
}

impl Store {
    /// Without a reserve.
    #[cfg(test)]
    pub fn open(
        folder: &std::path::Path,
        load: impl Fn(&dyn Stores) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let storage = StorageConfig { path: folder.to_owned(), min_free_mib: 0, ..StorageConfig::default() };
        Self::open_as(&storage, load)
    }

    /// Opens the database in a data folder, or makes it. Blocks. `load` gets what is stored, now and whenever the
    /// database had to be opened again. Changes are refused ([`StoreError::Full`]) while the disk has less than
    /// `min_free_mib` free.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_as(
        storage: &StorageConfig,
        load: impl Fn(&dyn Stores) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let storage = storage.clone();
        Self::start(Box::new(move || {
            let stores = db::open_caching(&storage.path, storage.cache_bytes())?;
            let stores =
                stores.reserving(u64::from(storage.min_free_mib) << 20).allowing(Quotas::new(&storage));
            load(&stores).map_err(|error| OpenError::Database { path: storage.path.join("db"), error })?;
            Ok(Box::new(stores))
        }))
    }

    pub(super) fn start(open: Open) -> Result<Self, OpenError> {
        let stores = open()?;
        let (jobs, receiver) = mpsc::channel();
        let (healthy, queued) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let view = View::default();
        let mut writer = Writer {
            open,
            stores: None,
            view: Arc::clone(&view),
            queued: Arc::clone(&queued),
            pace: Pace::default(),
            healthy: Arc::clone(&healthy),
            tried: Instant::now(),
            full: false,
            lacks_room: false,
        };
        writer.show(stores.into());
        let thread =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(&receiver));
        let thread = thread.map_err(|error| OpenError::File { path: "the store's thread".into(), error })?;
        Ok(Self { jobs, queued, healthy, view, thread: Mutex::new(Some(thread)) })
    }

    /// Whether the last access to the database succeeded.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Runs `read`; what it sees includes changes that are not durable yet. Should it panic, it is dropped.
    pub fn read(&self, read: impl FnOnce(Result<&dyn Stores, StoreError>) + Send + 'static) {
        // A closed store drops the job, and with it whatever its caller waits for.
        let _ = self.jobs.send(Job::Read(Box::new(read)));
    }

    /// The database, for reads that may take long: on any thread that may block, and without a turn on the store's. It is
    /// to be let go soon.
    ///
    /// # Errors
    /// It failed and could not be opened again yet.
    pub async fn view(&self) -> Result<Arc<dyn Stores>, StoreError> {
        if let Some(stores) = look_up(&self.view) {
            return Ok(stores);
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.read(move |stores| {
            let _ = reply.send(stores.map(|_| ()));
        });
        answer.await.map_err(|_| StoreError::Reopening)??;
        look_up(&self.view).ok_or(StoreError::Reopening)
    }

    /// Reads on a thread of its own and without a turn on the store's.
    ///
    /// # Errors
    /// There is no database, or `look` says so.
    pub async fn look<T, E>(
        &self,
        look: impl FnOnce(&dyn Stores) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let stores = self.view().await?;
        let looked = tokio::task::spawn_blocking(move || look(&*stores)).await;
        looked.unwrap_or_else(|_| Err(StoreError::Database("a read of it panicked".to_owned()).into()))
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// There is no database, or `look` says so.
    pub fn look_blocking<T, E: From<StoreError>>(
        &self,
        look: impl FnOnce(&dyn Stores) -> Result<T, E>,
    ) -> Result<T, E> {
        if look_up(&self.view).is_none() {
            let (reply, answer) = mpsc::channel();
            self.read(move |stores| {
                let _ = reply.send(stores.map(|_| ()));
            });
            answer.recv_timeout(WAIT).unwrap_or(Err(StoreError::Reopening))?;
        }
        look(&*look_up(&self.view).ok_or(StoreError::Reopening)?)
    }

    /// [`write`](Self::write) for a thread that may block.
    ///
    /// # Errors
    /// There is no database, it failed, or `change` says so.
    pub fn write_blocking<T, E>(
        &self,
        change: impl FnOnce(&dyn Stores) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = mpsc::channel();
        self.write(change, move |outcome| {
            let _ = reply.send(outcome);
        });
        answer.recv_timeout(WAIT).unwrap_or_else(|_| Err(StoreError::Reopening.into()))
    }

    /// Runs `change`, makes its changes durable, and then runs `done`, both on the store's thread: `done`s run in the
    /// order of their `change`s, so that what they publish never goes back in time. `done` gets the error when the
    /// changes did not become durable.
    pub fn write<T, E>(
        &self,
        change: impl FnOnce(&dyn Stores) -> Result<T, E> + Send + 'static,
        done: impl FnOnce(Result<T, E>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let job = move |stores: Result<&dyn Stores, StoreError>| -> (bool, Finish) {
            let outcome = stores.map_err(E::from).and_then(change);
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

    /// Runs what was given so far, then closes the database. Blocks.
    pub fn close(&self) {
        let _ = self.jobs.send(Job::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A job that held the last handle must not wait for its own end.
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

struct Writer {
    open: Open,
    stores: Option<Arc<dyn Stores>>,
    view: View,
    queued: Arc<AtomicUsize>,
    pace: Pace,
    healthy: Arc<AtomicBool>,
    /// When it was last tried to open.
    tried: Instant,
    /// Whether the disk had too little room the last time.
    full: bool,
    /// Whether it failed for want of room, and could not be opened again since.
    lacks_room: bool,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Some(first) = self.next(jobs) {
            let mut finishes = Vec::new();
            let mut changed = false;
            let mut refused = false;
            let mut close = false;
            self.reopen();
            let group =
                self.stores.as_ref().map(|stores| Arc::new(Group::new(Arc::clone(stores.conversations()))));
            // Asked once for all that wait, at the first that would change something.
            let mut room = None;
            let mut left = BATCH;
            let began = Instant::now();
            let mut idle = None;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Read(read) => {
                        // What was decided before it is there; an error is told at the end of the round.
                        let _ = group.as_ref().map(|group| group.flush());
                        let _ = guarded(|| read(self.stores()));
                    }
                    Job::Write(write) => {
                        self.queued.fetch_sub(1, Ordering::Relaxed);
                        let room = room.get_or_insert_with(|| self.room()).clone();
                        let stores = room.and(self.stores());
                        let grouped = match (&stores, &group) {
                            (Ok(stores), Some(group)) => Some(Grouped::new(*stores, group)),
                            _ => None,
                        };
                        let stores = match &grouped {
                            Some(grouped) => Ok(grouped as &dyn Stores),
                            None => stores,
                        };
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
                left -= 1;
                if left > 0 && began.elapsed() < ROUND {
                    next = jobs.try_recv().ok().or_else(|| {
                        let idle = idle.get_or_insert_with(Instant::now).elapsed();
                        jobs.recv_timeout(self.pace.patience(finishes.len(), idle)?).ok()
                    });
                }
            }
            let made = group.map_or(Ok(()), |group| group.flush());
            // Also where there is always another job.
            let swept = self.sweep();
            let begun = Instant::now();
            let synced = match changed {
                true => self.sync(made),
                false if refused => self.probe(),
                false => Ok(()),
            };
            if changed {
                self.pace.note(finishes.len(), self.queued.load(Ordering::Relaxed), begun.elapsed());
            }
            if changed && synced.is_ok() && swept == Some(Swept::Finish) {
                self.note_swept();
            }
            for finish in finishes {
                let _ = guarded(|| finish(synced.clone()));
            }
            if close {
                break;
            }
        }
    }

    /// The next job. While there is none, what is gone is removed.
    fn next(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            match jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            match self.sweep() {
                Some(Swept::More) => {}
                Some(Swept::Finish) => self.finish_sweeping(),
                Some(Swept::Nothing) | None => return jobs.recv().ok(),
            }
        }
    }

    /// A step of removing what is gone. `None`: it failed, and is tried again after the next job.
    fn sweep(&self) -> Option<Swept> {
        // With the disk full, what is removed has to wait: it is written down, too.
        let stores = self.stores.as_ref().filter(|_| !self.full)?;
        match guarded(|| stores.sweep(Instant::now() + STEP))? {
            Ok(swept) => Some(swept),
            Err(error) => {
                tracing::warn!(%error, "removing what was deleted failed; it is tried again later");
                None
            }
        }
    }

    fn finish_sweeping(&mut self) {
        if self.sync(Ok(())).is_ok() {
            self.note_swept();
        }
    }

    /// What was removed is on disk.
    fn note_swept(&self) {
        if let Some(Err(error)) = self.stores.as_ref().and_then(|stores| guarded(|| stores.swept())) {
            tracing::warn!(%error, "noting that something is removed failed; it is done again at the next start");
        }
    }

    fn show(&mut self, stores: Arc<dyn Stores>) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&stores));
        self.stores = Some(stores);
    }

    fn stores(&self) -> Result<&dyn Stores, StoreError> {
        self.stores.as_deref().ok_or(StoreError::Reopening)
    }

    /// sled must never meet a full disk: it gives up then, and has to be opened again, which may take room, too.
    fn room(&mut self) -> Result<(), StoreError> {
        let room = match &self.stores {
            Some(stores) => stores.room(),
            // Opening takes room as well, so this can last as long as the disk is full.
            None if self.lacks_room => Err(StoreError::Full("the database waits for room".to_owned())),
            None => Err(StoreError::Reopening),
        };
        let full = matches!(room, Err(StoreError::Full(_)));
        if full != self.full {
            match &room {
                Err(error) => tracing::error!(%error, "nothing is changed until there is room again"),
                Ok(()) => tracing::warn!("there is room on the disk again"),
            }
            self.full = full;
        }
        room
    }

    /// After a failed sync nobody knows what is on disk: sled refuses from then on, and what it holds in memory may
    /// never have been written. So it is let go, and opened again from what is there.
    ///
    /// `made`: whether the changes could be made at all.
    fn sync(&mut self, made: Result<(), StoreError>) -> Result<(), StoreError> {
        let synced = made.and_then(|()| self.stores().and_then(|stores| stores.sync()));
        synced.inspect_err(|error| self.let_go(error))
    }

    /// Whether it was for the database that a change was refused.
    fn probe(&mut self) -> Result<(), StoreError> {
        self.stores().and_then(|stores| stores.probe()).inspect_err(|error| self.let_go(error))
    }

    fn let_go(&mut self, error: &StoreError) {
        tracing::error!(%error, "the database failed; nothing since is acknowledged, and it is opened again");
        self.healthy.store(false, Ordering::Relaxed);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.stores = None;
        self.lacks_room = matches!(error, StoreError::Full(_));
    }

    fn reopen(&mut self) {
        if self.stores.is_some() || self.tried.elapsed() < REOPEN_EVERY {
            return;
        }
        self.tried = Instant::now();
        match (self.open)() {
            Ok(stores) => {
                tracing::warn!("the database is open again");
                self.show(stores.into());
                self.healthy.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::error!(%error, "the database cannot be opened again"),
        }
    }
}

/// A job that panics ends alone. Whoever waits for it is told so by its reply being dropped.
fn guarded<T>(job: impl FnOnce() -> T) -> Option<T> {
    // Nothing that a job leaves half done is looked at: trees change in transactions, and its captures are dropped.
    let outcome = catch_unwind(AssertUnwindSafe(job));
    if outcome.is_err() {
        tracing::error!("a job of the store panicked");
    }
    outcome.ok()
}
