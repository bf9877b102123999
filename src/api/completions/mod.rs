//! `POST /completions`: the route, the handler, the request and the response.
//!
//! Source: `CreateCompletionRequest` and `CreateCompletionResponse` in OpenAI's API description.

mod best_of;
pub mod request;
mod response;

use std::collections::BTreeSet;

use jan_actors::identity::Right;

use self::request::{CompletionRequest, UNSUPPORTED, generation_requests};
use self::response::{Answer, ChunkEncoder, Completion};
use super::inference::choices::{AnswerPolicy, ChoiceEvent, Choices, Started};
use super::inference::metering::{Meter, take_answers};
use super::inference::streaming;
use super::inference::structured_output;
use super::inference::tools::ToolCallPolicy;
use super::inference::usage::{ResponseHeader, StreamedUsage, UsageSum};
use super::{
    inference::permissions::check_model,
    respond::{json, name_continuation, name_ignored, name_unenforced},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::json::Parsed;
use crate::http::routing::{Place, route};
use crate::http::{ApiError, ApiRequest, Response, sse};

/// The field that holds the prompt, for errors about it.
const PROMPT: &str = "prompt";

/// `/completions`
pub fn routes() -> Vec<Route> {
    vec![route!(create, Place::Api, Access::Anonymous(Right::Infer)).inference()]
}

/// Create a text completion.
///
/// With `stream`, the answer is sent as server-sent events of the same shape. With several prompts, answer `p
/// * n + k` is the `k`-th to prompt `p`. Each prompt counts `n`, or `best_of`, times against the limit of
/// answers per minute (by default ten times the inference limit); a request for more than that is 400.
/// Unknown fields are ignored and named in the response header `X-Ignored-Fields`.
#[utoipa::path(
    post,
    path = "/completions",
    tag = "completions",
    operation_id = "createCompletion",
    request_body(content = CompletionRequest, examples(
        ("answer" = (summary = "An answer", value = json!({
            "model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50
        }))),
        ("stream" = (summary = "A streamed answer", value = json!({
            "model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50, "stream": true
        }))),
    )),
    responses(
        (status = 200, description = "The answers", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        )),
        (status = 400, description = "A field is missing or invalid, or the prompt is too long", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The content type of the body is not JSON", body = ErrorResponse),
        (status = 429, description = "A rate limit", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let (mut checked, ignored) = request
        .read(UNSUPPORTED, |parsed: Parsed<CompletionRequest>| Ok((parsed.value.check()?, parsed.ignored)))
        .await?;
    let mut structured = checked.structured.take();
    let constraint = structured.as_ref().map(|structured| structured.constraint.clone());
    let constraining = structured.as_ref().map(|structured| structured.field);
    let cut = !checked.stop.is_empty();
    let (stream, usage_chunks) = (checked.stream, checked.usage_chunks);
    let (prompts, n, best_of) = (checked.prompts.len(), checked.n as usize, checked.best_of as usize);
    let with_logprobs = checked.logprobs.is_some();
    let length_field = checked.length_field;
    let scored = checked.echo && with_logprobs;
    let head = ResponseHeader::new("cmpl", &checked.model);
    check_model(&state, &context, &checked.model).await?;
    let meter = Meter::start(&state, &context, stream, prompts, best_of)?;
    let counted = match (best_of > n, n > 1) {
        (true, _) => "best_of",
        (false, true) => "n",
        (false, false) => PROMPT,
    };
    take_answers(&state, &context, prompts * best_of, counted)?;
    let requests = generation_requests(checked, constraint.as_ref(), &context);
    let continuation = requests.first().and_then(|request| state.models.continuation(request));
    let started = Started::new(&state.models, requests, meter, structured.as_mut())
        .await
        .map_err(|error| structured_output::start_error(error, PROMPT, length_field, constraining))?;
    let unenforced =
        structured.as_ref().map_or_else(BTreeSet::new, |structured| structured.unenforced.clone());
    let check = structured.and_then(|structured| structured.output_check(prompts * best_of, cut));
    let (call_policy, sources) = (ToolCallPolicy::default(), Vec::new());
    let retries = state.structured.tries(stream, unenforced.is_empty());
    let policy = AnswerPolicy { call_policy, check, constraining, turn: None, sources, retries };
    let mut choices = started.with_policy(policy);
    let mut echo = |index| choices.take_prompt_text(index).map_or_else(String::new, |text| text.to_string());
    let echoes: Vec<String> = (0..prompts * best_of).map(&mut echo).collect();
    let mut response = if stream {
        // All generated answers are returned: a stream with more `best_of` than `n` was rejected.
        let usage = StreamedUsage::new(usage_chunks, UsageSum::new(prompts, n));
        let encoder = ChunkEncoder::new(head, usage, echoes, scored);
        let events = streaming::events(choices, encoder, context.id.clone(), PROMPT);
        sse::response(events, state.config.keep_alive(), &state.lifecycle.cut_off, context.id)
    } else {
        let mut usage = UsageSum::new(prompts, best_of);
        let answers = collect(choices, &mut usage, echoes).await?;
        let choices = best_of::of_each(answers, best_of, n);
        let choices = (0u32..).zip(choices).map(|(index, answer)| answer.into_choice(index, with_logprobs));
        json(&Completion::new(&head, choices.collect(), Some(Some(usage.total()))))
    };
    name_ignored(&mut response, &ignored);
    name_unenforced(&mut response, &unenforced);
    name_continuation(&mut response, continuation);
    Ok(response)
}

/// Reads all answers to their ends.
async fn collect(
    mut choices: Choices,
    usage: &mut UsageSum,
    echoes: Vec<String>,
) -> Result<Vec<Answer>, ApiError> {
    let mut answers: Vec<Answer> = echoes.into_iter().map(Answer::new).collect();
    while let Some(event) = choices.next().await {
        let (index, event) = event.map_err(|error| ApiError::from_generation(error, PROMPT))?;
        if let ChoiceEvent::Finished(_, tokens) = &event {
            usage.set(index, *tokens);
        }
        answers[index].take(event);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests;
