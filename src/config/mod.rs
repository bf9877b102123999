//! Settings: defaults < TOML file < environment < flags.
//!
//! [`keys::KEYS`] defines the allowed values of every key; each layer is checked against it before it is merged, so
//! that an error can name the file, the variable or the flag that it came from. One test compares the table with the
//! structs, another compares `docs/configuration.md` with the table.

mod auth;
mod http;
pub mod keys;
mod layers;
mod log;
pub mod reference;
mod structured;
mod table;

use std::path::Path;

use jan_actors::config::{
    ActorsConfig, AuditConfig, ConversationsConfig, EngineConfig, ModelConfig, QueueConfig, RateLimitsConfig,
    ResponsesConfig, StorageConfig, UpstreamConfig, WebSearchConfig, WorkerConfig,
};
use serde::{Deserialize, Serialize};

pub use auth::{AuthSettings, GoogleConfig};
pub use http::HttpConfig;
pub use layers::{ConfigError, ENV_PREFIX, Override};
pub use log::{LogConfig, LogFormat};
pub use structured::StructuredConfig;

/// The whole configuration; each field is one section of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Listening, limits and timeouts.
    pub http: HttpConfig,
    /// Log level and format.
    pub log: LogConfig,
    /// The location of the stored state.
    pub storage: StorageConfig,
    /// Authentication, authorisation and sign-in.
    pub auth: AuthSettings,
    /// Rate limits.
    pub rate_limits: RateLimitsConfig,
    /// Size limits of conversations.
    pub conversations: ConversationsConfig,
    /// The engine of every model.
    pub engine: EngineConfig,
    /// Admission queue limits.
    pub queue: QueueConfig,
    /// Answers with a schema.
    pub structured: StructuredConfig,
    /// Stored responses.
    pub responses: ResponsesConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// Web search.
    pub web_search: WebSearchConfig,
    /// Worker processes.
    pub worker: WorkerConfig,
    /// Upstream servers.
    pub upstream: UpstreamConfig,
    /// The models to serve besides the bundled one.
    pub models: Vec<ModelConfig>,
}

impl Config {
    /// Merges the layers: `file` if given, then the variables of `environment` that begin with [`ENV_PREFIX`], then
    /// `flags`; later layers take precedence.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key (with the most similar known one), or a value of the wrong
    /// type or out of range: each names the key, its source and the allowed values.
    pub fn load<E>(file: Option<&Path>, environment: E, flags: &[Override]) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let mut table = match file {
            Some(path) => layers::read_file(path)?,
            None => toml::Table::new(),
        };
        layers::apply_environment(&mut table, environment)?;
        layers::apply_overrides(&mut table, flags)?;
        serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| ConfigError::Value {
            key: error.path().to_string(),
            origin: "the merged configuration".to_owned(),
            problem: error.inner().message().to_owned(),
        })
    }

    /// Returns the part that [`jan_actors::System`] needs.
    #[must_use]
    pub fn actors(&self) -> ActorsConfig {
        ActorsConfig {
            storage: self.storage.clone(),
            models: self.models.clone(),
            engine: self.engine.clone(),
            queue: self.queue.clone(),
            worker: self.worker.clone(),
            upstream: self.upstream.clone(),
            auth: self.auth.actors(),
            rate_limits: self.rate_limits.clone(),
            responses: self.responses.clone(),
            conversations: self.conversations.clone(),
            audit: self.audit.clone(),
            web_search: self.web_search.clone(),
            // Workers log in the same way as the server.
            worker_arguments: self.log.to_arguments(),
        }
    }

    /// Returns the names of the settings that differ from the defaults, `models` as one.
    #[must_use]
    pub fn changed(&self) -> Vec<String> {
        let value =
            |config| toml::Value::try_from(config).expect("plain structs of TOML's own types serialize");
        let (now, default): (toml::Value, toml::Value) = (value(self), value(&Self::default()));
        let is_changed = |path: &&str| {
            let at = |value: &toml::Value| {
                path.split('.').try_fold(value.clone(), |value, name| value.get(name).cloned())
            };
            at(&now) != at(&default)
        };
        let paths = keys::KEYS.iter().map(|key| key.path).filter(|path| !path.contains("[]"));
        paths.chain(["models"]).filter(is_changed).map(str::to_owned).collect()
    }

    /// Returns the effective settings as TOML that is a valid configuration file, except that secrets read `***`.
    #[must_use]
    pub fn to_masked_toml(&self) -> String {
        let mut value = toml::Value::try_from(self).expect("plain structs of TOML's own types serialize");
        keys::mask_secrets(&mut value);
        toml::to_string_pretty(&value).expect("a TOML value serializes")
    }
}

#[cfg(test)]
mod tests;
