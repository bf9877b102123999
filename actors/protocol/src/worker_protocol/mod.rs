//! The wire messages (generated from `proto/worker.proto`) and their translation to our own types.

#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
mod generated {
    tonic::include_proto!("jan.worker.v1");
}

mod embeddings;
mod memory;
mod parts;
mod sampling;

pub use generated::*;

pub use self::memory::memory_message;

use std::sync::Arc;

use crate::parts::PartIds;
use crate::report::{EngineLoad as Load, PlacedLogprob, PromptScores, Rejection, SequenceEvent, StepReport};
use crate::{output_formats, types};

/// Raised with every change that an older peer would misread.
pub const PROTOCOL_VERSION: u32 = 14;

/// Largest message either side takes: prompts go up to the HTTP body limit.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// HTTP/2 window: a step or a long prompt must not wait for window updates.
pub const WINDOW: u32 = 8 << 20;

/// Wraps for the server's direction.
pub fn to_worker(message: to_worker::Message) -> ToWorker {
    ToWorker { message: Some(message) }
}

/// Wraps for the worker's direction.
pub fn from_worker(message: from_worker::Message) -> FromWorker {
    FromWorker { message: Some(message) }
}

impl Submit {
    /// The message for a request made of these parts, continuing behind `generated`. `layout`: how its answer is read, of a
    /// prompt that was accepted before. `scored`: the log-probabilities of the prompt's tokens were reported already.
    pub fn new(
        id: u64,
        request: &types::GenerationRequest,
        parts: PartIds,
        layout: Option<&output_formats::Layout>,
        generated: &[types::Token],
        scored: bool,
    ) -> Self {
        Self {
            id,
            request_id: request.request_id.clone(),
            user: request.user.clone(),
            tenant: request.tenant.clone(),
            cache_key: request.cache_key.clone().unwrap_or_default(),
            prompt: parts.prompt,
            stop: parts.stop,
            logit_bias: parts.logit_bias,
            constraint: parts.constraint,
            tools: parts.tools,
            generated: generated.to_vec(),
            sampling: Some(Sampling::from(&request.sampling)),
            max_tokens: request.max_tokens,
            want_prompt_text: request.want_prompt_text,
            logprobs: request.logprobs,
            score_prompt: request.score_prompt && !scored,
            thinking_budget: request.thinking_budget,
            layout: layout.map(Into::into),
            count_only: false,
        }
    }

    /// The same for a request whose prompt is counted and not answered.
    #[must_use]
    pub fn counting(self, count_only: bool) -> Self {
        Self { count_only, ..self }
    }

    /// The request of this message, made of these parts. `None`: it lacks a field that every server of this version sends.
    pub fn into_request(self, parts: RequestParts) -> Option<types::GenerationRequest> {
        let sampling = types::SamplingParams {
            logit_bias: parts.logit_bias,
            ..types::SamplingParams::from(self.sampling?)
        };
        Some(types::GenerationRequest {
            request_id: self.request_id,
            model: String::new(),
            user: self.user,
            tenant: self.tenant,
            cache_key: Some(self.cache_key).filter(|key| !key.is_empty()),
            prompt: parts.prompt,
            sampling,
            stop: parts.stop,
            max_tokens: self.max_tokens,
            want_prompt_text: self.want_prompt_text,
            logprobs: self.logprobs,
            score_prompt: self.score_prompt,
            constraint: parts.constraint,
            tools: parts.tools,
            thinking_budget: self.thinking_budget,
        })
    }
}

/// Parts of a request, as a worker holds them.
#[derive(Clone, Debug)]
pub struct RequestParts {
    /// Prompt.
    pub prompt: Arc<types::Prompt>,
    /// Texts that end the answer.
    pub stop: Arc<[String]>,
    /// Values added to the logits of tokens.
    pub logit_bias: Arc<[(types::Token, f32)]>,
    /// Constraint of the answer.
    pub constraint: Option<Arc<types::Constraint>>,
    /// Tools that it may call.
    pub tools: Option<Arc<types::ToolPlan>>,
}

impl From<&output_formats::Layout> for Layout {
    fn from(layout: &output_formats::Layout) -> Self {
        Self {
            tools: layout.tools.map_or("", output_formats::ToolFormat::name).to_owned(),
            enforced: layout.enforced,
            reasoning: layout.reasoning.map_or("", output_formats::ReasoningFormat::name).to_owned(),
            thinking_open: layout.thinking_open,
        }
    }
}

impl From<Layout> for output_formats::Layout {
    fn from(layout: Layout) -> Self {
        Self {
            tools: output_formats::ToolFormat::by_name(&layout.tools),
            enforced: layout.enforced,
            reasoning: output_formats::ReasoningFormat::by_name(&layout.reasoning),
            thinking_open: layout.thinking_open,
        }
    }
}

impl Inspect {
    /// The message for a question.
    pub fn new(id: u64, question: types::Inspect) -> Self {
        let (what, add_special, want_tokens) = match question {
            types::Inspect::Chat { chat, tokens } => {
                let json = serde_json::to_string(&chat);
                let json = json.expect("JSON values always serialise: their keys are strings");
                (inspect::What::Chat(json), false, tokens)
            }
            types::Inspect::Text { text, add_special } => (inspect::What::Text(text), add_special, true),
            types::Inspect::Tokens(tokens) => (inspect::What::Tokens(Tokens { tokens }), false, true),
        };
        Self { id, what: Some(what), add_special, want_tokens }
    }

    /// The worker's view of it.
    ///
    /// # Errors
    /// A message that a server of this version does not send.
    pub fn into_question(self) -> Result<types::Inspect, Rejection> {
        let malformed = |what: &str| Rejection::Internal(format!("malformed inspect message: {what}"));
        Ok(match self.what.ok_or_else(|| malformed("nothing in it"))? {
            inspect::What::Chat(json) => types::Inspect::Chat {
                chat: serde_json::from_str(&json).map_err(|error| malformed(&error.to_string()))?,
                tokens: self.want_tokens,
            },
            inspect::What::Text(text) => types::Inspect::Text { text, add_special: self.add_special },
            inspect::What::Tokens(tokens) => types::Inspect::Tokens(tokens.tokens),
        })
    }
}

impl Inspected {
    /// Returns the worker's findings.
    ///
    /// # Errors
    /// The worker's complaint about the question.
    pub fn into_result(self) -> Result<types::Inspected, types::GenerationError> {
        match self.result {
            Some(inspected::Result::Prompt(InspectedPrompt { text, tokens, pieces })) => {
                Ok(types::Inspected { text, tokens, pieces })
            }
            Some(inspected::Result::Rejected(rejected)) => Err(rejected.into()),
            None => Err(types::GenerationError::Internal("the worker gave no answer".to_owned())),
        }
    }
}

/// The message that answers a question.
pub fn inspected_message(id: u64, result: Result<types::Inspected, Rejection>) -> FromWorker {
    let result = match result {
        Ok(types::Inspected { text, tokens, pieces }) => {
            inspected::Result::Prompt(InspectedPrompt { text, tokens, pieces })
        }
        Err(rejection) => inspected::Result::Rejected(rejection.into()),
    };
    from_worker(from_worker::Message::Inspected(Inspected { id, result: Some(result) }))
}

impl From<types::FinishReason> for FinishReason {
    fn from(reason: types::FinishReason) -> Self {
        match reason {
            types::FinishReason::Stop => Self::Stop,
            types::FinishReason::Length => Self::Length,
        }
    }
}

impl From<Load> for EngineLoad {
    fn from(load: Load) -> Self {
        Self {
            running: load.running,
            waiting: load.waiting,
            used_cells: load.used_cells,
            cached_cells: load.cached_cells,
            preemptions: load.preemptions,
            threads: load.threads,
            drafted: load.drafted,
            accepted: load.accepted,
        }
    }
}

impl From<types::Candidate> for Candidate {
    fn from(candidate: types::Candidate) -> Self {
        let types::Candidate { token, bytes, logprob } = candidate;
        Self { token, bytes, logprob }
    }
}

impl From<Candidate> for types::Candidate {
    fn from(candidate: Candidate) -> Self {
        let Candidate { token, bytes, logprob } = candidate;
        Self { token, bytes, logprob }
    }
}

impl From<PlacedLogprob> for TokenLogprob {
    fn from(placed: PlacedLogprob) -> Self {
        Self {
            chosen: Some(placed.chosen.into()),
            top: placed.top.into_iter().map(Candidate::from).collect(),
            text_start: placed.text_start,
            text_end: placed.text_end,
            text_offset: placed.text_offset,
        }
    }
}

impl From<TokenLogprob> for PlacedLogprob {
    fn from(wire: TokenLogprob) -> Self {
        Self {
            chosen: wire.chosen.unwrap_or_default().into(),
            top: wire.top.into_iter().map(types::Candidate::from).collect(),
            text_start: wire.text_start,
            text_end: wire.text_end,
            text_offset: wire.text_offset,
        }
    }
}

fn event(id: u64, event: event::Event) -> Event {
    Event { id, event: Some(event) }
}

/// The message for a step.
pub fn step_message(report: StepReport) -> FromWorker {
    let events = report
        .events
        .into_iter()
        .map(|(id, happened)| {
            event(
                id,
                match happened {
                    SequenceEvent::Started { cached_tokens } => {
                        event::Event::Started(Started { cached_tokens })
                    }
                    SequenceEvent::Output { tokens, text, logprobs } => {
                        let logprobs = logprobs.into_iter().map(TokenLogprob::from).collect();
                        event::Event::Output(Output { tokens, text, logprobs })
                    }
                    SequenceEvent::PromptScored(PromptScores { first, rest }) => {
                        let rest = rest.into_iter().map(TokenLogprob::from).collect();
                        event::Event::PromptScored(PromptScored { first, rest })
                    }
                    SequenceEvent::Embedding { index, tokens, vector } => {
                        event::Event::Embedding(Embedding { index, tokens, vector })
                    }
                    SequenceEvent::Unavailable { message } => event::Event::Rejected(Rejected {
                        reason: Some(rejected::Reason::Unavailable(message)),
                    }),
                    SequenceEvent::Unable { message } => {
                        event::Event::Rejected(Rejected { reason: Some(rejected::Reason::Internal(message)) })
                    }
                    SequenceEvent::Failed { message } => event::Event::Rejected(Rejected {
                        reason: Some(rejected::Reason::ConstraintTooExpensive(message)),
                    }),
                    SequenceEvent::Finished { reason, text, stop_text, reasoning_tokens } => {
                        let reason = FinishReason::from(reason).into();
                        event::Event::Finished(Finished { reason, text, stop_text, reasoning_tokens })
                    }
                },
            )
        })
        .collect();
    from_worker(from_worker::Message::Step(Step { events, load: Some(report.load.into()) }))
}

/// A step without events: the worker lives.
pub fn sign_of_life() -> FromWorker {
    from_worker(from_worker::Message::Step(Step { events: Vec::new(), load: None }))
}

/// The message that answers a submit, and a request for embeddings, whose prompts are not reported.
pub fn prepared_message(id: u64, prepared: Result<Accepted, Rejection>) -> FromWorker {
    let happened = match prepared {
        Ok(accepted) => event::Event::Accepted(accepted),
        Err(rejection) => event::Event::Rejected(rejection.into()),
    };
    from_worker(from_worker::Message::Step(Step { events: vec![event(id, happened)], load: None }))
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Self {
        Self {
            reason: Some(match rejection {
                Rejection::ContextLengthExceeded { limit, prompt_tokens, requested } => {
                    rejected::Reason::ContextLengthExceeded(ContextLengthExceeded {
                        limit,
                        prompt_tokens,
                        requested,
                    })
                }
                Rejection::InputTooLong { index, limit, tokens } => {
                    rejected::Reason::InputTooLong(InputTooLong { index, limit, tokens })
                }
                Rejection::InvalidPrompt(message) => rejected::Reason::InvalidPrompt(message),
                Rejection::InvalidParameter { param, message } => {
                    rejected::Reason::InvalidParameter(InvalidParameter { param: param.to_owned(), message })
                }
                Rejection::MalformedConstraint(message) => rejected::Reason::MalformedConstraint(message),
                Rejection::InvalidConstraint(message) => rejected::Reason::InvalidConstraint(message),
                Rejection::ConstraintTooExpensive(message) => {
                    rejected::Reason::ConstraintTooExpensive(message)
                }
                Rejection::Unavailable(message) => rejected::Reason::Unavailable(message),
                Rejection::Internal(message) => rejected::Reason::Internal(message),
            }),
        }
    }
}

impl From<Rejected> for types::GenerationError {
    fn from(rejected: Rejected) -> Self {
        match rejected.reason {
            Some(rejected::Reason::ContextLengthExceeded(e)) => Self::ContextLengthExceeded {
                limit: e.limit,
                prompt_tokens: e.prompt_tokens,
                requested: e.requested,
            },
            Some(rejected::Reason::InvalidPrompt(message)) => Self::InvalidPrompt { message },
            Some(rejected::Reason::InputTooLong(InputTooLong { index, limit, tokens })) => {
                Self::InputTooLong { index, limit, tokens }
            }
            Some(rejected::Reason::InvalidParameter(e)) => {
                let depend_on_the_model = ["dimensions", "logit_bias", "model", "suffix"];
                match depend_on_the_model.into_iter().find(|param| **param == e.param) {
                    Some(param) => Self::InvalidParameter { param, message: e.message },
                    None => Self::Internal(format!("the worker refused {}: {}", e.param, e.message)),
                }
            }
            Some(rejected::Reason::MalformedConstraint(message)) => {
                Self::MalformedConstraint { field: "", message }
            }
            Some(rejected::Reason::InvalidConstraint(message)) => {
                Self::InvalidConstraint { field: "", message }
            }
            Some(rejected::Reason::ConstraintTooExpensive(message)) => {
                Self::ConstraintTooExpensive { field: "", message }
            }
            // The caller knows the model, and takes this before.
            Some(rejected::Reason::Internal(message) | rejected::Reason::Unavailable(message)) => {
                Self::Internal(message)
            }
            None => Self::Internal("the worker refused without a reason".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PROTOCOL_VERSION;

    /// Makes every change of the messages visible in review, where the version can be forgotten.
    #[test]
    fn messages_are_those_of_the_version() {
        let source = include_str!("../../proto/worker.proto");
        let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
        let text: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        // FNV-1a, of which no library is needed.
        let add = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let digest = text.join("\n").bytes().fold(0xcbf2_9ce4_8422_2325, add);
        assert_eq!(
            (PROTOCOL_VERSION, format!("{digest:016x}").as_str()),
            (14, "ce333a31eea4742c"),
            "worker.proto has changed: raise PROTOCOL_VERSION if an older peer would misread it, and record both here"
        );
    }
}
