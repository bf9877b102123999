//! The actor of one upstream: it probes it, and tries whether it works again after failures.
//!
//! Answers run in tasks beside it, and its state is next to it ([`Balancer`](super::balancer::Balancer)), so that neither waits for
//! its mailbox nor ends with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::abort::AbortOnDrop;
use super::balancer::Probed;
use super::breaker::Failure;
use super::http::bounded;
use super::refusal::{Asked, TryError};
use super::request::{self, UpstreamRequest};
use super::{Shared, probe};
use crate::config::UpstreamKind;

/// The interval at which it looks for what is due.
const TICK: Duration = Duration::from_millis(100);
/// Maximum size of a list of models.
const MAX_LIST: usize = 4 << 20;
/// Maximum size of the answer of a trial.
const MAX_TRIAL: usize = 1 << 20;

/// The actor of one upstream.
#[derive(Debug)]
pub struct UpstreamActor;

/// The parameters of the actor.
#[derive(Clone, Debug)]
pub struct UpstreamArguments {
    /// The model's upstreams.
    pub shared: Arc<Shared>,
    /// The place of this one among them.
    pub place: usize,
    /// The kind that was configured.
    pub kind: UpstreamKind,
}

/// Messages of the actor.
#[derive(Debug)]
pub enum UpstreamMessage {
    /// Time passed.
    Tick,
}

/// The state of the actor.
#[derive(Debug)]
pub struct UpstreamState {
    arguments: UpstreamArguments,
    next_probe: Instant,
    /// The probe under way; it ends with the actor, and so does the trial.
    probe: Option<AbortOnDrop>,
    trial: Option<AbortOnDrop>,
}

#[ractor::async_trait]
impl Actor for UpstreamActor {
    type Msg = UpstreamMessage;
    type State = UpstreamState;
    type Arguments = UpstreamArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.cast(UpstreamMessage::Tick)?;
        myself.send_interval(TICK, || UpstreamMessage::Tick);
        Ok(UpstreamState { arguments, next_probe: Instant::now(), probe: None, trial: None })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        UpstreamMessage::Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let UpstreamArguments { shared, place, .. } = &state.arguments;
        let now = Instant::now();
        if state.probe.as_ref().is_none_or(AbortOnDrop::is_finished) && state.next_probe <= now {
            let interval = Duration::from_millis(shared.config.probe_interval_ms);
            // Several servers do not probe in step.
            state.next_probe = now + interval.mul_f64(0.8 + fastrand::f64() * 0.4);
            state.probe = Some(AbortOnDrop::spawn(probed(state.arguments.clone())));
        }
        if state.trial.as_ref().is_none_or(AbortOnDrop::is_finished) && shared.balancer.begin_trial(*place) {
            state.trial = Some(AbortOnDrop::spawn(tried(state.arguments.clone())));
        }
        // Pauses that upstreams asked for end without any other event.
        if *place == 0 {
            shared.balancer.dispatch();
        }
        Ok(())
    }
}

/// Asks for the list of models, and notes the result.
async fn probed(UpstreamArguments { shared, place, kind }: UpstreamArguments) {
    let result = list(&shared, place, kind).await;
    shared.balancer.probed(place, result);
}

async fn list(shared: &Shared, place: usize, kind: UpstreamKind) -> Result<Probed, String> {
    let asked = Asked { model: &shared.id, requested: 0 };
    let deadline = Instant::now() + shared.config.probe_timeout();
    let answer =
        shared.addresses[place].get("/models", deadline, asked).await.map_err(|failed| failed.reason)?;
    let body = bounded(answer, MAX_LIST, deadline, asked).await.map_err(|failed| failed.reason)?;
    probe::read(&body, &shared.names[place], kind)
}

/// Has the upstream make one token, and notes the result. No caller waits for it.
async fn tried(UpstreamArguments { shared, place, .. }: UpstreamArguments) {
    // An actor that ends meanwhile leaves it to the next one.
    let mut abandoned = Abandoned { shared: &shared, place, is_settled: false };
    let kind = shared.balancer.report().get(place).map_or(UpstreamKind::Openai, |lane| lane.config.kind);
    let name = &shared.names[place];
    let [chat, others @ ..] = request::trials(kind, name);
    let mut result = token(&shared, place, &chat).await;
    for other in &others {
        if !result.as_ref().is_err_and(TryError::refuses_route) {
            break;
        }
        result = token(&shared, place, other).await;
    }
    abandoned.is_settled = true;
    match result {
        Ok(()) => {
            tracing::info!(upstream = shared.addresses[place].base(), "an upstream works again");
            shared.balancer.progressed(place);
        }
        Err(failed) => {
            let failure = failed.failure.unwrap_or(Failure::Failed);
            shared.balancer.failed(place, failure, &failed.reason, None);
        }
    }
}

struct Abandoned<'a> {
    shared: &'a Shared,
    place: usize,
    is_settled: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.shared.balancer.trial_abandoned(self.place);
        }
    }
}

/// Returns `Ok` if there is an answer with something in it.
async fn token(shared: &Shared, place: usize, trial: &UpstreamRequest) -> Result<(), TryError> {
    let asked = Asked { model: &shared.id, requested: 1 };
    let deadline = Instant::now() + shared.config.first_token_timeout();
    let answer = shared.addresses[place].post(trial.route, &trial.body, "", deadline, asked).await?;
    let body = bounded(answer, MAX_TRIAL, deadline, asked).await?;
    let text = String::from_utf8_lossy(&body);
    let is_answer = ["\"finish_reason\"", "\"embedding\""].iter().any(|member| text.contains(member));
    let is_error = text.contains("\"error\"");
    if is_answer && !is_error {
        Ok(())
    } else {
        let broken = asked.broken("the answer to a trial is none".to_owned());
        Err(TryError { failure: Some(Failure::Failed), ..broken })
    }
}
