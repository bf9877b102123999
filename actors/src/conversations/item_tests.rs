use proptest::prelude::*;

use super::*;

fn body(item: Value) -> Value {
    Value::Object(check(item, "items[0]", 10_000).unwrap().body)
}

fn field(item: Value) -> String {
    match check(item.clone(), "items[0]", 10_000) {
        Err(ConversationError::Invalid { field, .. }) => field,
        other => panic!("{item}: {other:?}"),
    }
}

#[test]
fn short_messages_are_completed() {
    assert_eq!(
        body(json!({"role": "user", "content": "Hello"})),
        json!({"type": "message", "status": "completed", "role": "user",
               "content": [{"type": "input_text", "text": "Hello"}]})
    );
    assert_eq!(
        body(json!({"type": "message", "id": "msg_mine", "role": "assistant", "status": "incomplete",
                    "content": [{"type": "text", "text": "Hi"}], "phase": "final_answer"})),
        json!({"type": "message", "status": "incomplete", "role": "assistant", "phase": "final_answer",
               "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]})
    );
}

#[test]
fn other_items_are_stored_unchanged() {
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let mut expected = call.clone();
    expected["status"] = json!("completed");
    assert_eq!(body(call), expected);
    assert_eq!(body(json!({"type": "reasoning"}))["summary"], json!([]));
    let search = json!({"type": "web_search_call", "status": "searching", "action": {"query": "q"}});
    assert_eq!(body(search.clone()), search);
}

#[test]
fn errors_name_the_invalid_field() {
    for (item, at) in [
        (json!("text"), "items[0]"),
        (json!({}), "items[0].type"),
        (json!({"type": 7}), "items[0].type"),
        (json!({"type": "item_reference", "id": "x"}), "items[0].type"),
        (json!({"role": "robot", "content": "x"}), "items[0].role"),
        (json!({"role": 1, "content": "x"}), "items[0].role"),
        (json!({"type": "message", "content": "x"}), "items[0].role"),
        (json!({"role": "user"}), "items[0].content"),
        (json!({"role": "user", "content": null}), "items[0].content"),
        (json!({"role": "user", "content": 5}), "items[0].content"),
        (json!({"role": "user", "content": "x", "status": "done"}), "items[0].status"),
        (json!({"role": "user", "content": ["x"]}), "items[0].content[0]"),
        (json!({"role": "user", "content": [{"text": "x"}]}), "items[0].content[0].type"),
        (json!({"role": "user", "content": [{"type": "sculpture"}]}), "items[0].content[0].type"),
        (json!({"role": "user", "content": [{"type": "input_text"}]}), "items[0].content[0].text"),
        (
            json!({"role": "user", "content": [{"type": "refusal", "text": "x"}]}),
            "items[0].content[0].refusal",
        ),
        (json!({"type": "function_call", "call_id": "c", "name": "f"}), "items[0].arguments"),
        (json!({"type": "function_call_output", "call_id": "c"}), "items[0].output"),
        (json!({"type": "reasoning", "summary": "x"}), "items[0].summary"),
        (json!({"role": "user", "content": "x".repeat(10_000)}), "items[0]"),
    ] {
        assert_eq!(field(item.clone()), at, "{item}");
    }
}

#[test]
fn texts() {
    let text = |item| text_of(&check(item, "", 10_000).unwrap().body);
    let parts = json!([{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"}, {"type": "text", "text": "b"}]);
    assert_eq!(text(json!({"role": "user", "content": parts})), "a\nb");
    assert_eq!(text(json!({"type": "function_call_output", "call_id": "c", "output": "42"})), "42");
    assert_eq!(text(json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]})), "so");
    assert_eq!(text(json!({"type": "mcp_call"})), "");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let name = prop_oneof![
            Just("type"),
            Just("role"),
            Just("content"),
            Just("status"),
            Just("text"),
            Just("id"),
            Just("output"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    /// Nothing panics, and a checked item passes again unchanged: an export can be imported.
    #[test]
    fn checked_items_remain_unchanged(item in any_json()) {
        if let Ok(new) = check(item, "", 100_000) {
            let again = check(Value::Object(new.body.clone()), "", 100_000).unwrap();
            prop_assert_eq!(again, new);
        }
    }
}
