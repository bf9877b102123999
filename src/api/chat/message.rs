//! The messages of a chat, as received and as passed to chat templates.
//!
//! Source: `ChatCompletionRequestMessage` in OpenAI's API description.

mod function_messages;

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub use self::function_messages::check_results_have_calls;
use crate::api::inference::bounds::{self, MAX_CALLS, MAX_NAME, MAX_PARTS};
use crate::http::ApiError;
use crate::http::json::{Checked, ValueShape};

/// A chat message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Message {
    /// The role.
    pub role: Role,
    /// The content; optional for a result, and for an assistant's message with calls or `reasoning_content`.
    #[serde(default)]
    #[schema(value_type = Option<ContentShape>)]
    content: Option<Content>,
    /// Distinguishes participants of one role. Function messages: the function.
    name: Option<String>,
    /// Assistant messages: its tool calls.
    tool_calls: Option<Vec<ToolCall>>,
    /// Tool messages: the id of the call.
    tool_call_id: Option<String>,
    /// Assistant messages: the refusal.
    refusal: Option<String>,
    /// Assistant messages: the earlier reasoning, for templates that show it.
    reasoning_content: Option<String>,
    /// Assistant messages: accepted, because responses carry it, and left out.
    #[serde(default)]
    #[schema(ignore)]
    #[allow(dead_code, reason = "its syntax is checked")]
    annotations: Checked,
    /// Assistant messages: its call of one of `functions`.
    #[schema(deprecated)]
    function_call: Option<CalledFunction>,
    #[serde(default = "null")]
    #[schema(ignore)]
    audio: ValueShape,
}

fn null() -> ValueShape {
    ValueShape::Null
}

/// The role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = MessageRole)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by their newer name.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
    /// The result of one of `functions`; deprecated.
    Function,
}

/// An earlier tool call of the assistant.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: ToolCallKind,
    /// The called function.
    pub function: CalledFunction,
}

/// The type of a tool.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolCallKind {
    /// A function with JSON arguments.
    Function,
}

/// The called function.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct CalledFunction {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// A text, or parts of one.
#[derive(ToSchema)]
#[schema(as = MessageContent)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what Content reads")]
pub enum ContentShape {
    /// A text.
    Text(String),
    /// Its parts.
    Parts(Vec<PartShape>),
}

/// A text part.
#[derive(ToSchema)]
#[schema(as = ContentPart)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what Content reads")]
pub enum PartShape {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// Assistant messages: the refusal.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// A message's content: a text or parts.
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

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
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

/// Converts messages to the form of chat templates: OpenAI's objects with the content as one string, and with calls and
/// results as those of `tools`.
///
/// # Errors
/// 400 that names the field.
pub fn message_objects(mut messages: Vec<Message>) -> Result<Vec<Value>, ApiError> {
    function_messages::renew(&mut messages)?;
    messages.into_iter().enumerate().map(message_object).collect()
}

fn message_object((index, message): (usize, Message)) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = message.role;
    if message.audio != ValueShape::Null {
        let param = at("audio");
        let message = format!("Unsupported parameter: '{param}' is not supported by this server.");
        return Err(ApiError::unsupported(param, message));
    }
    for (field, name) in [("name", &message.name), ("tool_call_id", &message.tool_call_id)] {
        bounds::text(&at(field), name.as_deref(), MAX_NAME)?;
    }
    bounds::entries(&at("tool_calls"), message.tool_calls.as_ref().map_or(0, Vec::len), MAX_CALLS)?;
    let tool_calls = message.tool_calls.filter(|calls| !calls.is_empty());
    if tool_calls.is_some() && role != Role::Assistant {
        return Err(ApiError::invalid_value(
            at("tool_calls"),
            format!("Invalid '{}': only assistant messages have tool calls.", at("tool_calls")),
        ));
    }
    let thought = message.reasoning_content.as_ref().is_some_and(|_| role == Role::Assistant);
    // A result, and an answer that is a thought or calls, may be empty, however that is said.
    let may_be_empty = role == Role::Tool || tool_calls.is_some() || thought;
    let given = message.content.filter(|content| !(may_be_empty && content.has_no_part()));
    let content = match (given, message.refusal) {
        (Some(content), _) => Some(flatten(content, role, index)?),
        (None, Some(refusal)) if role == Role::Assistant => Some(refusal),
        (None, _) if tool_calls.is_some() => None,
        (None, _) if may_be_empty => Some(String::new()),
        (None, _) => {
            let wants = match role {
                Role::Assistant => "a string, or 'tool_calls' or 'reasoning_content' beside it",
                _ => "a string",
            };
            return Err(ApiError::invalid_type(
                Some(at("content")),
                format!("Invalid value for '{}': expected {wants}, got null or nothing.", at("content")),
            ));
        }
    };
    let mut object = Map::new();
    object.insert("role".to_owned(), json!(role));
    object.insert("content".to_owned(), json!(content));
    if let Some(name) = message.name {
        object.insert("name".to_owned(), Value::String(name));
    }
    if let Some(thought) = message.reasoning_content.filter(|_| role == Role::Assistant) {
        object.insert("reasoning_content".to_owned(), Value::String(thought));
    }
    if let Some(calls) = tool_calls {
        object.insert("tool_calls".to_owned(), json!(calls));
    }
    match (role, message.tool_call_id) {
        (Role::Tool, Some(id)) => {
            object.insert("tool_call_id".to_owned(), Value::String(id));
        }
        (Role::Tool, None) => return Err(ApiError::missing(at("tool_call_id"))),
        (_, Some(_)) => {
            return Err(ApiError::invalid_value(
                at("tool_call_id"),
                format!("Invalid '{}': only tool messages have it.", at("tool_call_id")),
            ));
        }
        (_, None) => {}
    }
    Ok(Value::Object(object))
}

impl Content {
    fn has_no_part(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.is_empty())
    }
}

/// Returns a content's text; parts are joined by line breaks, as in llama.cpp and vLLM.
fn flatten(content: Content, role: Role, message: usize) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let at = format!("messages[{message}].content");
    bounds::entries(&at, parts.len(), MAX_PARTS)?;
    if parts.is_empty() {
        return Err(ApiError::invalid_value(&at, format!("Invalid '{at}': at least one part is needed.")));
    }
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (field, text) = match part.kind.as_str() {
            "text" => ("text", part.text),
            "refusal" if role == Role::Assistant => ("refusal", part.refusal),
            kind @ ("image_url" | "input_audio" | "file") => {
                return Err(ApiError::invalid_value(
                    format!("{at}.type"),
                    format!("Invalid '{at}.type': '{kind}', but this model only takes text."),
                ));
            }
            kind => {
                return Err(ApiError::invalid_value(
                    format!("{at}.type"),
                    format!("Invalid '{at}.type': '{kind}' is not one of the content types, such as 'text'."),
                ));
            }
        };
        texts.push(text.ok_or_else(|| ApiError::missing(format!("{at}.{field}")))?);
    }
    Ok(texts.join("\n"))
}
