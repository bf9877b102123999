//! The edge's handle to stored responses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::error::ResponsesError;
use super::registry::{Call, Registry, RegistryMessage};
use super::run::{NewRun, Reader};
use super::run_table::{BackgroundPlace, LocalRuns};
use super::types::{Found, ResponseId};
use crate::config::ResponsesConfig;
use crate::identity::{Party, UserId};
use crate::service::{self, ActorAddress};
use crate::store::Store;
use crate::supervisor::ChildSpec;

/// Maximum number of concurrent calls; one more is refused.
const MAX_CONCURRENT_CALLS: usize = 1024;

/// Maximum time that a call waits for an actor that is being restarted.
const RESTART_WAIT: Duration = Duration::from_secs(2);

/// Maximum time of a call. A call is answered within the time of a disk write; one that takes this long is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Handle to stored responses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Responses {
    service: Registry,
    address: Arc<ActorAddress<RegistryMessage>>,
    places: Arc<Semaphore>,
}

impl Responses {
    pub(crate) fn new(store: Arc<Store>, config: ResponsesConfig) -> Self {
        let runs = Arc::new(LocalRuns::default());
        let service = Registry { store, runs, config, pass: Arc::default() };
        Self { service, address: Arc::default(), places: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)) }
    }

    /// Returns its actors, for a supervisor to start.
    pub(crate) fn children(&self) -> Vec<ChildSpec> {
        vec![service::child("responses", self.service.clone(), Arc::clone(&self.address))]
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &ResponsesConfig {
        &self.service.config
    }

    /// Checks that one more response can run in the background now; called before any work is done for it.
    ///
    /// # Errors
    /// Too many already do.
    pub async fn check_room(&self, party: Party) -> Result<(), ResponsesError> {
        let limits = (&self.service.config).into();
        self.service.runs.check_room(BackgroundPlace { party, limits }).await
    }

    /// Stores a response and begins its run.
    ///
    /// # Errors
    /// Too many in the background, or the store.
    pub async fn begin(&self, new: NewRun) -> Result<Reader, ResponsesError> {
        self.ask(|call| RegistryMessage::Begin(Box::new(new), call)).await
    }

    /// Returns one of a user's responses.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn find(&self, user: UserId, id: ResponseId) -> Result<Found, ResponsesError> {
        self.ask(|call| RegistryMessage::Find(user, id, call)).await
    }

    /// Ends a response that runs in the background; one that has ended remains as it is.
    ///
    /// # Errors
    /// Not found, not in the background, run by another server, or the store.
    pub async fn cancel(&self, user: UserId, id: ResponseId) -> Result<Found, ResponsesError> {
        let mut found = self.find(user, id).await?;
        if !found.record.background {
            return Err(ResponsesError::NotBackground);
        }
        if let Some(reader) = &mut found.reader {
            reader.cancel();
            reader.end().await;
            return self.find(user, id).await;
        }
        if found.record.end.is_none() {
            return Err(ResponsesError::Elsewhere);
        }
        Ok(found)
    }

    /// Deletes one of a user's responses, and ends its run.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn delete(&self, user: UserId, id: ResponseId) -> Result<(), ResponsesError> {
        self.ask(|call| RegistryMessage::Delete(user, id, call)).await
    }

    #[cfg(test)]
    pub(super) fn kill_actor(&self) {
        self.address.take().expect("the actor runs").kill();
    }

    async fn ask<T: Send + 'static>(
        &self,
        message: impl FnOnce(Call<T>) -> RegistryMessage,
    ) -> Result<T, ResponsesError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ResponsesError::Busy)?;
        let unavailable = || ResponsesError::Unavailable("responses' actor");
        let actor = self.address.running(RESTART_WAIT).await.ok_or_else(unavailable)?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let message = message(Call::new(reply.into(), place));
        actor.send_message(message).map_err(|_| unavailable())?;
        match tokio::time::timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(unavailable()),
        }
    }
}
