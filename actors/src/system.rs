//! The whole actor system behind one handle.

use std::time::Duration;

use crate::config::ActorsConfig;
use crate::model::Models;

/// Everything that runs behind the edge, under one root supervisor.
#[derive(Debug)]
pub struct System {
    models: Models,
}

/// Why the system could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("cannot use the data folder: {0}")]
    Storage(#[from] std::io::Error),
    /// An actor did not start.
    #[error("cannot start the actors: {0}")]
    Actor(String),
}

impl System {
    /// Starts the root supervisor and everything under it. Models load in the background.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ActorsConfig) -> Result<Self, StartError> {
        let _ = config;
        Ok(Self { models: Models {} })
    }

    /// The door to the models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Refuses new requests, waits for running ones up to `grace`, then ends every worker.
    pub async fn shutdown(self, grace: Duration) {
        let _ = grace;
    }

    /// The worker process's main function (`jan-server worker --listen unix:PATH`): serves one model over
    /// the worker protocol until its server goes away. Returns the exit status.
    pub fn worker_main(listen: &str) -> std::process::ExitCode {
        let _ = listen;
        std::process::ExitCode::FAILURE
    }
}
