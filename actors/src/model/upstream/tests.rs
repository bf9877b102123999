//! Models on upstreams over real sockets.

use std::time::{Duration, Instant};

use jan_protocol::types::{ChatPrompt, FinishReason, TokenUsage};
use serde_json::{Value, json};

use super::scripted_engine::{Act, ScriptedEngine};
use super::test_requests::{chat, text};
use super::*;
use crate::config::{ActorsConfig, Upstream};
use crate::model::conformance;
use crate::model::shares::Places;
use crate::supervision::RestartPolicy;
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

/// A model on engines, with its actors.
struct Model {
    upstreams: Arc<Upstreams>,
    places: Places,
    supervisor: ractor::ActorRef<SupervisorMessage>,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.supervisor.stop(None);
    }
}

fn settings() -> UpstreamConfig {
    UpstreamConfig {
        connect_timeout_ms: 1000,
        first_token_timeout_ms: 2000,
        stall_timeout_ms: 300,
        probe_interval_ms: 50,
        probe_timeout_ms: 1000,
        breaker_failures: 3,
        breaker_cooldown_ms: 400,
        ..UpstreamConfig::default()
    }
}

impl Model {
    async fn on(engines: &[&ScriptedEngine]) -> Self {
        Self::with(engines, settings(), 8).await
    }

    async fn with(engines: &[&ScriptedEngine], upstream: UpstreamConfig, max_in_flight: u32) -> Self {
        Self::resuming(engines, upstream, max_in_flight, Resume::Off).await
    }

    async fn resuming(
        engines: &[&ScriptedEngine],
        upstream: UpstreamConfig,
        max_in_flight: u32,
        resume: Resume,
    ) -> Self {
        let one = |engine: &&ScriptedEngine| Upstream {
            url: engine.url(),
            model: Some("m".to_owned()),
            kind: UpstreamKind::Auto,
            key_file: None,
            key_env: None,
            max_in_flight,
            weight: 1,
        };
        let upstreams = engines.iter().map(one).collect();
        let model = UpstreamModel { context_length: None, resume, upstreams };
        let mut config = ActorsConfig { upstream, ..ActorsConfig::default() };
        config.queue.max_wait_ms = 3000;
        let upstreams = Arc::new(Upstreams::new(&config, "m", &model).unwrap());
        let arguments =
            SupervisorArguments { children: upstreams.children(), policy: RestartPolicy::default() };
        let (supervisor, _) = ractor::Actor::spawn(None, Supervisor, arguments).await.unwrap();
        let model = Self { upstreams, places: Places::new(64), supervisor };
        model.until(|status| status == ModelStatus::Ready).await;
        model
    }

    async fn until(&self, is_so: impl Fn(ModelStatus) -> bool) {
        let began = Instant::now();
        while !is_so(self.upstreams.condition().status) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", self.upstreams.condition());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn begin(&self, request: GenerationRequest) -> Generation {
        let place = self.places.take("ann", 1).unwrap();
        self.upstreams.generate(request, place).await.unwrap()
    }

    async fn events(&self, request: GenerationRequest) -> Vec<GenerationEvent> {
        let mut generation = self.begin(request).await;
        let mut events = Vec::new();
        while let Some(event) =
            tokio::time::timeout(Duration::from_secs(20), generation.recv()).await.unwrap()
        {
            events.push(event);
        }
        events
    }
}

fn said(events: &[GenerationEvent]) -> String {
    let mut text = String::new();
    for event in events {
        let GenerationEvent::Output { parts, .. } = event else { continue };
        for part in parts {
            if let crate::model::OutputPart::Content(more) = part {
                text.push_str(more);
            }
        }
    }
    text
}

fn error(events: &[GenerationEvent]) -> &GenerationError {
    match events {
        [.., GenerationEvent::Failed(error)] => error,
        other => panic!("{other:?}"),
    }
}

fn usage(events: &[GenerationEvent]) -> TokenUsage {
    match events {
        [.., GenerationEvent::Finished { usage, .. }] => *usage,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_on_upstreams_keep_the_contract_of_backends() {
    for kind in [UpstreamKind::Vllm, UpstreamKind::LlamaServer, UpstreamKind::Jan] {
        let engines = [ScriptedEngine::start(kind).await, ScriptedEngine::start(kind).await];
        let model = Model::on(&[&engines[0], &engines[1]]).await;
        conformance::holds(&*model.upstreams).await;
    }
}

#[tokio::test]
async fn an_answer_is_passed_on_with_its_usage_whatever_the_kind() {
    for kind in KINDS {
        let engine = ScriptedEngine::start(kind).await;
        let model = Model::on(&[&engine]).await;
        assert_eq!(model.upstreams.known_kinds(), [kind]);
        let messages = vec![json!({"role": "user", "content": "eins think:zwei call:drei vier"})];
        let events = model.events(GenerationRequest { max_tokens: Some(5), ..chat(messages.into()) }).await;
        let parts: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                GenerationEvent::Output { parts, .. } => Some(parts.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        use crate::model::OutputPart::{Arguments, Call, Content, Reasoning};
        let text = |text: &str| text.to_owned();
        let expected = [
            Content(text("eins ")),
            Reasoning(text("zwei ")),
            Call(text("drei")),
            Arguments(text("{}")),
            Content(text("vier ")),
            Content(text("eins ")),
        ];
        assert_eq!(parts, expected, "{kind:?}");
        let expected =
            TokenUsage { prompt_tokens: 4, cached_tokens: 1, completion_tokens: 5, reasoning_tokens: 0 };
        assert_eq!(usage(&events), expected, "{kind:?}");
        let knows_early = kind != UpstreamKind::Openai;
        let GenerationEvent::Accepted { prompt_tokens, .. } = events[0] else { panic!("{events:?}") };
        assert_eq!(prompt_tokens == 4, knows_early, "{kind:?}");
        let got = &engine.got()[0];
        assert_eq!((got.path.as_str(), &got.body["model"]), ("/v1/chat/completions", &json!("m")));
        assert!(!got.head.contains("authorization"), "{}", got.head);
    }
}

#[tokio::test]
async fn characters_that_are_cut_are_put_together() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    engine.always(Act::CutBytes);
    let model = Model::on(&[&engine]).await;
    let events = model.events(GenerationRequest { max_tokens: Some(3), ..text("größe 𝄞 €") }).await;
    assert_eq!(said(&events), "größe 𝄞 € ");
}

#[tokio::test]
async fn requests_are_tried_on_another_upstream_before_the_first_token() {
    let acts = [
        Act::Refuse(503, None),
        Act::Refuse(502, None),
        Act::Refuse(504, None),
        Act::Refuse(429, Some(1)),
        Act::Hang,
        Act::DieAfter(0),
        Act::NoStream,
        Act::EndlessLine,
    ];
    for act in acts {
        let (bad, good) = (
            ScriptedEngine::start(UpstreamKind::Vllm).await,
            ScriptedEngine::start(UpstreamKind::Vllm).await,
        );
        bad.always(act.clone());
        let model = Model::on(&[&bad, &good]).await;
        for n in 0..20 {
            let events = model.events(text(&format!("word{n} two"))).await;
            assert!(matches!(events[0], GenerationEvent::Accepted { .. }), "{act:?}: {events:?}");
            assert_eq!(usage(&events).completion_tokens, 16, "{act:?}");
            if n > 4 && !bad.got().is_empty() {
                break;
            }
        }
        assert!(!bad.got().is_empty(), "{act:?}: both get requests");
    }
}

#[tokio::test]
async fn a_stall_before_the_first_token_leaves_time_for_another_try() {
    let (bad, good) =
        (ScriptedEngine::start(UpstreamKind::Vllm).await, ScriptedEngine::start(UpstreamKind::Vllm).await);
    bad.always(Act::StallAfter(0));
    // As by default, it takes as long as a request may wait for a place.
    let model =
        Model::with(&[&bad, &good], UpstreamConfig { first_token_timeout_ms: 3000, ..settings() }, 8).await;
    for n in 0.. {
        assert_eq!(usage(&model.events(text(&format!("word{n}"))).await).completion_tokens, 16);
        if !bad.got().is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn what_is_the_callers_fault_is_not_tried_again() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::on(&[&engine]).await;
    for status in [400, 422, 500] {
        engine.then([Act::Refuse(status, None)]);
        let before = engine.got().len();
        let events = model.events(text("a b")).await;
        let is_callers = matches!(error(&events), GenerationError::InvalidPrompt { .. });
        assert_eq!(is_callers, status != 500, "{events:?}");
        assert_eq!(engine.got().len(), before + 1);
    }
    assert_eq!(said(&model.events(GenerationRequest { max_tokens: Some(2), ..text("a b") }).await), "a b ");
}

#[tokio::test]
async fn tries_end_with_the_number_and_the_budget() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    // Its 429 says nothing about its health, so its breaker stays closed.
    engine.always(Act::Refuse(429, None));
    let model = Model::on(&[&engine]).await;
    let events = model.events(text("a")).await;
    assert!(matches!(error(&events), GenerationError::ModelUnavailable { .. }), "{events:?}");
    assert_eq!(engine.got().len(), 4, "one and three more");
    for _ in 0..20 {
        model.events(text("a")).await;
    }
    let tries = engine.got().len() - 21;
    assert!((10..=14).contains(&tries), "ten are free, and a fifth of 21: {tries}");
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_pause_gets_it() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    engine.then([Act::Refuse(429, Some(1))]);
    let model = Model::on(&[&engine]).await;
    let began = Instant::now();
    let events = model.events(text("a")).await;
    assert_eq!(usage(&events).completion_tokens, 16);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    engine.then([Act::Refuse(429, Some(60))]);
    let events = model.events(text("a")).await;
    let GenerationError::ModelUnavailable { retry_after, .. } = error(&events) else { panic!("{events:?}") };
    assert_eq!(*retry_after, Duration::from_secs(60));
}

#[tokio::test]
async fn a_failure_rests_no_upstream() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    engine.then([Act::Refuse(503, Some(60))]);
    let model = Model::on(&[&engine]).await;
    let events = model.events(text("a")).await;
    assert!(matches!(error(&events), GenerationError::ModelUnavailable { .. }), "{events:?}");
    assert_eq!(usage(&model.events(text("a")).await).completion_tokens, 16, "it works again");
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_one_honest_error() {
    for act in [Act::DieAfter(3), Act::StallAfter(3), Act::ErrorAfter(3)] {
        let (one, two) = (
            ScriptedEngine::start(UpstreamKind::Vllm).await,
            ScriptedEngine::start(UpstreamKind::Vllm).await,
        );
        one.always(act.clone());
        two.always(act.clone());
        let model = Model::on(&[&one, &two]).await;
        let events = model.events(GenerationRequest { max_tokens: Some(9), ..text("a b c d e") }).await;
        assert_eq!(said(&events), "a b c ", "{act:?}: nothing is lost or doubled");
        assert!(matches!(error(&events), GenerationError::UpstreamFailed { .. }), "{events:?}");
        assert_eq!(one.got().len() + two.got().len(), 1, "it never begins anew");
        assert_eq!(model.places.taken(), 0);
    }
}

#[tokio::test]
async fn an_upstream_that_stalls_gets_nothing_until_a_trial_succeeds_whatever_its_probes_say() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::on(&[&engine]).await;
    engine.always(Act::StallAfter(1));
    let events = model.events(text("a b c")).await;
    assert!(matches!(error(&events), GenerationError::UpstreamFailed { .. }), "{events:?}");
    // Its list of models is good all the while.
    let condition = model.upstreams.condition();
    assert_eq!(condition.status, ModelStatus::Unhealthy);
    assert!(condition.problem.unwrap().contains("silent"), "administrators are told");
    assert!(!condition.public_problem.unwrap().contains("127.0.0.1"));
    let refused = model.events(text("a")).await;
    assert!(matches!(error(&refused), GenerationError::ModelUnavailable { .. }), "{refused:?}");
    // Trials are the actor's, no caller's, and have no seed.
    let of_callers = || engine.got().iter().filter(|got| got.body["seed"].is_number()).count();
    assert_eq!(of_callers(), 1, "it gets no requests");
    engine.always(Act::Answer);
    model.until(|status| status == ModelStatus::Ready).await;
    assert_eq!(of_callers(), 1);
    assert_eq!(said(&model.events(GenerationRequest { max_tokens: Some(2), ..text("a b") }).await), "a b ");
}

#[tokio::test]
async fn trials_are_of_the_route_that_a_model_has() {
    let statuses = [("/v1/completions", 400), ("/v1/completions", 404), ("/v1/embeddings", 501)];
    for (path, status) in statuses {
        let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
        let model = Model::on(&[&engine]).await;
        engine.always(Act::Refuse(502, None));
        model.events(text("a")).await;
        model.until(|status| status == ModelStatus::Unhealthy).await;
        engine.always(Act::Only(path, status));
        model.until(|status| status == ModelStatus::Ready).await;
        let asked = engine.got().last().map(|got| (got.path.clone(), got.body["seed"].clone()));
        assert_eq!(asked, Some((path.to_owned(), Value::Null)), "{status}");
    }
}

#[tokio::test]
async fn counting_that_takes_long_keeps_no_upstream_from_others() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::with(&[&engine], UpstreamConfig { probe_timeout_ms: 300, ..settings() }, 8).await;
    engine.hang_tokenize();
    for _ in 0..2 {
        let place = model.places.take("ann", 1).unwrap();
        model.upstreams.count_tokens(text("a"), place).await.unwrap_err();
    }
    assert_eq!(model.upstreams.condition().status, ModelStatus::Ready);
    assert_eq!(usage(&model.events(text("a")).await).completion_tokens, 16);
}

#[tokio::test]
async fn an_upstream_that_dies_and_returns_is_noticed_without_requests() {
    let mut engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let other = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::on(&[&engine, &other]).await;
    engine.kill();
    model.until(|status| status == ModelStatus::Degraded).await;
    for n in 0..8 {
        assert_eq!(usage(&model.events(text(&format!("w{n}"))).await).completion_tokens, 16);
    }
    assert!(engine.got().is_empty());
    engine.revive().await;
    model.until(|status| status == ModelStatus::Ready).await;
}

#[tokio::test]
async fn dropping_a_generation_closes_its_connection_at_once() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::on(&[&engine]).await;
    engine.pace(Duration::from_millis(20));
    let mut generation = model.begin(GenerationRequest { max_tokens: Some(200), ..text("a b") }).await;
    for _ in 0..4 {
        assert!(generation.recv().await.is_some());
    }
    assert_eq!(engine.streams(), (1, 0));
    drop(generation);
    let began = Instant::now();
    while engine.streams() != (0, 1) {
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", engine.streams());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!((model.places.taken(), model.upstreams.load()), (0, 0));
}

#[tokio::test]
async fn requests_beyond_what_upstreams_take_wait_here() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let model = Model::with(&[&engine], settings(), 2).await;
    engine.pace(Duration::from_millis(10));
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(model.begin(GenerationRequest { max_tokens: Some(8), ..text("a b") }).await);
    }
    let mut most = 0;
    for generation in &mut running {
        while let Some(event) = generation.recv().await {
            most = most.max(engine.streams().0);
            assert!(!matches!(event, GenerationEvent::Failed(_)), "{event:?}");
        }
    }
    assert_eq!(most, 2);
    // None is free in time.
    engine.always(Act::StallAfter(0));
    let model =
        Model::with(&[&engine], UpstreamConfig { first_token_timeout_ms: 60_000, ..settings() }, 1).await;
    let _holding = model.begin(text("a")).await;
    let events = model.events(text("a")).await;
    assert!(matches!(error(&events), GenerationError::QueueTimeout { .. }), "{events:?}");
}

#[tokio::test]
async fn a_request_goes_to_upstreams_that_have_what_it_needs() {
    let (vllm, openai) =
        (ScriptedEngine::start(UpstreamKind::Vllm).await, ScriptedEngine::start(UpstreamKind::Openai).await);
    let model = Model::on(&[&openai, &vllm]).await;
    let mut request = text("a b");
    request.sampling.top_k = 7;
    for _ in 0..4 {
        model.events(request.clone()).await;
    }
    assert_eq!((vllm.got().len(), openai.got().len()), (4, 0));
    assert_eq!(model.upstreams.lacking(&request), None);
    request.sampling.typical_p = 0.5;
    assert_eq!(model.upstreams.lacking(&request), Some(("typical_p", "`typical_p`")));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (engine, other) =
        (ScriptedEngine::start(UpstreamKind::Vllm).await, ScriptedEngine::start(UpstreamKind::Vllm).await);
    engine.always(Act::Redirect(format!("{}/completions", other.url())));
    let model = Model::on(&[&engine]).await;
    let events = model.events(text("a")).await;
    assert!(matches!(error(&events), GenerationError::UpstreamFailed { .. }), "{events:?}");
    assert!(other.got().is_empty());
}

#[tokio::test]
async fn a_conversation_stays_where_its_beginning_is_known() {
    let engines = [
        ScriptedEngine::start(UpstreamKind::Vllm).await,
        ScriptedEngine::start(UpstreamKind::Vllm).await,
        ScriptedEngine::start(UpstreamKind::Vllm).await,
    ];
    let model = Model::on(&[&engines[0], &engines[1], &engines[2]]).await;
    for conversation in 0..6 {
        let message = |n: usize| {
            let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
            json!({"role": role, "content": format!("{conversation}.{n} {}", "abcdefghij".repeat(40))})
        };
        let before: Vec<usize> = engines.iter().map(|engine| engine.got().len()).collect();
        for turn in 0..4 {
            let messages: Vec<Value> = (0..=turn * 2).map(message).collect();
            model.events(chat(ChatPrompt::from(messages))).await;
        }
        let grown =
            engines.iter().zip(before).filter(|(engine, before)| engine.got().len() > *before).count();
        assert_eq!(grown, 1, "all turns went to one");
    }
    assert!(
        engines.iter().filter(|engine| !engine.got().is_empty()).count() > 1,
        "conversations are divided"
    );
}

#[tokio::test]
async fn keys_are_sent_and_reports_name_upstreams() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sk-upstream").unwrap();
    let upstream = Upstream {
        url: engine.url(),
        model: Some("m".to_owned()),
        kind: UpstreamKind::Vllm,
        key_file: Some(file.path().to_owned()),
        key_env: None,
        max_in_flight: 3,
        weight: 1,
    };
    let config = ActorsConfig { upstream: settings(), ..ActorsConfig::default() };
    let model = UpstreamModel { context_length: Some(99), resume: Resume::Auto, upstreams: vec![upstream] };
    let upstreams = Arc::new(Upstreams::new(&config, "m", &model).unwrap());
    assert!(!format!("{upstreams:?}").contains("sk-upstream"));
    let arguments = SupervisorArguments { children: upstreams.children(), policy: RestartPolicy::default() };
    let (supervisor, _) = ractor::Actor::spawn(None, Supervisor, arguments).await.unwrap();
    let model = Model { upstreams, places: Places::new(4), supervisor };
    model.until(|status| status == ModelStatus::Ready).await;
    let events = model.events(GenerationRequest { logprobs: Some(2), ..text("a") }).await;
    assert!(matches!(events.last(), Some(GenerationEvent::Finished { reason: FinishReason::Length, .. })));
    let got = &engine.got()[0];
    assert!(got.head.contains("authorization: bearer sk-upstream"), "{}", got.head);
    assert!(got.head.contains("x-request-id: r"));
    assert_eq!(model.upstreams.condition().context_length, Some(99));
    let report = &model.upstreams.reports()[0];
    let upstream = report.upstream.as_ref().unwrap();
    assert_eq!((upstream.url.as_str(), upstream.kind), (engine.url().as_str(), UpstreamKind::Vllm));
    assert_eq!((upstream.context_length, report.running), (Some(256), 0));
}

#[tokio::test]
async fn an_answer_goes_on_elsewhere_and_nothing_is_lost_or_doubled() {
    for act in [Act::DieAfter(3), Act::StallAfter(3), Act::ErrorAfter(3)] {
        for is_chat in [true, false] {
            let (one, two) = (
                ScriptedEngine::start(UpstreamKind::Vllm).await,
                ScriptedEngine::start(UpstreamKind::Vllm).await,
            );
            let model = Model::resuming(&[&one, &two], settings(), 8, Resume::Auto).await;
            one.then([act.clone()]);
            two.then([act.clone()]);
            let request = match is_chat {
                true => chat(vec![json!({"role": "user", "content": "a b c d"})].into()),
                false => text("a b c d"),
            };
            let request = GenerationRequest { max_tokens: Some(12), ..request };
            assert_eq!(model.upstreams.continuation(&request), Continuation::Message);
            let events = model.events(request).await;
            // Each try repeats the words of its prompt, to which the text so far belongs; the third one ends. Trials have no seed.
            let got: Vec<_> = [one.got(), two.got()].concat();
            let continued: Vec<&Value> = got
                .iter()
                .map(|got| &got.body)
                .filter(|body| body["max_tokens"] != 12 && body["seed"].is_number())
                .collect();
            assert!(
                continued.iter().all(|body| is_chat == (body["continue_final_message"] == true)),
                "{got:?}"
            );
            let said = said(&events);
            assert!(said.starts_with("a b c a b c "), "{act:?}: {said}");
            assert_eq!(said.split_whitespace().count(), 12, "{act:?}: {said}");
            let usage = usage(&events);
            assert_eq!((usage.prompt_tokens, usage.completion_tokens), (4, 12), "{act:?}");
            let starts =
                events.iter().filter(|event| matches!(event, GenerationEvent::Started { .. })).count();
            assert_eq!(starts, 1);
        }
    }
}

#[tokio::test]
async fn nothing_behind_the_end_holds_a_place() {
    let engine = ScriptedEngine::start(UpstreamKind::Vllm).await;
    engine.always(Act::Linger);
    let model =
        Model::with(&[&engine], UpstreamConfig { first_token_timeout_ms: 400, ..settings() }, 8).await;
    let events = model.events(GenerationRequest { max_tokens: Some(2), ..text("a b") }).await;
    assert_eq!((said(&events).as_str(), usage(&events).completion_tokens), ("a b ", 2));
}

#[tokio::test]
async fn what_cannot_be_continued_ends_with_an_error() {
    let (one, two) =
        (ScriptedEngine::start(UpstreamKind::Vllm).await, ScriptedEngine::start(UpstreamKind::Vllm).await);
    let model = Model::resuming(&[&one, &two], settings(), 8, Resume::Message).await;
    let thinking = chat(vec![json!({"role": "user", "content": "think:a think:b think:c think:d"})].into());
    let regex = jan_protocol::types::Constraint::Regex("a+".to_owned());
    let constrained = GenerationRequest { constraint: Some(regex.into()), ..text("a b c d") };
    assert_eq!(model.upstreams.continuation(&constrained), Continuation::None);
    for request in [thinking, constrained] {
        one.then([Act::DieAfter(2)]);
        two.then([Act::DieAfter(2)]);
        let before = one.got().len() + two.got().len();
        let events = model.events(request).await;
        assert!(matches!(error(&events), GenerationError::UpstreamFailed { .. }), "{events:?}");
        assert_eq!(one.got().len() + two.got().len(), before + 1);
    }
}
