//! `/admin/users/{id}/sessions` and `/admin/users/{id}/api-keys`: what any user is known by, for administrators.

use http::StatusCode;
use jan_actors::identity::{CredentialId, KeyId, Origin, PrincipalKind, SessionId};
use utoipa::OpenApi;
use warp::Filter;
use warp::filters::BoxedFilter;

use super::sessions::{Session, Tokens, refusal, signed_in};
use super::types::{ApiKey, CreateApiKey, Deleted, List, NewApiKey, cascade, created, end, ended, now};
use super::users::parse;
use crate::api::{
    respond::{into_response, name_ignored, private, read},
    state::{AppState, with},
};
use crate::http::body::request;
use crate::http::error::ErrorResponse;
use crate::http::routes::{API, at_id, at_ids, get_or_head, other_methods_of, raw_query};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Both collections and what is in them.
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    collections(state).or(members(state)).unify().boxed()
}

fn collections(state: &AppState) -> BoxedFilter<(Response,)> {
    let sessions = at_id(API, "admin/users/*/sessions");
    let keys = at_id(API, "admin/users/*/api-keys");
    sessions
        .and(get_or_head())
        .and(with(state))
        .and(warp::ext::get())
        .then(async |id, state, context| into_response(list_sessions(id, state, context).await))
        .boxed()
        .or(sessions
            .and(warp::post())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |id, state, context| into_response(create_session(id, state, context).await))
            .boxed())
        .unify()
        .or(other_methods_of(sessions, "GET, HEAD, POST, OPTIONS"))
        .unify()
        .or(keys
            .and(get_or_head())
            .and(with(state))
            .then(async |id, state| into_response(list_keys(id, state).await))
            .boxed())
        .unify()
        .or(keys
            .and(warp::post())
            .and(with(state))
            .and(request())
            .then(async |id, state, request| into_response(create_key(id, state, request).await))
            .boxed())
        .unify()
        .or(other_methods_of(keys, "GET, HEAD, POST, OPTIONS"))
        .unify()
        .boxed()
}

fn members(state: &AppState) -> BoxedFilter<(Response,)> {
    let session = at_ids(API, "admin/users/*/sessions/*");
    let key = at_ids(API, "admin/users/*/api-keys/*");
    session
        .and(warp::delete())
        .and(with(state))
        .and(warp::ext::get())
        .and(raw_query())
        .then(async |id, session, state, context, query| {
            into_response(end_session(id, session, state, context, query).await)
        })
        .boxed()
        .or(other_methods_of(session.map(|id, _: String| id), "DELETE, OPTIONS"))
        .unify()
        .or(key
            .and(warp::delete())
            .and(with(state))
            .and(warp::ext::get())
            .and(raw_query())
            .then(async |id, key, state, context, query| {
                into_response(revoke_key(id, key, state, context, query).await)
            })
            .boxed())
        .unify()
        .or(other_methods_of(key.map(|id, _: String| id), "DELETE, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(
    paths(list_sessions, create_session, end_session, list_keys, create_key, revoke_key),
    components(schemas(Tokens, Session, List<Session>, ApiKey, List<ApiKey>, CreateApiKey, NewApiKey, Deleted))
)]
pub struct Doc;

/// List a user's sessions.
#[utoipa::path(
    get,
    path = "/admin/users/{id}/sessions",
    tag = "admin",
    operation_id = "listUserSessions",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    responses(
        (status = 200, description = "The active sessions, oldest first", body = List<Session>),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn list_sessions(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = state.identity.user(parse(&id)?).await.map_err(ApiError::from_identity)?;
    let sessions = state.identity.sessions(user.id).await.map_err(ApiError::from_identity)?;
    let current = context.caller.principal.session();
    let sessions = sessions.iter().map(|session| Session::new(session, current)).collect();
    Ok(private(StatusCode::OK, &List::new(sessions, false)))
}

/// End one of a user's sessions.
///
/// Credentials created with it remain valid, unless `cascade` is true, which also ends those derived from a
/// session that ended before.
#[utoipa::path(
    delete,
    path = "/admin/users/{id}/sessions/{session_id}",
    tag = "admin",
    operation_id = "endUserSession",
    params(
        ("id" = String, Path, description = "The user's id, `user_…`"),
        ("session_id" = String, Path, description = "The session's id, `sess_…`"),
        ("cascade" = Option<bool>, Query, description = "End the keys and sessions derived from it as well"),
    ),
    responses(
        (status = 200, description = "The session is ended", body = Deleted),
        (status = 404, description = "The session does not exist", body = ErrorResponse),
    )
)]
async fn end_session(
    id: String,
    session: String,
    state: AppState,
    context: RequestContext,
    query: String,
) -> Result<Response, ApiError> {
    let user = parse(&id)?;
    let found: SessionId = session.parse().map_err(|_| ApiError::not_found("session", &session))?;
    let origin = Origin { user, with: CredentialId::Session(found) };
    end(&state, origin, cascade(&query)?, &context.caller.principal).await?;
    Ok(ended(Deleted::new(found, "session"), cascade(&query)?))
}

/// List a user's keys.
#[utoipa::path(
    get,
    path = "/admin/users/{id}/api-keys",
    tag = "admin",
    operation_id = "listUserApiKeys",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    responses(
        (status = 200, description = "The keys that are not revoked, oldest first", body = List<ApiKey>),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn list_keys(id: String, state: AppState) -> Result<Response, ApiError> {
    let user = state.identity.user(parse(&id)?).await.map_err(ApiError::from_identity)?;
    let keys = state.identity.keys(user.id).await.map_err(ApiError::from_identity)?;
    let keys = keys.into_iter().map(ApiKey::from).collect();
    Ok(private(StatusCode::OK, &List::new(keys, false)))
}

/// Revoke one of a user's keys. It is rejected from the next request on.
///
/// Keys created with it for the same user are revoked as well. Other credentials created with it remain
/// valid, unless `cascade` is true, which also ends those derived from a key that was revoked before.
#[utoipa::path(
    delete,
    path = "/admin/users/{id}/api-keys/{key_id}",
    tag = "admin",
    operation_id = "revokeUserApiKey",
    params(
        ("id" = String, Path, description = "The user's id, `user_…`"),
        ("key_id" = String, Path, description = "The key's id, `key_…`"),
        ("cascade" = Option<bool>, Query, description = "End the keys and sessions derived from it as well"),
    ),
    responses(
        (status = 200, description = "The key is revoked", body = Deleted),
        (status = 404, description = "The key does not exist", body = ErrorResponse),
    )
)]
async fn revoke_key(
    id: String,
    key: String,
    state: AppState,
    context: RequestContext,
    query: String,
) -> Result<Response, ApiError> {
    let user = parse(&id)?;
    let found: KeyId = key.parse().map_err(|_| ApiError::not_found("API key", &key))?;
    let origin = Origin { user, with: CredentialId::Key(found) };
    end(&state, origin, cascade(&query)?, &context.caller.principal).await?;
    Ok(ended(Deleted::new(found, "api_key"), cascade(&query)?))
}

/// Create a session for a user, as if they had signed in.
///
/// An API key cannot create a session for its own user: the session would have more permissions than the key
/// and outlive it. A session for another user outlives the caller's credential, unless that is ended with
/// `cascade`.
#[utoipa::path(
    post,
    path = "/admin/users/{id}/sessions",
    tag = "admin",
    operation_id = "createUserSession",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    responses(
        (status = 201, description = "The user's tokens", body = Tokens),
        (status = 403, description = "The user is disabled, or is the user of the API key of the request", body = ErrorResponse),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn create_session(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = parse(&id)?;
    let caller = &context.caller.principal;
    if matches!(caller.kind, PrincipalKind::Key { user: own, .. } if own == user) {
        return Err(ApiError::forbidden(
            "insufficient_permissions",
            "An API key cannot create a session for its own user. Sign in, or ask another administrator for a session.",
        ));
    }
    let pair = state.identity.make_session(user, caller).await.map_err(refusal)?;
    Ok(signed_in(StatusCode::CREATED, pair))
}

/// Create a key for a user. It grants at most the user's permissions.
///
/// A key that an administrator creates with a key for themselves is that key's child, as with `POST
/// /user/api-keys`. A key for another user outlives the caller's credential, unless that is ended with
/// `cascade`.
#[utoipa::path(
    post,
    path = "/admin/users/{id}/api-keys",
    tag = "admin",
    operation_id = "createUserApiKey",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    request_body = CreateApiKey,
    responses(
        (status = 201, description = "The key", body = NewApiKey),
        (status = 400, description = "A field is missing or invalid, or there are too many keys", body = ErrorResponse),
        (status = 403, description = "It would grant permissions that the user does not have", body = ErrorResponse),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn create_key(id: String, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, caller) = (parse(&id)?, request.context.caller.principal);
    let parsed = read::<CreateApiKey>(request).await?;
    let key = parsed.value.check(now())?;
    let mut response = created(super::types::create_key(&state, user, &caller, key).await?);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}
