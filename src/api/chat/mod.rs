//! `POST /chat/completions`: the route and the handler.

pub mod conversation;
pub mod message;
pub mod request;
pub mod response;

use std::sync::Arc;

use jan_actors::identity::Right;
use jan_actors::model::{ChatPrompt, Constraint, GenerationRequest, Prompt, ToolPlan};
use jan_actors::web_search::{SearchQuery, WebSource};

use self::conversation::ConversationRef;
use self::request::{ChatRequest, CheckedChat, UNSUPPORTED};
use self::response::{ChatChoice, ChatChunk, ChatCompletion, ChunkEncoder, TIER};
use super::inference::choices::{AnswerPolicy, ChoiceEvent, Choices, Started};
use super::inference::metering::{Meter, take_answers};
use super::inference::params::choice_seed;
use super::inference::streaming;
use super::inference::structured_output::{self, Structured};
use super::inference::usage::{ResponseHeader, StreamedUsage, UsageSum};
use super::inference::web_search::{self, SearchOptions};
use super::{
    inference::permissions::{check_conversations, check_model},
    respond::{json, name_continuation, name_ignored, name_unenforced},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::json::Parsed;
use crate::http::routing::{Place, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response, sse};

/// The field that holds the prompt, for errors about it.
const PROMPT: &str = "messages";
/// The field that requests a web search.
const WEB_SEARCH: &str = "web_search_options";

/// `/chat/completions`
pub fn routes() -> Vec<Route> {
    vec![route!(create, Place::Api, Access::Anonymous(Right::Infer)).inference()]
}

/// Create a chat completion.
///
/// With `stream`, the answer is sent as server-sent events: `data: {chunk}` lines, the assistant's role in
/// the first, `finish_reason` in the last of an answer, `data: [DONE]` at the end. Each of the `n` answers
/// counts against the limit of answers per minute (by default ten times the inference limit); a request for
/// more than that is 400. Unknown fields are ignored and named in the response header `X-Ignored-Fields`.
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
        (status = 400, description = "A field is missing or invalid, or the prompt is too long", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The content type of the body is not JSON", body = ErrorResponse),
        (status = 429, description = "A rate limit, or the limit of searches", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let (mut chat, ignored) = request
        .read(UNSUPPORTED, |parsed: Parsed<ChatRequest>| Ok((parsed.value.check()?, parsed.ignored)))
        .await?;
    if chat.web.is_some() {
        let checked = state.web_search.check(&context.fairness_key()).await;
        checked.map_err(|error| ApiError::from_search(&error, WEB_SEARCH))?;
    }
    let mut structured = chat.structured.take();
    let constraint = structured.as_ref().map(|structured| structured.constraint.clone());
    let tools = std::mem::take(&mut chat.tools);
    let (old_form, tool_field) = (tools.old_form, tools.field());
    let plan = tools.plan.clone();
    let mut unenforced = tools.unenforced.clone();
    let call_policy = tools.call_policy(constraint.is_none());
    let constraining = structured.as_ref().map(|structured| structured.field);
    let constraining = constraining.or(plan.as_ref().map(|_| tool_field));
    let cut = !chat.stop.is_empty();
    let (stream, usage_chunks, n) = (chat.stream, chat.usage_chunks, chat.n as usize);
    let fields = (constraining, chat.length_field);
    let with_logprobs = chat.logprobs.is_some();
    let head = ResponseHeader::new("chatcmpl", &chat.model);
    check_model(&state, &context, &chat.model).await?;
    if chat.conversation.is_some() {
        check_conversations(&context)?;
    }
    let meter = Meter::start(&state, &context, stream, 1, n)?;
    take_answers(&state, &context, n, "n")?;
    let turn = match chat.conversation.take() {
        Some(param) => {
            let begun = conversation::begin(&state, &context, param, &chat.model, &mut chat.prompt.messages);
            Some(begun.await?)
        }
        None => None,
    };
    let conversation = turn.as_ref().map(ConversationRef::from);
    let options = chat.web.take();
    let requests = generation_requests(chat, constraint, plan, &context);
    let continuation = requests.first().and_then(|request| state.models.continuation(request));
    let begun = start(&state, &context, requests, options, meter, structured.as_mut(), fields).await;
    let (started, sources) = match begun {
        Ok(started) => started,
        Err(error) => {
            conversation::take_back(turn).await;
            return Err(error);
        }
    };
    unenforced.extend(started.unenforced());
    unenforced.extend(structured.iter().flat_map(|structured| &structured.unenforced));
    let check = structured.and_then(|structured| structured.output_check(n, cut));
    let retries = state.structured.tries(stream, unenforced.is_empty());
    let choices =
        started.with_policy(AnswerPolicy { call_policy, check, constraining, turn, sources, retries });
    let mut response = if stream {
        let usage = StreamedUsage::new(usage_chunks, UsageSum::new(1, n));
        let encoder = ChunkEncoder { head, usage, called: vec![false; n], old_form, conversation };
        let events = streaming::events(choices, encoder, context.id.clone(), PROMPT);
        sse::response(events, state.config.keep_alive(), &state.lifecycle.cut_off, context.id)
    } else {
        json(&collect(choices, &head, n, (with_logprobs, old_form), conversation).await?)
    };
    name_ignored(&mut response, &ignored);
    name_unenforced(&mut response, &unenforced);
    name_continuation(&mut response, continuation);
    Ok(response)
}

/// Searches the web if requested, and starts the answers. Also returns the sources that they may cite.
async fn start(
    state: &AppState,
    context: &RequestContext,
    mut requests: Vec<GenerationRequest>,
    options: Option<SearchOptions>,
    meter: Meter,
    structured: Option<&mut Structured>,
    (constraining, length_field): (Option<&'static str>, &'static str),
) -> Result<(Started, Vec<WebSource>), ApiError> {
    let failed = |error| structured_output::start_error(error, PROMPT, length_field, constraining);
    let mut sources = Vec::new();
    if let Some((options, request)) = options.zip(requests.first().cloned()) {
        let Prompt::Chat(chat) = &*request.prompt else { return Err(ApiError::internal()) };
        let Some(question) = web_search::prompt::question(&chat.messages) else {
            let message = "Invalid 'messages': web search requires a user message to search for.";
            return Err(ApiError::invalid_value(PROMPT, message));
        };
        let query = SearchQuery::words(question);
        let found = state.web_search.search(&context.fairness_key(), options.query(&query)).await;
        let found = found.map_err(|error| ApiError::from_search(&error, WEB_SEARCH))?;
        let with = |text: &str| {
            let messages = web_search::prompt::with_sources(chat.messages.clone(), text);
            Arc::new(Prompt::Chat(ChatPrompt { messages, ..chat.clone() }))
        };
        let trial = |text: &str| GenerationRequest { prompt: with(text), ..request.clone() };
        let shown = web_search::prompt::fit(&state.models, &query, &found, 0, trial).await.map_err(failed)?;
        let prompt = with(&shown.text);
        sources = shown.sources;
        for request in &mut requests {
            request.prompt = Arc::clone(&prompt);
        }
    }
    Ok((Started::new(&state.models, requests, meter, structured).await.map_err(failed)?, sources))
}

fn generation_requests(
    chat: CheckedChat,
    constraint: Option<Arc<Constraint>>,
    tools: Option<Arc<ToolPlan>>,
    context: &RequestContext,
) -> Vec<GenerationRequest> {
    let request = GenerationRequest {
        request_id: context.id.as_str().to_owned(),
        model: chat.model,
        user: context.fairness_key(),
        tenant: context.tenant(),
        cache_key: chat.cache_key,
        prompt: Arc::new(Prompt::Chat(chat.prompt)),
        sampling: chat.sampling,
        stop: chat.stop,
        max_tokens: chat.max_tokens,
        want_prompt_text: false,
        logprobs: chat.logprobs,
        score_prompt: false,
        constraint,
        tools,
        thinking_budget: chat.thinking_budget,
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
    head: &ResponseHeader,
    n: usize,
    (with_logprobs, old_form): (bool, bool),
    conversation: Option<ConversationRef>,
) -> Result<ChatCompletion<'_>, ApiError> {
    let mut answers: Vec<ChatChoice> =
        (0u32..).take(n).map(|index| ChatChoice::new(index, with_logprobs, old_form)).collect();
    let mut usage = UsageSum::new(1, n);
    while let Some(event) = choices.next().await {
        let (index, event) = event.map_err(|error| ApiError::from_generation(error, PROMPT))?;
        if let ChoiceEvent::Finished(_, tokens) = &event {
            usage.set(index, *tokens);
        }
        answers[index].take(event);
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
