//! Calls as JSON objects, which most formats enclose in their own marks.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::Tool;
use super::value_types::may_be;
use crate::schema::type_of;

/// Names of tools and their arguments as JSON.
pub(super) type Calls = Vec<(String, String)>;

/// A JSON value at the beginning of a text and the text behind it; `None` if there is none.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(text.split_at(values.byte_offset()))
}

/// The members of a JSON object, their values as they are written.
fn members(object: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = object.trim().strip_prefix('{')?.trim_start();
    let mut members = Vec::new();
    if rest == "}" {
        return Some(members);
    }
    loop {
        let (key, behind) = value(rest)?;
        let key: String = serde_json::from_str(key).ok()?;
        let (member, behind) = value(behind.trim_start().strip_prefix(':')?)?;
        members.push((key, member));
        rest = behind.trim_start();
        if rest == "}" {
            return Some(members);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// One call as an object with a name and its arguments.
fn json_call(object: &str) -> Option<(String, String)> {
    let members = members(object)?;
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    // OpenAI's own form nests them.
    if let Some(function) = member("function").filter(|function| function.starts_with('{')) {
        return json_call(function);
    }
    let name: String = serde_json::from_str(member("name").or_else(|| member("function"))?).ok()?;
    let arguments = match member("arguments").or_else(|| member("parameters")) {
        None | Some("null") => "{}".to_owned(),
        Some(object) if object.starts_with('{') => object.to_owned(),
        // Some write the object as a text.
        Some(text) => {
            let text: String = serde_json::from_str(text).ok()?;
            let (object, rest) = value(&text)?;
            if !object.starts_with('{') || !rest.trim().is_empty() {
                return None;
            }
            object.to_owned()
        }
    };
    Some((name, arguments))
}

/// Objects or arrays of them, one after the other, with `;` or `,` between them.
pub(super) fn json_calls(text: &str) -> Option<Calls> {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (first, behind) = value(rest)?;
        match first.as_bytes() {
            [b'{', ..] => calls.push(json_call(first)?),
            [b'[', .., b']'] => calls.extend(json_calls(first[1..first.len() - 1].trim())?),
            _ => return None,
        }
        rest = behind.trim_start().trim_start_matches([';', ',']).trim_start();
        rest = rest.strip_prefix("<|python_tag|>").unwrap_or(rest).trim_start();
    }
    Some(calls)
}

/// A text that is a JSON object.
pub(super) fn object(text: &str) -> Option<String> {
    let (object, rest) = value(text)?;
    (object.starts_with('{') && rest.trim().is_empty()).then(|| object.to_owned())
}

/// An argument that is written without JSON's quotes: what it is as JSON, unless the schema allows a text and not that.
pub(super) fn unquoted(value: &str, tool: Option<&Tool>, key: &str) -> Value {
    let schema = tool.map_or(&Value::Null, |tool| &tool.parameters["properties"][key]);
    match serde_json::from_str(value.trim()) {
        Ok(parsed) if may_be(schema, type_of(&parsed)) || !may_be(schema, "string") => parsed,
        Ok(_) | Err(_) => Value::from(value),
    }
}
