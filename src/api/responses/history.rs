//! The context of a response: the items of earlier responses, and referenced items.

use std::collections::{HashMap, HashSet};

use http::StatusCode;
use jan_actors::conversations::{ConversationId, NewItem, Turn, TurnRequest};
use jan_actors::identity::UserId;
use jan_actors::responses::{ResponseId, ResponseRecord, ResponsesError};
use serde_json::Value;

use super::conversation::conversation_error;
use super::items::{id_of, response_of};
use super::output::output_items;
use super::request::ConversationParam;
use crate::api::state::AppState;
use crate::http::ApiError;

/// Maximum size of the context stored with one response, in bytes of JSON.
const MAX_CONTEXT: usize = 16 << 20;

/// Maximum number of responses that the references of one request may lead to.
const MAX_REFERENCED: usize = 64;

/// Returns the items before this turn.
pub async fn of_previous(
    state: &AppState,
    user: Option<UserId>,
    previous: Option<&str>,
) -> Result<Vec<Value>, ApiError> {
    let Some(previous) = previous else { return Ok(Vec::new()) };
    let user = user.ok_or_else(|| ApiError::credential_required().with_param("previous_response_id"))?;
    let not_found = || {
        let message = format!("Previous response with id '{previous}' not found.");
        ApiError::bad_request("previous_response_not_found", message).with_param("previous_response_id")
    };
    let id: ResponseId = previous.parse().map_err(|_| not_found())?;
    let found = state.responses.find(user, id).await.map_err(|error| match error {
        ResponsesError::NotFound(_) => not_found(),
        error => ApiError::from_responses(error),
    })?;
    if found.record.end.is_none() {
        let message = format!(
            "Invalid 'previous_response_id': '{previous}' is still being generated; wait for its end."
        );
        return Err(ApiError::invalid_value("previous_response_id", message));
    }
    Ok(everything(found.record))
}

/// Returns the items of a conversation in its current state, oldest first.
pub async fn of_conversation(
    state: &AppState,
    user: Option<UserId>,
    conversation: &ConversationParam,
) -> Result<(UserId, ConversationId, Vec<Value>), ApiError> {
    let user = user.ok_or_else(|| ApiError::credential_required().with_param("conversation"))?;
    let id = &conversation.0;
    let id: ConversationId =
        id.parse().map_err(|_| ApiError::not_found("conversation", id).with_param("conversation"))?;
    let items = state.conversations.history(user, id).await.map_err(conversation_error)?;
    Ok((user, id, items.into_iter().map(|item| Value::Object(item.body)).collect()))
}

/// Adds this turn's items and a placeholder for the answer to their conversation. Returns the items before them, and
/// the added items.
pub async fn begin_turn(
    state: &AppState,
    user: UserId,
    conversation: ConversationId,
    model: &str,
    input: Vec<Value>,
) -> Result<(Turn, Vec<Value>, Vec<Value>), ApiError> {
    let ids: HashSet<String> = input.iter().map(|item| id_of(item).to_owned()).collect();
    let items = input.into_iter().filter_map(|item| match item {
        Value::Object(mut body) => {
            let id = body.shift_remove("id").and_then(|id| id.as_str().map(str::to_owned));
            Some(NewItem { id, body })
        }
        _ => None,
    });
    let request =
        TurnRequest { items: items.collect(), model: Some(model.to_owned()), ..TurnRequest::default() };
    let turn = state.conversations.begin(user, conversation, request).await.map_err(conversation_error)?;
    let all = turn.history().iter().map(|item| Value::Object(item.body.clone()));
    let (input, history) = all.partition(|item| ids.contains(id_of(item)));
    Ok((turn, history, input))
}

/// Returns all items of a response, oldest first: its history, its input, its output.
pub fn everything(record: ResponseRecord) -> Vec<Value> {
    let output = output_items(&record);
    let mut items = record.history;
    items.extend(record.input);
    items.extend(output);
    items
}

/// Replaces references with the items they refer to: items of the history, earlier items of the input, or items of the
/// user's stored responses.
pub async fn resolve(
    state: &AppState,
    user: Option<UserId>,
    history: &[Value],
    input: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let mut referenced: HashMap<ResponseId, Vec<Value>> = HashMap::new();
    let mut resolved: Vec<Value> = Vec::with_capacity(input.len());
    for (index, item) in input.into_iter().enumerate() {
        if item["type"] != "item_reference" {
            resolved.push(item);
            continue;
        }
        let wanted = id_of(&item);
        let param = format!("input[{index}].id");
        let near = history.iter().chain(&resolved).find(|item| id_of(item) == wanted).cloned();
        let found = match near {
            Some(item) => Some(item),
            None => {
                let user = user.ok_or_else(|| ApiError::credential_required().with_param(&param))?;
                stored(state, user, wanted, &mut referenced, &param).await?
            }
        };
        resolved.push(found.ok_or_else(|| {
            let message = format!("Item with id '{wanted}' not found.");
            ApiError::new(StatusCode::NOT_FOUND, "not_found", message).with_param(param)
        })?);
    }
    Ok(resolved)
}

async fn stored(
    state: &AppState,
    user: UserId,
    wanted: &str,
    referenced: &mut HashMap<ResponseId, Vec<Value>>,
    param: &str,
) -> Result<Option<Value>, ApiError> {
    let Some(id) = response_of(wanted) else { return Ok(None) };
    if !referenced.contains_key(&id) {
        if referenced.len() == MAX_REFERENCED {
            let message = format!(
                "Invalid '{param}': references to more than {MAX_REFERENCED} responses; send the items."
            );
            return Err(ApiError::invalid_value(param, message));
        }
        let items = match state.responses.find(user, id).await {
            Ok(found) => everything(found.record),
            Err(ResponsesError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(ApiError::from_responses(error)),
        };
        referenced.insert(id, items);
    }
    Ok(referenced[&id].iter().find(|item| id_of(item) == wanted).cloned())
}

/// Rejects a context that is too large to be stored.
pub fn check_size(history: &[Value], input: &[Value]) -> Result<(), ApiError> {
    let size: usize = history.iter().chain(input).map(|item| item.to_string().len()).sum();
    if size <= MAX_CONTEXT {
        return Ok(());
    }
    let message = format!(
        "Invalid 'input': with everything before it, it has {size} bytes, at most {MAX_CONTEXT} are allowed. Begin \
         again without 'previous_response_id'."
    );
    Err(ApiError::invalid_value("input", message))
}
