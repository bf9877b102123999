//! The table of runs: the stored responses that are being generated, and the places of those in the background.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::ResponsesError;
use super::run::Run;
use super::types::ResponseId;
use crate::config::ResponsesConfig;
use crate::identity::Party;

/// Maximum numbers of responses that run in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackgroundLimits {
    /// Those of one party.
    pub per_party: usize,
    /// Those of all parties.
    pub all: usize,
}

impl From<&ResponsesConfig> for BackgroundLimits {
    fn from(config: &ResponsesConfig) -> Self {
        Self { per_party: config.max_background_per_user, all: config.max_background }
    }
}

/// A place in the background, to be taken with a run's entry.
#[derive(Clone, Copy, Debug)]
pub struct BackgroundPlace {
    /// The party that it counts for.
    pub party: Party,
    /// The limits.
    pub limits: BackgroundLimits,
}

/// The runs of stored responses, of all servers that share a store.
///
/// # Contract
///
/// - A run is in the table before its response is stored, and until its end is: a response that is stored without an end, and whose
///   run was looked up afterwards and not found, has been interrupted. An entry therefore shows on every server once
///   [`insert`](Self::insert) has returned, and is gone on every server once [`remove`](Self::remove) has.
/// - An entry ends with its server at the latest. An implementation for several servers renews its entries and drops those that
///   were not renewed, so that the maintenance of another server ends the response as interrupted.
/// - Places in the background are counted exactly over all servers: of concurrent insertions, no more succeed than fit.
/// - The run that [`get`](Self::get) returns on another server than the one that generates it follows that run: it shows the
///   same progress, its end once it is stored, and passes a cancellation on. [`Run`] can be fed from any stream of events.
/// - All methods may be cancelled by dropping their future; an insertion then has happened or not.
#[ractor::async_trait]
pub trait RunTable: Debug + Send + Sync {
    /// Checks that a place in the background is free now, without taking it.
    ///
    /// # Errors
    /// [`ResponsesError::TooManyInBackground`], or the table is not available.
    async fn check_room(&self, place: BackgroundPlace) -> Result<(), ResponsesError>;

    /// Adds a run of this server, with a place in the background if one is given: both, or neither.
    ///
    /// # Errors
    /// [`ResponsesError::TooManyInBackground`], or the table is not available.
    async fn insert(
        &self,
        id: ResponseId,
        run: Arc<Run>,
        place: Option<BackgroundPlace>,
    ) -> Result<(), ResponsesError>;

    /// Returns a run, wherever it is generated.
    async fn get(&self, id: ResponseId) -> Option<Arc<Run>>;

    /// Removes a run of this server, and frees its place.
    async fn remove(&self, id: ResponseId);
}

/// Runs in this process's memory, for one server.
#[derive(Debug, Default)]
pub struct LocalRuns(Mutex<HashMap<ResponseId, Running>>);

#[derive(Debug)]
struct Running {
    run: Arc<Run>,
    background_of: Option<Party>,
}

impl LocalRuns {
    fn lock(&self) -> MutexGuard<'_, HashMap<ResponseId, Running>> {
        // Every change is one call on the map, so a panic elsewhere leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[ractor::async_trait]
impl RunTable for LocalRuns {
    async fn check_room(&self, place: BackgroundPlace) -> Result<(), ResponsesError> {
        check_room(&self.lock(), place)
    }

    async fn insert(
        &self,
        id: ResponseId,
        run: Arc<Run>,
        place: Option<BackgroundPlace>,
    ) -> Result<(), ResponsesError> {
        let mut runs = self.lock();
        if let Some(place) = place {
            check_room(&runs, place)?;
        }
        runs.insert(id, Running { run, background_of: place.map(|place| place.party) });
        Ok(())
    }

    async fn get(&self, id: ResponseId) -> Option<Arc<Run>> {
        self.lock().get(&id).map(|running| Arc::clone(&running.run))
    }

    async fn remove(&self, id: ResponseId) {
        self.lock().remove(&id);
    }
}

fn check_room(runs: &HashMap<ResponseId, Running>, place: BackgroundPlace) -> Result<(), ResponsesError> {
    let BackgroundPlace { party, limits } = place;
    let of_all = runs.values().filter(|running| running.background_of.is_some()).count();
    let own = runs.values().filter(|running| running.background_of == Some(party)).count();
    let checks = [
        (
            own,
            limits.per_party,
            "one user, or the guests of one address, can have (responses.max_background_per_user)",
        ),
        (of_all, limits.all, "this server permits (responses.max_background)"),
    ];
    for (running, limit, whose) in checks {
        if running >= limit {
            return Err(ResponsesError::TooManyInBackground { running, whose });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "run_table_tests.rs"]
mod tests;
