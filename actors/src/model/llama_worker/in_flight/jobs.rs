//! A worker's tasks beside generations: embeddings, which outlive it, and questions, which do not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jan_protocol::embeddings::{Embedding, EmbeddingInput, EmbeddingRequest};
use jan_protocol::types::{GenerationError, Inspect, Inspected};
use jan_protocol::worker_protocol::{self, Embed, event, to_worker};
use tokio::sync::{mpsc, oneshot};

use super::{InFlight, Trial};
use crate::model::backend::RETRY_AFTER;
use crate::model::shares::Place;

/// A request on its way into the table.
#[derive(Debug)]
pub struct EmbeddingSubmission {
    /// An id from the counter of generations.
    pub id: u64,
    /// The request.
    pub request: EmbeddingRequest,
    /// The channel for embeddings as they are made. It holds one for each input and an error at most.
    pub events: mpsc::UnboundedSender<Result<Embedding, GenerationError>>,
    /// Its places in the queue; freed with the entry.
    pub place: Place,
}

/// A request for embeddings.
#[derive(Debug)]
pub struct Job {
    /// The request without its inputs.
    request: EmbeddingRequest,
    /// The inputs that have no embedding yet, by their places.
    missing: BTreeMap<u32, EmbeddingInput>,
    events: mpsc::UnboundedSender<Result<Embedding, GenerationError>>,
    _place: Place,
    arrived: Instant,
    started: bool,
    pub(super) trial: Trial,
}

impl Job {
    /// The message to the worker: only the missing part.
    pub(super) fn message(&self, id: u64) -> Embed {
        Embed::new(id, &self.request, &self.missing)
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request.request_id
    }

    /// Resets the state after its worker has gone; the next one tokenizes again.
    pub(super) fn next_worker(&mut self) {
        self.trial.next_worker();
        self.trial.prepared = false;
    }

    pub(super) fn fail(self, error: GenerationError) {
        // The caller may have gone.
        let _ = self.events.send(Err(error));
    }

    pub(super) fn has_waited(&self, now: Instant, longest: Duration) -> bool {
        !self.started && now.saturating_duration_since(self.arrived) > longest
    }
}

/// Returns the reason why a worker refuses a request.
pub(super) fn refusal(rejected: worker_protocol::Rejected, model: &str) -> GenerationError {
    match rejected.reason {
        Some(worker_protocol::rejected::Reason::Unavailable(reason)) => {
            GenerationError::ModelUnavailable { model: model.to_owned(), reason, retry_after: RETRY_AFTER }
        }
        _ => rejected.into(),
    }
}

impl InFlight {
    /// Takes a request for embeddings in, and hands it to the worker as [`insert`](Self::insert) does.
    pub fn insert_embeddings(&mut self, submission: EmbeddingSubmission, now: Instant) {
        let EmbeddingSubmission { id, mut request, events, place } = submission;
        let missing: BTreeMap<u32, EmbeddingInput> =
            (0u32..).zip(std::mem::take(&mut request.inputs)).collect();
        if events.is_closed() || missing.is_empty() {
            return;
        }
        let job = Job {
            request,
            missing,
            events,
            _place: place,
            arrived: now,
            started: false,
            trial: Trial::default(),
        };
        self.jobs.insert(id, job);
        if self.quarantine.is_empty() {
            self.submit(id, now);
        }
    }

    pub(super) fn route_to_job(&mut self, id: u64, happened: event::Event, now: Instant) {
        // One of a request that was cancelled meanwhile has no receiver.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match happened {
            event::Event::Accepted(_) => job.trial.prepared = true,
            event::Event::Started(_) => {
                job.trial.running = true;
                job.started = true;
            }
            event::Event::Embedding(worker_protocol::Embedding { index, tokens, vector }) => {
                if job.missing.remove(&index).is_some() {
                    let _ = job.events.send(Ok(Embedding { index, tokens, vector }));
                }
                job.trial.prove();
                if job.missing.is_empty() {
                    self.jobs.remove(&id);
                }
                self.release(id, now);
            }
            event::Event::Rejected(rejected) => {
                let error = refusal(rejected, &job.request.model);
                self.fail(id, error);
                self.release(id, now);
            }
            // Only generations have these.
            event::Event::PromptScored(_) | event::Event::Output(_) | event::Event::Finished(_) => {}
        }
    }

    /// Asks the worker; `false` without one. The answer goes to `reply`, which is dropped if the worker dies.
    pub fn ask(
        &mut self,
        id: u64,
        question: Inspect,
        reply: oneshot::Sender<Result<Inspected, GenerationError>>,
    ) -> bool {
        let Some(worker) = &self.worker else { return false };
        let message = worker_protocol::Inspect::new(id, question);
        let asked = worker.send(to_worker(to_worker::Message::Inspect(message))).is_ok();
        if asked {
            self.questions.insert(id, reply);
        }
        asked
    }

    /// Passes on an answer.
    pub fn answer(&mut self, inspected: worker_protocol::Inspected) {
        if let Some(reply) = self.questions.remove(&inspected.id) {
            // The caller may have gone.
            let _ = reply.send(inspected.into_result());
        }
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
