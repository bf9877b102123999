//! `/admin/users`: administration of users.

use http::StatusCode;
use jan_actors::identity::{Right, UserId, UserUpdate};
use serde::Deserialize;
use utoipa::ToSchema;

use super::types::{Deleted, Limits, List, Role, User};
use crate::api::{
    respond::{name_ignored, parse_query, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::auth::note;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, Response};

/// Default number of users on a page.
const PAGE: usize = 20;
/// Maximum number of users on a page.
const MAX_PAGE: usize = 100;

/// `/admin/users` and `/admin/users/{id}`
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::Administer)),
        route!(create, Place::Api, Access::Needs(Right::Administer)).audited("user.create"),
        route!(retrieve, Place::Api, Access::Needs(Right::Administer)),
        route!(update, Place::Api, Access::Needs(Right::Administer)).audited("user.update"),
        route!(delete, Place::Api, Access::Needs(Right::Administer)).audited("user.delete"),
    ]
}

/// A user to create.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"email": "ann@corp.example", "name": "Ann"}))]
pub struct CreateUser {
    /// Unique among all users.
    #[schema(format = "email", max_length = 254)]
    email: String,
    /// A display name.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
}

/// Changes to a user. Absent fields are unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"disabled": true}))]
pub struct UpdateUser {
    /// A new name.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Reject all credentials of the user from the next request on, or accept them again.
    disabled: Option<bool>,
    /// All of this user's own limits.
    limits: Option<Limits>,
    /// Another role.
    role: Option<Role>,
}

#[derive(Debug, Default, Deserialize)]
struct PageQuery {
    after: Option<String>,
    limit: Option<String>,
}

/// Parses a user's id. A malformed one is reported as not found.
pub fn parse(id: &str) -> Result<UserId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("user", id))
}

/// List users.
#[utoipa::path(
    get,
    path = "/admin/users",
    tag = "admin",
    operation_id = "listUsers",
    params(
        ("after" = Option<String>, Query, description = "The id of the last user of the previous page"),
        ("limit" = Option<u32>, Query, description = "1 to 100, default 20", minimum = 1, maximum = 100),
    ),
    responses((status = 200, description = "Users, oldest first", body = List<User>))
)]
async fn list(state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query: PageQuery = parse_query(&query)?;
    let limit = match query.limit.as_deref().map(str::parse) {
        None => PAGE,
        Some(Ok(limit @ 1..=MAX_PAGE)) => limit,
        Some(_) => {
            let message = format!("'limit' must be an integer from 1 to {MAX_PAGE}.");
            return Err(ApiError::invalid_value("limit", message));
        }
    };
    let after = query.after.as_deref().map(|id| {
        id.parse().map_err(|_| ApiError::invalid_value("after", "'after' must be a user's id, `user_…`."))
    });
    let page = state.identity.users(after.transpose()?, limit).await.map_err(ApiError::from_identity)?;
    let users = page.items.into_iter().map(User::from).collect();
    Ok(private(StatusCode::OK, &List::new(users, page.has_more)))
}

/// Create a user. A sign-in with that email address at the provider takes over the account.
#[utoipa::path(
    post,
    path = "/admin/users",
    tag = "admin",
    operation_id = "createUser",
    request_body = CreateUser,
    responses(
        (status = 201, description = "The user", body = User),
        (status = 400, description = "A field is missing or invalid", body = ErrorResponse),
        (status = 409, description = "Another user has that email address", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    user_of(&request.context)?;
    let parsed = read::<CreateUser>(request).await?;
    let CreateUser { email, name } = parsed.value;
    let user = state.identity.create_user(&email, &name).await.map_err(ApiError::from_identity)?;
    let id = user.id;
    let mut response = private(StatusCode::CREATED, &User::from(user));
    note(&mut response, |noted| noted.user = Some(id));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Retrieve a user.
#[utoipa::path(
    get,
    path = "/admin/users/{id}",
    tag = "admin",
    operation_id = "retrieveUser",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    responses(
        (status = 200, description = "The user", body = User),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn retrieve(Id(id): Id, state: AppState) -> Result<Response, ApiError> {
    let user = state.identity.user(parse(&id)?).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &User::from(user)))
}

/// Change a user.
#[utoipa::path(
    patch,
    path = "/admin/users/{id}",
    tag = "admin",
    operation_id = "updateUser",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    request_body = UpdateUser,
    responses(
        (status = 200, description = "The user", body = User),
        (status = 400, description = "A field is invalid", body = ErrorResponse),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
        (status = 409, description = "No administrator would remain", body = ErrorResponse),
    )
)]
async fn update(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let user = parse(&id)?;
    let parsed = read::<UpdateUser>(request).await?;
    let update = UserUpdate {
        name: parsed.value.name,
        disabled: parsed.value.disabled,
        limits: parsed.value.limits.map(Into::into),
        kind: parsed.value.role.map(Into::into),
    };
    let disabled = update.disabled;
    let fields = [
        ("name", update.name.is_some()),
        ("role", update.kind.is_some()),
        ("disabled", disabled.is_some()),
        ("limits", update.limits.is_some()),
    ];
    let user = state.identity.update_user(user, update).await.map_err(ApiError::from_identity)?;
    let mut response = private(StatusCode::OK, &User::from(user));
    note(&mut response, |noted| noted.changed(&fields, "user.update", disabled));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Delete a user with all data. This cannot be undone.
#[utoipa::path(
    delete,
    path = "/admin/users/{id}",
    tag = "admin",
    operation_id = "deleteUser",
    params(("id" = String, Path, description = "The user's id, `user_…`")),
    responses(
        (status = 200, description = "The user is deleted", body = Deleted),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
        (status = 409, description = "No administrator would remain", body = ErrorResponse),
    )
)]
async fn delete(Id(id): Id, state: AppState) -> Result<Response, ApiError> {
    let user = parse(&id)?;
    state.identity.delete_user(user).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &Deleted::new(user, "user")))
}
