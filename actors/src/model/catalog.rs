//! The models that are served, by id and alias, with their replicas.
//!
//! Built once from the configuration; actors come and go behind it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jan_protocol::bundled_model;
use jan_protocol::types::{ModelDescription, ModelStatus};

use super::backend::{Backend, Condition};
use super::llama_worker::{self, LlamaWorker};
use super::shares::Places;
use super::upstream::Upstreams;
use crate::config::{ActorsConfig, ModelConfig, ModelSource};
use crate::prefix_files::PrefixFiles;
use crate::start_error::StartError;
use crate::supervisor::ChildSpec;

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
    /// The model that takes requests of it while it is short.
    pub overflow: Option<Overflow>,
}

/// The model elsewhere that takes a model's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Its id.
    pub id: String,
    /// Requests of the model that run or wait, from which on others go there.
    pub requests: usize,
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
            // Replicas may have found more or less free memory.
            context_length: conditions.iter().filter_map(|one| one.context_length).min(),
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

/// Returns the model that a model's requests go to while it is short.
fn overflow_of(config: &ActorsConfig, model: &ModelConfig) -> Result<Option<Overflow>, StartError> {
    let ModelSource::Gguf(gguf) = &model.source else { return Ok(None) };
    let Some(id) = &model.overflow else { return Ok(None) };
    let is_elsewhere =
        |other: &ModelConfig| other.id == *id && matches!(other.source, ModelSource::Upstream(_));
    if !config.models.iter().any(is_elsewhere) {
        return Err(StartError::Config(format!(
            "models: overflow of `{}`: there is no model `{id}` with `backend = \"upstream\"`",
            model.id
        )));
    }
    let sequences = u32::from(config.engine.max_sequences).saturating_mul(gguf.replicas);
    let requests = model.overflow_requests.unwrap_or(sequences) as usize;
    Ok(Some(Overflow { id: id.clone(), requests }))
}

/// All models, in the order of the configuration, the bundled one last.
#[derive(Debug)]
pub struct Catalog {
    models: Vec<Arc<Model>>,
}

impl Catalog {
    /// # Errors
    /// Ids that are empty or given twice, and chat template files that cannot be read.
    pub fn new(config: &ActorsConfig, prefixes: &PrefixFiles) -> Result<Self, StartError> {
        let mut catalog = Self { models: Vec::new() };
        for model in &config.models {
            catalog.check_ids(&model.id, &model.aliases)?;
            let backends: Vec<Arc<dyn Backend>> = match &model.source {
                ModelSource::Gguf(gguf) => {
                    let spec = llama_worker::spec::of_gguf(config, &model.id, gguf)?;
                    LlamaWorker::replicas(config, &spec, gguf.replicas, prefixes)?
                }
                ModelSource::Upstream(upstream) => {
                    vec![Arc::new(Upstreams::new(config, &model.id, upstream)?)]
                }
            };
            let overflow = overflow_of(config, model)?;
            catalog.add(config, &model.id, model.aliases.clone(), &model.owned_by, backends, overflow)?;
        }
        // A configured model may take the bundled model's place, or an alias of it.
        if catalog.find(bundled_model::ID).is_none() {
            let aliases = bundled_model::ALIASES.iter().filter(|a| catalog.find(a).is_none());
            let aliases = aliases.map(|a| (*a).to_owned()).collect();
            let spec = llama_worker::spec::of_bundled_model(config);
            let backends = LlamaWorker::replicas(config, &spec, 1, prefixes)?;
            catalog.add(config, bundled_model::ID, aliases, "jan", backends, None)?;
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
            overflow: None,
        };
        Self { models: vec![Arc::new(model)] }
    }

    /// These models.
    #[cfg(test)]
    pub fn of_models(models: Vec<Model>) -> Self {
        Self { models: models.into_iter().map(Arc::new).collect() }
    }

    /// Refuses ids that are empty or taken.
    fn check_ids(&self, id: &str, aliases: &[String]) -> Result<(), StartError> {
        for id in std::iter::once(id).chain(aliases.iter().map(String::as_str)) {
            if id.is_empty() {
                return Err(StartError::Config("models: an id is empty; give each model one".to_owned()));
            }
            if self.find(id).is_some() {
                return Err(StartError::Config(format!("models: the id `{id}` is given twice")));
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        config: &ActorsConfig,
        id: &str,
        aliases: Vec<String>,
        owned_by: &str,
        replicas: Vec<Arc<dyn Backend>>,
        overflow: Option<Overflow>,
    ) -> Result<(), StartError> {
        if replicas.is_empty() {
            return Err(StartError::Config(format!("models: replicas of `{id}` is 0; it must be 1 or more")));
        }
        self.models.push(Arc::new(Model {
            id: id.to_owned(),
            aliases,
            owned_by: owned_by.to_owned(),
            places: Places::new(config.queue.max_requests),
            replicas,
            overflow,
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
