//! The backend of models that other servers serve: vLLM, SGLang, llama-server, other Jan Servers, anything with OpenAI's API.
//!
//! | file | content |
//! |---|---|
//! | [`features`] | what each kind of upstream can be asked for |
//! | [`request`], [`sse`], [`chunks`], [`logprobs`], [`refusal`], [`probe`] | the wire: bodies out, streams, refusals and lists in; pure |
//! | [`continuing`] | answers that go on elsewhere; pure |
//! | [`breaker`], [`retry`], [`fair_queue`], [`prefixes`], [`routing`] | decisions; pure |
//! | [`balancer`] | the state that these decide on, and places on upstreams |
//! | [`http`], [`tries`], [`generation`], [`embeddings`], [`tokens`] | requests under way |
//! | [`actor`] | one for each upstream: probes and trials |

mod abort;
mod actor;
mod balancer;
mod breaker;
mod chunks;
mod continuing;
mod embeddings;
mod fair_queue;
mod features;
mod generation;
mod http;
mod logprobs;
mod prefixes;
mod probe;
mod refusal;
mod request;
mod retry;
mod routing;
#[cfg(any(test, feature = "testing"))]
pub mod scripted_engine;
mod sse;
#[cfg(test)]
mod test_requests;
#[cfg(test)]
mod tests;
mod tokens;
mod tries;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use jan_protocol::embeddings::EmbeddingRequest;
use jan_protocol::types::{GenerationError, GenerationRequest, Inspect, Inspected, ModelStatus};
use tokio::sync::mpsc;

use self::abort::AbortOnDrop;
use self::actor::{UpstreamActor, UpstreamArguments};
use self::balancer::{Balancer, LaneConfig, LaneReport, Wanted};
use self::breaker::BreakerPolicy;
use self::features::Feature;
use self::generation::CHANNEL;
use self::http::Address;
use self::prefixes::{PromptHasher, PromptKey};
use self::retry::RetryBudget;
use self::routing::Balance;
use super::backend::{
    Backend, Capabilities, Condition, Continuation, Embeddings, Generation, GenerationEvent,
};
use super::catalog::combine;
use super::report::{Phase, ReplicaReport, UpstreamReport};
use super::shares::Place;
use crate::config::{ActorsConfig, Resume, SharePrefixes, UpstreamConfig, UpstreamKind, UpstreamModel};
use crate::start_error::StartError;
use crate::supervisor::ChildSpec;

/// All kinds that are known.
const KINDS: [UpstreamKind; 5] = [
    UpstreamKind::Vllm,
    UpstreamKind::Sglang,
    UpstreamKind::LlamaServer,
    UpstreamKind::Jan,
    UpstreamKind::Openai,
];

/// Everything that the requests and the actors of a model share.
#[derive(Debug)]
struct Shared {
    /// The model's id.
    id: String,
    addresses: Vec<Address>,
    /// The model's name on each upstream.
    names: Vec<String>,
    balancer: Arc<Balancer>,
    budget: Mutex<RetryBudget>,
    hasher: PromptHasher,
    config: UpstreamConfig,
    /// Longest wait for an upstream.
    max_wait: Duration,
    /// `true` if the prefixes of tenants are kept apart.
    isolate: bool,
    /// `true` if answers go on elsewhere.
    resumes: bool,
}

impl Shared {
    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model on upstreams.
#[derive(Debug)]
pub struct Upstreams {
    shared: Arc<Shared>,
    /// The kinds as they were configured.
    kinds: Vec<UpstreamKind>,
    /// The context as it was configured.
    context: Option<u32>,
    load: Arc<AtomicUsize>,
}

/// A request under way; its resources are given back when it is dropped.
struct Running {
    load: Arc<AtomicUsize>,
    _place: Place,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstreams {
    /// A model on its upstreams, which its actors will look for.
    ///
    /// # Errors
    /// A key that cannot be read.
    pub fn new(config: &ActorsConfig, id: &str, model: &UpstreamModel) -> Result<Self, StartError> {
        let client = http::client(&config.upstream)?;
        let mut addresses = Vec::with_capacity(model.upstreams.len());
        let mut lanes = Vec::with_capacity(model.upstreams.len());
        for (number, upstream) in model.upstreams.iter().enumerate() {
            let address = Address::new(id, number, upstream, client.clone())?;
            if address.sends_key_in_the_clear() {
                tracing::warn!(
                    model = id,
                    upstream = address.base(),
                    "its key is sent without encryption: use https"
                );
            }
            lanes.push(LaneConfig {
                url: address.base().to_owned(),
                model: upstream.model.clone().unwrap_or_else(|| id.to_owned()),
                kind: upstream.kind,
                max_in_flight: upstream.max_in_flight,
                weight: upstream.weight,
            });
            addresses.push(address);
        }
        if lanes.is_empty() {
            return Err(StartError::Config(format!(
                "models: `{id}` has no upstreams; `backend = \"upstream\"` needs one `[[models.upstreams]]` or more"
            )));
        }
        let settings = config.upstream.clone();
        let policy = BreakerPolicy {
            failures: settings.breaker_failures,
            cooldown: Duration::from_millis(settings.breaker_cooldown_ms),
        };
        let balance = Balance { requests: settings.balance_requests, percent: settings.balance_percent };
        let shared = Shared {
            id: id.to_owned(),
            addresses,
            names: lanes.iter().map(|lane| lane.model.clone()).collect(),
            balancer: Arc::new(Balancer::new(lanes, policy, balance)),
            budget: Mutex::new(RetryBudget::new(settings.retry_budget_percent)),
            hasher: PromptHasher::default(),
            max_wait: Duration::from_millis(config.queue.max_wait_ms),
            isolate: config.engine.share_prefixes == SharePrefixes::Tenant,
            resumes: model.resume != Resume::Off,
            config: settings,
        };
        let kinds = model.upstreams.iter().map(|upstream| upstream.kind).collect();
        Ok(Self { shared: Arc::new(shared), kinds, context: model.context_length, load: Arc::default() })
    }

    fn running(&self, place: Place) -> Running {
        self.load.fetch_add(1, Ordering::Relaxed);
        Running { load: Arc::clone(&self.load), _place: place }
    }

    fn known_kinds(&self) -> Vec<UpstreamKind> {
        let kinds = self.shared.balancer.report().into_iter().map(|lane| lane.config.kind);
        kinds.filter(|kind| *kind != UpstreamKind::Auto).collect()
    }

    fn context(&self, lanes: &[LaneReport]) -> Option<u32> {
        // Requests go to any of them.
        self.context.or_else(|| lanes.iter().filter_map(|lane| lane.probed?.context).min())
    }

    /// Returns the needs of a generation.
    fn wanted(&self, request: &GenerationRequest) -> Wanted {
        let kinds = KINDS.into_iter().filter(|kind| kind.lacking(request).is_none()).collect();
        Wanted { key: self.shared.hasher.key(request), kinds, tried: Vec::new() }
    }
}

impl Backend for Upstreams {
    fn capabilities(&self) -> Capabilities {
        features::capabilities(self.known_kinds().into_iter())
    }

    fn lacking(&self, request: &GenerationRequest) -> Option<(&'static str, &'static str)> {
        features::lacking(&self.known_kinds(), request)
    }

    fn continuation(&self, request: &GenerationRequest) -> Continuation {
        let kinds = continuing::kinds(request, &KINDS);
        // The same one, where there is no other, once it works again.
        let can = self.known_kinds().iter().any(|kind| kinds.contains(kind));
        if self.shared.resumes && can { Continuation::Message } else { Continuation::None }
    }

    fn condition(&self) -> Condition {
        let lanes = self.shared.balancer.report();
        let status = combine(lanes.iter().map(|lane| lane.status));
        let problems = lanes.iter().filter_map(|lane| {
            let problem = lane.problem.as_ref().filter(|_| lane.status != ModelStatus::Ready)?;
            Some(format!("{}: {problem}", lane.config.url))
        });
        let problems = problems.collect::<Vec<_>>().join("; ");
        let is_problem = !problems.is_empty();
        let public = match status {
            ModelStatus::Degraded | ModelStatus::Ready => "some of its upstreams do not work",
            ModelStatus::Loading | ModelStatus::Unhealthy => "none of its upstreams works",
        };
        Condition {
            status,
            problem: is_problem.then_some(problems),
            public_problem: is_problem.then(|| public.to_owned()),
            created: lanes.iter().find_map(|lane| lane.probed?.created),
            context_length: self.context(&lanes),
        }
    }

    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    fn reports(&self) -> Vec<ReplicaReport> {
        let lanes = self.shared.balancer.report();
        // The queue is that of all.
        let waiting = self.shared.balancer.waiting();
        let report = |(place, lane): (usize, LaneReport)| ReplicaReport {
            phase: match lane.status {
                ModelStatus::Loading => Phase::Loading,
                ModelStatus::Ready | ModelStatus::Degraded => Phase::Ready,
                ModelStatus::Unhealthy => Phase::Unhealthy,
            },
            problem: lane.problem,
            running: lane.in_flight as usize,
            waiting: if place == 0 { waiting } else { 0 },
            restarts: 0,
            kv_cells: None,
            memory: None,
            upstream: Some(UpstreamReport {
                url: lane.config.url,
                model: lane.config.model,
                kind: lane.config.kind,
                context_length: lane.probed.and_then(|probed| probed.context),
                retry_after: (!lane.retry_after.is_zero()).then_some(lane.retry_after),
            }),
        };
        lanes.into_iter().enumerate().map(report).collect()
    }

    fn generate(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Generation, GenerationError>> {
        let running = self.running(place);
        Box::pin(async move {
            let wanted = self.wanted(&request);
            let (events_in, events) = mpsc::channel(CHANNEL);
            let run = generation::run(Arc::clone(&self.shared), request, wanted, events_in);
            let task = AbortOnDrop::spawn(async move {
                let _running = running;
                run.await;
            });
            let events = unfold(Some((events, task)), async |running| {
                let (mut events, task) = running?;
                let lost = || {
                    let message = "a generation ended without a result".to_owned();
                    GenerationEvent::Failed(GenerationError::Internal(message))
                };
                let event = events.recv().await.unwrap_or_else(lost);
                let is_last = event.is_last();
                Some((event, (!is_last).then_some((events, task))))
            });
            Ok(Generation::new(events))
        })
    }

    fn embed(
        &self,
        request: EmbeddingRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Embeddings, GenerationError>> {
        let running = self.running(place);
        Box::pin(async move {
            let wanted = Wanted { key: PromptKey::default(), kinds: KINDS.to_vec(), tried: Vec::new() };
            let (made_in, made) = mpsc::channel(CHANNEL);
            let run = embeddings::run(Arc::clone(&self.shared), request, wanted, made_in);
            let task = AbortOnDrop::spawn(async move {
                let _running = running;
                run.await;
            });
            Ok(Embeddings::new(unfold((made, task), async |(mut made, task)| {
                let next = made.recv().await?;
                Some((next, (made, task)))
            })))
        })
    }

    fn inspect(&self, _: Inspect) -> BoxFuture<'_, Result<Inspected, GenerationError>> {
        let message = format!("the model `{}` does not support looking at prompts", self.shared.id);
        let refused = GenerationError::InvalidParameter { param: "model", message };
        Box::pin(std::future::ready(Err(refused)))
    }

    fn count_tokens(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<u32, GenerationError>> {
        let running = self.running(place);
        Box::pin(async move {
            let _running = running;
            let can_count = |kind: &UpstreamKind| kind.has(Feature::CountTokens);
            let known = self.known_kinds();
            if !known.is_empty() && !known.iter().any(can_count) {
                let message = format!("the upstreams of the model `{}` cannot count tokens", self.shared.id);
                return Err(GenerationError::InvalidParameter { param: "model", message });
            }
            let kinds = KINDS.into_iter().filter(can_count).collect();
            let wanted = Wanted { key: PromptKey::default(), kinds, tried: Vec::new() };
            let limit = || self.context(&self.shared.balancer.report());
            tokens::count(&self.shared, &request, wanted, limit).await
        })
    }

    fn children(&self) -> Vec<ChildSpec> {
        let child = |(place, kind): (usize, &UpstreamKind)| {
            let shared = Arc::clone(&self.shared);
            let name = format!("upstream {} of {}", shared.addresses[place].base(), shared.id);
            ChildSpec::new(name, || UpstreamActor, UpstreamArguments { shared, place, kind: *kind })
        };
        self.kinds.iter().enumerate().map(child).collect()
    }
}
