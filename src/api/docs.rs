//! `GET /api/swagger/openapi.json`: the description of the whole API.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use utoipa::OpenApi;
use utoipa::openapi::Server;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::{
    admin, api_keys, auth, chat, completions, conversations, google, health, models, responses, status, user,
};
use crate::auth::access::{Access, Found, find};
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
        (name = "responses", description = "Answers that are kept and can be continued"),
        (name = "conversations", description = "Conversations that are kept"),
        (name = "models", description = "What can be asked for"),
        (name = "auth", description = "Signing in and sessions"),
        (name = "user", description = "One's own account and keys"),
        (name = "admin", description = "Users, for administrators"),
        (name = "status", description = "Probes and the state of the parts"),
    )
)]
struct Doc;

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).expect("the description serializes").into());

/// The description of the whole API.
fn document() -> utoipa::openapi::OpenApi {
    let mut api = utoipa::openapi::OpenApi::default();
    for part in [
        chat::Doc::openapi(),
        completions::Doc::openapi(),
        responses::Doc::openapi(),
        models::Doc::openapi(),
        status::Doc::openapi(),
        auth::Doc::openapi(),
        user::Doc::openapi(),
        api_keys::Doc::openapi(),
        admin::Doc::openapi(),
        conversations::Doc::openapi(),
        conversations::ItemsDoc::openapi(),
        conversations::BranchesDoc::openapi(),
    ] {
        api.merge(part);
    }
    let mut document = Doc::openapi().nest("/api/v1", api);
    for part in [health::Doc::openapi(), auth::KeysDoc::openapi(), google::Doc::openapi()] {
        document.merge(part);
    }
    document.servers = Some(vec![Server::new("/")]);
    add_security(&mut document);
    document
}

/// Who may call what, from the same table that the edge decides by.
fn add_security(document: &mut utoipa::openapi::OpenApi) {
    let components = document.components.get_or_insert_default();
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key or an access token"));
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    let header = ApiKeyValue::with_description("X-API-Key", "An API key");
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(header)));
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ] {
            let Some(operation) = operation else { continue };
            let Found::Route(route) = find(&method, path) else { continue };
            let scheme = |name: &str| SecurityRequirement::new::<_, _, String>(name, []);
            let mut security = vec![scheme("bearer"), scheme("apiKey")];
            match route.access {
                Access::Probe | Access::Open => security = vec![SecurityRequirement::default()],
                Access::Proof => security = vec![scheme("bearer"), SecurityRequirement::default()],
                Access::Anonymous(_) => security.push(SecurityRequirement::default()),
                Access::Needs(_) => {}
            }
            operation.security = Some(security);
        }
    }
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::auth::access::{Place, ROUTES};

    /// What is described is in the table, what is in the table is described, and no route is missing from either.
    #[test]
    fn the_table_of_access_and_the_description_agree() {
        let document = serde_json::to_value(document()).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|name| *name != "summary") {
                let verb: Method = method.to_uppercase().parse().unwrap();
                let Found::Route(route) = find(&verb, path) else {
                    panic!("{method} {path} is not in the table")
                };
                described.insert((route.method.to_string(), route.path));
            }
        }
        // Not resources: another name of /health, and the description itself.
        let unlisted = ["/livez", "/api/swagger/openapi.json"];
        let listed = ROUTES.iter().filter(|route| !unlisted.contains(&route.path));
        let table: BTreeSet<_> =
            listed.map(|route| (route.method.to_string(), route.path.replace("...", ""))).collect();
        let described: BTreeSet<_> =
            described.into_iter().map(|(method, path)| (method, path.replace("...", ""))).collect();
        assert_eq!(described, table);
        assert!(ROUTES.iter().any(|route| route.place == Place::Both));
    }

    #[test]
    fn every_resource_is_described_and_every_reference_resolves() {
        let document = serde_json::to_value(document()).unwrap();
        for path in [
            "/api/v1/chat/completions",
            "/api/v1/completions",
            "/api/v1/models",
            "/api/v1/models/{id}",
            "/api/v1/status",
            "/api/v1/user/profile",
            "/api/v1/auth/refresh",
            "/auth/google",
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
