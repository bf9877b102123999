//! Items (messages, calls and their results): as received, as stored, and as messages for the model.
//!
//! Source: `InputItem`, `ItemResource` and `OutputItem` in OpenAI's API description. A stored item is the JSON that
//! `GET /responses/{id}/input_items` shows.

use std::collections::HashSet;

use jan_actors::responses::ResponseId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The state of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// It is being generated.
    InProgress,
    /// It is complete.
    Completed,
    /// It ended early.
    Incomplete,
    /// Web searches: it is running.
    Searching,
    /// Web searches: it failed.
    Failed,
}

/// Returns the id of the message of a response.
pub fn message_id(response: ResponseId) -> String {
    format!("msg_{}", digits(response))
}

fn digits(response: ResponseId) -> String {
    let text = response.to_string();
    text[ResponseId::PREFIX.len()..].to_owned()
}

/// Returns the response that an item belongs to, according to its id.
pub fn response_of(item: &str) -> Option<ResponseId> {
    let (_, digits) = item.split_once('_')?;
    format!("{}{}", ResponseId::PREFIX, digits.get(..32)?).parse().ok()
}

/// Returns an item's id; empty if it has none.
pub fn id_of(item: &Value) -> &str {
    item["id"].as_str().unwrap_or_default()
}

/// Removes an item's id.
pub fn forget_id(item: &mut Value) {
    if let Value::Object(fields) = item {
        fields.shift_remove("id");
    }
}

/// Gives every item an id that is unique in this response.
pub fn assign_ids(response: ResponseId, history: &[Value], input: &mut [Value]) {
    let mut taken: HashSet<String> = history.iter().map(|item| id_of(item).to_owned()).collect();
    for (number, item) in input.iter_mut().enumerate() {
        let given = id_of(item).to_owned();
        if !given.is_empty() && taken.insert(given) {
            continue;
        }
        let prefix = match item["type"].as_str() {
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            Some("reasoning") => "rs",
            Some("web_search_call") => "ws",
            _ => "msg",
        };
        let id = format!("{prefix}_{}{:04x}", digits(response), number + 1);
        taken.insert(id.clone());
        item["id"] = json!(id);
    }
}

/// Converts items to messages for the model. Reasoning is attached to the message that followed it; the template
/// decides whether to show it.
pub fn to_messages<'a>(items: impl IntoIterator<Item = &'a Value>) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    let mut thought: Option<String> = None;
    for item in items {
        let before = messages.len();
        match item["type"].as_str() {
            Some("message") => {
                let text = text_of(&item["content"]);
                // An empty answer ended before its first word.
                if item["role"] != "assistant" || !text.is_empty() {
                    messages.push(json!({"role": item["role"], "content": text}));
                }
            }
            Some("function_call") => {
                let call = json!({
                    "id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                });
                // The calls of one turn belong to the message that made them.
                match messages.last_mut().filter(|message| message["role"] == "assistant") {
                    Some(message) => match message["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => message["tool_calls"] = json!([call]),
                    },
                    None => {
                        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}))
                    }
                }
            }
            Some("function_call_output") => messages.push(json!({
                "role": "tool", "tool_call_id": item["call_id"], "content": text_of(&item["output"]),
            })),
            Some("reasoning") => {
                thought = Some(text_of(&item["content"])).filter(|text| !text.is_empty());
                continue;
            }
            _ => {}
        }
        let new = messages.len() > before;
        if let Some(message) = messages.last_mut().filter(|_| new)
            && let Some(thought) = thought.take()
            && message["role"] == "assistant"
        {
            message["reasoning_content"] = Value::String(thought);
        }
    }
    messages
}

/// Returns a text, or the texts of parts, joined by line breaks as in chat.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| part["text"].as_str().or(part["refusal"].as_str()).map(str::to_owned);
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::input;
    use super::*;

    #[test]
    fn messages_are_chats() {
        let input = serde_json::from_value(json!([
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        ]));
        let items = input::normalize(Some(input.unwrap())).unwrap();
        let messages = to_messages(&items);
        assert_eq!(messages[0], json!({"role": "user", "content": "a\nb"}));
        assert_eq!(messages[1]["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(messages[2], json!({"role": "tool", "tool_call_id": "c1", "content": "1"}));
        assert_eq!(messages.len(), 4);
    }

    proptest! {
        #[test]
        fn ids_are_unique_and_lead_back(ids in prop::collection::vec(prop::option::of("[ab]{1,2}"), 0..20)) {
            let response = ResponseId::new();
            let history = [json!({"type": "message", "id": "a"})];
            let mut input: Vec<Value> = ids.iter().map(|id| match id {
                Some(id) => json!({"type": "message", "id": id}),
                None => json!({"type": "function_call"}),
            }).collect();
            assign_ids(response, &history, &mut input);
            let all: HashSet<&str> = history.iter().chain(&input).map(id_of).collect();
            prop_assert_eq!(all.len(), input.len() + 1);
            prop_assert!(input.iter().map(id_of).filter(|id| id.len() > 2).all(|id| response_of(id) == Some(response)));
            prop_assert_eq!(response_of(&message_id(response)), Some(response));
        }

        #[test]
        fn no_id_panics(id in ".{0,60}") {
            let _ = response_of(&id);
        }
    }
}
