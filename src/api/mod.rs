//! The API: a folder or a file for each resource, with its routes, handlers, wire types and description.

mod accounts;
mod audit;
mod backup;
mod chat;
mod completions;
mod conversations;
mod embeddings;
#[cfg(test)]
#[path = "../../tests/fuzz/server.rs"]
mod fuzz;
mod health;
mod inference;
mod models;
mod openapi;
mod respond;
mod responses;
pub mod state;
mod status;
mod tokenize;
mod usage;

use warp::Filter;
use warp::filters::BoxedFilter;

pub use self::openapi::PAGE as SWAGGER_PAGE;
use self::state::AppState;
use crate::http::{Response, routes as http_routes};

/// Every route, 404 for the rest included.
#[must_use]
pub fn routes(state: AppState) -> BoxedFilter<(Response,)> {
    health::routes(&state)
        .or(chat::routes(&state))
        .unify()
        .or(accounts::profile::routes(&state))
        .unify()
        .or(accounts::api_keys::routes(&state))
        .unify()
        .or(accounts::sessions::routes(&state))
        .unify()
        .or(accounts::google::routes(&state))
        .unify()
        .or(accounts::users::routes(&state))
        .unify()
        .or(conversations::shares::routes(&state))
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
        .or(openapi::routes())
        .unify()
        .or(http_routes::not_found())
        .unify()
        .boxed()
}
