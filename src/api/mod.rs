//! The API: one file a resource, with its routes, handlers, wire types and description.

mod account;
mod admin;
mod admin_credentials;
mod api_keys;
mod audit;
mod auth;
mod backup;
mod bounds;
mod chat;
mod chat_conversation;
mod chat_message;
mod chat_request;
mod chat_wire;
mod choices;
mod completions;
mod conversation_branches;
mod conversation_items;
mod conversation_wire;
mod conversations;
mod docs;
mod embeddings;
#[cfg(test)]
#[path = "../../tests/fuzz/server.rs"]
mod fuzz;
mod google;
mod health;
mod logprobs;
mod meter;
mod models;
mod params;
mod prompt;
mod responses;
mod shares;
mod status;
mod store_errors;
mod streaming;
mod structured;
mod thinking;
mod tokenize;
mod tools;
mod usage;
mod user;
mod web_search;
mod wire;

pub use self::docs::PAGE as SWAGGER_PAGE;

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jan_actors::audit::Audit;
use jan_actors::backup::Backup;
use jan_actors::conversations::Conversations;
use jan_actors::identity::{Identity, Right, UserId};
use jan_actors::limits::Limiter;
use jan_actors::model::Models;
use jan_actors::responses::Responses;
use jan_actors::usage::UsageLedger;
use jan_actors::web_search::WebSearch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply};

use crate::auth::OpenTo;
use crate::auth::gate::require;
use crate::auth::google::Google;
use crate::config::HttpConfig;
use crate::http::json::Parsed;
use crate::http::{ApiError, ApiRequest, Lifecycle, RequestContext, Response, routes as http_routes};

/// What handlers work with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppState {
    /// The door to the models.
    pub models: Models,
    /// The door to users, keys and sessions.
    pub identity: Identity,
    /// The door to the rate limits.
    pub limiter: Limiter,
    /// The door to exports and imports.
    pub backup: Backup,
    /// The door to the audit log.
    pub audit: Audit,
    /// The door to what has been used.
    pub usage: UsageLedger,
    /// The door to conversations.
    pub conversations: Conversations,
    /// The door to stored responses.
    pub responses: Responses,
    /// The door to searching the web.
    pub web_search: WebSearch,
    /// Signing in with Google.
    pub google: Arc<Google>,
    /// Callers who may become guests.
    pub guests: OpenTo,
    /// How far the server is from start to stop.
    pub lifecycle: Lifecycle,
    /// Limits and timeouts.
    pub config: Arc<HttpConfig>,
}

/// Every route, 404 for the rest included.
#[must_use]
pub fn routes(state: AppState) -> BoxedFilter<(Response,)> {
    health::routes(&state)
        .or(chat::routes(&state))
        .unify()
        .or(user::routes(&state))
        .unify()
        .or(api_keys::routes(&state))
        .unify()
        .or(auth::routes(&state))
        .unify()
        .or(google::routes(&state))
        .unify()
        .or(admin::routes(&state))
        .unify()
        .or(shares::routes(&state))
        .unify()
        .or(conversations::routes(&state))
        .unify()
        .or(completions::routes(&state))
        .unify()
        .or(embeddings::routes(&state))
        .unify()
        .or(responses::routes(&state))
        .unify()
        .or(tokenize::routes(&state))
        .unify()
        .or(models::routes(&state))
        .unify()
        .or(backup::routes(&state))
        .unify()
        .or(audit::routes(&state))
        .unify()
        .or(usage::routes(&state))
        .unify()
        .or(status::routes(&state))
        .unify()
        .or(docs::routes())
        .unify()
        .or(http_routes::not_found())
        .unify()
        .boxed()
}

fn with(state: &AppState) -> impl Filter<Extract = (AppState,), Error = Infallible> + Clone + use<> {
    let state = state.clone();
    warp::any().map(move || state.clone())
}

/// What `.then(handler)` is followed by.
fn into_response(result: Result<Response, ApiError>) -> Response {
    match result {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

fn json<T: Serialize>(value: &T) -> Response {
    let body = serde_json::to_vec(value).expect("wire types serialize");
    let mut response = http::Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same with another status, and for the caller's eyes alone: what is about accounts must stay in no cache
/// (RFC 6749 section 5.1).
fn private<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut response = json(value);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads a JSON body.
async fn read<T: DeserializeOwned + Send + 'static>(request: ApiRequest) -> Result<Parsed<T>, ApiError> {
    request.read(&[], Ok).await
}

/// Reads a query, in which each parameter stands at most once.
fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    let message = "The query cannot be read, or names a parameter twice.";
    serde_urlencoded::from_str(query).map_err(|_| ApiError::bad_request("invalid_query", message))
}

/// The user whose credential the request carries. The edge lets nobody else through to where this is asked; that it
/// is asked again is the second lock on the door.
fn user_of(context: &RequestContext) -> Result<UserId, ApiError> {
    context.caller.principal.user().ok_or_else(ApiError::credential_required)
}

/// Fails where the caller's key, or one that it was made with, may not be used for a model, by whichever of its names.
///
/// A model that does not exist is for whoever looks for it.
async fn check_model(state: &AppState, context: &RequestContext, model: &str) -> Result<(), ApiError> {
    for list in state.identity.model_lists(&context.caller.principal) {
        if !is_among(state, model, &list).await {
            return Err(ApiError::model_not_allowed(model));
        }
    }
    Ok(())
}

/// Whether a model, by its id or an alias, is one of a list.
async fn is_among(state: &AppState, model: &str, list: &[String]) -> bool {
    if list.iter().any(|listed| listed == model) {
        return true;
    }
    let Some(described) = state.models.describe(model).await else { return true };
    for listed in list {
        if state.models.describe(listed).await.is_some_and(|listed| listed.root == described.root) {
            return true;
        }
    }
    false
}

/// Fails where a caller who is somebody may not use conversations: they are more than inference.
fn check_conversations(context: &RequestContext) -> Result<(), ApiError> {
    let principal = &context.caller.principal;
    match principal.user() {
        Some(_) => require(principal, Right::WriteConversations),
        None => Ok(()),
    }
}

/// Names the fields that were ignored, so that a misspelt one is noticed.
fn name_ignored(response: &mut Response, ignored: &[String]) {
    if !ignored.is_empty() {
        let names = HeaderValue::from_str(&ignored.join(", ")).expect("the names are printable ASCII");
        response.headers_mut().insert("x-ignored-fields", names);
    }
}
