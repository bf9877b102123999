//! Merging of the configuration's sources, each checked on its own.

use std::path::Path;

use toml::{Table, Value};

use super::keys::{self, Key, Kind};

/// Prefix of environment variables that set keys: `JAN_SERVER__HTTP__LISTEN` is `http.listen`.
pub const ENV_PREFIX: &str = "JAN_SERVER__";

/// The value of `backend` in a table without one.
const DEFAULT_BACKEND: &str = "llama";

/// Errors of the configuration.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {problem}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        problem: String,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not valid TOML: {problem}")]
    Syntax {
        /// The file.
        path: String,
        /// The position and the cause.
        problem: String,
    },
    /// The key does not exist.
    #[error("unknown setting `{key}` in {origin}{}; see `jan-server config` for all settings",
        .nearest.as_ref().map(|n| format!(": did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key, or the variable's name.
        key: String,
        /// The source that contains it.
        origin: String,
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// A value is of the wrong type or out of range, or a required one is missing.
    #[error("invalid setting `{key}` in {origin}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// The source that contains it.
        origin: String,
        /// A text that says what is wrong and what is allowed.
        problem: String,
    },
}

/// A setting given on the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum Override {
    /// Sets a key.
    Set {
        /// The key's path.
        key: &'static str,
        /// Its value.
        value: Value,
        /// The flag, for messages.
        flag: &'static str,
    },
    /// `--model ID=PATH`: adds a model, or changes the file of the model with that id.
    Model {
        /// The model's id.
        id: String,
        /// Its GGUF file.
        path: String,
    },
}

/// Reads and checks a configuration file.
pub fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: shown.clone(), problem: error.to_string() })?;
    let table = text
        .parse::<Table>()
        .map_err(|error| ConfigError::Syntax { path: shown.clone(), problem: error.to_string() })?;
    check_table(table, "", "", &format!("the file {shown}"))
}

/// Checks a table and everything in it. `path` has list indexes as `[]`, `shown` as numbers.
fn check_table(table: Table, path: &str, shown: &str, origin: &str) -> Result<Table, ConfigError> {
    let join = |prefix: &str, name: &str| {
        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
    };
    let invalid =
        |key: String, problem: String| ConfigError::Value { key, origin: origin.to_owned(), problem };
    // What a table needs and may have depends on its own `backend`, where it has one.
    let backend = table.get("backend").and_then(Value::as_str).unwrap_or(DEFAULT_BACKEND).to_owned();
    let is_of = |needed: Option<&str>| needed.is_none_or(|needed| needed == backend);
    for key in keys::KEYS.iter().filter(|key| key.required && is_of(key.backend)) {
        let missing = key.path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'));
        if let Some(name) = missing.filter(|name| !name.contains('.') && !table.contains_key(*name)) {
            return Err(invalid(join(shown, name), format!("is missing; it takes {}", key.kind.allowed())));
        }
    }
    for (list, needed) in keys::BACKEND_LISTS {
        let name = list.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'));
        let is_there =
            |name: &&str| table.get(*name).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        if let Some(name) = name.filter(|name| *needed == backend && !is_there(name)) {
            let heading = list.replace("[]", "");
            let problem = format!("is missing; `backend = \"{needed}\"` needs one `[[{heading}]]` or more");
            return Err(invalid(join(shown, name), problem));
        }
    }
    let mut checked = Table::new();
    for (name, value) in table {
        let (inner, inner_shown) = (join(path, &name), join(shown, &name));
        let needed = keys::backend_of(&inner);
        if !is_of(needed) {
            let needed = needed.unwrap_or_default();
            let problem = format!(
                "is for models with `backend = \"{needed}\"`, and this one has \"{backend}\"; remove it, or set `backend`"
            );
            return Err(invalid(inner_shown, problem));
        }
        let value = if let Some(key) = keys::find(&inner) {
            key.kind.check(value).map_err(|problem| invalid(inner_shown, problem))?
        } else if keys::is_section(&format!("{inner}[]")) {
            let Value::Array(items) = value else {
                return Err(invalid(inner_shown, format!("must be a list of tables, as in `[[{inner}]]`")));
            };
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                let item_shown = format!("{inner_shown}[{index}]");
                let Value::Table(item) = item else {
                    return Err(invalid(item_shown, "must be a table".to_owned()));
                };
                list.push(Value::Table(check_table(item, &format!("{inner}[]"), &item_shown, origin)?));
            }
            Value::Array(list)
        } else if keys::is_section(&inner) {
            let Value::Table(section) = value else {
                return Err(invalid(inner_shown, format!("must be a table, as in `[{inner}]`")));
            };
            Value::Table(check_table(section, &inner, &inner_shown, origin)?)
        } else {
            return Err(ConfigError::UnknownKey {
                nearest: keys::nearest(&inner).map(str::to_owned),
                key: inner_shown,
                origin: origin.to_owned(),
            });
        };
        checked.insert(name, value);
    }
    Ok(checked)
}

/// Merges the variables that begin with [`ENV_PREFIX`] into `table`.
pub fn apply_environment<E>(table: &mut Table, environment: E) -> Result<(), ConfigError>
where
    E: IntoIterator<Item = (String, String)>,
{
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    // Of several invalid variables, the reported one must not depend on the system's order.
    variables.sort();
    for (name, text) in variables {
        let path = name[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        let origin = format!("the environment ({name})");
        if let Some(key) = keys::find(&path).filter(|_| !path.contains("[]")) {
            let value = check(key, environment_value(&key.kind, text), &origin)?;
            set(table, key.path, value);
        } else if keys::is_section(&format!("{path}[]")) {
            let problem = |problem: String| ConfigError::Value {
                key: path.clone(),
                origin: origin.clone(),
                problem: format!("{problem}; write a TOML list, such as [{{id = \"a\", path = \"a.gguf\"}}]"),
            };
            let list = parse_toml(&text).ok_or_else(|| problem(format!("{text:?} is not TOML")))?;
            let layer = check_table(Table::from_iter([(path.clone(), list)]), "", "", &origin)?;
            table.extend(layer);
        } else {
            let nearest = keys::nearest(&path).filter(|known| !known.contains("[]"));
            return Err(ConfigError::UnknownKey {
                key: name,
                origin: "the environment".to_owned(),
                nearest: nearest
                    .map(|known| format!("{ENV_PREFIX}{}", known.replace('.', "__").to_ascii_uppercase())),
            });
        }
    }
    Ok(())
}

/// Converts a variable's text to the type of its key: numbers and lists in TOML's syntax, text unchanged.
fn environment_value(kind: &Kind, text: String) -> Value {
    match kind {
        Kind::Text
        | Kind::Path
        | Kind::Address
        | Kind::LogLevel
        | Kind::Choice(_)
        | Kind::Url
        | Kind::BaseUrl => Value::String(text),
        Kind::Integer { .. } | Kind::Flag | Kind::TextList | Kind::Networks | Kind::Hosts => {
            parse_toml(text.trim()).unwrap_or(Value::String(text))
        }
    }
}

fn parse_toml(text: &str) -> Option<Value> {
    // A line break would let a value define further keys.
    if text.contains(['\n', '\r']) {
        return None;
    }
    format!("value = {text}").parse::<Table>().ok()?.remove("value")
}

/// Merges flags into `table`.
pub fn apply_overrides(table: &mut Table, flags: &[Override]) -> Result<(), ConfigError> {
    for flag in flags {
        match flag {
            Override::Set { key, value, flag } => {
                let key = keys::find(key).expect("flags are declared with keys of the table");
                let value = check(key, value.clone(), &format!("the flag {flag}"))?;
                set(table, key.path, value);
            }
            Override::Model { id, path } => add_model(table, id, path)?,
        }
    }
    Ok(())
}

fn add_model(table: &mut Table, id: &str, path: &str) -> Result<(), ConfigError> {
    let models = table.entry("models").or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(models) = models else { return Ok(()) };
    let path = Value::String(path.to_owned());
    let same = models
        .iter_mut()
        .filter_map(Value::as_table_mut)
        .find(|model| model.get("id").and_then(Value::as_str) == Some(id));
    match same {
        Some(model) if model.get("backend").is_some_and(|name| name.as_str() != Some(DEFAULT_BACKEND)) => {
            return Err(ConfigError::Value {
                key: "models[].path".to_owned(),
                origin: "the flag --model".to_owned(),
                problem: format!(
                    "the model `{id}` runs elsewhere (`backend`), so it has no file; choose another id"
                ),
            });
        }
        Some(model) => {
            model.insert("path".to_owned(), path);
        }
        None => models.push(Value::Table(Table::from_iter([
            ("id".to_owned(), Value::String(id.to_owned())),
            ("path".to_owned(), path),
        ]))),
    }
    Ok(())
}

fn check(key: &Key, value: Value, origin: &str) -> Result<Value, ConfigError> {
    key.kind.check(value).map_err(|problem| ConfigError::Value {
        key: key.path.to_owned(),
        origin: origin.to_owned(),
        problem,
    })
}

fn set(table: &mut Table, path: &str, value: Value) {
    let Some((section, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        set(section, rest, value);
    }
}
