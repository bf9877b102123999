//! `/admin/models`: models, their workers and the workers' memory, for administrators.

use http::StatusCode;
use jan_actors::config::UpstreamKind;
use jan_actors::identity::Right;
use jan_actors::model::memory_use::{Amount, MemoryUse};
use jan_actors::model::report::{KvCells, ModelReport, Phase, ReplicaReport, UpstreamReport};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    models::Status,
    respond::private,
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::Response;
use crate::http::routing::{Place, route};

/// `/admin/models`
pub fn routes() -> Vec<Route> {
    vec![route!(list, Place::Api, Access::Needs(Right::Administer))]
}

/// The models, with their workers and the memory that these take.
#[utoipa::path(
    get,
    path = "/admin/models",
    tag = "admin",
    operation_id = "listModelReplicas",
    responses((status = 200, description = "The models", body = AdminModelList))
)]
async fn list(state: AppState) -> Response {
    let data = state.models.report().into_iter().map(AdminModel::from).collect();
    private(StatusCode::OK, &AdminModelList { object: "list", data })
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdminModelList {
    /// Always `list`.
    object: &'static str,
    /// In the order of the configuration, the bundled model last.
    data: Vec<AdminModel>,
}

/// A model and its workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdminModel {
    /// The model's id.
    #[schema(example = "jan-tiny")]
    id: String,
    /// Always `admin.model`.
    object: &'static str,
    /// Other ids that requests may use.
    #[schema(example = json!(["jan-v1-4b"]))]
    aliases: Vec<String>,
    /// The state of all replicas together.
    status: Status,
    /// Its context in tokens; null until it is loaded.
    #[schema(example = 8192)]
    context_length: Option<u32>,
    /// Its replicas, each with a worker process of its own, or its upstreams.
    replicas: Vec<ModelReplica>,
}

impl From<ModelReport> for AdminModel {
    fn from(report: ModelReport) -> Self {
        Self {
            id: report.description.id,
            object: "admin.model",
            aliases: report.aliases,
            status: report.description.status.into(),
            context_length: report.description.context_length,
            replicas: (0..)
                .zip(report.replicas)
                .map(|(number, replica)| ModelReplica::new(number, replica))
                .collect(),
        }
    }
}

/// A replica of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelReplica {
    /// Its number, from 0.
    number: u32,
    /// Its state.
    state: ReplicaState,
    /// The problem, if any; may contain file paths.
    #[schema(example = json!(null))]
    problem: Option<String>,
    /// Sequences that are being evaluated or generated, and requests for embeddings.
    #[schema(example = 2)]
    running: usize,
    /// Those that wait for it.
    #[schema(example = 0)]
    waiting: usize,
    /// Number of times that a worker was started in place of another one since the server's start.
    #[schema(example = 0)]
    restarts: u64,
    /// Its KV cells; null until its model is loaded.
    kv_cells: Option<CellCounts>,
    /// Its worker's memory; null until its model is loaded.
    memory: Option<WorkerMemory>,
    /// The server elsewhere that it is; null for workers here.
    upstream: Option<AdminUpstream>,
}

impl ModelReplica {
    fn new(number: u32, report: ReplicaReport) -> Self {
        Self {
            number,
            state: report.phase.into(),
            problem: report.problem,
            running: report.running,
            waiting: report.waiting,
            restarts: report.restarts,
            kv_cells: report.kv_cells.map(CellCounts::from),
            memory: report.memory.map(WorkerMemory::from),
            upstream: report.upstream.map(AdminUpstream::from),
        }
    }
}

/// A server elsewhere that answers for a model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upstream)]
pub struct AdminUpstream {
    /// Its API.
    #[schema(example = "http://gpu1:8000/v1")]
    url: String,
    /// The model's name there.
    #[schema(example = "Qwen/Qwen3-32B")]
    model: String,
    /// Its kind: as configured, or as detected; `auto` until it was reached.
    #[schema(value_type = String, example = "vllm")]
    kind: UpstreamKind,
    /// The context that it reports, in tokens.
    #[schema(example = 32768)]
    context_length: Option<u32>,
    /// Seconds until it is tried again, while it gets no requests after failures.
    #[schema(example = json!(null))]
    retry_after_s: Option<u64>,
}

impl From<UpstreamReport> for AdminUpstream {
    fn from(report: UpstreamReport) -> Self {
        Self {
            url: report.url,
            model: report.model,
            kind: report.kind,
            context_length: report.context_length,
            retry_after_s: report.retry_after.map(|wait| wait.as_secs().max(1)),
        }
    }
}

/// The state of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Its first worker loads the model.
    Loading,
    /// Another worker is started in place of one that ended, and loads the model.
    Restarting,
    /// It can answer.
    Ready,
    /// It cannot answer; loading is retried later.
    Unhealthy,
}

impl From<Phase> for ReplicaState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Loading => Self::Loading,
            Phase::Restarting => Self::Restarting,
            Phase::Ready => Self::Ready,
            Phase::Unhealthy => Self::Unhealthy,
        }
    }
}

/// KV cells of the unified cache; one holds the keys and values of a token.
#[derive(Debug, Serialize, ToSchema)]
pub struct CellCounts {
    /// All of them.
    #[schema(example = 16384)]
    total: u32,
    /// Cells in use, cached ones included.
    #[schema(example = 1200)]
    used: u32,
    /// Cells that only the prefix cache holds.
    #[schema(example = 800)]
    cached: u32,
}

impl From<KvCells> for CellCounts {
    fn from(KvCells { total, used, cached }: KvCells) -> Self {
        Self { total, used, cached }
    }
}

/// Memory of a worker process, by kind, as it reported it last: at most a second ago while it works.
///
/// The kinds are disjoint. They count what is allocated, of which the pages that were never written to are not resident. `other` is
/// the rest of the resident set.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerMemory {
    /// The resident set of the process.
    #[schema(example = 412_000_000_u64)]
    resident_bytes: u64,
    /// The part of it that consists of pages of files, such as the mapped model file; the kernel takes them back when memory is
    /// short.
    #[schema(example = 120_000_000_u64)]
    resident_file_bytes: u64,
    /// The part of the kinds that lies in the memory of devices (GPUs) and so not in the resident set.
    #[schema(example = 0)]
    device_bytes: u64,
    /// The resident set of the helper process that compiles schemas and grammars; 0 while there is none. No part of
    /// `resident_bytes`.
    #[schema(example = 0)]
    helper_bytes: u64,
    /// Weights of the model.
    weights: MemoryAmount,
    /// The draft model: its weights and its context.
    draft_model: MemoryAmount,
    /// KV cells of the unified cache, or the states of a recurrent model.
    kv: MemoryAmount,
    /// KV cells of the second context, in which sequences have cells of their own; 0 while it is closed.
    kv_lanes: MemoryAmount,
    /// Copies of finished sequences in host memory.
    host_cache: MemoryAmount,
    /// Buffers for intermediate results.
    compute: MemoryAmount,
    /// Logits of a step.
    logits: MemoryAmount,
    /// The context that makes embeddings; 0 while it is closed.
    embeddings: MemoryAmount,
    /// Compiled schemas and grammars that are kept, with the vocabulary (an estimate).
    grammars: MemoryAmount,
    /// Schemas and grammars of running answers (an estimate).
    constrained_answers: MemoryAmount,
    /// What belongs to no kind: the program, stacks, requests, free pages of the heap.
    other: MemoryAmount,
}

impl From<MemoryUse> for WorkerMemory {
    fn from(used: MemoryUse) -> Self {
        Self {
            resident_bytes: used.resident,
            resident_file_bytes: used.resident_files,
            device_bytes: used.device,
            helper_bytes: used.helper,
            other: Amount::of(used.other()).into(),
            weights: used.weights.into(),
            draft_model: used.draft_model.into(),
            kv: used.kv.into(),
            kv_lanes: used.kv_lanes.into(),
            host_cache: used.host_cache.into(),
            compute: used.compute.into(),
            logits: used.logits.into(),
            embeddings: used.embeddings.into(),
            grammars: used.grammars.into(),
            constrained_answers: used.constrained_answers.into(),
        }
    }
}

/// Memory of one kind.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerMemoryAmount)]
pub struct MemoryAmount {
    /// Bytes now.
    #[schema(example = 94_371_840_u64)]
    bytes: u64,
    /// The upper bound that follows from the settings; null where it is not known in advance.
    #[schema(example = 2_147_483_648_u64)]
    limit_bytes: Option<u64>,
}

impl From<Amount> for MemoryAmount {
    fn from(Amount { bytes, limit }: Amount) -> Self {
        Self { bytes, limit_bytes: limit }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_app::{MODEL, TestApp};

    #[tokio::test]
    async fn a_replica_without_a_worker_has_its_condition_alone() {
        const PATH: &str = "/v1/admin/models";
        let app = TestApp::start().await;
        assert_eq!(app.get(PATH).send().await.status, 401);
        let answer = app.get(PATH).key(&app.key).send().await;
        let mut model = answer.json()["data"][0].take();
        let replicas = model["replicas"].take();
        let known = json!({
            "id": MODEL, "object": "admin.model", "aliases": [], "status": "ready", "context_length": 256, "replicas": null,
        });
        assert_eq!(model, known);
        let ready = json!([{
            "number": 0, "state": "ready", "problem": null, "running": 0, "waiting": 0, "restarts": 0,
            "kv_cells": null, "memory": null, "upstream": null,
        }]);
        assert_eq!(replicas, ready);
        app.backend.kill();
        let answer = app.get(PATH).key(&app.key).send().await;
        assert_eq!(answer.json()["data"][0]["replicas"][0]["state"], "unhealthy");
        app.stop().await;
    }

    #[test]
    fn the_kinds_and_the_rest_add_up_to_the_resident_set() {
        let used = MemoryUse {
            weights: Amount::fixed(100),
            host_cache: Amount::within(20, 50),
            compute: Amount::of(5),
            resident: 150,
            ..MemoryUse::default()
        };
        let shown = serde_json::to_value(WorkerMemory::from(used)).unwrap();
        assert_eq!(shown["host_cache"], json!({"bytes": 20, "limit_bytes": 50}));
        assert_eq!(shown["compute"], json!({"bytes": 5, "limit_bytes": null}));
        let amounts = shown.as_object().unwrap().values().filter_map(|kind| kind.get("bytes")?.as_u64());
        assert_eq!(amounts.sum::<u64>(), 150);
    }
}
