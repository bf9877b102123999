//! One answer of an upstream: a task that tries, reads the stream and passes its pieces on.
//!
//! The task ends with its [`Generation`](crate::model::backend::Generation): it is aborted, which closes the connection, which makes
//! the upstream give the answer up. A caller that does not read stops the reading of the stream; what lies in between is bounded by
//! the channel and the sockets' buffers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jan_protocol::types::{GenerationError, GenerationRequest, Prompt};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::balancer::{Slot, Wanted};
use super::breaker::Failure;
use super::chunks::{Answer, BadChunk, Piece};
use super::continuing::{self, SoFar};
use super::http::chain;
use super::refusal::{Asked, TryError};
use super::request;
use super::sse::SseParser;
use super::tries::Tries;
use super::{KINDS, Shared};
use crate::model::backend::{GenerationEvent, RETRY_AFTER};

/// Events that a channel holds.
pub const CHANNEL: usize = 64;

/// Bytes of a prompt that make a token at least, in practice: what a request is charged whose upstream reports the length of its
/// prompt at the end alone, until it does.
const BYTES_A_TOKEN: usize = 8;

/// The end of a try.
enum End {
    /// The answer has ended.
    Whole,
    /// Nobody waits for it any more.
    Left,
    /// It failed before anything was passed on.
    Before(Box<TryError>),
    /// It broke off behind the first piece.
    Within(Failure, String),
}

/// Runs a request to its end.
pub async fn run(
    shared: Arc<Shared>,
    request: GenerationRequest,
    wanted: Wanted,
    events: mpsc::Sender<GenerationEvent>,
) {
    let mut tries = Tries::new(&shared, &request.user, &request.request_id, wanted);
    let mut so_far = SoFar::default();
    let error = loop {
        let mut slot = match tries.slot().await {
            Ok(slot) => slot,
            Err(error) => break error,
        };
        match (Try { shared: &shared, request: &request, events: &events }).run(&mut slot, &mut so_far).await
        {
            End::Whole | End::Left => return,
            End::Before(failed) => {
                if let Err(error) = tries.again(slot, *failed).await {
                    break error;
                }
            }
            End::Within(failure, reason) => {
                let place = slot.place;
                shared.balancer.failed(place, failure, &reason, Some(&request.user));
                drop(slot);
                let kinds = continuing::kinds(&request, &KINDS);
                if !shared.resumes || kinds.is_empty() || !so_far.can_go_on(&request) {
                    break broke_off(&shared);
                }
                so_far.resume(&request);
                tries.resume(place, kinds);
                tracing::info!(request_id = request.request_id, reason, "an answer goes on elsewhere");
            }
        }
    };
    // A refusal of the rest is none of the request, whose answer has begun.
    let error = if so_far.is_begun { broke_off(&shared) } else { error };
    tracing::debug!(request_id = request.request_id, waited = ?tries.waited(), %error, "no answer");
    let _ = events.send(GenerationEvent::Failed(error)).await;
}

fn broke_off(shared: &Shared) -> GenerationError {
    let reason = "its upstream broke the answer off".to_owned();
    GenerationError::UpstreamFailed { model: shared.id.clone(), reason }
}

struct Try<'a> {
    shared: &'a Shared,
    request: &'a GenerationRequest,
    events: &'a mpsc::Sender<GenerationEvent>,
}

/// The result of waiting for bytes.
enum Waited {
    Bytes(Bytes),
    End,
    Broken(Failure, String),
    /// Other answers of the upstream go on, and this one has not begun: it waits in a queue there.
    Queued,
}

impl Try<'_> {
    async fn run(&self, slot: &mut Slot, so_far: &mut SoFar) -> End {
        let rest = so_far.is_begun.then(|| so_far.rest(self.request));
        let request = rest.as_ref().unwrap_or(self.request);
        let asked = Asked::of(&self.shared.id, self.request);
        let config = &slot.config;
        let asking = request::generation(config.kind, &config.model, request, self.shared.isolate);
        let since = Instant::now();
        let deadline = since + self.shared.config.first_token_timeout();
        let address = &self.shared.addresses[slot.place];
        let begun = address.post(asking.route, &asking.body, &self.request.request_id, deadline, asked).await;
        // What is not needed while the answer is read, which may take minutes.
        drop(asking);
        match begun {
            Ok(response) => self.read(response, slot, so_far, since, asked).await,
            Err(failed) if failed.failure == Some(Failure::Stalled) && self.is_alive(slot) => queued(since),
            Err(failed) => End::Before(Box::new(failed)),
        }
    }

    /// Returns `true` if other answers of the upstream go on.
    fn is_alive(&self, slot: &Slot) -> bool {
        slot.last_progress().is_some_and(|last| last.elapsed() < self.shared.config.stall_timeout())
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        slot: &mut Slot,
        so_far: &mut SoFar,
        mut since: Instant,
        asked: Asked<'_>,
    ) -> End {
        let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        if !kind.starts_with(b"text/event-stream") {
            let reason = format!("its answer is {}, no stream of events", String::from_utf8_lossy(kind));
            return End::Before(Box::new(asked.broken(reason)));
        }
        let (mut parser, mut answer) = (SseParser::default(), Answer::behind(so_far.characters()));
        // Of this try.
        let mut is_begun = false;
        let fail = |is_begun: bool, failure: Failure, reason: String| match is_begun {
            true => End::Within(failure, reason),
            false => End::Before(Box::new(asked.unreachable(failure, reason))),
        };
        loop {
            while let Some(event) = parser.next() {
                let was_ended = answer.end(0).is_some();
                let mut piece = match answer.read(&event.data) {
                    Ok(piece) => piece,
                    Err(bad) if is_begun => return End::Within(Failure::Suspect, bad.to_string()),
                    Err(bad) => return End::Before(Box::new(refused(asked, bad))),
                };
                if self.request.logprobs.is_none() {
                    piece.logprobs = Vec::new();
                }
                // Tokens count, and no events without any, such as an error or the role.
                let is_progress = !piece.is_empty() || (!was_ended && answer.end(0).is_some());
                if is_progress {
                    slot.progressed();
                }
                if !self.pass_on(&answer, piece, so_far, &mut is_begun).await {
                    return End::Left;
                }
                if is_progress {
                    // The caller may have taken its time.
                    since = Instant::now();
                }
                if answer.is_done() {
                    break;
                }
            }
            if answer.is_done() {
                break;
            }
            match self.next_bytes(&mut response, slot, since, is_begun).await {
                Waited::Bytes(bytes) => {
                    if let Err(error) = parser.push(&bytes) {
                        return fail(is_begun, Failure::Suspect, error.to_string());
                    }
                }
                // The end of the answer is known: only the usage may be missing, and is counted then.
                _ if answer.end(0).is_some() => break,
                Waited::End => {
                    return fail(
                        is_begun,
                        Failure::Unreachable,
                        "its stream ended within the answer".to_owned(),
                    );
                }
                Waited::Broken(failure, reason) => return fail(is_begun, failure, reason),
                Waited::Queued => return queued(since),
            }
        }
        let Some((reason, usage)) = answer.end(self.least_prompt()) else {
            return fail(
                is_begun,
                Failure::Suspect,
                "its stream ended without the end of the answer".to_owned(),
            );
        };
        let usage = so_far.usage(usage);
        let _ = self.events.send(GenerationEvent::Finished { reason, usage }).await;
        End::Whole
    }

    /// Passes a piece on, behind the events that begin an answer. `false`: nobody waits for it any more.
    async fn pass_on(
        &self,
        answer: &Answer,
        mut piece: Piece,
        so_far: &mut SoFar,
        is_begun: &mut bool,
    ) -> bool {
        *is_begun |= !piece.is_empty() || answer.end(0).is_some();
        if *is_begun && !so_far.is_begun {
            so_far.is_begun = true;
            let (prompt_tokens, cached_tokens) = answer.prompt().unwrap_or((self.least_prompt(), 0));
            so_far.prompt = (prompt_tokens, cached_tokens);
            let prompt_text = match &*self.request.prompt {
                Prompt::Text(text) if self.request.want_prompt_text => Some(text.as_str().into()),
                _ => None,
            };
            let accepted = GenerationEvent::Accepted { prompt_tokens, prompt_text };
            for event in [accepted, GenerationEvent::Started { cached_tokens }] {
                if self.events.send(event).await.is_err() {
                    return false;
                }
            }
        }
        if piece.is_empty() {
            return !self.events.is_closed();
        }
        so_far.note(&mut piece);
        let Piece { parts, tokens, logprobs } = piece;
        self.events.send(GenerationEvent::Output { parts, tokens, logprobs }).await.is_ok()
    }

    /// Returns a lower bound of the prompt's length in tokens.
    fn least_prompt(&self) -> u32 {
        let bytes = match &*self.request.prompt {
            Prompt::Chat(chat) => {
                chat.messages.iter().map(|message| message["content"].as_str().map_or(0, str::len)).sum()
            }
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(tokens) => tokens.len() * BYTES_A_TOKEN,
            Prompt::Infill { prefix, suffix } => prefix.len() + suffix.len(),
        };
        u32::try_from(bytes / BYTES_A_TOKEN).unwrap_or(u32::MAX).max(1)
    }

    /// Waits for more of the stream, as long as the upstream shows that it works: health is progress.
    async fn next_bytes(
        &self,
        response: &mut reqwest::Response,
        slot: &Slot,
        since: Instant,
        is_begun: bool,
    ) -> Waited {
        let config = &self.shared.config;
        let longest = since + config.first_token_timeout();
        loop {
            let deadline = if is_begun {
                let last = slot.last_progress().map_or(since, |last| last.max(since));
                longest.min(last + config.stall_timeout())
            } else {
                longest
            };
            // Beyond it no bytes help: they came all the while, without a token.
            if Instant::now() < longest {
                match tokio::time::timeout_at(deadline.into(), response.chunk()).await {
                    Ok(Ok(Some(bytes))) => return Waited::Bytes(bytes),
                    Ok(Ok(None)) => return Waited::End,
                    Ok(Err(error)) => {
                        return Waited::Broken(Failure::Unreachable, chain(&error.without_url()));
                    }
                    Err(_) => {}
                }
            }
            let now = Instant::now();
            match (self.is_alive(slot), now >= longest) {
                (true, false) => {}
                (true, true) if !is_begun => return Waited::Queued,
                (true, true) => return Waited::Broken(Failure::Suspect, silent_for(since)),
                (false, _) => return Waited::Broken(Failure::Stalled, silent_for(since)),
            }
        }
    }
}

/// The end of a try that waited in the queue of an upstream that works.
fn queued(since: Instant) -> End {
    End::Before(Box::new(TryError {
        error: GenerationError::QueueTimeout { waited: since.elapsed(), retry_after: RETRY_AFTER },
        failure: None,
        is_worth_another: false,
        retry_after: None,
        reason: "no token in time, while others get theirs".to_owned(),
        status: None,
    }))
}

fn silent_for(since: Instant) -> String {
    let silent = Duration::from_millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    format!("it owes a token and has been silent for {silent:?}")
}

/// Returns the meaning of a bad first event.
fn refused(asked: Asked<'_>, bad: BadChunk) -> TryError {
    let BadChunk::Reported(error) = bad else { return asked.broken(bad.to_string()) };
    let status = error["code"].as_u64().or_else(|| error["code"].as_str().and_then(|code| code.parse().ok()));
    let status =
        status.and_then(|status| u16::try_from(status).ok()).filter(|status| (400..600).contains(status));
    let body: Value = json!({"error": error});
    asked.refused(status.unwrap_or(500), None, body.to_string().as_bytes())
}
