//! Probes: `/health` and `/livez` say that the process answers, `/readyz` that a model does.

use std::time::Duration;

use serde::Serialize;
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::{
    respond::{into_response, json},
    state::{AppState, with},
    status,
};
use crate::http::error::ErrorResponse;
use crate::http::routes::{EVERYWHERE, ROOT, at, get_or_head, other_methods};
use crate::http::{ApiError, Response};

const ALLOW: &str = "GET, HEAD, OPTIONS";

/// `/health` (also under the API's prefixes), `/livez` and `/readyz`
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let alive = at(EVERYWHERE, "health");
    let live = at(ROOT, "livez");
    let ready = at(ROOT, "readyz");
    alive
        .and(get_or_head())
        .map(health)
        .or(other_methods(alive, ALLOW))
        .unify()
        .or(live.and(get_or_head()).map(livez))
        .unify()
        .or(other_methods(live, ALLOW))
        .unify()
        .or(ready
            .and(get_or_head())
            .and(with(state))
            .then(async |state| into_response(readyz(state).await))
            .boxed())
        .unify()
        .or(other_methods(ready, ALLOW))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(paths(health, livez, readyz), components(schemas(Health)))]
pub struct Doc;

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Now, RFC 3339 in UTC, in whole seconds.
    #[schema(example = "2024-01-01T12:00:00Z")]
    timestamp: String,
}

/// Liveness of the process. Independent of the models.
#[utoipa::path(
    get,
    path = "/health",
    tag = "status",
    operation_id = "getHealth",
    responses((status = 200, description = "The process is alive", body = Health))
)]
fn health() -> Response {
    let now = jiff::Timestamp::now();
    json(&Health { status: "ok", timestamp: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() })
}

/// Liveness, under the name that orchestrators use.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "status",
    operation_id = "getLiveness",
    responses((status = 200, description = "The process is alive", body = Health))
)]
fn livez() -> Response {
    health()
}

/// Readiness: a model can answer now, because its worker runs and keeps up with preparing requests.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "status",
    operation_id = "getReadiness",
    responses(
        (status = 200, description = "A model can answer", body = Health),
        (status = 503, description = "No model can answer, or the server is stopping", body = ErrorResponse),
    )
)]
async fn readyz(state: AppState) -> Result<Response, ApiError> {
    if state.lifecycle.draining.is_cancelled() {
        return Err(ApiError::shutting_down());
    }
    if !status::can_answer(&state).await {
        let message = "No model can answer now; GET /v1/models says why.";
        return Err(ApiError::unavailable("not_ready", message, Duration::from_secs(1)));
    }
    Ok(health())
}
