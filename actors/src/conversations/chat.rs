//! Conversion between items and the messages of chat completions.

use serde_json::{Map, Value, json};

use super::item::{kind, role, text_of, text_part};
use super::types::Item;

/// Returns the items that lead to an answer as chat messages, each content as one text. Items that a chat template does not
/// support, such as reasoning, are left out, and so is an answer that was cut off before its first word.
#[must_use]
pub fn messages(history: &[Item]) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::with_capacity(history.len());
    for item in history {
        match message(&item.body) {
            Some(Value::Object(mut call)) if kind(&item.body) == "function_call" => {
                let calls = call.remove("tool_calls").unwrap_or_default();
                add_calls(&mut messages, calls);
            }
            Some(message) if message["role"] != "assistant" || message["content"] != "" => {
                messages.push(message);
            }
            _ => {}
        }
    }
    messages
}

/// Returns an item as a single chat message.
#[must_use]
pub fn message(body: &Map<String, Value>) -> Option<Value> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match kind(body) {
        "message" => {
            let mut message = json!({"role": role(body).unwrap_or("user"), "content": text_of(body)});
            if let Some(name) = body.get("name").filter(|name| name.is_string()) {
                message["name"] = name.clone();
            }
            Some(message)
        }
        "function_call" => {
            let function = json!({"name": text("name"), "arguments": text("arguments")});
            let call = json!({"id": text("call_id"), "type": "function", "function": function});
            Some(json!({"role": "assistant", "content": null, "tool_calls": [call]}))
        }
        "function_call_output" => {
            Some(json!({"role": "tool", "tool_call_id": text("call_id"), "content": text_of(body)}))
        }
        _ => None,
    }
}

/// Adds calls; consecutive calls, or calls after an answer, are one message.
fn add_calls(messages: &mut Vec<Value>, calls: Value) {
    let Some(last) = messages.last_mut().filter(|last| last["role"] == "assistant") else {
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": calls}));
        return;
    };
    match (last.get_mut("tool_calls").and_then(Value::as_array_mut), calls) {
        (Some(there), Value::Array(calls)) => there.extend(calls),
        (_, calls) => last["tool_calls"] = calls,
    }
}

/// Returns chat messages, each content as one text, as items.
#[must_use]
pub fn items(messages: &[Value]) -> Vec<Map<String, Value>> {
    let mut items = Vec::with_capacity(messages.len());
    for message in messages {
        let role = message["role"].as_str().unwrap_or("user");
        let content = message["content"].as_str();
        if role == "tool" {
            items.push(json!({
                "type": "function_call_output", "call_id": message["tool_call_id"],
                "output": content.unwrap_or_default(),
            }));
            continue;
        }
        if let Some(text) = content {
            let mut item =
                json!({"type": "message", "role": role, "content": [text_part(role, text.to_owned())]});
            if let Some(name) = message.get("name") {
                item["name"] = name.clone();
            }
            items.push(item);
        }
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let function = &call["function"];
            items.push(json!({
                "type": "function_call", "call_id": call["id"], "name": function["name"],
                "arguments": function["arguments"],
            }));
        }
    }
    let object = |item| match item {
        Value::Object(object) => Some(object),
        _ => None,
    };
    items.into_iter().filter_map(object).collect()
}

/// Returns the positions of the new items to be stored. Clients of chat completions send their instructions with every request;
/// those that the branch already contains are not stored again.
#[must_use]
pub fn without_repeated_instructions(bodies: &[Map<String, Value>], history: &[Item]) -> Vec<usize> {
    let is_instruction = |body: &Map<String, Value>| matches!(role(body), Some("system" | "developer"));
    let instructions: Vec<_> = history
        .iter()
        .filter(|item| is_instruction(&item.body))
        .map(|item| (role(&item.body), text_of(&item.body)))
        .collect();
    let is_repeated =
        |body: &Map<_, _>| is_instruction(body) && instructions.contains(&(role(body), text_of(body)));
    (0..bodies.len()).filter(|&at| !is_repeated(&bodies[at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversations::item::own;

    fn history(messages: &[Value]) -> Vec<Item> {
        let items = items(messages).into_iter().map(|body| own(body, 10_000).unwrap().body);
        items.map(|body| Item { id: String::new(), parent: None, created_at: 0, body }).collect()
    }

    #[test]
    fn messages_round_trip() {
        let call =
            |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let chat = [
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "Hello"}),
            json!({"role": "assistant", "content": "Hi"}),
            json!({"role": "user", "content": "Call both"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]}),
            json!({"role": "tool", "tool_call_id": "a", "content": "1"}),
            json!({"role": "tool", "tool_call_id": "b", "content": "2"}),
            json!({"role": "assistant", "content": "Calling again", "tool_calls": [call("c")]}),
            json!({"role": "tool", "tool_call_id": "c", "content": ""}),
        ];
        assert_eq!(messages(&history(&chat)), chat);
    }

    #[test]
    fn instructions_are_stored_once() {
        let system = json!({"role": "system", "content": "Be brief."});
        let user = json!({"role": "user", "content": "Be brief."});
        let new = items(&[system.clone(), user.clone()]);
        assert_eq!(without_repeated_instructions(&new, &[]), [0, 1]);
        assert_eq!(without_repeated_instructions(&new, &history(&[system, user])), [1]);
    }

    #[test]
    fn answers_without_text_are_left_out() {
        let said =
            history(&[json!({"role": "user", "content": ""}), json!({"role": "assistant", "content": ""})]);
        assert_eq!(messages(&said), [json!({"role": "user", "content": ""})]);
    }
}
