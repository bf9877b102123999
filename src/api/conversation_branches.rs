//! A conversation's branches, its export, and links that anybody can read it by.

use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jan_actors::conversations::{BranchView, ConversationRecord, Item, Share, item, markdown};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::conversation_wire::{ChatMessage, Conversation, WireItem, messages, parse_id};
use super::conversations::DeletedConversation;
use super::{AppState, into_response, name_ignored, parse_query, private, read, user_of, with};
use crate::http::body::request;
use crate::http::error::ErrorResponse;
use crate::http::routes::{api_v1, get_or_head, other_methods_of, raw_query};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// How much of a branch's last message is shown.
const PREVIEW_CHARS: usize = 100;

/// `/conversations/{id}/branches`, `/export` and `/share`, and `/shared/{token}`.
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let branches = api_v1().and(warp::path!("conversations" / String / "branches"));
    let exports = api_v1().and(warp::path!("conversations" / String / "export"));
    let link = api_v1().and(warp::path!("conversations" / String / "share"));
    let public = api_v1().and(warp::path!("shared" / String));
    branches
        .and(get_or_head())
        .and(with(state))
        .and(warp::ext::get())
        .then(async |id, state, context| into_response(list(id, state, context).await))
        .or(branches
            .and(warp::post())
            .and(with(state))
            .and(request())
            .then(async |id, state, request| into_response(pick(id, state, request).await)))
        .unify()
        .or(other_methods_of(branches, "GET, HEAD, POST, OPTIONS"))
        .unify()
        .or(exports.and(get_or_head()).and(with(state)).and(warp::ext::get()).and(raw_query()).then(
            async |id, state, context, query: String| into_response(export(id, state, context, &query).await),
        ))
        .unify()
        .or(other_methods_of(exports, "GET, HEAD, OPTIONS"))
        .unify()
        .or(link
            .and(warp::post())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |id, state, context| into_response(share(id, state, context).await)))
        .unify()
        .or(link
            .and(warp::delete())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |id, state, context| into_response(unshare(id, state, context).await)))
        .unify()
        .or(other_methods_of(link, "POST, DELETE, OPTIONS"))
        .unify()
        .or(public
            .and(get_or_head())
            .and(with(state))
            .and(raw_query())
            .then(async |token, state, query: String| into_response(shared(token, state, &query).await)))
        .unify()
        .or(other_methods_of(public, "GET, HEAD, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of these resources.
#[derive(OpenApi)]
#[openapi(
    paths(list, pick, export, share, unshare, shared),
    components(schemas(
        Branch,
        BranchList,
        PickBranch,
        Conversation,
        ConversationExport,
        ShareLink,
        SharedConversation,
        ChatMessage,
        DeletedConversation,
    ))
)]
pub struct Doc;

/// A branch: what leads from the beginning to its head.
#[derive(Debug, Serialize, ToSchema)]
pub struct Branch {
    /// The id of its last item, which names the branch.
    #[schema(example = "msg_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `conversation.branch`.
    object: &'static str,
    /// The last item that it shares with another branch; null: nothing.
    fork_id: Option<String>,
    /// Unix seconds of its last item.
    created_at: u64,
    /// How many items it has.
    item_count: usize,
    /// Whether it is the one that is read and goes on.
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

/// Which branch to go on with.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"id": "msg_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d"}))]
pub struct PickBranch {
    /// The branch's id. Any other item of the conversation does, too: the conversation goes on from there.
    id: String,
}

/// A conversation with all its branches.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationExport {
    #[serde(flatten)]
    conversation: Conversation,
    /// The last item of the active branch.
    active_item_id: Option<String>,
    /// The items of all branches in the order they came in: OpenAI's objects with `created_at` and `parent_id` beside.
    #[schema(value_type = Vec<Object>)]
    items: Vec<WireItem>,
}

/// A link that anybody can read a conversation by.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShareLink {
    /// Always `conversation.share`.
    object: &'static str,
    /// What nobody can guess.
    #[schema(example = "share_kq3mZ0bqv1h2n4u6x8A9cDfGhJkLmNpQ")]
    token: String,
    /// The link's path on this server.
    path: String,
    /// Unix seconds of what it shows: messages since are not in it.
    created_at: u64,
}

impl From<Share> for ShareLink {
    fn from(share: Share) -> Self {
        Self {
            object: "conversation.share",
            path: format!("/api/v1/shared/{}", share.token),
            token: share.token,
            created_at: share.created_at,
        }
    }
}

/// What a share link shows.
#[derive(Debug, Serialize, ToSchema)]
pub struct SharedConversation {
    /// Always `conversation.shared`.
    object: &'static str,
    /// What it is about.
    title: Option<String>,
    /// The model that it was held with.
    model: Option<String>,
    /// Unix seconds.
    created_at: u64,
    /// The messages of the branch that was active when the link was made.
    messages: Vec<ChatMessage>,
}

/// The branches: an edited message or an answer that was made again begins another one.
#[utoipa::path(
    get,
    path = "/conversations/{id}/branches",
    tag = "conversations",
    operation_id = "listConversationBranches",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "All branches", body = BranchList),
        (status = 404, description = "There is no such conversation", body = ErrorResponse),
    )
)]
async fn list(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let branches = state.conversations.branches(user, id).await.map_err(ApiError::from_conversation)?;
    let data = branches.into_iter().map(Branch::from).collect();
    Ok(private(StatusCode::OK, &BranchList { object: "list", data, has_more: false }))
}

/// Pick a branch to read and go on with.
#[utoipa::path(
    post,
    path = "/conversations/{id}/branches",
    tag = "conversations",
    operation_id = "pickConversationBranch",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    request_body = PickBranch,
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 404, description = "There is no such conversation or item", body = ErrorResponse),
    )
)]
async fn pick(id: String, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&request.context)?, parse_id(&id)?);
    let parsed = read::<PickBranch>(&state, request).await?;
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

/// Whether a query asks for Markdown.
fn wants_markdown(query: &str) -> Result<bool, ApiError> {
    match parse_query::<FormatQuery>(query)?.format.as_deref() {
        None | Some("json") => Ok(false),
        Some("markdown" | "md") => Ok(true),
        Some(_) => Err(ApiError::invalid_value("format", "'format' must be `json` or `markdown`.")),
    }
}

fn markdown_page(record: &ConversationRecord, items: &[Item]) -> Response {
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

/// A conversation as a file: JSON with all branches, or the active branch as Markdown.
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
        (status = 400, description = "There is no such format", body = ErrorResponse),
        (status = 404, description = "There is no such conversation", body = ErrorResponse),
    )
)]
async fn export(
    id: String,
    state: AppState,
    context: RequestContext,
    query: &str,
) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    if wants_markdown(query)? {
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

/// Make a link by which anybody can read the active branch as it is now. Made once more, the link stays the same and
/// shows the branch as it is then.
#[utoipa::path(
    post,
    path = "/conversations/{id}/share",
    tag = "conversations",
    operation_id = "shareConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "The link", body = ShareLink),
        (status = 404, description = "There is no such conversation", body = ErrorResponse),
    )
)]
async fn share(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    let share = state.conversations.share(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &ShareLink::from(share)))
}

/// Revoke the link. It leads nowhere from the next request on.
#[utoipa::path(
    delete,
    path = "/conversations/{id}/share",
    tag = "conversations",
    operation_id = "unshareConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "It is revoked", body = DeletedConversation),
        (status = 404, description = "There is no such conversation, or no link to it", body = ErrorResponse),
    )
)]
async fn unshare(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    state.conversations.unshare(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &DeletedConversation::new(id, "conversation.share.deleted")))
}

/// What a share link shows.
#[utoipa::path(
    get,
    path = "/shared/{token}",
    tag = "conversations",
    operation_id = "getSharedConversation",
    params(
        ("token" = String, Path, description = "The link's token, `share_…`"),
        ("format" = Option<String>, Query, description = "`json` or `markdown`"),
    ),
    responses(
        (status = 200, description = "The conversation", content(
            (SharedConversation = "application/json"),
            (String = "text/markdown"),
        )),
        (status = 404, description = "There is no such link, or it was revoked", body = ErrorResponse),
    )
)]
async fn shared(token: String, state: AppState, query: &str) -> Result<Response, ApiError> {
    let markdown = wants_markdown(query)?;
    let (record, items) = state.conversations.shared(token).await.map_err(ApiError::from_conversation)?;
    // Instructions are for the model and its owner.
    let items: Vec<Item> = items
        .into_iter()
        .filter(|item| !matches!(item::role(&item.body), Some("system" | "developer")))
        .collect();
    let mut response = match markdown {
        true => markdown_page(&record, &items),
        false => private(
            StatusCode::OK,
            &SharedConversation {
                object: "conversation.shared",
                title: record.title,
                model: record.model,
                created_at: record.created_at,
                messages: messages(&items),
            },
        ),
    };
    let headers = response.headers_mut();
    // The address is the key: it must be in no index, and in no other site's log.
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    headers.insert(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}
