//! A backend whose answers follow from its requests: for tests of the code in front of the seam, without llama.cpp.
//!
//! A prompt's words are its tokens, and the answer repeats them from the first, one a step, for as long as `max_tokens` allows;
//! without one it ends behind the last word. `think:` in front of a word makes it reasoning, `call:NAME` makes it a call of the
//! tool of that name with the arguments `{}`, and `stall` stops the answer until it is given up or [`Scripted::kill`] ends the
//! backend. An embedding is `[1, 0, …]`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, unfold};
use jan_protocol::embeddings::{Embedding, EmbeddingInput, EmbeddingRequest};
use jan_protocol::types::{
    FinishReason, GenerationError, GenerationRequest, Inspect, Inspected, ModelStatus, Prompt, Token,
    TokenUsage,
};
use tokio_util::sync::CancellationToken;

use super::backend::{
    Backend, Capabilities, Condition, Embeddings, Generation, GenerationEvent, Notations, OutputPart,
    RETRY_AFTER,
};
use super::shares::Place;
use crate::supervisor::ChildSpec;

/// Tokens of its context.
const CONTEXT: u32 = 256;
/// Numbers of an embedding.
const DIMENSIONS: usize = 8;

/// The backend.
#[derive(Debug, Default)]
pub struct Scripted {
    running: Arc<AtomicUsize>,
    killed: CancellationToken,
}

impl Scripted {
    /// Ends it as a crash would: its answers fail, and so does all that comes later.
    pub fn kill(&self) {
        self.killed.cancel();
    }

    fn check(&self, model: &str) -> Result<(), GenerationError> {
        let reason = "it was killed".to_owned();
        let lost =
            GenerationError::ModelUnavailable { model: model.to_owned(), reason, retry_after: RETRY_AFTER };
        if self.killed.is_cancelled() { Err(lost) } else { Ok(()) }
    }
}

/// One step of an answer.
#[derive(Debug)]
enum Step {
    Event(GenerationEvent),
    Stall,
}

/// A request under way; its resources are given back when it is dropped.
struct Running {
    count: Arc<AtomicUsize>,
    _place: Place,
}

impl Running {
    fn new(count: &Arc<AtomicUsize>, place: Place) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self { count: Arc::clone(count), _place: place }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn words(prompt: &Prompt) -> Vec<String> {
    match prompt {
        Prompt::Chat(chat) => chat
            .messages
            .iter()
            .filter_map(|message| message["content"].as_str())
            .flat_map(|text| text.split_whitespace().map(str::to_owned))
            .collect(),
        Prompt::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        Prompt::Tokens(tokens) => tokens.iter().map(|token| format!("w{token}")).collect(),
        Prompt::Infill { prefix, suffix } => [prefix, suffix].iter().map(|text| (*text).clone()).collect(),
    }
}

/// The length of a prompt, where it fits together with one token of an answer.
fn fitting(request: &GenerationRequest) -> Result<u32, GenerationError> {
    let words = words(&request.prompt).len();
    let prompt_tokens = u32::try_from(words).unwrap_or(u32::MAX);
    if prompt_tokens == 0 {
        return Err(GenerationError::InvalidPrompt { message: "the prompt has no tokens".to_owned() });
    }
    let requested = request.max_tokens.unwrap_or(1);
    if prompt_tokens.saturating_add(requested) > CONTEXT {
        return Err(GenerationError::ContextLengthExceeded { limit: CONTEXT, prompt_tokens, requested });
    }
    Ok(prompt_tokens)
}

fn parts(word: &str) -> Vec<OutputPart> {
    if let Some(thought) = word.strip_prefix("think:") {
        return vec![OutputPart::Reasoning(format!("{thought} "))];
    }
    if let Some(name) = word.strip_prefix("call:") {
        return vec![OutputPart::Call(name.to_owned()), OutputPart::Arguments("{}".to_owned())];
    }
    vec![OutputPart::Content(format!("{word} "))]
}

fn steps(request: &GenerationRequest, prompt_tokens: u32) -> Vec<Step> {
    let prompt_text = request.want_prompt_text.then(|| words(&request.prompt).join(" ").into());
    let mut steps = vec![
        Step::Event(GenerationEvent::Accepted { prompt_tokens, prompt_text }),
        Step::Event(GenerationEvent::Started { cached_tokens: 0 }),
    ];
    let answer = words(&request.prompt);
    let most = request.max_tokens.map_or(answer.len(), |most| most as usize);
    let (mut said, mut reason) = (0, FinishReason::Length);
    for word in answer.iter().cycle().take(most) {
        if request.stop.iter().any(|stop| word.contains(stop.as_str())) {
            reason = FinishReason::Stop;
            break;
        }
        said += 1;
        steps.push(match word.as_str() {
            "stall" => Step::Stall,
            word => {
                Step::Event(GenerationEvent::Output { parts: parts(word), tokens: 1, logprobs: Vec::new() })
            }
        });
    }
    if request.max_tokens.is_none() {
        reason = FinishReason::Stop;
    }
    let usage = TokenUsage { prompt_tokens, completion_tokens: said, ..TokenUsage::default() };
    steps.push(Step::Event(GenerationEvent::Finished { reason, usage }));
    steps
}

impl Backend for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constraints: Notations::NONE,
            prompt_logprobs: false,
            resumes: false,
            ..Capabilities::ALL
        }
    }

    fn condition(&self) -> Condition {
        let is_killed = self.killed.is_cancelled();
        Condition {
            status: if is_killed { ModelStatus::Unhealthy } else { ModelStatus::Ready },
            problem: None,
            public_problem: None,
            created: Some(1),
            context_length: Some(CONTEXT),
        }
    }

    fn load(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn generate(
        &self,
        request: GenerationRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Generation, GenerationError>> {
        let running = Running::new(&self.running, place);
        Box::pin(async move {
            self.check(&request.model)?;
            let steps = steps(&request, fitting(&request)?).into_iter();
            let killed = self.killed.clone();
            // One event a step, so that others run in between, as with any model.
            let one_by_one = unfold((steps, running), move |(mut steps, running)| {
                let killed = killed.clone();
                async move {
                    tokio::task::yield_now().await;
                    let event = match steps.next()? {
                        Step::Event(event) if !killed.is_cancelled() => event,
                        _ => {
                            killed.cancelled().await;
                            steps = Vec::new().into_iter();
                            GenerationEvent::Failed(GenerationError::EngineCrashed)
                        }
                    };
                    Some((event, (steps, running)))
                }
            });
            Ok(Generation::new(one_by_one))
        })
    }

    fn embed(
        &self,
        request: EmbeddingRequest,
        place: Place,
    ) -> BoxFuture<'_, Result<Embeddings, GenerationError>> {
        let running = Running::new(&self.running, place);
        let dimensions = request.dimensions.map_or(DIMENSIONS, |most| most as usize);
        let embedding = move |(index, input): (usize, EmbeddingInput)| {
            let _until_the_last = &running;
            let tokens = match input {
                EmbeddingInput::Text(text) => text.split_whitespace().count(),
                EmbeddingInput::Tokens(tokens) => tokens.len(),
            };
            let vector = (0..dimensions).map(|place| if place == 0 { 1.0 } else { 0.0 }).collect();
            Ok(Embedding { index: index as u32, tokens: tokens as u32, vector })
        };
        let inputs: Vec<_> = request.inputs.into_iter().enumerate().collect();
        Box::pin(async move { Ok(Embeddings::new(stream::iter(inputs).map(embedding))) })
    }

    fn inspect(&self, question: Inspect) -> BoxFuture<'_, Result<Inspected, GenerationError>> {
        let pieces: Vec<String> = match &question {
            Inspect::Chat { chat, .. } => words(&Prompt::Chat(chat.clone())),
            Inspect::Text { text, .. } => text.split_inclusive(' ').map(str::to_owned).collect(),
            Inspect::Tokens(tokens) => tokens.iter().map(|token| format!("w{token} ")).collect(),
        };
        let tokens = match question {
            Inspect::Tokens(tokens) => tokens,
            _ => (0..).zip(&pieces).map(|(token, _): (Token, _)| token).collect(),
        };
        let text = pieces.concat();
        let pieces = pieces.into_iter().map(String::into_bytes).collect();
        Box::pin(async move { Ok(Inspected { text, tokens, pieces }) })
    }

    fn count_tokens(
        &self,
        request: GenerationRequest,
        _place: Place,
    ) -> BoxFuture<'_, Result<u32, GenerationError>> {
        Box::pin(async move { fitting(&request) })
    }

    fn children(&self) -> Vec<ChildSpec> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract_of_backends() {
        crate::model::conformance::holds(&Scripted::default()).await;
    }

    #[tokio::test]
    async fn thoughts_and_calls_are_parsed() {
        let places = crate::model::shares::Places::new(1);
        let words = ["think:hm", "call:search", "done"];
        let parts: Vec<OutputPart> = words.iter().flat_map(|word| parts(word)).collect();
        let expected = [
            OutputPart::Reasoning("hm ".to_owned()),
            OutputPart::Call("search".to_owned()),
            OutputPart::Arguments("{}".to_owned()),
            OutputPart::Content("done ".to_owned()),
        ];
        assert_eq!((parts.as_slice(), places.taken()), (expected.as_slice(), 0));
    }
}
