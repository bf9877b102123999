//! `/user/api-keys`: the caller's own keys.

use http::StatusCode;
use jan_actors::identity::{CredentialId, KeyId, KeyUpdate, Origin, Right};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::types::{
    ApiKey, CreateApiKey, Deleted, Limits, List, NewApiKey, PermissionName, cascade, create_key, created,
    end, ended, models, networks, now, permissions,
};
use crate::api::{
    respond::{name_ignored, private, read, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::auth::note;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// `/user/api-keys` and everything below.
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::ReadKeys)),
        route!(create, Place::Api, Access::Needs(Right::ManageKeys)).audited("key.create"),
        route!(retrieve, Place::Api, Access::Needs(Right::ReadKeys)),
        route!(update, Place::Api, Access::Needs(Right::ManageKeys)).audited("key.update"),
        route!(revoke, Place::Api, Access::Needs(Right::ManageKeys)).audited("key.revoke"),
    ]
}

/// Changes to a key. Absent fields are unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Production Key"}))]
pub struct UpdateApiKey {
    /// A new name.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// All of its permissions, among those of the caller.
    #[schema(value_type = Option<Vec<PermissionName>>, min_items = 1)]
    permissions: Option<Vec<String>>,
    /// Unix seconds of its expiry; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    expires_at: Option<Option<u64>>,
    /// All of its own limits.
    limits: Option<Limits>,
    /// All models that the key permits; null: any.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 64)]
    models: Option<Option<Vec<String>>>,
    /// All addresses and networks (CIDR) that the key permits; null: any.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 64)]
    addresses: Option<Option<Vec<String>>>,
}

/// Distinguishes null from an absent field.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Parses a key's id. A malformed one is reported as not found.
fn parse(id: &str) -> Result<KeyId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("API key", id))
}

/// List the caller's keys.
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

/// Create a key. The response is the only place that contains the key itself.
///
/// Requires a session or a key with `keys`. A key created with a key is its child: it has at most its
/// permissions, expiry and limits, counts against its limits, and ends with it.
#[utoipa::path(
    post,
    path = "/user/api-keys",
    tag = "user",
    operation_id = "createApiKey",
    request_body = CreateApiKey,
    responses(
        (status = 201, description = "The key", body = NewApiKey),
        (status = 400, description = "A field is missing or invalid, or there are too many keys", body = ErrorResponse),
        (status = 403, description = "The request exceeds the caller's permissions", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, caller) = (user_of(&request.context)?, request.context.caller.principal);
    let parsed = read::<CreateApiKey>(request).await?;
    let key = parsed.value.check(now())?;
    let mut response = created(create_key(&state, user, &caller, key).await?);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Retrieve a key.
#[utoipa::path(
    get,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "retrieveApiKey",
    params(("id" = String, Path, description = "The key's id, `key_…`")),
    responses(
        (status = 200, description = "The key, without the key itself", body = ApiKey),
        (status = 404, description = "The key does not exist", body = ErrorResponse),
    )
)]
async fn retrieve(Id(id): Id, state: AppState, context: RequestContext) -> Result<Response, ApiError> {
    let (user, key) = (user_of(&context)?, parse(&id)?);
    let key = state.identity.key(user, key).await.map_err(ApiError::from_identity)?;
    Ok(private(StatusCode::OK, &ApiKey::from(key)))
}

/// Change a key.
///
/// A caller with a key can only narrow that key and other keys, except those created with it.
#[utoipa::path(
    patch,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "updateApiKey",
    params(("id" = String, Path, description = "The key's id, `key_…`")),
    request_body = UpdateApiKey,
    responses(
        (status = 200, description = "The key, without the key itself", body = ApiKey),
        (status = 400, description = "A field is invalid", body = ErrorResponse),
        (status = 403, description = "The request exceeds the caller's permissions", body = ErrorResponse),
        (status = 404, description = "The key does not exist", body = ErrorResponse),
    )
)]
async fn update(Id(id): Id, state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let (user, caller) = (user_of(&request.context)?, request.context.caller.principal);
    let key = parse(&id)?;
    let parsed = read::<UpdateApiKey>(request).await?;
    let update = KeyUpdate {
        name: parsed.value.name,
        permissions: parsed.value.permissions.as_deref().map(permissions).transpose()?,
        expires_at: parsed.value.expires_at,
        limits: parsed.value.limits.map(Into::into),
        models: parsed.value.models.map(|ids| ids.map(models).transpose()).transpose()?,
        addresses: parsed.value.addresses.map(|all| all.as_deref().map(networks).transpose()).transpose()?,
    };
    let fields = [
        ("name", update.name.is_some()),
        ("permissions", update.permissions.is_some()),
        ("expires_at", update.expires_at.is_some()),
        ("limits", update.limits.is_some()),
        ("models", update.models.is_some()),
        ("addresses", update.addresses.is_some()),
    ];
    let key = state.identity.update_key(user, key, &caller, update).await.map_err(ApiError::from_identity)?;
    let mut response = private(StatusCode::OK, &ApiKey::from(key));
    note(&mut response, |noted| noted.changed(&fields, "key.update", None));
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Revoke a key. It is rejected from the next request on.
///
/// Keys created with it for the same user are revoked as well. Credentials that an administrator created with
/// it for other users, and sessions, remain valid, unless `cascade` is true, which also ends those derived
/// from a key that was revoked before.
#[utoipa::path(
    delete,
    path = "/user/api-keys/{id}",
    tag = "user",
    operation_id = "revokeApiKey",
    params(
        ("id" = String, Path, description = "The key's id, `key_…`"),
        ("cascade" = Option<bool>, Query, description = "End the keys and sessions derived from it as well"),
    ),
    responses(
        (status = 200, description = "The key is revoked", body = Deleted),
        (status = 404, description = "The key does not exist", body = ErrorResponse),
    )
)]
async fn revoke(
    Id(id): Id,
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (user, key) = (user_of(&context)?, parse(&id)?);
    let origin = Origin { user, with: CredentialId::Key(key) };
    end(&state, origin, cascade(&query)?, &context.caller.principal).await?;
    Ok(ended(Deleted::new(key, "api_key"), cascade(&query)?))
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
