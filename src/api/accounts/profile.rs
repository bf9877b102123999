//! `/user/profile`: the caller's account.

use http::StatusCode;
use jan_actors::identity::{Permission, Right, UserUpdate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::types::{Deleted, User};
use crate::api::{
    respond::{name_ignored, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::auth::note;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/user/profile`
pub fn routes() -> Vec<Route> {
    vec![
        route!(profile, Place::Api, Access::Needs(Right::ReadAccount)),
        route!(update, Place::Api, Access::Needs(Right::WriteAccount)).audited("user.update"),
        route!(delete, Place::Api, Access::Needs(Right::ManageKeys)).audited("user.delete"),
    ]
}

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
