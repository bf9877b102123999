//! `/auth`: login sessions and their tokens.
//!
//! Source: RFC 6749 sections 5.1 and 6, RFC 7517 for the published keys.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};
use jan_actors::identity::{
    AuthError, CredentialId, IdentityError, Origin, RefreshProof, Right, SessionId, SessionRecord, TokenPair,
    UserId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Reply;

use super::google::sign_in_cookie;
use super::types::{Deleted, List, cascade, end, ended};
use crate::api::{
    respond::{json, name_ignored, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::auth::google::Shown;
use crate::auth::{Credential, find_credential, gate, note};
use crate::http::error::ErrorResponse;
use crate::http::json::Parsed;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/auth/refresh`, `/auth/logout`, `/auth/guest`, `/auth/exchange`, `/auth/sessions` and the public keys.
pub fn routes() -> Vec<Route> {
    vec![
        route!(refresh, Place::ApiAndRoot, Access::Proof).audited("session.refresh"),
        route!(become_guest, Place::ApiAndRoot, Access::Open).begins_session("guest"),
        route!(exchange, Place::ApiAndRoot, Access::Open).begins_session("exchange"),
        route!(logout, Place::ApiAndRoot, Access::Needs(Right::WriteAccount)).audited("session.end"),
        route!(list, Place::ApiAndRoot, Access::Needs(Right::ReadKeys)),
        route!(revoke, Place::ApiAndRoot, Access::Needs(Right::ManageKeys)).audited("session.end"),
        route!(jwks, Place::Root, Access::Open),
    ]
}

/// The tokens of a sign-in or refresh.
#[derive(Serialize, ToSchema)]
pub struct Tokens {
    /// A JWT for `Authorization: Bearer`.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token expires.
    #[schema(example = 3600)]
    expires_in: u64,
    /// For one `POST /auth/refresh`.
    refresh_token: String,
}

impl From<TokenPair> for Tokens {
    fn from(pair: TokenPair) -> Self {
        Self {
            access_token: pair.access_token.reveal().to_owned(),
            token_type: "Bearer",
            expires_in: pair.expires_in,
            refresh_token: pair.refresh_token.reveal().to_owned(),
        }
    }
}

/// Returns the response to a sign-in.
pub fn signed_in(status: StatusCode, pair: TokenPair) -> Response {
    let (user, session) = (pair.user, pair.session);
    let mut response = private(status, &Tokens::from(pair));
    note(&mut response, |noted| {
        noted.user = Some(user);
        noted.target = Some(session.to_string());
    });
    response
}

/// Begins a session for a user who has been authenticated.
pub async fn begin_session(state: &AppState, user: UserId) -> Result<TokenPair, ApiError> {
    state.identity.start_session(user).await.map_err(refusal)
}

/// Maps an error to a response; a disabled user is 403, since there is no credential yet.
pub fn refusal(error: IdentityError) -> ApiError {
    match error {
        IdentityError::Auth(AuthError::UserDisabled) => {
            ApiError::forbidden("user_disabled", "The user is disabled; ask an administrator.")
        }
        error => ApiError::from_identity(error),
    }
}

/// The refresh token, if the access token is not used.
#[derive(Default, Deserialize, ToSchema)]
#[schema(example = json!({"refresh_token": "the newest refresh token"}))]
pub struct RefreshRequest {
    /// The latest refresh token of the session.
    refresh_token: Option<String>,
}

/// A code to exchange for tokens.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"code": "the code from the address"}))]
pub struct ExchangeRequest {
    /// The code from the fragment of the return address.
    code: String,
    /// The verifier of the `code_challenge` that was passed to `/auth/google`, if any (RFC 7636).
    code_verifier: Option<String>,
}

/// A login session.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    /// Its id.
    #[schema(example = "sess_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `session`.
    object: &'static str,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds.
    refreshed_at: u64,
    /// Unix seconds until which it can be refreshed.
    expires_at: u64,
    /// True for the session of this request.
    current: bool,
    /// The key or session with which an administrator created it.
    #[schema(example = json!(null))]
    made_by: Option<String>,
}

impl Session {
    pub fn new(session: &SessionRecord, current: Option<SessionId>) -> Self {
        Self {
            id: session.id.to_string(),
            object: "session",
            created_at: session.created_at,
            refreshed_at: session.refreshed_at,
            expires_at: session.expires_at,
            current: current == Some(session.id),
            made_by: session.made_by.map(|with| with.to_string()),
        }
    }
}

/// Refresh tokens.
///
/// Send either the access token as Bearer, also when it expired up to `auth.expired_token_refresh_s` ago, or
/// the refresh token in the body. Each token is valid for one refresh: presenting a superseded one ends the
/// session, except within a few seconds, when it yields the same new tokens. No refresh extends a session
/// beyond `auth.session_lifetime_s`.
#[utoipa::path(
    post,
    path = "/auth/refresh",
    tag = "auth",
    operation_id = "refreshToken",
    request_body(content = Option<RefreshRequest>, description = "Required only with a refresh token"),
    responses(
        (status = 200, description = "New tokens", body = Tokens),
        (status = 401, description = "The token is invalid; the code has the reason", body = ErrorResponse),
    )
)]
async fn refresh(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let bearer = bearer_of(request.headers())?;
    let body = request.read_optional(|parsed: Parsed<RefreshRequest>| Ok(parsed.value)).await?;
    let proof = match (&body.refresh_token, &bearer) {
        // A client may send its access token with every request.
        (Some(token), _) => RefreshProof::Refresh(token),
        (None, Some(token)) => RefreshProof::Access(token),
        (None, None) => return Err(ApiError::credential_required()),
    };
    match state.identity.refresh(proof).await {
        Ok(pair) => Ok(signed_in(StatusCode::OK, pair)),
        Err(error) => {
            let mut response = refused(&state, &context, error).into_response();
            // A refused token may still be one of this server's, and then it names its session.
            if let Some((user, session)) = state.identity.session_of(proof) {
                note(&mut response, |noted| {
                    noted.user = Some(user);
                    noted.target = Some(session.to_string());
                });
            }
            Ok(response)
        }
    }
}

/// Returns the access token in the headers. An API key has no session to refresh.
fn bearer_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    match find_credential(headers).map_err(ApiError::unusable_credential)? {
        None => Ok(None),
        Some(Credential::Token(token)) => Ok(Some(token.to_owned())),
        Some(Credential::Key(_)) => Err(ApiError::from_auth(AuthError::Malformed)),
    }
}

/// Counts tokens that were never this server's, to limit guessing.
fn refused(state: &AppState, context: &RequestContext, error: IdentityError) -> ApiError {
    if let IdentityError::Auth(cause) = error
        && gate::is_guess(cause)
    {
        let net = context.caller.address.into();
        let verdict = state.limiter.sign_in_allowed(net);
        if !verdict.allowed {
            return ApiError::rate_limited(&verdict);
        }
        state.limiter.sign_in_failed(net);
    }
    ApiError::from_identity(error)
}

/// Create a guest: a user without a name or an email address, whose data is kept at a later sign-in.
///
/// Until then it shares the limits of the client's address, including background responses, with all its
/// guests and anonymous callers. One address may create `auth.max_guests_per_address` guests; a guest that is
/// not used for `auth.guest_idle_s` is deleted.
#[utoipa::path(
    post,
    path = "/auth/guest",
    tag = "auth",
    operation_id = "createGuest",
    responses(
        (status = 201, description = "A guest's tokens", body = Tokens),
        (status = 403, description = "Guest accounts are disabled", body = ErrorResponse),
        (status = 429, description = "The maximum number of guests, from this address or in total, is reached", body = ErrorResponse),
    )
)]
async fn become_guest(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    if !state.guests.includes(context.caller.is_local) {
        let message = "Guest accounts are not available from your address (auth.guests).";
        return Err(ApiError::forbidden("guests_disabled", message));
    }
    let guest = state.identity.guest(context.caller.address.into()).await.map_err(ApiError::from_identity)?;
    let mut response = signed_in(StatusCode::CREATED, begin_session(&state, guest.id).await?);
    note(&mut response, |noted| noted.actions = vec!["session.begin", "user.create"]);
    Ok(response)
}

/// Exchange the code in a page's address for tokens, once and within a minute.
///
/// The code is bound to its requester: by the verifier of the challenge that was passed to `/auth/google`,
/// or, without a challenge, to the same browser by its cookie.
#[utoipa::path(
    post,
    path = "/auth/exchange",
    tag = "auth",
    operation_id = "exchangeCode",
    request_body = ExchangeRequest,
    responses(
        (status = 200, description = "Tokens", body = Tokens),
        (status = 400, description = "The code is invalid, expired, or not this caller's", body = ErrorResponse),
    )
)]
async fn exchange(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let browser = sign_in_cookie(&state.google, request.headers()).map(str::to_owned);
    let parsed = read::<ExchangeRequest>(request).await?;
    let net = context.caller.address.into();
    let verdict = state.limiter.sign_in_allowed(net);
    if !verdict.allowed {
        return Err(ApiError::rate_limited(&verdict));
    }
    let shown = Shown { browser: browser.as_deref(), verifier: parsed.value.code_verifier.as_deref() };
    let Some(user) = state.google.redeem(&parsed.value.code, shown).await else {
        state.limiter.sign_in_failed(net);
        let message = "The code is unknown, was used already, is older than a minute, or is another browser's or page's; \
                       sign in again. A page of another origin gives a code_challenge to /auth/google and its \
                       code_verifier here.";
        return Err(ApiError::bad_request("invalid_code", message).with_param("code"));
    };
    let mut response = signed_in(StatusCode::OK, begin_session(&state, user).await?);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// End the session of this token.
#[utoipa::path(
    post,
    path = "/auth/logout",
    tag = "auth",
    operation_id = "logout",
    responses(
        (status = 204, description = "The session is ended, and all of its tokens are invalid"),
        (status = 400, description = "The credential is an API key", body = ErrorResponse),
    )
)]
async fn logout(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    let Some(session) = context.caller.principal.session() else {
        let message = "An API key has no session; revoke it with DELETE /api/v1/user/api-keys/{id}.";
        return Err(ApiError::bad_request("not_a_session", message));
    };
    state.identity.revoke_session(user, session).await.map_err(ApiError::from_identity)?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    note(&mut response, |noted| noted.target = Some(session.to_string()));
    Ok(response)
}

/// List the caller's sessions.
#[utoipa::path(
    get,
    path = "/auth/sessions",
    tag = "auth",
    operation_id = "listSessions",
    responses((status = 200, description = "The active sessions, oldest first", body = List<Session>))
)]
async fn list(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let sessions = state.identity.sessions(user_of(&context)?).await.map_err(ApiError::from_identity)?;
    let current = context.caller.principal.session();
    let sessions = sessions.iter().map(|session| Session::new(session, current)).collect();
    Ok(private(StatusCode::OK, &List::new(sessions, false)))
}

/// End one of the caller's sessions.
///
/// Keys created with it remain valid, as do credentials that an administrator created with it for other
/// users, unless `cascade` is true, which also ends those derived from a session that ended before.
#[utoipa::path(
    delete,
    path = "/auth/sessions/{id}",
    tag = "auth",
    operation_id = "revokeSession",
    params(
        ("id" = String, Path, description = "The session's id, `sess_…`"),
        ("cascade" = Option<bool>, Query, description = "End the keys and sessions derived from it as well"),
    ),
    responses(
        (status = 200, description = "The session is ended", body = Deleted),
        (status = 404, description = "The session does not exist", body = ErrorResponse),
    )
)]
async fn revoke(
    Id(id): Id,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    let session: SessionId = id.parse().map_err(|_| ApiError::not_found("session", &id))?;
    let origin = Origin { user, with: CredentialId::Session(session) };
    end(&state, origin, cascade(&query)?, &context.caller.principal).await?;
    Ok(ended(Deleted::new(session, "session"), cascade(&query)?))
}

/// The public keys that verify this server's tokens.
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    tag = "auth",
    operation_id = "getKeys",
    responses((status = 200, description = "A JWK Set", body = Object))
)]
async fn jwks(state: AppState) -> Response {
    let mut response = json(&state.identity.jwks());
    // Shorter than the time that a rotated key stays valid, so that no client misses a new key.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
