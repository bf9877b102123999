//! Links by which anyone can read a conversation.

use http::{HeaderValue, StatusCode};
use jan_actors::conversations::{ConversationQuery, Item, Share, item};
use jan_actors::identity::{Right, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::branches::{markdown_page, wants_markdown};
use super::types::{ChatMessage, messages, parse_id};
use super::{DeletedConversation, page_size};
use crate::api::{
    accounts::types::now,
    respond::{name_ignored, parse_query, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::json::Parsed;
use crate::http::routing::{Id, Ids, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/conversations/{id}/share`, `/shared/{token}` and `/admin/users/{id}/shares`.
pub fn routes() -> Vec<Route> {
    vec![
        route!(share, Place::Api, Access::Needs(Right::WriteConversations)).audited("share.create"),
        route!(unshare, Place::Api, Access::Needs(Right::WriteConversations)).audited("share.end"),
        route!(shared, Place::Api, Access::Open),
        route!(user_shares, Place::Api, Access::Needs(Right::Administer)),
        route!(end_share, Place::Api, Access::Needs(Right::Administer)).audited("share.end"),
    ]
}

/// A link by which anyone can read a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShareLink {
    /// Always `conversation.share`.
    object: &'static str,
    /// The secret of the link.
    #[schema(example = "share_kq3mZ0bqv1h2n4u6x8A9cDfGhJkLmNpQ")]
    token: String,
    /// The link's path on this server.
    path: String,
    /// Unix seconds of the shared state: later messages are not included.
    created_at: u64,
    /// Unix seconds of its expiry; null: until it is revoked, its conversation deleted, or its user disabled.
    expires_at: Option<u64>,
}

impl From<Share> for ShareLink {
    fn from(share: Share) -> Self {
        Self {
            object: "conversation.share",
            path: format!("/api/v1/shared/{}", share.token),
            token: share.token,
            created_at: share.created_at,
            expires_at: share.expires_at,
        }
    }
}

/// A shared conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct SharedConversation {
    /// Always `conversation.shared`.
    object: &'static str,
    /// Its title.
    title: Option<String>,
    /// Its model.
    model: Option<String>,
    /// Unix seconds.
    created_at: u64,
    /// The messages of the branch that was active when the link was created or updated.
    messages: Vec<ChatMessage>,
}

/// A share link to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"expires_at": 1893456000}))]
pub struct CreateShare {
    /// Unix seconds of its expiry, in the future; null or absent: none.
    expires_at: Option<u64>,
}

/// A link as administrators see it, without its token.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserShare {
    /// Always `conversation.share`.
    object: &'static str,
    /// The shared conversation.
    conversation_id: String,
    /// Unix seconds of the shared state.
    created_at: u64,
    /// Unix seconds of its expiry; null: none.
    expires_at: Option<u64>,
}

/// A user's links. Source: `UserShareList`.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserShareList {
    /// Always `list`.
    object: &'static str,
    /// The links, sorted by the last change of their conversation, newest first.
    data: Vec<UserShare>,
    /// True if there may be more.
    has_more: bool,
    /// The value of `after` for the next page; null if there is none.
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SharesQuery {
    limit: Option<String>,
    after: Option<String>,
}

/// Create a link by which anyone can read the active branch as of now. Repeating the request keeps the link
/// and updates its branch and expiry. The link ends permanently when its user is disabled.
#[utoipa::path(
    post,
    path = "/conversations/{id}/share",
    tag = "conversations",
    operation_id = "shareConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    request_body(content = Option<CreateShare>, description = "Optional"),
    responses(
        (status = 200, description = "The link", body = ShareLink),
        (status = 400, description = "`expires_at` is not in the future", body = ErrorResponse),
        (status = 404, description = "The conversation does not exist", body = ErrorResponse),
    )
)]
async fn share(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&request.context)?, parse_id(&id)?);
    // A link gives read access, so its creator needs the permission to read.
    let principal = &request.context.caller.principal;
    if !principal.may(Right::ReadConversations) {
        return Err(ApiError::insufficient_permissions(Right::ReadConversations, principal));
    }
    let parsed = match request.has_body() {
        true => read::<CreateShare>(request).await?,
        false => Parsed { value: CreateShare::default(), ignored: Vec::new() },
    };
    let share = state.conversations.share(user, id, parsed.value.expires_at).await;
    let mut response = private(StatusCode::OK, &ShareLink::from(share.map_err(ApiError::from_conversation)?));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Revoke the link. It is invalid from the next request on.
#[utoipa::path(
    delete,
    path = "/conversations/{id}/share",
    tag = "conversations",
    operation_id = "unshareConversation",
    params(("id" = String, Path, description = "The conversation's id, `conv_…`")),
    responses(
        (status = 200, description = "The key is revoked", body = DeletedConversation),
        (status = 404, description = "The conversation does not exist, or has no link", body = ErrorResponse),
    )
)]
async fn unshare(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, id) = (user_of(&context)?, parse_id(&id)?);
    state.conversations.unshare(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &DeletedConversation::new(id, "conversation.share.deleted")))
}

/// Read a shared conversation.
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
        (status = 404, description = "The link does not exist or has ended", body = ErrorResponse),
    )
)]
async fn shared(Id(token): Id, state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let markdown = wants_markdown(&query)?;
    let (record, items) = state.conversations.shared(token).await.map_err(ApiError::from_conversation)?;
    let made_at = record.share.as_ref().map_or(0, |share| share.created_at);
    if !state.identity.shows_share(record.user, made_at) {
        return Err(ApiError::not_found("share link", "of that token"));
    }
    // Instructions are only for the model and the owner.
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
    // The URL grants access, so it must not appear in an index or another site's log.
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    headers.insert(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// List a user's share links.
#[utoipa::path(
    get,
    path = "/admin/users/{id}/shares",
    tag = "admin",
    operation_id = "listUserShares",
    params(
        ("id" = String, Path, description = "The user's id"),
        ("limit" = Option<u32>, Query, description = "1 to 100, default 20"),
        ("after" = Option<String>, Query, description = "`next` of the previous page"),
    ),
    responses(
        (status = 200, description = "A page of links", body = UserShareList),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn user_shares(Id(id): Id, state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query: SharesQuery = parse_query(&query)?;
    let user = user_id(&state, &id).await?;
    let after = match query.after {
        Some(cursor) => {
            let position = state.conversations.position(user, &cursor).await;
            Some(position.map_err(|error| ApiError::from_conversation(error).with_param("after"))?)
        }
        None => None,
    };
    let query = ConversationQuery {
        limit: page_size(query.limit.as_deref())?,
        after,
        before: None,
        newest_first: true,
        model: None,
        text: None,
        shared: true,
    };
    let page = state.conversations.list(user, query).await.map_err(ApiError::from_conversation)?;
    let now = now();
    let data = page.data.into_iter().filter_map(|record| {
        let share = record.share.filter(|share| !share.is_over(now))?;
        state.identity.shows_share(user, share.created_at).then(|| UserShare {
            object: "conversation.share",
            conversation_id: record.id.to_string(),
            created_at: share.created_at,
            expires_at: share.expires_at,
        })
    });
    let data = data.collect();
    let next = page.next.map(|position| position.to_cursor());
    Ok(private(StatusCode::OK, &UserShareList { object: "list", data, has_more: page.has_more, next }))
}

/// End a user's share link. It is invalid from the next request on.
#[utoipa::path(
    delete,
    path = "/admin/users/{id}/shares/{conversation_id}",
    tag = "admin",
    operation_id = "endUserShare",
    params(
        ("id" = String, Path, description = "The user's id"),
        ("conversation_id" = String, Path, description = "The conversation's id, `conv_…`"),
    ),
    responses(
        (status = 200, description = "The link is ended", body = DeletedConversation),
        (status = 404, description = "The user does not exist, or has no link to that conversation", body = ErrorResponse),
    )
)]
async fn end_share(Ids(id, conversation): Ids, state: AppState) -> Result<Response, ApiError> {
    let (user, id) = (user_id(&state, &id).await?, parse_id(&conversation)?);
    state.conversations.unshare(user, id).await.map_err(ApiError::from_conversation)?;
    Ok(private(StatusCode::OK, &DeletedConversation::new(id, "conversation.share.deleted")))
}

async fn user_id(state: &AppState, id: &str) -> Result<UserId, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found("user", id))?;
    Ok(state.identity.user(id).await.map_err(ApiError::from_identity)?.id)
}
