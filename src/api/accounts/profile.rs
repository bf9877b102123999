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

/// The user of this credential.
#[derive(Debug, Serialize, ToSchema)]
pub struct Profile {
    #[serde(flatten)]
    user: User,
    /// The permissions of the credential. A session may manage keys, sessions and the account without `keys`
    /// among them.
    permissions: Vec<&'static str>,
}

/// The fields that can be changed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Ann"}))]
pub struct ProfileUpdate {
    /// A new name.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
}

/// Retrieve the caller's account.
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

/// Change the caller's name.
#[utoipa::path(
    patch,
    path = "/user/profile",
    tag = "user",
    operation_id = "updateProfile",
    request_body = ProfileUpdate,
    responses(
        (status = 200, description = "The user", body = User),
        (status = 400, description = "The name is invalid", body = ErrorResponse),
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

/// Delete the caller's account with all data. This cannot be undone.
#[utoipa::path(
    delete,
    path = "/user/profile",
    tag = "user",
    operation_id = "deleteProfile",
    responses(
        (status = 200, description = "The account is deleted, and all of its credentials are invalid", body = Deleted),
        (status = 409, description = "No administrator would remain", body = ErrorResponse),
    )
)]
async fn delete(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    state.identity.delete_user(user).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &Deleted::new(user, "user")))
}
