//! Wire types that account resources share: users, keys, limits, lists.

use http::StatusCode;
use jan_actors::identity::{
    ApiKeyRecord, CreatedKey, CredentialId, IdentityError, MAX_ENTRIES, Maker, Network, NewKey, Origin,
    Permission, Permissions, Principal, Restrictions, Right, UserId, UserKind, UserRecord,
};
use jan_actors::limits::LimitOverrides;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::inference::bounds::{self, MAX_WORDS};
use crate::api::{
    respond::{parse_query, private},
    state::AppState,
};
use crate::auth::note;
use crate::http::{ApiError, Response};

/// Maximum lifetime of a key, in days.
const MAX_EXPIRY_DAYS: i64 = 3650;
const DAY: u64 = 86_400;
/// Maximum length of a model id in a key's list, in characters.
const MAX_MODEL_ID: usize = 256;

/// A list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// Always `list`.
    object: &'static str,
    /// The entries.
    data: Vec<T>,
    /// True if there are more.
    has_more: bool,
}

impl<T> List<T> {
    /// Creates a list with a part of the entries, or all of them.
    pub fn new(data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", data, has_more }
    }
}

/// A deleted object.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Its id.
    id: String,
    /// Its type.
    object: &'static str,
    /// Always true.
    deleted: bool,
}

impl Deleted {
    /// Creates the object of a deletion; `object` is its type.
    pub fn new(id: impl ToString, object: &'static str) -> Self {
        Self { id: id.to_string(), object, deleted: true }
    }
}

/// The type of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = UserRole)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An account without an identity; becomes a member by signing in.
    Guest,
    /// Signed in, or created by an administrator.
    Member,
    /// Has all permissions.
    Admin,
}

impl From<UserKind> for Role {
    fn from(kind: UserKind) -> Self {
        match kind {
            UserKind::Guest => Self::Guest,
            UserKind::Member => Self::Member,
            UserKind::Admin => Self::Admin,
        }
    }
}

impl From<Role> for UserKind {
    fn from(role: Role) -> Self {
        match role {
            Role::Guest => Self::Guest,
            Role::Member => Self::Member,
            Role::Admin => Self::Admin,
        }
    }
}

/// Limits that replace the server's settings. Absent or null: the server's settings; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Requests per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_hour: Option<u32>,
    /// Chat and text completions per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_per_minute: Option<u32>,
    /// Answers per minute, prompts times `n` or `best_of`. Absent: ten times `inference_per_minute`, if that
    /// is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers_per_minute: Option<u32>,
    /// Tokens per minute, prompts and answers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_minute: Option<u32>,
    /// Concurrent streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrent_streams: Option<u32>,
}

impl From<LimitOverrides> for Limits {
    fn from(limits: LimitOverrides) -> Self {
        Self {
            requests_per_hour: limits.requests_per_hour,
            inference_per_minute: limits.inference_per_minute,
            answers_per_minute: limits.answers_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            concurrent_streams: limits.concurrent_streams,
        }
    }
}

impl From<Limits> for LimitOverrides {
    fn from(limits: Limits) -> Self {
        Self {
            requests_per_hour: limits.requests_per_hour,
            inference_per_minute: limits.inference_per_minute,
            answers_per_minute: limits.answers_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            concurrent_streams: limits.concurrent_streams,
        }
    }
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct User {
    /// The user's id.
    #[schema(example = "user_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `user`.
    object: &'static str,
    /// Null for a guest.
    email: Option<String>,
    /// A display name.
    name: String,
    /// A picture's URL.
    picture: Option<String>,
    /// The type of a user.
    role: Role,
    /// Unix seconds.
    created_at: u64,
    /// True if the user's credentials are rejected.
    disabled: bool,
    /// The user's own limits.
    limits: Limits,
}

impl From<UserRecord> for User {
    fn from(user: UserRecord) -> Self {
        Self {
            id: user.id.to_string(),
            object: "user",
            email: user.email,
            name: user.name,
            picture: user.picture,
            role: user.kind.into(),
            created_at: user.created_at,
            disabled: user.disabled,
            limits: user.limits.into(),
        }
    }
}

/// An API key, without the key itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    #[schema(example = "key_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `api_key`.
    object: &'static str,
    /// A display name.
    name: String,
    /// The key's first and last characters.
    #[schema(example = "sk-jan-…x7Qk")]
    hint: String,
    /// The granted permissions.
    #[schema(value_type = Vec<PermissionName>)]
    permissions: Vec<&'static str>,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds; up to a minute late.
    last_used_at: Option<u64>,
    /// Unix seconds; null: never.
    expires_at: Option<u64>,
    /// Limits of this key, in addition to its user's.
    limits: Limits,
    /// The models that the key permits; null: any.
    models: Option<Vec<String>>,
    /// The addresses and networks that the key permits; null: any.
    addresses: Option<Vec<String>>,
    /// The key of the same user that created it; this key has at most its permissions and ends with it.
    #[schema(example = json!(null))]
    parent: Option<String>,
    /// The key or session with which an administrator created it.
    #[schema(example = json!(null))]
    made_by: Option<String>,
}

impl From<ApiKeyRecord> for ApiKey {
    fn from(key: ApiKeyRecord) -> Self {
        Self {
            id: key.id.to_string(),
            object: "api_key",
            name: key.name,
            hint: key.hint,
            permissions: key.permissions.iter().map(Permission::name).collect(),
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            limits: key.limits.into(),
            models: key.only.models,
            addresses: key.only.addresses.map(|all| all.iter().map(ToString::to_string).collect()),
            parent: key.parent.map(|parent| parent.to_string()),
            made_by: key.made_by.last().map(|origin| origin.with.to_string()),
        }
    }
}

/// A newly created API key.
#[derive(Serialize, ToSchema)]
pub struct NewApiKey {
    #[serde(flatten)]
    record: ApiKey,
    /// The key itself. It is returned only once; the server stores a hash.
    #[schema(example = "sk-jan-…")]
    key: String,
}

impl From<CreatedKey> for NewApiKey {
    fn from(created: CreatedKey) -> Self {
        Self { record: created.record.into(), key: created.secret.reveal().to_owned() }
    }
}

/// The permissions of a credential.
#[derive(ToSchema)]
#[schema(as = Permission)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes what permissions() reads")]
pub enum PermissionName {
    /// Read everything of one's own account.
    Read,
    /// Inference, embeddings, responses, conversations, one's own name.
    Write,
    /// Manage one's keys, sessions and account.
    Keys,
    /// Administer the server.
    Admin,
    /// The part of `read` and `write` that concerns inference: models, answers, responses, embeddings.
    Inference,
    /// The part of `read` and `write` that concerns conversations.
    Conversations,
    /// The part of `read` that concerns one's own usage.
    Usage,
}

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Development Key", "permissions": ["read", "write"], "expires_in_days": 90}))]
pub struct CreateApiKey {
    /// A display name.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// The permissions to grant, among those of the creator.
    #[schema(value_type = Vec<PermissionName>, min_items = 1)]
    permissions: Vec<String>,
    /// Days until it expires. Absent: never, or with the key that creates it.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
    /// Limits of this key, in addition to its user's.
    limits: Option<Limits>,
    /// The models that the key permits, by id or alias. Absent or null: any.
    #[schema(min_items = 1, max_items = 64)]
    models: Option<Vec<String>>,
    /// The addresses and networks (CIDR) that the key permits. Absent or null: any.
    #[schema(min_items = 1, max_items = 64, example = json!(["192.0.2.7", "10.0.0.0/8"]))]
    addresses: Option<Vec<String>>,
}

impl CreateApiKey {
    /// Checks the fields and returns the key for the actors.
    pub fn check(self, now: u64) -> Result<NewKey, ApiError> {
        Ok(NewKey {
            name: self.name,
            permissions: permissions(&self.permissions)?,
            expires_at: self.expires_in_days.map(|days| expires_at(days, now)).transpose()?,
            limits: self.limits.unwrap_or_default().into(),
            only: Restrictions {
                models: self.models.map(models).transpose()?,
                addresses: self.addresses.map(|addresses| networks(&addresses)).transpose()?,
            },
        })
    }
}

/// Creates a key with the caller's credential.
pub async fn create_key(
    state: &AppState,
    user: UserId,
    caller: &Principal,
    key: NewKey,
) -> Result<CreatedKey, ApiError> {
    let created = state.identity.create_key(user, caller, key).await;
    created.map_err(|error| {
        let error = ApiError::from_identity(error);
        // The request states the expiry in days.
        if error.param() == Some("expires_at") { error.with_param("expires_in_days") } else { error }
    })
}

/// Parses the query of a request that ends a credential; returns whether derived credentials end as well.
pub fn cascade(query: &str) -> Result<bool, ApiError> {
    #[derive(Default, Deserialize)]
    struct Query {
        cascade: Option<String>,
    }
    let query: Query = parse_query(query)?;
    match query.cascade.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::invalid_value("cascade", "'cascade' must be `true` or `false`.")),
    }
}

/// Ends a key or a session and, with `cascade`, everything derived from it: of all users for an administrator, of the
/// same user for others. The caller's own credential is spared, so that callers cannot lock themselves out. A
/// credential that has already ended is not an error with `cascade`: those derived from it end now.
pub async fn end(
    state: &AppState,
    origin: Origin,
    cascade: bool,
    caller: &Principal,
) -> Result<(), ApiError> {
    let ended = match origin.with {
        CredentialId::Key(key) => state.identity.revoke_key(origin.user, key).await,
        CredentialId::Session(session) => state.identity.revoke_session(origin.user, session).await,
    };
    if !cascade || !matches!(ended, Ok(()) | Err(IdentityError::NotFound { .. })) {
        return ended.map_err(ApiError::from_identity);
    }
    let only = if caller.may(Right::Administer) { None } else { Some(origin.user) };
    let asking = Maker::from(caller).with;
    let came_of_it = state.identity.end_made_by(origin, asking, only).await;
    let came_of_it = came_of_it.map_err(ApiError::from_identity)?;
    if came_of_it > 0 { Ok(()) } else { ended.map_err(ApiError::from_identity) }
}

/// Returns the response to such a request.
pub fn ended(deleted: Deleted, cascade: bool) -> Response {
    let mut response = private(StatusCode::OK, &deleted);
    if cascade {
        note(&mut response, |noted| noted.fields = vec!["cascade"]);
    }
    response
}

/// Returns the response to a request that created a key.
pub fn created(key: CreatedKey) -> Response {
    let (user, id) = (key.record.user, key.record.id);
    let mut response = private(StatusCode::CREATED, &NewApiKey::from(key));
    note(&mut response, |noted| {
        noted.user = Some(user);
        noted.target = Some(id.to_string());
    });
    response
}

/// Checks a list of models' ids. The existence of the models is checked by the requests that use them.
pub fn models(ids: Vec<String>) -> Result<Vec<String>, ApiError> {
    check_count("models", ids.len())?;
    let wrong = |id: &String| id.trim().is_empty() || id.chars().count() > MAX_MODEL_ID;
    if let Some(at) = ids.iter().position(wrong) {
        let param = format!("models[{at}]");
        let message = format!("'{param}' must be a model's id of 1 to {MAX_MODEL_ID} characters.");
        return Err(ApiError::invalid_value(param, message));
    }
    Ok(ids)
}

/// Parses a list of addresses and networks.
pub fn networks(texts: &[String]) -> Result<Vec<Network>, ApiError> {
    check_count("addresses", texts.len())?;
    let read = |(at, text): (usize, &String)| {
        text.parse().map_err(|error| {
            let param = format!("addresses[{at}]");
            ApiError::invalid_value(param.clone(), format!("'{param}' is {error}."))
        })
    };
    texts.iter().enumerate().map(read).collect()
}

fn check_count(field: &'static str, count: usize) -> Result<(), ApiError> {
    if (1..=MAX_ENTRIES).contains(&count) {
        return Ok(());
    }
    let message = format!("'{field}' must have 1 to {MAX_ENTRIES} entries, or be null for any.");
    Err(ApiError::invalid_value(field, message))
}

/// Parses a set of permissions from their names.
pub fn permissions(names: &[String]) -> Result<Permissions, ApiError> {
    if names.is_empty() {
        let message = format!("'permissions' must name at least one of {}.", Permission::names());
        return Err(ApiError::invalid_value("permissions", message));
    }
    bounds::entries("permissions", names.len(), MAX_WORDS)?;
    let find = |(index, name): (usize, &String)| {
        Permission::from_name(name).ok_or_else(|| {
            let param = format!("permissions[{index}]");
            let allowed = Permission::names();
            let message = format!("Invalid value for '{param}': {name:?}; allowed are {allowed}.");
            ApiError::invalid_value(param, message)
        })
    };
    names.iter().enumerate().map(find).collect()
}

/// Returns the time in `days` days, in Unix seconds.
pub fn expires_at(days: i64, now: u64) -> Result<u64, ApiError> {
    match u64::try_from(days) {
        Ok(days @ 1..) if days <= MAX_EXPIRY_DAYS.unsigned_abs() => Ok(now + days * DAY),
        _ => Err(ApiError::invalid_value(
            "expires_in_days",
            format!("'expires_in_days' must be an integer from 1 to {MAX_EXPIRY_DAYS}, not {days}."),
        )),
    }
}

/// Returns the current time in Unix seconds.
pub fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create(body: serde_json::Value) -> Result<NewKey, ApiError> {
        serde_json::from_value::<CreateApiKey>(body).unwrap().check(1000)
    }

    #[test]
    fn keys_are_checked() {
        let key =
            create(json!({"name": "n", "permissions": ["write", "read"], "expires_in_days": 2})).unwrap();
        assert_eq!((key.permissions, key.expires_at), (Permissions::READ_WRITE, Some(1000 + 2 * DAY)));
        for (body, param) in [
            (json!({"name": "n", "permissions": []}), "permissions"),
            (json!({"name": "n", "permissions": ["read", "root"]}), "permissions[1]"),
            (json!({"name": "n", "permissions": ["read"], "expires_in_days": 0}), "expires_in_days"),
            (json!({"name": "n", "permissions": ["read"], "expires_in_days": -1}), "expires_in_days"),
            (json!({"name": "n", "permissions": ["read"], "expires_in_days": i64::MAX}), "expires_in_days"),
        ] {
            assert_eq!(create(body.clone()).unwrap_err().param(), Some(param), "{body}");
        }
    }
}
