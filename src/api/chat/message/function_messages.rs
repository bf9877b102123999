//! Messages in the form of the deprecated `functions`, as those of `tools`: an assistant's `function_call` becomes a call with
//! an id, and a message of the role `function` the result of the call of that name before it.

use std::collections::{HashMap, HashSet};

use super::{Message, Role, ToolCall, ToolCallKind};
use crate::api::inference::bounds::{self, MAX_NAME};
use crate::api::inference::call_ids;
use crate::http::ApiError;

/// Converts the messages that have the old form.
///
/// # Errors
/// 400 that names the field.
pub fn renew(messages: &mut [Message]) -> Result<(), ApiError> {
    // The ids of the calls without a result so far, by the function's name.
    let mut open: HashMap<String, Vec<String>> = HashMap::new();
    for (index, message) in messages.iter_mut().enumerate() {
        let at = |field: &str| format!("messages[{index}].{field}");
        if let Some(function) = message.function_call.take() {
            let place = at("function_call");
            if message.role != Role::Assistant {
                let text = format!("Invalid '{place}': only assistant messages have a call.");
                return Err(ApiError::invalid_value(place, text));
            }
            if message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) {
                let text =
                    format!("'{place}' and 'tool_calls' are mutually exclusive; send only 'tool_calls'.");
                return Err(ApiError::invalid_value(place, text));
            }
            bounds::text(&format!("{place}.name"), Some(&function.name), MAX_NAME)?;
            let id = id_of(index, &function.name);
            open.entry(function.name.clone()).or_default().push(id.clone());
            message.tool_calls = Some(vec![ToolCall { id, kind: ToolCallKind::Function, function }]);
        }
        if message.role == Role::Function {
            if message.tool_call_id.is_some() {
                let place = at("tool_call_id");
                let text = format!("Invalid '{place}': only tool messages have it.");
                return Err(ApiError::invalid_value(place, text));
            }
            let name = message.name.as_deref().ok_or_else(|| ApiError::missing(at("name")))?;
            bounds::text(&at("name"), Some(name), MAX_NAME)?;
            let call = open.get_mut(name).and_then(Vec::pop);
            // A result without a call is shown like any other.
            message.tool_call_id = Some(call.unwrap_or_else(|| id_of(index, name)));
            message.role = Role::Tool;
        }
    }
    Ok(())
}

/// Refuses results of functions that are not called in the same messages: the calls that a conversation has stored are
/// known by ids, which such results lack.
///
/// # Errors
/// 400 that names the result.
pub fn check_results_have_calls(messages: &[Message]) -> Result<(), ApiError> {
    let mut called = HashSet::new();
    for (index, message) in messages.iter().enumerate() {
        called.extend(message.function_call.as_ref().map(|call| call.name.as_str()));
        // One without a name is refused for that.
        let has_call = message.name.as_deref().is_none_or(|name| called.contains(name));
        if message.role == Role::Function && !has_call {
            let place = format!("messages[{index}].role");
            let text = format!(
                "Invalid '{place}': a result of the role 'function' needs its call in the same 'messages'; with \
                 'conversation' use the role 'tool' and the call's id."
            );
            return Err(ApiError::invalid_value(place, text));
        }
    }
    Ok(())
}

/// Returns a call's id, the same in the next request with the same beginning, so that a template that shows ids makes the
/// same prompt of it.
fn id_of(index: usize, name: &str) -> String {
    // FNV-1a
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in index.to_le_bytes().into_iter().chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    call_ids::of(hash.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::message_objects;
    use super::*;

    fn read(messages: &Value) -> Vec<Message> {
        serde_json::from_value(messages.clone()).unwrap()
    }

    fn objects(messages: &Value) -> Result<Vec<Value>, ApiError> {
        message_objects(read(messages))
    }

    fn call(name: &str) -> Value {
        json!({"role": "assistant", "content": null, "function_call": {"name": name, "arguments": "{}"}})
    }

    fn result(name: &str, content: &str) -> Value {
        json!({"role": "function", "name": name, "content": content})
    }

    #[test]
    fn calls_and_results_are_those_of_tools() {
        let all = objects(&json!([
            {"role": "user", "content": "weather?"}, call("f"), result("f", "sunny"), call("f"), result("f", "rain"),
        ]))
        .unwrap();
        let ids: Vec<&str> =
            [1, 3].iter().map(|&at| all[at]["tool_calls"][0]["id"].as_str().unwrap()).collect();
        assert_ne!(ids[0], ids[1]);
        for (at, id, content) in [(1, ids[0], "sunny"), (3, ids[1], "rain")] {
            let function = json!({"name": "f", "arguments": "{}"});
            let calls = json!([{"id": id, "type": "function", "function": function}]);
            assert_eq!(all[at], json!({"role": "assistant", "content": null, "tool_calls": calls}));
            let result = json!({"role": "tool", "content": content, "name": "f", "tool_call_id": id});
            assert_eq!(all[at + 1], result);
        }
    }

    #[test]
    fn results_belong_to_the_call_of_their_name() {
        let all = objects(&json!([call("f"), call("g"), result("f", "1"), result("g", "2")])).unwrap();
        for (call, result) in [(0, 2), (1, 3)] {
            assert_eq!(all[call]["tool_calls"][0]["id"], all[result]["tool_call_id"]);
        }
    }

    #[test]
    fn empty_results_may_be_null() {
        let null = json!([call("f"), {"role": "function", "name": "f", "content": null}]);
        assert_eq!(objects(&null).unwrap()[1]["content"], "");
    }

    #[test]
    fn wrong_messages_name_their_place() {
        let function = json!({"name": "f", "arguments": "{}"});
        let tool_call = json!({"id": "1", "type": "function", "function": function});
        for (message, param) in [
            (json!({"role": "function", "content": "x"}), "messages[0].name"),
            (
                json!({"role": "function", "name": "f", "content": "x", "tool_call_id": "1"}),
                "messages[0].tool_call_id",
            ),
            (json!({"role": "function", "name": "f".repeat(513), "content": "x"}), "messages[0].name"),
            (
                json!({"role": "assistant", "function_call": {"name": "f".repeat(513), "arguments": "{}"}}),
                "messages[0].function_call.name",
            ),
            (json!({"role": "user", "content": "x", "function_call": function}), "messages[0].function_call"),
            (
                json!({"role": "assistant", "function_call": function, "tool_calls": [tool_call]}),
                "messages[0].function_call",
            ),
        ] {
            let error = objects(&json!([message])).expect_err(&message.to_string());
            assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)), "{message}");
        }
    }

    #[test]
    fn stored_calls_have_ids_that_such_results_lack() {
        let fine = read(&json!([{"role": "user", "content": "x"}, call("f"), result("f", "1")]));
        assert!(check_results_have_calls(&fine).is_ok());
        let orphan = read(&json!([call("g"), result("f", "1")]));
        assert_eq!(check_results_have_calls(&orphan).unwrap_err().param(), Some("messages[1].role"));
        assert!(message_objects(orphan).is_ok());
    }

    proptest! {
        /// Every result has the id of a call of its name before it, if one is left, and no two have the same call.
        #[test]
        fn each_call_has_at_most_one_result(turns in prop::collection::vec((any::<bool>(), "[fg]"), 0..12)) {
            let messages: Vec<Value> = turns
                .iter()
                .map(|(is_call, name)| if *is_call { call(name) } else { result(name, "x") })
                .collect();
            let all = objects(&Value::from(messages)).unwrap();
            let mut answered = HashSet::new();
            let mut open = HashMap::<&str, usize>::new();
            for ((is_call, name), message) in turns.iter().zip(&all) {
                let left = open.entry(name).or_default();
                if *is_call {
                    *left += 1;
                    continue;
                }
                let id = message["tool_call_id"].as_str().unwrap();
                prop_assert!(answered.insert(id), "two results of {}", id);
                let called = all.iter().find(|message| message["tool_calls"][0]["id"] == *id);
                prop_assert_eq!(called.is_some(), *left > 0);
                if let Some(called) = called {
                    prop_assert_eq!(&called["tool_calls"][0]["function"]["name"], name);
                    *left -= 1;
                }
            }
        }

        #[test]
        fn ids_are_nine_letters_and_digits(index in 0usize..20_000, name in ".{0,20}") {
            let id = id_of(index, &name);
            prop_assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{}", id);
        }
    }
}
