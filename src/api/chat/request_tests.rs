use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::http::json::parse;

fn check(body: &Value) -> Result<(CheckedChat, Vec<String>), ApiError> {
    let parsed = parse::<ChatRequest>(body.to_string().as_bytes(), UNSUPPORTED)?;
    Ok((parsed.value.check()?, parsed.ignored))
}

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    body[field] = value;
    body
}

fn with_message(message: Value) -> Value {
    with("messages", json!([message]))
}

fn sampling_fields() -> impl Iterator<Item = &'static str> {
    ChatRequest::SAMPLING.iter().map(|(field, _)| *field)
}

fn refused(body: &Value) -> (&'static str, String) {
    let error = check(body).map(|(chat, _)| chat).unwrap_err();
    assert_eq!(error.status(), 400, "{body}");
    (error.code(), error.param().unwrap_or_default().to_owned())
}

#[test]
fn the_least_request_has_openais_defaults() {
    let (chat, ignored) = check(&with("seed", json!(3))).unwrap();
    assert_eq!(chat.sampling, SamplingParams { seed: 3, ..SamplingParams::default() });
    assert_eq!((chat.n, chat.max_tokens, chat.stream), (1, None, false));
    assert_eq!(chat.usage_chunks, UsageChunks::default());
    assert_eq!(chat.prompt.messages, [json!({"role": "user", "content": "Hi"})]);
    assert!(chat.stop.is_empty() && ignored.is_empty());
}

#[test]
fn a_full_request_arrives() {
    let (chat, ignored) = check(&json!({
        "model": "m", "messages": [{"role": "user", "content": "Hi", "name": "ann"}],
        "max_completion_tokens": 9, "max_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.25,
        "typical_p": 0.75, "repeat_penalty": 1.5, "repetition_penalty": 1.5, "n": 2, "seed": -1, "stop": "x", "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        "presence_penalty": 1, "frequency_penalty": -1.5, "logit_bias": {"5": -100}, "user": "u",
        "metadata": {"k": "v"}, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "p",
        "tools": [], "store": false, "response_format": {"type": "text"}, "modalities": ["text"],
        "logprobs": false, "parallel_tool_calls": true, "tool_choice": "none", "audio": null,
    }))
    .unwrap();
    assert!(ignored.is_empty(), "{ignored:?}");
    assert_eq!((chat.sampling.temperature, chat.sampling.seed), (0.0, u64::MAX));
    assert_eq!((chat.n, chat.max_tokens), (2, Some(9)));
    assert!(chat.stream && chat.usage_chunks == UsageChunks { last: true, all: true });
    assert_eq!(*chat.stop, ["x"]);
    assert_eq!(chat.prompt.messages[0]["name"], "ann");
}

#[test]
fn null_is_as_if_not_given() {
    let own = [
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stop",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "service_tier",
        "tools",
        "response_format",
        "audio",
        "logprobs",
        "store",
        "reasoning_effort",
    ];
    for field in own.into_iter().chain(sampling_fields()) {
        assert!(check(&with(field, Value::Null)).is_ok(), "{field}");
    }
}

#[test]
fn wrong_values_name_their_field() {
    for (field, value, param) in [
        ("model", json!(" "), "model"),
        ("messages", json!([]), "messages"),
        ("logprobs", json!(1), "logprobs"),
        ("top_logprobs", json!(21), "top_logprobs"),
        ("top_logprobs", json!(1), "top_logprobs"),
        ("temperature", json!(2.1), "temperature"),
        ("temperature", json!("0"), "temperature"),
        ("top_p", json!(-0.1), "top_p"),
        ("top_k", json!(-2), "top_k"),
        ("min_p", json!(1.1), "min_p"),
        ("typical_p", json!(0), "typical_p"),
        ("typical_p", json!("x"), "typical_p"),
        ("repeat_penalty", json!(2.1), "repeat_penalty"),
        ("repetition_penalty", json!(0), "repetition_penalty"),
        ("n", json!(0), "n"),
        ("n", json!(129), "n"),
        ("n", json!(1.5), "n"),
        ("max_tokens", json!(0), "max_tokens"),
        ("max_completion_tokens", json!(-2), "max_completion_tokens"),
        ("max_tokens", json!(4_294_967_296_i64), "max_tokens"),
        ("presence_penalty", json!(2.5), "presence_penalty"),
        ("frequency_penalty", json!(-2.5), "frequency_penalty"),
        ("seed", json!(1.5), "seed"),
        ("seed", json!(u64::MAX), "seed"),
        ("stop", json!(["a", "b", "c", "d", "e"]), "stop"),
        ("stop", json!([1]), "stop[0]"),
        ("stop", json!(""), "stop"),
        ("stream", json!("yes"), "stream"),
        ("stream_options", json!({"include_usage": true}), "stream_options"),
        ("stream_options", json!({"include_usage": 1}), "stream_options.include_usage"),
        ("stream_options", json!({"continuous_usage_stats": 1}), "stream_options.continuous_usage_stats"),
        ("logit_bias", json!({"x": 1}), "logit_bias"),
        ("logit_bias", json!({"1": 101}), "logit_bias.1"),
        ("logit_bias", json!({"1": "a"}), "logit_bias.1"),
        ("logit_bias", json!([1]), "logit_bias"),
        ("user", json!(1), "user"),
        ("metadata", json!({"k": 1}), "metadata.k"),
        ("metadata", json!("x"), "metadata"),
        ("service_tier", json!("gold"), "service_tier"),
        ("safety_identifier", json!("x".repeat(65)), "safety_identifier"),
        ("prompt_cache_key", json!(1), "prompt_cache_key"),
    ] {
        assert_eq!(refused(&with(field, value.clone())).1, param, "{field} {value}");
    }
    let mut both = with("max_tokens", json!(1));
    both["max_completion_tokens"] = json!(2);
    assert_eq!(refused(&both).1, "max_tokens");
    let mut both = with("repeat_penalty", json!(1.1));
    both["repetition_penalty"] = json!(1.2);
    assert_eq!(refused(&both).1, "repeat_penalty");
}

#[test]
fn fields_of_later_versions_are_refused_by_name() {
    for (field, value) in [
        ("audio", json!({})),
        ("modalities", json!(["text", "audio"])),
        ("best_of", json!(2)),
        ("suffix", json!("s")),
    ] {
        assert_eq!(refused(&with(field, value)), ("unsupported_parameter", field.to_owned()));
    }
}

#[test]
fn a_conversation_takes_one_answer_and_needs_no_message() {
    let conversation = json!({"model": "m", "conversation": {"id": "conv_1"}});
    assert!(check(&conversation).unwrap().0.prompt.messages.is_empty());
    let mut two = conversation.clone();
    two["n"] = json!(2);
    assert_eq!(refused(&two), ("invalid_value", "n".to_owned()));
    assert_eq!(refused(&with("conversation", json!(7))).1, "conversation");
    assert_eq!(
        refused(&with("conversation", json!({}))),
        ("missing_required_parameter", "conversation.id".to_owned())
    );
    assert_eq!(refused(&json!({"model": "m"})), ("missing_required_parameter", "messages".to_owned()));
    let mut result = conversation;
    result["messages"] = json!([{"role": "function", "name": "f", "content": "1"}]);
    assert_eq!(refused(&result), ("invalid_value", "messages[0].role".to_owned()));
}

#[test]
fn functions_are_bounded_and_exclude_tools() {
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    let mut body = with("functions", json!([function]));
    body["function_call"] = json!({"name": "f"});
    let (chat, ignored) = check(&body).unwrap();
    assert!(ignored.is_empty(), "{ignored:?}");
    assert!(chat.tools.old_form && chat.tools.plan.is_some());
    assert_eq!(chat.prompt.tools, [json!({"type": "function", "function": function})]);
    body["tools"] = json!([{"type": "function", "function": function}]);
    assert_eq!(refused(&body), ("invalid_value", "functions".to_owned()));
    assert_eq!(refused(&with("functions", json!([{}]))).1, "functions[0].name");
    assert_eq!(refused(&with("functions", json!(1))).1, "functions");
    let many = vec![json!({"name": "f"}); 129];
    assert_eq!(refused(&with("functions", json!(many))).1, "functions");
    let mut grammar = with("functions", json!([function]));
    grammar["guided_choice"] = json!(["a"]);
    assert_eq!(refused(&grammar).1, "guided_choice");
}

#[test]
fn unknown_fields_are_named() {
    let mut body =
        with_message(json!({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}], "y": 2}));
    body["tempreature"] = json!(0);
    let (_, ignored) = check(&body).unwrap();
    assert_eq!(ignored, ["messages[0].content[0].x", "messages[0].y", "tempreature"]);
}

#[test]
fn content_is_flattened() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    for role in ["system", "developer", "user", "assistant"] {
        let (chat, _) = check(&with_message(json!({"role": role, "content": parts}))).unwrap();
        assert_eq!(chat.prompt.messages, [json!({"role": role, "content": "a\nb"})]);
    }
    let refusal = json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]});
    assert_eq!(check(&with_message(refusal)).unwrap().0.prompt.messages[0]["content"], "no");
}

#[test]
fn a_conversation_with_tools_is_history() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "tool_calls": [call], "refusal": null, "annotations": [],
         "audio": null, "function_call": null},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]);
    let (chat, ignored) = check(&with("messages", messages)).unwrap();
    assert!(ignored.is_empty(), "{ignored:?}");
    assert_eq!(chat.prompt.messages[1], json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    assert_eq!(chat.prompt.messages[2], json!({"role": "tool", "content": "sunny", "tool_call_id": "c1"}));
}

#[test]
fn wrong_messages_name_their_place() {
    for (message, param) in [
        (json!({"content": "x"}), "messages[0].role"),
        (json!({"role": "robot", "content": "x"}), "messages[0].role"),
        (json!({"role": "function", "content": "x"}), "messages[0].name"),
        (json!({"role": "function", "name": "f", "content": 1}), "messages[0].content"),
        (json!({"role": "user"}), "messages[0].content"),
        (json!({"role": "user", "content": null}), "messages[0].content"),
        (json!({"role": "user", "content": 1}), "messages[0].content"),
        (json!({"role": "user", "content": {}}), "messages[0].content"),
        (json!({"role": "user", "content": []}), "messages[0].content"),
        (json!({"role": "user", "content": ["x"]}), "messages[0].content[0]"),
        (json!({"role": "user", "content": [{}]}), "messages[0].content[0].type"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text"),
        (json!({"role": "user", "content": [{"type": "text", "text": 1}]}), "messages[0].content[0].text"),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}),
            "messages[0].content[0].type",
        ),
        (json!({"role": "user", "content": "x", "name": 1}), "messages[0].name"),
        (
            json!({"role": "user", "content": "x", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            "messages[0].tool_calls",
        ),
        (json!({"role": "user", "content": "x", "tool_call_id": "1"}), "messages[0].tool_call_id"),
        (json!({"role": "assistant"}), "messages[0].content"),
        (json!({"role": "assistant", "tool_calls": []}), "messages[0].content"),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}),
            "messages[0].tool_calls[0].function",
        ),
        (
            json!({"role": "assistant", "content": "x", "function_call": {"name": "f"}}),
            "messages[0].function_call.arguments",
        ),
        (
            json!({"role": "user", "content": "x", "function_call": {"name": "f", "arguments": ""}}),
            "messages[0].function_call",
        ),
        (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (json!("x"), "messages[0]"),
    ] {
        assert_eq!(refused(&with_message(message.clone())).1, param, "{message}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop_oneof![Just("text"), Just("user"), Just("function"), Just("none"), Just("auto")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            any::<String>(),
            Just("type".to_owned()),
            Just("text".to_owned()),
            Just("role".to_owned())
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "grammar",
    "json_schema",
    "modalities",
    "store",
    "logprobs",
    "top_logprobs",
    "unknown",
];
const MESSAGE_FIELDS: &[&str] = &[
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
    "annotations",
    "audio",
    "unknown",
];

proptest! {
    /// Any value in a field gives a request or a 400, and accepted values are in range.
    #[test]
    fn any_value_in_any_field_is_fine_or_a_400(
        field in proptest::sample::select(FIELDS.iter().copied().chain(sampling_fields()).collect::<Vec<_>>()),
        value in any_json(),
    ) {
        match check(&with(field, value)) {
            Err(error) => prop_assert_eq!(error.status(), 400),
            Ok((chat, _)) => {
                prop_assert!((1..=128).contains(&chat.n) && chat.max_tokens != Some(0));
                prop_assert!((0.0..=2.0).contains(&chat.sampling.temperature));
                prop_assert!((0.0..=1.0).contains(&chat.sampling.top_p));
                prop_assert!(chat.sampling.typical_p > 0.0 && chat.sampling.typical_p <= 1.0);
                prop_assert!(chat.sampling.repeat_penalty > 0.0 && chat.sampling.repeat_penalty <= 2.0);
                prop_assert!(chat.stop.len() <= 4 && !chat.prompt.messages.is_empty());
            }
        }
    }

    #[test]
    fn any_value_in_any_message_field_is_fine_or_a_400(
        role in proptest::sample::select(&["system", "user", "assistant", "tool"][..]),
        field in proptest::sample::select(MESSAGE_FIELDS),
        value in any_json(),
    ) {
        let mut message = json!({"role": role, "content": "x", "tool_call_id": "c"});
        if role != "tool" {
            message.as_object_mut().unwrap().remove("tool_call_id");
        }
        message[field] = value;
        match check(&with_message(message)) {
            Err(error) => prop_assert_eq!(error.status(), 400),
            Ok((chat, _)) => {
                let content = &chat.prompt.messages[0]["content"];
                prop_assert!(content.is_string() || (role == "assistant" && content.is_null()));
            }
        }
    }
}
