//! The actor of stored responses: begins runs, stores their ends, and maintains the stored responses.
//!
//! The runs are held in a table outside the actor, so that its restart ends none of them. A run is in the table before its
//! response is stored, and until its end is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;

use super::error::ResponsesError;
use super::run::{NewRun, Reader, Run};
use super::run_table::{BackgroundPlace, RunTable};
use super::types::{End, Found, ResponseId, ResponseRecord};
use crate::config::ResponsesConfig;
use crate::identity::{UserId, now_s};
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

/// The actor of stored responses.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The store.
    pub store: Arc<Store>,
    /// The runs.
    pub runs: Arc<dyn RunTable>,
    /// The settings.
    pub config: ResponsesConfig,
    /// Held by the task that maintains the stored responses.
    pub pass: Arc<Mutex<()>>,
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
        let place = record.background.then(|| BackgroundPlace { party, limits: (&self.config).into() });
        let (id, runtime) = (record.id, Handle::current());
        let (store, runs) = (Arc::clone(&self.store), Arc::clone(&self.runs));
        tokio::spawn(async move {
            // Before it is stored, so that every reader that finds the record also finds its run.
            if let Err(error) = runs.insert(id, Arc::clone(&run), place).await {
                return call.answer(Err(error));
            }
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
                    runs.remove(id).await;
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
                runtime.spawn(async move {
                    if let Err(error) = stored {
                        runs.remove(id).await;
                        return call.answer(Err(error.into()));
                    }
                    call.answer(Ok(run.follow()));
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
            call.answer(find(&store, &*runs, user, id).await);
        });
    }

    fn delete(&self, user: UserId, id: ResponseId, call: Call<()>) {
        let (runs, runtime) = (Arc::clone(&self.runs), Handle::current());
        let decide = move |stores: Arc<dyn Stores>| async move {
            if stores.responses().owner(id).await? != Some(user) {
                return Err(ResponsesError::NotFound(id));
            }
            Ok(((), Changes::responses(vec![ResponseChange::Delete(id)])))
        };
        self.store.decide(decide, move |deleted: Result<_, ResponsesError>| {
            runtime.spawn(async move {
                if deleted.is_ok()
                    && let Some(run) = runs.get(id).await
                {
                    run.cancel();
                }
                call.answer(deleted.map(|((), _)| ()));
            });
        });
    }

    /// Ends responses that are stored as running but do not run, and deletes those that are too old or have no owner: one pass,
    /// on a thread of its own.
    fn maintain(&self) -> tokio::task::JoinHandle<()> {
        let (store, runs) = (Arc::clone(&self.store), Arc::clone(&self.runs));
        let (retention, running) = (self.config.retention_days, Arc::clone(&self.pass));
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            // A pass that is still running excludes another.
            let Ok(_pass) = running.try_lock() else { return };
            let runs = |id| runtime.block_on(runs.get(id)).is_some();
            if let Err(error) = pass(&store, &runs, retention) {
                tracing::warn!(%error, "maintenance of responses failed; it is retried later");
            }
        })
    }
}

fn pass(store: &Store, runs: &dyn Fn(ResponseId) -> bool, retention_days: u64) -> Result<(), StoreError> {
    for id in store.look_blocking(|stores| async move { stores.responses().running().await })? {
        // After it was read as running: it does not begin to run any more.
        if !runs(id) {
            end_lost(store, id)?;
        }
    }
    if retention_days > 0 {
        let made_before = now_s().saturating_sub(retention_days.saturating_mul(24 * 3600));
        let old = store.look_blocking(|stores| async move {
            stores.responses().made_before(made_before, PRUNED_AT_ONCE).await
        })?;
        let old: Vec<_> = old.into_iter().filter(|id| !runs(*id)).collect();
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
fn end_lost(store: &Store, id: ResponseId) -> Result<(), StoreError> {
    let staged = store.look_blocking(|stores| async move {
        let record = stores.responses().response(id).await?.filter(|record| record.end.is_none());
        let Some(record) = record else { return Ok(None) };
        let ended = ResponseRecord { end: Some(End::lost(now_s())), ..record };
        stores.responses().stage(&ended).await.map(Some)
    })?;
    let Some(staged) = staged else { return Ok(()) };
    store.decide_blocking(move |stores| async move {
        // It may have ended or been deleted meanwhile, have been transferred to another user, or have been imported.
        let same = stores.responses().owner(id).await? == Some(staged.user());
        let running = stores.responses().running().await?.contains(&id);
        let put = (same && running).then_some(ResponseChange::PutStaged(staged));
        Ok(((), Changes::responses(put.into_iter().collect())))
    })
}

/// Stores the end of a run, and then publishes it to its readers.
async fn finish(store: &Store, runs: Arc<dyn RunTable>, id: ResponseId, run: Arc<Run>, end: End) {
    let staged = {
        let (run, end) = (Arc::clone(&run), end.clone());
        store.look(move |stores| async move { stores.responses().stage_end(run.deltas(), end).await }).await
    };
    let ended = move |_| async move { Ok(((), Changes::responses(vec![ResponseChange::End(id, staged?)]))) };
    let runtime = Handle::current();
    store.decide(ended, move |outcome: Result<_, StoreError>| {
        let end = match outcome {
            Ok(_) => end,
            Err(error) => {
                tracing::error!(%error, response = %id, "a response's end could not be stored");
                End::failed(now_s(), "storage_failed", "The response could not be stored.")
            }
        };
        runtime.spawn(async move {
            // Before its readers learn of the end, so that its place is free for them.
            runs.remove(id).await;
            run.publish(end);
        });
    });
}

async fn find(
    store: &Store,
    runs: &dyn RunTable,
    user: UserId,
    id: ResponseId,
) -> Result<Found, ResponsesError> {
    // A run is in the table before it is stored and until its end is: if it is found in neither, it ended in between.
    for last in [false, true] {
        let run = runs.get(id).await;
        let mut record = store.look(move |stores| async move { stored(&*stores, user, id).await }).await?;
        if record.end.is_some() {
            return Ok(Found { record, reader: None });
        }
        if let Some(run) = run {
            return Ok(Found { record, reader: Some(run.follow()) });
        }
        if last {
            let running: Result<_, StoreError> =
                store.look(|stores| async move { stores.responses().running().await }).await;
            // Those that another server runs are not listed.
            if running?.contains(&id) {
                record.end = Some(End::lost(now_s()));
            }
            return Ok(Found { record, reader: None });
        }
    }
    Err(ResponsesError::NotFound(id))
}

/// Reads one of a user's responses.
async fn stored(stores: &dyn Stores, user: UserId, id: ResponseId) -> Result<ResponseRecord, ResponsesError> {
    let responses = stores.responses();
    // Before its bodies are read.
    if responses.owner(id).await? != Some(user) {
        return Err(ResponsesError::NotFound(id));
    }
    responses.response(id).await?.ok_or(ResponsesError::NotFound(id))
}
