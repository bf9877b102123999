//! The state of a model's upstreams, and who gets a place on which.
//!
//! One lock, held for a few map operations. What is decided under it is pure: [`Breaker`], [`FairQueue`], [`choose`] and
//! [`KnownPrefixes`]. It lies beside the upstreams' actors and survives them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jan_protocol::types::ModelStatus;
use tokio::sync::oneshot;

use super::breaker::{Breaker, BreakerPolicy, Failure};
use super::fair_queue::FairQueue;
use super::prefixes::{KnownPrefixes, PromptKey};
use super::routing::{Balance, Candidate, choose, preference};
use crate::config::UpstreamKind;

/// Longest pause of all upstreams that new requests wait for; beyond, they are refused.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The problem that administrators see of an upstream that asked for a pause.
const RESTS: &str = "it is overloaded and asked for a pause";
/// A stream's progress is noted this often.
const PROGRESS: Duration = Duration::from_millis(100);

/// The needs of a request.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its beginning.
    pub key: PromptKey,
    /// The kinds that have all features that it needs.
    pub kinds: Vec<UpstreamKind>,
    /// Upstreams that it was tried on, which are used again only where there is no other.
    pub tried: Vec<usize>,
}

/// The reason why no upstream will take a request soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoneAvailable {
    /// The reason.
    pub reason: &'static str,
    /// The time until one may.
    pub retry_after: Duration,
}

/// The fixed properties of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// The base of its API.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Its kind; `Auto` until a probe has found out.
    pub kind: UpstreamKind,
    /// Most requests at a time.
    pub max_in_flight: u32,
    /// Its share of the load.
    pub weight: u32,
}

/// The findings of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Its kind.
    pub kind: UpstreamKind,
    /// The context of its model in tokens.
    pub context: Option<u32>,
    /// Unix seconds of the model's making.
    pub created: Option<u64>,
}

/// An upstream now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// Its properties, with the kind that was found out.
    pub config: LaneConfig,
    /// Its availability.
    pub status: ModelStatus,
    /// The reason why it gets no requests, for administrators.
    pub problem: Option<String>,
    /// The time until it is tried again, if it gets none.
    pub retry_after: Duration,
    /// Requests that it works on.
    pub in_flight: u32,
    /// The findings of the last good probe.
    pub probed: Option<Probed>,
}

#[derive(Debug)]
struct Lane {
    config: LaneConfig,
    breaker: Breaker,
    in_flight: u32,
    /// It asked for a pause until then.
    rests_until: Option<Instant>,
    known: KnownPrefixes,
    probed: Option<Probed>,
    problem: Option<String>,
    last_progress: Option<Instant>,
    /// Callers whose requests failed, and may be to blame, since the last progress.
    suspects: Vec<String>,
}

impl Lane {
    fn rest(&self, now: Instant) -> Duration {
        self.rests_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn status(&self) -> ModelStatus {
        match (self.breaker.is_closed(), &self.probed) {
            (false, _) => ModelStatus::Unhealthy,
            (true, None) => ModelStatus::Loading,
            (true, Some(_)) => ModelStatus::Ready,
        }
    }
}

type Reply = oneshot::Sender<Result<Slot, NoneAvailable>>;

#[derive(Debug)]
struct Waiter {
    wanted: Wanted,
    reply: Reply,
}

#[derive(Debug)]
struct State {
    lanes: Vec<Lane>,
    waiting: FairQueue<Waiter>,
}

/// The decision on a request now.
#[derive(Debug, PartialEq)]
enum Verdict {
    Take(usize),
    Wait,
    Refuse(NoneAvailable),
}

/// The upstreams of a model.
#[derive(Debug)]
pub struct Balancer {
    state: Mutex<State>,
    balance: Balance,
}

impl Balancer {
    /// Upstreams that were not probed yet.
    #[must_use]
    pub fn new(lanes: Vec<LaneConfig>, breaker: BreakerPolicy, balance: Balance) -> Self {
        let lane = |config| Lane {
            config,
            breaker: Breaker::new(breaker),
            in_flight: 0,
            rests_until: None,
            known: KnownPrefixes::default(),
            probed: None,
            problem: None,
            last_progress: None,
            suspects: Vec::new(),
        };
        let state = State { lanes: lanes.into_iter().map(lane).collect(), waiting: FairQueue::default() };
        Self { state: Mutex::new(state), balance }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything else happens.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place on an upstream, callers in turn. Dropping the future gives the turn up.
    ///
    /// # Errors
    /// No upstream will take the request soon.
    pub async fn acquire(self: &Arc<Self>, caller: &str, wanted: Wanted) -> Result<Slot, NoneAvailable> {
        let (reply, answer) = oneshot::channel();
        let id = self.lock().waiting.push(caller, Waiter { wanted, reply });
        // Whoever gives up takes no turn any more.
        let _turn = Turn { balancer: self, caller, id };
        self.dispatch();
        let gone = NoneAvailable { reason: "it is stopping", retry_after: Duration::ZERO };
        answer.await.unwrap_or(Err(gone))
    }

    /// Gives places to waiting requests, as far as there are any.
    pub fn dispatch(self: &Arc<Self>) {
        let now = Instant::now();
        let mut answers = Vec::new();
        {
            let mut state = self.lock();
            loop {
                let State { lanes, waiting } = &mut *state;
                // Checked again below with prefixes, which take longer.
                let fits = |waiter: &Waiter| Self::verdict(lanes, &waiter.wanted, now, None) != Verdict::Wait;
                let Some(Waiter { wanted, reply }) = waiting.take_first(fits) else { break };
                match Self::verdict(lanes, &wanted, now, Some(self.balance)) {
                    Verdict::Take(place) => {
                        let lane = &mut lanes[place];
                        lane.in_flight += 1;
                        lane.known.note(&wanted.key.blocks);
                        let config = lane.config.clone();
                        answers.push((
                            reply,
                            Ok(Slot { balancer: Arc::clone(self), place, config, since: now, noted: None }),
                        ));
                    }
                    Verdict::Refuse(none) => answers.push((reply, Err(none))),
                    Verdict::Wait => break,
                }
            }
        }
        // Beyond the lock: a place that nobody waits for any more is given back when it is dropped.
        for (reply, answer) in answers {
            let _ = reply.send(answer);
        }
    }

    /// Decides on a request. Without `balance` any of the upstreams that can take it is named.
    fn verdict(lanes: &[Lane], wanted: &Wanted, now: Instant, balance: Option<Balance>) -> Verdict {
        let is_open = |lane: &Lane| lane.probed.is_some() && lane.breaker.is_closed();
        let able: Vec<usize> = (0..lanes.len())
            .filter(|place| is_open(&lanes[*place]) && wanted.kinds.contains(&lanes[*place].config.kind))
            .collect();
        if able.is_empty() {
            let waits = lanes.iter().map(|lane| lane.breaker.retry_after(now)).filter(|wait| !wait.is_zero());
            let reason = match lanes.iter().all(|lane| lane.probed.is_none()) {
                true => "no upstream has been reached yet",
                false => "no upstream that can answer this request works",
            };
            return Verdict::Refuse(NoneAvailable { reason, retry_after: waits.min().unwrap_or_default() });
        }
        let untried = able.iter().copied().filter(|place| !wanted.tried.contains(place));
        let untried: Vec<usize> = untried.collect();
        let able = if untried.is_empty() { able } else { untried };
        let awake = able.iter().copied().filter(|place| lanes[*place].rest(now).is_zero());
        let free: Vec<usize> =
            awake.filter(|place| lanes[*place].in_flight < lanes[*place].config.max_in_flight).collect();
        let Some(&first) = free.first() else {
            let pause = able.iter().map(|place| lanes[*place].rest(now)).min().unwrap_or_default();
            return match pause > MAX_PAUSE {
                true => Verdict::Refuse(NoneAvailable {
                    reason: "its upstreams are overloaded",
                    retry_after: pause,
                }),
                false => Verdict::Wait,
            };
        };
        let Some(balance) = balance else { return Verdict::Take(first) };
        let candidate = |place: usize| {
            let LaneConfig { url, model, weight, .. } = &lanes[place].config;
            Candidate {
                place,
                in_flight: lanes[place].in_flight,
                weight: *weight,
                matched: lanes[place].known.matched(&wanted.key.blocks),
                preference: preference(url, model, *weight, wanted.key.conversation),
            }
        };
        let candidates: Vec<Candidate> = free.into_iter().map(candidate).collect();
        choose(&candidates, wanted.key.blocks.len(), balance).map_or(Verdict::Wait, Verdict::Take)
    }

    /// Returns `true` if an upstream that is not in `tried` could take such a request.
    #[must_use]
    pub fn has_others(&self, wanted: &Wanted) -> bool {
        self.lock().lanes.iter().enumerate().any(|(place, lane)| {
            let is_able = lane.probed.is_some() && wanted.kinds.contains(&lane.config.kind);
            is_able && lane.breaker.is_closed() && !wanted.tried.contains(&place)
        })
    }

    /// Notes the result of a probe.
    pub fn probed(self: &Arc<Self>, place: usize, result: Result<Probed, String>) {
        {
            let mut state = self.lock();
            let lane = &mut state.lanes[place];
            let url = &lane.config.url;
            match &result {
                Ok(probed) if lane.probed != Some(*probed) => {
                    tracing::info!(upstream = url, kind = ?probed.kind, context = probed.context, "an upstream is there");
                }
                Err(problem) if lane.problem.as_ref() != Some(problem) => {
                    tracing::warn!(upstream = url, problem, "an upstream failed a probe");
                }
                _ => {}
            }
            lane.breaker.on_probe(result.is_ok(), Instant::now());
            match result {
                Ok(probed) => {
                    lane.config.kind = probed.kind;
                    lane.probed = Some(probed);
                    if lane.breaker.is_closed() {
                        lane.problem = None;
                    }
                }
                Err(problem) => lane.problem = Some(problem),
            }
        }
        self.dispatch();
    }

    /// Begins a trial of an upstream whose breaker wants one.
    pub fn begin_trial(&self, place: usize) -> bool {
        let mut state = self.lock();
        let lane = &mut state.lanes[place];
        lane.probed.is_some() && lane.breaker.begin_trial(Instant::now())
    }

    /// Notes that a trial ended without a result.
    pub fn trial_abandoned(&self, place: usize) {
        self.lock().lanes[place].breaker.on_trial_abandoned();
    }

    /// Notes that an upstream made a token.
    pub fn progressed(self: &Arc<Self>, place: usize) {
        let was_closed = {
            let mut state = self.lock();
            let lane = &mut state.lanes[place];
            lane.last_progress = Some(Instant::now());
            let was_closed = lane.breaker.is_closed();
            lane.breaker.on_progress();
            lane.suspects.clear();
            if !was_closed {
                lane.problem = None;
            }
            was_closed
        };
        if !was_closed {
            self.dispatch();
        }
    }

    /// Notes the failure of an upstream at a caller's request; without one at a trial. Requests of one caller that may be to blame
    /// themselves count once, so that nobody keeps an upstream from others by what makes it fail.
    pub fn failed(self: &Arc<Self>, place: usize, failure: Failure, reason: &str, caller: Option<&str>) {
        let (is_closed, url) = {
            let mut state = self.lock();
            let lane = &mut state.lanes[place];
            let suspect = caller.filter(|_| failure == Failure::Suspect);
            if suspect.is_none_or(|caller| !lane.suspects.iter().any(|known| known == caller)) {
                lane.suspects.extend(suspect.map(str::to_owned));
                lane.breaker.on_failure(failure, Instant::now());
            }
            lane.problem = Some(reason.to_owned());
            let is_closed = lane.breaker.is_closed();
            if !is_closed {
                // It is started anew, probably.
                lane.known.forget();
                lane.suspects.clear();
            }
            (is_closed, lane.config.url.clone())
        };
        tracing::warn!(upstream = url, ?failure, reason, gets_requests = is_closed, "an upstream failed");
        // Requests that wait for it alone are refused.
        self.dispatch();
    }

    /// Notes that an upstream asked for a pause.
    pub fn rests(&self, place: usize, pause: Duration) {
        let mut state = self.lock();
        let lane = &mut state.lanes[place];
        lane.rests_until = lane.rests_until.max(Some(Instant::now() + pause));
    }

    /// Returns the time of the last token of any answer of an upstream.
    #[must_use]
    pub fn last_progress(&self, place: usize) -> Option<Instant> {
        self.lock().lanes[place].last_progress
    }

    /// Returns the upstreams now, in the order of the configuration.
    #[must_use]
    pub fn report(&self) -> Vec<LaneReport> {
        let now = Instant::now();
        let report = |lane: &Lane| {
            let rest = lane.rest(now);
            let is_resting = lane.breaker.is_closed() && !rest.is_zero();
            LaneReport {
                config: lane.config.clone(),
                status: lane.status(),
                problem: if is_resting { Some(RESTS.to_owned()) } else { lane.problem.clone() },
                retry_after: lane.breaker.retry_after(now).max(rest),
                in_flight: lane.in_flight,
                probed: lane.probed,
            }
        };
        self.lock().lanes.iter().map(report).collect()
    }

    /// Returns the number of requests that wait for an upstream.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

/// A request's turn.
struct Turn<'a> {
    balancer: &'a Arc<Balancer>,
    caller: &'a str,
    id: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Its reply is dropped beyond the lock.
        let waiter = self.balancer.lock().waiting.remove(self.caller, self.id);
        drop(waiter);
    }
}

/// A place on an upstream. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    balancer: Arc<Balancer>,
    /// The upstream's place in the configuration.
    pub place: usize,
    /// Its properties.
    pub config: LaneConfig,
    /// The time at which it was given.
    pub since: Instant,
    /// The time at which progress was noted last.
    noted: Option<Instant>,
}

impl Slot {
    /// Notes that the upstream sent more of the answer.
    pub fn progressed(&mut self) {
        let now = Instant::now();
        if self.noted.is_none_or(|noted| now.saturating_duration_since(noted) >= PROGRESS) {
            self.noted = Some(now);
            self.balancer.progressed(self.place);
        }
    }

    /// Returns the time of the last progress of any answer of the upstream.
    #[must_use]
    pub fn last_progress(&self) -> Option<Instant> {
        self.balancer.last_progress(self.place)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.balancer.lock();
            let lane = &mut state.lanes[self.place];
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        self.balancer.dispatch();
    }
}

#[cfg(test)]
#[path = "balancer_tests.rs"]
mod tests;
