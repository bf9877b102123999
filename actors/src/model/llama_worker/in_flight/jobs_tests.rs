//! Requests for embeddings in the table, with workers that die.

use std::collections::BTreeSet;

use jan_protocol::types::GenerationRequest;
use jan_protocol::worker_protocol::{
    Accepted, Event, FinishReason, Finished, Output, Started, Step, ToWorker, event,
};
use proptest::prelude::*;

use super::*;
use crate::model::shares::Places;

type Received = mpsc::UnboundedReceiver<Result<Embedding, GenerationError>>;

fn submission(id: u64, inputs: usize) -> (EmbeddingSubmission, Received) {
    let (events, received) = mpsc::unbounded_channel();
    let request = EmbeddingRequest {
        request_id: id.to_string(),
        model: "m".to_owned(),
        user: String::new(),
        inputs: (0..inputs).map(|i| EmbeddingInput::Text(i.to_string())).collect(),
        dimensions: None,
    };
    let place = Places::new(1).take("a", 1).unwrap();
    (EmbeddingSubmission { id, request, events, place }, received)
}

fn attach(table: &mut InFlight, now: Instant) -> mpsc::UnboundedReceiver<ToWorker> {
    let (sender, inbox) = mpsc::unbounded_channel();
    table.attach(sender, now);
    inbox
}

fn tell(table: &mut InFlight, id: u64, happened: event::Event, now: Instant) {
    table.route(Step { events: vec![Event { id, event: Some(happened) }], load: None }, now);
}

/// The ids and places that a worker is asked for.
fn asked(inbox: &mut mpsc::UnboundedReceiver<ToWorker>) -> Vec<(u64, Vec<u32>)> {
    let mut all = Vec::new();
    while let Ok(message) = inbox.try_recv() {
        if let Some(to_worker::Message::Embed(embed)) = message.message {
            all.push((embed.id, embed.inputs.iter().map(|input| input.index).collect()));
        }
    }
    all
}

fn begin(table: &mut InFlight, id: u64, now: Instant) {
    tell(table, id, event::Event::Accepted(Accepted::default()), now);
    tell(table, id, event::Event::Started(Started { cached_tokens: 0 }), now);
}

fn give(table: &mut InFlight, id: u64, index: u32, now: Instant) {
    let embedding = worker_protocol::Embedding { index, tokens: 1, vector: vec![1.0] };
    tell(table, id, event::Event::Embedding(embedding), now);
}

#[test]
fn after_a_crash_only_what_is_missing_is_asked_for() {
    let now = Instant::now();
    let mut table = InFlight::default();
    let mut inbox = attach(&mut table, now);
    let (submission, mut received) = submission(7, 3);
    table.insert_embeddings(submission, now);
    assert_eq!(asked(&mut inbox), [(7, vec![0, 1, 2])]);
    begin(&mut table, 7, now);
    give(&mut table, 7, 1, now);
    table.detach();
    let mut inbox = attach(&mut table, now);
    assert_eq!(asked(&mut inbox), [(7, vec![0, 2])]);
    begin(&mut table, 7, now);
    give(&mut table, 7, 2, now);
    give(&mut table, 7, 0, now);
    assert!(table.is_empty() && table.silent_for(now).is_none());
    let places: Vec<u32> =
        std::iter::from_fn(|| received.try_recv().ok()).map(|e| e.unwrap().index).collect();
    assert_eq!(places, [1, 2, 0]);
    assert!(matches!(received.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
}

#[test]
fn one_that_kills_two_workers_is_given_up_and_others_are_not() {
    let now = Instant::now();
    let mut table = InFlight::default();
    let mut inbox = attach(&mut table, now);
    let (poison, mut of_poison) = submission(1, 1);
    let (good, mut of_good) = submission(2, 1);
    table.insert_embeddings(poison, now);
    table.insert_embeddings(good, now);
    for id in [1, 2] {
        begin(&mut table, id, now);
    }
    assert_eq!(asked(&mut inbox).len(), 2);
    for _ in 0..3 {
        table.detach();
        let mut inbox = attach(&mut table, now);
        match &asked(&mut inbox)[..] {
            [(1, _)] => begin(&mut table, 1, now),
            [(2, _)] => {
                begin(&mut table, 2, now);
                give(&mut table, 2, 0, now);
            }
            other => panic!("both at a time, or none: {other:?}"),
        }
        if of_poison.try_recv() == Ok(Err(GenerationError::EngineCrashed)) {
            break;
        }
    }
    assert!(table.is_empty() && of_good.try_recv().unwrap().is_ok());
}

#[test]
fn one_that_is_cancelled_or_waits_too_long_leaves_nothing_behind() {
    let now = Instant::now();
    let mut table = InFlight::default();
    let mut inbox = attach(&mut table, now);
    let (first, _received) = submission(1, 2);
    let (second, mut received) = submission(2, 2);
    table.insert_embeddings(first, now);
    table.insert_embeddings(second, now);
    table.cancel(1, now);
    table.tick(now + Duration::from_secs(2), Duration::from_secs(1), Duration::from_secs(1));
    assert!(matches!(received.try_recv(), Ok(Err(GenerationError::QueueTimeout { .. }))));
    let mut cancelled = Vec::new();
    while let Ok(message) = inbox.try_recv() {
        if let Some(to_worker::Message::Cancel(cancel)) = message.message {
            cancelled.push(cancel.id);
        }
    }
    assert_eq!((cancelled, table.is_empty()), (vec![1, 2], true));
    give(&mut table, 1, 0, now);
}

fn generation(id: u64) -> GenerationRequest {
    GenerationRequest {
        request_id: id.to_string(),
        model: "m".to_owned(),
        user: String::new(),
        tenant: String::new(),
        cache_key: None,
        prompt: jan_protocol::types::Prompt::Tokens(vec![1]).into(),
        sampling: jan_protocol::types::SamplingParams::default(),
        stop: std::sync::Arc::default(),
        max_tokens: None,
        want_prompt_text: false,
        logprobs: None,
        score_prompt: false,
        constraint: None,
        tools: None,
        thinking_budget: None,
    }
}

proptest! {
    /// Generations and embeddings side by side, some of them poisonous: all end, the poisonous ones with an error, the
    /// others with everything they asked for, once.
    #[test]
    fn all_end_as_they_should(
        kinds in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.2), 1usize..5), 1..7),
        kill_every in prop::option::of(3usize..9),
    ) {
        let now = Instant::now();
        let mut table = InFlight::default();
        let places = Places::new(kinds.len());
        let mut of_jobs = BTreeMap::new();
        let mut of_generations = BTreeMap::new();
        for (id, (embeds, _, inputs)) in (0u64..).zip(&kinds) {
            if *embeds {
                let (submission, received) = submission(id, *inputs);
                table.insert_embeddings(submission, now);
                of_jobs.insert(id, received);
            } else {
                let (events, received) = mpsc::channel(64);
                let place = places.take("a", 1).unwrap();
                let request = generation(id);
                table.insert(crate::model::llama_worker::in_flight::Submission { id, request, count_only: false, events, place }, now);
                of_generations.insert(id, received);
            }
        }
        let poisonous = |id: u64| kinds[usize::try_from(id).unwrap()].1;
        for worker in 0.. {
            prop_assert!(worker < 200, "it does not end");
            if table.is_empty() {
                break;
            }
            let mut inbox = attach(&mut table, now);
            let mut jobs: Vec<(u64, Vec<u32>)> = Vec::new();
            for step in 0.. {
                // One thing a step: the next input, or a whole generation.
                let mut generation = None;
                while let Ok(message) = inbox.try_recv() {
                    match message.message {
                        Some(to_worker::Message::Embed(embed)) => {
                            jobs.push((embed.id, embed.inputs.iter().map(|i| i.index).collect()));
                            begin(&mut table, embed.id, now);
                        }
                        Some(to_worker::Message::Submit(submit)) => {
                            begin(&mut table, submit.id, now);
                            generation = Some(submit.id);
                            if poisonous(submit.id) {
                                break;
                            }
                            let output = Output { tokens: vec![1], text: String::new(), logprobs: Vec::new() };
                            tell(&mut table, submit.id, event::Event::Output(output), now);
                            let finished = Finished { reason: FinishReason::Stop.into(), ..Finished::default() };
                            tell(&mut table, submit.id, event::Event::Finished(finished), now);
                        }
                        _ => {}
                    }
                }
                jobs.retain(|(_, missing)| !missing.is_empty());
                let dies = generation.is_some_and(poisonous) || jobs.iter().any(|(id, _)| poisonous(*id));
                // A worker that is killed at once every time makes no progress, regardless of the table.
                if dies || kill_every.is_some_and(|every| step > 0 && (worker + step) % every == 0) {
                    break;
                }
                let Some((id, missing)) = jobs.first_mut() else { break };
                let index = missing.remove(0);
                give(&mut table, *id, index, now);
            }
            table.detach();
        }
        for (id, mut received) in of_jobs {
            let mut places = BTreeSet::new();
            let mut error = None;
            while let Ok(event) = received.try_recv() {
                match event {
                    Ok(embedding) => prop_assert!(places.insert(embedding.index)),
                    Err(failed) => error = Some(failed),
                }
            }
            let crashed = poisonous(id).then_some(GenerationError::EngineCrashed);
            prop_assert_eq!(&error, &crashed, "{}", id);
            let all = kinds[usize::try_from(id).unwrap()].2;
            prop_assert!(error.is_some() || places.len() == all);
        }
    }
}
