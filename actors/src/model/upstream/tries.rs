//! The tries of one request: a place on an upstream for each, and the decision on another one.

use std::time::{Duration, Instant};

use jan_protocol::types::GenerationError;

use super::Shared;
use super::balancer::{NoneAvailable, Slot, Wanted};
use super::refusal::TryError;
use super::retry::{FailedTry, next_try};
use crate::config::UpstreamKind;
use crate::model::backend::RETRY_AFTER;

/// The interval at which an answer that has begun looks for an upstream that works again.
const PATIENT_INTERVAL: Duration = Duration::from_millis(200);

/// The tries of a request.
#[derive(Debug)]
pub struct Tries<'a> {
    shared: &'a Shared,
    caller: &'a str,
    request_id: &'a str,
    wanted: Wanted,
    failed: u32,
    /// The time of its arrival, later by what it passed on upstreams.
    arrived: Instant,
    /// `true` for an answer that has begun, which waits for upstreams to work again.
    is_patient: bool,
}

impl<'a> Tries<'a> {
    /// The tries of a request that has just arrived.
    #[must_use]
    pub fn new(shared: &'a Shared, caller: &'a str, request_id: &'a str, wanted: Wanted) -> Self {
        shared.budget().on_request();
        Self { shared, caller, request_id, wanted, failed: 0, arrived: Instant::now(), is_patient: false }
    }

    fn deadline(&self) -> Instant {
        self.arrived + self.shared.max_wait
    }

    /// Waits for a place on an upstream.
    ///
    /// # Errors
    /// `ModelUnavailable`, or `QueueTimeout` after `queue.max_wait_ms`.
    pub async fn slot(&self) -> Result<Slot, GenerationError> {
        let acquired = async {
            loop {
                match self.shared.balancer.acquire(self.caller, self.wanted.clone()).await {
                    Err(_) if self.is_patient => tokio::time::sleep(PATIENT_INTERVAL).await,
                    other => return other,
                }
            }
        };
        match tokio::time::timeout_at(self.deadline().into(), acquired).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(NoneAvailable { reason, retry_after })) => Err(GenerationError::ModelUnavailable {
                model: self.shared.id.clone(),
                reason: reason.to_owned(),
                retry_after: retry_after.max(RETRY_AFTER),
            }),
            Err(_) => Err(GenerationError::QueueTimeout {
                waited: self.arrived.elapsed(),
                retry_after: RETRY_AFTER,
            }),
        }
    }

    /// Notes a failed try. Returns when it is time for the next one.
    ///
    /// # Errors
    /// There is none; what the caller is told.
    pub async fn again(&mut self, slot: Slot, failed: TryError) -> Result<(), GenerationError> {
        let place = slot.place;
        let balancer = &self.shared.balancer;
        if let Some(failure) = failed.failure {
            balancer.failed(place, failure, &failed.reason, Some(self.caller));
        }
        // Of 429 alone: a failure is the breaker's, whose trial finds out when it is over.
        let is_overload = failed.is_worth_another && failed.failure.is_none();
        if let Some(pause) = failed.retry_after.filter(|_| is_overload) {
            balancer.rests(place, pause);
        }
        // `queue.max_wait_ms` is for the queue: time on an upstream is bounded there, and the number of tries is.
        self.arrived += slot.since.elapsed();
        drop(slot);
        if !failed.is_worth_another {
            return Err(failed.error);
        }
        self.wanted.tried.push(place);
        let others = balancer.has_others(&self.wanted);
        let this = FailedTry { before: self.failed, retry_after: failed.retry_after, others };
        let Some(wait) = next_try(this, self.shared.config.max_retries, fastrand::f64()) else {
            return Err(failed.error);
        };
        let in_time = Instant::now() + wait < self.deadline();
        if !in_time || !self.shared.budget().take() {
            return Err(failed.error);
        }
        tracing::info!(
            request_id = self.request_id,
            reason = failed.reason,
            ?wait,
            others,
            "a request is tried again"
        );
        tokio::time::sleep(wait).await;
        self.failed += 1;
        Ok(())
    }

    /// Has the next try continue an answer on another upstream than the one that failed within it, of these kinds.
    pub fn resume(&mut self, failed: usize, kinds: Vec<UpstreamKind>) {
        self.arrived = Instant::now();
        self.is_patient = true;
        self.wanted.kinds = kinds;
        self.wanted.tried.push(failed);
    }

    /// Returns the time that the request has waited for upstreams.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.arrived.elapsed()
    }
}
