//! The llama.cpp backend: an actor for each replica, and behind it a worker process with one model context.
//!
//! A worker is a process of its own, since llama.cpp's aborts cannot be supervised from inside one. [`actor`] has its life,
//! [`connection`] starts the process, shakes hands and passes messages, [`in_flight`] keeps the requests while workers come and
//! go, and [`output`] parses a model's output before it leaves through the seam.

pub mod actor;
pub mod concealed;
pub mod connection;
mod environment;
pub mod in_flight;
mod output;
pub mod replica;
pub mod spec;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jan_protocol::confinement::Confinement;
use jan_protocol::embeddings::EmbeddingRequest;
use jan_protocol::types::{GenerationError, GenerationRequest, Inspect, Inspected, TokenizerFacts};
use jan_protocol::worker_protocol::ModelSpec;
use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use self::actor::{ModelActor, ModelActorArguments, ModelMessage};
use self::connection::LinkConfig;
use self::in_flight::jobs::EmbeddingSubmission;
use self::in_flight::{CHANNEL, Submission};
use self::output::{RawEmbeddings, RawGeneration};
use self::replica::Replica;
use super::backend::{
    Backend, Capabilities, Condition, Embeddings, Generation, GenerationEvent, RETRY_AFTER,
};
use super::report::ReplicaReport;
use super::shares::Place;
use crate::config::{ActorsConfig, WorkerConfig};
use crate::prefix_files::PrefixFiles;
use crate::start_error::StartError;
use crate::supervision::RestartPolicy;
use crate::supervisor::ChildSpec;

/// A model actor answers a submission at once; this long means that it is stuck.
const SUBMIT_TIMEOUT_MS: u64 = 10_000;

/// The interval at which a worker is looked after that writes its prefixes to disk, and its longest silence meanwhile.
const KEEP_WATCH: Duration = Duration::from_millis(200);
const KEEP_SILENCE: Duration = Duration::from_millis(1500);

/// Longest wait for the answer to a question.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);

/// One replica of a model that llama.cpp runs.
#[derive(Debug)]
pub struct LlamaWorker {
    arguments: ModelActorArguments,
    /// Ids are unique among the replica's requests.
    next_id: AtomicU64,
}

impl LlamaWorker {
    /// All replicas of a model.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn replicas(
        config: &ActorsConfig,
        model: &ModelSpec,
        count: u32,
        prefixes: &PrefixFiles,
    ) -> Result<Vec<Arc<dyn Backend>>, StartError> {
        let replica = |number| Ok(Arc::new(Self::new(config, model, number, prefixes)?) as Arc<dyn Backend>);
        (0..count).map(replica).collect()
    }

    /// The replica of that number; its worker is started by its actor.
    ///
    /// # Errors
    /// This program cannot be found.
    pub fn new(
        config: &ActorsConfig,
        model: &ModelSpec,
        number: u32,
        prefixes: &PrefixFiles,
    ) -> Result<Self, StartError> {
        let worker = &config.worker;
        let program = match &worker.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .map_err(|error| StartError::Actor(format!("this program cannot be found: {error}")))?,
        };
        let arguments = ModelActorArguments {
            model: model.id.clone(),
            number,
            replica: Arc::default(),
            link: LinkConfig {
                program,
                arguments: config.worker_arguments.clone(),
                environment: worker.environment.clone(),
                confinement: confinement(worker, model),
                model: model.clone(),
                prefixes: prefixes.clone(),
                load_timeout: Duration::from_millis(worker.load_timeout_ms),
                step_timeout: Duration::from_millis(worker.step_timeout_ms),
            },
            restarts: RestartPolicy {
                max_restarts: worker.max_restarts,
                within: Duration::from_millis(worker.restart_window_ms),
                cooldown: Duration::from_millis(worker.cooldown_ms),
                ..RestartPolicy::default()
            },
            queue: config.queue.clone(),
        };
        Ok(Self { arguments, next_id: AtomicU64::new(1) })
    }

    fn replica(&self) -> &Replica {
        &self.arguments.replica
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn unavailable(&self, reason: &str) -> GenerationError {
        GenerationError::ModelUnavailable {
            model: self.arguments.model.clone(),
            reason: reason.to_owned(),
            retry_after: RETRY_AFTER,
        }
    }

    /// Hands a request to the actor.
    async fn submit(
        &self,
        message: impl FnOnce(RpcReplyPort<Result<(), GenerationError>>) -> ModelMessage,
    ) -> Result<(), GenerationError> {
        let restarting = || self.unavailable("its actor is being restarted");
        let actor: ActorRef<ModelMessage> = self.replica().actor().ok_or_else(restarting)?;
        match ractor::call_t!(actor, message, SUBMIT_TIMEOUT_MS) {
            Ok(answer) => answer,
            Err(_) => Err(restarting()),
        }
    }

    async fn begin(
        &self,
        request: GenerationRequest,
        place: Place,
        count_only: bool,
    ) -> Result<Generation, GenerationError> {
        let id = self.next_id();
        let tools = request.tools.clone();
        let (events_in, events) = mpsc::channel(CHANNEL);
        // Made before the submission, so that a caller that goes away meanwhile cancels it.
        let generation = RawGeneration::new(events, id, self.replica().table.clone());
        let submission = Box::new(Submission { id, request, count_only, events: events_in, place });
        self.submit(|reply| ModelMessage::Submit(submission, reply)).await?;
        Ok(Generation::new(output::parsed(generation, tools.as_deref())))
    }
}

impl Backend for LlamaWorker {
    fn capabilities(&self) -> Capabilities {
        // A model that makes no embeddings reports that itself, with its kind.
        Capabilities::ALL
    }

    fn condition(&self) -> Condition {
        self.replica().condition(Instant::now())
    }

    fn tokenizer(&self) -> Option<TokenizerFacts> {
        self.replica().tokenizer()
    }

    fn report(&self) -> ReplicaReport {
        self.replica().report(Instant::now())
    }

    fn load(&self) -> usize {
        self.replica().table.lock().len()
    }

    fn generate(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Generation, GenerationError>> {
        Box::pin(self.begin(request, place, false))
    }

    fn embed(
        &self,
        request: EmbeddingRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Embeddings, GenerationError>> {
        Box::pin(async move {
            let id = self.next_id();
            let (events_in, events) = mpsc::unbounded_channel();
            let embeddings = RawEmbeddings::new(events, id, self.replica().table.clone());
            let submission = Box::new(EmbeddingSubmission { id, request, events: events_in, place });
            self.submit(|reply| ModelMessage::Embed(submission, reply)).await?;
            Ok(Embeddings::new(embeddings.into_stream()))
        })
    }

    fn inspect(&self, question: Inspect) -> BoxFuture<'_, Result<Inspected, GenerationError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            if !self.replica().table.lock().ask(self.next_id(), question, reply) {
                return Err(self.unavailable("it is not loaded yet"));
            }
            match tokio::time::timeout(INSPECT_TIMEOUT, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(self.unavailable("its worker ended")),
                Err(_) => Err(self.unavailable("it did not answer in time")),
            }
        })
    }

    fn count_tokens(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<u32, GenerationError>> {
        Box::pin(async move {
            let requested = request.max_tokens.unwrap_or(1);
            // Nothing is answered, so nothing has to be compiled.
            let request = GenerationRequest { constraint: None, tools: None, ..request };
            let mut generation = self.begin(request, place, true).await?;
            while let Some(event) = generation.recv().await {
                match event {
                    GenerationEvent::Accepted { prompt_tokens, .. } => {
                        // A worker may shorten an answer that does not fit.
                        let limit = self.condition().context_length.unwrap_or(u32::MAX);
                        if prompt_tokens.saturating_add(requested) > limit {
                            return Err(GenerationError::ContextLengthExceeded {
                                limit,
                                prompt_tokens,
                                requested,
                            });
                        }
                        return Ok(prompt_tokens);
                    }
                    GenerationEvent::Failed(error) => return Err(error),
                    _ => {}
                }
            }
            Err(GenerationError::Internal("a generation ended without a result".to_owned()))
        })
    }

    fn keep_prefixes(&self, within: Duration) -> BoxFuture<'_, ()> {
        let (reply, mut kept) = oneshot::channel();
        let is_asked = self.replica().table.lock().keep(within, reply, Instant::now());
        Box::pin(async move {
            let until = Instant::now() + within;
            // A worker that has gone drops the sender.
            while is_asked && tokio::time::timeout(KEEP_WATCH, &mut kept).await.is_err() {
                let now = Instant::now();
                if now >= until || self.replica().table.lock().keeps_silent_for(now) > KEEP_SILENCE {
                    tracing::warn!(model = self.arguments.model, "not all prefixes were kept in time");
                    return;
                }
            }
        })
    }

    fn children(&self) -> Vec<ChildSpec> {
        let ModelActorArguments { model, number, .. } = &self.arguments;
        vec![ChildSpec::new(format!("model {model} #{number}"), || ModelActor, self.arguments.clone())]
    }
}

/// Restrictions of the workers of one model.
fn confinement(worker: &WorkerConfig, model: &ModelSpec) -> Confinement {
    Confinement {
        no_new_privs: worker.no_new_privs,
        landlock: worker.landlock,
        seccomp: worker.seccomp,
        gpu: model.gpu_layers > 0,
        model: (&model.path).into(),
        draft_model: (&model.draft_path).into(),
        unpack_folder: (&model.unpack_folder).into(),
        readable: worker.readable_paths.clone(),
        writable: worker.writable_paths.clone(),
    }
}
