//! `GET /status`: the state of the components, measured at each request.

use std::time::{Duration, Instant};

use jan_actors::identity::Right;
use jan_actors::model::ModelStatus;
use jan_actors::web_search::SearchHealth;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    respond::json,
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::Response;
use crate::http::routing::{Place, route};

/// Time after which a component that does not respond counts as unhealthy.
const PATIENCE: Duration = Duration::from_secs(2);
/// A ready task that waits this long to be polled means that the server is overloaded.
const SLOW_TURN: Duration = Duration::from_millis(250);

/// `/status`
pub fn routes() -> Vec<Route> {
    vec![route!(status, Place::Api, Access::Needs(Right::ReadAccount))]
}

/// Report the state of the components.
#[utoipa::path(
    get,
    path = "/status",
    tag = "status",
    operation_id = "getStatus",
    responses((status = 200, description = "The state of every component", body = SystemStatus))
)]
async fn status(state: AppState) -> Response {
    json(&SystemStatus {
        api_gateway: gateway(&state).await,
        inference_model: inference(&state).await,
        database: if state.identity.database_healthy() { Health::Healthy } else { Health::Unhealthy },
        external_apis: ExternalApis { serper: state.web_search.health().into() },
    })
}

/// The state of every component.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemStatus {
    /// The server's HTTP side.
    api_gateway: Health,
    /// All models together.
    inference_model: Health,
    /// The store.
    database: Health,
    /// External services.
    external_apis: ExternalApis,
}

/// External services.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExternalApis {
    /// Web search, according to its latest calls: `degraded` after one or two failures, `unhealthy` after
    /// more or if the key is refused, `unknown` before the first.
    serper: Health,
}

/// The state of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = PartHealth)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It works.
    Healthy,
    /// It works in part, or not yet.
    Degraded,
    /// It does not work.
    Unhealthy,
    /// It is not configured.
    NotConfigured,
    /// It has not been needed so far.
    Unknown,
}

impl From<SearchHealth> for Health {
    fn from(health: SearchHealth) -> Self {
        match health {
            SearchHealth::NotConfigured => Self::NotConfigured,
            SearchHealth::Unknown => Self::Unknown,
            SearchHealth::Healthy => Self::Healthy,
            SearchHealth::Degraded => Self::Degraded,
            SearchHealth::Unhealthy => Self::Unhealthy,
        }
    }
}

async fn gateway(state: &AppState) -> Health {
    let asked = Instant::now();
    tokio::task::yield_now().await;
    // With less than a tenth of the connections left, the next burst would be refused.
    let crowded = state.lifecycle.connections() >= state.config.max_connections.div_ceil(10) * 9;
    if crowded || asked.elapsed() > SLOW_TURN || state.lifecycle.draining.is_cancelled() {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

async fn inference(state: &AppState) -> Health {
    match tokio::time::timeout(PATIENCE, state.models.status()).await {
        Ok(ModelStatus::Ready) => Health::Healthy,
        Ok(ModelStatus::Degraded | ModelStatus::Loading) => Health::Degraded,
        Ok(ModelStatus::Unhealthy) | Err(_) => Health::Unhealthy,
    }
}

/// Returns whether a model can answer now.
pub async fn can_answer(state: &AppState) -> bool {
    let status = tokio::time::timeout(PATIENCE, state.models.status()).await;
    matches!(status, Ok(ModelStatus::Ready | ModelStatus::Degraded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_the_documented_one() {
        let status = SystemStatus {
            api_gateway: Health::Healthy,
            inference_model: Health::Degraded,
            database: Health::NotConfigured,
            external_apis: ExternalApis { serper: Health::Unhealthy },
        };
        let expected = serde_json::json!({
            "api_gateway": "healthy", "inference_model": "degraded", "database": "not_configured",
            "external_apis": {"serper": "unhealthy"},
        });
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }
}
