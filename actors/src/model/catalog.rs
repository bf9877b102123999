//! The models that are served, by id and alias, and what is known of each replica now.
//!
//! Built once from the configuration; actors come and go behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jan_protocol::bundled_model;
use jan_protocol::types::{GenerationError, ModelDescription, ModelStatus};
use jan_protocol::worker_protocol::{ModelSpec, Ready};
use ractor::ActorRef;

use super::actor::ModelMessage;
use super::concealed::without_paths;
use super::inflight::SharedTable;
use super::shares::Places;
use crate::config::{ActorsConfig, SharePrefixes};
use crate::system::StartError;

/// A replica that has prepared nothing for this long, while requests without a constraint wait for it, is not ready.
const MAX_UNPREPARED: Duration = Duration::from_secs(5);

/// One configured model.
#[derive(Debug)]
pub struct Model {
    /// Its id.
    pub id: String,
    /// Other ids that lead to it.
    pub aliases: Vec<String>,
    /// Shown in the model object.
    pub owned_by: String,
    /// What its workers load.
    pub spec: ModelSpec,
    /// Places for requests that run or wait.
    pub places: Places,
    /// Its replicas.
    pub replicas: Vec<Arc<Replica>>,
}

/// What is known of one replica.
#[derive(Debug, Default)]
pub struct Replica {
    /// Its requests.
    pub table: SharedTable,
    state: Mutex<ReplicaState>,
}

#[derive(Debug)]
struct ReplicaState {
    status: ModelStatus,
    problem: Option<Problem>,
    ready: Option<Ready>,
    actor: Option<ActorRef<ModelMessage>>,
}

#[derive(Debug)]
struct Problem {
    text: String,
    /// The same without paths.
    public: String,
    retry_at: Instant,
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self { status: ModelStatus::Loading, problem: None, ready: None, actor: None }
    }
}

impl Replica {
    fn state(&self) -> MutexGuard<'_, ReplicaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its actor, while there is one.
    pub fn actor(&self) -> Option<ActorRef<ModelMessage>> {
        self.state().actor.clone()
    }

    /// Notes its actor.
    pub fn set_actor(&self, actor: Option<ActorRef<ModelMessage>>) {
        self.state().actor = actor;
    }

    /// Whether it can answer now.
    pub fn status(&self) -> ModelStatus {
        self.state().status
    }

    /// The same as of now: one that is behind with preparing requests cannot answer either.
    pub fn status_now(&self, now: Instant) -> ModelStatus {
        let behind = self.table.lock().unprepared_for(now).is_some_and(|time| time > MAX_UNPREPARED);
        match self.status() {
            ModelStatus::Ready if behind => ModelStatus::Unhealthy,
            status => status,
        }
    }

    /// Notes the status; a problem that it had stays known until it is ready again.
    pub fn set_status(&self, status: ModelStatus) {
        self.state().status = status;
    }

    /// Notes that the model is loaded.
    pub fn set_ready(&self, ready: Ready) {
        let mut state = self.state();
        state.status = ModelStatus::Ready;
        state.problem = None;
        state.ready = Some(ready);
    }

    /// Notes that it cannot answer, why, and when it is tried again. Of the problem everybody is told; `paths` are left
    /// out of that.
    pub fn set_unhealthy(&self, text: String, paths: &[&str], retry_at: Instant) {
        let mut state = self.state();
        state.status = ModelStatus::Unhealthy;
        state.problem = Some(Problem { public: without_paths(&text, paths), text, retry_at });
    }

    /// Why it takes no requests now, if it takes none.
    pub fn unavailable(&self, model: &str, now: Instant) -> Option<GenerationError> {
        let state = self.state();
        let problem = state.problem.as_ref().filter(|_| state.status == ModelStatus::Unhealthy)?;
        Some(GenerationError::ModelUnavailable {
            model: model.to_owned(),
            reason: problem.public.clone(),
            retry_after: problem.retry_at.saturating_duration_since(now),
        })
    }
}

impl Model {
    /// The state of all replicas together.
    pub fn status(&self) -> ModelStatus {
        combine(self.replicas.iter().map(|r| r.status()))
    }

    /// The model object for one of its ids.
    pub fn describe(&self, id: &str) -> ModelDescription {
        let ready = self.replicas.iter().find_map(|r| r.state().ready.clone());
        let problem = |show: fn(&Problem) -> &String| {
            self.replicas.iter().find_map(|r| r.state().problem.as_ref().map(|problem| show(problem).clone()))
        };
        ModelDescription {
            id: id.to_owned(),
            root: self.id.clone(),
            created: ready.as_ref().map_or_else(now_unix, |r| r.created),
            owned_by: self.owned_by.clone(),
            context_length: ready.as_ref().map(|r| r.context_length),
            status: self.status(),
            problem: problem(|problem| &problem.text),
            public_problem: problem(|problem| &problem.public),
        }
    }
}

/// `Ready` when all are, `Degraded` when some are, else the best there is.
pub fn combine(statuses: impl Iterator<Item = ModelStatus>) -> ModelStatus {
    let statuses: Vec<ModelStatus> = statuses.collect();
    let any = |status| statuses.contains(&status);
    if statuses.iter().all(|s| *s == ModelStatus::Ready) {
        ModelStatus::Ready
    } else if any(ModelStatus::Ready) || any(ModelStatus::Degraded) {
        ModelStatus::Degraded
    } else if any(ModelStatus::Loading) {
        ModelStatus::Loading
    } else {
        ModelStatus::Unhealthy
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// All models, in the order of the configuration, the bundled one last.
#[derive(Debug)]
pub struct Catalog {
    models: Vec<Arc<Model>>,
}

impl Catalog {
    /// # Errors
    /// Ids that are empty or given twice, and chat template files that cannot be read.
    pub fn new(config: &ActorsConfig) -> Result<Self, StartError> {
        let mut catalog = Self { models: Vec::new() };
        for model in &config.models {
            let chat_template = match &model.chat_template {
                None => String::new(),
                Some(path) => std::fs::read_to_string(path).map_err(|error| {
                    StartError::Config(format!(
                        "models: chat_template of `{}`: cannot read {}: {error}",
                        model.id,
                        path.display()
                    ))
                })?,
            };
            let spec = ModelSpec {
                path: model.path.to_string_lossy().into_owned(),
                chat_template,
                tool_format: model.tool_format.clone().unwrap_or_default(),
                reasoning_format: model.reasoning_format.clone().unwrap_or_default(),
                pooling: model.pooling.clone().unwrap_or_default(),
                ..spec(config, &model.id, model.context_length)
            };
            if spec.path.is_empty() {
                return Err(StartError::Config(format!("models: `{}` has no path", model.id)));
            }
            catalog.add(config, spec, model.aliases.clone(), &model.owned_by, model.replicas)?;
        }
        // A configured model may take the bundled model's place, or an alias of it.
        if catalog.find(bundled_model::ID).is_none() {
            let aliases = bundled_model::ALIASES.iter().filter(|a| catalog.find(a).is_none());
            let aliases = aliases.map(|a| (*a).to_owned()).collect();
            catalog.add(config, spec(config, bundled_model::ID, None), aliases, "jan", 1)?;
        }
        Ok(catalog)
    }

    fn add(
        &mut self,
        config: &ActorsConfig,
        spec: ModelSpec,
        aliases: Vec<String>,
        owned_by: &str,
        replicas: u32,
    ) -> Result<(), StartError> {
        for id in std::iter::once(&spec.id).chain(&aliases) {
            if id.is_empty() {
                return Err(StartError::Config("models: an id is empty; give each model one".to_owned()));
            }
            if self.find(id).is_some() {
                return Err(StartError::Config(format!("models: the id `{id}` is given twice")));
            }
        }
        if replicas == 0 {
            return Err(StartError::Config(format!(
                "models: replicas of `{}` is 0; it must be 1 or more",
                spec.id
            )));
        }
        self.models.push(Arc::new(Model {
            id: spec.id.clone(),
            aliases,
            owned_by: owned_by.to_owned(),
            spec,
            places: Places::new(config.queue.max_requests),
            replicas: (0..replicas).map(|_| Arc::default()).collect(),
        }));
        Ok(())
    }

    /// The model of an id or alias.
    pub fn find(&self, id: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|m| m.id == id || m.aliases.iter().any(|a| a == id))
    }

    /// Every model.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }
}

fn spec(config: &ActorsConfig, id: &str, context_length: Option<u32>) -> ModelSpec {
    let engine = &config.engine;
    ModelSpec {
        id: id.to_owned(),
        path: String::new(),
        unpack_folder: config.storage.path.join("models").to_string_lossy().into_owned(),
        chat_template: String::new(),
        tool_format: String::new(),
        reasoning_format: String::new(),
        pooling: String::new(),
        context_length: context_length.unwrap_or(engine.context_length),
        kv_cells: engine.kv_cells,
        max_sequences: engine.max_sequences.into(),
        cached_sequences: engine.cached_sequences.into(),
        threads: engine.threads,
        prefill_chunk: engine.prefill_chunk,
        inter_token_target_ms: engine.inter_token_target_ms,
        share_min_tokens: engine.share_min_tokens,
        gpu_layers: engine.gpu_layers,
        cache_cells: engine.cache_cells,
        cache_ram_mib: engine.cache_ram_mib,
        reproducible: engine.reproducible,
        constraint_cpu_ms: engine.constraint_cpu_ms,
        constraint_memory_mib: engine.constraint_memory_mib,
        mask_budget_ms: engine.mask_budget_ms,
        share_all: engine.share_prefixes == SharePrefixes::All,
        shared_prompts: engine.shared_prompts.clone(),
    }
}
