//! The choices of a request: started together, multiplexed into one stream of events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{SelectAll, select_all, unfold};
use futures_util::{Stream, StreamExt};
use jan_actors::conversations::Turn;
use jan_actors::model::{
    FinishReason, Generation, GenerationError, GenerationEvent, GenerationRequest, Models, OutputPart,
    PromptLogprobs, TokenLogprob, TokenUsage,
};
use jan_actors::web_search::WebSource;
use jan_protocol::output_formats::BareCall;
use serde_json::json;

use super::metering::Meter;
use super::structured_output::{self, OutputCheck};
use super::tools::ToolCallPolicy;
use super::web_search::citations::{UrlCitation, citations};

type EventStream = Pin<Box<dyn Stream<Item = (usize, GenerationEvent)> + Send + Sync>>;

/// The generations of a request, all of which have left the queue. Dropping it cancels them.
pub struct Started {
    events: SelectAll<EventStream>,
    /// Events of some generations that arrived before the others had left the queue.
    buffered: VecDeque<(usize, GenerationEvent)>,
    prompt_texts: Vec<Option<Arc<str>>>,
    /// `None` in tests.
    meter: Option<Meter>,
}

/// Rules for the answers to one request.
pub struct AnswerPolicy {
    /// Rules for calls of tools.
    pub call_policy: ToolCallPolicy,
    /// Check of answers that end normally.
    pub check: Option<OutputCheck>,
    /// The field that constrains the answers, for errors about it.
    pub constraining: Option<&'static str>,
    /// The turn of a stored conversation that the one answer is written to. If dropped early, it is stored as
    /// `incomplete`.
    pub turn: Option<Turn>,
    /// Sources that the answers may cite by their numbers.
    pub sources: Vec<WebSource>,
}

/// The choices of a request, multiplexed into one stream of events. Dropping it cancels them.
pub struct Choices {
    started: Started,
    policy: AnswerPolicy,
    answers: Vec<Answer>,
    /// Events to yield before the next event of a generation is read.
    ready: VecDeque<(usize, ChoiceEvent)>,
}

/// State of one answer.
#[derive(Debug, Default)]
struct Answer {
    /// Calls so far: name and arguments.
    calls: Vec<Call>,
    /// Its text, collected only if it may contain citations.
    text: String,
    /// Set while the deltas belong to a call that is left out.
    skipping: bool,
    /// Reads the answer as one call in the form of a JSON object, and holds its text back while it may be that.
    bare: Option<BareCall>,
    /// The log-probabilities of that text.
    held: Vec<TokenLogprob>,
}

impl Answer {
    /// Takes more text. Returns what is certain to be text, with its log-probabilities; `None` while it is held back.
    fn pass(&mut self, text: String, logprobs: &mut Vec<TokenLogprob>) -> Option<String> {
        let Some(bare) = &mut self.bare else { return Some(text) };
        let text = bare.push(&text);
        self.held.append(logprobs);
        if !bare.is_over() {
            return None;
        }
        self.bare = None;
        *logprobs = std::mem::take(&mut self.held);
        Some(text)
    }
}

#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// An event of an answer, after all answers have started.
#[derive(Debug, PartialEq)]
pub enum ChoiceEvent {
    /// More text, with its tokens' log-probabilities if requested; either can be empty.
    Text(String, Vec<TokenLogprob>),
    /// The log-probabilities of the prompt's tokens, before any other event.
    Prompt(PromptLogprobs),
    /// More reasoning.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Its number in the answer.
        number: u32,
        /// Its id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call's number.
        number: u32,
        /// The increment.
        text: String,
    },
    /// The citations in its text; only if there are sources.
    Citations(Vec<UrlCitation>),
    /// The end of this answer.
    Finished(FinishReason, TokenUsage),
}

impl Started {
    /// Starts all `requests` and waits until each has left the queue, so that a failure before the first token is an
    /// error here and not in the middle of a response.
    ///
    /// # Errors
    /// The first error of any request.
    pub async fn new(
        models: &Models,
        requests: Vec<GenerationRequest>,
        mut meter: Meter,
    ) -> Result<Self, GenerationError> {
        if let Some(request) = requests.first() {
            meter.of_model(models, &request.model).await;
        }
        let count = requests.len();
        let mut streams = Vec::with_capacity(count);
        for (index, generation) in models.generate_all(requests).await?.into_iter().enumerate() {
            streams.push(events_of(index, generation));
        }
        Self::from_streams(count, streams, Some(meter)).await
    }

    async fn from_streams(
        count: usize,
        streams: Vec<EventStream>,
        meter: Option<Meter>,
    ) -> Result<Self, GenerationError> {
        let events = select_all(streams);
        let prompt_texts = vec![None; count];
        let mut all = Self { events, buffered: VecDeque::new(), prompt_texts, meter };
        let mut started = vec![false; count];
        while started.contains(&false) {
            let Some((index, event)) = all.events.next().await else { break };
            all.observe(index, &event);
            match event {
                GenerationEvent::Accepted { prompt_text, .. } => all.prompt_texts[index] = prompt_text,
                GenerationEvent::Started { .. } => started[index] = true,
                GenerationEvent::Failed(error) => return Err(error),
                event @ (GenerationEvent::PromptScored(_)
                | GenerationEvent::Output { .. }
                | GenerationEvent::Finished { .. }) => {
                    started[index] = true;
                    // If they were not read, the first answers would stall and never make room for the last.
                    all.buffered.push_back((index, event));
                }
            }
        }
        Ok(all)
    }

    /// Returns the answers under the given policy.
    pub fn with_policy(self, policy: AnswerPolicy) -> Choices {
        let answer = || Answer { bare: policy.call_policy.bare_call(), ..Answer::default() };
        let answers = std::iter::repeat_with(answer).take(self.prompt_texts.len()).collect();
        Choices { started: self, policy, answers, ready: VecDeque::new() }
    }

    fn observe(&mut self, index: usize, event: &GenerationEvent) {
        if let Some(meter) = &mut self.meter {
            meter.observe(index, event);
        }
    }

    /// Returns the next event of any generation.
    async fn next(&mut self) -> Option<(usize, GenerationEvent)> {
        if let Some(buffered) = self.buffered.pop_front() {
            return Some(buffered);
        }
        let (index, event) = self.events.next().await?;
        self.observe(index, &event);
        Some((index, event))
    }
}

impl Choices {
    /// Returns the parts that another round of the same request uses again.
    pub fn into_parts(self) -> (ToolCallPolicy, Option<OutputCheck>, Option<Meter>) {
        (self.policy.call_policy, self.policy.check, self.started.meter)
    }

    /// Returns after the usage was written to disk, so that it is counted before the client learns of the end. Waits
    /// for at most a second, and not at all if the disk is full.
    pub async fn settle(&self) {
        if let Some(meter) = &self.started.meter {
            meter.settle().await;
        }
    }

    /// Returns the prompt of one answer as text, if it was requested.
    pub fn take_prompt_text(&mut self, index: usize) -> Option<Arc<str>> {
        self.started.prompt_texts.get_mut(index).and_then(Option::take)
    }

    /// Returns the next event of any answer; `None` after all have finished.
    pub async fn next(&mut self) -> Option<Result<(usize, ChoiceEvent), GenerationError>> {
        let event = self.next_event().await?;
        Some(event.map_err(|error| structured_output::named(error, self.policy.constraining)))
    }

    async fn next_event(&mut self) -> Option<Result<(usize, ChoiceEvent), GenerationError>> {
        loop {
            if let Some((index, event)) = self.ready.pop_front() {
                return Some(self.emit(index, event).await);
            }
            let Some((index, event)) = self.started.next().await else {
                self.settle().await;
                return None;
            };
            match event {
                GenerationEvent::Output { parts, logprobs, .. } => self.read(index, parts, logprobs),
                GenerationEvent::Finished { reason, usage } => {
                    self.end_bare_call(index, reason);
                    let cited = citations(&self.answers[index].text, &self.policy.sources);
                    if !cited.is_empty() {
                        self.ready.push_back((index, ChoiceEvent::Citations(cited)));
                    }
                    self.ready.push_back((index, ChoiceEvent::Finished(reason, usage)));
                }
                GenerationEvent::PromptScored(scores) => {
                    self.ready.push_back((index, ChoiceEvent::Prompt(scores)));
                }
                GenerationEvent::Failed(error) => return Some(Err(error)),
                GenerationEvent::Accepted { .. } | GenerationEvent::Started { .. } => {}
            }
        }
    }

    /// Queues the events of these parts. Log-probabilities go with the first text among them.
    fn read(&mut self, index: usize, parts: Vec<OutputPart>, mut logprobs: Vec<TokenLogprob>) {
        let answer = &mut self.answers[index];
        for part in parts {
            let event = match part {
                OutputPart::Content(text) => {
                    let Some(text) = answer.pass(text, &mut logprobs) else { continue };
                    if !self.policy.sources.is_empty() {
                        answer.text.push_str(&text);
                    }
                    ChoiceEvent::Text(text, std::mem::take(&mut logprobs))
                }
                OutputPart::Reasoning(text) => ChoiceEvent::Reasoning(text),
                OutputPart::Call(name) => {
                    if let Some(text) = answer.bare.take().map(|mut bare| bare.give_up())
                        && !text.is_empty()
                    {
                        let held = std::mem::take(&mut answer.held);
                        self.ready.push_back((index, ChoiceEvent::Text(text, held)));
                    }
                    answer.skipping = self.policy.call_policy.one_call && !answer.calls.is_empty();
                    if answer.skipping {
                        continue;
                    }
                    let id = call_id();
                    let number = u32::try_from(answer.calls.len()).unwrap_or(u32::MAX);
                    answer.calls.push(Call { id: id.clone(), name: name.clone(), arguments: String::new() });
                    ChoiceEvent::Call { number, id, name }
                }
                OutputPart::Arguments(text) => match answer.calls.last_mut().filter(|_| !answer.skipping) {
                    Some(call) => {
                        call.arguments.push_str(&text);
                        let number = u32::try_from(answer.calls.len() - 1).unwrap_or(u32::MAX);
                        ChoiceEvent::Arguments { number, text }
                    }
                    None => continue,
                },
            };
            self.ready.push_back((index, event));
        }
        if answer.bare.as_ref().is_some_and(BareCall::is_holding) {
            // A character that is not complete belongs to the text that is held back.
            answer.held.append(&mut logprobs);
        }
        if !logprobs.is_empty() {
            self.ready.push_back((index, ChoiceEvent::Text(String::new(), logprobs)));
        }
    }

    /// Queues what was held back of an answer that ends: the call that it is, or its text.
    fn end_bare_call(&mut self, index: usize, reason: FinishReason) {
        let answer = &mut self.answers[index];
        let Some(rest) = answer.bare.take().map(|mut bare| bare.finish()) else { return };
        let held = std::mem::take(&mut answer.held);
        let accepted =
            |(name, arguments): &(String, String)| self.policy.call_policy.accepts(name, arguments);
        match rest.call.filter(|_| reason == FinishReason::Stop).filter(accepted) {
            Some((name, arguments)) => {
                self.read(index, vec![OutputPart::Call(name), OutputPart::Arguments(arguments)], held);
            }
            None if !rest.text.is_empty() => self.read(index, vec![OutputPart::Content(rest.text)], held),
            None => {}
        }
    }

    /// Applies the policy to an event before it is yielded.
    async fn emit(
        &mut self,
        index: usize,
        event: ChoiceEvent,
    ) -> Result<(usize, ChoiceEvent), GenerationError> {
        match &event {
            ChoiceEvent::Text(text, _) => {
                if let Some(check) = &mut self.policy.check {
                    check.push(index, text);
                }
                if let Some(turn) = &mut self.policy.turn {
                    turn.push(text);
                }
            }
            ChoiceEvent::Citations(cited) => {
                if let Some(turn) = &mut self.policy.turn {
                    turn.annotate(cited.iter().map(|one| json!(one)).collect());
                }
            }
            ChoiceEvent::Finished(reason, _) => {
                let calls = &self.answers[index].calls;
                if *reason == FinishReason::Stop {
                    for call in calls {
                        self.policy.call_policy.check(&call.name, &call.arguments)?;
                    }
                    // An answer that calls tools is not final yet.
                    if let Some(check) = self.policy.check.as_ref().filter(|_| calls.is_empty()) {
                        check.finish(index)?;
                    }
                }
                // The turn is stored before the client learns of the end, so that the client can rely on it.
                if let Some(mut turn) = self.policy.turn.take() {
                    for call in calls {
                        turn.push_call(&call.id, &call.name, &call.arguments);
                    }
                    turn.finish().await.map_err(|error| {
                        GenerationError::Internal(format!("the answer could not be stored: {error}"))
                    })?;
                }
            }
            ChoiceEvent::Prompt(_)
            | ChoiceEvent::Reasoning(_)
            | ChoiceEvent::Call { .. }
            | ChoiceEvent::Arguments { .. } => {}
        }
        Ok((index, event))
    }
}

/// Generates a call's id: nine letters and digits, the only form that Mistral's templates accept.
fn call_id() -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = uuid::Uuid::new_v4().as_u128();
    let mut id = String::with_capacity(9);
    for _ in 0..9 {
        id.push(char::from(DIGITS[(number % 62) as usize]));
        number /= 62;
    }
    id
}

/// Returns the events of one generation, which end with `Finished` or `Failed`.
fn events_of(index: usize, generation: Generation) -> EventStream {
    Box::pin(unfold(Some(generation), move |generation| async move {
        let mut generation = generation?;
        let event = generation.recv().await?;
        Some(((index, event), Some(generation)))
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn accepted() -> GenerationEvent {
        GenerationEvent::Accepted { prompt_tokens: 3, prompt_text: Some("p".into()) }
    }

    fn started() -> GenerationEvent {
        GenerationEvent::Started { cached_tokens: 0 }
    }

    fn delta(text: &str) -> GenerationEvent {
        let parts = vec![OutputPart::Content(text.to_owned())];
        GenerationEvent::Output { parts, tokens: 1, logprobs: Vec::new() }
    }

    fn finished() -> GenerationEvent {
        GenerationEvent::Finished { reason: FinishReason::Stop, usage: TokenUsage::default() }
    }

    fn streams(events: Vec<Vec<GenerationEvent>>) -> Vec<EventStream> {
        events
            .into_iter()
            .enumerate()
            .map(|(index, events)| -> EventStream {
                Box::pin(stream::iter(events.into_iter().map(move |event| (index, event))))
            })
            .collect()
    }

    fn free() -> AnswerPolicy {
        AnswerPolicy {
            call_policy: ToolCallPolicy::default(),
            check: None,
            constraining: None,
            turn: None,
            sources: Vec::new(),
        }
    }

    async fn all(mut choices: Choices) -> Vec<Vec<String>> {
        let mut said = vec![Vec::new(); choices.answers.len()];
        while let Some(event) = choices.next().await {
            match event.unwrap() {
                (index, ChoiceEvent::Text(text, _)) => said[index].push(text),
                (index, ChoiceEvent::Finished(..)) => said[index].push(".".to_owned()),
                (_, other) => panic!("{other:?}"),
            }
        }
        said
    }

    #[tokio::test]
    async fn events_before_the_start_are_kept() {
        let slow = unfold(vec![finished(), delta("x"), started(), accepted()], |mut events| async {
            tokio::task::yield_now().await;
            let event = events.pop()?;
            Some(((1, event), events))
        });
        let mut both = streams(vec![vec![accepted(), started(), delta("a"), delta("b"), finished()]]);
        both.push(Box::pin(slow));
        let mut choices = Started::from_streams(2, both, None).await.unwrap().with_policy(free());
        assert_eq!(choices.take_prompt_text(0).as_deref(), Some("p"));
        assert_eq!(choices.take_prompt_text(0), None);
        assert_eq!(all(choices).await, [vec!["a", "b", "."], vec!["x", "."]]);
    }

    #[tokio::test]
    async fn one_failure_before_the_start_fails_all() {
        let failed = GenerationEvent::Failed(GenerationError::ShuttingDown);
        let both = streams(vec![vec![accepted(), started(), finished()], vec![accepted(), failed]]);
        assert_eq!(Started::from_streams(2, both, None).await.err(), Some(GenerationError::ShuttingDown));
    }

    #[tokio::test]
    async fn a_failure_after_the_start_keeps_its_place() {
        let failed = GenerationEvent::Failed(GenerationError::EngineCrashed);
        let one = streams(vec![vec![accepted(), started(), delta("a"), failed]]);
        let mut choices = Started::from_streams(1, one, None).await.unwrap().with_policy(free());
        assert_eq!(choices.next().await, Some(Ok((0, ChoiceEvent::Text("a".to_owned(), Vec::new())))));
        assert_eq!(choices.next().await, Some(Err(GenerationError::EngineCrashed)));
    }
}
