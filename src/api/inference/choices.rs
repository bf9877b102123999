//! The choices of a request: started together, multiplexed into one stream of events.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{SelectAll, select_all, unfold};
use futures_util::{Stream, StreamExt};
use jan_actors::conversations::Turn;
use jan_actors::model::{
    FinishReason, Generation, GenerationError, GenerationEvent, GenerationRequest, Models, OutputPart,
    TokenLogprob, TokenUsage,
};
use jan_actors::web_search::WebSource;
use jan_protocol::output_formats::BareCall;
use serde_json::json;

use super::call_ids;
pub use super::choice_event::ChoiceEvent;
use super::metering::Meter;
use super::retries::Retries;
use super::structured_output::{self, OutputCheck, Structured};
use super::tools::ToolCallPolicy;
use super::web_search::citations::citations;
use super::widening::widen;

type EventStream = Pin<Box<dyn Stream<Item = (usize, GenerationEvent)> + Send + Sync>>;

/// The generations of a request, all of which have left the queue. Dropping it cancels them.
pub struct Started {
    events: SelectAll<EventStream>,
    /// Events of some generations that arrived before the others had left the queue.
    buffered: VecDeque<(usize, GenerationEvent)>,
    prompt_texts: Vec<Option<Arc<str>>>,
    /// The usage of each answer so far.
    usage: Vec<TokenUsage>,
    /// Keywords of schemas that turned out not to be enforceable.
    unenforced: BTreeSet<&'static str>,
    /// What further tries of the answers need; `None` in tests.
    again: Option<(Models, Vec<GenerationRequest>)>,
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
    /// The number of further tries of an answer that fails its checks. If present, answers are held back until they have
    /// passed.
    pub retries: Option<u32>,
}

/// The choices of a request, multiplexed into one stream of events. Dropping it cancels them.
pub struct Choices {
    started: Started,
    policy: AnswerPolicy,
    answers: Vec<Answer>,
    retries: Option<Retries>,
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

impl Started {
    /// Starts all `requests` and waits until each has left the queue, so that a failure before the first token is an
    /// error here and not in the middle of a response. If the engine cannot enforce `structured` or the schema of a tool,
    /// a wider one takes its place.
    ///
    /// # Errors
    /// The first error of any request.
    pub async fn new(
        models: &Models,
        mut requests: Vec<GenerationRequest>,
        mut meter: Meter,
        mut structured: Option<&mut Structured>,
    ) -> Result<Self, GenerationError> {
        if let Some(request) = requests.first() {
            meter.of_model(models, &request.model).await;
        }
        let count = requests.len();
        let (mut meter, mut unenforced) = (Some(meter), BTreeSet::new());
        loop {
            let mut streams = Vec::with_capacity(count);
            for (index, generation) in models.generate_all(requests.clone()).await?.into_iter().enumerate() {
                streams.push(events_of(index, generation));
            }
            let mut all = Self::of(count, streams, meter);
            match all.begin(count).await {
                Ok(()) => {
                    all.unenforced = unenforced;
                    all.again = Some((models.clone(), requests));
                    return Ok(all);
                }
                Err(error) => match widen(&error, &mut requests, structured.as_deref_mut()) {
                    Some(dropped) => {
                        unenforced.extend(dropped);
                        meter = all.meter;
                    }
                    None => return Err(error),
                },
            }
        }
    }

    fn of(count: usize, streams: Vec<EventStream>, meter: Option<Meter>) -> Self {
        Self {
            events: select_all(streams),
            buffered: VecDeque::new(),
            prompt_texts: vec![None; count],
            usage: vec![TokenUsage::default(); count],
            unenforced: BTreeSet::new(),
            again: None,
            meter,
        }
    }

    /// Waits until all have left the queue.
    async fn begin(&mut self, count: usize) -> Result<(), GenerationError> {
        let mut started = vec![false; count];
        while started.contains(&false) {
            let Some((index, event)) = self.events.next().await else { break };
            self.observe(index, &event);
            match event {
                GenerationEvent::Accepted { prompt_text, prompt_tokens } => {
                    self.prompt_texts[index] = prompt_text;
                    self.usage[index].prompt_tokens = prompt_tokens;
                }
                GenerationEvent::Started { cached_tokens } => {
                    started[index] = true;
                    self.usage[index].cached_tokens = cached_tokens;
                }
                GenerationEvent::Failed(error) => return Err(error),
                event @ (GenerationEvent::PromptScored(_)
                | GenerationEvent::Output { .. }
                | GenerationEvent::Finished { .. }) => {
                    started[index] = true;
                    // If they were not read, the first answers would stall and never make room for the last.
                    self.buffered.push_back((index, event));
                }
            }
        }
        Ok(())
    }

    /// Returns the keywords of schemas that the engine turned out not to enforce.
    pub const fn unenforced(&self) -> &BTreeSet<&'static str> {
        &self.unenforced
    }

    /// Returns the answers under the given policy.
    pub fn with_policy(self, policy: AnswerPolicy) -> Choices {
        let answer = || Answer { bare: policy.call_policy.bare_call(), ..Answer::default() };
        let answers = std::iter::repeat_with(answer).take(self.prompt_texts.len()).collect();
        let requests = self.again.as_ref().map(|(_, requests)| requests.clone());
        let retries = policy.retries.zip(requests).map(|(count, requests)| Retries::new(requests, count));
        Choices { started: self, policy, answers, retries, ready: VecDeque::new() }
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

    /// Returns the keywords of schemas that the engine turned out not to enforce.
    pub const fn unenforced(&self) -> &BTreeSet<&'static str> {
        self.started.unenforced()
    }

    /// Returns the prompt of one answer as text, if it was requested.
    pub fn take_prompt_text(&mut self, index: usize) -> Option<Arc<str>> {
        self.started.prompt_texts.get_mut(index).and_then(Option::take)
    }

    /// Returns the usage of each answer so far, reasoning tokens at its end only.
    pub fn so_far(&self) -> &[TokenUsage] {
        &self.started.usage
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
                GenerationEvent::Output { parts, tokens, logprobs } => {
                    let so_far = &mut self.started.usage[index].completion_tokens;
                    *so_far = so_far.saturating_add(tokens);
                    self.read(index, parts, logprobs);
                }
                GenerationEvent::Finished { reason, mut usage } => {
                    self.end_bare_call(index, reason);
                    match self.pass(index, reason, usage).await {
                        Ok(Some(total)) => usage = total,
                        Ok(None) => continue,
                        Err(error) => return Some(Err(error)),
                    }
                    self.started.usage[index] = usage;
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

    /// Releases an answer that was held back and passes its checks; returns the usage of all its tries. One that does not
    /// is begun again, and `None` is returned.
    async fn pass(
        &mut self,
        index: usize,
        reason: FinishReason,
        usage: TokenUsage,
    ) -> Result<Option<TokenUsage>, GenerationError> {
        let Some(retries) = &mut self.retries else { return Ok(Some(usage)) };
        if reason == FinishReason::Stop {
            let calls = &self.answers[index].calls;
            let policy = &self.policy;
            let mut checked =
                calls.iter().try_for_each(|call| policy.call_policy.check(&call.name, &call.arguments));
            if let Some(check) = policy.check.as_ref().filter(|_| calls.is_empty()) {
                checked = checked.and_then(|()| check.passes(&retries.text(index)));
            }
            if let Err(error) = checked {
                let next = retries.next(index, usage);
                let Some((request, (models, _))) = next.zip(self.started.again.as_ref()) else {
                    return Err(error);
                };
                // A task of its own, since streams of events are `Sync` and backends' futures are not.
                let models = models.clone();
                let begun = tokio::spawn(async move { models.generate(request).await }).await;
                let generation = begun.map_err(|error| GenerationError::Internal(error.to_string()))??;
                self.started.events.push(events_of(index, generation));
                if let Some(meter) = &mut self.started.meter {
                    meter.next_try(index);
                }
                let bare = self.policy.call_policy.bare_call();
                self.answers[index] = Answer { bare, ..Answer::default() };
                return Ok(None);
            }
        }
        let (events, usage) = retries.release(index, usage);
        self.ready.extend(events.into_iter().map(|event| (index, event)));
        Ok(Some(usage))
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
                    let id = call_ids::random();
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
            queue(&mut self.ready, self.retries.as_mut(), index, event);
        }
        if answer.bare.as_ref().is_some_and(BareCall::is_holding) {
            // A character that is not complete belongs to the text that is held back.
            answer.held.append(&mut logprobs);
        }
        if !logprobs.is_empty() {
            let event = ChoiceEvent::Text(String::new(), logprobs);
            queue(&mut self.ready, self.retries.as_mut(), index, event);
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

/// Queues an event, or holds it back.
fn queue(
    ready: &mut VecDeque<(usize, ChoiceEvent)>,
    retries: Option<&mut Retries>,
    index: usize,
    event: ChoiceEvent,
) {
    match retries {
        Some(retries) => retries.hold(index, event),
        None => ready.push_back((index, event)),
    }
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
#[path = "choices_tests.rs"]
mod tests;
