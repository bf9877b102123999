//! Settings of the actors. The edge reads them from its configuration file, environment and flags.

mod models;
mod storage;
mod upstream;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::models::{GgufModel, ModelConfig, ModelSource, UpstreamModel};
pub use self::storage::{DatabaseUrl, StorageConfig, StorageKind};
pub use self::upstream::{Resume, Upstream, UpstreamConfig, UpstreamKind};

pub use jan_protocol::confinement::Restriction;

pub use crate::web_search::WebSearchConfig;

/// Everything that [`crate::System::start`] needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActorsConfig {
    /// Where state and unpacked model files lie.
    pub storage: StorageConfig,
    /// The models to serve. The bundled model is always there beside them.
    pub models: Vec<ModelConfig>,
    /// Sizes and targets of every model's engine, unless the model overrides them.
    pub engine: EngineConfig,
    /// Waiting and admission.
    pub queue: QueueConfig,
    /// Upstream servers.
    pub upstream: UpstreamConfig,
    /// Worker processes.
    pub worker: WorkerConfig,
    /// Sessions and who needs none.
    pub auth: AuthConfig,
    /// How much each principal may ask for.
    pub rate_limits: RateLimitsConfig,
    /// Stored responses.
    pub responses: ResponsesConfig,
    /// How large conversations may be.
    pub conversations: ConversationsConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// Searching the web.
    pub web_search: WebSearchConfig,
    /// Arguments that every worker gets behind `worker`, e.g. how to log. Not a setting.
    #[serde(skip)]
    pub worker_arguments: Vec<String>,
}

/// Who shares the computed beginnings of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharePrefixes {
    /// Each user's requests among themselves.
    Tenant,
    /// All requests.
    All,
}

/// The use of drafts: guesses at an answer's next tokens that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// Where they make an answer faster.
    Auto,
    /// None.
    Off,
}

/// The handling of a request for more tokens than the context has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The answer ends with the context.
    Clamp,
    /// The request is refused.
    Refuse,
}

/// The places of sequences' keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvLayout {
    /// Sequences that share little get cells of their own while several run.
    Auto,
    /// All cells are shared.
    Unified,
    /// Sequences that run beside others have cells of their own, whatever they share.
    Lanes,
}

/// `[engine]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    /// Most tokens of one sequence, prompt and answer; a model trained on fewer has fewer. 0: as many as the model was trained
    /// for, as far as memory allows.
    pub context_length: u32,
    /// The handling of a `max_tokens` beyond the room that the context has behind the prompt.
    pub max_tokens_overflow: Overflow,
    /// KV cells of one context, shared by all sequences and the prefix cache; at least `context_length`.
    /// 0: twice the context of one sequence.
    pub kv_cells: u32,
    /// The context in which sequences decode.
    pub kv_layout: KvLayout,
    /// KV cells of the second context, in which sequences have cells of their own. 0: as many as the first one has, as far as half
    /// of the free memory has room for them.
    pub lane_cells: u32,
    /// Most sequences that run at the same time in one context.
    pub max_sequences: u16,
    /// Finished sequences whose KV stays as prefix cache, beside the running ones.
    pub cached_sequences: u16,
    /// Most KV cells kept for prefixes that no running sequence uses. Every step looks at all cells in use, so
    /// many of them slow decoding down on a CPU. What goes beyond is kept in `cache_ram_mib`.
    pub cache_cells: u32,
    /// Host memory for prefixes that no running sequence uses, in MiB a worker. They come back in milliseconds
    /// and slow nothing down. 0: none.
    pub cache_ram_mib: u32,
    /// Compute threads. 0: one a core. Fewer are used while other processes keep the cores busy.
    pub threads: u32,
    /// Largest prompt chunk of one step in tokens.
    pub prefill_chunk: u32,
    /// While long prompts are read, running streams get a token about this often (milliseconds).
    pub inter_token_target_ms: u64,
    /// A request waits for another one's prefill, and has a prefix put back from host memory, when that saves at least
    /// this many tokens.
    pub share_min_tokens: u32,
    /// Who shares the computed beginnings of prompts: each user's requests among themselves, or those of all. How much
    /// was shared shows in `cached_tokens` and in the time to the first token, so that users who share can find out
    /// what others asked.
    pub share_prefixes: SharePrefixes,
    /// System prompts whose computed beginnings all users share in any case.
    pub shared_prompts: Vec<String>,
    /// Layers to offload to a GPU where the build has one.
    pub gpu_layers: u32,
    /// Whether the same request gives the same tokens, to the last bit of their log-probabilities, whatever runs beside
    /// it and however often the worker is restarted meanwhile. For quantised models on a CPU; long prompts are read
    /// more slowly.
    pub reproducible: bool,
    /// Whether text that an answer repeats is computed several tokens at a time, where that is faster.
    pub speculation: Speculation,
    /// Processor time that compiling one schema, expression or grammar may take (milliseconds).
    pub constraint_cpu_ms: u64,
    /// Memory that it may take, in MiB.
    pub constraint_memory_mib: u32,
    /// Processor time that one step of one answer under a schema or grammar may take (milliseconds).
    pub mask_budget_ms: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            context_length: 0,
            max_tokens_overflow: Overflow::Clamp,
            kv_cells: 0,
            kv_layout: KvLayout::Auto,
            lane_cells: 0,
            max_sequences: 32,
            cached_sequences: 32,
            cache_cells: 256,
            cache_ram_mib: 1024,
            threads: 0,
            prefill_chunk: 256,
            inter_token_target_ms: 100,
            share_min_tokens: 16,
            share_prefixes: SharePrefixes::Tenant,
            shared_prompts: Vec::new(),
            gpu_layers: 0,
            reproducible: false,
            speculation: Speculation::Auto,
            constraint_cpu_ms: 1_000,
            constraint_memory_mib: 128,
            mask_budget_ms: 250,
        }
    }
}

/// `[queue]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueConfig {
    /// Most requests of one model that run or wait; one more gets 503 with Retry-After.
    pub max_requests: usize,
    /// Longest time from a request's arrival to the start of its prefill (milliseconds); then 503.
    pub max_wait_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { max_requests: 1024, max_wait_ms: 120_000 }
    }
}

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerConfig {
    /// The program that is started with `worker`. Unset: this program.
    pub program: Option<PathBuf>,
    /// Variables of the server's environment that workers get beside those of loader, libraries and GPUs.
    pub environment: Vec<String>,
    /// Whether they may never gain privileges, and give up those of a superuser.
    pub no_new_privs: Restriction,
    /// Whether they open what they need and nothing else (landlock).
    pub landlock: Restriction,
    /// Whether they are refused the system calls that they have no use for (seccomp).
    pub seccomp: Restriction,
    /// Files and folders that they may read and run beside, for landlock.
    pub readable_paths: Vec<PathBuf>,
    /// Files and folders that they may write to.
    pub writable_paths: Vec<PathBuf>,
    /// Longest time to load a model (milliseconds).
    pub load_timeout_ms: u64,
    /// A worker that owes a step and is silent for this long counts as dead (milliseconds).
    pub step_timeout_ms: u64,
    /// More restarts than this within `restart_window_ms` make the model unhealthy.
    pub max_restarts: u32,
    /// The window of `max_restarts` (milliseconds).
    pub restart_window_ms: u64,
    /// How long an unhealthy model rests before it is tried again (milliseconds).
    pub cooldown_ms: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            program: None,
            environment: Vec::new(),
            no_new_privs: Restriction::Auto,
            landlock: Restriction::Auto,
            seccomp: Restriction::Auto,
            readable_paths: Vec::new(),
            writable_paths: Vec::new(),
            load_timeout_ms: 600_000,
            step_timeout_ms: 30_000,
            max_restarts: 10,
            restart_window_ms: 60_000,
            cooldown_ms: 30_000,
        }
    }
}

/// Whether callers without a credential are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnonymousPolicy {
    /// As `allow` on a loopback listener, as `deny` on any other.
    #[default]
    Auto,
    /// Callers without a credential may use models, chat and completions.
    Allow,
    /// Everything but health needs a credential.
    Deny,
}

/// Whether anybody may become a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestPolicy {
    /// As `on` on a loopback listener, as `off` on any other.
    #[default]
    Auto,
    /// Anybody may.
    On,
    /// Nobody may.
    Off,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// Whether callers without a credential are served.
    pub anonymous: AnonymousPolicy,
    /// Whether anybody may become a guest.
    pub guests: GuestPolicy,
    /// Most guests made from one address.
    pub max_guests_per_address: usize,
    /// Most guests.
    pub max_guests: usize,
    /// A guest that has not been used for so long is deleted (seconds).
    pub guest_idle_s: u64,
    /// `iss` of the tokens issued here.
    pub issuer: String,
    /// `aud` of the tokens issued here.
    pub audience: String,
    /// How long an access token is valid (seconds).
    pub access_token_ttl_s: u64,
    /// How long after its last refresh a session can be refreshed (seconds).
    pub refresh_window_s: u64,
    /// How long after its expiry an access token can still refresh its session (seconds).
    pub expired_token_refresh_s: u64,
    /// How long after its sign-in a session ends, however often it was refreshed (seconds).
    pub session_lifetime_s: u64,
    /// How long the generation before the last is still answered, for tabs that refresh at the same time (seconds).
    pub refresh_grace_s: u64,
    /// Time for which credentials are accepted without news from a database that other servers change as well (milliseconds).
    pub max_staleness_ms: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            anonymous: AnonymousPolicy::default(),
            guests: GuestPolicy::default(),
            max_guests_per_address: 100,
            max_guests: 10_000,
            guest_idle_s: 30 * 24 * 3600,
            issuer: "jan-server".to_owned(),
            audience: "jan-server".to_owned(),
            access_token_ttl_s: 3600,
            refresh_window_s: 30 * 24 * 3600,
            expired_token_refresh_s: 7 * 24 * 3600,
            session_lifetime_s: 90 * 24 * 3600,
            refresh_grace_s: 10,
            max_staleness_ms: 2000,
        }
    }
}

/// `[rate_limits]`; 0 is unlimited everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimitsConfig {
    /// Requests an hour of one user.
    pub authenticated_per_hour: u32,
    /// Requests an hour of one address without a credential.
    pub anonymous_per_hour: u32,
    /// Inference requests a minute of one user or address.
    pub inference_per_minute: u32,
    /// Answers a minute of one user or address. Unset: ten times the inference requests.
    pub answers_per_minute: Option<u32>,
    /// Tokens a minute of one user or address, prompt and answer together.
    pub tokens_per_minute: u32,
    /// Streams at the same time of one user or address.
    pub concurrent_streams: u32,
    /// Failed sign-ins an hour of one address.
    pub sign_in_failures_per_hour: u32,
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            authenticated_per_hour: 1000,
            anonymous_per_hour: 100,
            inference_per_minute: 60,
            answers_per_minute: None,
            tokens_per_minute: 0,
            concurrent_streams: 0,
            sign_in_failures_per_hour: 20,
        }
    }
}

/// `[responses]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponsesConfig {
    /// How long a stored response is kept (days). 0: for ever.
    pub retention_days: u64,
    /// Most responses that run in the background at a time.
    pub max_background: usize,
    /// The same of one user.
    pub max_background_per_user: usize,
    /// How long a stored stream goes on after its client is gone, for it to be taken up again (milliseconds).
    pub resume_grace_ms: u64,
}

impl Default for ResponsesConfig {
    fn default() -> Self {
        Self { retention_days: 30, max_background: 256, max_background_per_user: 16, resume_grace_ms: 30_000 }
    }
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditConfig {
    /// How long a record is kept in the store (days). 0: none is.
    pub retention_days: u32,
    /// Most records in the store, half of them of what was done, half of what was refused.
    pub max_records: usize,
    /// Where records are written as lines of JSON: `off`, `stderr` or a file's path.
    pub stream: String,
}

impl AuditConfig {
    /// Most records of a class; of an odd number, one more of what was done.
    pub(crate) fn most_of(&self, class: usize) -> usize {
        let half = self.max_records / 2;
        if class == 0 { self.max_records - half } else { half }
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { retention_days: 90, max_records: 500_000, stream: "off".to_owned() }
    }
}

/// `[conversations]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConversationsConfig {
    /// Longest title in characters.
    pub max_title_chars: usize,
    /// Most pairs of metadata.
    pub max_metadata_pairs: usize,
    /// Largest item as JSON in bytes.
    pub max_item_bytes: usize,
    /// Most items of one conversation, all branches together.
    pub max_items: u32,
    /// Most bytes of one conversation's items.
    pub max_bytes: u64,
    /// Longest time that an answer waits for the one before it in the same conversation (milliseconds).
    pub turn_wait_ms: u64,
    /// How often the text of a running answer is stored (milliseconds).
    pub checkpoint_ms: u64,
}

impl Default for ConversationsConfig {
    fn default() -> Self {
        Self {
            max_title_chars: 200,
            max_metadata_pairs: 16,
            max_item_bytes: 1 << 20,
            max_items: 10_000,
            max_bytes: 16 << 20,
            turn_wait_ms: 120_000,
            checkpoint_ms: 1000,
        }
    }
}
