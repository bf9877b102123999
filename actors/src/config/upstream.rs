//! Configuration of upstreams: servers elsewhere that answer for a model.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of `[[models.upstreams]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its OpenAI-compatible API, such as `http://gpu1:8000/v1`.
    pub url: String,
    /// The model's name there. Unset: the model's id.
    #[serde(default)]
    pub model: Option<String>,
    /// The kind of server.
    #[serde(default)]
    pub kind: UpstreamKind,
    /// File with the key that it requires.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Environment variable with the key that it requires.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Most requests that it is given at a time.
    #[serde(default = "many")]
    pub max_in_flight: u32,
    /// Its share of the load, relative to the others'.
    #[serde(default = "one")]
    pub weight: u32,
}

/// The kind of an upstream server, which decides what it can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamKind {
    /// Detected from its list of models.
    #[default]
    Auto,
    /// vLLM, alone or behind Ray Serve, llm-d or Dynamo.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's server.
    LlamaServer,
    /// Another Jan Server.
    Jan,
    /// Any other server with OpenAI's API.
    Openai,
}

/// The handling of an answer whose upstream fails within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// As `message`, which is what there is for all upstreams.
    #[default]
    Auto,
    /// Another upstream continues the text.
    Message,
    /// It ends with an error.
    Off,
}

fn many() -> u32 {
    256
}

fn one() -> u32 {
    1
}

/// `[upstream]`: settings of all upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamConfig {
    /// Longest time to connect (milliseconds).
    pub connect_timeout_ms: u64,
    /// Longest wait for the first token of an answer (milliseconds).
    pub first_token_timeout_ms: u64,
    /// An upstream that owes tokens and sends none for this long counts as dead (milliseconds).
    pub stall_timeout_ms: u64,
    /// Interval of the probes (milliseconds).
    pub probe_interval_ms: u64,
    /// Longest time of a probe, and of a question about a prompt (milliseconds).
    pub probe_timeout_ms: u64,
    /// Most further tries of a request that has no token yet.
    pub max_retries: u32,
    /// Most further tries, of all requests together, in percent of the requests.
    pub retry_budget_percent: u32,
    /// Failures in a row after which an upstream gets no requests.
    pub breaker_failures: u32,
    /// Time after which it is tried again (milliseconds).
    pub breaker_cooldown_ms: u64,
    /// Difference of the loads of two upstreams beyond which known prefixes are ignored, if the next one is exceeded as well.
    pub balance_requests: u32,
    /// Load of the busiest upstream in percent of that of the least busy one.
    pub balance_percent: u32,
}

impl UpstreamConfig {
    /// `first_token_timeout_ms`.
    #[must_use]
    pub const fn first_token_timeout(&self) -> Duration {
        Duration::from_millis(self.first_token_timeout_ms)
    }

    /// `stall_timeout_ms`.
    #[must_use]
    pub const fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
    }

    /// `probe_timeout_ms`.
    #[must_use]
    pub const fn probe_timeout(&self) -> Duration {
        Duration::from_millis(self.probe_timeout_ms)
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            first_token_timeout_ms: 120_000,
            stall_timeout_ms: 30_000,
            probe_interval_ms: 2_000,
            probe_timeout_ms: 5_000,
            max_retries: 3,
            retry_budget_percent: 20,
            breaker_failures: 5,
            breaker_cooldown_ms: 30_000,
            balance_requests: 64,
            balance_percent: 150,
        }
    }
}
