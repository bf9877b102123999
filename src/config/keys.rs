//! What every key may hold: the one table behind checks, error messages and `docs/configuration.md`.

use toml::Value;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// `section.name`; the keys of a list of tables are `section[].name`.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What it does, for the reference page.
    pub doc: &'static str,
    /// Whether `jan-server config` hides its value.
    pub secret: bool,
    /// Whether a table that lacks it is wrong.
    pub required: bool,
}

/// What a key may hold.
#[derive(Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// `host:port`.
    Address,
    /// Log directives.
    LogLevel,
    /// A path, relative to the folder that the server was started in.
    Path,
    /// A whole number from `min` to `max`, counting `unit`.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
        /// What is counted.
        unit: &'static str,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; one text with commas does too.
    TextList,
}

const HOUR_MS: i64 = 3_600_000;
const MILLISECONDS: &str = "ms";

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc, secret: false, required: false }
}

const fn required(key: Key) -> Key {
    Key { required: true, ..key }
}

const fn integer(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Integer { min, max, unit }
}

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
        "Longest time from a request's first byte to the end of its headers; then the connection is closed.",
    ),
    key(
        "http.body_timeout_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Longest time to receive a request's body; then 408.",
    ),
    key("http.body_limit_bytes", integer(1, 1 << 32, "bytes"), "Largest request body; then 413."),
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
        "http.cors_allowed_origins",
        Kind::TextList,
        "Origins whose pages may call the API from a browser, such as `https://chat.example`; `*` is any, an empty list none.",
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
        "A request waits for another one's prefill when that saves at least this many tokens.",
    ),
    key(
        "engine.gpu_layers",
        integer(0, 10_000, "layers"),
        "Layers to offload to a GPU where the build has one.",
    ),
    key(
        "queue.max_requests",
        integer(1, 1_000_000, "requests"),
        "Most requests of one model that run or wait; one more gets 503 with `Retry-After`.",
    ),
    key(
        "queue.max_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Longest time from a request's arrival to the start of its prefill; then 503 with `Retry-After`.",
    ),
    key("worker.program", Kind::Path, "The program that is started with `worker`. Unset: this program."),
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
];

/// The key at `path` (list indexes written as `[]`).
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a section or a list of tables rather than a value.
#[must_use]
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| {
        key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
    })
}

/// The known key, or section where `path` has no dot, that looks most like `path`, if one is near enough to
/// be what was meant.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let keys = KEYS.iter().map(|key| {
        let (known_section, known_name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let likeness = strsim::jaro_winkler(name, known_name);
        // A key in the wrong section is nearly as good a guess as a misspelt one.
        (if section == known_section { likeness } else { likeness * 0.95 }, key.path)
    });
    let sections = KEYS
        .iter()
        .filter(|_| section.is_empty())
        .filter_map(|key| key.path.split(['.', '[']).next())
        .map(|known| (strsim::jaro_winkler(name, known), known));
    keys.chain(sections)
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

impl Kind {
    /// What is allowed, for messages and the reference page.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Address => "`host:port`".to_owned(),
            Self::LogLevel => "a log level or directives".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Integer { min, max, .. } => format!("an integer from {min} to {max}"),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::TextList => "a list of texts".to_owned(),
        }
    }

    /// What is counted, where something is.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Integer { unit, .. } => unit,
            _ => "",
        }
    }

    /// Checks a value and brings it to the form that the structs take.
    ///
    /// # Errors
    /// What is wrong with it, to be followed by what is allowed.
    pub fn check(&self, value: Value) -> Result<Value, String> {
        let wrong = |value: &Value| Err(format!("{} is not {}", describe(value), self.allowed()));
        match (self, value) {
            (Self::Text | Self::Path, Value::String(text)) if !text.trim().is_empty() => {
                Ok(Value::String(text))
            }
            (Self::Address, Value::String(text)) if is_address(&text) => Ok(Value::String(text)),
            (Self::LogLevel, Value::String(text)) => {
                match tracing_subscriber::EnvFilter::builder().parse(&text) {
                    Ok(_) if !text.trim().is_empty() => Ok(Value::String(text)),
                    _ => wrong(&Value::String(text)),
                }
            }
            (Self::Choice(words), Value::String(text)) if words.contains(&text.as_str()) => {
                Ok(Value::String(text))
            }
            (Self::Integer { min, max, .. }, Value::Integer(number)) if (*min..=*max).contains(&number) => {
                Ok(Value::Integer(number))
            }
            (Self::TextList, Value::String(text)) => Ok(Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| Value::String(part.to_owned()))
                    .collect(),
            )),
            (Self::TextList, Value::Array(items)) if items.iter().all(Value::is_str) => {
                Ok(Value::Array(items))
            }
            (_, value) => wrong(&value),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => format!("{number}"),
        Value::Float(number) => format!("{number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(when) => format!("the date {when}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// Replaces every secret in a whole configuration by `***`.
pub fn mask_secrets(config: &mut Value) {
    mask(config, "", KEYS);
}

fn mask(value: &mut Value, path: &str, keys: &[Key]) {
    match value {
        Value::Table(table) => {
            for (name, inner) in table.iter_mut() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                mask(inner, &path, keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for item in items {
                mask(item, &format!("{path}[]"), keys);
            }
        }
        Value::String(text) if text.is_empty() => {}
        leaf => {
            if keys.iter().any(|key| key.path == path && key.secret) {
                *leaf = Value::String("***".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        let keys = [
            Key { secret: true, ..key("auth.secret", Kind::Text, "") },
            Key { secret: true, ..key("peers[].token", Kind::Text, "") },
            key("auth.name", Kind::Text, ""),
        ];
        let mut config: Value = toml::from_str::<toml::Table>(
            "[auth]\nsecret = 'hunter2'\nname = 'n'\n[[peers]]\ntoken = 'a'\n[[peers]]\ntoken = ''\n",
        )
        .map(Value::Table)
        .unwrap();
        mask(&mut config, "", &keys);
        let text = toml::to_string(&config).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("'a'") && !text.contains("\"a\""), "{text}");
        assert_eq!(text.matches("***").count(), 2, "{text}");
        assert!(text.contains("name = \"n\""), "{text}");
    }

    #[test]
    fn nearest_key_is_found_by_path_and_by_name() {
        assert_eq!(nearest("http.listn"), Some("http.listen"));
        assert_eq!(nearest("listen"), Some("http.listen"));
        assert_eq!(nearest("htpt"), Some("http"));
        assert_eq!(nearest("engine.body_limit_bytes"), Some("http.body_limit_bytes"));
        assert_eq!(nearest("models[].pth"), Some("models[].path"));
        assert_eq!(nearest("zzzzqqqq"), None);
    }

    #[test]
    fn sections_are_told_from_keys() {
        assert!(is_section("http") && is_section("models") && is_section("models[]"));
        assert!(!is_section("http.listen") && !is_section("htt"));
    }
}
