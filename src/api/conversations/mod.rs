//! `/conversations`: stored conversations. A superset of OpenAI's Conversations API.

pub mod branches;
pub mod items;
pub mod shares;
pub mod types;

use std::collections::BTreeMap;

use http::StatusCode;
use jan_actors::conversations::{
    ConversationId, ConversationPage, ConversationQuery, ConversationUpdate, NewConversation,
};
use jan_actors::identity::Right;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use self::types::{Conversation, ConversationWithMessages, check_items, parse_id};
use super::{
    respond::{name_ignored, parse_query, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::{Access, Body};
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

const MAX_PAGE: i64 = 100;
const DEFAULT_PAGE: i64 = 20;
/// Maximum length of a search text.
const MAX_SEARCH: usize = 200;

/// `/conversations` and `/conversations/{id}`
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::ReadConversations)),
        route!(create, Place::Api, Access::Needs(Right::WriteConversations)).body(Body::Items),
        route!(retrieve, Place::Api, Access::Needs(Right::ReadConversations)),
        route!(update, Place::Api, Access::Needs(Right::WriteConversations)),
        route!(change, Place::Api, Access::Needs(Right::WriteConversations)),
        route!(delete, Place::Api, Access::Needs(Right::WriteConversations)),
    ]
}

/// A conversation to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"title": "My Conversation", "model": "jan-v1-4b"}))]
pub struct CreateConversation {
    /// Its title; absent: derived from the first user message.
    #[schema(max_length = 200)]
    title: Option<String>,
    /// Its model.
    model: Option<String>,
    /// Up to 16 pairs of custom metadata.
    metadata: Option<BTreeMap<String, String>>,
    /// Up to 20 initial items.
    #[schema(value_type = Option<Vec<Object>>, max_items = 20)]
    items: Option<Vec<Value>>,
    /// Another name of `items`.
    #[schema(value_type = Option<Vec<Object>>, max_items = 20)]
    messages: Option<Vec<Value>>,
}

/// Changes to a conversation. Absent fields are unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"title": "Another title", "metadata": {"project": "a"}}))]
pub struct UpdateConversation {
    /// A new title; null: derived from the next user message.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 200)]
    title: Option<Option<String>>,
    /// Another model; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<String>>,
    /// All of the caller's metadata; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    metadata: Option<Option<BTreeMap<String, String>>>,
}

/// Distinguishes null from an absent field.
pub fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A page of the caller's conversations.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationList {
    /// Always `list`.
    object: &'static str,
    /// The conversations, without their messages.
    data: Vec<Conversation>,
    /// The first one's id.
    first_id: Option<String>,
    /// The last one's id.
    last_id: Option<String>,
    /// True if there may be more. A search examines a bounded part at a time: it may find fewer than `limit`,
    /// or none, and still have more.
    has_more: bool,
    /// The value of `after` for the next page (or of `before`, if that was given). Unlike an id it keeps its
    /// position when the conversation is changed or deleted.
    next_cursor: Option<String>,
}

impl From<ConversationPage> for ConversationList {
    fn from(page: ConversationPage) -> Self {
        let data: Vec<Conversation> = page.data.into_iter().map(Conversation::from).collect();
        Self {
            object: "list",
            first_id: data.first().map(|conversation| conversation.id().to_owned()),
            last_id: data.last().map(|conversation| conversation.id().to_owned()),
            data,
            has_more: page.has_more,
            next_cursor: page.next.map(jan_actors::conversations::Position::to_cursor),
        }
    }
}

/// A deleted conversation or share link.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedConversation {
    /// Its id.
    id: String,
    /// `conversation.deleted`, or `conversation.share.deleted` for its share link.
    object: &'static str,
    /// Always true.
    deleted: bool,
}

impl DeletedConversation {
    /// Creates the object of a deletion; `object` is its type.
    pub fn new(id: ConversationId, object: &'static str) -> Self {
        Self { id: id.to_string(), object, deleted: true }
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    limit: Option<String>,
    after: Option<String>,
    before: Option<String>,
    order: Option<String>,
    q: Option<String>,
    model: Option<String>,
}

/// Parses `limit` of a list.
pub fn page_size(limit: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = limit else { return Ok(usize::try_from(DEFAULT_PAGE).unwrap_or_default()) };
    match text.parse::<i64>() {
        Ok(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(usize::try_from(limit).unwrap_or_default()),
        _ => {
            let shown: String = text.chars().take(40).collect();
            Err(ApiError::invalid_value(
                "limit",
                format!("'limit' must be an integer from 1 to {MAX_PAGE}, not {shown:?}."),
            ))
        }
    }
}

/// Parses `order` of a list; returns true for `desc`, the default.
pub fn is_descending(order: Option<&str>) -> Result<bool, ApiError> {
    match order {
        None | Some("desc") => Ok(true),
        Some("asc") => Ok(false),
        Some(_) => Err(ApiError::invalid_value("order", "'order' must be `asc` or `desc`.")),
    }
}

/// List the caller's conversations, by last change, newest first.
#[utoipa::path(
    get,
    path = "/conversations",
    tag = "conversations",
    operation_id = "listConversations",
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, default 20"),
        ("after" = Option<String>, Query, description = "A cursor or a conversation's id: entries after it, in the requested order"),
        ("before" = Option<String>, Query, description = "A cursor or a conversation's id: entries before it, in the requested order"),
        ("order" = Option<String>, Query, description = "`desc` (last changed first) or `asc`"),
        ("q" = Option<String>, Query, description = "Conversations whose title or text contains this, case-insensitive"),
        ("model" = Option<String>, Query, description = "Conversations with this model"),
    ),
    responses(
        (status = 200, description = "The conversations", body = ConversationList),
        (status = 400, description = "A parameter is invalid", body = ErrorResponse),
        (status = 404, description = "The conversation of the cursor does not exist", body = ErrorResponse),
    )
)]
async fn list(
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    let query: ListQuery = parse_query(&query)?;
    let limit = page_size(query.limit.as_deref())?;
    let newest_first = is_descending(query.order.as_deref())?;
    if query.q.as_ref().is_some_and(|text| text.chars().count() > MAX_SEARCH) {
        let message = format!("'q' must have at most {MAX_SEARCH} characters.");
        return Err(ApiError::invalid_value("q", message));
    }
    let position = async |cursor: Option<String>| match cursor {
        Some(cursor) => {
            state.conversations.position(user, &cursor).await.map(Some).map_err(ApiError::from_conversation)
        }
        None => Ok(None),
    };
    let query = ConversationQuery {
        limit,
        after: position(query.after).await.map_err(|error| error.with_param("after"))?,
        before: position(query.before).await.map_err(|error| error.with_param("before"))?,
        newest_first,
        model: query.model.filter(|model| !model.is_empty()),
        text: query.q.filter(|text| !text.is_empty()),
        shared: false,
    };
    let page = state.conversations.list(user, query).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &ConversationList::from(page)))
}

/// Create a conversation.
#[utoipa::path(
    post,
    path = "/conversations",
    tag = "conversations",
    operation_id = "createConversation",
    request_body = CreateConversation,
    responses(
        (status = 201, description = "The conversation", body = Conversation),
        (status = 400, description = "A field is invalid or too large", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let user = user_of(&request.context)?;
    let parsed = request.read_optional::<CreateConversation, _>(Ok).await?;
    let CreateConversation { title, model, metadata, items, messages } = parsed.value;
    let (field, items) = match (items, messages) {
        (Some(_), Some(_)) => {
            let message = "'messages' is a synonym of 'items'; send only one.";
            return Err(ApiError::invalid_value("messages", message));
        }
        (None, Some(messages)) => ("messages", messages),
        (items, None) => ("items", items.unwrap_or_default()),
    };
    let items = check_items(field, items, state.conversations.limits().max_item_bytes)?;
    let new = NewConversation { title, model, metadata: metadata.unwrap_or_default(), items };
    let record = state.conversations.create(user, new).await.map_err(ApiError::from_conversation)?;
    let mut response = private(StatusCode::CREATED, &Conversation::from(record));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Retrieve a conversation with its messages.
#[utoipa::path(
    get,
    path = "/conversations/{id}",
    tag = "conversations",
    operation_id = "getConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "The conversation", body = ConversationWithMessages),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn retrieve(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let (record, items) = state.conversations.get(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &ConversationWithMessages::new(record, &items)))
}

/// Change title, model or metadata.
#[utoipa::path(
    patch,
    path = "/conversations/{id}",
    tag = "conversations",
    operation_id = "updateConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    request_body = UpdateConversation,
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 400, description = "A field is invalid or too large", body = ErrorResponse),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn update(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&request.context)?, parse_id(&id)?);
    let parsed = read::<UpdateConversation>(request).await?;
    let update = ConversationUpdate {
        title: parsed.value.title,
        model: parsed.value.model,
        metadata: parsed.value.metadata.map(Option::unwrap_or_default),
    };
    let record = state.conversations.update(user, id, update).await.map_err(ApiError::from_conversation)?;
    let mut response = private(StatusCode::OK, &Conversation::from(record));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Change title, model or metadata, as OpenAI's SDKs do.
#[utoipa::path(
    post,
    path = "/conversations/{id}",
    tag = "conversations",
    operation_id = "postConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    request_body = UpdateConversation,
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 400, description = "A field is invalid or too large", body = ErrorResponse),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn change(id: Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    update(id, state, request).await
}

/// Delete a conversation with all of its items. This cannot be undone.
#[utoipa::path(
    delete,
    path = "/conversations/{id}",
    tag = "conversations",
    operation_id = "deleteConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "The conversation is deleted, and its share link is ended", body = DeletedConversation),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn delete(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    state.conversations.delete(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &DeletedConversation::new(id, "conversation.deleted")))
}
