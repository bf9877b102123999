//! The contract of a [`Backend`], as tests of any: the llama.cpp worker (in its own crate's tests) and the scripted one.

use std::time::{Duration, Instant};

use jan_protocol::embeddings::{EmbeddingInput, EmbeddingRequest};
use jan_protocol::types::{
    ChatPrompt, FinishReason, GenerationError, GenerationRequest, Inspect, ModelStatus, Prompt,
    SamplingParams,
};

use super::backend::{Backend, GenerationEvent, OutputPart};
use super::shares::{Place, Places};

/// Guard against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

struct Suite<'a> {
    backend: &'a dyn Backend,
    places: Places,
}

/// Tests all of it, with a model that is ready and takes any text.
pub async fn holds(backend: &dyn Backend) {
    let suite = Suite { backend, places: Places::new(8) };
    let condition = backend.condition();
    assert_eq!((condition.status, condition.problem), (ModelStatus::Ready, None));
    suite.a_generation_has_its_events_in_order().await;
    suite.a_prompt_that_does_not_fit_is_refused_before_the_start().await;
    suite.stop_texts_end_an_answer_and_are_not_in_it().await;
    suite.a_dropped_generation_gives_all_back().await;
    suite.one_that_nobody_reads_holds_no_other_up().await;
    suite.tokens_are_counted_and_nothing_is_generated().await;
    if backend.capabilities().inspect {
        suite.prompts_are_inspected().await;
    }
    if backend.capabilities().embeddings {
        suite.every_input_has_one_embedding().await;
    }
    let over = backend.load();
    assert_eq!((over, suite.places.taken()), (0, 0));
}

impl Suite<'_> {
    fn place(&self) -> Place {
        self.places.take("ann", 1).expect("there are eight places")
    }

    fn request(&self, text: &str, max_tokens: u32) -> GenerationRequest {
        GenerationRequest {
            request_id: "r".to_owned(),
            model: "m".to_owned(),
            user: "ann".to_owned(),
            tenant: "ann".to_owned(),
            cache_key: None,
            prompt: Prompt::Text(text.to_owned()).into(),
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            stop: Vec::new().into(),
            max_tokens: Some(max_tokens),
            want_prompt_text: false,
            logprobs: None,
            score_prompt: false,
            constraint: None,
            tools: None,
            thinking_budget: None,
        }
    }

    /// All events, or the refusal.
    async fn events(&self, request: GenerationRequest) -> Result<Vec<GenerationEvent>, GenerationError> {
        let mut generation = self.backend.generate(request, self.place()).await?;
        let mut events = Vec::new();
        while let Some(event) = within(generation.recv()).await {
            events.push(event);
        }
        Ok(events)
    }

    async fn all_is_given_back(&self) {
        let began = Instant::now();
        while self.places.taken() > 0 || self.backend.load() > 0 {
            assert!(began.elapsed() < PATIENCE, "places or requests are left over");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn a_generation_has_its_events_in_order(&self) {
        let events = self.events(self.request("one two three", 8)).await.expect("it is taken in");
        assert!(matches!(events[0], GenerationEvent::Accepted { prompt_tokens: 1.., .. }), "{events:?}");
        assert!(matches!(events[1], GenerationEvent::Started { .. }), "{events:?}");
        let (last, output) = events[2..].split_last().expect("it has an end");
        let GenerationEvent::Finished { reason, usage } = last else { panic!("{events:?}") };
        let mut tokens = 0;
        for event in output {
            let GenerationEvent::Output { tokens: new, .. } = event else { panic!("{events:?}") };
            tokens += new;
        }
        assert!(tokens <= 8 && tokens <= usage.completion_tokens, "{events:?}");
        assert!(usage.completion_tokens <= 8);
        assert_eq!(*reason == FinishReason::Length, usage.completion_tokens == 8, "{events:?}");
        self.all_is_given_back().await;
    }

    async fn a_prompt_that_does_not_fit_is_refused_before_the_start(&self) {
        let limit = self.backend.condition().context_length.expect("it is loaded");
        let text = "word ".repeat(limit as usize + 1);
        let error = match self.events(self.request(&text, 8)).await {
            Err(error) => error,
            Ok(events) => match &events[..] {
                [GenerationEvent::Failed(error)] => error.clone(),
                other => panic!("{other:?}"),
            },
        };
        assert!(matches!(error, GenerationError::ContextLengthExceeded { .. }), "{error:?}");
        self.all_is_given_back().await;
    }

    async fn stop_texts_end_an_answer_and_are_not_in_it(&self) {
        let free = text_of(&self.events(self.request("one two three four", 32)).await.expect("taken in"));
        let Some(stop) = free.chars().nth(free.chars().count() / 2).map(String::from) else { return };
        let request =
            GenerationRequest { stop: vec![stop.clone()].into(), ..self.request("one two three four", 32) };
        let events = self.events(request).await.expect("taken in");
        assert!(!text_of(&events).contains(&stop), "{stop:?} in {events:?}");
        let reason = FinishReason::Stop;
        assert!(
            matches!(events.last(), Some(GenerationEvent::Finished { reason: why, .. }) if *why == reason)
        );
        self.all_is_given_back().await;
    }

    async fn a_dropped_generation_gives_all_back(&self) {
        // Before it is taken in, before its first event, and in the middle.
        drop(self.backend.generate(self.request("one two", 100), self.place()));
        self.all_is_given_back().await;
        for events in [0, 3] {
            let begun = self.backend.generate(self.request("one two", 100), self.place()).await;
            let mut generation = begun.expect("it is taken in");
            for _ in 0..events {
                assert!(within(generation.recv()).await.is_some());
            }
            drop(generation);
            self.all_is_given_back().await;
        }
    }

    async fn one_that_nobody_reads_holds_no_other_up(&self) {
        let unread = self.backend.generate(self.request("one two", 200), self.place()).await;
        let unread = unread.expect("it is taken in");
        for _ in 0..3 {
            let events = self.events(self.request("three four", 4)).await.expect("taken in");
            assert!(matches!(events.last(), Some(GenerationEvent::Finished { .. })), "{events:?}");
        }
        drop(unread);
        self.all_is_given_back().await;
    }

    async fn tokens_are_counted_and_nothing_is_generated(&self) {
        let request = self.request("one two three", 8);
        let counted = within(self.backend.count_tokens(request.clone(), self.place())).await.expect("fits");
        let events = self.events(request).await.expect("taken in");
        let GenerationEvent::Accepted { prompt_tokens, .. } = &events[0] else { panic!("{events:?}") };
        assert_eq!(counted, *prompt_tokens);
        let limit = self.backend.condition().context_length.expect("it is loaded");
        let long = self.request(&"word ".repeat(limit as usize + 1), 8);
        let refused = within(self.backend.count_tokens(long, self.place())).await;
        assert!(matches!(refused, Err(GenerationError::ContextLengthExceeded { .. })), "{refused:?}");
        self.all_is_given_back().await;
    }

    async fn prompts_are_inspected(&self) {
        let text = Inspect::Text { text: "one two".to_owned(), add_special: false };
        let found = within(self.backend.inspect(text)).await.expect("it is text");
        assert_eq!(found.pieces.concat(), b"one two");
        assert_eq!(found.tokens.len(), found.pieces.len());
        let tokens = found.tokens.clone();
        let back = within(self.backend.inspect(Inspect::Tokens(tokens.clone()))).await.expect("its tokens");
        assert_eq!(back.tokens, tokens);
        let messages = vec![serde_json::json!({"role": "user", "content": "Hello there"})];
        let chat = ChatPrompt { messages, ..ChatPrompt::default() };
        let question = Inspect::Chat { chat, tokens: true };
        let found = within(self.backend.inspect(question)).await.expect("it is a chat");
        assert!(!found.tokens.is_empty() && found.text.contains("Hello"), "{found:?}");
    }

    async fn every_input_has_one_embedding(&self) {
        let inputs = ["one", "two three"].map(|text| EmbeddingInput::Text(text.to_owned())).to_vec();
        let request = EmbeddingRequest {
            request_id: "r".to_owned(),
            model: "m".to_owned(),
            user: "ann".to_owned(),
            inputs,
            dimensions: None,
        };
        let begun = within(self.backend.embed(request.clone(), self.place())).await;
        let mut embeddings = begun.expect("it is taken in");
        let mut seen = Vec::new();
        while let Some(embedding) = within(embeddings.recv()).await {
            let embedding = embedding.expect("an embedding");
            let length: f32 = embedding.vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-3 && embedding.tokens > 0, "{embedding:?}");
            seen.push(embedding.index);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
        drop(embeddings);
        drop(within(self.backend.embed(request, self.place())).await.expect("it is taken in"));
        self.all_is_given_back().await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not hang")
}

fn text_of(events: &[GenerationEvent]) -> String {
    let mut text = String::new();
    for event in events {
        let GenerationEvent::Output { parts, .. } = event else { continue };
        for part in parts {
            if let OutputPart::Content(more) = part {
                text.push_str(more);
            }
        }
    }
    text
}
