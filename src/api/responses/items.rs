//! Items (messages, calls and their results): as received, as stored, and as messages for the model.
//!
//! Source: `InputItem`, `ItemResource` and `OutputItem` in OpenAI's API description. A stored item is the JSON that
//! `GET /responses/{id}/input_items` shows.

use std::collections::HashSet;
use std::fmt;

use jan_actors::responses::ResponseId;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::request::Input;
use crate::api::inference::bounds::{self, MAX_MESSAGES, MAX_PARTS};
use crate::http::ApiError;
use crate::http::json::Checked;

/// Item types of the API that require features this server does not have.
const UNSUPPORTED: [&str; 13] = [
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "image_generation_call",
    "code_interpreter_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "custom_tool_call",
    "custom_tool_call_output",
];
const SUPPORTED: &str =
    "message, function_call, function_call_output, web_search_call, reasoning, item_reference";

/// An input item. Its fields depend on `type`; without `type` it is a message.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct InputItem {
    /// `message`, `function_call`, `function_call_output`, `web_search_call`, `reasoning` or `item_reference`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The item's id; for a reference, the id of the referenced item.
    id: Option<String>,
    /// Accepted, because items of responses contain it.
    status: Option<ItemStatus>,
    /// Messages: the role.
    role: Option<ItemRole>,
    /// Messages: a text, or parts of type `input_text`, `output_text` or `refusal`.
    #[schema(value_type = Option<String>)]
    content: Option<Content>,
    /// Calls and their results: the id that pairs them.
    call_id: Option<String>,
    /// Calls: the function's name.
    name: Option<String>,
    /// Calls: the arguments as JSON text.
    arguments: Option<String>,
    /// Web searches: accepted, because items of responses contain it, and not shown to models.
    #[schema(value_type = Option<Object>)]
    action: Option<Map<String, Value>>,
    /// Results of calls: a text, or parts of type `input_text`.
    #[schema(value_type = Option<String>)]
    output: Option<Content>,
    /// Reasoning: accepted, because items of responses contain it, and not shown to models.
    #[schema(value_type = Option<Vec<Object>>)]
    summary: Option<Vec<Part>>,
    /// Reasoning: the same.
    encrypted_content: Option<String>,
    /// Assistant messages: accepted and without effect.
    #[allow(dead_code, reason = "its type is checked")]
    phase: Option<String>,
}

/// The role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ItemRole {
    /// Instructions.
    System,
    /// Instructions, by their newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
}

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

#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
    #[serde(default)]
    #[allow(dead_code, reason = "its syntax is checked")]
    annotations: Checked,
    #[serde(default)]
    #[allow(dead_code, reason = "its syntax is checked")]
    logprobs: Checked,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// Checks a request's input and returns its items in their stored form, without ids if they have none yet.
pub fn normalize(input: Option<Input>) -> Result<Vec<Value>, ApiError> {
    match input {
        None => Ok(Vec::new()),
        Some(Input::Text(text)) => Ok(vec![json!({
            "type": "message", "status": "completed", "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })]),
        Some(Input::Items(items)) => {
            bounds::entries("input", items.len(), MAX_MESSAGES)?;
            let normalize = |(index, item): (usize, InputItem)| item.normalize(&format!("input[{index}]"));
            items.into_iter().enumerate().map(normalize).collect()
        }
    }
}

impl InputItem {
    /// Checks the item and returns its stored form. `at` is its path, for errors.
    fn normalize(self, at: &str) -> Result<Value, ApiError> {
        let missing = |field: &str| ApiError::missing(format!("{at}.{field}"));
        let status = self.status.unwrap_or(ItemStatus::Completed);
        bounds::names(at, [("call_id", self.call_id.as_deref()), ("name", self.name.as_deref())])?;
        bounds::entries(&format!("{at}.summary"), self.summary.as_ref().map_or(0, Vec::len), MAX_PARTS)?;
        let kind = match self.kind.as_deref() {
            Some(kind) => kind,
            None if self.role.is_some() || self.content.is_some() => "message",
            None if self.id.is_some() => "item_reference",
            None => return Err(missing("role")),
        };
        if matches!(status, ItemStatus::Searching | ItemStatus::Failed) && kind != "web_search_call" {
            let message =
                format!("Invalid '{at}.status': expected 'in_progress', 'completed' or 'incomplete'.");
            return Err(ApiError::invalid_value(format!("{at}.status"), message));
        }
        let mut item = match kind {
            "message" => {
                let role = self.role.ok_or_else(|| missing("role"))?;
                let content = self.content.ok_or_else(|| missing("content"))?;
                let content = message_parts(content, role, &format!("{at}.content"))?;
                json!({"type": "message", "status": status, "role": role, "content": content})
            }
            "function_call" => json!({
                "type": "function_call", "status": status,
                "call_id": self.call_id.ok_or_else(|| missing("call_id"))?,
                "name": self.name.ok_or_else(|| missing("name"))?,
                "arguments": self.arguments.ok_or_else(|| missing("arguments"))?,
            }),
            "function_call_output" => {
                let output = match self.output.ok_or_else(|| missing("output"))? {
                    Content::Text(text) => json!(text),
                    parts => json!(message_parts(parts, ItemRole::User, &format!("{at}.output"))?),
                };
                json!({
                    "type": "function_call_output", "status": status,
                    "call_id": self.call_id.ok_or_else(|| missing("call_id"))?, "output": output,
                })
            }
            "web_search_call" => json!({
                "type": "web_search_call", "status": status,
                "action": self.action.ok_or_else(|| missing("action"))?,
            }),
            "reasoning" => {
                let parts = self.summary.ok_or_else(|| missing("summary"))?;
                let shown =
                    |part: Part| json!({"type": "summary_text", "text": part.text.unwrap_or_default()});
                let summary: Vec<Value> = parts.into_iter().map(shown).collect();
                let thought = match self.content {
                    None => Vec::new(),
                    Some(Content::Text(text)) => vec![text],
                    Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
                };
                let content: Vec<Value> =
                    thought.iter().map(|text| json!({"type": "reasoning_text", "text": text})).collect();
                json!({
                    "type": "reasoning", "summary": summary, "content": content,
                    "encrypted_content": self.encrypted_content,
                })
            }
            "item_reference" => {
                return Ok(json!({"type": kind, "id": self.id.ok_or_else(|| missing("id"))?}));
            }
            kind => return Err(unknown_kind(kind, at)),
        };
        if let Some(id) = self.id {
            if id.is_empty() || id.len() > 128 {
                let message = format!("Invalid '{at}.id': an item's id has 1 to 128 bytes.");
                return Err(ApiError::invalid_value(format!("{at}.id"), message));
            }
            item["id"] = json!(id);
        }
        Ok(item)
    }
}

fn unknown_kind(kind: &str, at: &str) -> ApiError {
    let param = format!("{at}.type");
    if UNSUPPORTED.contains(&kind) {
        let message = format!(
            "Unsupported parameter: items of type '{kind}' are not supported by this server; it takes {SUPPORTED}."
        );
        return ApiError::unsupported(param, message);
    }
    let message = format!("Invalid '{param}': '{kind}' is not one of {SUPPORTED}.");
    ApiError::invalid_value(param, message)
}

fn message_parts(content: Content, role: ItemRole, at: &str) -> Result<Vec<Value>, ApiError> {
    let text_part = |text: String| match role {
        ItemRole::Assistant => {
            json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        }
        _ => json!({"type": "input_text", "text": text}),
    };
    let parts = match content {
        Content::Text(text) => return Ok(vec![text_part(text)]),
        Content::Parts(parts) => parts,
    };
    bounds::entries(at, parts.len(), MAX_PARTS)?;
    if parts.is_empty() {
        return Err(ApiError::invalid_value(at, format!("Invalid '{at}': at least one part is needed.")));
    }
    let check = |(index, part): (usize, Part)| {
        let param = format!("{at}[{index}].type");
        let is_assistant = role == ItemRole::Assistant;
        let missing = |field| ApiError::missing(format!("{at}[{index}].{field}"));
        match part.kind.as_str() {
            "output_text" if is_assistant => Ok(text_part(part.text.ok_or_else(|| missing("text"))?)),
            "refusal" if is_assistant => {
                Ok(json!({"type": "refusal", "refusal": part.refusal.ok_or_else(|| missing("refusal"))?}))
            }
            "input_text" if !is_assistant => Ok(text_part(part.text.ok_or_else(|| missing("text"))?)),
            kind @ ("input_image" | "input_file" | "input_audio") => Err(ApiError::invalid_value(
                &param,
                format!("Invalid '{param}': '{kind}', but this model only takes text."),
            )),
            kind => {
                let allowed = if is_assistant { "'output_text' or 'refusal'" } else { "'input_text'" };
                let message = format!("Invalid '{param}': '{kind}' must be {allowed} here.");
                Err(ApiError::invalid_value(&param, message))
            }
        }
    };
    parts.into_iter().enumerate().map(check).collect()
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

    use super::*;

    fn read(json: Value) -> Result<Vec<Value>, String> {
        let input: Input = serde_json::from_value(json).map_err(|error| error.to_string())?;
        normalize(Some(input)).map_err(|error| error.param().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_text_and_a_short_message_are_whole_messages() {
        let text = read(json!("Hi")).unwrap();
        assert_eq!(text, read(json!([{"role": "user", "content": "Hi"}])).unwrap());
        assert_eq!(text[0]["content"], json!([{"type": "input_text", "text": "Hi"}]));
        let said = read(json!([{"role": "assistant", "content": "Ho"}])).unwrap();
        assert_eq!(said[0]["content"][0]["type"], "output_text");
    }

    #[test]
    fn errors_name_the_invalid_field() {
        for (item, param) in [
            (json!({}), "input[0].role"),
            (json!({"type": "message", "content": "x"}), "input[0].role"),
            (json!({"role": "user"}), "input[0].content"),
            (json!({"role": "user", "content": []}), "input[0].content"),
            (json!({"role": "user", "content": [{"type": "input_text"}]}), "input[0].content[0].text"),
            (
                json!({"role": "user", "content": [{"type": "output_text", "text": "x"}]}),
                "input[0].content[0].type",
            ),
            (json!({"role": "user", "content": [{"type": "input_image"}]}), "input[0].content[0].type"),
            (
                json!({"role": "assistant", "content": [{"type": "input_text", "text": ""}]}),
                "input[0].content[0].type",
            ),
            (json!({"type": "function_call", "name": "f", "arguments": "{}"}), "input[0].call_id"),
            (json!({"type": "function_call_output", "call_id": "c"}), "input[0].output"),
            (json!({"type": "item_reference"}), "input[0].id"),
            (json!({"type": "web_search_call"}), "input[0].action"),
            (json!({"type": "image_generation_call"}), "input[0].type"),
            (json!({"role": "user", "content": "x", "status": "failed"}), "input[0].status"),
            (json!({"type": "nonsense"}), "input[0].type"),
            (json!({"role": "user", "content": "x", "id": ""}), "input[0].id"),
        ] {
            assert_eq!(read(json!([item])), Err(param.to_owned()), "{item}");
        }
        for wrong in [json!(1), json!({}), json!([1]), json!([{"role": "robot"}])] {
            assert!(read(wrong).is_err());
        }
    }

    #[test]
    fn messages_are_chats() {
        let items = read(json!([
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        ]))
        .unwrap();
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
