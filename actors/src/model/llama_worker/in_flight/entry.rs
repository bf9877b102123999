//! One request of the table: its state in the present worker, and the delivery of its events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use jan_protocol::logprob_buffer::HeldLogprobs;
use jan_protocol::output_formats::Layout;
use jan_protocol::parts::PartIds;
use jan_protocol::types::{GenerationRequest, RawEvent, Token};
use tokio::sync::mpsc;

use crate::model::shares::Place;

/// A request on its way into the table.
#[derive(Debug)]
pub struct Submission {
    /// An id from one counter for the whole process, so that order of ids is order of arrival.
    pub id: u64,
    /// The request.
    pub request: GenerationRequest,
    /// `true` if it ends once the length of its prompt is known.
    pub count_only: bool,
    /// The receiver of its events.
    pub events: mpsc::Sender<RawEvent>,
    /// Its place in the queue; freed with the entry.
    pub place: Place,
}

/// A request in the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: GenerationRequest,
    pub(super) count_only: bool,
    pub(super) events: mpsc::Sender<RawEvent>,
    /// Events that the channel had no room for.
    pub(super) pending: VecDeque<RawEvent>,
    pub(super) _place: Place,
    pub(super) arrived: Instant,
    pub(super) prompt: Option<Arc<[Token]>>,
    /// The present worker's ids of its parts.
    pub(super) parts: PartIds,
    pub(super) layout: Layout,
    pub(super) generated: Vec<Token>,
    pub(super) logprobs: HeldLogprobs,
    pub(super) cached_tokens: u32,
    pub(super) started: bool,
    /// `true` if the log-probabilities of the prompt's tokens were reported for it.
    pub(super) scored: bool,
    pub(super) trial: Trial,
}

/// The state of a request in the present worker, and in those before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trial {
    /// `true` if the present worker has it; the next field is the time since then.
    pub(super) submitted: bool,
    pub(super) submitted_at: Option<Instant>,
    /// `true` if its tokens are known.
    pub(super) prepared: bool,
    /// `true` if the present worker began to read it.
    pub(super) running: bool,
    /// `true` if the present worker gave a token for it.
    pub(super) proven: bool,
    pub(super) strikes: u32,
}

impl Trial {
    /// Returns `true` if the present worker could die of it: it is being prepared or run, not merely waiting.
    pub(super) fn could_be_guilty(&self) -> bool {
        self.submitted && (self.running || !self.prepared)
    }

    /// Marks that it gave a requested result.
    pub(super) fn prove(&mut self) {
        self.proven = true;
        self.strikes = 0;
    }

    /// Resets the state after its worker has gone.
    pub(super) fn next_worker(&mut self) {
        (self.submitted, self.running, self.proven) = (false, false, false);
    }
}

impl Entry {
    pub(super) fn send(&mut self, event: RawEvent) {
        let event = if self.pending.is_empty() {
            match self.events.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(event)) => event,
            }
        } else {
            event
        };
        // Deltas are merged, so that a client that does not read costs its answer's length and no more.
        if let (
            Some(RawEvent::Delta { text, tokens, logprobs }),
            RawEvent::Delta { text: more, tokens: t, logprobs: l },
        ) = (self.pending.back_mut(), &event)
        {
            text.push_str(more);
            tokens.extend_from_slice(t);
            logprobs.extend_from_slice(l);
        } else {
            self.pending.push_back(event);
        }
    }

    pub(super) fn flush(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => self.pending.clear(),
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.pending.push_front(event);
                    return;
                }
            }
        }
    }

    /// Sends the last event. Events that a slow client has not taken yet are delivered as it reads.
    pub(super) fn close(mut self, last: RawEvent) {
        self.send(last);
        if self.pending.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (events, pending) = (self.events, self.pending);
            runtime.spawn(async move {
                for event in pending {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}
