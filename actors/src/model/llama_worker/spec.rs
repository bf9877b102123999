//! Settings of a worker, from the configuration of its model.

use jan_protocol::bundled_model;
use jan_protocol::worker_protocol::ModelSpec;

use crate::config::{
    ActorsConfig, EngineConfig, GgufModel, KvLayout, ModelConfig, ModelSource, Overflow, SharePrefixes,
    Speculation,
};
use crate::start_error::StartError;

/// Settings of the workers of a configured model.
///
/// # Errors
/// It has no path, or its chat template file cannot be read.
pub fn of_gguf(config: &ActorsConfig, id: &str, model: &GgufModel) -> Result<ModelSpec, StartError> {
    let chat_template = match &model.chat_template {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            StartError::Config(format!(
                "models: chat_template of `{id}`: cannot read {}: {error}",
                path.display()
            ))
        })?,
    };
    let spec = ModelSpec {
        path: model.path.to_string_lossy().into_owned(),
        draft_path: model
            .draft_path
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        chat_template,
        tool_format: model.tool_format.clone().unwrap_or_default(),
        reasoning_format: model.reasoning_format.clone().unwrap_or_default(),
        pooling: model.pooling.clone().unwrap_or_default(),
        ..spec(config, id, model.context_length)
    };
    if spec.path.is_empty() {
        return Err(StartError::Config(format!("models: `{id}` has no path")));
    }
    Ok(spec)
}

/// Settings of the worker of the model in the program.
#[must_use]
pub fn of_bundled_model(config: &ActorsConfig) -> ModelSpec {
    spec(config, bundled_model::ID, None)
}

fn spec(config: &ActorsConfig, id: &str, context_length: Option<u32>) -> ModelSpec {
    let engine = &config.engine;
    ModelSpec {
        id: id.to_owned(),
        path: String::new(),
        draft_path: String::new(),
        unpack_folder: config.storage.path.join("models").to_string_lossy().into_owned(),
        chat_template: String::new(),
        tool_format: String::new(),
        reasoning_format: String::new(),
        pooling: String::new(),
        context_length: context_length.unwrap_or(engine.context_length),
        kv_cells: engine.kv_cells,
        lane_cells: lane_cells(engine),
        always_lanes: engine.kv_layout == KvLayout::Lanes,
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
        speculation: engine.speculation == Speculation::Auto,
        constraint_cpu_ms: engine.constraint_cpu_ms,
        constraint_memory_mib: engine.constraint_memory_mib,
        mask_budget_ms: engine.mask_budget_ms,
        share_all: engine.share_prefixes == SharePrefixes::All,
        shared_prompts: engine.shared_prompts.clone(),
        refuse_overflow: engine.max_tokens_overflow == Overflow::Refuse,
        // The bundled model's among them.
        workers: config.models.iter().map(workers_of).sum::<u32>().saturating_add(1),
    }
}

/// Workers of a model.
const fn workers_of(model: &ModelConfig) -> u32 {
    match &model.source {
        ModelSource::Gguf(gguf) => gguf.replicas,
        ModelSource::Upstream(_) => 0,
    }
}

/// KV cells of the second context: none if it is not wanted. On a GPU, the choice between the two has not been measured.
const fn lane_cells(engine: &EngineConfig) -> u32 {
    match engine.kv_layout {
        KvLayout::Unified => 0,
        KvLayout::Auto if engine.gpu_layers > 0 => 0,
        KvLayout::Auto | KvLayout::Lanes if engine.lane_cells == 0 => u32::MAX,
        KvLayout::Auto | KvLayout::Lanes => engine.lane_cells,
    }
}
