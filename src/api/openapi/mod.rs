//! The description of the API, and `/api/swagger`, where it can be read and tried.
//!
//! Each resource describes what is its own beside its handlers; [`common`] adds what all have in common.

mod common;
mod errors;
mod samples;
mod swagger_ui;

use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::Server;
use warp::filters::BoxedFilter;

use self::common::complete;
pub use self::swagger_ui::PAGE;
use super::{
    accounts::{api_keys, credentials, google, profile, sessions, users},
    audit, backup, chat, completions, conversations, embeddings, health, models, responses, status, tokenize,
    usage,
};
use crate::http::Response;

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
    )
)]
struct Doc;

/// What is under `/api/v1`, by resource.
fn resources() -> Vec<utoipa::openapi::OpenApi> {
    vec![
        chat::Doc::openapi(),
        completions::Doc::openapi(),
        embeddings::Doc::openapi(),
        responses::Doc::openapi(),
        tokenize::Doc::openapi(),
        models::Doc::openapi(),
        status::Doc::openapi(),
        sessions::Doc::openapi(),
        profile::Doc::openapi(),
        api_keys::Doc::openapi(),
        users::Doc::openapi(),
        credentials::Doc::openapi(),
        audit::Doc::openapi(),
        usage::Doc::openapi(),
        backup::Doc::openapi(),
        conversations::Doc::openapi(),
        conversations::ItemsDoc::openapi(),
        conversations::BranchesDoc::openapi(),
        conversations::shares::Doc::openapi(),
    ]
}

/// What stands at the root.
fn others() -> Vec<utoipa::openapi::OpenApi> {
    vec![
        health::Doc::openapi(),
        sessions::KeysDoc::openapi(),
        google::Doc::openapi(),
        swagger_ui::Doc::openapi(),
    ]
}

/// The description of the whole API.
fn document() -> Value {
    let mut api = utoipa::openapi::OpenApi::default();
    for part in resources() {
        api.merge(part);
    }
    let mut document = Doc::openapi().nest("/api/v1", api);
    for part in others() {
        document.merge(part);
    }
    document.servers = Some(vec![Server::new("/")]);
    let mut document = serde_json::to_value(document).expect("the description serializes");
    complete(&mut document);
    document
}

/// `/api/swagger` and everything below, and `/`, which leads there.
pub fn routes() -> BoxedFilter<(Response,)> {
    swagger_ui::routes()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use http::Method;

    use super::common::METHODS;
    use super::*;
    use crate::auth::access::{Found, Place, ROUTES, find};

    /// Every operation: its method, its path, itself.
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

    /// The table of access is what the edge lets through, and so all the routes there are.
    #[test]
    fn the_table_of_access_and_the_description_agree() {
        let mut described = BTreeSet::new();
        for (method, path, _) in operations(&document()) {
            let verb: Method = method.parse().unwrap();
            let Found::Route(route) = find(&verb, &path) else {
                panic!("{method} {path} is described and no route; add it to ROUTES in src/auth/access.rs")
            };
            described.insert((route.method.to_string(), route.path));
        }
        let table: BTreeSet<_> = ROUTES.iter().map(|route| (route.method.to_string(), route.path)).collect();
        let silent: Vec<_> = table.difference(&described).collect();
        assert!(
            silent.is_empty(),
            "routes without a description (#[utoipa::path], src/api/openapi/mod.rs): {silent:?}"
        );
        assert!(ROUTES.iter().any(|route| route.place == Place::Both));
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

    /// Schemas of one name would silently be taken for each other.
    #[test]
    fn every_schema_has_a_name_of_its_own() {
        let mut seen = BTreeMap::new();
        for part in resources().into_iter().chain(others()) {
            for (name, schema) in part.components.map(|all| all.schemas).unwrap_or_default() {
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
