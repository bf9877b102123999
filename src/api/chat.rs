//! `POST /chat/completions`: the route, the handler and the response.
//!
//! Source: `CreateChatCompletionResponse` and `CreateChatCompletionStreamResponse` in OpenAI's API
//! description.

use std::borrow::Cow;
use std::sync::Arc;

use jan_actors::model::{Constraint, GenerationRequest, Prompt};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::chat_conversation::{self, ConversationRef, ConversationTarget};
use super::chat_request::{
    CalledFunction, ChatRequest, CheckedChat, ContentShape, Message, PartShape, Role, ToolCall, ToolCallKind,
    UNSUPPORTED,
};
use super::choices::{ChoiceEvent, Choices};
use super::logprobs::{ChatCandidate, ChatLogprobs, ChatTokenLogprob};
use super::meter::Meter;
use super::params::{ServiceTier, StopShape, StreamOptions, choice_seed};
use super::streaming::{self, Encoder};
use super::structured::{self, FormatKind, JsonSchemaFormat, ResponseFormat};
use super::wire::{CompletionTokensDetails, Finish, Head, PromptTokensDetails, Usage, UsageSum};
use super::{AppState, into_response, json, name_ignored, with};
use crate::http::body::request;
use crate::http::error::{ErrorBody, ErrorResponse};
use crate::http::routes::{api_v1, other_methods};
use crate::http::{ApiError, ApiRequest, RequestContext, Response, json as http_json, sse};

/// The field that holds the prompt, for errors about it.
const PROMPT: &str = "messages";
const TIER: &str = "default";

/// `/chat/completions`
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let path = api_v1().and(warp::path!("chat" / "completions"));
    path.and(warp::post())
        .and(with(state))
        .and(request())
        .then(async |state, request| into_response(create(state, request).await))
        .or(other_methods(path, "POST, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(
    paths(create),
    components(schemas(
        ChatRequest,
        Message,
        Role,
        ToolCall,
        ToolCallKind,
        CalledFunction,
        StreamOptions,
        StopShape,
        ContentShape,
        PartShape,
        ServiceTier,
        ResponseFormat,
        FormatKind,
        JsonSchemaFormat,
        ConversationTarget,
        ConversationRef,
        ChatCompletion,
        ChatChoice,
        AssistantMessage,
        ChatChunk,
        ChunkChoice,
        Delta,
        ChatLogprobs,
        ChatTokenLogprob,
        ChatCandidate,
        Finish,
        Usage,
        PromptTokensDetails,
        CompletionTokensDetails,
        ErrorResponse,
        ErrorBody,
    ))
)]
pub struct Doc;

/// Continue a conversation.
///
/// With `stream`, the answer comes as server-sent events: `data: {chunk}` lines, the assistant's role in the
/// first, `finish_reason` in an answer's last, `data: [DONE]` at the end. Fields that are unknown are ignored
/// and named in the response header `X-Ignored-Fields`.
#[utoipa::path(
    post,
    path = "/chat/completions",
    tag = "chat",
    operation_id = "createChatCompletion",
    request_body(content = ChatRequest, examples(
        ("answer" = (summary = "An answer", value = json!({
            "model": "jan-v1-4b", "messages": [{"role": "user", "content": "Hello"}]
        }))),
        ("stream" = (summary = "A streamed answer", value = json!({
            "model": "jan-v1-4b", "messages": [{"role": "user", "content": "Tell me a story"}], "stream": true
        }))),
    )),
    responses(
        (status = 200, description = "The answer", content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
        (status = 400, description = "A field is missing or wrong, or the prompt is too long", body = ErrorResponse),
        (status = 404, description = "There is no such model", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON by its content type", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let body = request.read_json(state.config.body_limit_bytes, state.config.body_timeout()).await?;
    let parsed = http_json::parse::<ChatRequest>(&body, UNSUPPORTED)?;
    drop(body);
    let mut chat = parsed.value.check()?;
    let structured = chat.structured.take();
    let constraint = structured.as_ref().map(|structured| structured.constraint.clone());
    let constraining = structured.as_ref().map(|structured| structured.field);
    let cut = !chat.stop.is_empty();
    let (stream, include_usage, n) = (chat.stream, chat.include_usage, chat.n as usize);
    let with_logprobs = chat.logprobs.is_some();
    let head = Head::new("chatcmpl", &chat.model);
    let meter = Meter::start(&state, &context, stream, 1, n)?;
    let turn = match chat.conversation.take() {
        Some(param) => {
            let begun = chat_conversation::begin(&state, &context, param, &chat.model, &mut chat.messages);
            Some(begun.await?)
        }
        None => None,
    };
    let conversation = turn.as_ref().map(ConversationRef::from);
    let mut choices =
        match Choices::start(&state.models, generation_requests(chat, constraint, &context), meter).await {
            Ok(choices) => choices,
            Err(error) => {
                chat_conversation::take_back(turn).await;
                return Err(structured::generation_error(error, PROMPT, constraining));
            }
        };
    choices.store_in(turn);
    choices.check_with(structured.and_then(|structured| structured.output_check(n, cut)));
    let mut response = if stream {
        let usage = UsageSum::new(1, n);
        let encoder = ChunkEncoder { head, include_usage, usage, answers: n, conversation };
        let events = streaming::events(choices, encoder, context.id.clone(), PROMPT);
        sse::response(events, state.config.keep_alive(), &state.lifecycle.cut_off, context.id)
    } else {
        json(&collect(choices, &head, n, with_logprobs, conversation).await?)
    };
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

fn generation_requests(
    chat: CheckedChat,
    constraint: Option<Constraint>,
    context: &RequestContext,
) -> Vec<GenerationRequest> {
    let request = GenerationRequest {
        request_id: context.id.as_str().to_owned(),
        model: chat.model,
        user: context.fairness_key(),
        prompt: Arc::new(Prompt::Chat { messages: chat.messages }),
        sampling: chat.sampling,
        stop: chat.stop,
        max_tokens: chat.max_tokens,
        want_prompt_text: false,
        logprobs: chat.logprobs,
        constraint,
    };
    let seed = request.sampling.seed;
    let mut requests = vec![request; chat.n as usize];
    for (index, request) in (0u32..).zip(&mut requests) {
        request.sampling.seed = choice_seed(seed, index);
    }
    requests
}

async fn collect(
    mut choices: Choices,
    head: &Head,
    n: usize,
    with_logprobs: bool,
    conversation: Option<ConversationRef>,
) -> Result<ChatCompletion<'_>, ApiError> {
    let mut answers: Vec<ChatChoice> =
        (0u32..).take(n).map(|index| ChatChoice::new(index, with_logprobs)).collect();
    let mut usage = UsageSum::new(1, n);
    while let Some(event) = choices.next().await {
        match event.map_err(|error| ApiError::from_generation(error, PROMPT))? {
            (index, ChoiceEvent::Text(text, logprobs)) => {
                answers[index].message.content.push_str(&text);
                if let Some(all) = &mut answers[index].logprobs {
                    all.extend(logprobs);
                }
            }
            (index, ChoiceEvent::Finished(reason, tokens)) => {
                answers[index].finish_reason = reason.into();
                usage.add(index, tokens);
            }
        }
    }
    Ok(ChatCompletion {
        id: &head.id,
        object: "chat.completion",
        created: head.created,
        model: &head.model,
        choices: answers,
        usage: usage.total(),
        service_tier: TIER,
        system_fingerprint: &head.system_fingerprint,
        conversation,
    })
}

/// An answer to a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion<'a> {
    /// Unique.
    #[schema(example = "chatcmpl-2f1c6a8e0d5b4f7f9a3c1e2d4b6f8a01")]
    id: &'a str,
    /// Always `chat.completion`.
    object: &'static str,
    /// Unix seconds.
    created: i64,
    /// The model as it was asked for.
    model: &'a str,
    /// The answers.
    choices: Vec<ChatChoice>,
    /// Token counts.
    usage: Usage,
    /// Always `default`.
    service_tier: &'static str,
    /// Same build and same model: same fingerprint.
    system_fingerprint: &'a str,
    /// Where it is stored; only with `conversation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationRef>,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    index: u32,
    /// What the model says.
    message: AssistantMessage,
    /// How likely its tokens were; null unless `logprobs` asks for it.
    logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    finish_reason: Finish,
}

impl ChatChoice {
    fn new(index: u32, with_logprobs: bool) -> Self {
        let message =
            AssistantMessage { role: "assistant", content: String::new(), refusal: (), annotations: [] };
        let logprobs = with_logprobs.then(ChatLogprobs::default);
        Self { index, message, logprobs, finish_reason: Finish::Stop }
    }
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    role: &'static str,
    /// The text.
    content: String,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: (),
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    annotations: [u8; 0],
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk<'a> {
    /// The same in all chunks of one response.
    id: &'a str,
    /// Always `chat.completion.chunk`.
    object: &'static str,
    /// Unix seconds, the same in all chunks of one response.
    created: i64,
    /// The model as it was asked for.
    model: &'a str,
    /// Always `default`.
    service_tier: &'static str,
    /// Same build and same model: same fingerprint.
    system_fingerprint: &'a str,
    /// One answer's progress; empty in the chunk that has the usage.
    choices: Vec<ChunkChoice<'a>>,
    /// Only with `stream_options.include_usage`: null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// Where it is stored; only with `conversation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<&'a ConversationRef>,
}

/// One answer's progress.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice<'a> {
    /// The answer's number.
    index: u32,
    /// What is new.
    delta: Delta<'a>,
    /// How likely the new tokens were; null where there are none, or `logprobs` does not ask for it.
    logprobs: Option<ChatLogprobs>,
    /// Why it ended; null until then.
    finish_reason: Option<Finish>,
}

/// What is new in an answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta<'a> {
    /// In an answer's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Cow<'a, str>>,
    /// Null in an answer's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    refusal: Option<()>,
}

struct ChunkEncoder {
    head: Head,
    include_usage: bool,
    usage: UsageSum,
    answers: usize,
    conversation: Option<ConversationRef>,
}

impl ChunkEncoder {
    fn write(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Usage>, buffer: &mut Vec<u8>) {
        let chunk = ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            service_tier: TIER,
            system_fingerprint: &self.head.system_fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
            conversation: self.conversation.as_ref(),
        };
        sse::write_event(buffer, &chunk);
    }

    fn write_choice(
        &self,
        index: usize,
        delta: Delta<'_>,
        logprobs: Option<ChatLogprobs>,
        end: Option<Finish>,
        buffer: &mut Vec<u8>,
    ) {
        let index = u32::try_from(index).expect("there are at most 128 answers");
        self.write(vec![ChunkChoice { index, delta, logprobs, finish_reason: end }], None, buffer);
    }
}

impl Encoder for ChunkEncoder {
    fn opening(&mut self, buffer: &mut Vec<u8>) {
        for index in 0..self.answers {
            let delta =
                Delta { role: Some("assistant"), content: Some(Cow::Borrowed("")), refusal: Some(()) };
            self.write_choice(index, delta, None, None, buffer);
        }
    }

    fn event(&mut self, index: usize, event: ChoiceEvent, buffer: &mut Vec<u8>) {
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                let delta = Delta { content: Some(Cow::Owned(text)), ..Delta::default() };
                self.write_choice(index, delta, ChatLogprobs::of_chunk(logprobs), None, buffer);
            }
            ChoiceEvent::Finished(reason, usage) => {
                self.usage.add(index, usage);
                self.write_choice(index, Delta::default(), None, Some(reason.into()), buffer);
            }
        }
    }

    fn closing(&mut self, buffer: &mut Vec<u8>) {
        if self.include_usage {
            self.write(Vec::new(), Some(self.usage.total()), buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use jan_actors::model::{FinishReason, TokenUsage};
    use serde_json::{Value, json};

    use super::*;

    fn encoder(include_usage: bool, answers: usize) -> ChunkEncoder {
        ChunkEncoder {
            head: Head {
                id: "chatcmpl-1".to_owned(),
                created: 7,
                model: "m".to_owned(),
                system_fingerprint: "fp".to_owned(),
            },
            include_usage,
            usage: UsageSum::new(1, answers),
            answers,
            conversation: None,
        }
    }

    fn chunks(buffer: &[u8]) -> Vec<Value> {
        std::str::from_utf8(buffer)
            .unwrap()
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    fn play(encoder: &mut ChunkEncoder) -> Vec<Value> {
        let usage = TokenUsage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 1 };
        let mut buffer = Vec::new();
        encoder.opening(&mut buffer);
        encoder.event(0, ChoiceEvent::Text("Hi".to_owned(), Vec::new()), &mut buffer);
        encoder.event(0, ChoiceEvent::Finished(FinishReason::Length, usage), &mut buffer);
        encoder.closing(&mut buffer);
        chunks(&buffer)
    }

    #[test]
    fn chunks_are_openais() {
        let base = |choice: Value| {
            json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
                "service_tier": "default", "system_fingerprint": "fp", "choices": [choice],
            })
        };
        let choice = |delta: Value, finish: Value| {
            base(json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}))
        };
        assert_eq!(
            play(&mut encoder(false, 1)),
            [
                choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null),
                choice(json!({"content": "Hi"}), Value::Null),
                choice(json!({}), json!("length")),
            ]
        );
    }

    #[test]
    fn usage_is_null_until_the_last_chunk_which_has_no_choices() {
        let chunks = play(&mut encoder(true, 1));
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(others.len(), 3);
        assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["total_tokens"], 6);
        assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
        assert_eq!(last["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    }

    #[test]
    fn every_answer_opens_with_its_role() {
        let mut buffer = Vec::new();
        encoder(false, 3).opening(&mut buffer);
        let indexes: Vec<u64> =
            chunks(&buffer).iter().map(|chunk| chunk["choices"][0]["index"].as_u64().unwrap()).collect();
        assert_eq!(indexes, [0, 1, 2]);
    }
}
