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

fn with_tools(text: &str, more: &Value) -> Value {
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let mut body = chat(text);
    body["tools"] =
        json!([{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]);
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

const BARE: &str = r#"{"name": "get_weather", "arguments": {"city": "Hanoi"}}"#;

#[tokio::test]
async fn an_answer_that_is_one_call_as_json_is_a_call() {
    let app = TestApp::start().await;
    let answer = app.post(CHAT).json(&with_tools(BARE, &json!({}))).send().await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call, &json!({"name": "get_weather", "arguments": "{\"city\": \"Hanoi\"}"}));
    let not_calls = [
        (BARE, json!({"tools": null})),
        (BARE, json!({"tool_choice": "none"})),
        (BARE, json!({"max_tokens": 3})),
        (r#"{"name": "get_weather", "arguments": {"city": 5}}"#, json!({})),
        (r#"{"name": "get_weather", "arguments": {}}"#, json!({})),
        (r#"{"name": "get_time", "arguments": {"city": "Hanoi"}}"#, json!({})),
        (r#"{"city": "Hanoi"}"#, json!({})),
        (r#"Here: {"name": "get_weather", "arguments": {"city": "Hanoi"}}"#, json!({})),
        (r#"{"name": "get_weather", "arguments": {"city": "Hanoi"}} it is"#, json!({})),
    ];
    for (text, more) in not_calls {
        let answer = app.post(CHAT).json(&with_tools(text, &more)).send().await.json();
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["tool_calls"], Value::Null, "{answer}");
        let said = message["content"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(format!("{text} ").starts_with(said), "{answer}");
        if more["max_tokens"].is_null() {
            assert_eq!(said, format!("{text} "));
        }
    }
}

#[tokio::test]
async fn a_stream_holds_text_back_only_while_it_may_be_a_call() {
    let app = TestApp::start().await;
    let deltas = async |text: &str| {
        let body = with_tools(text, &json!({"stream": true}));
        let events = app.post(CHAT).json(&body).stream().await.rest().await;
        let chunks = events[..events.len() - 1].iter();
        chunks
            .map(|chunk| serde_json::from_str::<Value>(chunk).unwrap()["choices"][0].clone())
            .collect::<Vec<_>>()
    };
    let call = deltas(BARE).await;
    assert!(
        call.iter().all(|choice| choice["delta"]["content"].as_str().unwrap_or_default().is_empty()),
        "{call:?}"
    );
    assert_eq!(call.last().unwrap()["finish_reason"], "tool_calls");
    let names: Vec<&Value> = call
        .iter()
        .map(|choice| &choice["delta"]["tool_calls"][0]["function"]["name"])
        .filter(|name| !name.is_null())
        .collect();
    assert_eq!(names, ["get_weather"]);
    // The second word shows that this is none; all the later ones come one by one.
    let text = deltas(r#"{"name": "Bob", "age": 5, "city": "Hanoi"}"#).await;
    let said: Vec<&str> = text
        .iter()
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    assert_eq!(said, ["{\"name\": \"Bob\", ", "\"age\": ", "5, ", "\"city\": ", "\"Hanoi\"} "]);
    assert_eq!(text.last().unwrap()["finish_reason"], "stop");
}

#[tokio::test]
async fn a_response_that_is_one_call_as_json_is_a_call() {
    let app = TestApp::start().await;
    let tool = json!({"type": "function", "name": "get_weather", "parameters": {"type": "object"}});
    let body = json!({"model": MODEL, "input": BARE, "tools": [tool]});
    let answer = app.post("/v1/responses").json(&body).send().await.json();
    assert_eq!(answer["output"][0]["type"], "function_call", "{answer}");
    assert_eq!(answer["output"].as_array().map(Vec::len), Some(1));
    let mut formatted = body;
    formatted["text"] = json!({"format": {"type": "json_object"}});
    let answer = app.post("/v1/responses").json(&formatted).send().await.json();
    assert_ne!(answer["output"][0]["type"], "function_call", "{answer}");
}

#[tokio::test]
async fn calls_of_functions_are_answered_in_their_form() {
    let app = TestApp::start().await;
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    let ask = |functions: &Value, text: &str| {
        let mut body = chat(text);
        body["functions"] = functions.clone();
        body
    };
    // At most one call, since a message has room for one.
    let mut body = ask(&json!([function]), "call:f call:f");
    let answer = app.post(CHAT).json(&body).send().await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call", "{answer}");
    assert_eq!(choice["message"]["function_call"], json!({"name": "f", "arguments": "{}"}));
    assert!(choice["message"]["content"].is_null() && choice["message"]["tool_calls"].is_null(), "{answer}");
    body["stream"] = true.into();
    let events = app.post(CHAT).json(&body).stream().await.rest().await;
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let calls: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["function_call"])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(calls, [&json!({"name": "f", "arguments": ""}), &json!({"arguments": "{}"})]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "function_call");
    let bare =
        app.post(CHAT).json(&ask(&json!([function]), r#"{"name": "f", "arguments": {}}"#)).send().await;
    assert_eq!(bare.json()["choices"][0]["message"]["function_call"]["name"], "f");
    let text = app.post(CHAT).json(&ask(&json!([function]), "Hello")).send().await.json();
    assert_eq!(text["choices"][0]["finish_reason"], "stop");
    assert!(text["choices"][0]["message"].get("function_call").is_none(), "{text}");
    let mut both = ask(&json!([function]), "x");
    both["tools"] = json!([{"type": "function", "function": function}]);
    let refused = app.post(CHAT).json(&both).send().await;
    assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (400, Some("functions")));
}

/// The usage in each chunk of a stream, as (prompt, completion, total) tokens: absent, null or counts.
async fn usages(app: &TestApp, path: &str, mut body: Value, options: Value) -> Vec<Option<Option<[u64; 3]>>> {
    body["stream"] = true.into();
    body["stream_options"] = options;
    let events = app.post(path).json(&body).stream().await.rest().await;
    let names = ["prompt_tokens", "completion_tokens", "total_tokens"];
    let counts = |usage: &Value| {
        (!usage.is_null())
            .then(|| names.map(|name| usage[name].as_u64().unwrap_or_else(|| panic!("{usage}"))))
    };
    let chunks = events[..events.len() - 1].iter().map(|chunk| serde_json::from_str::<Value>(chunk).unwrap());
    chunks.map(|chunk| chunk.get("usage").map(counts)).collect()
}

#[tokio::test]
async fn usage_so_far_is_in_every_chunk() {
    let app = TestApp::start().await;
    let text = json!({"model": MODEL, "prompt": "one two three", "max_tokens": 3});
    let bodies = [(CHAT, chat("one two three")), ("/v1/completions", text)];
    for (path, body) in bodies {
        let all = |counts: &[u64]| counts.iter().map(|n| Some(Some([3, *n, 3 + n]))).collect::<Vec<_>>();
        // Chat begins with the role.
        let chunks = if path == CHAT { all(&[0, 1, 2, 3, 3]) } else { all(&[1, 2, 3, 3]) };
        let continuous = json!({"continuous_usage_stats": true});
        assert_eq!(usages(&app, path, body.clone(), continuous).await, chunks, "{path}");
        let both = json!({"continuous_usage_stats": true, "include_usage": true});
        let with_last = [chunks.clone(), all(&[3])].concat();
        assert_eq!(usages(&app, path, body.clone(), both).await, with_last, "{path}");
        for none in [json!(null), json!({}), json!({"continuous_usage_stats": false, "include_usage": null})]
        {
            assert_eq!(usages(&app, path, body.clone(), none).await, vec![None; chunks.len()], "{path}");
        }
        let last = usages(&app, path, body.clone(), json!({"include_usage": true})).await;
        let nulls = vec![Some(None); chunks.len()];
        assert_eq!(last, [nulls, all(&[3])].concat(), "{path}");
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({"continuous_usage_stats": true});
        let answer = app.post(path).json(&streamed).send().await;
        assert!(!answer.headers.contains_key("x-ignored-fields"), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn usage_so_far_is_that_of_all_answers() {
    let app = TestApp::start().await;
    let mut body = chat("one two");
    body["n"] = json!(2);
    let both = json!({"continuous_usage_stats": true, "include_usage": true});
    let all: Vec<[u64; 3]> =
        usages(&app, CHAT, body, both).await.into_iter().map(|u| u.flatten().unwrap()).collect();
    assert!(all.windows(2).all(|pair| pair[0][1] <= pair[1][1] && pair[0][0] == pair[1][0]), "{all:?}");
    assert_eq!((all[0], all.last()), ([2, 0, 2], Some(&[2, 4, 6])));
}

#[tokio::test]
async fn options_of_a_stream_need_one_in_every_api() {
    let app = TestApp::start().await;
    let text = json!({"model": MODEL, "prompt": "one", "max_tokens": 1});
    let response = json!({"model": MODEL, "input": "one"});
    for (path, body) in [(CHAT, chat("one")), ("/v1/completions", text), ("/v1/responses", response)] {
        let status = async |options: Value, stream: bool| {
            let mut body = body.clone();
            body["stream_options"] = options;
            body["stream"] = stream.into();
            let answer = app.post(path).json(&body).send().await;
            let param = || answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
            if answer.status == 200 { (200, String::new()) } else { (answer.status, param()) }
        };
        for (options, stream) in [
            (json!(null), false),
            (json!(null), true),
            (json!({}), true),
            (json!({"include_obfuscation": false}), true),
        ] {
            assert_eq!(
                status(options.clone(), stream).await,
                (200, String::new()),
                "{path} {options} {stream}"
            );
        }
        for options in [json!({}), json!({"include_obfuscation": true})] {
            assert_eq!(status(options, false).await, (400, "stream_options".to_owned()), "{path}");
        }
        let wrong = json!({"include_obfuscation": 1});
        assert_eq!(
            status(wrong, true).await,
            (400, "stream_options.include_obfuscation".to_owned()),
            "{path}"
        );
    }
}
