//! Settings of models, their workers and the engine.

use jan_protocol::output_formats::{ReasoningFormat, ToolFormat};

use super::{HOUR_MS, MILLISECONDS, RESTRICTION, integer, key, of_backend, required};
use crate::config::keys::{Key, Kind};

/// `[engine]`
pub const ENGINE: &[Key] = &[
    key(
        "engine.context_length",
        integer(0, 16_777_216, "tokens"),
        "Maximum number of tokens of one sequence, prompt and answer; lower for a model trained on fewer. 0: as many as the model was trained for, as far as a quarter of the memory that is free when the model is loaded (in its control group, too), divided by the number of workers, has room for twice as many KV cells; otherwise the next lower power of two, and at least 8192. With `engine.kv_cells` set, at most as many.",
    ),
    key(
        "engine.max_tokens_overflow",
        Kind::Choice(&["clamp", "refuse"]),
        "Handling of a `max_tokens` (or `max_completion_tokens`, `max_output_tokens`) that exceeds what the context has left behind the prompt: the answer ends with the context and has `finish_reason` `length` (`clamp`), or the request is 400 `context_length_exceeded` (`refuse`).",
    ),
    key(
        "engine.kv_cells",
        integer(0, 268_435_456, "tokens"),
        "KV cells of one context, shared by all sequences and the prefix cache; at least the context of one sequence. 0: twice that.",
    ),
    key(
        "engine.kv_layout",
        Kind::Choice(&["auto", "unified", "lanes"]),
        "Layout of the KV cache. In one unified cache, prefixes are shared, but every sequence scans the cells of all. `auto`: while several sequences run that share little, they decode in a second context, in which each has cells of its own; a cost model decides. `lanes`: they do so in any case. The second context takes memory only while it is in use. Only for models with full attention, without `engine.reproducible`, and `auto` without `engine.gpu_layers`; all others use `unified`.",
    ),
    key(
        "engine.lane_cells",
        integer(0, 268_435_456, "tokens"),
        "KV cells of the second context, divided among the sequences in it; longer ones stay in the unified cache. 0: as many as `engine.kv_cells`, as far as half of the free memory has room for them.",
    ),
    key(
        "engine.max_sequences",
        integer(1, 1024, "sequences"),
        "Maximum number of concurrently running sequences of one context.",
    ),
    key(
        "engine.cached_sequences",
        integer(0, 4096, "sequences"),
        "Number of finished sequences whose KV cells remain as prefix cache, in addition to the running ones.",
    ),
    key(
        "engine.cache_cells",
        integer(0, 268_435_456, "tokens"),
        "Maximum number of KV cells for prefixes that no running sequence uses. Every step scans all used cells, so a high number slows decoding on a CPU. Prefixes beyond it are moved to `engine.cache_ram_mib`.",
    ),
    key(
        "engine.cache_ram_mib",
        integer(0, 16_777_216, "MiB"),
        "Host memory of each worker for prefixes that no running sequence uses, at most half of the free memory at its start. They are restored within milliseconds and do not slow decoding. 0: none.",
    ),
    key(
        "engine.threads",
        integer(0, 1024, "threads"),
        "Compute threads. 0: one per core. Fewer are used while other processes keep the cores busy.",
    ),
    key("engine.prefill_chunk", integer(1, 65_536, "tokens"), "Maximum number of prompt tokens of one step."),
    key(
        "engine.inter_token_target_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Target interval between tokens of running streams while long prompts are evaluated.",
    ),
    key(
        "engine.share_min_tokens",
        integer(0, 16_777_216, "tokens"),
        "Minimum number of tokens saved for which a request waits for another one's prefill, or restores a prefix from host memory.",
    ),
    key(
        "engine.share_prefixes",
        Kind::Choice(&["tenant", "all"]),
        "Sharing of computed prompt prefixes: among the requests of each user (`tenant`), or among all. Shared prefixes are visible in `cached_tokens` and in the time to the first token, so users who share can find out what others asked. The beginning of the chat template before the first message is always shared by all.",
    ),
    key(
        "engine.shared_prompts",
        Kind::TextList,
        "System prompts whose computed prefixes are always shared by all users, such as that of a common application.",
    ),
    key(
        "engine.gpu_layers",
        integer(0, 10_000, "layers"),
        "Layers to offload to a GPU, if the build supports one.",
    ),
    key(
        "engine.reproducible",
        Kind::Flag,
        "Bit-identical answers: the same request yields the same tokens and log-probabilities, regardless of concurrent requests and worker restarts. For quantised models on a CPU; long prompts are evaluated more slowly.",
    ),
    key(
        "engine.speculation",
        Kind::Choice(&["auto", "off"]),
        "Evaluation of several tokens in one step where an answer repeats earlier text, as in extraction and code edits (`auto`). It is used where it is faster, and each token is the one that would have been chosen without it.",
    ),
    key(
        "engine.constraint_cpu_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum processor time of compiling one JSON Schema, regular expression or grammar; then 400 `constraint_too_expensive`. It is enforced in a separate process.",
    ),
    key(
        "engine.constraint_memory_mib",
        integer(16, 65_536, "MiB"),
        "Maximum memory of compiling one JSON Schema, regular expression or grammar; then 400 `constraint_too_expensive`.",
    ),
    key(
        "engine.mask_budget_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Maximum processor time of one step of an answer under a schema, expression or grammar; then the answer ends with `constraint_too_expensive`. Other answers continue meanwhile.",
    ),
];

/// `[queue]`
pub const QUEUE: &[Key] = &[
    key(
        "queue.max_requests",
        integer(1, 1_000_000, "requests"),
        "Maximum number of running and waiting requests of one model; each answer counts as one, as do eight embedding inputs. One caller may use all of them; when they are exhausted, each active caller gets a fair share, and callers above it get 503 with `Retry-After`.",
    ),
    key(
        "queue.max_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Maximum time from a request's arrival to the start of its prefill; then 503 with `Retry-After`.",
    ),
];

/// `[structured]`
pub const STRUCTURED: &[Key] = &[
    key(
        "structured.retries",
        integer(0, 10, "retries"),
        "Number of further tries of an answer that fails the final check, if its schema has keywords that are not enforced during generation (`X-Unenforced-Schema`). At temperature 0 they are sampled at 0.7. The tokens of all tries are counted; `max_tokens` applies to each.",
    ),
    key(
        "structured.buffer_streams",
        Kind::Flag,
        "Holds streamed answers with such schemas back until they have passed the final check, so that they can be tried again. Otherwise a stream whose answer fails ends with an `invalid_output` error event.",
    ),
];

/// `[worker]`
pub const WORKER: &[Key] = &[
    key(
        "worker.program",
        Kind::Path,
        "Program that is started with the argument `worker`. Unset: this program.",
    ),
    key(
        "worker.environment",
        Kind::TextList,
        "Names of environment variables that workers inherit in addition to those of the loader, of libraries for numbers and threads, and of GPUs (docs/operations.md lists them).",
    ),
    key(
        "worker.no_new_privs",
        RESTRICTION,
        "Prevents workers from gaining privileges, and drops unneeded capabilities of a superuser. Implied by landlock and seccomp. `auto`: if the kernel supports it; missing features are logged. `require`: a model is not served without it.",
    ),
    key(
        "worker.landlock",
        RESTRICTION,
        "Restricts workers to the files that their model needs, and denies TCP (Linux 6.2; network rules 6.7). docs/operations.md has the list.",
    ),
    key(
        "worker.seccomp",
        RESTRICTION,
        "Denies workers unneeded system calls, including those that open connections.",
    ),
    key(
        "worker.readable_paths",
        Kind::TextList,
        "Files and folders that workers may read and load libraries from, in addition to the list of `worker.landlock`, such as those of a GPU driver in an unusual location.",
    ),
    key(
        "worker.writable_paths",
        Kind::TextList,
        "Files and folders that workers may write to, such as the compilation cache of a GPU driver. None is required.",
    ),
    key("worker.load_timeout_ms", integer(1, 24 * HOUR_MS, MILLISECONDS), "Maximum time to load a model."),
    key(
        "worker.step_timeout_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Time without a message after which a worker with a pending step is considered dead.",
    ),
    key(
        "worker.max_restarts",
        integer(0, 1_000_000, "restarts"),
        "Number of restarts within `worker.restart_window_ms` beyond which the model is unhealthy.",
    ),
    key(
        "worker.restart_window_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Window of `worker.max_restarts`.",
    ),
    key(
        "worker.cooldown_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Time after which an unhealthy model is started again.",
    ),
];

/// `[[models]]`
pub const MODELS: &[Key] = &[
    required(key("models[].id", Kind::Text, "Id that callers use as `model` (`--model ID=PATH`).")),
    key("models[].owned_by", Kind::Text, "Value of `owned_by` in model objects."),
    key("models[].aliases", Kind::TextList, "Additional ids of the same model."),
    key(
        "models[].backend",
        Kind::Choice(&["llama", "upstream"]),
        "Where the model runs: in worker processes here (`llama`), or on the servers of `[[models.upstreams]]` (`upstream`; docs/scaling.md).",
    ),
    required(of_llama(key(
        "models[].path",
        Kind::Path,
        "GGUF file (`--model ID=PATH`). This key and those below, except `context_length`, are for `backend = \"llama\"`.",
    ))),
    of_llama(key(
        "models[].draft_path",
        Kind::Path,
        "GGUF file of a smaller model with the same vocabulary. Where its record in an answer is good enough, it proposes the next tokens, which the model then computes in one step; the answers stay the same. It is not used if `engine.speculation` is `off`.",
    )),
    of_llama(key(
        "models[].replicas",
        integer(1, 1024, "workers"),
        "Number of workers that serve this model, each with its own context.",
    )),
    key(
        "models[].context_length",
        integer(16, 16_777_216, "tokens"),
        "Context of one sequence. Unset: as `engine.context_length`; of a model on upstreams: as these report it.",
    ),
    of_llama(key(
        "models[].chat_template",
        Kind::Path,
        "Jinja chat template file that replaces the one in the GGUF.",
    )),
    of_llama(key(
        "models[].tool_format",
        Kind::Choice(ToolFormat::NAMES),
        "Format of the model's tool calls. Unset: detected from its chat template.",
    )),
    of_llama(key(
        "models[].reasoning_format",
        Kind::Choice(ReasoningFormat::NAMES_OR_NONE),
        "Format of the model's reasoning; `none`: it is part of the text. Unset: detected from its chat template.",
    )),
    of_llama(key(
        "models[].pooling",
        Kind::Choice(&["mean", "cls", "last"]),
        "Pooling of token vectors into a text's embedding: the mean of all, the first token's (CLS) or the last one's. Unset: from the GGUF's metadata, otherwise `mean`.",
    )),
    of_llama(key(
        "models[].overflow",
        Kind::Text,
        "Id of a model with `backend = \"upstream\"` that answers requests for this one while this one is not ready, or has `overflow_requests` or more; as far as it supports what they need. Embeddings stay here.",
    )),
    of_llama(key(
        "models[].overflow_requests",
        integer(1, 1_000_000, "requests"),
        "Number of running and waiting requests from which on others go to `overflow`. Unset: `engine.max_sequences` times `replicas`.",
    )),
    of_backend(
        "upstream",
        key(
            "models[].resume",
            Kind::Choice(&["auto", "message", "off"]),
            "Handling of an answer whose upstream fails behind the first token: another one continues its text where the request permits that (`message`, docs/scaling.md), or it ends with `upstream_failed` (`off`). `auto`: `message`. For `backend = \"upstream\"`.",
        ),
    ),
];

const fn of_llama(key: Key) -> Key {
    of_backend("llama", key)
}
