//! Probes: `/health` and `/livez` report that the process responds, `/readyz` that a model can answer.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    respond::json,
    state::{AppState, Route},
    status,
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, route};
use crate::http::{ApiError, Response};

/// `/health` (also under the API's prefixes), `/livez` and `/readyz`
pub fn routes() -> Vec<Route> {
    vec![
        route!(health, Place::RootAndApi, Access::Probe),
        route!(livez, Place::Root, Access::Probe),
        route!(readyz, Place::Root, Access::Probe),
    ]
}

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
async fn health() -> Response {
    alive()
}

fn alive() -> Response {
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
async fn livez() -> Response {
    alive()
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
    Ok(alive())
}
