//! Configuration of the models.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::upstream::{Resume, Upstream};

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
    /// The model elsewhere that takes requests of this one while it is short.
    pub overflow: Option<String>,
    /// Requests that run or wait, from which on it is short. Default: as many as its workers run at a time.
    pub overflow_requests: Option<u32>,
    /// The backend.
    pub source: ModelSource,
}

/// The kind of backend of a model, with the settings of that kind alone. `backend` selects it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Worker processes with llama.cpp.
    Gguf(GgufModel),
    /// Servers elsewhere.
    Upstream(UpstreamModel),
}

/// A model that is a GGUF file, run by worker processes with llama.cpp.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufModel {
    /// The GGUF file.
    pub path: PathBuf,
    /// The GGUF file of a smaller model with the same vocabulary, which proposes drafts.
    pub draft_path: Option<PathBuf>,
    /// Number of replicas that serve this model.
    pub replicas: u32,
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

/// A model that other servers serve.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamModel {
    /// Its context in tokens. Unset: as the upstreams report it.
    pub context_length: Option<u32>,
    /// The handling of an answer whose upstream fails within it.
    pub resume: Resume,
    /// The servers.
    pub upstreams: Vec<Upstream>,
}

/// The value of `backend`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BackendName {
    #[default]
    Llama,
    Upstream,
}

/// The keys of `[[models]]`: those of all models, and those of each [`ModelSource`]. The edge has refused keys of another backend.
#[derive(Clone, Default, Serialize, Deserialize)]
struct ModelKeys {
    id: String,
    #[serde(default = "owned_by_jan")]
    owned_by: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    backend: BackendName,
    #[serde(default)]
    path: Option<PathBuf>,
    #[serde(default)]
    replicas: Option<u32>,
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
    #[serde(default)]
    overflow: Option<String>,
    #[serde(default)]
    overflow_requests: Option<u32>,
    #[serde(default)]
    resume: Option<Resume>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    upstreams: Vec<Upstream>,
}

impl From<ModelKeys> for ModelConfig {
    fn from(keys: ModelKeys) -> Self {
        let ModelKeys { id, owned_by, aliases, backend, context_length, .. } = keys;
        let source = match backend {
            BackendName::Llama => ModelSource::Gguf(GgufModel {
                path: keys.path.unwrap_or_default(),
                draft_path: keys.draft_path,
                replicas: keys.replicas.unwrap_or(1),
                context_length,
                chat_template: keys.chat_template,
                tool_format: keys.tool_format,
                reasoning_format: keys.reasoning_format,
                pooling: keys.pooling,
            }),
            BackendName::Upstream => {
                let resume = keys.resume.unwrap_or_default();
                ModelSource::Upstream(UpstreamModel { context_length, resume, upstreams: keys.upstreams })
            }
        };
        let (overflow, overflow_requests) = (keys.overflow, keys.overflow_requests);
        Self { id, owned_by, aliases, overflow, overflow_requests, source }
    }
}

impl From<ModelConfig> for ModelKeys {
    fn from(model: ModelConfig) -> Self {
        let ModelConfig { id, owned_by, aliases, overflow, overflow_requests, source } = model;
        let common = Self { id, owned_by, aliases, overflow, overflow_requests, ..Self::default() };
        match source {
            ModelSource::Gguf(gguf) => Self {
                path: Some(gguf.path),
                draft_path: gguf.draft_path,
                replicas: Some(gguf.replicas),
                context_length: gguf.context_length,
                chat_template: gguf.chat_template,
                tool_format: gguf.tool_format,
                reasoning_format: gguf.reasoning_format,
                pooling: gguf.pooling,
                ..common
            },
            ModelSource::Upstream(UpstreamModel { context_length, resume, upstreams }) => {
                let resume = Some(resume);
                Self { backend: BackendName::Upstream, context_length, resume, upstreams, ..common }
            }
        }
    }
}

fn owned_by_jan() -> String {
    "jan".to_owned()
}
