//! The actor of stored responses: begins runs, stores their ends, and maintains the stored responses.
//!
//! The runs are held in a table outside the actor, so that its restart ends none of them. Whether a response runs is decided on
//! the store's thread, where its record and its end are written, so both are always seen together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::error::ResponsesError;
use super::run::{NewRun, Reader, Run};
use super::types::{End, Found, ResponseId, ResponseRecord};
use crate::config::ResponsesConfig;
use crate::identity::{Party, UserId, now_s};
use crate::service::{Request, Service, Tick};
use crate::store::{Changes, ResponseChange, Staged, Store, StoreError, Stores, Used};

/// Interval between maintenance passes.
const TICK: Duration = Duration::from_secs(60);

/// Maximum number of responses that one pass deletes; the next pass continues.
const PRUNED_AT_ONCE: usize = 1000;

/// Number of responses deleted in one job of the store's thread.
const PER_JOB: usize = 32;

/// Maximum time that the first pass delays the actor's start.
const FIRST_PASS: Duration = Duration::from_secs(5);

/// A call to the registry.
pub type Call<T> = Request<T, ResponsesError>;

/// Messages of the registry.
#[derive(Debug)]
pub enum RegistryMessage {
    /// Stores a response and begins its run.
    Begin(Box<NewRun>, Call<Reader>),
    /// Looks up a response.
    Find(UserId, ResponseId, Call<Found>),
    /// Deletes a response, and ends its run.
    Delete(UserId, ResponseId, Call<()>),
    /// Periodic maintenance.
    Tick,
}

/// The runs of stored responses.
#[derive(Debug, Default)]
pub struct Runs {
    table: Mutex<HashMap<ResponseId, Running>>,
    /// Held by the task that maintains the stored responses.
    pass: Mutex<()>,
}

#[derive(Debug)]
struct Running {
    run: Arc<Run>,
    background_of: Option<Party>,
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, HashMap<ResponseId, Running>> {
        // Every change is one call on the map, so a panic elsewhere leaves it consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: ResponseId) -> Option<Arc<Run>> {
        self.lock().get(&id).map(|running| Arc::clone(&running.run))
    }

    /// Checks that one more response can run in the background.
    pub(super) fn room(&self, party: Party, config: &ResponsesConfig) -> Result<(), ResponsesError> {
        check_room(&self.lock(), party, config)
    }

    /// Takes a place for a run, if one is free.
    fn insert(
        &self,
        record: &ResponseRecord,
        party: Party,
        run: &Arc<Run>,
        config: &ResponsesConfig,
    ) -> Result<(), ResponsesError> {
        let mut runs = self.lock();
        if record.background {
            check_room(&runs, party, config)?;
        }
        let background_of = record.background.then_some(party);
        runs.insert(record.id, Running { run: Arc::clone(run), background_of });
        Ok(())
    }
}

fn check_room(
    runs: &HashMap<ResponseId, Running>,
    party: Party,
    config: &ResponsesConfig,
) -> Result<(), ResponsesError> {
    let of_all = runs.values().filter(|running| running.background_of.is_some()).count();
    let own = runs.values().filter(|running| running.background_of == Some(party)).count();
    let checks = [
        (
            own,
            config.max_background_per_user,
            "one user, or the guests of one address, can have (responses.max_background_per_user)",
        ),
        (of_all, config.max_background, "this server permits (responses.max_background)"),
    ];
    for (running, limit, whose) in checks {
        if running >= limit {
            return Err(ResponsesError::TooManyInBackground { running, whose });
        }
    }
    Ok(())
}

/// The actor of stored responses.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The store.
    pub store: Arc<Store>,
    /// The runs.
    pub runs: Arc<Runs>,
    /// The settings.
    pub config: ResponsesConfig,
}

impl Service for Registry {
    type Message = RegistryMessage;

    const TICK: Option<Tick<RegistryMessage>> = Some((TICK, || RegistryMessage::Tick));

    async fn start(&mut self) {
        // Before the first call: runs of the previous process no longer run.
        let _ = tokio::time::timeout(FIRST_PASS, self.maintain()).await;
    }

    fn handle(&mut self, message: RegistryMessage) {
        match message {
            RegistryMessage::Begin(new, call) => self.begin(*new, call),
            RegistryMessage::Find(user, id, call) => self.find(user, id, call),
            RegistryMessage::Delete(user, id, call) => self.delete(user, id, call),
            RegistryMessage::Tick => drop(self.maintain()),
        }
    }
}

impl Registry {
    fn begin(&self, new: NewRun, call: Call<Reader>) {
        let NewRun { record, party, source, keep } = new;
        let run = Run::new();
        // Before it is stored, so that every reader that finds the record also finds its run.
        if let Err(error) = self.runs.insert(&record, party, &run, &self.config) {
            return call.answer(Err(error));
        }
        let (id, runtime) = (record.id, Handle::current());
        let (store, runs) = (Arc::clone(&self.store), Arc::clone(&self.runs));
        tokio::spawn(async move {
            // Regardless of its size: the store's thread only writes its head.
            let staged = store.look(move |stores| async move {
                stores.check_space().await?;
                // Before anything is written; decided below, where no other change intervenes.
                stores.check_quota(record.user, Used::of_response(0)).await?;
                stores.responses().stage(&record).await
            });
            let staged: Staged = match staged.await {
                Ok(staged) => staged,
                Err(error) => {
                    runs.lock().remove(&id);
                    return call.answer(Err(error.into()));
                }
            };
            let decide = move |stores: Arc<dyn Stores>| async move {
                if let Err(error) = stores.check_quota(staged.user(), staged.used()).await {
                    stores.responses().discard(&staged)?;
                    return Err(error);
                }
                Ok(((), Changes::responses(vec![ResponseChange::PutStaged(staged)])))
            };
            let writer = Arc::clone(&store);
            writer.decide(decide, move |stored: Result<_, StoreError>| {
                if let Err(error) = stored {
                    runs.lock().remove(&id);
                    return call.answer(Err(error.into()));
                }
                call.answer(Ok(run.follow()));
                runtime.spawn(async move {
                    let end = run.drive(source, keep).await;
                    finish(&store, runs, id, run, end).await;
                });
            });
        });
    }

    fn find(&self, user: UserId, id: ResponseId, call: Call<Found>) {
        let runs = Arc::clone(&self.runs);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            call.answer(store.look(move |stores| async move { find(&*stores, &runs, user, id).await }).await);
        });
    }

    fn delete(&self, user: UserId, id: ResponseId, call: Call<()>) {
        let runs = Arc::clone(&self.runs);
        let decide = move |stores: Arc<dyn Stores>| async move {
            if stores.responses().owner(id).await? != Some(user) {
                return Err(ResponsesError::NotFound(id));
            }
            Ok(((), Changes::responses(vec![ResponseChange::Delete(id)])))
        };
        self.store.decide(decide, move |deleted: Result<_, ResponsesError>| {
            if let Some(run) = runs.get(id).filter(|_| deleted.is_ok()) {
                run.cancel();
            }
            call.answer(deleted.map(|((), _)| ()));
        });
    }

    /// Ends responses that are stored as running but do not run, and deletes those that are too old or have no owner: one pass,
    /// on a thread of its own.
    fn maintain(&self) -> tokio::task::JoinHandle<()> {
        let (store, runs) = (Arc::clone(&self.store), Arc::clone(&self.runs));
        let retention = self.config.retention_days;
        tokio::task::spawn_blocking(move || {
            // A pass that is still running excludes another.
            let Ok(_pass) = runs.pass.try_lock() else { return };
            if let Err(error) = pass(&store, &runs, retention) {
                tracing::warn!(%error, "maintenance of responses failed; it is retried later");
            }
        })
    }
}

fn pass(store: &Store, runs: &Arc<Runs>, retention_days: u64) -> Result<(), StoreError> {
    for id in store.look_blocking(|stores| async move { stores.responses().running().await })? {
        if runs.get(id).is_none() {
            end_lost(store, runs, id)?;
        }
    }
    if retention_days > 0 {
        let made_before = now_s().saturating_sub(retention_days.saturating_mul(24 * 3600));
        let old = store.look_blocking(|stores| async move {
            stores.responses().made_before(made_before, PRUNED_AT_ONCE).await
        })?;
        let old: Vec<_> = old.into_iter().filter(|id| runs.get(*id).is_none()).collect();
        for ids in old.chunks(PER_JOB) {
            let deletions = Changes::responses(ids.iter().copied().map(ResponseChange::Delete).collect());
            store.decide_blocking(move |_| async move { Ok::<_, StoreError>(((), deletions)) })?;
        }
    }
    // Responses of deleted users: a request may have been running when its user was deleted.
    let nobodys = store.look_blocking(|stores| async move {
        let mut nobodys = Vec::new();
        for user in stores.responses().owners().await? {
            if stores.accounts().user(user).await?.is_none() {
                nobodys.push(user);
            }
        }
        Ok::<_, StoreError>(nobodys)
    })?;
    for user in nobodys {
        let some = move |stores: Arc<dyn Stores>| async move {
            match stores.accounts().user(user).await? {
                None => stores.responses().delete_some(user).await,
                Some(_) => Ok::<_, StoreError>(true),
            }
        };
        while !store.write_blocking(some)? {}
    }
    Ok(())
}

/// Ends a response that is stored as running but does not run.
fn end_lost(store: &Store, runs: &Arc<Runs>, id: ResponseId) -> Result<(), StoreError> {
    let staged = store.look_blocking(|stores| async move {
        let record = stores.responses().response(id).await?.filter(|record| record.end.is_none());
        let Some(record) = record else { return Ok(None) };
        let ended = ResponseRecord { end: Some(End::lost(now_s())), ..record };
        stores.responses().stage(&ended).await.map(Some)
    })?;
    let Some(staged) = staged else { return Ok(()) };
    let runs = Arc::clone(runs);
    store.decide_blocking(move |stores| async move {
        // It may have been deleted meanwhile, have been transferred to another user, or have been imported.
        let same = stores.responses().owner(id).await? == Some(staged.user());
        let running = stores.responses().running().await?.contains(&id) && runs.get(id).is_none();
        let put = (same && running).then_some(ResponseChange::PutStaged(staged));
        Ok(((), Changes::responses(put.into_iter().collect())))
    })
}

/// Stores the end of a run, and then publishes it to its readers.
async fn finish(store: &Store, runs: Arc<Runs>, id: ResponseId, run: Arc<Run>, end: End) {
    let staged = {
        let (run, end) = (Arc::clone(&run), end.clone());
        store.look(move |stores| async move { stores.responses().stage_end(run.deltas(), end).await }).await
    };
    let ended = move |_| async move { Ok(((), Changes::responses(vec![ResponseChange::End(id, staged?)]))) };
    store.decide(ended, move |outcome: Result<_, StoreError>| {
        runs.lock().remove(&id);
        run.publish(match outcome {
            Ok(_) => end,
            Err(error) => {
                tracing::error!(%error, response = %id, "a response's end could not be stored");
                End::failed(now_s(), "storage_failed", "The response could not be stored.")
            }
        });
    });
}

async fn find(
    stores: &dyn Stores,
    runs: &Runs,
    user: UserId,
    id: ResponseId,
) -> Result<Found, ResponsesError> {
    let responses = stores.responses();
    // A run is in the table before it is stored and until its end is: if it is found in neither, it ended in between.
    for last in [false, true] {
        let run = runs.get(id);
        // Before its bodies are read.
        if responses.owner(id).await? != Some(user) {
            return Err(ResponsesError::NotFound(id));
        }
        let mut record = responses.response(id).await?.ok_or(ResponsesError::NotFound(id))?;
        if record.end.is_some() {
            return Ok(Found { record, reader: None });
        }
        if let Some(run) = run {
            return Ok(Found { record, reader: Some(run.follow()) });
        }
        if last {
            record.end = Some(End::lost(now_s()));
            return Ok(Found { record, reader: None });
        }
    }
    Err(ResponsesError::NotFound(id))
}
