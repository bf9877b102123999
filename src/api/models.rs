//! `GET /models` and `GET /models/{id}`.

use jan_actors::identity::Right;
use jan_actors::model::{ModelDescription, ModelStatus};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    inference::permissions::check_model,
    respond::json,
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Id, Place, route};
use crate::http::{ApiError, RequestContext, Response};

/// `/models` and everything below.
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Anonymous(Right::ReadInference)),
        // An id may contain slashes.
        route!(retrieve, Place::Api, Access::Anonymous(Right::ReadInference)).takes_rest(),
    ]
}

/// List all models and aliases, or the permitted ones for a key with `models`.
#[utoipa::path(
    get,
    path = "/models",
    tag = "models",
    operation_id = "listModels",
    responses((status = 200, description = "The models", body = ModelList))
)]
async fn list(state: AppState, context: RequestContext) -> Response {
    let mut data = Vec::new();
    for model in state.models.list().await {
        if check_model(&state, &context, &model.id).await.is_ok() {
            data.push(Model::new(model, &context));
        }
    }
    json(&ModelList { object: "list", data })
}

/// Retrieve a model or alias.
#[utoipa::path(
    get,
    path = "/models/{id}",
    tag = "models",
    operation_id = "retrieveModel",
    params(("id" = String, Path, description = "The model's id; may contain slashes")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
    )
)]
async fn retrieve(state: AppState, context: RequestContext, Id(id): Id) -> Result<Response, ApiError> {
    let id = percent_decode_str(&id).decode_utf8_lossy();
    check_model(&state, &context, &id).await?;
    match state.models.describe(&id).await {
        Some(model) => Ok(json(&Model::new(model, &context))),
        None => Err(ApiError::model_not_found(&id)),
    }
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// In the order of the configuration, the bundled model last.
    data: Vec<Model>,
}

/// A served model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The id to use in requests.
    #[schema(example = "jan-v1-4b")]
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Unix seconds of the model file's creation.
    created: u64,
    /// The owner.
    owned_by: String,
    /// The model that answers; differs from `id` for an alias.
    root: String,
    /// Its context in tokens; null until it is loaded.
    context_length: Option<u32>,
    /// The model's state.
    status: Status,
    /// The problem, if any; administrators also see file paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The state of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is being loaded.
    Loading,
    /// It can answer.
    Ready,
    /// It can answer, with some of its workers down.
    Degraded,
    /// It cannot answer; loading is retried later.
    Unhealthy,
}

impl From<ModelStatus> for Status {
    fn from(status: ModelStatus) -> Self {
        match status {
            ModelStatus::Loading => Self::Loading,
            ModelStatus::Ready => Self::Ready,
            ModelStatus::Degraded => Self::Degraded,
            ModelStatus::Unhealthy => Self::Unhealthy,
        }
    }
}

impl Model {
    fn new(model: ModelDescription, context: &RequestContext) -> Self {
        let is_admin = context.caller.principal.may(Right::Administer);
        Self {
            id: model.id,
            object: "model",
            created: model.created,
            owned_by: model.owned_by,
            root: model.root,
            context_length: model.context_length,
            status: model.status.into(),
            problem: if is_admin { model.problem } else { model.public_problem },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Caller;
    use crate::http::RequestId;

    #[test]
    fn a_model_is_openais_object_and_more() {
        let description = ModelDescription {
            id: "jan-v1-4b".to_owned(),
            root: "jan-tiny".to_owned(),
            created: 7,
            owned_by: "jan".to_owned(),
            context_length: Some(2048),
            status: ModelStatus::Ready,
            problem: None,
            public_problem: None,
        };
        let peer: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
        let caller = Caller::anonymous(peer.ip());
        let context = RequestContext { id: RequestId::from_header(None), peer, caller };
        let model = Model::new(description, &context);
        let expected = serde_json::json!({
            "id": "jan-v1-4b", "object": "model", "created": 7, "owned_by": "jan",
            "root": "jan-tiny", "context_length": 2048, "status": "ready",
        });
        assert_eq!(serde_json::to_value(model).unwrap(), expected);
    }
}
