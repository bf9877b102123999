//! The models that are served, by id and alias, with their replicas.
//!
//! Built once from the configuration; actors come and go behind it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jan_protocol::bundled_model;
use jan_protocol::types::{ModelDescription, ModelStatus};
use jan_protocol::worker_protocol::ModelSpec;

use super::backend::{Backend, Condition};
use super::llama_worker::LlamaWorker;
use super::shares::Places;
use crate::config::{ActorsConfig, SharePrefixes};
use crate::supervisor::ChildSpec;
use crate::system::StartError;

/// One configured model.
#[derive(Debug)]
pub struct Model {
    /// Its id.
    pub id: String,
    /// Other ids that lead to it.
    pub aliases: Vec<String>,
    /// Shown in the model object.
    pub owned_by: String,
    /// Places for requests that run or wait.
    pub places: Places,
    /// Its replicas.
    pub replicas: Vec<Arc<dyn Backend>>,
}

impl Model {
    /// The model object for one of its ids.
    pub fn describe(&self, id: &str) -> ModelDescription {
        let conditions: Vec<_> = self.replicas.iter().map(|replica| replica.condition()).collect();
        let first = |known: fn(&Condition) -> Option<String>| conditions.iter().find_map(known);
        ModelDescription {
            id: id.to_owned(),
            root: self.id.clone(),
            created: conditions.iter().find_map(|one| one.created).unwrap_or_else(now_unix),
            owned_by: self.owned_by.clone(),
            context_length: conditions.iter().find_map(|one| one.context_length),
            status: combine(conditions.iter().map(|one| one.status)),
            problem: first(|one| one.problem.clone()),
            public_problem: first(|one| one.public_problem.clone()),
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

    /// One model, answered by `backend`.
    #[cfg(any(test, feature = "testing"))]
    pub fn of_backend(config: &ActorsConfig, id: &str, backend: Arc<dyn Backend>) -> Self {
        let model = Model {
            id: id.to_owned(),
            aliases: Vec::new(),
            owned_by: "jan".to_owned(),
            places: Places::new(config.queue.max_requests),
            replicas: vec![backend],
        };
        Self { models: vec![Arc::new(model)] }
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
        let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
        for number in 0..replicas {
            backends.push(Arc::new(LlamaWorker::new(config, &spec, number)?));
        }
        self.models.push(Arc::new(Model {
            id: spec.id,
            aliases,
            owned_by: owned_by.to_owned(),
            places: Places::new(config.queue.max_requests),
            replicas: backends,
        }));
        Ok(())
    }

    /// The model of an id or alias.
    pub fn find(&self, id: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|m| m.id == id || m.aliases.iter().any(|a| a == id))
    }

    /// The actors of all replicas.
    pub fn children(&self) -> Vec<ChildSpec> {
        self.models.iter().flat_map(|model| &model.replicas).flat_map(|replica| replica.children()).collect()
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
