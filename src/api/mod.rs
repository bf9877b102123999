//! The API: one file a resource, with its routes, handlers, wire types and description.

mod chat;
mod chat_request;
mod choices;
mod completions;
mod docs;
mod health;
mod logprobs;
mod models;
mod params;
mod prompt;
mod status;
mod streaming;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;

use http::HeaderValue;
use jan_actors::model::Models;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply};

use crate::config::HttpConfig;
use crate::http::{ApiError, Lifecycle, Response, routes as http_routes};

/// What handlers work with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppState {
    /// The door to the models.
    pub models: Models,
    /// How far the server is from start to stop.
    pub lifecycle: Lifecycle,
    /// Limits and timeouts.
    pub config: Arc<HttpConfig>,
}

impl AppState {
    /// The state of a server that has just started.
    #[must_use]
    pub fn new(models: Models, config: HttpConfig) -> Self {
        Self { models, lifecycle: Lifecycle::default(), config: Arc::new(config) }
    }
}

/// Every route, 404 for the rest included.
#[must_use]
pub fn routes(state: AppState) -> BoxedFilter<(Response,)> {
    health::routes(&state)
        .or(chat::routes(&state))
        .unify()
        .or(completions::routes(&state))
        .unify()
        .or(models::routes(&state))
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
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Names the fields that were ignored, so that a misspelt one is noticed.
fn name_ignored(response: &mut Response, ignored: &[String]) {
    if !ignored.is_empty() {
        let names = HeaderValue::from_str(&ignored.join(", ")).expect("the names are printable ASCII");
        response.headers_mut().insert("x-ignored-fields", names);
    }
}
