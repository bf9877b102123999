//! `input`: a text, or items of the caller, with their checks.
//!
//! Source: `InputParam` and `InputItem` in OpenAI's API description.

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::items::ItemStatus;
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

/// `input`: a text or a list of items.
#[derive(Debug)]
pub enum Input {
    /// One message of the user.
    Text(String),
    /// Items.
    Items(Vec<InputItem>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of items")
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Input::Items(items))
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
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

#[cfg(test)]
mod tests {
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
}
