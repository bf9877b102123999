//! The table of requests in flight on one replica: it makes a stream outlive its worker.
//!
//! Every request's prompt and every token delivered so far are kept here, so that the next worker continues where the last one
//! died. The table outlives worker processes and model actors alike.
//!
//! **Blame.** A request that kills its worker must not take the others down for ever. A request is *proven* in a worker once it
//! got a token there. When a worker dies while exactly one of its started requests is unproven, that one gets a strike; two
//! strikes, the second of them alone in its worker, and it is given up ([`GenerationError::EngineCrashed`]); one token and its
//! strikes are forgotten. After a crash the requests that were running go to the next worker one after the other, the one with
//! the new strike first, each proven before the next follows (the proven ones keep running), so that a culprit is soon alone
//! under suspicion; requests that merely waited follow behind them. Requests for embeddings ([`jobs`]) are under the same rules:
//! an embedding proves them, and those that came before a crash are not made again.

mod entry;
pub mod jobs;
mod lag;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jan_protocol::logprob_buffer::{HeldLogprobs, released};
use jan_protocol::output_formats::Layout;
use jan_protocol::parts::{PartIds, Parts};
use jan_protocol::report::PlacedLogprob;
use jan_protocol::types::{
    FinishReason, GenerationError, Inspected, PromptLogprobs, RawEvent, Token, TokenUsage,
};
use jan_protocol::worker_protocol::{
    self, Cancel, EngineLoad, Forget, Keep, Submit, ToWorker, event, to_worker,
};
use tokio::sync::{mpsc, oneshot};

pub use self::entry::Submission;
use self::entry::{Entry, Trial};
use self::jobs::Job;

/// Strikes after which a request is given up.
const STRIKES: u32 = 2;

/// Tenants that are remembered of a worker's requests; beyond them, those of later requests alone.
const MAX_CALLERS: usize = 65_536;

/// Events a request's channel holds; a slower client's are merged in the table.
pub const CHANNEL: usize = 64;

/// Messages on their way to the worker.
pub type ToWorkerSender = mpsc::UnboundedSender<ToWorker>;

/// The table, shared by its model actor, its worker link and the requests' own handles.
#[derive(Clone, Debug, Default)]
pub struct SharedTable(Arc<Mutex<InFlight>>);

impl SharedTable {
    /// Locks the table; every critical section is a few map operations long.
    pub fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct InFlight {
    entries: BTreeMap<u64, Entry>,
    /// Requests for embeddings; their ids are no entry's.
    jobs: BTreeMap<u64, Job>,
    worker: Option<ToWorkerSender>,
    /// What its engine held after its last step.
    load: EngineLoad,
    /// The parts that the present worker has.
    parts: Parts,
    /// Requests that ran when a worker died and are not yet proven in the next.
    quarantine: VecDeque<u64>,
    /// Tenants of the requests that the present worker was given, and the users that they are counted for.
    callers: HashMap<String, String>,
    /// Whoever waits for the worker to have written its prefixes.
    keeping: Option<oneshot::Sender<()>>,
    /// Its last sign of life since it was asked for that.
    last_kept: Option<Instant>,
    /// Questions that the present worker has been asked.
    questions: BTreeMap<u64, oneshot::Sender<Result<Inspected, GenerationError>>>,
    /// The time of the worker's last sign of life while it owed one.
    last_sign: Option<Instant>,
    /// The time at which it was last done with preparing a request that has nothing to be compiled.
    last_prepared: Option<Instant>,
}

impl InFlight {
    /// Returns the number of requests in flight.
    pub fn len(&self) -> usize {
        self.entries.len() + self.jobs.len()
    }

    /// Returns `true` if none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.jobs.is_empty()
    }

    /// Returns the numbers of requests whose work has begun, and of those that wait for that.
    pub fn running_and_waiting(&self) -> (usize, usize) {
        let running = self.trials().filter(|(_, trial)| trial.running).count();
        (running, self.len() - running)
    }

    /// Returns what the worker's engine held after its last step.
    pub fn load(&self) -> EngineLoad {
        self.load
    }

    /// Takes a request in and hands it to the worker, if there is one and no other request must be proven first.
    pub fn insert(&mut self, submission: Submission, now: Instant) {
        if submission.events.is_closed() {
            return;
        }
        let entry = Entry {
            request: submission.request,
            count_only: submission.count_only,
            events: submission.events,
            pending: VecDeque::new(),
            _place: submission.place,
            arrived: now,
            prompt: None,
            parts: PartIds::default(),
            layout: Layout::default(),
            generated: Vec::new(),
            logprobs: HeldLogprobs::default(),
            cached_tokens: 0,
            started: false,
            scored: false,
            trial: Trial::default(),
        };
        self.entries.insert(submission.id, entry);
        if self.quarantine.is_empty() {
            self.submit(submission.id, now);
        }
    }

    fn submit(&mut self, id: u64, now: Instant) {
        let Some(worker) = &self.worker else { return };
        let (message, trial) = if let Some(entry) = self.entries.get_mut(&id) {
            if self.callers.len() >= MAX_CALLERS {
                self.callers.clear();
            }
            self.callers.insert(entry.request.tenant.clone(), entry.request.user.clone());
            let tell = |id: u64, part: &_| {
                let _ =
                    worker.send(to_worker(to_worker::Message::Part(worker_protocol::Part::new(id, part))));
            };
            entry.parts = self.parts.hold(&entry.request, entry.prompt.as_ref(), tell);
            let layout = entry.prompt.is_some().then_some(&entry.layout);
            let message =
                Submit::new(id, &entry.request, entry.parts, layout, &entry.generated, entry.scored);
            (to_worker::Message::Submit(message.counting(entry.count_only)), &mut entry.trial)
        } else if let Some(job) = self.jobs.get_mut(&id) {
            (to_worker::Message::Embed(job.message(id)), &mut job.trial)
        } else {
            return;
        };
        if worker.send(to_worker(message)).is_ok() {
            trial.submitted = true;
            trial.submitted_at = Some(now);
            self.last_sign.get_or_insert(now);
        }
    }

    /// Returns the user that a tenant's requests are counted for, if the present worker was given any.
    pub fn caller(&self, tenant: &str) -> Option<String> {
        self.callers.get(tenant).cloned()
    }

    /// Has the worker write its prefixes to disk. `false`: there is none.
    pub fn keep(&mut self, within: Duration, reply: oneshot::Sender<()>, now: Instant) -> bool {
        let Some(worker) = &self.worker else { return false };
        self.last_kept = Some(now);
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.keeping = Some(reply);
        worker.send(to_worker(to_worker::Message::Keep(Keep { within_ms }))).is_ok()
    }

    /// Returns the time since its last sign of life meanwhile.
    pub fn keeps_silent_for(&self, now: Instant) -> Duration {
        self.last_kept.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Passes on that it has done so.
    pub fn kept(&mut self) {
        if let Some(reply) = self.keeping.take() {
            let _ = reply.send(());
        }
    }

    fn trials(&self) -> impl Iterator<Item = (u64, &Trial)> {
        let entries = self.entries.iter().map(|(&id, entry)| (id, &entry.trial));
        entries.chain(self.jobs.iter().map(|(&id, job)| (id, &job.trial)))
    }

    fn trial(&self, id: u64) -> Option<&Trial> {
        let job = || self.jobs.get(&id).map(|job| &job.trial);
        self.entries.get(&id).map(|entry| &entry.trial).or_else(job)
    }

    fn trial_mut(&mut self, id: u64) -> Option<&mut Trial> {
        match self.entries.get_mut(&id) {
            Some(entry) => Some(&mut entry.trial),
            None => self.jobs.get_mut(&id).map(|job| &mut job.trial),
        }
    }

    fn request_id(&self, id: u64) -> &str {
        let entry = self.entries.get(&id).map(|entry| &*entry.request.request_id);
        entry.or_else(|| self.jobs.get(&id).map(Job::request_id)).unwrap_or_default()
    }

    /// Hands everything in flight to a worker that is ready.
    pub fn attach(&mut self, worker: ToWorkerSender, now: Instant) {
        self.worker = Some(worker);
        self.last_sign = None;
        match self.quarantine.front() {
            Some(&first) => self.submit(first, now),
            None => self.submit_rest(now),
        }
    }

    fn submit_rest(&mut self, now: Instant) {
        let mut rest: Vec<u64> = self.trials().filter(|(_, t)| !t.submitted).map(|(id, _)| id).collect();
        // In order of arrival.
        rest.sort_unstable();
        for id in rest {
            self.submit(id, now);
        }
    }

    /// Handles the loss of the worker: blames the suspect and prepares the rest for the next worker.
    pub fn detach(&mut self) {
        let suspects = self.trials().filter(|(_, t)| t.could_be_guilty()).map(|(id, t)| (id, *t)).collect();
        self.detach_from(suspects);
    }

    /// Handles the loss of the worker for which none of these requests is the reason.
    pub fn detach_unblamed(&mut self) {
        self.detach_from(Vec::new());
    }

    fn detach_from(&mut self, suspects: Vec<(u64, Trial)>) {
        self.worker = None;
        self.load = EngineLoad::default();
        self.last_sign = None;
        self.questions.clear();
        self.callers.clear();
        self.keeping = None;
        self.parts.clear();
        let mut unproven = suspects.iter().filter(|(_, t)| !t.proven);
        let culprit = unproven.next().filter(|_| unproven.next().is_none()).map(|(id, _)| *id);
        if let Some(id) = culprit
            && let Some(trial) = self.trial_mut(id)
        {
            // One that is proven may be the culprit all the same, so only who was alone is given up.
            if suspects.len() == 1 || trial.strikes + 1 < STRIKES {
                trial.strikes += 1;
            }
            if trial.strikes >= STRIKES {
                let request_id = self.request_id(id);
                tracing::error!(%request_id, "request given up: its worker died of it twice");
                self.fail(id, GenerationError::EngineCrashed);
            }
        }
        // Still unproven from the crash before: they are under suspicion as well.
        let suspects = suspects.into_iter().map(|(id, _)| id);
        let quarantine: Vec<u64> = self.quarantine.drain(..).chain(suspects).collect();
        // The last one blamed goes first, and is alone then: it is convicted or cleared.
        let strikes = |id: u64| self.trial(id).map(|trial| (Some(id) != culprit, trial.strikes, id));
        let mut quarantine: Vec<_> = quarantine.into_iter().filter_map(strikes).collect();
        quarantine.sort_unstable();
        quarantine.dedup();
        self.quarantine = quarantine.into_iter().map(|(_, _, id)| id).collect();
        for entry in self.entries.values_mut() {
            entry.trial.next_worker();
            entry.parts = PartIds::default();
        }
        self.jobs.values_mut().for_each(Job::next_worker);
    }

    /// Lets the next request in quarantine follow, or everything else, after the request is proven or gone.
    fn release(&mut self, id: u64, now: Instant) {
        let Some(position) = self.quarantine.iter().position(|&q| q == id) else { return };
        self.quarantine.remove(position);
        match self.quarantine.front() {
            Some(&next) => {
                if self.trial(next).is_some_and(|t| !t.submitted) {
                    self.submit(next, now);
                }
            }
            None => self.submit_rest(now),
        }
    }

    /// Forgets the request of a client that has gone and notifies the worker.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        let Some(submitted) = self.trial(id).map(|trial| trial.submitted) else { return };
        self.remove(id);
        self.jobs.remove(&id);
        if submitted {
            self.tell_cancelled(id);
        }
        self.release(id, now);
    }

    /// Takes a request out of the table, and the parts that only it had out of the worker.
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        let worker = self.worker.as_ref();
        self.parts.release(entry.parts, |id| {
            if let Some(worker) = worker {
                let _ = worker.send(to_worker(to_worker::Message::Forget(Forget { id })));
            }
        });
        Some(entry)
    }

    fn tell_cancelled(&self, id: u64) {
        if let Some(worker) = &self.worker {
            let _ = worker.send(to_worker(to_worker::Message::Cancel(Cancel { id })));
        }
    }

    /// Ends one request with an error.
    pub fn fail(&mut self, id: u64, error: GenerationError) {
        if let Some(entry) = self.remove(id) {
            entry.close(RawEvent::Failed(error));
        } else if let Some(job) = self.jobs.remove(&id) {
            job.fail(error);
        }
    }

    /// Ends every request with an error.
    pub fn fail_all(&mut self, error: &GenerationError) {
        self.quarantine.clear();
        while let Some((&id, _)) = self.entries.first_key_value() {
            self.fail(id, error.clone());
        }
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.fail(error.clone());
        }
    }

    /// Passes on one step of the worker.
    pub fn route(&mut self, step: worker_protocol::Step, now: Instant) {
        self.last_sign = Some(now);
        self.last_kept = self.last_kept.map(|_| now);
        self.load = step.load.unwrap_or(self.load);
        for event in step.events {
            if let Some(happened) = event.event {
                if matches!(happened, event::Event::Accepted(_) | event::Event::Rejected(_))
                    && self.is_plain(event.id)
                {
                    self.last_prepared = Some(now);
                }
                self.route_event(event.id, happened, now);
            }
        }
        if !self.trials().any(|(_, t)| t.submitted) {
            self.last_sign = None;
        }
    }

    fn route_event(&mut self, id: u64, happened: event::Event, now: Instant) {
        let happened = match happened {
            event::Event::Accepted(mut accepted) => {
                // The first report holds for all requests with this prompt, also where the first of them has gone.
                let (tokens, text) =
                    (std::mem::take(&mut accepted.prompt_tokens), accepted.prompt_text.take());
                self.parts.accept(accepted.prompt, tokens, text);
                event::Event::Accepted(accepted)
            }
            other => other,
        };
        // An event of a request that was cancelled meanwhile has no receiver.
        let Some(entry) = self.entries.get_mut(&id) else { return self.route_to_job(id, happened, now) };
        match happened {
            event::Event::Accepted(accepted) => {
                if entry.prompt.is_none()
                    && let Some(prompt) = self.parts.accepted(entry.parts.prompt)
                {
                    let prompt_tokens = count(&prompt.tokens);
                    entry.prompt = Some(Arc::clone(&prompt.tokens));
                    entry.trial.prepared = true;
                    entry.layout = accepted.layout.unwrap_or_default().into();
                    entry.send(RawEvent::Accepted {
                        prompt_tokens,
                        prompt_text: prompt.text.clone().filter(|_| entry.request.want_prompt_text),
                        layout: entry.layout.clone(),
                    });
                    if entry.count_only {
                        self.remove(id);
                        self.release(id, now);
                    }
                }
            }
            event::Event::Rejected(rejected) => {
                let error = jobs::refusal(rejected, &entry.request.model);
                self.fail(id, error);
                self.release(id, now);
            }
            event::Event::Started(started) => {
                entry.trial.running = true;
                if !entry.started {
                    entry.started = true;
                    let prompt = entry.prompt.as_deref().map_or(0, count);
                    entry.cached_tokens = started.cached_tokens.min(prompt);
                    entry.send(RawEvent::Started { cached_tokens: entry.cached_tokens });
                }
            }
            event::Event::PromptScored(scored) => {
                entry.scored = true;
                let rest = scored.rest.into_iter().map(|token| released(token.into())).collect();
                entry.send(RawEvent::PromptScored(PromptLogprobs { first: scored.first, rest }));
            }
            event::Event::Output(output) => {
                entry.generated.extend_from_slice(&output.tokens);
                entry.trial.prove();
                let new = output.logprobs.into_iter().map(PlacedLogprob::from);
                let logprobs = entry.logprobs.push(&output.text, new);
                entry.send(RawEvent::Delta { text: output.text, tokens: output.tokens, logprobs });
                self.release(id, now);
            }
            // A generation has none.
            event::Event::Embedding(_) => {}
            event::Event::Finished(finished) => {
                let Some(mut entry) = self.remove(id) else { return };
                if !entry.started {
                    // It ended without a step of its own, e.g. with `max_tokens` 0.
                    entry.send(RawEvent::Started { cached_tokens: 0 });
                }
                let logprobs = entry.logprobs.finish(&finished.text, finished.stop_text);
                if !finished.text.is_empty() || !logprobs.is_empty() {
                    let (text, tokens) = (finished.text, Vec::new());
                    entry.send(RawEvent::Delta { text, tokens, logprobs });
                }
                let reason = match worker_protocol::FinishReason::try_from(finished.reason) {
                    Ok(worker_protocol::FinishReason::Length) => FinishReason::Length,
                    _ => FinishReason::Stop,
                };
                let usage = TokenUsage {
                    prompt_tokens: entry.prompt.as_deref().map_or(0, count),
                    cached_tokens: entry.cached_tokens,
                    completion_tokens: count(&entry.generated),
                    reasoning_tokens: finished.reasoning_tokens,
                };
                entry.close(RawEvent::Finished { reason, usage });
                self.release(id, now);
            }
        }
    }

    /// Handles the passage of time: room in slow clients' channels, and the end of the longest wait.
    pub fn tick(&mut self, now: Instant, max_wait: Duration, retry_after: Duration) {
        let mut expired = Vec::new();
        for (&id, entry) in &mut self.entries {
            entry.flush();
            if !entry.started && now.saturating_duration_since(entry.arrived) > max_wait {
                expired.push(id);
            }
        }
        let jobs = self.jobs.iter().filter(|(_, job)| job.has_waited(now, max_wait));
        expired.extend(jobs.map(|(&id, _)| id));
        for id in expired {
            if self.trial(id).is_some_and(|trial| trial.submitted) {
                self.tell_cancelled(id);
            }
            self.fail(id, GenerationError::QueueTimeout { waited: max_wait, retry_after });
            self.release(id, now);
        }
    }
}

fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
