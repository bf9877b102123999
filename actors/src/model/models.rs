//! Handle to the served models: routing by id, admission, the least loaded replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jan_protocol::embeddings::EmbeddingRequest;
use jan_protocol::types::{
    GenerationError, GenerationRequest, Inspect, Inspected, ModelDescription, ModelStatus, TokenizerFacts,
};

use super::backend::{Backend, Continuation, Embeddings, Generation, RETRY_AFTER};
use super::catalog::{Catalog, Model, combine};
use super::report::ModelReport;
use super::shares::Place;

/// The models that this server answers from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Models {
    catalog: Arc<Catalog>,
    stopping: Arc<AtomicBool>,
}

impl Models {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, stopping: Arc::default() }
    }

    /// Refuses new requests from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Has all models' computed prefixes outlive the server, as far as that is done within this time.
    pub(crate) async fn keep_prefixes(&self, within: Duration) {
        let replicas = self.catalog.models().iter().flat_map(|model| &model.replicas);
        futures_util::future::join_all(replicas.map(|replica| replica.keep_prefixes(within))).await;
    }

    /// Requests in flight, over all models.
    pub fn in_flight(&self) -> usize {
        let replicas = self.catalog.models().iter().flat_map(|m| &m.replicas);
        replicas.map(|r| r.load()).sum()
    }

    /// Hands a request to its model. Returns when it has its place in the queue; the results come through the [`Generation`].
    ///
    /// # Errors
    /// [`GenerationError::ModelNotFound`], `QueueFull`, `ModelUnavailable` or `ShuttingDown`.
    pub async fn generate(&self, request: GenerationRequest) -> Result<Generation, GenerationError> {
        let model = self.answering(&request)?;
        let place = place(model, |_| 1, &request.user)?;
        let backend = backend_for(model, &request)?;
        backend.generate(request, place).await
    }

    /// Hands all requests for one request of a caller, with its prompts and answers, to their model, as
    /// [`generate`](Self::generate) does: all of them get their places in the queue, or none.
    ///
    /// # Errors
    /// As of [`generate`](Self::generate).
    pub async fn generate_all(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> Result<Vec<Generation>, GenerationError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let model = self.answering(first)?;
        let mut places = place(model, |_| requests.len(), &first.user)?;
        let mut generations = Vec::with_capacity(requests.len());
        for request in requests {
            let backend = backend_for(model, &request)?;
            generations.push(backend.generate(request, places.split_one()).await?);
        }
        Ok(generations)
    }

    /// Hands a request for embeddings to its model, as [`generate`](Self::generate) does. They come one by one through
    /// the [`Embeddings`].
    ///
    /// # Errors
    /// As of [`generate`](Self::generate).
    pub async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GenerationError> {
        let (model, place) = self.place(&request.model, |places| request.weight(places), &request.user)?;
        let backend = least_loaded(model);
        if !backend.capabilities().embeddings {
            return Err(unsupported(model, "model", "embeddings"));
        }
        backend.embed(request, place).await
    }

    /// Length of a request's prompt in tokens. Nothing is generated.
    ///
    /// # Errors
    /// As of [`generate`](Self::generate), and `ContextLengthExceeded`.
    pub async fn count_tokens(&self, request: GenerationRequest) -> Result<u32, GenerationError> {
        let (model, place) = self.place(&request.model, |_| 1, &request.user)?;
        let backend = backend_for(model, &request)?;
        backend.count_tokens(request, place).await
    }

    /// A model, and the number of its places that `count` computes from all.
    fn place(
        &self,
        model: &str,
        count: impl FnOnce(usize) -> usize,
        caller: &str,
    ) -> Result<(&Arc<Model>, Place), GenerationError> {
        let model = self.find(model)?;
        place(model, count, caller).map(|place| (model, place))
    }

    fn find(&self, model: &str) -> Result<&Arc<Model>, GenerationError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(GenerationError::ShuttingDown);
        }
        self.catalog.find(model).ok_or_else(|| GenerationError::ModelNotFound(model.to_owned()))
    }

    /// The model that answers a request: the requested one, or, while that is short, the one that it overflows to, if that one works
    /// and supports what the request needs.
    fn answering(&self, request: &GenerationRequest) -> Result<&Arc<Model>, GenerationError> {
        let model = self.find(&request.model)?;
        let Some(overflow) = &model.overflow else { return Ok(model) };
        let load: usize = model.replicas.iter().map(|replica| replica.load()).sum();
        let is_short = load >= overflow.requests || !is_working(model);
        let other = self.catalog.find(&overflow.id).filter(|_| is_short);
        let can = |other: &&Arc<Model>| is_working(other) && least_loaded(other).lacking(request).is_none();
        Ok(other.filter(can).unwrap_or(model))
    }

    /// Requests a model's worker's reading of `caller`'s prompt. Nothing is generated.
    ///
    /// # Errors
    /// [`GenerationError::ModelNotFound`], `QueueFull`, `ModelUnavailable`, `ShuttingDown` or `InvalidPrompt`.
    pub async fn inspect(
        &self,
        model: &str,
        question: Inspect,
        caller: &str,
    ) -> Result<Inspected, GenerationError> {
        let (model, _place) = self.place(model, |_| 1, caller)?;
        let backend = least_loaded(model);
        if !backend.capabilities().inspect {
            return Err(unsupported(model, "model", "looking at prompts"));
        }
        backend.inspect(question).await
    }

    /// The way in which an answer to a request would be continued after the loss of a worker or server; `None`: no model answers
    /// it.
    #[must_use]
    pub fn continuation(&self, request: &GenerationRequest) -> Option<Continuation> {
        let model = self.answering(request).ok()?;
        Some(least_loaded(model).continuation(request))
    }

    /// Every model and alias, in the order of the configuration, the bundled one last.
    pub async fn list(&self) -> Vec<ModelDescription> {
        let models = self.catalog.models().iter();
        models.flat_map(|m| std::iter::once(&m.id).chain(&m.aliases).map(|id| m.describe(id))).collect()
    }

    /// One model by id or alias.
    pub async fn describe(&self, id: &str) -> Option<ModelDescription> {
        self.catalog.find(id).map(|model| model.describe(id))
    }

    /// Every model with its replicas, in the order of the configuration, the bundled one last.
    #[must_use]
    pub fn report(&self) -> Vec<ModelReport> {
        let report = |model: &Arc<Model>| ModelReport {
            description: model.describe(&model.id),
            aliases: model.aliases.clone(),
            replicas: model.replicas.iter().flat_map(|replica| replica.reports()).collect(),
        };
        self.catalog.models().iter().map(report).collect()
    }

    /// Facts about a model's tokenizer; `None` until it is loaded, or where its backend does not know them.
    #[must_use]
    pub fn tokenizer(&self, id: &str) -> Option<TokenizerFacts> {
        self.catalog.find(id)?.replicas.iter().find_map(|replica| replica.tokenizer())
    }

    /// The state of all models together, as of now: `Ready` when all are, `Degraded` when some can answer.
    pub async fn status(&self) -> ModelStatus {
        let replicas = |model: &Arc<Model>| combine(model.replicas.iter().map(|r| r.condition().status));
        combine(self.catalog.models().iter().map(replicas))
    }
}

/// The number of a model's places that `count` computes from all. They are taken before the mailbox: a mailbox has no bound of its
/// own.
fn place(
    model: &Arc<Model>,
    count: impl FnOnce(usize) -> usize,
    caller: &str,
) -> Result<Place, GenerationError> {
    let limit = model.places.count();
    let full = || GenerationError::QueueFull { model: model.id.clone(), limit, retry_after: RETRY_AFTER };
    model.places.take(caller, count(limit)).ok_or_else(full)
}

fn is_working(model: &Model) -> bool {
    let status = combine(model.replicas.iter().map(|replica| replica.condition().status));
    matches!(status, ModelStatus::Ready | ModelStatus::Degraded)
}

/// The replica with the fewest requests, one that can answer rather than one that cannot.
fn least_loaded(model: &Model) -> &dyn Backend {
    let load = |r: &&Arc<dyn Backend>| (r.condition().status == ModelStatus::Unhealthy, r.load());
    // A model has at least one replica: the catalog refuses 0.
    &**model.replicas.iter().min_by_key(load).unwrap_or(&model.replicas[0])
}

/// Returns the same, if it supports all that the request asks for.
fn backend_for<'a>(
    model: &'a Model,
    request: &GenerationRequest,
) -> Result<&'a dyn Backend, GenerationError> {
    let backend = least_loaded(model);
    match backend.lacking(request) {
        Some((param, what)) => Err(unsupported(model, param, what)),
        None => Ok(backend),
    }
}

fn unsupported(model: &Model, param: &'static str, what: &str) -> GenerationError {
    let message = format!("the model `{}` does not support {what}", model.id);
    GenerationError::InvalidParameter { param, message }
}

#[cfg(test)]
mod tests {
    use jan_protocol::types::{Prompt, SamplingParams};

    use super::*;
    use crate::model::GenerationEvent;
    use crate::model::catalog::Overflow;
    use crate::model::scripted::Scripted;
    use crate::model::shares::Places;

    fn model(id: &str, backend: &Arc<Scripted>, overflow: Option<usize>) -> Model {
        Model {
            id: id.to_owned(),
            aliases: Vec::new(),
            owned_by: "jan".to_owned(),
            places: Places::new(8),
            replicas: vec![Arc::clone(backend) as Arc<dyn Backend>],
            overflow: overflow.map(|requests| Overflow { id: "away".to_owned(), requests }),
        }
    }

    fn request(text: &str) -> GenerationRequest {
        GenerationRequest {
            request_id: "r".to_owned(),
            model: "here".to_owned(),
            user: "ann".to_owned(),
            tenant: "ann".to_owned(),
            cache_key: None,
            prompt: Prompt::Text(text.to_owned()).into(),
            sampling: SamplingParams::default(),
            stop: Vec::new().into(),
            max_tokens: Some(2),
            want_prompt_text: false,
            logprobs: None,
            score_prompt: false,
            constraint: None,
            tools: None,
            thinking_budget: None,
        }
    }

    async fn end(mut generation: Generation) -> GenerationEvent {
        let mut last = None;
        while let Some(event) = generation.recv().await {
            last = Some(event);
        }
        last.expect("it has an end")
    }

    #[tokio::test]
    async fn a_model_that_is_short_overflows() {
        let (here, away) = (Arc::new(Scripted::default()), Arc::new(Scripted::default()));
        let models = vec![model("here", &here, Some(1)), model("away", &away, None)];
        let models = Models::new(Arc::new(Catalog::of_models(models)));
        let loads = || (here.load(), away.load());
        let first = models.generate(request("stall")).await.unwrap();
        assert_eq!(loads(), (1, 0));
        let second = models.generate(request("stall")).await.unwrap();
        assert_eq!(loads(), (1, 1));
        // What the other one lacks is refused or done here.
        let scored = GenerationRequest { score_prompt: true, ..request("a") };
        assert!(matches!(
            models.generate(scored).await,
            Err(GenerationError::InvalidParameter { param: "echo", .. })
        ));
        drop((first, second));
        assert!(matches!(
            end(models.generate(request("a b")).await.unwrap()).await,
            GenerationEvent::Finished { .. }
        ));
        here.kill();
        assert!(matches!(
            end(models.generate(request("a b")).await.unwrap()).await,
            GenerationEvent::Finished { .. }
        ));
        away.kill();
        assert!(matches!(
            models.generate(request("a b")).await,
            Err(GenerationError::ModelUnavailable { .. })
        ));
    }
}
