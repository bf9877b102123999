//! Items as in OpenAI's API: validated where this server interprets them, stored unchanged where it does not.
//!
//! Source: `InputItem` and `ConversationItem` in OpenAI's API description.

use serde_json::{Map, Value, json};

use super::error::ConversationError;
use super::ids::is_item_id;
use super::types::NewItem;

/// The accepted types. Other types are refused, since nothing could read them.
const TYPES: &[&str] = &[
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "custom_tool_call",
    "custom_tool_call_output",
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "compaction",
    "program",
    "program_output",
];
const ROLES: &[&str] = &["user", "assistant", "system", "developer"];
const STATUSES: &[&str] = &["in_progress", "completed", "incomplete"];
/// The parts that have text, and the field of the text.
const TEXT_PARTS: &[(&str, &str)] = &[
    ("input_text", "text"),
    ("output_text", "text"),
    ("text", "text"),
    ("summary_text", "text"),
    ("reasoning_text", "text"),
    ("refusal", "refusal"),
];
const OTHER_PARTS: &[&str] = &["input_image", "input_file", "input_audio", "computer_screenshot"];

type Checked<T> = Result<T, ConversationError>;

/// Checks an item of a caller; `at` is its path, for errors. An `id` of the caller's is removed: items get ids of their own.
///
/// # Errors
/// The invalid field and the problem.
pub fn check(item: Value, at: &str, max_bytes: usize) -> Checked<NewItem> {
    let Value::Object(given) = item else {
        return Err(ConversationError::invalid(
            at,
            "must be an object, such as {\"role\": \"user\", \"content\": \"Hello\"}",
        ));
    };
    check_object(given, at, max_bytes)
}

fn check_object(mut given: Map<String, Value>, at: &str, max_bytes: usize) -> Checked<NewItem> {
    let field = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    given.remove("id");
    // Created by this server; not accepted from a caller.
    given.remove("created_at");
    given.remove("parent_id");
    let kind = match given.remove("type") {
        None | Some(Value::Null) if given.contains_key("role") => "message".to_owned(),
        None | Some(Value::Null) => {
            return Err(ConversationError::invalid(
                field("type"),
                "is missing; a message needs `role` at least",
            ));
        }
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(ConversationError::invalid(field("type"), "must be a string")),
    };
    if !TYPES.contains(&kind.as_str()) {
        let problem = format!("is {:?}; allowed are: {}", shorten(&kind), TYPES.join(", "));
        return Err(ConversationError::invalid(field("type"), problem));
    }
    let status = match given.remove("status") {
        None | Some(Value::Null) => "completed".to_owned(),
        Some(Value::String(status)) if STATUSES.contains(&status.as_str()) => status,
        // Items of tools have statuses of their own.
        Some(Value::String(status)) if kind != "message" && status.len() <= 32 => status,
        Some(_) => {
            let problem = format!("must be one of: {}", STATUSES.join(", "));
            return Err(ConversationError::invalid(field("status"), problem));
        }
    };
    match kind.as_str() {
        "message" => check_message(&mut given, &field)?,
        "function_call" => {
            for name in ["call_id", "name", "arguments"] {
                text(&given, name, &field)?;
            }
        }
        "function_call_output" => {
            text(&given, "call_id", &field)?;
            match given.get("output") {
                Some(Value::String(_) | Value::Array(_)) => {}
                _ => {
                    let problem = "must be a string or an array of content parts";
                    return Err(ConversationError::invalid(field("output"), problem));
                }
            }
        }
        "reasoning" => {
            let summary = given.entry("summary").or_insert_with(|| json!([]));
            if !summary.is_array() {
                return Err(ConversationError::invalid(field("summary"), "must be an array"));
            }
        }
        _ => {}
    }
    let mut body = Map::new();
    body.insert("type".to_owned(), Value::String(kind));
    body.insert("status".to_owned(), Value::String(status));
    // In the order in which a reader expects them.
    for name in ["role", "content"] {
        if let Some(value) = given.shift_remove(name) {
            body.insert(name.to_owned(), value);
        }
    }
    body.extend(given);
    let size = size(&body);
    if size > max_bytes {
        let problem = format!(
            "has {size} bytes as JSON; at most {max_bytes} are allowed (conversations.max_item_bytes)"
        );
        return Err(ConversationError::invalid(at, problem));
    }
    Ok(NewItem { id: None, body })
}

fn text(given: &Map<String, Value>, name: &str, field: &dyn Fn(&str) -> String) -> Checked<()> {
    match given.get(name) {
        Some(Value::String(_)) => Ok(()),
        Some(_) => Err(ConversationError::invalid(field(name), "must be a string")),
        None => Err(ConversationError::invalid(field(name), "is missing")),
    }
}

fn check_message(given: &mut Map<String, Value>, field: &dyn Fn(&str) -> String) -> Checked<()> {
    let role = match given.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(Value::String(role)) => {
            let problem = format!("is {:?}; allowed are: {}", shorten(role), ROLES.join(", "));
            return Err(ConversationError::invalid(field("role"), problem));
        }
        Some(_) => return Err(ConversationError::invalid(field("role"), "must be a string")),
        None => return Err(ConversationError::invalid(field("role"), "is missing")),
    };
    let parts = match given.remove("content") {
        Some(Value::String(text)) => vec![text_part(&role, text)],
        Some(Value::Array(parts)) => parts,
        Some(_) => {
            let problem = "must be a string or an array of content parts";
            return Err(ConversationError::invalid(field("content"), problem));
        }
        None => return Err(ConversationError::invalid(field("content"), "is missing")),
    };
    let checked = parts.into_iter().enumerate();
    let checked = checked.map(|(index, part)| check_part(part, &role, &field(&format!("content[{index}]"))));
    let content = checked.collect::<Checked<Vec<_>>>()?;
    given.insert("content".to_owned(), Value::Array(content));
    Ok(())
}

/// Returns a text as a part of a message of that role.
#[must_use]
pub fn text_part(role: &str, text: String) -> Value {
    match role {
        "assistant" => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        _ => json!({"type": "input_text", "text": text}),
    }
}

fn check_part(part: Value, role: &str, at: &str) -> Checked<Value> {
    let Value::Object(mut part) = part else {
        let problem = "must be an object, such as {\"type\": \"input_text\", \"text\": \"Hello\"}";
        return Err(ConversationError::invalid(at, problem));
    };
    let kind = match part.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err(ConversationError::invalid(format!("{at}.type"), "must be a string")),
    };
    let Some((_, name)) = TEXT_PARTS.iter().find(|(known, _)| *known == kind) else {
        if OTHER_PARTS.contains(&kind.as_str()) {
            return Ok(Value::Object(part));
        }
        let known = TEXT_PARTS.iter().map(|(kind, _)| *kind).chain(OTHER_PARTS.iter().copied());
        let known: Vec<_> = known.collect();
        let problem = format!("is {:?}; allowed are: {}", shorten(&kind), known.join(", "));
        return Err(ConversationError::invalid(format!("{at}.type"), problem));
    };
    text(&part, name, &|name| format!("{at}.{name}"))?;
    // The name of the part in chat completions; conversations have two names.
    if kind == "text" {
        let kind = if role == "assistant" { "output_text" } else { "input_text" };
        part.insert("type".to_owned(), json!(kind));
    }
    if part["type"] == "output_text" {
        for list in ["annotations", "logprobs"] {
            part.entry(list).or_insert_with(|| json!([]));
        }
    }
    Ok(Value::Object(part))
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Returns an object's size as JSON in bytes.
#[must_use]
pub fn size(body: &Map<String, Value>) -> usize {
    serde_json::to_vec(body).map_or(0, |json| json.len())
}

/// Checks an item that this server creates itself, which may have an id already.
///
/// # Errors
/// As [`check`], and an invalid id.
pub fn own(mut body: Map<String, Value>, max_bytes: usize) -> Checked<NewItem> {
    let id = match body.remove("id") {
        Some(Value::String(id)) if is_item_id(&id) => Some(id),
        None | Some(Value::Null) => None,
        Some(_) => {
            return Err(ConversationError::invalid("id", "must be a short text of letters, digits, _ and -"));
        }
    };
    Ok(NewItem { id, ..check_object(body, "", max_bytes)? })
}

/// Returns the `type` of an item.
#[must_use]
pub fn kind(body: &Map<String, Value>) -> &str {
    body.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the `role` of a message.
#[must_use]
pub fn role(body: &Map<String, Value>) -> Option<&str> {
    body.get("role").and_then(Value::as_str).filter(|_| kind(body) == "message")
}

/// Returns the text of an item that a reader sees, its parts on separate lines.
#[must_use]
pub fn text_of(body: &Map<String, Value>) -> String {
    let parts = match kind(body) {
        "message" => body.get("content"),
        "function_call" => body.get("arguments"),
        "function_call_output" | "custom_tool_call_output" => body.get("output"),
        "reasoning" => body.get("summary"),
        _ => None,
    };
    match parts {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(text_of_part).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn text_of_part(part: &Value) -> Option<&str> {
    let kind = part.get("type")?.as_str()?;
    let (_, name) = TEXT_PARTS.iter().find(|(known, _)| *known == kind)?;
    part.get(name)?.as_str()
}

/// Returns whether the model created the item: such items are replaced when an answer is regenerated.
#[must_use]
pub fn is_from_model(body: &Map<String, Value>) -> bool {
    match kind(body) {
        "message" => role(body) == Some("assistant"),
        "reasoning" => true,
        kind => kind.ends_with("_call"),
    }
}

#[cfg(test)]
#[path = "item_tests.rs"]
mod tests;
