//! The table against a simulated worker that computes, crashes and dies of poisonous requests.

use std::collections::BTreeMap;

use jan_protocol::types::{GenerationRequest, Prompt, SamplingParams};
use jan_protocol::worker_protocol::{Accepted, Event, Finished, Output, Started, Step};
use proptest::prelude::*;

use super::*;
use crate::model::shares::Places;

/// The token that a request generates at a position.
fn token(id: u64, position: usize) -> Token {
    Token::try_from(id * 1000).unwrap() + Token::try_from(position).unwrap()
}

fn request(id: u64) -> GenerationRequest {
    GenerationRequest {
        request_id: id.to_string(),
        model: "m".to_owned(),
        user: String::new(),
        tenant: String::new(),
        cache_key: None,
        prompt: Prompt::Tokens(vec![1, 2, 3]).into(),
        sampling: SamplingParams::default(),
        stop: Arc::default(),
        max_tokens: None,
        want_prompt_text: false,
        logprobs: None,
        score_prompt: false,
        constraint: None,
        tools: None,
        thinking_budget: None,
    }
}

/// A worker that runs up to `width` sequences and gives each a token a step.
struct Worker {
    inbox: mpsc::UnboundedReceiver<ToWorker>,
    waiting: VecDeque<Submit>,
    running: BTreeMap<u64, usize>,
    width: usize,
}

impl Worker {
    fn attach(table: &mut InFlight, width: usize, now: Instant) -> Self {
        let (sender, inbox) = mpsc::unbounded_channel();
        table.attach(sender, now);
        Self { inbox, waiting: VecDeque::new(), running: BTreeMap::new(), width }
    }

    /// Takes messages and accepts new requests.
    fn listen(&mut self, table: &mut InFlight, now: Instant) {
        while let Ok(message) = self.inbox.try_recv() {
            match message.message {
                Some(to_worker::Message::Submit(submit)) => {
                    let accepted = Accepted {
                        prompt: submit.prompt,
                        prompt_tokens: vec![1, 2, 3],
                        prompt_text: None,
                        layout: None,
                    };
                    step(table, submit.id, event::Event::Accepted(accepted), now);
                    self.waiting.push_back(submit);
                }
                Some(to_worker::Message::Cancel(cancel)) => {
                    self.waiting.retain(|s| s.id != cancel.id);
                    self.running.remove(&cancel.id);
                }
                _ => {}
            }
        }
    }

    /// One decode step. False when a poisonous request killed the worker in it.
    fn step(&mut self, table: &mut InFlight, lengths: &[Plan], now: Instant) -> bool {
        self.listen(table, now);
        while self.running.len() < self.width
            && let Some(submit) = self.waiting.pop_front()
        {
            step(table, submit.id, event::Event::Started(Started { cached_tokens: 0 }), now);
            self.running.insert(submit.id, submit.generated.len());
        }
        let plan = |id: u64| lengths[usize::try_from(id).unwrap()];
        if self.running.iter().any(|(&id, &position)| plan(id).poison_at == Some(position)) {
            return false;
        }
        for (id, position) in self.running.clone() {
            if position == plan(id).length {
                let finished = Finished {
                    reason: worker_protocol::FinishReason::Stop.into(),
                    text: String::new(),
                    stop_text: false,
                    reasoning_tokens: 0,
                };
                step(table, id, event::Event::Finished(finished), now);
                self.running.remove(&id);
            } else {
                let output =
                    Output { tokens: vec![token(id, position)], text: "x".to_owned(), logprobs: Vec::new() };
                step(table, id, event::Event::Output(output), now);
                self.running.insert(id, position + 1);
            }
        }
        true
    }
}

fn step(table: &mut InFlight, id: u64, happened: event::Event, now: Instant) {
    table.route(Step { events: vec![Event { id, event: Some(happened) }], load: None }, now);
}

/// The behaviour of one request.
#[derive(Clone, Copy, Debug)]
struct Plan {
    length: usize,
    poison_at: Option<usize>,
    arrives: usize,
}

struct Outcome {
    tokens: Vec<Token>,
    last: Option<RawEvent>,
    ends: usize,
}

fn drain(receiver: &mut mpsc::Receiver<RawEvent>, outcome: &mut Outcome) {
    while let Ok(event) = receiver.try_recv() {
        match event {
            RawEvent::Delta { tokens, .. } => outcome.tokens.extend(tokens),
            RawEvent::Finished { .. } | RawEvent::Failed(_) => {
                outcome.ends += 1;
                outcome.last = Some(event);
            }
            RawEvent::Accepted { .. } | RawEvent::Started { .. } | RawEvent::PromptScored(_) => {}
        }
    }
}

/// Runs all plans with workers that are killed after every so many steps; returns the outcomes and how often
/// a worker died of poison.
fn run(plans: &[Plan], width: usize, kill_every: Option<usize>) -> (Vec<Outcome>, usize) {
    let now = Instant::now();
    let places = Places::new(plans.len());
    let mut table = InFlight::default();
    let mut worker = Worker::attach(&mut table, width, now);
    let mut receivers: Vec<Option<mpsc::Receiver<RawEvent>>> = plans.iter().map(|_| None).collect();
    let mut outcomes: Vec<Outcome> =
        plans.iter().map(|_| Outcome { tokens: Vec::new(), last: None, ends: 0 }).collect();
    let mut poisoned = 0;
    let mut survived = 0;
    for round in 0..10_000 {
        for (id, _) in plans.iter().enumerate().filter(|(_, p)| p.arrives == round) {
            let (events, receiver) = mpsc::channel(CHANNEL);
            receivers[id] = Some(receiver);
            let id = id as u64;
            let place = places.take("a", 1).unwrap();
            table.insert(Submission { id, request: request(id), count_only: false, events, place }, now);
        }
        let alive = worker.step(&mut table, plans, now);
        table.tick(now, Duration::from_secs(3600), Duration::ZERO);
        for (receiver, outcome) in receivers.iter_mut().zip(&mut outcomes) {
            if let Some(receiver) = receiver {
                drain(receiver, outcome);
            }
        }
        survived += 1;
        let killed = kill_every.is_some_and(|every| survived >= every);
        if !alive || killed {
            poisoned += usize::from(!alive);
            survived = 0;
            // A kill between a submit and its acceptance, a millisecond apart, would look like the request's
            // own doing.
            worker.listen(&mut table, now);
            table.detach();
            worker = Worker::attach(&mut table, width, now);
        }
        if outcomes.iter().all(|o| o.ends > 0) {
            assert!(table.is_empty());
            assert_eq!(places.taken(), 0);
            return (outcomes, poisoned);
        }
    }
    panic!("not all requests ended: {:?}", outcomes.iter().map(|o| o.ends).collect::<Vec<_>>());
}

fn plans(poison: bool) -> impl Strategy<Value = Vec<Plan>> {
    let plan = (0usize..30, prop::option::weighted(0.2, 0usize..30), 0usize..20);
    prop::collection::vec(
        plan.prop_map(move |(length, poison_at, arrives)| Plan {
            length,
            poison_at: poison_at.filter(|&at| poison && at <= length),
            arrives,
        }),
        1..12,
    )
}

proptest! {
    /// However often workers are killed, every stream gets exactly its tokens and one end.
    #[test]
    fn streams_outlive_killed_workers(plans in plans(false), width in 1usize..8, kill_every in 2usize..12) {
        let (outcomes, _) = run(&plans, width, Some(kill_every));
        for (id, (outcome, plan)) in outcomes.iter().zip(&plans).enumerate() {
            let expected: Vec<Token> = (0..plan.length).map(|p| token(id as u64, p)).collect();
            prop_assert_eq!(&outcome.tokens, &expected);
            prop_assert_eq!(outcome.ends, 1);
            let finished = matches!(outcome.last, Some(RawEvent::Finished { .. }));
            prop_assert!(finished, "{:?}", outcome.last);
        }
    }

    /// Poisonous requests are given up, each alone and soon; all others end as if nothing had been.
    #[test]
    fn poison_is_failed_alone(plans in plans(true), width in 1usize..8) {
        let (outcomes, deaths) = run(&plans, width, None);
        for (id, (outcome, plan)) in outcomes.iter().zip(&plans).enumerate() {
            let until = plan.poison_at.unwrap_or(plan.length);
            let expected: Vec<Token> = (0..until).map(|p| token(id as u64, p)).collect();
            prop_assert_eq!(&outcome.tokens, &expected);
            prop_assert_eq!(outcome.ends, 1);
            let failed = outcome.last == Some(RawEvent::Failed(GenerationError::EngineCrashed));
            prop_assert_eq!(failed, plan.poison_at.is_some());
        }
        // One death may be shared with others, two convict.
        let poisonous = plans.iter().filter(|p| p.poison_at.is_some()).count();
        prop_assert!(deaths <= 3 * poisonous, "{deaths} deaths for {poisonous} poisonous requests");
    }
}

#[test]
fn a_slow_client_gets_everything_in_the_end() {
    let plan = Plan { length: 500, poison_at: None, arrives: 0 };
    let now = Instant::now();
    let mut table = InFlight::default();
    let mut worker = Worker::attach(&mut table, 1, now);
    let (events, mut receiver) = mpsc::channel(4);
    let place = Places::new(1).take("a", 1).unwrap();
    table.insert(Submission { id: 0, request: request(0), count_only: false, events, place }, now);
    for _ in 0..500 {
        assert!(worker.step(&mut table, &[plan], now));
    }
    assert_eq!(table.entries[&0].pending.len(), 1, "deltas are merged while the client does not read");
    let mut outcome = Outcome { tokens: Vec::new(), last: None, ends: 0 };
    drain(&mut receiver, &mut outcome);
    table.tick(now, Duration::from_secs(1), Duration::ZERO);
    drain(&mut receiver, &mut outcome);
    assert_eq!(outcome.tokens.len(), 500);
}

#[test]
fn a_request_that_waits_too_long_is_told_so() {
    let now = Instant::now();
    let mut table = InFlight::default();
    let (events, mut receiver) = mpsc::channel(4);
    let place = Places::new(1).take("a", 1).unwrap();
    table.insert(Submission { id: 0, request: request(0), count_only: false, events, place }, now);
    let later = now + Duration::from_secs(2);
    table.tick(later, Duration::from_secs(1), Duration::from_secs(3));
    let failed = receiver.try_recv();
    assert!(matches!(failed, Ok(RawEvent::Failed(GenerationError::QueueTimeout { .. }))), "{failed:?}");
    assert!(table.is_empty());
}

#[test]
fn a_request_that_only_counts_ends_with_its_prompt() {
    let now = Instant::now();
    let mut table = InFlight::default();
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let (events, mut receiver) = mpsc::channel(4);
    let place = Places::new(1).take("a", 1).unwrap();
    table.insert(Submission { id: 0, request: request(0), count_only: true, events, place }, now);
    // A worker that dies before it has counted is asked again in its successor.
    for _ in 0..2 {
        table.detach();
        table.attach(sender.clone(), now);
        let submit = std::iter::from_fn(|| inbox.try_recv().ok()).find_map(|message| match message.message {
            Some(to_worker::Message::Submit(submit)) => Some(submit),
            _ => None,
        });
        assert!(submit.is_some_and(|submit| submit.count_only));
    }
    let prompt = table.entries[&0].parts.prompt;
    let accepted = Accepted { prompt, prompt_tokens: vec![1, 2, 3], prompt_text: None, layout: None };
    step(&mut table, 0, event::Event::Accepted(accepted), now);
    assert!(matches!(receiver.try_recv(), Ok(RawEvent::Accepted { prompt_tokens: 3, .. })));
    assert!(table.is_empty() && receiver.is_closed());
}
