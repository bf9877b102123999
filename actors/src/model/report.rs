//! What an administrator is told of models and their replicas.

use std::time::Duration;

use jan_protocol::memory_use::MemoryUse;
use jan_protocol::types::ModelDescription;

use crate::config::UpstreamKind;

/// A model and its replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelReport {
    /// The model object of its id.
    pub description: ModelDescription,
    /// Other ids that lead to it.
    pub aliases: Vec<String>,
    /// Its replicas, by number.
    pub replicas: Vec<ReplicaReport>,
}

/// A replica now.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaReport {
    /// Its phase.
    pub phase: Phase,
    /// The reason why it cannot answer; may name paths of files.
    pub problem: Option<String>,
    /// Requests whose work has begun.
    pub running: usize,
    /// Requests that wait for that.
    pub waiting: usize,
    /// Workers that took the place of another one.
    pub restarts: u64,
    /// The KV cells, once its model is loaded.
    pub kv_cells: Option<KvCells>,
    /// Its memory, as it was last reported; `None` where nothing is known of it, as before the model is loaded.
    pub memory: Option<MemoryUse>,
    /// The server elsewhere that it is; `None` for workers here.
    pub upstream: Option<UpstreamReport>,
}

/// A server elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamReport {
    /// The base of its API.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Its kind, once that is known.
    pub kind: UpstreamKind,
    /// The context that it reports, in tokens.
    pub context_length: Option<u32>,
    /// The time until it is tried again, while it gets no requests.
    pub retry_after: Option<Duration>,
}

/// The phase of a replica's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first worker loads the model.
    Loading,
    /// A worker that takes the place of another one is about to be started, or loads the model.
    Restarting,
    /// It can answer.
    Ready,
    /// It cannot answer; loading is tried again later.
    Unhealthy,
}

/// KV cells of the unified cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvCells {
    /// All of them.
    pub total: u32,
    /// Those in use, cached ones included.
    pub used: u32,
    /// Those that only the prefix cache holds.
    pub cached: u32,
}
