//! The edge's door to the models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jan_protocol::embeddings::{Embedding, EmbeddingRequest};
use jan_protocol::types::{
    GenerationError, GenerationEvent, GenerationRequest, Inspect, Inspected, ModelDescription, ModelStatus,
};
use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use super::actor::ModelMessage;
use super::catalog::{Catalog, Model, Replica, combine};
use super::inflight::jobs::EmbeddingSubmission;
use super::inflight::{CHANNEL, SharedTable, Submission};
use super::shares::Place;

/// When to try again where nothing better is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A model actor answers a submission at once; this long means that it is stuck.
const SUBMIT_TIMEOUT_MS: u64 = 10_000;

/// Longest wait for the answer to a question.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The models that this server answers from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Models {
    catalog: Arc<Catalog>,
    stopping: Arc<AtomicBool>,
    next_id: Arc<AtomicU64>,
}

impl Models {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, stopping: Arc::default(), next_id: Arc::new(AtomicU64::new(1)) }
    }

    /// Refuses new requests from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Requests in flight, over all models.
    pub fn in_flight(&self) -> usize {
        let replicas = self.catalog.models().iter().flat_map(|m| &m.replicas);
        replicas.map(|r| r.table.lock().len()).sum()
    }

    /// Hands a request to its model. Returns when it has its place in the queue; what becomes of it comes
    /// through the [`Generation`].
    ///
    /// # Errors
    /// [`GenerationError::ModelNotFound`], `QueueFull`, `ModelUnavailable` or `ShuttingDown`.
    pub async fn generate(&self, request: GenerationRequest) -> Result<Generation, GenerationError> {
        let (model, place) = self.place(&request.model, |_| 1, &request.user)?;
        self.submit(model, place, request).await
    }

    /// Hands all requests for one request of a caller, with its prompts and answers, to their model, as
    /// [`generate`](Self::generate) does: all of them get their places in the queue, or none.
    ///
    /// # Errors
    /// As of [`generate`](Self::generate).
    pub async fn generate_all(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> Result<Vec<Generation>, GenerationError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let (model, mut places) = self.place(&first.model, |_| requests.len(), &first.user)?;
        let mut generations = Vec::with_capacity(requests.len());
        for request in requests {
            generations.push(self.submit(model, places.split_one(), request).await?);
        }
        Ok(generations)
    }

    async fn submit(
        &self,
        model: &Model,
        place: Place,
        request: GenerationRequest,
    ) -> Result<Generation, GenerationError> {
        let replica = least_loaded(model);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events_in, events) = mpsc::channel(CHANNEL);
        // Made before the submission, so that a caller that goes away meanwhile cancels it.
        let generation = Generation { events, id, table: replica.table.clone() };
        let submission = Box::new(Submission { id, request, events: events_in, place });
        submit(model, replica, |reply| ModelMessage::Submit(submission, reply)).await?;
        Ok(generation)
    }

    /// Hands a request for embeddings to its model, as [`generate`](Self::generate) does. They come one by one through
    /// the [`Embeddings`].
    ///
    /// # Errors
    /// As of [`generate`](Self::generate).
    pub async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GenerationError> {
        let (model, place) = self.place(&request.model, |places| request.weight(places), &request.user)?;
        let replica = least_loaded(model);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events_in, events) = mpsc::unbounded_channel();
        let embeddings = Embeddings { events, id, table: replica.table.clone() };
        let submission = Box::new(EmbeddingSubmission { id, request, events: events_in, place });
        submit(model, replica, |reply| ModelMessage::Embed(submission, reply)).await?;
        Ok(embeddings)
    }

    /// A model, and as many of its places as `count` says of all. They are taken before the mailbox: a mailbox has no
    /// bound of its own.
    fn place(
        &self,
        model: &str,
        count: impl FnOnce(usize) -> usize,
        caller: &str,
    ) -> Result<(&Arc<Model>, Place), GenerationError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(GenerationError::ShuttingDown);
        }
        let Some(model) = self.catalog.find(model) else {
            return Err(GenerationError::ModelNotFound(model.to_owned()));
        };
        let limit = model.places.count();
        let full = || GenerationError::QueueFull { model: model.id.clone(), limit, retry_after: RETRY_AFTER };
        model.places.take(caller, count(limit)).map(|place| (model, place)).ok_or_else(full)
    }

    /// Has a model's worker say what it makes of `caller`'s prompt. Nothing is generated.
    ///
    /// # Errors
    /// [`GenerationError::ModelNotFound`], `QueueFull`, `ModelUnavailable`, `ShuttingDown` or `InvalidPrompt`.
    pub async fn inspect(
        &self,
        model: &str,
        question: Inspect,
        caller: &str,
    ) -> Result<Inspected, GenerationError> {
        let (model, _place) = self.place(model, |_| 1, caller)?;
        let unavailable = |reason| unavailable(model, reason);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        if !least_loaded(model).table.lock().ask(id, question, reply) {
            return Err(unavailable("it is not loaded yet"));
        }
        match tokio::time::timeout(INSPECT_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unavailable("its worker ended")),
            Err(_) => Err(unavailable("it did not answer in time")),
        }
    }

    /// Every model and alias, in the order of the configuration, the bundled one last.
    pub async fn list(&self) -> Vec<ModelDescription> {
        let models = self.catalog.models().iter();
        models.flat_map(|m| std::iter::once(&m.id).chain(&m.aliases).map(|id| m.describe(id))).collect()
    }

    /// One model by id or alias.
    pub async fn describe(&self, id: &str) -> Option<ModelDescription> {
        self.catalog.find(id).map(|model| model.describe(id))
    }

    /// The state of all models together, as of now: `Ready` when all are, `Degraded` when some can answer.
    pub async fn status(&self) -> ModelStatus {
        let now = Instant::now();
        let model = |model: &Arc<Model>| combine(model.replicas.iter().map(|r| r.status_now(now)));
        combine(self.catalog.models().iter().map(model))
    }
}

fn unavailable(model: &Model, reason: &str) -> GenerationError {
    GenerationError::ModelUnavailable {
        model: model.id.clone(),
        reason: reason.to_owned(),
        retry_after: RETRY_AFTER,
    }
}

/// Has a replica's actor take a request in.
async fn submit(
    model: &Model,
    replica: &Replica,
    message: impl FnOnce(RpcReplyPort<Result<(), GenerationError>>) -> ModelMessage,
) -> Result<(), GenerationError> {
    let restarting = || unavailable(model, "its actor is being restarted");
    let actor: ActorRef<ModelMessage> = replica.actor().ok_or_else(restarting)?;
    match ractor::call_t!(actor, message, SUBMIT_TIMEOUT_MS) {
        Ok(answer) => answer,
        Err(_) => Err(restarting()),
    }
}

/// The replica with the fewest requests, one that can answer rather than one that cannot.
fn least_loaded(model: &Model) -> &Arc<Replica> {
    let load = |r: &&Arc<Replica>| (r.status() == ModelStatus::Unhealthy, r.table.lock().len());
    // A model has at least one replica: the catalog refuses 0.
    model.replicas.iter().min_by_key(load).unwrap_or(&model.replicas[0])
}

/// A running generation. Dropping it cancels: its sequence is free within one decode step.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::Receiver<GenerationEvent>,
    id: u64,
    table: SharedTable,
}

impl Generation {
    /// The next event; `None` after `Finished` or `Failed`.
    pub async fn recv(&mut self) -> Option<GenerationEvent> {
        self.events.recv().await
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Closed first: a submission still in the mailbox then sees that nobody waits for it.
        self.events.close();
        self.table.lock().cancel(self.id, Instant::now());
    }
}

/// A request for embeddings that is being worked on. Dropping it cancels.
#[derive(Debug)]
pub struct Embeddings {
    events: mpsc::UnboundedReceiver<Result<Embedding, GenerationError>>,
    id: u64,
    table: SharedTable,
}

impl Embeddings {
    /// The next one, in any order; `None` after all and after an error.
    pub async fn recv(&mut self) -> Option<Result<Embedding, GenerationError>> {
        self.events.recv().await
    }
}

impl Drop for Embeddings {
    fn drop(&mut self) {
        // As of a generation.
        self.events.close();
        self.table.lock().cancel(self.id, Instant::now());
    }
}
