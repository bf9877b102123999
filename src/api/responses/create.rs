//! `POST /responses`: from the request to the run and its HTTP response.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jan_actors::conversations::Turn;
use jan_actors::identity::UserId;
use jan_actors::model::{GenerationRequest, Prompt};
use jan_actors::responses::{NewRun, Progress, Reader, ResponseId, ResponseRecord, Run, RunLifetime};
use serde_json::json;

use super::conversation::conversation_error;
use super::conversation::into_turn;
use super::events::ResponseStreamEvent;
use super::generation::Plan;
use super::object::ResponseObject;
use super::request::{Checked, CreateResponse, PROMPT, TextConfig, Truncation, UNSUPPORTED};
use super::search_rounds::{self, Searching};
use super::stream::Origin;
use super::{follow, from_generation, generation, history, instructions, items, shown};
use crate::api::inference::metering::{Meter, take_answers};
use crate::api::inference::structured_output::start_error;
use crate::api::inference::tools::WebTool;
use crate::api::inference::web_search::prompt;
use crate::api::{
    accounts::types::now,
    inference::permissions::{check_conversations, check_model},
    respond::{name_ignored, name_unenforced, private},
    state::AppState,
};
use crate::http::error::ErrorResponse;
use crate::http::json::Parsed;
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Create a response.
///
/// With `stream`, the response is sent as server-sent events, numbered from 0. It is stored unless `store` is
/// false, and can be continued with `previous_response_id`. With `background`, the request returns at once
/// and the response is generated afterwards. Unknown fields are ignored and named in the response header
/// `X-Ignored-Fields`.
#[utoipa::path(
    post,
    path = "/responses",
    tag = "responses",
    operation_id = "createResponse",
    request_body = CreateResponse,
    responses(
        (status = 200, description = "The response", content(
            (ResponseObject = "application/json"),
            (ResponseStreamEvent = "text/event-stream"),
        )),
        (status = 400, description = "A field is missing or invalid, or the prompt is too long", body = ErrorResponse),
        (status = 401, description = "The request needs a credential", body = ErrorResponse),
        (status = 404, description = "The model, or a referenced item, does not exist", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The content type of the body is not JSON", body = ErrorResponse),
        (status = 429, description = "Too many background responses, or a rate limit", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
pub async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let (mut checked, parsed) = request
        .read(UNSUPPORTED, |mut parsed: Parsed<CreateResponse>| {
            let checked = parsed.value.check()?;
            parsed.ignored.extend(parsed.value.text.as_ref().and_then(TextConfig::ignored));
            Ok((checked, parsed))
        })
        .await?;
    let web = checked.tools.web.take();
    if let Some(web) = &web {
        let allowed = state.web_search.check(&context.fairness_key()).await;
        allowed.map_err(|error| ApiError::from_search(&error, &web.at))?;
    }
    let (user, party) = (context.caller.principal.user(), context.caller.principal.party());
    if checked.background {
        user.ok_or_else(|| ApiError::credential_required().with_param("background"))?;
        // Checked before the conversation is changed.
        state.responses.check_room(party).await.map_err(ApiError::from_responses)?;
    }
    let (stream, background) = (checked.stream, checked.background);
    let (with_sources, max_searches) = (checked.with_sources, checked.max_searches);
    // Without a user a response is not stored, since its owner could not be identified later.
    let owner = user.filter(|_| checked.store);
    let models = state.models.clone();
    if models.describe(&parsed.value.model).await.is_none() {
        return Err(ApiError::model_not_found(&parsed.value.model));
    }
    check_model(&state, &context, &parsed.value.model).await?;
    if parsed.value.conversation.is_some() {
        check_conversations(&context)?;
    }
    let meter = Meter::start(&state, &context, stream, 1, 1)?;
    take_answers(&state, &context, 1, "input")?;
    let Prepared { record, plan, turn } = prepare(&state, &context, &parsed.value, checked, owner).await?;
    let shown: ResponseObject = shown(&record)?;
    let mut unenforced = plan.unenforced.clone();
    let searching = web.map(|web| searching(&state, &context, web, max_searches));
    let mut source = if let Some(searching) = searching {
        if searching.first && prompt::question(&plan.messages).is_none() {
            if let Some(turn) = turn {
                turn.take_back().await.map_err(conversation_error)?;
            }
            let message = "Invalid 'input': web search requires a user message to search for.";
            return Err(ApiError::invalid_value(PROMPT, message));
        }
        search_rounds::source(models, plan, meter, searching)
    } else if background {
        let constraining = plan.constraining;
        generation::source(generation::start(models, plan, meter), constraining)
    } else {
        // An error before the first token is returned before there is a response.
        let constraining = plan.constraining;
        match generation::start(models, plan, meter).await {
            Ok(choices) => {
                unenforced.extend(choices.unenforced());
                generation::source(std::future::ready(Ok(choices)), constraining)
            }
            Err(error) => {
                if let Some(turn) = turn {
                    turn.take_back().await.map_err(conversation_error)?;
                }
                return Err(start_error(error, PROMPT, "max_output_tokens", constraining));
            }
        }
    };
    if let Some(turn) = turn {
        source = into_turn(source, turn, with_sources);
    }
    let keep = match (background, stream) {
        (true, _) => RunLifetime::Always,
        (false, true) => RunLifetime::For(Duration::from_millis(state.responses.config().resume_grace_ms)),
        // No client knows its id.
        (false, false) => RunLifetime::For(Duration::ZERO),
    };
    let reader = match owner {
        Some(_) => state
            .responses
            .begin(NewRun { record, party, source, keep })
            .await
            .map_err(ApiError::from_responses)?,
        None => Run::unstored(source),
    };
    let mut response = match (stream, background) {
        (true, _) => follow(&state, &context, Origin::Running(reader), shown, None, None),
        (false, true) => private(StatusCode::OK, &shown.at(&Progress::default())),
        (false, false) => whole(reader, &shown).await?,
    };
    name_ignored(&mut response, &parsed.ignored);
    name_unenforced(&mut response, &unenforced);
    Ok(response)
}

fn searching(state: &AppState, context: &RequestContext, web: WebTool, most: Option<u32>) -> Searching {
    let allowed = state.web_search.config().max_per_response;
    Searching {
        web_search: state.web_search.clone(),
        payer: context.fairness_key(),
        options: web.options,
        first: web.first,
        most: most.unwrap_or(allowed).min(allowed),
    }
}

/// The state of a request before generation begins.
struct Prepared {
    record: ResponseRecord,
    plan: Plan,
    /// The turn of the answer in its conversation.
    turn: Option<Turn>,
}

async fn prepare(
    state: &AppState,
    context: &RequestContext,
    request: &CreateResponse,
    checked: Checked,
    owner: Option<UserId>,
) -> Result<Prepared, ApiError> {
    let user = context.caller.principal.user();
    let mut conversation = None;
    let mut history = match &request.conversation {
        Some(wanted) => {
            let (user, id, items) = history::of_conversation(state, user, wanted).await?;
            conversation = Some((user, id));
            items
        }
        None => history::of_previous(state, user, request.previous_response_id.as_deref()).await?,
    };
    let mut input = history::resolve(state, user, &history, checked.input).await?;
    if history.is_empty() && input.is_empty() {
        let message = "Missing required parameter: 'input'; it can only be absent where 'previous_response_id' or \
                       'conversation' brings something to answer.";
        return Err(ApiError::bad_request("missing_required_parameter", message).with_param("input"));
    }
    history::check_size(&history, &input)?;
    let id = ResponseId::new();
    if conversation.is_some() {
        // Items of a conversation have ids of their own: an item that is sent again becomes a new item.
        input.iter_mut().for_each(items::forget_id);
    }
    items::assign_ids(id, &history, &mut input);
    let created_at = now();
    let mut shown = ResponseObject::new(id, created_at, request, owner.is_some(), checked.background);
    shown.with_sources = checked.with_sources;
    let mut turn = None;
    if let Some((user, conversation)) = conversation {
        let begun = history::begin_turn(state, user, conversation, &request.model, input).await?;
        shown.message_id = Some(begun.0.answer_id().to_owned());
        turn = Some(begun.0);
        (history, input) = (begun.1, begun.2);
    }
    let (structured, cut) = (checked.structured, !checked.stop.is_empty());
    let constraining = structured.as_ref().map(|structured| structured.field);
    let constraining = constraining.or(checked.tools.plan.as_ref().map(|_| "tools"));
    let mut unenforced = checked.tools.unenforced.clone();
    unenforced.extend(structured.iter().flat_map(|structured| &structured.unenforced));
    let plan = Plan {
        request: GenerationRequest {
            request_id: context.id.as_str().to_owned(),
            model: request.model.clone(),
            user: context.fairness_key(),
            tenant: context.tenant(),
            cache_key: request.prompt_cache_key.clone(),
            prompt: Arc::new(Prompt::Chat(checked.prompt)),
            sampling: checked.sampling,
            stop: checked.stop,
            max_tokens: checked.max_tokens,
            want_prompt_text: false,
            logprobs: checked.logprobs,
            score_prompt: false,
            constraint: structured.as_ref().map(|structured| Arc::clone(&structured.constraint)),
            tools: checked.tools.plan.clone(),
            thinking_budget: checked.thinking_budget,
        },
        instructions: instructions(request.instructions.as_deref()),
        messages: items::to_messages(history.iter().chain(&input)),
        truncate: request.truncation == Some(Truncation::Auto),
        call_policy: checked.tools.call_policy(structured.is_none()),
        unenforced,
        retries: state.structured.tries(checked.stream, false),
        structured,
        cut,
        check: None,
        constraining,
    };
    let record = ResponseRecord {
        id,
        background: checked.background,
        history,
        input,
        // A response that is not stored has no owner.
        ..ResponseRecord::new(owner.unwrap_or_default(), created_at, json!(shown))
    };
    Ok(Prepared { record, plan, turn })
}

/// Returns the whole response after its end.
async fn whole(mut reader: Reader, shown: &ResponseObject) -> Result<Response, ApiError> {
    let (progress, error) = reader.end().await;
    match error {
        Some(error) => Err(from_generation(error)),
        None => Ok(private(StatusCode::OK, &shown.at(&progress))),
    }
}
