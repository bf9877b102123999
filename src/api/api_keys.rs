//! `/user/api-keys`: one's own keys.

use http::StatusCode;
use jan_actors::identity::{KeyId, KeyUpdate};
use serde::{Deserialize, Deserializer};
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::account::{
    ApiKey, CreateApiKey, Deleted, Limits, List, NewApiKey, PermissionName, now, permissions,
};
use super::{AppState, into_response, name_ignored, private, read, user_of, with};
use crate::http::body::request;
use crate::http::error::ErrorResponse;
use crate::http::routes::{api_v1, get_or_head, other_methods, other_methods_of};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/user/api-keys` and everything below.
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let all = api_v1().and(warp::path!("user" / "api-keys"));
    let one = api_v1().and(warp::path!("user" / "api-keys" / String));
    all.and(get_or_head())
        .and(with(state))
        .and(warp::ext::get())
        .then(async |state, context| into_response(list(state, context).await))
        .or(all
            .and(warp::post())
            .and(with(state))
            .and(request())
            .then(async |state, request| into_response(create(state, request).await)))
        .unify()
        .or(other_methods(all, "GET, HEAD, POST, OPTIONS"))
        .unify()
        .or(one
            .and(get_or_head())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |id, state, context| into_response(retrieve(id, state, context).await)))
        .unify()
        .or(one
            .and(warp::patch())
            .and(with(state))
            .and(request())
            .then(async |id, state, request| into_response(update(id, state, request).await)))
        .unify()
        .or(one
            .and(warp::delete())
            .and(with(state))
            .and(warp::ext::get())
            .then(async |id, state, context| into_response(revoke(id, state, context).await)))
        .unify()
        .or(other_methods_of(one, "GET, HEAD, PATCH, DELETE, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(
    paths(list, create, retrieve, update, revoke),
    components(schemas(ApiKey, NewApiKey, CreateApiKey, UpdateApiKey, PermissionName, List<ApiKey>, Limits, Deleted))
)]
pub struct Doc;

/// What to change about a key. What is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Production Key"}))]
pub struct UpdateApiKey {
    /// A new name.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// All that it grants, of what the caller has.
    #[schema(value_type = Option<Vec<PermissionName>>, min_items = 1)]
    permissions: Option<Vec<String>>,
    /// Unix seconds from when on it is refused; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    expires_at: Option<Option<u64>>,
    /// All its own limits.
    limits: Option<Limits>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A key's id. What is none names no key.
fn parse(id: &str) -> Result<KeyId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("API key", id))
}

/// One's keys.
#[utoipa::path(
    get,
    path = "/user/api-keys",
    tag = "user",
    operation_id = "listApiKeys",
    responses((status = 200, description = "The keys that are not revoked, oldest first", body = List<ApiKey>))
)]
async fn list(state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let keys = state.identity.keys(user_of(&context)?).await.map_err(ApiError::from_identity)?;
    let keys = keys.into_iter().map(ApiKey::from).collect();
    Ok(private(StatusCode::OK, &List::new(keys, false)))
}

/// Make a key. The answer is the only place where it can be read.
#[utoipa::path(
    post,
    path = "/user/api-keys",
    tag = "user",
    operation_id = "createApiKey",
    request_body = CreateApiKey,
    responses(
        (status = 201, description = "The key", body = NewApiKey),
        (status = 400, description = "A field is missing or wrong, or there are too many keys", body = ErrorResponse),
        (status = 403, description = "It would grant what the caller does not have", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, maker) = (user_of(&request.context)?, request.context.caller.principal.permissions);
    let parsed = read::<CreateApiKey>(request).await?;
    let key = parsed.value.check(now())?;
    let created = state.identity.create_key(user, maker, key).await.map_err(ApiError::from_identity)?;
    let mut response = private(StatusCode::CREATED, &NewApiKey::from(created));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// One key.
#[utoipa::path(
    get,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "retrieveApiKey",
    params(("id" = String, Path, description = "The key's id, `key_…`")),
    responses(
        (status = 200, description = "The key, without the key itself", body = ApiKey),
        (status = 404, description = "There is no such key", body = ErrorResponse),
    )
)]
async fn retrieve(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, key) = (user_of(&context)?, parse(&id)?);
    let key = state.identity.key(user, key).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &ApiKey::from(key)))
}

/// Change a key.
#[utoipa::path(
    patch,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "updateApiKey",
    params(("id" = String, Path, description = "The key's id, `key_…`")),
    request_body = UpdateApiKey,
    responses(
        (status = 200, description = "The key, without the key itself", body = ApiKey),
        (status = 400, description = "A field is wrong", body = ErrorResponse),
        (status = 403, description = "It would grant what the caller does not have", body = ErrorResponse),
        (status = 404, description = "There is no such key", body = ErrorResponse),
    )
)]
async fn update(id: String, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, maker) = (user_of(&request.context)?, request.context.caller.principal.permissions);
    let key = parse(&id)?;
    let parsed = read::<UpdateApiKey>(request).await?;
    let update = KeyUpdate {
        name: parsed.value.name,
        permissions: parsed.value.permissions.as_deref().map(permissions).transpose()?,
        expires_at: parsed.value.expires_at,
        limits: parsed.value.limits.map(Into::into),
    };
    let key = state.identity.update_key(user, key, maker, update).await.map_err(ApiError::from_identity)?;
    let mut response = private(StatusCode::OK, &ApiKey::from(key));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Revoke a key. It is refused from the next request on.
#[utoipa::path(
    delete,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "revokeApiKey",
    params(("id" = String, Path, description = "The key's id, `key_…`")),
    responses(
        (status = 200, description = "It is revoked", body = Deleted),
        (status = 404, description = "There is no such key", body = ErrorResponse),
    )
)]
async fn revoke(id: String, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, key) = (user_of(&context)?, parse(&id)?);
    state.identity.revoke_key(user, key).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &Deleted::new(key, "api_key")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_absent() {
        let read = |text| serde_json::from_str::<UpdateApiKey>(text).unwrap().expires_at;
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"expires_at": null}"#), Some(None));
        assert_eq!(read(r#"{"expires_at": 7}"#), Some(Some(7)));
    }
}
