//! A conversation's branches and its export.

use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jan_actors::conversations::{BranchView, ConversationRecord, Item, item, markdown};
use jan_actors::identity::Right;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::types::{Conversation, WireItem, parse_id};
use crate::api::{
    respond::{name_ignored, parse_query, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Number of characters of a branch's last message in its preview.
const PREVIEW_CHARS: usize = 100;

/// Returns the routes of `/conversations/{id}/branches` and `/export`.
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::ReadConversations)),
        route!(pick, Place::Api, Access::Needs(Right::WriteConversations)),
        route!(export, Place::Api, Access::Needs(Right::ReadConversations)),
    ]
}

/// A branch: the items from the beginning to its head.
#[derive(Debug, Serialize, ToSchema)]
pub struct Branch {
    /// The id of its last item, which identifies the branch.
    #[schema(example = "msg_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `conversation.branch`.
    object: &'static str,
    /// The last item that it shares with another branch; null: none.
    fork_id: Option<String>,
    /// Unix seconds of its last item.
    created_at: u64,
    /// The number of its items.
    item_count: usize,
    /// True for the branch that is read and continued.
    active: bool,
    /// The beginning of its last message.
    preview: String,
}

impl From<BranchView> for Branch {
    fn from(branch: BranchView) -> Self {
        Self {
            id: branch.head.id,
            object: "conversation.branch",
            fork_id: branch.fork,
            created_at: branch.head.created_at,
            item_count: branch.items,
            active: branch.active,
            preview: item::text_of(&branch.head.body).chars().take(PREVIEW_CHARS).collect(),
        }
    }
}

/// All branches of a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct BranchList {
    /// Always `list`.
    object: &'static str,
    /// The branches, in the order in which their heads were added.
    data: Vec<Branch>,
    /// Always false.
    has_more: bool,
}

/// The branch to continue.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"id": "msg_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d"}))]
pub struct PickBranch {
    /// The branch's id, or that of any other item of the conversation, from which it continues.
    id: String,
}

/// A conversation with all its branches.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationExport {
    #[serde(flatten)]
    conversation: Conversation,
    /// The last item of the active branch.
    active_item_id: Option<String>,
    /// The items of all branches in order of creation: OpenAI's objects with additional `created_at` and
    /// `parent_id`.
    #[schema(value_type = Vec<Object>)]
    items: Vec<WireItem>,
}

/// List the branches: an edited message or a regenerated answer starts another one.
#[utoipa::path(
    get,
    path = "/conversations/{id}/branches",
    tag = "conversations",
    operation_id = "listConversationBranches",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "All branches", body = BranchList),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn list(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let branches = state.conversations.branches(user, id).await.map_err(ApiError::from_conversation)?;
    let data = branches.into_iter().map(Branch::from).collect();
    Ok(private(StatusCode::OK, &BranchList { object: "list", data, has_more: false }))
}

/// Select the branch to read and continue.
#[utoipa::path(
    post,
    path = "/conversations/{id}/branches",
    tag = "conversations",
    operation_id = "pickConversationBranch",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    request_body = PickBranch,
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 404, description = "The conversation or item does not exist", body = ErrorResponse),
    )
)]
async fn pick(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&request.context)?, parse_id(&id)?);
    let parsed = read::<PickBranch>(request).await?;
    let picked = state.conversations.pick(user, id, parsed.value.id).await;
    let mut response =
        private(StatusCode::OK, &Conversation::from(picked.map_err(ApiError::from_conversation)?));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

#[derive(Debug, Deserialize)]
struct FormatQuery {
    format: Option<String>,
}

/// Returns whether a query requests Markdown.
pub fn wants_markdown(query: &str) -> Result<bool, ApiError> {
    match parse_query::<FormatQuery>(query)?.format.as_deref() {
        None | Some("json") => Ok(false),
        Some("markdown" | "md") => Ok(true),
        Some(_) => Err(ApiError::invalid_value("format", "'format' must be `json` or `markdown`.")),
    }
}

pub fn markdown_page(record: &ConversationRecord, items: &[Item]) -> Response {
    let mut response: Response = http::Response::new(markdown::export(record, items).into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/markdown; charset=utf-8"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn attach(response: &mut Response, name: &str) {
    let value = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
    response
        .headers_mut()
        .insert(CONTENT_DISPOSITION, value.expect("an id of letters and digits may stand in a header"));
}

/// Export a conversation as a file: JSON with all branches, or the active branch as Markdown.
#[utoipa::path(
    get,
    path = "/conversations/{id}/export",
    tag = "conversations",
    operation_id = "exportConversation",
    params(
        ("id" = String, Path, description = "The conversation's id, `conv_…`"),
        ("format" = Option<String>, Query, description = "`json` (all branches) or `markdown` (the active one)"),
    ),
    responses(
        (status = 200, description = "The file", content(
            (ConversationExport = "application/json"),
            (String = "text/markdown"),
        )),
        (status = 400, description = "The format is unknown", body = ErrorResponse),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn export(
    Id(id): Id,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    if wants_markdown(&query)? {
        let (record, items) = state.conversations.get(user, id).await.map_err(ApiError::from_conversation)?;
        let mut response = markdown_page(&record, &items);
        attach(&mut response, &format!("{id}.md"));
        return Ok(response);
    }
    let whole = state.conversations.whole(user, id).await.map_err(ApiError::from_conversation)?;
    let export = ConversationExport {
        conversation: whole.record.into(),
        active_item_id: whole.head,
        items: whole.items.into_iter().map(WireItem).collect(),
    };
    let mut response = private(StatusCode::OK, &export);
    attach(&mut response, &format!("{id}.json"));
    Ok(response)
}
