//! HTTP behaviour that needs no model.

use http::Method;
use jan_actors::config::AnonymousPolicy;
use serde_json::{Value, json};

use super::{MODEL, TestApp};
use crate::api;
use crate::auth::access::Access;

const CHAT: &str = "/v1/chat/completions";

fn chat(text: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}]})
}

fn streamed(text: &str) -> Value {
    let mut body = chat(text);
    body["stream"] = true.into();
    body
}

fn content(chunk: &str) -> String {
    let chunk: Value = serde_json::from_str(chunk).unwrap_or_else(|_| panic!("{chunk}"));
    chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_chat_is_answered() {
    let app = TestApp::start().await;
    let answer = app.post(CHAT).json(&chat("Hello there")).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello there ");
    assert_eq!(
        (&body["choices"][0]["finish_reason"], &body["usage"]["total_tokens"]),
        (&json!("stop"), &json!(4))
    );
    app.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_done() {
    let app = TestApp::start().await;
    let events = app.post(CHAT).json(&streamed("one two three")).stream().await.rest().await;
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    assert_eq!(chunks.iter().map(|chunk| content(chunk)).collect::<String>(), "one two three ");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let app = TestApp::start().await;
    let mut stream = app.post(CHAT).json(&streamed("one stall two")).stream().await;
    while content(&stream.next().await.unwrap()) != "one " {}
    drop(stream);
    app.is_idle().await;
    assert_eq!(app.post(CHAT).json(&chat("again")).send().await.status, 200);
}

#[tokio::test]
async fn a_crash_in_a_stream_is_an_error_event() {
    let app = TestApp::start().await;
    let mut stream = app.post(CHAT).json(&streamed("one stall two")).stream().await;
    while content(&stream.next().await.unwrap()) != "one " {}
    app.backend.kill();
    let rest = stream.rest().await;
    let error: Value = serde_json::from_str(&rest[0]).unwrap();
    assert_eq!(
        (&error["error"]["code"], rest[1].as_str(), rest.len()),
        (&json!("engine_crashed"), "[DONE]", 2)
    );
    let refused = app.post(CHAT).json(&chat("again")).send().await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "model_unavailable"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(app.get("/readyz").send().await.status, 503);
}

#[tokio::test]
async fn a_credential_is_asked_for_where_one_is_needed() {
    let app = TestApp::start_with(|config| config.auth.anonymous = AnonymousPolicy::Deny).await;
    let missing = app.get("/v1/models").send().await;
    assert_eq!((missing.status, missing.code().as_str()), (401, "missing_credentials"));
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"jan-server\"");
    let wrong = app.get("/v1/models").key("sk-jan-nonsense").send().await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "invalid_api_key"));
    let known = app.get("/v1/models").key(&app.key).send().await;
    assert_eq!((known.status, &known.json()["data"][0]["id"]), (200, &json!(MODEL)));
    assert!(!known.header("x-ratelimit-limit").is_empty());
    assert_eq!(app.get("/v1/health").send().await.status, 200);
}

#[tokio::test]
async fn other_methods_are_named() {
    let app = TestApp::start().await;
    let wrong = app.request(Method::DELETE, "/v1/models/").send().await;
    assert_eq!((wrong.status, wrong.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), "GET, HEAD, OPTIONS");
    let options = app.request(Method::OPTIONS, "/v1/conversations/conv_1").send().await;
    assert_eq!((options.status, options.header("allow")), (204, "GET, HEAD, POST, PATCH, DELETE, OPTIONS"));
    let preflight = app.request(Method::OPTIONS, CHAT).header("origin", "https://a.example");
    let preflight = preflight.header("access-control-request-method", "POST").send().await;
    assert_eq!((preflight.status, preflight.header("allow")), (204, ""));
    let (head, get) = (app.request(Method::HEAD, "/livez").send().await, app.get("/livez").send().await);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    let redirecting = app.request(Method::HEAD, "/auth/google/callback").send().await;
    assert_eq!((redirecting.status, redirecting.header("allow")), (405, "GET, OPTIONS"));
}

#[tokio::test]
async fn paths_that_resemble_routes_are_unknown() {
    let app = TestApp::start().await;
    for path in [
        "//",
        "/models",
        "/v1",
        "/v1/",
        "/api/models",
        "/v1//models",
        "//v1/models",
        "/v1/models//",
        "/v1/user/api-keys/a/b",
        "/v1/admin/users//sessions",
        "/v1/Models",
        "/v1/livez",
        "/v1/user/profile//",
    ] {
        let answer = app.get(path).key(&app.key).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_url"), "{path}");
    }
    for path in ["/v1/models/a/b", "/api/v1/models/%2e%2e%2fa", "/v1/models/scripted/"] {
        let answer = app.get(path).key(&app.key).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "model_not_found"), "{path}");
    }
    assert_eq!(app.get("/v1/models/script%65d").send().await.status, 200);
}

/// No route bypasses the gate: each refuses callers that do not meet its declaration.
#[tokio::test]
async fn every_route_checks_its_caller() {
    let app = TestApp::start_with(|config| {
        config.auth.anonymous = AnonymousPolicy::Deny;
        config.rate_limits.anonymous_per_hour = u32::MAX;
    })
    .await;
    for route in api::routes() {
        let rule = route.rule();
        let path = route.described_path().replace(['{', '}'], "");
        let answer = app.request(rule.method.clone(), &path).send().await;
        let is_refused = answer.status == 401 && answer.code() == "missing_credentials";
        let is_needed = matches!(rule.access, Access::Needs(_) | Access::Anonymous(_));
        // Without a token there is nothing to refresh.
        let is_needed = is_needed || rule.access == Access::Proof;
        assert_eq!(is_refused, is_needed, "{} {path}: {}", rule.method, answer.body);
    }
}
