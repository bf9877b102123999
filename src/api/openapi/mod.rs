//! The description of the API, and `/api/swagger`, a page to read and try it.
//!
//! Each handler describes its own part, which its route adds; [`common`] adds the shared parts.

mod common;
mod errors;
mod samples;
mod swagger_ui;

use http::Method;
use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::Server;
use utoipa::openapi::path::{HttpMethod, Paths};

use self::common::complete;
pub use self::swagger_ui::{PAGE, routes};
use crate::http::error::ErrorBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Jan Server",
        description = "Self-hosted, OpenAI-compatible LLM server. Paths under `/api/v1` are also available under `/v1`."
    ),
    tags(
        (name = "chat", description = "Conversations"),
        (name = "completions", description = "Plain text"),
        (name = "embeddings", description = "Embeddings"),
        (name = "responses", description = "Stored responses that can be continued"),
        (name = "conversations", description = "Stored conversations"),
        (name = "models", description = "The available models"),
        (name = "auth", description = "Sign-in and sessions"),
        (name = "user", description = "The caller's account and keys"),
        (name = "admin", description = "Users, for administrators"),
        (name = "usage", description = "Tokens and requests by user, key, model and day"),
        (name = "status", description = "Probes and the state of the components"),
        (name = "docs", description = "This description and its interactive page"),
    ),
    // Part of `ErrorResponse`, for clients that refer to it by name.
    components(schemas(ErrorBody))
)]
struct Doc;

/// Returns the description of the whole API, from all routes.
fn document() -> Value {
    let routes = super::routes();
    let mut paths = Paths::new();
    let mut schemas = Vec::new();
    for route in &routes {
        let Some(mut described) = route.description() else { continue };
        let method = match route.rule().method {
            Method::POST => HttpMethod::Post,
            Method::PUT => HttpMethod::Put,
            Method::PATCH => HttpMethod::Patch,
            Method::DELETE => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        paths.add_path_operation(route.described_path(), vec![method], described.operation);
        schemas.append(&mut described.schemas);
    }
    let mut document = Doc::openapi();
    document.paths = paths;
    document.components.get_or_insert_default().schemas.extend(schemas);
    document.servers = Some(vec![Server::new("/")]);
    let mut document = serde_json::to_value(document).expect("the description serializes");
    complete(&mut document, &routes);
    document
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::common::METHODS;
    use super::*;
    use crate::auth::access::Access;

    /// Returns every operation with its method and its path.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in METHODS {
                if let Some(operation) = item.get(method) {
                    found.push((method.to_uppercase(), path.clone(), operation.clone()));
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let described = operations(&document()).into_iter().map(|(method, path, _)| (method, path));
        let declared = super::super::routes();
        let declared = declared.iter().map(|route| (route.rule().method.to_string(), route.described_path()));
        assert_eq!(described.collect::<BTreeSet<_>>(), declared.collect::<BTreeSet<_>>());
    }

    #[test]
    fn security_is_that_of_the_route() {
        let document = document();
        for route in super::super::routes() {
            let (rule, path) = (route.rule(), route.described_path());
            let operation = &document["paths"][&path][rule.method.as_str().to_lowercase()];
            let schemes = operation["security"].as_array().unwrap_or_else(|| panic!("{path}"));
            let needs_none = schemes.is_empty() || schemes.contains(&serde_json::json!({}));
            let is_required = matches!(rule.access, Access::Needs(_));
            assert_eq!(!needs_none, is_required, "{} {path}: {schemes:?}", rule.method);
        }
    }

    #[test]
    fn every_operation_is_complete() {
        let document = document();
        let tags: BTreeSet<_> =
            document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
        let mut ids = BTreeSet::new();
        for (method, path, operation) in operations(&document) {
            let name = format!("{method} {path}");
            let id =
                operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no operation_id"));
            assert!(ids.insert(id.to_owned()), "{name}: another operation is called {id}, too");
            assert!(operation["summary"].is_string(), "{name} has no summary: its handler's doc comment");
            let tag = operation["tags"][0].as_str().unwrap_or_default();
            assert!(
                tags.contains(tag),
                "{name} has the tag {tag:?}, which src/api/openapi/mod.rs does not describe"
            );
            assert!(operation["security"].is_array(), "{name} says nothing of security");
            let with_body = matches!(method.as_str(), "POST" | "PATCH" | "PUT");
            if with_body && let Some(body) = operation.get("requestBody") {
                let curl = operation["x-codeSamples"][0]["source"].as_str().unwrap();
                assert!(
                    curl.contains(" -d '") || curl.contains(" --data-binary @"),
                    "{name}: its body has no example: #[schema(example = json!(…))] on {body}"
                );
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                let shared = response.get("$ref").and_then(Value::as_str);
                let response = shared.map_or(response, |shared| document.pointer(&shared[1..]).unwrap());
                assert!(response["description"].is_string(), "{name} {status} has no description");
                let headers = response["headers"].as_object().unwrap();
                assert!(headers.contains_key("X-Request-Id"), "{name} {status}");
            }
            assert!(
                operation["responses"].as_object().unwrap().keys().any(|status| status < &"400".to_owned()),
                "{name} never succeeds"
            );
        }
    }

    /// Two schemas with the same name would silently replace each other.
    #[test]
    fn every_schema_has_a_name_of_its_own() {
        let mut seen = BTreeMap::new();
        for route in super::super::routes() {
            for (name, schema) in route.description().unwrap().schemas {
                let schema = serde_json::to_value(schema).unwrap();
                let first = seen.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*first, schema, "two types are called {name}: give one #[schema(as = …)]");
            }
        }
    }

    #[test]
    fn every_reference_resolves() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    /// Makes every change of the public API visible in review.
    #[test]
    fn the_description_is_the_recorded_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/openapi.json");
        let mut now = serde_json::to_string_pretty(&document()).unwrap();
        now.push('\n');
        if std::env::var_os("JAN_RECORD_OPENAPI").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let recorded = std::fs::read_to_string(&path).unwrap_or_default();
        let differ = now.lines().zip(recorded.lines()).find(|(now, recorded)| now != recorded);
        assert!(
            now == recorded,
            "the public API has changed: {differ:?}. If that is meant, record it with `make openapi` and commit \
             fixtures/openapi.json with the change."
        );
    }
}
