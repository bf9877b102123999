//! The table of all keys, by section.

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

/// Whether something is taken from workers.
const RESTRICTION: Kind = Kind::Choice(&["auto", "off", "require"]);

/// Every key, by section.
pub static KEYS: &[Key] = &[
    key("http.listen", Kind::Address, "`host:port` to listen on; port 0 takes a free one (`--listen`)."),
    key(
        "http.drain_timeout_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "How long running requests may finish after SIGTERM or SIGINT; then streams end with an error event. A second signal stops at once.",
    ),
    key(
        "http.header_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Longest time from a request's first byte to the end of its headers, or of HTTP/2's connection preface; then the connection is closed.",
    ),
    key(
        "http.body_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Longest time to receive a request's body; then 408.",
    ),
    key(
        "http.body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Largest request body; then 413. Where it is set, it is the limit of requests with a model's input or a conversation's items, unless they have another one of their own below, and the most for every body but an import's.",
    ),
    key(
        "http.account_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Largest body of a request about users, keys, sessions and everything else that is small.",
    ),
    key(
        "http.inference_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Largest body of a request with a model's input.",
    ),
    key(
        "http.items_body_limit_bytes",
        integer(1, 1 << 32, "bytes"),
        "Largest body of a request that begins a conversation or adds items to one.",
    ),
    key(
        "http.import_limit_bytes",
        integer(1, 1 << 50, "bytes"),
        "Largest import; it is read as it comes and not held in memory.",
    ),
    key(
        "http.body_limit_elements",
        integer(1, 100_000_000, "elements"),
        "Most elements of a JSON body: keys, texts, lists, objects; of numbers in lists sixteen count as one. Then 413.",
    ),
    key(
        "http.body_memory_per_caller_mib",
        integer(1, 1 << 20, "MiB"),
        "Most memory that the bodies of one user's requests, or one address's, take at a time, from the arrival of their bytes to the end of the answer, 256 bytes an element among it; then 503. One largest body always has room.",
    ),
    key(
        "http.body_memory_mib",
        integer(1, 1 << 20, "MiB"),
        "The same of all callers together, at least what one may take. An eighth of it is for callers who hold no more than 64 KiB each.",
    ),
    key(
        "http.keep_alive_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "A stream that has been silent this long gets a comment, so that proxies keep it open.",
    ),
    key(
        "http.idle_timeout_ms",
        integer(10, 24 * HOUR_MS, MILLISECONDS),
        "A connection without a request is closed after this; keep it above a load balancer's own.",
    ),
    key(
        "http.write_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "A client that takes no bytes for this long is cut off.",
    ),
    key(
        "http.max_connections",
        integer(1, 1_000_000, "connections"),
        "Most connections at a time; one more gets 503. The limit of open files is raised as far as the system lets it.",
    ),
    key(
        "http.max_connections_per_address",
        integer(1, 1_000_000, "connections"),
        "Most connections at a time of one IPv4 address or IPv6 /64; one more gets 503. Those of `trusted_proxies` are not counted.",
    ),
    key(
        "http.allowed_hosts",
        Kind::Hosts,
        "Names, beside `localhost` and loopback addresses, that a request without an accepted credential may have in its `Host` on a loopback connection, on any port; that of `auth.google.redirect_url` is always among them. Others get 403: any web page can give its own name this machine's address.",
    ),
    key(
        "http.cors_allowed_origins",
        Kind::TextList,
        "Origins whose pages may call the API from a browser, such as `https://chat.example`; an empty list is none. `*` is any page that shows an accepted credential: on a loopback connection a page without one has to be listed by name, or be of a loopback address or this server's own.",
    ),
    key(
        "http.trusted_proxies",
        Kind::Networks,
        "Proxies whose `X-Forwarded-For` counts; without them a client is who connects.",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "human", "json"]),
        "`human`, `json` (one object a line), or `auto`: human on a terminal, JSON elsewhere (`--log-format`).",
    ),
    key(
        "log.level",
        Kind::LogLevel,
        "`error`, `warn`, `info`, `debug` or `trace`; also by module: `info,jan_actors=debug` (`--log-level`).",
    ),
    key(
        "storage.path",
        Kind::Path,
        "Folder for everything that the server keeps, unpacked model files among it (`--data-dir`).",
    ),
    key(
        "storage.min_free_mib",
        integer(0, U32, "MiB"),
        "While its disk has less than this free, whatever would change something gets 507 `insufficient_storage`; what is there can be read. 0: until the disk is full.",
    ),
    key(
        "storage.cache_mib",
        integer(0, 1 << 20, "MiB"),
        "Most memory for what was read of the database, 8 at least. Users with very many conversations are served faster with more. 0: a sixteenth of the machine's memory, from 64 to 1024.",
    ),
    key(
        "storage.max_user_mib",
        integer(0, 1 << 20, "MiB"),
        "Most that one user may keep of conversations and responses; whatever would be more gets 507 `storage_quota_exceeded`. 0: without a limit.",
    ),
    key(
        "storage.max_user_conversations",
        integer(0, U32, "conversations"),
        "Most conversations of one user. 0: without a limit.",
    ),
    key(
        "storage.max_user_responses",
        integer(0, U32, "responses"),
        "Most stored responses of one user; those that `responses.retention_days` deletes do not count. 0: without a limit.",
    ),
    key(
        "storage.max_guest_mib",
        integer(0, 1 << 20, "MiB"),
        "Most that one guest may keep of conversations and responses. 0: without a limit.",
    ),
    key(
        "storage.max_guest_conversations",
        integer(0, U32, "conversations"),
        "Most conversations of one guest. 0: without a limit.",
    ),
    key(
        "storage.max_guest_responses",
        integer(0, U32, "responses"),
        "Most stored responses of one guest. 0: without a limit.",
    ),
    key(
        "auth.anonymous",
        Kind::Choice(&["auto", "allow", "deny"]),
        "Whether callers without a credential may use models, chat and completions. `auto`: those on this machine, where the server listens on a loopback address and has no `http.trusted_proxies`; a request that a proxy has forwarded, as its headers show, is none of them.",
    ),
    key(
        "auth.guests",
        Kind::Choice(&["auto", "on", "off"]),
        "Whether `POST /auth/guest` makes guests. `auto`: as for `auth.anonymous`.",
    ),
    key(
        "auth.max_guests_per_address",
        integer(1, 1_000_000, "guests"),
        "Most guests made from one IPv4 address or IPv6 /64; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.max_guests",
        integer(1, 10_000_000, "guests"),
        "Most guests in all; one more gets 429 `too_many_guests`.",
    ),
    key(
        "auth.guest_idle_s",
        integer(1, 366 * 86_400, SECONDS),
        "A guest that has not been used for this long is deleted with its keys and data, at the start or within an hour.",
    ),
    key("auth.issuer", Kind::Text, "`iss` of the tokens that this server signs."),
    key("auth.audience", Kind::Text, "`aud` of the tokens that this server signs."),
    key("auth.access_token_ttl_s", integer(1, 86_400, SECONDS), "How long an access token is valid."),
    key(
        "auth.refresh_window_s",
        integer(1, 366 * 86_400, SECONDS),
        "How long after its last refresh a session can be refreshed.",
    ),
    key(
        "auth.expired_token_refresh_s",
        integer(0, 366 * 86_400, SECONDS),
        "How long after its expiry an access token can still refresh its session, in place of the refresh token. 0: not at all.",
    ),
    key(
        "auth.session_lifetime_s",
        integer(1, 3660 * 86_400, SECONDS),
        "How long after its sign-in a session ends, however often it was refreshed.",
    ),
    key(
        "auth.refresh_grace_s",
        integer(0, 300, SECONDS),
        "How long the tokens before the last are still answered with the same new ones, for tabs that refresh at the same time.",
    ),
    key("auth.google.client_id", Kind::Text, "This server's id at the provider."),
    secret(key("auth.google.client_secret", Kind::Text, "This server's secret at the provider.")),
    key(
        "auth.google.redirect_url",
        Kind::Url,
        "This server's `/auth/google/callback` as browsers reach it, as it is registered with the provider.",
    ),
    key("auth.google.auth_url", Kind::Url, "The provider's authorization page."),
    key("auth.google.token_url", Kind::Url, "Where the provider exchanges codes."),
    key("auth.google.jwks_url", Kind::Url, "The provider's public keys."),
    key("auth.google.issuer", Kind::Text, "`iss` of the provider's id_tokens."),
    key(
        "auth.google.allowed_domains",
        Kind::TextList,
        "Domains whose people may sign in, such as `corp.example`; an empty list is any.",
    ),
    key(
        "auth.google.allowed_return_urls",
        Kind::TextList,
        "Addresses that `/auth/google?return_to=` may name, compared as a whole.",
    ),
    key(
        "auth.google.timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Longest time for each of the provider's answers.",
    ),
    key(
        "auth.google.state_ttl_s",
        integer(1, 3600, SECONDS),
        "How long a person may take at the provider's page; then the sign-in has to begin anew.",
    ),
    key(
        "rate_limits.authenticated_per_hour",
        integer(0, U32, "requests"),
        "Requests an hour of one user. 0, here and below: no limit.",
    ),
    key(
        "rate_limits.anonymous_per_hour",
        integer(0, U32, "requests"),
        "Requests an hour of one IPv4 address or IPv6 /64 without a credential, those of its guests among them.",
    ),
    key(
        "rate_limits.inference_per_minute",
        integer(0, U32, "requests"),
        "Chat and text completions a minute of one user, or of one address without a credential and its guests.",
    ),
    key(
        "rate_limits.answers_per_minute",
        integer(0, U32, "answers"),
        "Answers a minute of the same: prompts times `n` or `best_of` of a chat or text completion, one of a response. A request for more than all of them is 400. Not less than the inference limit. Unset: ten times that.",
    ),
    key(
        "rate_limits.tokens_per_minute",
        integer(0, U32, "tokens"),
        "Tokens a minute of the same, prompts and answers together; charged after the answer.",
    ),
    key("rate_limits.concurrent_streams", integer(0, U32, "streams"), "Streams of the same at a time."),
    key(
        "rate_limits.sign_in_failures_per_hour",
        integer(0, U32, "failures"),
        "Made-up keys, forged tokens and failed sign-ins an hour from one address.",
    ),
    key("conversations.max_title_chars", integer(1, 10_000, "characters"), "Longest title."),
    key("conversations.max_metadata_pairs", integer(0, 1000, "pairs"), "Most pairs of `metadata`."),
    key(
        "conversations.max_item_bytes",
        integer(1024, 16 << 20, "bytes"),
        "Largest item, as JSON. An answer may be larger: its context bounds it.",
    ),
    key(
        "conversations.max_items",
        integer(1, 1_000_000, "items"),
        "Most items of one conversation, those of all branches and deleted ones among them.",
    ),
    key(
        "conversations.max_bytes",
        integer(1024, 1 << 30, "bytes"),
        "Most bytes of one conversation's items, as JSON.",
    ),
    key(
        "conversations.turn_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Longest time that an answer waits for those before it in the same conversation; then 503 with `Retry-After`.",
    ),
    key(
        "conversations.checkpoint_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "How often the text of a running answer is stored, so that not more than this is lost when the server is killed.",
    ),
    key(
        "engine.context_length",
        integer(16, 16_777_216, "tokens"),
        "Most tokens of one sequence, prompt and answer; a model trained on fewer has fewer.",
    ),
    key(
        "engine.kv_cells",
        integer(0, 268_435_456, "tokens"),
        "KV cells of one context, shared by all sequences and the prefix cache; at least `engine.context_length`. 0: twice the context of one sequence.",
    ),
    key(
        "engine.max_sequences",
        integer(1, 1024, "sequences"),
        "Most sequences that run at the same time in one context.",
    ),
    key(
        "engine.cached_sequences",
        integer(0, 4096, "sequences"),
        "Finished sequences whose KV stays as prefix cache, beside the running ones.",
    ),
    key(
        "engine.cache_cells",
        integer(0, 268_435_456, "tokens"),
        "Most KV cells kept for prefixes that no running sequence uses. Every step looks at all cells in use, so many of them slow decoding down on a CPU. What goes beyond is kept in `engine.cache_ram_mib`.",
    ),
    key(
        "engine.cache_ram_mib",
        integer(0, 16_777_216, "MiB"),
        "Host memory of each worker for prefixes that no running sequence uses, at most half of what is free at its start. They come back in milliseconds and slow nothing down. 0: none.",
    ),
    key(
        "engine.threads",
        integer(0, 1024, "threads"),
        "Compute threads. 0: one a core. Fewer are used while other processes keep the cores busy.",
    ),
    key("engine.prefill_chunk", integer(1, 65_536, "tokens"), "Largest prompt chunk of one step."),
    key(
        "engine.inter_token_target_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "While long prompts are read, running streams get a token about this often.",
    ),
    key(
        "engine.share_min_tokens",
        integer(0, 16_777_216, "tokens"),
        "A request waits for another one's prefill, and has a prefix put back from host memory, when that saves at least this many tokens.",
    ),
    key(
        "engine.share_prefixes",
        Kind::Choice(&["tenant", "all"]),
        "Who shares the computed beginnings of prompts: each user's requests among themselves, or those of all. How much was shared shows in `cached_tokens` and in the time to the first token, so that users who share can find out what others asked. What the chat template writes before the first message is shared by all in any case.",
    ),
    key(
        "engine.shared_prompts",
        Kind::TextList,
        "System prompts whose computed beginnings all users share in any case, such as that of an application that all of them use.",
    ),
    key(
        "engine.gpu_layers",
        integer(0, 10_000, "layers"),
        "Layers to offload to a GPU where the build has one.",
    ),
    key(
        "engine.reproducible",
        Kind::Flag,
        "Whether the same request gives the same tokens, to the last bit of their log-probabilities, whatever runs beside it and however often its worker is restarted meanwhile. For quantised models on a CPU; long prompts are read more slowly.",
    ),
    key(
        "engine.constraint_cpu_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Processor time that compiling one JSON Schema, regular expression or grammar may take; then 400 `constraint_too_expensive`. It is spent in a process of its own first, which that time ends.",
    ),
    key(
        "engine.constraint_memory_mib",
        integer(16, 65_536, "MiB"),
        "Memory that compiling one JSON Schema, regular expression or grammar may take; then 400 `constraint_too_expensive`.",
    ),
    key(
        "engine.mask_budget_ms",
        integer(1, HOUR_MS, MILLISECONDS),
        "Processor time that one step of an answer under a schema, expression or grammar may take; then the answer ends with `constraint_too_expensive`. Other answers go on meanwhile.",
    ),
    key(
        "queue.max_requests",
        integer(1, 1_000_000, "requests"),
        "Most requests of one model that run or wait, each answer one and eight embedding inputs one. One caller may have all; once they are taken, each gets as many as a fair division among those who have any gives, and who has more gets 503 with `Retry-After`.",
    ),
    key(
        "queue.max_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Longest time from a request's arrival to the start of its prefill; then 503 with `Retry-After`.",
    ),
    key(
        "responses.retention_days",
        integer(0, 36_500, "days"),
        "How long a stored response is kept; 0 is for ever.",
    ),
    key(
        "responses.max_background",
        integer(0, 100_000, "responses"),
        "Most responses that run in the background at a time; one more gets 429.",
    ),
    key(
        "responses.max_background_per_user",
        integer(0, 100_000, "responses"),
        "The same of one user, or of all guests of one IPv4 address or IPv6 /64.",
    ),
    key(
        "responses.resume_grace_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "How long a stored stream goes on after its client is gone, so that it can be taken up again; then it is cancelled.",
    ),
    key(
        "audit.retention_days",
        integer(0, 36_500, "days"),
        "How long the audit log keeps a record in the store, where `GET /admin/audit` finds it. 0: none is kept there, and what was is removed.",
    ),
    key(
        "audit.max_records",
        integer(2, 100_000_000, "records"),
        "Most records of the audit log in the store, of some 300 bytes each: half of them of what was done, half of what was refused and of sessions' refreshes. The oldest go first.",
    ),
    key(
        "audit.stream",
        Kind::Text,
        "Where the audit log is written as it happens, one object of JSON a line: `off`, `stderr`, or the path of a file that lines are appended to. It is made with mode 0600, and opened again when it was moved or removed.",
    ),
    key("web_search.base_url", Kind::Url, "Where Serper is; searches go to `/search` below it."),
    secret(key(
        "web_search.api_key",
        Kind::Text,
        "This server's key at Serper (serper.dev). Unset: web search is refused.",
    )),
    key(
        "web_search.timeout_ms",
        integer(10, 600_000, MILLISECONDS),
        "Longest time of a search, with all its retries.",
    ),
    key(
        "web_search.retries",
        integer(0, 10, "retries"),
        "How often a search is tried again after no connection, 429 or 5xx.",
    ),
    key("web_search.max_results", integer(1, 20, "results"), "Most results of a search."),
    key(
        "web_search.max_per_response",
        integer(1, 20, "searches"),
        "Most searches of one response; `max_tool_calls` can ask for fewer.",
    ),
    key(
        "web_search.cache_ttl_s",
        integer(0, 30 * 86_400, SECONDS),
        "How long results are remembered, for everybody who searches for the same. 0: not at all.",
    ),
    key(
        "web_search.cache_entries",
        integer(0, 10_000, "searches"),
        "Results of how many searches are remembered. 0: none.",
    ),
    key(
        "web_search.credits_per_day",
        integer(0, U32, "credits"),
        "Most of Serper's credits a day (UTC, counted from the server's start); then 429. A search takes one, or what Serper says that it took. 0: no limit.",
    ),
    key(
        "web_search.credits_per_user_per_day",
        integer(0, U32, "credits"),
        "The same of one user, or of one address without a credential and its guests.",
    ),
    key("worker.program", Kind::Path, "The program that is started with `worker`. Unset: this program."),
    key(
        "worker.environment",
        Kind::TextList,
        "Names of variables of the server's environment that workers get beside those of the loader, the libraries for numbers and threads, and GPUs (docs/operations.md lists them).",
    ),
    key(
        "worker.no_new_privs",
        RESTRICTION,
        "Whether workers can never gain privileges, and give up those of a superuser that they have no use for. landlock and seccomp need it and turn it on in any case. `auto`: where the kernel can; it says in the log what it lacks. `require`: a model is not served where it cannot.",
    ),
    key(
        "worker.landlock",
        RESTRICTION,
        "Whether workers open what their model needs and nothing else, and reach nothing over TCP (Linux 6.2, with the network 6.7). docs/operations.md has the list.",
    ),
    key(
        "worker.seccomp",
        RESTRICTION,
        "Whether workers are refused the system calls that they have no use for, among them those that open connections.",
    ),
    key(
        "worker.readable_paths",
        Kind::TextList,
        "Files and folders that workers may read, and load libraries from, beside those of `worker.landlock`'s list, such as a driver's in a place of its own.",
    ),
    key(
        "worker.writable_paths",
        Kind::TextList,
        "Files and folders that workers may write to, such as the cache in which a GPU's driver keeps what it compiled. None is needed.",
    ),
    key("worker.load_timeout_ms", integer(1, 24 * HOUR_MS, MILLISECONDS), "Longest time to load a model."),
    key(
        "worker.step_timeout_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "A worker that owes a step and is silent for this long counts as dead.",
    ),
    key(
        "worker.max_restarts",
        integer(0, 1_000_000, "restarts"),
        "More restarts than this within `worker.restart_window_ms` make the model unhealthy.",
    ),
    key(
        "worker.restart_window_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "The window of `worker.max_restarts`.",
    ),
    key(
        "worker.cooldown_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "How long an unhealthy model rests before it is tried again.",
    ),
    required(key("models[].id", Kind::Text, "The id that callers use as `model` (`--model ID=PATH`).")),
    required(key("models[].path", Kind::Path, "The GGUF file (`--model ID=PATH`).")),
    key("models[].owned_by", Kind::Text, "Shown as `owned_by`."),
    key("models[].aliases", Kind::TextList, "Other ids for the same model."),
    key(
        "models[].replicas",
        integer(1, 1024, "workers"),
        "How many workers serve this model, each with its own context.",
    ),
    key(
        "models[].context_length",
        integer(16, 16_777_216, "tokens"),
        "Context of one sequence. Unset: the model's own, at most `engine.context_length`.",
    ),
    key("models[].chat_template", Kind::Path, "A Jinja chat template file in place of the one in the GGUF."),
    key(
        "models[].tool_format",
        Kind::Choice(&[
            "hermes",
            "llama3",
            "llama4",
            "lfm2",
            "mistral",
            "mistral-args",
            "deepseek-v3",
            "deepseek-v31",
            "glm",
            "qwen-xml",
            "kimi",
            "harmony",
        ]),
        "How the model writes calls of tools. Unset: as its chat template tells.",
    ),
    key(
        "models[].reasoning_format",
        Kind::Choice(&["none", "think", "bracket", "seed", "kimi", "harmony"]),
        "How the model sets off its thinking; `none`: it is part of the text. Unset: as its chat template tells.",
    ),
    key(
        "models[].pooling",
        Kind::Choice(&["mean", "cls", "last"]),
        "How a text's embedding is made of its tokens': the mean of all, the first token's (CLS) or the last one's. Unset: as the GGUF's metadata says, else `mean`.",
    ),
];
