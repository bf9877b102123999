//! The edge's door to the models.

use tokio::sync::mpsc;

use super::types::{GenerationError, GenerationEvent, GenerationRequest, ModelDescription, ModelStatus};

/// The models that this server answers from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Models {}

impl Models {
    /// Hands a request to its model. Returns when it has its place in the queue; what becomes of it comes
    /// through the [`Generation`].
    ///
    /// # Errors
    /// [`GenerationError::ModelNotFound`], `QueueFull`, `ModelUnavailable` or `ShuttingDown`.
    pub async fn generate(&self, request: GenerationRequest) -> Result<Generation, GenerationError> {
        Err(GenerationError::ModelNotFound(request.model))
    }

    /// Every model and alias, in the order of the configuration, the bundled one last.
    pub async fn list(&self) -> Vec<ModelDescription> {
        Vec::new()
    }

    /// One model by id or alias.
    pub async fn describe(&self, id: &str) -> Option<ModelDescription> {
        let _ = id;
        None
    }

    /// The state of all models together: `Ready` when all are, `Degraded` when some can answer.
    pub async fn status(&self) -> ModelStatus {
        ModelStatus::Loading
    }
}

/// A running generation. Dropping it cancels: its sequence is free within one decode step.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::Receiver<GenerationEvent>,
}

impl Generation {
    /// The next event; `None` after `Finished` or `Failed`.
    pub async fn recv(&mut self) -> Option<GenerationEvent> {
        self.events.recv().await
    }
}
