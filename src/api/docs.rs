//! `GET /api/swagger/openapi.json`: the description of the whole API.

use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use utoipa::OpenApi;
use utoipa::openapi::Server;
use warp::Filter;
use warp::filters::BoxedFilter;

use super::{chat, completions, health, models, status};
use crate::http::Response;
use crate::http::routes::{get_or_head, other_methods};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Jan Server",
        description = "Self-hosted, OpenAI-compatible LLM server. Paths under `/api/v1` are the same under `/v1`."
    ),
    tags(
        (name = "chat", description = "Conversations"),
        (name = "completions", description = "Plain text"),
        (name = "models", description = "What can be asked for"),
        (name = "status", description = "Probes and the state of the parts"),
    )
)]
struct Doc;

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).expect("the description serializes").into());

/// The description of the whole API.
fn document() -> utoipa::openapi::OpenApi {
    let mut api = utoipa::openapi::OpenApi::default();
    for part in
        [chat::Doc::openapi(), completions::Doc::openapi(), models::Doc::openapi(), status::Doc::openapi()]
    {
        api.merge(part);
    }
    let mut document = Doc::openapi().nest("/api/v1", api);
    document.merge(health::Doc::openapi());
    document.servers = Some(vec![Server::new("/")]);
    document
}

/// `/api/swagger/openapi.json`
pub fn routes() -> BoxedFilter<(Response,)> {
    let path = warp::path!("api" / "swagger" / "openapi.json");
    path.and(get_or_head())
        .map(|| {
            let mut response: Response = http::Response::new(DOCUMENT.clone().into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        })
        .or(other_methods(path, "GET, HEAD, OPTIONS"))
        .unify()
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_described_and_every_reference_resolves() {
        let document = serde_json::to_value(document()).unwrap();
        for path in [
            "/api/v1/chat/completions",
            "/api/v1/completions",
            "/api/v1/models",
            "/api/v1/models/{id}",
            "/api/v1/status",
            "/health",
            "/readyz",
        ] {
            assert!(document["paths"].get(path).is_some(), "{path}");
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
