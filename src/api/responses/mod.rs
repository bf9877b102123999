//! `/responses`: OpenAI's stateful API. The routes, the handlers and their description.
//!
//! - [`mod@request`], [`items`]: the requests
//! - [`create`]: from a request to a run
//! - [`object`], [`events`], [`paging`]: the responses, as objects and as events; pure
//! - [`history`], [`truncation`], [`generation`], [`conversation`]: the model's input and output
//! - [`search_rounds`]: generation with web searches
//! - [`stream`]: events on the wire

mod conversation;
mod create;
mod event_log;
mod events;
mod format;
mod generation;
mod history;
mod input;
mod items;
mod object;
mod output;
mod output_item;
mod paging;
pub mod query;
pub mod request;
mod search_rounds;
mod stream;
mod truncation;

use std::sync::Arc;

use http::StatusCode;
use jan_actors::identity::Right;
use jan_actors::model::{ChatPrompt, GenerationError, GenerationRequest, Prompt, SamplingParams};
use jan_actors::responses::{Found, Reader, ResponseId, ResponseRecord, ResponsesError};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use event_log::EventLog;
use events::ResponseStreamEvent;
use object::ResponseObject;
use paging::ItemList;
use query::{ListQuery, RetrieveQuery};
use request::{CountTokens, PROMPT, UNSUPPORTED};
use stream::Origin;

use super::accounts::types::Deleted;
use super::inference::reasoning;
use super::inference::tools::Tools;
use super::{
    respond::{name_ignored, private, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response, sse};

/// Returns the routes of `/responses` and below.
pub fn routes() -> Vec<Route> {
    vec![
        route!(create::create, Place::Api, Access::Anonymous(Right::Infer)).inference(),
        route!(count_tokens, Place::Api, Access::Anonymous(Right::Infer)).inference(),
        route!(retrieve, Place::Api, Access::Needs(Right::ReadInference)),
        route!(delete, Place::Api, Access::Needs(Right::Infer)),
        route!(cancel, Place::Api, Access::Needs(Right::Infer)),
        route!(input_items, Place::Api, Access::Needs(Right::ReadInference)),
    ]
}

/// The length of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenCount {
    /// Always `response.input_tokens`.
    object: &'static str,
    /// Tokens of the prompt.
    input_tokens: u32,
}

fn instructions(text: Option<&str>) -> Option<Value> {
    text.map(|text| json!({"role": "system", "content": text}))
}

fn from_generation(error: GenerationError) -> ApiError {
    super::inference::structured_output::generation_error(error, PROMPT, Some(format::FORMAT))
}

/// Returns the response object at its creation.
fn shown(record: &ResponseRecord) -> Result<ResponseObject, ApiError> {
    serde_json::from_value(record.shown.clone()).map_err(|error| {
        tracing::error!(%error, response = %record.id, "a stored response cannot be read");
        ApiError::internal()
    })
}

fn follow(
    state: &AppState,
    context: &RequestContext,
    origin: Origin,
    shown: ResponseObject,
    after: Option<u64>,
    permit: Option<jan_actors::limits::StreamPermit>,
) -> Response {
    let cut_off = &state.lifecycle.cut_off;
    let events = stream::events(origin, EventLog::new(shown), after, cut_off.clone(), permit);
    sse::response(events, state.config.keep_alive(), cut_off, context.id.clone())
}

/// Count the tokens of a prompt without generating.
#[utoipa::path(
    post,
    path = "/responses/input_tokens",
    tag = "responses",
    operation_id = "countInputTokens",
    request_body = CountTokens,
    responses(
        (status = 200, description = "The count", body = TokenCount),
        (status = 400, description = "A field is missing or invalid", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn count_tokens(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let parsed = request.read::<CountTokens, _>(UNSUPPORTED, Ok).await?;
    let wanted = parsed.value;
    super::inference::params::model(&wanted.model)?;
    super::inference::permissions::check_model(&state, &context, &wanted.model).await?;
    if wanted.conversation.is_some() {
        super::inference::permissions::check_conversations(&context)?;
    }
    request::check_form(wanted.text.as_ref(), wanted.reasoning.as_ref())?;
    let tools = Tools::of_response(wanted.tools.as_deref(), wanted.tool_choice.as_ref(), None)?;
    let mut prompt = ChatPrompt { tools: tools.shown, ..ChatPrompt::default() };
    let effort = wanted.reasoning.as_ref().and_then(|reasoning| reasoning.effort);
    reasoning::apply(effort, None, None, &mut prompt);
    let user = context.caller.principal.user();
    let previous = wanted.previous_response_id.as_deref();
    request::check_history(previous, wanted.conversation.as_ref())?;
    let history = match &wanted.conversation {
        Some(conversation) => history::of_conversation(&state, user, conversation).await?.2,
        None => history::of_previous(&state, user, previous).await?,
    };
    let input = history::resolve(&state, user, &history, input::normalize(wanted.input)?).await?;
    let messages = instructions(wanted.instructions.as_deref())
        .into_iter()
        .chain(items::to_messages(history.iter().chain(&input)))
        .collect::<Vec<_>>();
    if messages.is_empty() {
        return Err(ApiError::missing("input"));
    }
    let generation = GenerationRequest {
        request_id: context.id.as_str().to_owned(),
        model: wanted.model,
        user: context.fairness_key(),
        tenant: context.tenant(),
        cache_key: None,
        prompt: Arc::new(Prompt::Chat(ChatPrompt { messages, ..prompt })),
        sampling: SamplingParams::default(),
        stop: Arc::default(),
        max_tokens: Some(0),
        want_prompt_text: false,
        logprobs: None,
        score_prompt: false,
        constraint: None,
        tools: None,
        thinking_budget: None,
    };
    let input_tokens = match state.models.count_tokens(generation).await {
        Ok(tokens) => tokens,
        // The prompt exceeds the context, but its length is known.
        Err(GenerationError::ContextLengthExceeded { prompt_tokens, .. }) => prompt_tokens,
        Err(error) => return Err(from_generation(error)),
    };
    let mut response = super::respond::json(&TokenCount { object: "response.input_tokens", input_tokens });
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Parses a response's id. A malformed one is reported as not found.
fn parse(id: &str) -> Result<ResponseId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("response", id))
}

async fn find(state: &AppState, context: &RequestContext, id: &str) -> Result<Found, ApiError> {
    state.responses.find(user_of(context)?, parse(id)?).await.map_err(ApiError::from_responses)
}

/// Retrieve a stored response in its current state; with `stream`, its events from the beginning or after
/// `starting_after`.
#[utoipa::path(
    get,
    path = "/responses/{id}",
    tag = "responses",
    operation_id = "getResponse",
    params(
        ("id" = String, Path, description = "The response's id, `resp_…`"),
        ("stream" = Option<bool>, Query, description = "Send its events, and continue while it is generated"),
        ("starting_after" = Option<u64>, Query, description = "With `stream`: only events with a higher number"),
        ("include" = Option<Vec<String>>, Query, description = "Validated; everything is always included"),
        ("include_obfuscation" = Option<bool>, Query, description = "Has no effect: events carry no padding"),
    ),
    responses(
        (status = 200, description = "The response", content(
            (ResponseObject = "application/json"),
            (ResponseStreamEvent = "text/event-stream"),
        )),
        (status = 404, description = "The response does not exist", body = ErrorResponse),
        (status = 503, description = "Another server generates it; see Retry-After", body = ErrorResponse),
    )
)]
async fn retrieve(
    Id(id): Id,
    RawQuery(query): RawQuery,
    state: AppState,
    context: RequestContext,
) -> Result<Response, ApiError> {
    let query = RetrieveQuery::parse(&query)?;
    let found = find(&state, &context, &id).await?;
    let shown = shown(&found.record)?;
    let progress = found.reader.as_ref().map_or_else(|| found.record.progress(), Reader::now);
    if !query.stream {
        return Ok(private(StatusCode::OK, &shown.at(&progress)));
    }
    if found.reader.is_none() && found.record.end.is_none() {
        return Err(ApiError::from_responses(ResponsesError::Elsewhere));
    }
    let permit = state.limiter.stream(&context.caller.principal);
    let permit = permit.map_err(|verdict| ApiError::rate_limited(&verdict))?;
    let origin = found.reader.map_or(Origin::Ended(progress), Origin::Running);
    Ok(follow(&state, &context, origin, shown, query.starting_after, Some(permit)))
}

/// Delete a response. If it is being generated, it is ended.
#[utoipa::path(
    delete,
    path = "/responses/{id}",
    tag = "responses",
    operation_id = "deleteResponse",
    params(("id" = String, Path, description = "The response's id, `resp_…`")),
    responses(
        (status = 200, description = "The response is deleted", body = Deleted),
        (status = 404, description = "The response does not exist", body = ErrorResponse),
    )
)]
async fn delete(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, response) = (user_of(&context)?, parse(&id)?);
    state.responses.delete(user, response).await.map_err(ApiError::from_responses)?;
    Ok(private(StatusCode::OK, &Deleted::new(response, "response")))
}

/// Cancel a background response. A finished one is unchanged.
#[utoipa::path(
    post,
    path = "/responses/{id}/cancel",
    tag = "responses",
    operation_id = "cancelResponse",
    params(("id" = String, Path, description = "The response's id, `resp_…`")),
    responses(
        (status = 200, description = "The response", body = ResponseObject),
        (status = 400, description = "It was not created with `background`", body = ErrorResponse),
        (status = 404, description = "The response does not exist", body = ErrorResponse),
        (status = 503, description = "Another server generates it; see Retry-After", body = ErrorResponse),
    )
)]
async fn cancel(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, response) = (user_of(&context)?, parse(&id)?);
    let found = state.responses.cancel(user, response).await.map_err(ApiError::from_responses)?;
    Ok(private(StatusCode::OK, &shown(&found.record)?.at(&found.record.progress())))
}

/// List the input of a response, including everything before it.
#[utoipa::path(
    get,
    path = "/responses/{id}/input_items",
    tag = "responses",
    operation_id = "listInputItems",
    params(
        ("id" = String, Path, description = "The response's id, `resp_…`"),
        ("limit" = Option<u32>, Query, description = "1 to 100, default 20"),
        ("after" = Option<String>, Query, description = "Only items after the one with this id"),
        ("order" = Option<String>, Query, description = "`asc` or `desc`, the default"),
        ("include" = Option<Vec<String>>, Query, description = "Validated; everything is always included"),
    ),
    responses(
        (status = 200, description = "A page of items", body = ItemList),
        (status = 400, description = "The query is invalid", body = ErrorResponse),
        (status = 404, description = "The response does not exist", body = ErrorResponse),
    )
)]
async fn input_items(
    Id(id): Id,
    RawQuery(query): RawQuery,
    state: AppState,
    context: RequestContext,
) -> Result<Response, ApiError> {
    let query = ListQuery::parse(&query)?.0;
    let mut record = find(&state, &context, &id).await?.record;
    let mut items = std::mem::take(&mut record.history);
    items.append(&mut record.input);
    Ok(private(StatusCode::OK, &paging::page(items, &query)?))
}
