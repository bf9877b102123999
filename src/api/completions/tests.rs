use std::sync::Arc;

use jan_actors::model::{FinishReason, Prompt, TokenUsage};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::http::json as http_json;

use super::request::Checked;
use super::*;
use crate::api::inference::params::{UsageChunks, choice_seed};
use crate::api::inference::streaming::Encoder;
use crate::auth::Caller;
use crate::http::{RequestContext, RequestId};

fn check(body: &Value) -> Result<Checked, ApiError> {
    http_json::parse::<CompletionRequest>(body.to_string().as_bytes(), UNSUPPORTED)?.value.check()
}

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": "m", "prompt": "Hi"});
    body[field] = value;
    body
}

fn context() -> RequestContext {
    let peer: std::net::SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
    RequestContext { id: RequestId::from_header(None), peer, caller: Caller::anonymous(peer.ip()) }
}

#[test]
fn the_least_request_has_openais_defaults() {
    let checked = check(&json!({"model": "m", "prompt": "Hi"})).unwrap();
    assert_eq!((checked.n, checked.max_tokens, checked.echo, checked.stream), (1, Some(16), false, false));
    assert_eq!(checked.prompts, [Prompt::Text("Hi".to_owned())]);
}

#[test]
fn wrong_values_name_their_field() {
    for (field, value, param) in [
        ("prompt", json!([]), "prompt"),
        ("prompt", json!(["a", 1]), "prompt[1]"),
        ("prompt", json!([[1], [-1]]), "prompt[1][0]"),
        ("max_tokens", json!(-2), "max_tokens"),
        ("echo", json!("yes"), "echo"),
        ("n", json!(129), "n"),
        ("temperature", json!(3), "temperature"),
        ("typical_p", json!(0), "typical_p"),
        ("repetition_penalty", json!(2.1), "repetition_penalty"),
        ("stream_options", json!({}), "stream_options"),
        ("response_format", json!({"type": "json_schema"}), "response_format.json_schema"),
        ("guided_choice", json!([]), "guided_choice"),
        ("logprobs", json!(6), "logprobs"),
        ("logprobs", json!(true), "logprobs"),
        ("best_of", json!(129), "best_of"),
        ("best_of", json!(0), "best_of"),
        ("prompt_cache_key", json!(1), "prompt_cache_key"),
        ("prompt_cache_key", json!("k".repeat(513)), "prompt_cache_key"),
    ] {
        let error = check(&with(field, value.clone())).unwrap_err();
        assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)), "{field} {value}");
    }
    let missing = check(&json!({"model": "m"})).unwrap_err();
    assert_eq!((missing.code(), missing.param()), ("missing_required_parameter", Some("prompt")));
    assert_eq!(check(&with("max_tokens", json!(0))).unwrap().max_tokens, Some(0));
    assert_eq!(check(&with("max_tokens", json!(-1))).unwrap().max_tokens, None);
}

#[test]
fn answers_are_bounded_over_all_prompts() {
    let mut body = with("prompt", json!(vec!["a"; 128]));
    body["n"] = json!(8);
    assert!(check(&body).is_ok());
    body["n"] = json!(9);
    let error = check(&body).unwrap_err();
    assert_eq!(error.param(), Some("n"));
    assert!(error.message().contains("1024"), "{}", error.message());
}

#[test]
fn answers_come_by_prompt_and_draw_as_if_asked_alone() {
    let mut body = with("prompt", json!(["a", "b"]));
    body["n"] = json!(2);
    body["seed"] = json!(5);
    body["prompt_cache_key"] = json!("k");
    body["echo"] = json!(true);
    let requests = generation_requests(check(&body).unwrap(), None, &context());
    let prompts: Vec<&Prompt> = requests.iter().map(|request| &*request.prompt).collect();
    let (a, b) = (Prompt::Text("a".to_owned()), Prompt::Text("b".to_owned()));
    assert_eq!(prompts, [&a, &a, &b, &b]);
    let seeds: Vec<u64> = requests.iter().map(|request| request.sampling.seed).collect();
    assert_eq!(seeds, [choice_seed(5, 0), choice_seed(5, 1), choice_seed(5, 0), choice_seed(5, 1)]);
    assert!(Arc::ptr_eq(&requests[0].prompt, &requests[1].prompt), "a prompt is not copied for each answer");
    assert!(requests.iter().all(|request| request.want_prompt_text && request.user == "10.0.0.1"));
    assert!(requests.iter().all(|request| request.cache_key.as_deref() == Some("k")));
}

#[test]
fn more_answers_are_generated_than_returned() {
    let mut body = with("best_of", json!(3));
    body["n"] = json!(2);
    let checked = check(&body).unwrap();
    assert_eq!((checked.n, checked.best_of), (2, 3));
    let requests = generation_requests(checked, None, &context());
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.logprobs == Some(0)), "the best are selected by them");
    for (field, value) in [("n", json!(4)), ("stream", json!(true))] {
        let mut body = body.clone();
        body[field] = value;
        assert_eq!(check(&body).unwrap_err().param(), Some("best_of"), "{field}");
    }
    body["best_of"] = json!(2);
    body["stream"] = json!(true);
    assert!(check(&body).is_ok());
}

#[test]
fn gaps_are_between_texts() {
    let checked = check(&with("suffix", json!("x"))).unwrap();
    let infill = Prompt::Infill { prefix: "Hi".to_owned(), suffix: "x".to_owned() };
    assert_eq!(checked.prompts, [infill]);
    assert_eq!(check(&with("suffix", json!(""))).unwrap().prompts, [Prompt::Text("Hi".to_owned())]);
    let mut body = with("suffix", json!("x"));
    body["echo"] = json!(true);
    assert_eq!(check(&body).unwrap_err().param(), Some("echo"));
    let mut body = with("suffix", json!("x"));
    body["prompt"] = json!([1, 2]);
    assert_eq!(check(&body).unwrap_err().param(), Some("suffix"));
}

fn chunks(echoes: &[&str], include_usage: bool) -> Vec<Value> {
    let head = ResponseHeader {
        id: "cmpl-1".to_owned(),
        created: 7,
        model: "m".to_owned(),
        system_fingerprint: "fp".to_owned(),
    };
    let echoes = echoes.iter().map(|echo| (*echo).to_owned()).collect();
    let usage = StreamedUsage::new(UsageChunks { last: include_usage, all: false }, UsageSum::new(1, 1));
    let mut encoder = ChunkEncoder::new(head, usage, echoes, false);
    let tokens = TokenUsage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 1, reasoning_tokens: 0 };
    let mut buffer = Vec::new();
    encoder.opening(&mut buffer);
    encoder.event(0, ChoiceEvent::Text("Hi".to_owned(), Vec::new()), &mut buffer);
    encoder.event(0, ChoiceEvent::Finished(FinishReason::Stop, tokens), &mut buffer);
    encoder.closing(&mut buffer);
    std::str::from_utf8(&buffer)
        .unwrap()
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

#[test]
fn chunks_are_openais() {
    let chunk = |text: &str, finish: Value| {
        json!({
            "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m",
            "system_fingerprint": "fp",
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}],
        })
    };
    assert_eq!(chunks(&[""], false), [chunk("Hi", Value::Null), chunk("", json!("stop"))]);
    assert_eq!(chunks(&["Say "], false)[0], chunk("Say ", Value::Null));
    let with_usage = chunks(&[""], true);
    assert!(with_usage[0]["usage"].is_null() && with_usage[0].get("usage").is_some());
    assert_eq!(with_usage[2]["choices"], json!([]));
    assert_eq!(with_usage[2]["usage"]["total_tokens"], 6);
}

proptest! {
    #[test]
    fn any_bytes_as_a_prompt_are_fine_or_a_400(prompt in "[\\[\\],0-9\"a-]{0,40}") {
        let body = format!(r#"{{"model": "m", "prompt": {prompt}}}"#);
        match http_json::parse::<CompletionRequest>(body.as_bytes(), UNSUPPORTED) {
            Err(error) => prop_assert_eq!(error.status(), 400),
            Ok(parsed) => prop_assert!(!parsed.value.prompt.0.is_empty()),
        }
    }
}
