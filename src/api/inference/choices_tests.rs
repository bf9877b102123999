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
        retries: None,
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
    let mut started = Started::of(2, both, None);
    started.begin(2).await.unwrap();
    let mut choices = started.with_policy(free());
    assert_eq!(choices.take_prompt_text(0).as_deref(), Some("p"));
    assert_eq!(choices.take_prompt_text(0), None);
    assert_eq!(all(choices).await, [vec!["a", "b", "."], vec!["x", "."]]);
}

#[tokio::test]
async fn one_failure_before_the_start_fails_all() {
    let failed = GenerationEvent::Failed(GenerationError::ShuttingDown);
    let both = streams(vec![vec![accepted(), started(), finished()], vec![accepted(), failed]]);
    let begun = Started::of(2, both, None).begin(2).await;
    assert_eq!(begun.err(), Some(GenerationError::ShuttingDown));
}

#[tokio::test]
async fn a_failure_after_the_start_keeps_its_place() {
    let failed = GenerationEvent::Failed(GenerationError::EngineCrashed);
    let one = streams(vec![vec![accepted(), started(), delta("a"), failed]]);
    let mut started = Started::of(1, one, None);
    started.begin(1).await.unwrap();
    let mut choices = started.with_policy(free());
    assert_eq!(choices.next().await, Some(Ok((0, ChoiceEvent::Text("a".to_owned(), Vec::new())))));
    assert_eq!(choices.next().await, Some(Err(GenerationError::EngineCrashed)));
}
