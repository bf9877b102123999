//! Configuration of the models.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One of `[[models]]`: what all models have, and the backend that runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "ModelKeys", into = "ModelKeys")]
pub struct ModelConfig {
    /// Id that callers use as `model`.
    pub id: String,
    /// Value of `owned_by`.
    pub owned_by: String,
    /// Other ids of the same model.
    pub aliases: Vec<String>,
    /// Number of replicas that serve this model.
    pub replicas: u32,
    /// The backend.
    pub source: ModelSource,
}

/// The kind of backend of a model, with the settings of that kind alone. The keys that are given select it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Worker processes with llama.cpp.
    Gguf(GgufModel),
}

/// A model that is a GGUF file, run by worker processes with llama.cpp.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufModel {
    /// The GGUF file.
    pub path: PathBuf,
    /// The GGUF file of a smaller model with the same vocabulary, which proposes drafts.
    pub draft_path: Option<PathBuf>,
    /// Context of one sequence in tokens. Default: `engine.context_length`.
    pub context_length: Option<u32>,
    /// Jinja chat template file in place of the one in the GGUF.
    pub chat_template: Option<PathBuf>,
    /// Format of tool calls. Unset: detected from the chat template.
    pub tool_format: Option<String>,
    /// Format of reasoning, or `none`. Unset: detected from the chat template.
    pub reasoning_format: Option<String>,
    /// Pooling of token vectors: `mean`, `cls` or `last`. Unset: from the GGUF's metadata, otherwise the mean.
    pub pooling: Option<String>,
}

/// The keys of `[[models]]`: those of all models, and those of each [`ModelSource`].
#[derive(Clone, Serialize, Deserialize)]
struct ModelKeys {
    id: String,
    #[serde(default = "owned_by_jan")]
    owned_by: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default = "one")]
    replicas: u32,
    path: PathBuf,
    #[serde(default)]
    draft_path: Option<PathBuf>,
    #[serde(default)]
    context_length: Option<u32>,
    #[serde(default)]
    chat_template: Option<PathBuf>,
    #[serde(default)]
    tool_format: Option<String>,
    #[serde(default)]
    reasoning_format: Option<String>,
    #[serde(default)]
    pooling: Option<String>,
}

impl From<ModelKeys> for ModelConfig {
    fn from(keys: ModelKeys) -> Self {
        let ModelKeys { id, owned_by, aliases, replicas, path, context_length, .. } = keys;
        let ModelKeys { draft_path, chat_template, tool_format, reasoning_format, pooling, .. } = keys;
        let gguf = GgufModel {
            path,
            draft_path,
            context_length,
            chat_template,
            tool_format,
            reasoning_format,
            pooling,
        };
        Self { id, owned_by, aliases, replicas, source: ModelSource::Gguf(gguf) }
    }
}

impl From<ModelConfig> for ModelKeys {
    fn from(model: ModelConfig) -> Self {
        let ModelConfig { id, owned_by, aliases, replicas, source } = model;
        let ModelSource::Gguf(gguf) = source;
        let GgufModel { path, draft_path, context_length, chat_template, .. } = gguf;
        let GgufModel { tool_format, reasoning_format, pooling, .. } = gguf;
        Self {
            id,
            owned_by,
            aliases,
            replicas,
            path,
            draft_path,
            context_length,
            chat_template,
            tool_format,
            reasoning_format,
            pooling,
        }
    }
}

fn owned_by_jan() -> String {
    "jan".to_owned()
}

fn one() -> u32 {
    1
}
