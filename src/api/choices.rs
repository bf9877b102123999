//! The answers to one request: started together, heard together.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::stream::{SelectAll, select_all, unfold};
use futures_util::{Stream, StreamExt};
use jan_actors::conversations::Turn;
use jan_actors::model::{
    FinishReason, Generation, GenerationError, GenerationEvent, GenerationRequest, Models, TokenLogprob,
    TokenUsage,
};

use super::meter::Meter;
use super::structured::OutputCheck;

type EventStream = Pin<Box<dyn Stream<Item = (usize, GenerationEvent)> + Send + Sync>>;

/// Running generations, heard through one door. Dropping it cancels them.
pub struct Choices {
    events: SelectAll<EventStream>,
    /// What was heard while others had not yet started.
    heard: VecDeque<(usize, GenerationEvent)>,
    prompt_texts: Vec<Option<String>>,
    /// `None` in tests.
    meter: Option<Meter>,
    check: Option<OutputCheck>,
    /// Where the one answer is stored.
    turn: Option<Turn>,
}

/// What an answer says once all have started.
#[derive(Debug, PartialEq)]
pub enum ChoiceEvent {
    /// More text, with its tokens' log-probabilities where they are wanted; either can be empty.
    Text(String, Vec<TokenLogprob>),
    /// The end of this answer.
    Finished(FinishReason, TokenUsage),
}

impl Choices {
    /// Starts all `requests` and waits until each has left the queue, so that whatever can go wrong before
    /// the first token is an error here and not in the middle of a response.
    pub async fn start(
        models: &Models,
        requests: Vec<GenerationRequest>,
        mut meter: Meter,
    ) -> Result<Self, GenerationError> {
        if let Some(request) = requests.first() {
            meter.of_model(models, &request.model).await;
        }
        let count = requests.len();
        let mut streams = Vec::with_capacity(count);
        for (index, request) in requests.into_iter().enumerate() {
            streams.push(events_of(index, models.generate(request).await?));
        }
        Self::from_streams(count, streams, Some(meter)).await
    }

    async fn from_streams(
        count: usize,
        streams: Vec<EventStream>,
        meter: Option<Meter>,
    ) -> Result<Self, GenerationError> {
        let events = select_all(streams);
        let mut choices = Self {
            events,
            heard: VecDeque::new(),
            prompt_texts: vec![None; count],
            meter,
            check: None,
            turn: None,
        };
        let mut started = vec![false; count];
        while started.contains(&false) {
            let Some((index, event)) = choices.events.next().await else { break };
            choices.observe(index, &event);
            match event {
                GenerationEvent::Accepted { prompt_text, .. } => choices.prompt_texts[index] = prompt_text,
                GenerationEvent::Started { .. } => started[index] = true,
                GenerationEvent::Failed(error) => return Err(error),
                event @ (GenerationEvent::Delta { .. } | GenerationEvent::Finished { .. }) => {
                    started[index] = true;
                    // Unread, the first answers would stall and never make room for the last.
                    choices.heard.push_back((index, event));
                }
            }
        }
        Ok(choices)
    }

    /// Has answers that end by themselves checked.
    pub fn check_with(&mut self, check: Option<OutputCheck>) {
        self.check = check;
    }

    /// The one answer belongs to a stored conversation: what is told of it is stored there. Dropped before its end, it
    /// is `incomplete` there.
    pub fn store_in(&mut self, turn: Option<Turn>) {
        self.turn = turn;
    }

    /// Returns when what was used is on disk, so that it is counted before the client is told that it is over. Waits
    /// for a second at most, and not at all for a disk that is full.
    pub async fn settle(&self) {
        if let Some(meter) = &self.meter {
            meter.settle().await;
        }
    }

    fn observe(&mut self, index: usize, event: &GenerationEvent) {
        if let Some(meter) = &mut self.meter {
            meter.observe(index, event);
        }
    }

    /// The prompt of one answer as text, where it was asked for.
    pub fn take_prompt_text(&mut self, index: usize) -> Option<String> {
        self.prompt_texts.get_mut(index).and_then(Option::take)
    }

    /// The next event of any answer; `None` once all have finished.
    pub async fn next(&mut self) -> Option<Result<(usize, ChoiceEvent), GenerationError>> {
        loop {
            let (index, event) = match self.heard.pop_front() {
                Some(heard) => heard,
                None => {
                    let Some((index, event)) = self.events.next().await else {
                        self.settle().await;
                        return None;
                    };
                    self.observe(index, &event);
                    (index, event)
                }
            };
            match event {
                GenerationEvent::Delta { text, logprobs, .. } if !text.is_empty() || !logprobs.is_empty() => {
                    if let Some(check) = &mut self.check {
                        check.push(index, &text);
                    }
                    if let Some(turn) = &mut self.turn {
                        turn.push(&text);
                    }
                    return Some(Ok((index, ChoiceEvent::Text(text, logprobs))));
                }
                GenerationEvent::Finished { reason, usage } => {
                    let check = self.check.as_ref().filter(|_| reason == FinishReason::Stop);
                    if let Some(Err(error)) = check.map(|check| check.finish(index)) {
                        return Some(Err(error));
                    }
                    // Who hears of the end can rely on it.
                    if let Some(mut turn) = self.turn.take()
                        && let Err(error) = turn.finish().await
                    {
                        let reason = format!("the answer could not be stored: {error}");
                        return Some(Err(GenerationError::Internal(reason)));
                    }
                    return Some(Ok((index, ChoiceEvent::Finished(reason, usage))));
                }
                GenerationEvent::Failed(error) => return Some(Err(error)),
                GenerationEvent::Delta { .. }
                | GenerationEvent::Accepted { .. }
                | GenerationEvent::Started { .. } => {}
            }
        }
    }
}

/// One generation as a stream that always ends with `Finished` or `Failed`.
fn events_of(index: usize, generation: Generation) -> EventStream {
    Box::pin(unfold(Some(generation), move |generation| async move {
        let mut generation = generation?;
        let event = generation.recv().await.unwrap_or_else(|| {
            GenerationEvent::Failed(GenerationError::Internal("a generation ended without a result".into()))
        });
        let last = matches!(event, GenerationEvent::Finished { .. } | GenerationEvent::Failed(_));
        Some(((index, event), (!last).then_some(generation)))
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn accepted() -> GenerationEvent {
        GenerationEvent::Accepted { prompt_tokens: 3, prompt_text: Some("p".to_owned()) }
    }

    fn started() -> GenerationEvent {
        GenerationEvent::Started { cached_tokens: 0 }
    }

    fn delta(text: &str) -> GenerationEvent {
        GenerationEvent::Delta { text: text.to_owned(), tokens: vec![1], logprobs: Vec::new() }
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

    async fn all(mut choices: Choices) -> Vec<Vec<String>> {
        let mut said = vec![Vec::new(); choices.prompt_texts.len()];
        while let Some(event) = choices.next().await {
            match event.unwrap() {
                (index, ChoiceEvent::Text(text, _)) => said[index].push(text),
                (index, ChoiceEvent::Finished(..)) => said[index].push(".".to_owned()),
            }
        }
        said
    }

    #[tokio::test]
    async fn nothing_heard_before_the_start_is_lost() {
        let slow = unfold(vec![finished(), delta("x"), started(), accepted()], |mut events| async {
            tokio::task::yield_now().await;
            let event = events.pop()?;
            Some(((1, event), events))
        });
        let mut both =
            streams(vec![vec![accepted(), started(), delta("a"), delta(""), delta("b"), finished()]]);
        both.push(Box::pin(slow));
        let mut choices = Choices::from_streams(2, both, None).await.unwrap();
        assert_eq!(choices.take_prompt_text(0).as_deref(), Some("p"));
        assert_eq!(choices.take_prompt_text(0), None);
        assert_eq!(all(choices).await, [vec!["a", "b", "."], vec!["x", "."]]);
    }

    #[tokio::test]
    async fn one_failure_before_the_start_fails_all() {
        let failed = GenerationEvent::Failed(GenerationError::ShuttingDown);
        let both = streams(vec![vec![accepted(), started(), finished()], vec![accepted(), failed]]);
        assert_eq!(Choices::from_streams(2, both, None).await.err(), Some(GenerationError::ShuttingDown));
    }

    #[tokio::test]
    async fn a_failure_after_the_start_is_heard_in_its_place() {
        let failed = GenerationEvent::Failed(GenerationError::EngineCrashed);
        let one = streams(vec![vec![accepted(), started(), delta("a"), failed]]);
        let mut choices = Choices::from_streams(1, one, None).await.unwrap();
        assert_eq!(choices.next().await, Some(Ok((0, ChoiceEvent::Text("a".to_owned(), Vec::new())))));
        assert_eq!(choices.next().await, Some(Err(GenerationError::EngineCrashed)));
    }
}
