//! `/conversations/{id}/items`: the contents of a conversation as OpenAI's items.

use http::StatusCode;
use jan_actors::conversations::{Anchor, ConversationError, Item};
use jan_actors::identity::Right;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::types::{Conversation, ItemList, WireItem, check_items, parse_id};
use super::{given, is_descending, page_size};
use crate::api::{
    respond::{name_ignored, parse_query, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::{Access, Body};
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Ids, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

const LOGPROBS: &str = "message.output_text.logprobs";
const ENCRYPTED: &str = "reasoning.encrypted_content";
/// The allowed values of `include`. Only the first two affect the response.
const INCLUDES: &[&str] = &[
    LOGPROBS,
    ENCRYPTED,
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// `/conversations/{id}/items` and everything below.
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::ReadConversations)),
        route!(create, Place::Api, Access::Needs(Right::WriteConversations)).body(Body::Items),
        route!(retrieve, Place::Api, Access::Needs(Right::ReadConversations)),
        route!(delete, Place::Api, Access::Needs(Right::WriteConversations)),
    ]
}

/// Items to add.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"items": [{"type": "message", "role": "user", "content": "Hello"}]}))]
pub struct CreateItems {
    /// 1 to 20 items: OpenAI's objects. An `id` is replaced by one of the server.
    #[schema(value_type = Vec<Object>, min_items = 1, max_items = 20)]
    items: Vec<Value>,
    /// The parent of the first item: an item's id, or null for the beginning. Absent: the end of the active
    /// branch. Existing replies remain as another branch.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    parent: Option<Option<String>>,
}

/// Returns the anchor of new items, from `parent`.
pub fn anchor(parent: Option<Option<String>>) -> Anchor {
    match parent {
        None => Anchor::Head,
        Some(None) => Anchor::Beginning,
        Some(Some(item)) => Anchor::After(item),
    }
}

/// The optional fields that `include` requests.
struct Included {
    logprobs: bool,
    encrypted: bool,
}

impl Included {
    /// Removes the optional fields that were not requested.
    fn show(&self, mut item: Item) -> Item {
        if !self.encrypted {
            item.body.remove("encrypted_content");
        }
        if let Some(Value::Array(parts)) = item.body.get_mut("content") {
            let texts = parts.iter_mut().filter(|part| part["type"] == "output_text");
            for part in texts.filter_map(Value::as_object_mut) {
                // As in OpenAI's description, the list is present even if it is empty.
                if !self.logprobs || !part.contains_key("logprobs") {
                    part.insert("logprobs".to_owned(), Value::Array(Vec::new()));
                }
            }
        }
        item
    }
}

/// A query that may repeat `include`, also in the SDKs' notation of lists (`include[]`, `include[0]`).
#[derive(Default)]
struct ItemQuery {
    limit: Option<String>,
    order: Option<String>,
    after: Option<String>,
    include: Vec<String>,
}

impl ItemQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for (name, value) in parse_query::<Vec<(String, String)>>(query)? {
            let slot = match name.as_str() {
                "limit" => &mut parsed.limit,
                "order" => &mut parsed.order,
                "after" => &mut parsed.after,
                name if name == "include" || name.starts_with("include[") => {
                    parsed.include.extend(value.split(',').map(str::to_owned));
                    continue;
                }
                _ => continue,
            };
            if slot.replace(value).is_some() {
                let message = format!("'{name}' is repeated in the query; send it once.");
                return Err(ApiError::bad_request("invalid_query", message).with_param(name));
            }
        }
        Ok(parsed)
    }

    fn included(&self) -> Result<Included, ApiError> {
        if let Some(unknown) = self.include.iter().find(|name| !INCLUDES.contains(&name.as_str())) {
            let shown: String = unknown.chars().take(60).collect();
            let message = format!("'include' has {shown:?}; allowed are: {}.", INCLUDES.join(", "));
            return Err(ApiError::invalid_value("include", message));
        }
        let has = |name: &str| self.include.iter().any(|given| given == name);
        Ok(Included { logprobs: has(LOGPROBS), encrypted: has(ENCRYPTED) })
    }
}

/// List the items of the active branch, newest first.
#[utoipa::path(
    get,
    path = "/conversations/{id}/items",
    tag = "conversations",
    operation_id = "listConversationItems",
    params(
        ("id" = String, Path, description = "The conversation's id, `conv_…`"),
        ("limit" = Option<i64>, Query, description = "1 to 100, default 20"),
        ("order" = Option<String>, Query, description = "`desc` (newest first) or `asc`"),
        ("after" = Option<String>, Query, description = "An item's id: items after it, in the requested order"),
        ("include" = Option<Vec<String>>, Query, description = "Additional output, as in OpenAI's API"),
    ),
    responses(
        (status = 200, description = "The items", body = ItemList),
        (status = 400, description = "A parameter is invalid, or there is no item as given as `after`", body = ErrorResponse),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn list(
    Id(id): Id,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let query = ItemQuery::parse(&query)?;
    let included = query.included()?;
    let limit = page_size(query.limit.as_deref())?;
    let oldest_first = !is_descending(query.order.as_deref())?;
    let after = query.after.clone();
    let page = state.conversations.items(user, id, query.after, limit, oldest_first);
    let page = page.await.map_err(|error| match (error, after) {
        // As for the items of a response.
        (ConversationError::NotFound { what: "item", .. }, Some(after)) => {
            let shown: String = after.chars().take(100).collect();
            ApiError::invalid_value(
                "after",
                format!("Invalid 'after': the item '{shown}' is not in this list."),
            )
        }
        (error, _) => ApiError::from_conversation(error),
    })?;
    let items = page.data.into_iter().map(|item| included.show(item)).collect();
    Ok(private(StatusCode::OK, &ItemList::new(items, page.has_more)))
}

/// Add items. They are durable when the response is sent.
#[utoipa::path(
    post,
    path = "/conversations/{id}/items",
    tag = "conversations",
    operation_id = "createConversationItems",
    params(
        ("id" = String, Path, description = "The conversation's id, `conv_…`"),
        ("include" = Option<Vec<String>>, Query, description = "Additional output, as in OpenAI's API"),
    ),
    request_body = CreateItems,
    responses(
        (status = 200, description = "The items", body = ItemList),
        (status = 400, description = "An item is invalid or too large, or the conversation is full", body = ErrorResponse),
        (status = 404, description = "The conversation, or the item given as `parent`, does not exist", body = ErrorResponse),
    )
)]
async fn create(
    Id(id): Id,
    state: AppState,
    request: ApiRequest,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&request.context)?, parse_id(&id)?);
    let included = ItemQuery::parse(&query)?.included()?;
    let parsed = read::<CreateItems>(request).await?;
    if parsed.value.items.is_empty() {
        return Err(ApiError::invalid_value("items", "'items' must have at least one item."));
    }
    let items = check_items("items", parsed.value.items, state.conversations.limits().max_item_bytes)?;
    let added = state.conversations.append(user, id, items, anchor(parsed.value.parent));
    let added = added.await.map_err(ApiError::from_conversation)?;
    let added = added.into_iter().map(|item| included.show(item)).collect();
    let mut response = private(StatusCode::OK, &ItemList::new(added, false));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Retrieve an item of any branch.
#[utoipa::path(
    get,
    path = "/conversations/{id}/items/{item_id}",
    tag = "conversations",
    operation_id = "getConversationItem",
    params(
        ("id" = String, Path, description = "The conversation's id, `conv_…`"),
        ("item_id" = String, Path, description = "The item's id, such as `msg_…`"),
        ("include" = Option<Vec<String>>, Query, description = "Additional output, as in OpenAI's API"),
    ),
    responses(
        (status = 200, description = "The item: OpenAI's object with additional `created_at` and `parent_id`", body = Object),
        (status = 404, description = "The conversation or item does not exist", body = ErrorResponse),
    )
)]
async fn retrieve(
    Ids(id, item): Ids,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let included = ItemQuery::parse(&query)?.included()?;
    let item = state.conversations.item(user, id, item).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &WireItem(included.show(item))))
}

/// Delete an item. Its replies remain and become replies to its parent.
#[utoipa::path(
    delete,
    path = "/conversations/{id}/items/{item_id}",
    tag = "conversations",
    operation_id = "deleteConversationItem",
    params(
        ("id" = String, Path, description = "The conversation's id, `conv_…`"),
        ("item_id" = String, Path, description = "The item's id, such as `msg_…`"),
    ),
    responses(
        (status = 200, description = "The conversation without the item", body = Conversation),
        (status = 404, description = "The conversation or item does not exist", body = ErrorResponse),
    )
)]
async fn delete(Ids(id, item): Ids, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let record =
        state.conversations.delete_item(user, id, item).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &Conversation::from(record)))
}
