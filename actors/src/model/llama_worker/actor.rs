//! The actor of one model replica: its worker's life and its requests' admission.
//!
//! The worker's steps never pass through the mailbox: the link routes them straight into the shared
//! [`InFlight`] table, which outlives both worker and actor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jan_protocol::types::GenerationError;
use jan_protocol::worker_protocol::Ready;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

use super::connection::{self, LinkConfig, LinkEnd};
use super::in_flight::jobs::EmbeddingSubmission;
use super::in_flight::{InFlight, Submission};
use super::replica::Replica;
use crate::config::QueueConfig;
use crate::model::backend::RETRY_AFTER;
use crate::supervision::{Decision, RestartPolicy, RestartTracker};

/// The interval at which waiting requests and slow clients are checked.
const TICK: Duration = Duration::from_millis(200);

/// Messages of a model actor.
#[derive(Debug)]
pub enum ModelMessage {
    /// Take this request in.
    Submit(Box<Submission>, RpcReplyPort<Result<(), GenerationError>>),
    /// Take this request for embeddings in.
    Embed(Box<EmbeddingSubmission>, RpcReplyPort<Result<(), GenerationError>>),
    /// Start a worker now.
    StartWorker,
    /// The worker of that epoch has loaded the model.
    WorkerReady(u64, Ready),
    /// The worker of that epoch is gone.
    WorkerEnded(u64, LinkEnd),
    /// Time passed.
    Tick,
}

/// One replica's actor.
#[derive(Debug)]
pub struct ModelActor;

/// The parameters of a model actor.
#[derive(Clone, Debug)]
pub struct ModelActorArguments {
    /// Its model's id.
    pub model: String,
    /// Its replica's number.
    pub number: u32,
    /// Its replica.
    pub replica: Arc<Replica>,
    /// The start parameters of its worker.
    pub link: LinkConfig,
    /// The limit on restarts of the worker.
    pub restarts: RestartPolicy,
    /// Waiting.
    pub queue: QueueConfig,
}

/// A model actor's state.
#[derive(Debug)]
pub struct ModelState {
    arguments: ModelActorArguments,
    replica: Arc<Replica>,
    tracker: RestartTracker,
    /// Worker epoch: messages of an earlier worker are ignored.
    epoch: u64,
    link: Option<LinkTask>,
    /// `true` if the context was not configured, and is that of the first worker.
    sized_itself: bool,
}

/// The link's task; it and its process end with the actor.
#[derive(Debug)]
struct LinkTask(JoinHandle<()>);

impl Drop for LinkTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[ractor::async_trait]
impl Actor for ModelActor {
    type Msg = ModelMessage;
    type State = ModelState;
    type Arguments = ModelActorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let replica = Arc::clone(&arguments.replica);
        // A predecessor that panicked leaves its requests in the table and a dead worker's handle with them.
        replica.table.lock().detach();
        replica.set_actor(Some(myself.clone()));
        myself.cast(ModelMessage::StartWorker)?;
        myself.send_interval(TICK, || ModelMessage::Tick);
        let tracker = RestartTracker::new(arguments.restarts);
        Ok(ModelState { arguments, replica, tracker, epoch: 0, link: None, sized_itself: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ModelMessage::Submit(submission, reply) => {
                let answer = state.admit(|table, now| table.insert(*submission, now));
                if !reply.is_closed() {
                    let _ = reply.send(answer);
                }
            }
            ModelMessage::Embed(submission, reply) => {
                let answer = state.admit(|table, now| table.insert_embeddings(*submission, now));
                if !reply.is_closed() {
                    let _ = reply.send(answer);
                }
            }
            ModelMessage::StartWorker => state.start_worker(&myself),
            ModelMessage::WorkerReady(epoch, ready) if epoch == state.epoch => {
                tracing::info!(
                    model = state.arguments.model,
                    replica = state.arguments.number,
                    context_length = ready.context_length,
                    kv_cells = ready.kv_cells,
                    "model ready"
                );
                state.keep_size(&ready);
                state.tracker.on_stable(Instant::now());
                state.replica.set_ready(ready);
            }
            ModelMessage::WorkerEnded(epoch, end) if epoch == state.epoch => {
                state.worker_ended(&myself, end);
            }
            // Words of an earlier worker.
            ModelMessage::WorkerReady(..) | ModelMessage::WorkerEnded(..) => {}
            ModelMessage::Tick => {
                let queue = &state.arguments.queue;
                let max_wait = Duration::from_millis(queue.max_wait_ms);
                state.replica.table.lock().tick(Instant::now(), max_wait, RETRY_AFTER);
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.replica.set_actor(None);
        state.link = None;
        state.replica.table.lock().fail_all(&GenerationError::ShuttingDown);
        Ok(())
    }
}

impl ModelState {
    /// Takes a request in, where it can be answered.
    fn admit(&mut self, insert: impl FnOnce(&mut InFlight, Instant)) -> Result<(), GenerationError> {
        let now = Instant::now();
        if let Some(error) = self.replica.unavailable(&self.arguments.model, now) {
            return Err(error);
        }
        insert(&mut self.replica.table.lock(), now);
        Ok(())
    }

    /// Has later workers take the context that this one chose: requests were accepted for it.
    fn keep_size(&mut self, ready: &Ready) {
        let spec = &mut self.arguments.link.model;
        if spec.context_length == 0 {
            spec.context_length = ready.context_length;
            self.sized_itself = true;
        }
    }

    fn start_worker(&mut self, myself: &ActorRef<ModelMessage>) {
        self.epoch += 1;
        let epoch = self.epoch;
        self.replica.begin_worker();
        let link = self.arguments.link.clone();
        let replica = Arc::clone(&self.replica);
        let actor = myself.clone();
        self.link = Some(LinkTask(tokio::spawn(async move {
            let ready_actor = actor.clone();
            let on_ready = move |ready| {
                let _ = ready_actor.cast(ModelMessage::WorkerReady(epoch, ready));
            };
            let end = connection::run(&link, &replica, on_ready).await;
            let _ = actor.cast(ModelMessage::WorkerEnded(epoch, end));
        })));
    }

    fn worker_ended(&mut self, myself: &ActorRef<ModelMessage>, end: LinkEnd) {
        self.link = None;
        let now = Instant::now();
        let in_flight = {
            let mut table = self.replica.table.lock();
            match end {
                LinkEnd::Retired(_) => table.detach_unblamed(),
                LinkEnd::Died(_) | LinkEnd::Refused(_) => table.detach(),
            }
            table.len()
        };
        let id = &self.arguments.model;
        let (reason, wait) = match end {
            // No failure: it is not counted as one.
            LinkEnd::Retired(reason) => {
                tracing::warn!(model = id, %reason, in_flight, "worker retired, another one is started");
                self.replica.lose_worker();
                let _ = myself.cast(ModelMessage::StartWorker);
                return;
            }
            LinkEnd::Died(reason) => match self.tracker.on_failure(now) {
                Decision::RestartAfter(wait) => {
                    tracing::warn!(model = id, %reason, in_flight, ?wait, "worker lost, another one is started");
                    self.replica.lose_worker();
                    myself.send_after(wait, || ModelMessage::StartWorker);
                    return;
                }
                Decision::GiveUp { retry_after } => {
                    (format!("its worker keeps dying; the last time: {reason}"), retry_after)
                }
            },
            LinkEnd::Refused(reason) => {
                if std::mem::take(&mut self.sized_itself) {
                    // There may be no memory for it any more.
                    self.arguments.link.model.context_length = 0;
                }
                (reason, self.arguments.restarts.cooldown)
            }
        };
        tracing::error!(model = id, %reason, in_flight, retry_after = ?wait, "model unhealthy");
        let link = &self.arguments.link;
        let program = link.program.to_string_lossy();
        let paths = [&*program, &link.model.path, &link.model.unpack_folder];
        self.replica.set_unhealthy(reason, &paths, now + wait);
        if let Some(error) = self.replica.unavailable(id, now) {
            self.replica.table.lock().fail_all(&error);
        }
        myself.send_after(wait, || ModelMessage::StartWorker);
    }
}
