//! `/admin/users/{id}/sessions` and `/admin/users/{id}/api-keys`: the credentials of any user, for administrators.

use http::StatusCode;
use jan_actors::identity::{CredentialId, KeyId, Origin, PrincipalKind, Right, SessionId};

use super::sessions::{Session, Tokens, refusal, signed_in};
use super::types::{ApiKey, CreateApiKey, Deleted, List, NewApiKey, cascade, created, end, ended, now};
use super::users::parse;
use crate::api::{
    respond::{name_ignored, private, read},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Ids, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Returns the routes of both collections and their members.
pub fn routes() -> Vec<Route> {
    vec![
        route!(list_sessions, Place::Api, Access::Needs(Right::Administer)),
        route!(create_session, Place::Api, Access::Needs(Right::Administer)).begins_session("admin"),
        route!(end_session, Place::Api, Access::Needs(Right::Administer)).audited("session.end"),
        route!(list_keys, Place::Api, Access::Needs(Right::Administer)),
        route!(create_key, Place::Api, Access::Needs(Right::Administer)).audited("key.create"),
        route!(revoke_key, Place::Api, Access::Needs(Right::Administer)).audited("key.revoke"),
    ]
}

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
async fn list_sessions(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
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
    Ids(id, session): Ids,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
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
async fn list_keys(Id(id): Id, state: AppState) -> Result<Response, ApiError> {
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
    Ids(id, key): Ids,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
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
async fn create_session(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
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
async fn create_key(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, caller) = (parse(&id)?, request.context.caller.principal);
    let parsed = read::<CreateApiKey>(request).await?;
    let key = parsed.value.check(now())?;
    let mut response = created(super::types::create_key(&state, user, &caller, key).await?);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}
