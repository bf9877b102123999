use serde::{Deserialize, Serialize};

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// The format of log lines.
    pub format: LogFormat,
    /// The minimum level, or directives in the syntax of tracing's `EnvFilter` (`info,jan_actors=debug`).
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogConfig {
    /// Returns the same settings as command line arguments, for worker processes.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let format = match self.format {
            LogFormat::Auto => "auto",
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        };
        ["--log-format", format, "--log-level", &self.level].map(str::to_owned).to_vec()
    }
}
