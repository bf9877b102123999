//! `/user/profile`: who one is.

use http::StatusCode;
use jan_actors::identity::{Permission, UserUpdate};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::types::{Deleted, Limits, Role, User};
use crate::api::{
    respond::{into_response, name_ignored, private, read, user_of},
    state::{AppState, with},
};
use crate::auth::note;
use crate::http::body::request;
use crate::http::error::ErrorResponse;
use crate::http::routes::{API, at, get_or_head, other_methods};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/user/profile`
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let path = at(API, "user/profile");
    path.and(get_or_head())
        .and(with(state))
        .and(warp::ext::get())
        .then(async |state, context| into_response(profile(state, context).await))
        .boxed()
        .or(path
            .and(warp::patch())
            .and(with(state))
            .and(request())
            .then(async |state, request| into_response(update(state, request).await))
            .boxed())
        .unify()
        .or(path
            .and(warp::delete())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |state, context| into_response(delete(state, context).await))
            .boxed())
        .unify()
        .or(other_methods(path, "GET, HEAD, PATCH, DELETE, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(
    paths(profile, update, delete),
    components(schemas(Profile, User, Role, Limits, ProfileUpdate, Deleted))
)]
pub struct Doc;

/// The user whose credential this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Profile {
    #[serde(flatten)]
    user: User,
    /// What the credential grants. A session manages keys, sessions and the account without `keys` among them.
    permissions: Vec<&'static str>,
}

/// What can be changed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Ann"}))]
pub struct ProfileUpdate {
    /// A new name.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
}

/// Who one is.
#[utoipa::path(
    get,
    path = "/user/profile",
    tag = "user",
    operation_id = "getProfile",
    responses((status = 200, description = "The user", body = Profile))
)]
async fn profile(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = state.identity.user(user_of(&context)?).await.map_err(ApiError::from_identity)?;
    let principal = &context.caller.principal;
    let granted = principal.permissions.iter();
    let named = granted.filter(|&one| one != Permission::Keys || principal.session().is_none());
    let permissions = named.map(Permission::name).collect();
    Ok(private(StatusCode::OK, &Profile { user: user.into(), permissions }))
}

/// Change one's name.
#[utoipa::path(
    patch,
    path = "/user/profile",
    tag = "user",
    operation_id = "updateProfile",
    request_body = ProfileUpdate,
    responses(
        (status = 200, description = "The user", body = User),
        (status = 400, description = "The name cannot be", body = ErrorResponse),
    )
)]
async fn update(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let user = user_of(&request.context)?;
    let parsed = read::<ProfileUpdate>(request).await?;
    let update = UserUpdate { name: Some(parsed.value.name), ..UserUpdate::default() };
    let user = state.identity.update_user(user, update).await.map_err(ApiError::from_identity)?;
    let mut response = private(StatusCode::OK, &User::from(user));
    note(&mut response, |noted| noted.fields = vec!["name"]);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Delete one's account with everything that belongs to it. This cannot be undone.
#[utoipa::path(
    delete,
    path = "/user/profile",
    tag = "user",
    operation_id = "deleteProfile",
    responses(
        (status = 200, description = "It is gone, and none of its credentials is accepted any more", body = Deleted),
        (status = 409, description = "Nobody would be left to administer", body = ErrorResponse),
    )
)]
async fn delete(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    state.identity.delete_user(user).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &Deleted::new(user, "user")))
}
