//! The table of all keys, by section.

use jan_protocol::output_formats::{ReasoningFormat, ToolFormat};

use super::keys::{Key, Kind};

const HOUR_MS: i64 = 3_600_000;
const MILLISECONDS: &str = "ms";
const SECONDS: &str = "s";
const U32: i64 = u32::MAX as i64;

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc, secret: false, required: false }
}

const fn secret(key: Key) -> Key {
    Key { secret: true, ..key }
}

const fn required(key: Key) -> Key {
    Key { required: true, ..key }
}

const fn integer(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Integer { min, max, unit }
}

/// The allowed values of settings that restrict worker processes.
const RESTRICTION: Kind = Kind::Choice(&["auto", "off", "require"]);

/// Every key, by section.
pub static KEYS: &[Key] = &[
    key(
        "http.listen",
        Kind::Address,
        "Address to listen on, as `host:port`; port 0 selects a free one (`--listen`).",
    ),
    key(
        "http.drain_timeout_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "Time that running requests have to finish after SIGTERM or SIGINT; then streams end with an error event. A second signal stops at once.",
    ),
    key(
        "http.header_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time from a request's first byte to the end of its headers, or of HTTP/2's connection preface; then the connection is closed.",
    ),
    key(
        "http.body_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time to receive a request's body; then 408.",
    ),
    key(
        "http.body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum request body; then 413. If set, it is the limit of requests with a model's input or a conversation's items that have no limit of their own below, and the upper bound of every body except an import's.",
    ),
    key(
        "http.account_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request about users, keys, sessions and other small objects.",
    ),
    key(
        "http.inference_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request with a model's input.",
    ),
    key(
        "http.items_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Maximum body of a request that creates a conversation or adds items to one.",
    ),
    key(
        "http.import_limit_bytes",
        integer(1, 1 << 50, "bytes"),
        "Maximum size of an import; it is processed as a stream and not held in memory.",
    ),
    key(
        "http.body_limit_elements",
        integer(1, 100_000_000, "elements"),
        "Maximum number of elements of a JSON body: keys, texts, lists, objects; sixteen numbers in a list count as one. Then 413.",
    ),
    key(
        "http.body_memory_per_caller_mib",
        integer(1, 1 << 20, "MiB"),
        "Maximum memory for the concurrent request bodies of one user, or of one address, from the arrival of their bytes to the end of the answer, including 256 bytes per element; then 503. One body of the maximum size always fits.",
    ),
    key(
        "http.body_memory_mib",
        integer(1, 1 << 20, "MiB"),
        "The same for all callers together, at least the limit of one caller. An eighth of it is reserved for callers that hold at most 64 KiB each.",
    ),
    key(
        "http.keep_alive_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Idle time after which a stream gets a comment, so that proxies keep it open.",
    ),
    key(
        "http.idle_timeout_ms",
        integer(10, 24 * HOUR_MS, MILLISECONDS),
        "Idle time after which a connection without a request is closed; keep it above a load balancer's own.",
    ),
    key(
        "http.write_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Time after which a client that reads nothing is disconnected.",
    ),
    key(
        "http.max_connections",
        integer(1, 1_000_000, "connections"),
        "Maximum number of concurrent connections; one more gets 503. The limit of open files is raised as far as the system permits.",
    ),
    key(
        "http.max_connections_per_address",
        integer(1, 1_000_000, "connections"),
        "Maximum number of concurrent connections of one IPv4 address or IPv6 /64; one more gets 503. Connections of `trusted_proxies` are not counted.",
    ),
    key(
        "http.allowed_hosts",
        Kind::Hosts,
        "Host names, in addition to `localhost` and loopback addresses, that a request without a valid credential may have in its `Host` header on a loopback connection, on any port; the host of `auth.google.redirect_url` is always included. Others get 403, because any web page can resolve its own name to this machine's address.",
    ),
    key(
        "http.cors_allowed_origins",
        Kind::TextList,
        "Origins whose pages may call the API from a browser, such as `https://chat.example`; an empty list allows none. `*` allows any page that sends a valid credential: on a loopback connection a page without one must be listed by name, or be of a loopback address or this server's own.",
    ),
    key(
        "http.trusted_proxies",
        Kind::Networks,
        "Proxies whose `X-Forwarded-For` header is trusted; without them a client's address is that of its connection.",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "human", "json"]),
        "`human`, `json` (one object per line), or `auto`: human on a terminal, otherwise JSON (`--log-format`).",
    ),
    key(
        "log.level",
        Kind::LogLevel,
        "`error`, `warn`, `info`, `debug` or `trace`; also per module: `info,jan_actors=debug` (`--log-level`).",
    ),
    key(
        "storage.path",
        Kind::Path,
        "Folder of all data of the server, including unpacked model files (`--data-dir`).",
    ),
    key(
        "storage.min_free_mib",
        integer(0, U32, "MiB"),
        "Minimum free space on its disk; below it every write gets 507 `insufficient_storage`, while reads continue. 0: writes continue until the disk is full.",
    ),
    key(
        "storage.cache_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum memory of the database's read cache, at least 8. More of it serves users with very many conversations faster. 0: a sixteenth of the machine's memory, from 64 to 1024.",
    ),
    key(
        "storage.max_user_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum size of one user's conversations and responses; beyond it 507 `storage_quota_exceeded`. 0: no limit.",
    ),
    key(
        "storage.max_user_conversations",
        integer(0, U32, "conversations"),
        "Maximum number of conversations of one user. 0: no limit.",
    ),
    key(
        "storage.max_user_responses",
        integer(0, U32, "responses"),
        "Maximum number of stored responses of one user; those that `responses.retention_days` deletes do not count. 0: no limit.",
    ),
    key(
        "storage.max_guest_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum size of one guest's conversations and responses. 0: no limit.",
    ),
    key(
        "storage.max_guest_conversations",
        integer(0, U32, "conversations"),
        "Maximum number of conversations of one guest. 0: no limit.",
    ),
    key(
        "storage.max_guest_responses",
        integer(0, U32, "responses"),
        "Maximum number of stored responses of one guest. 0: no limit.",
    ),
    key(
        "auth.anonymous",
        Kind::Choice(&["auto", "allow", "deny"]),
        "Access to models, chat and completions without a credential. `auto`: for callers on this machine only, if the server listens on a loopback address and has no `http.trusted_proxies`; requests with headers of a proxy are excluded.",
    ),
    key(
        "auth.guests",
        Kind::Choice(&["auto", "on", "off"]),
        "Availability of `POST /auth/guest`. `auto`: as for `auth.anonymous`.",
    ),
    key(
        "auth.max_guests_per_address",
        integer(1, 1_000_000, "guests"),
        "Maximum number of guests created from one IPv4 address or IPv6 /64; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.max_guests",
        integer(1, 10_000_000, "guests"),
        "Maximum total number of guests; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.guest_idle_s",
        integer(1, 366 * 86_400, SECONDS),
        "Time without use after which a guest is deleted with its keys and data, at the start or within an hour.",
    ),
    key("auth.issuer", Kind::Text, "`iss` claim of the tokens that this server signs."),
    key("auth.audience", Kind::Text, "`aud` claim of the tokens that this server signs."),
    key("auth.access_token_ttl_s", integer(1, 86_400, SECONDS), "Lifetime of an access token."),
    key(
        "auth.refresh_window_s",
        integer(1, 366 * 86_400, SECONDS),
        "Time after its last refresh in which a session can be refreshed.",
    ),
    key(
        "auth.expired_token_refresh_s",
        integer(0, 366 * 86_400, SECONDS),
        "Time after its expiry in which an access token can refresh its session in place of the refresh token. 0: disabled.",
    ),
    key(
        "auth.session_lifetime_s",
        integer(1, 3660 * 86_400, SECONDS),
        "Maximum lifetime of a session after its sign-in, regardless of refreshes.",
    ),
    key(
        "auth.refresh_grace_s",
        integer(0, 300, SECONDS),
        "Time in which the previous tokens still yield the same new ones, for browser tabs that refresh simultaneously.",
    ),
    key("auth.google.client_id", Kind::Text, "Client id of this server at the provider."),
    secret(key("auth.google.client_secret", Kind::Text, "Client secret of this server at the provider.")),
    key(
        "auth.google.redirect_url",
        Kind::Url,
        "Public URL of this server's `/auth/google/callback`, as registered with the provider.",
    ),
    key("auth.google.auth_url", Kind::Url, "Authorization endpoint of the provider."),
    key("auth.google.token_url", Kind::Url, "Token endpoint of the provider."),
    key("auth.google.jwks_url", Kind::Url, "Public keys of the provider."),
    key("auth.google.issuer", Kind::Text, "`iss` claim of the provider's id_tokens."),
    key(
        "auth.google.allowed_domains",
        Kind::TextList,
        "Domains whose users may sign in, such as `corp.example`; an empty list allows any.",
    ),
    key(
        "auth.google.allowed_return_urls",
        Kind::TextList,
        "URLs permitted in `/auth/google?return_to=`, compared as a whole.",
    ),
    key(
        "auth.google.timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Maximum time of each request to the provider.",
    ),
    key(
        "auth.google.state_ttl_s",
        integer(1, 3600, SECONDS),
        "Maximum time of a sign-in at the provider's page; afterwards it has to be started again.",
    ),
    key(
        "rate_limits.authenticated_per_hour",
        integer(0, U32, "requests"),
        "Requests per hour of one user. 0, here and below: no limit.",
    ),
    key(
        "rate_limits.anonymous_per_hour",
        integer(0, U32, "requests"),
        "Requests per hour of one IPv4 address or IPv6 /64 without a credential, including its guests.",
    ),
    key(
        "rate_limits.inference_per_minute",
        integer(0, U32, "requests"),
        "Chat and text completions per minute of one user, or of one address without a credential and its guests.",
    ),
    key(
        "rate_limits.answers_per_minute",
        integer(0, U32, "answers"),
        "Answers per minute of the same callers: prompts times `n` or `best_of` of a chat or text completion, one of a response. A request for more than the limit is 400. Not lower than the inference limit. Unset: ten times that limit.",
    ),
    key(
        "rate_limits.tokens_per_minute",
        integer(0, U32, "tokens"),
        "Tokens per minute of the same callers, prompts and answers together; charged after the answer.",
    ),
    key(
        "rate_limits.concurrent_streams",
        integer(0, U32, "streams"),
        "Concurrent streams of the same callers.",
    ),
    key(
        "rate_limits.sign_in_failures_per_hour",
        integer(0, U32, "failures"),
        "Invalid keys, forged tokens and failed sign-ins per hour from one address.",
    ),
    key("conversations.max_title_chars", integer(1, 10_000, "characters"), "Maximum length of a title."),
    key(
        "conversations.max_metadata_pairs",
        integer(0, 1000, "pairs"),
        "Maximum number of pairs of `metadata`.",
    ),
    key(
        "conversations.max_item_bytes",
        integer(1024, 16 << 20, "bytes"),
        "Maximum size of an item, as JSON. An answer may be larger; the context bounds it.",
    ),
    key(
        "conversations.max_items",
        integer(1, 1_000_000, "items"),
        "Maximum number of items of one conversation, including those of all branches and deleted ones.",
    ),
    key(
        "conversations.max_bytes",
        integer(1024, 1 << 30, "bytes"),
        "Maximum size of one conversation's items, as JSON.",
    ),
    key(
        "conversations.turn_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Maximum time that an answer waits for earlier ones in the same conversation; then 503 with `Retry-After`.",
    ),
    key(
        "conversations.checkpoint_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Interval at which the text of a running answer is stored: the maximum loss when the server is killed.",
    ),
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
    key(
        "responses.retention_days",
        integer(0, 36_500, "days"),
        "Retention of stored responses; 0: unlimited.",
    ),
    key(
        "responses.max_background",
        integer(0, 100_000, "responses"),
        "Maximum number of concurrent background responses; one more gets 429.",
    ),
    key(
        "responses.max_background_per_user",
        integer(0, 100_000, "responses"),
        "The same for one user, or for all guests of one IPv4 address or IPv6 /64.",
    ),
    key(
        "responses.resume_grace_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "Time that a stored stream continues after its client disconnected, so that it can be resumed; then it is cancelled.",
    ),
    key(
        "audit.retention_days",
        integer(0, 36_500, "days"),
        "Retention of audit records in the store, where `GET /admin/audit` finds them. 0: none are stored, and existing ones are removed.",
    ),
    key(
        "audit.max_records",
        integer(2, 100_000_000, "records"),
        "Maximum number of audit records in the store, of about 300 bytes each: half of them for completed actions, half for refusals and session refreshes. The oldest are removed first.",
    ),
    key(
        "audit.stream",
        Kind::Text,
        "Destination of the live audit log, one JSON object per line: `off`, `stderr`, or the path of a file that lines are appended to. The file is created with mode 0600, and reopened when it was moved or removed.",
    ),
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
    key("web_search.base_url", Kind::Url, "Base URL of Serper; searches are sent to `/search` below it."),
    secret(key(
        "web_search.api_key",
        Kind::Text,
        "API key of this server at Serper (serper.dev). Unset: web search is refused.",
    )),
    key(
        "web_search.timeout_ms",
        integer(10, 600_000, MILLISECONDS),
        "Maximum time of a search, including retries.",
    ),
    key(
        "web_search.retries",
        integer(0, 10, "retries"),
        "Number of retries of a search after a connection failure, 429 or 5xx.",
    ),
    key("web_search.max_results", integer(1, 20, "results"), "Maximum number of results of a search."),
    key(
        "web_search.max_per_response",
        integer(1, 20, "searches"),
        "Maximum number of searches of one response; `max_tool_calls` can request fewer.",
    ),
    key(
        "web_search.cache_ttl_s",
        integer(0, 30 * 86_400, SECONDS),
        "Lifetime of cached results, which all users with the same query share. 0: no cache.",
    ),
    key(
        "web_search.cache_entries",
        integer(0, 10_000, "searches"),
        "Maximum number of searches whose results are cached. 0: none.",
    ),
    key(
        "web_search.credits_per_day",
        integer(0, U32, "credits"),
        "Maximum number of Serper's credits per day (UTC, counted from the server's start); then 429. A search costs one, or the number that Serper reports. 0: no limit.",
    ),
    key(
        "web_search.credits_per_user_per_day",
        integer(0, U32, "credits"),
        "The same for one user, or for one address without a credential and its guests.",
    ),
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
    required(key("models[].id", Kind::Text, "Id that callers use as `model` (`--model ID=PATH`).")),
    required(key("models[].path", Kind::Path, "GGUF file (`--model ID=PATH`).")),
    key("models[].owned_by", Kind::Text, "Value of `owned_by` in model objects."),
    key("models[].aliases", Kind::TextList, "Additional ids of the same model."),
    key(
        "models[].replicas",
        integer(1, 1024, "workers"),
        "Number of workers that serve this model, each with its own context.",
    ),
    key(
        "models[].context_length",
        integer(16, 16_777_216, "tokens"),
        "Context of one sequence. Unset: as `engine.context_length`.",
    ),
    key("models[].chat_template", Kind::Path, "Jinja chat template file that replaces the one in the GGUF."),
    key(
        "models[].tool_format",
        Kind::Choice(ToolFormat::NAMES),
        "Format of the model's tool calls. Unset: detected from its chat template.",
    ),
    key(
        "models[].reasoning_format",
        Kind::Choice(ReasoningFormat::NAMES_OR_NONE),
        "Format of the model's reasoning; `none`: it is part of the text. Unset: detected from its chat template.",
    ),
    key(
        "models[].pooling",
        Kind::Choice(&["mean", "cls", "last"]),
        "Pooling of token vectors into a text's embedding: the mean of all, the first token's (CLS) or the last one's. Unset: from the GGUF's metadata, otherwise `mean`.",
    ),
];
