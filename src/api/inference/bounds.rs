//! Bounds of the lists and short texts of requests, and their entries in the API description.
//!
//! Texts that a model reads (contents, instructions, prompts, arguments of calls) are bounded by the body and by the
//! model's context. Everything else has a bound here or at the check of its field, so that a cheap request cannot cause
//! much work. The bounds are OpenAI's if it has one, else larger than any real client needs.

use serde_json::{Map, Value, json};

use crate::http::ApiError;

/// Maximum number of stop sequences.
pub const MAX_STOPS: usize = 4;
/// Maximum length of a stop sequence, in characters: each part of each answer is compared with it.
pub const MAX_STOP: usize = 256;
/// Maximum number of entries in `logit_bias`: each is applied to each token.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// Maximum length of an id or name from a caller, in characters.
pub const MAX_NAME: usize = 512;
/// Maximum length of the description of a tool or a schema, in characters.
pub const MAX_DESCRIPTION: usize = 65_536;
/// Maximum number of messages in a chat, or of items in a response's input.
pub const MAX_MESSAGES: usize = 16_384;
/// Maximum number of parts in one content.
pub const MAX_PARTS: usize = 4096;
/// Maximum number of calls in one message.
pub const MAX_CALLS: usize = 1024;
/// Maximum number of documents in a chat.
pub const MAX_DOCUMENTS: usize = 1024;
/// Maximum number of variables for a chat template.
pub const MAX_TEMPLATE_VARIABLES: usize = 256;
/// Maximum number of texts in a choice constraint.
pub const MAX_CHOICES: usize = 8192;
/// Maximum number of entries in a list of keywords.
pub const MAX_WORDS: usize = 64;

const LENGTH: &str = "maxLength";
const ITEMS: &str = "maxItems";
const PROPERTIES: &str = "maxProperties";

/// Schemas, fields in them, the bound's keyword and the bound.
const DESCRIBED: &[(&[&str], &[&str], &str, usize)] = &[
    (&["Stop"], &["/oneOf/0", "/oneOf/1/items"], LENGTH, MAX_STOP),
    (&["Stop"], &["/oneOf/1"], ITEMS, MAX_STOPS),
    (&["CreateResponse"], &["/properties/stop/items"], LENGTH, MAX_STOP),
    (
        &["ChatRequest", "CompletionRequest", "CreateResponse"],
        &["/properties/logit_bias"],
        PROPERTIES,
        MAX_LOGIT_BIASES,
    ),
    (
        &[
            "ChatRequest",
            "CompletionRequest",
            "CreateResponse",
            "CountTokens",
            "EmbeddingsRequest",
            "TemplateRequest",
            "TokenizeRequest",
            "DetokenizeRequest",
        ],
        &["/properties/model"],
        LENGTH,
        MAX_NAME,
    ),
    (
        &["ChatRequest", "CompletionRequest", "CreateResponse", "EmbeddingsRequest"],
        &["/properties/user"],
        LENGTH,
        MAX_NAME,
    ),
    (
        &["ChatRequest", "CompletionRequest", "CreateResponse"],
        &["/properties/prompt_cache_key"],
        LENGTH,
        MAX_NAME,
    ),
    (&["ChatRequest", "TemplateRequest", "TokenizeRequest"], &["/properties/messages"], ITEMS, MAX_MESSAGES),
    (
        &["ChatRequest", "TemplateRequest", "TokenizeRequest"],
        &["/properties/documents"],
        ITEMS,
        MAX_DOCUMENTS,
    ),
    (
        &["ChatRequest", "CreateResponse", "TemplateRequest", "TokenizeRequest"],
        &["/properties/chat_template_kwargs"],
        PROPERTIES,
        MAX_TEMPLATE_VARIABLES,
    ),
    (&["CountTokens", "TemplateRequest", "TokenizeRequest"], &["/properties/tools"], ITEMS, 128),
    (&["ChatRequest", "CompletionRequest"], &["/properties/guided_choice"], ITEMS, MAX_CHOICES),
    (&["StructuredOutputs"], &["/properties/choice"], ITEMS, MAX_CHOICES),
    (&["Message"], &["/properties/name", "/properties/tool_call_id"], LENGTH, MAX_NAME),
    (&["Message"], &["/properties/tool_calls"], ITEMS, MAX_CALLS),
    (&["MessageContent"], &["/oneOf/1"], ITEMS, MAX_PARTS),
    (&["CreateResponse", "CountTokens"], &["/properties/input"], ITEMS, MAX_MESSAGES),
    (
        &["CreateResponse", "CountTokens"],
        &["/properties/previous_response_id", "/properties/conversation"],
        LENGTH,
        MAX_NAME,
    ),
    (&["CreateResponse"], &["/properties/include"], ITEMS, MAX_WORDS),
    (&["InputItem"], &["/properties/call_id", "/properties/name"], LENGTH, MAX_NAME),
    (&["InputItem"], &["/properties/id"], LENGTH, 128),
    (&["InputItem"], &["/properties/summary"], ITEMS, MAX_PARTS),
    (&["FunctionObject", "ResponseTool"], &["/properties/description"], LENGTH, MAX_DESCRIPTION),
    (&["CreateApiKey", "UpdateApiKey"], &["/properties/permissions"], ITEMS, MAX_WORDS),
    (&["TokenizeRequest"], &["/properties/prompt", "/properties/content"], LENGTH, 1 << 20),
    (&["DetokenizeRequest"], &["/properties/tokens"], ITEMS, 1 << 20),
];

/// Writes the bounds into the schemas of the API description.
pub fn describe(schemas: &mut Value) {
    for (names, fields, keyword, bound) in DESCRIBED {
        for (name, field) in names.iter().flat_map(|name| fields.iter().map(move |field| (name, field))) {
            if let Some(schema) = schemas.pointer_mut(&format!("/{name}{field}")) {
                schema[*keyword] = json!(bound);
            }
        }
    }
}

/// # Errors
/// 400 for a text of more than `most` characters.
pub fn text(param: &str, text: Option<&str>, most: usize) -> Result<(), ApiError> {
    // The number of bytes is at least that of characters, so only a long text needs counting.
    match text.filter(|text| text.len() > most).map(|text| text.chars().count()) {
        Some(count) if count > most => Err(ApiError::invalid_value(
            param,
            format!("Invalid '{param}': it has {count} characters, at most {most} are allowed; shorten it."),
        )),
        _ => Ok(()),
    }
}

/// Checks ids and names in the object at `at`.
///
/// # Errors
/// 400 with the field that is too long.
pub fn names<const N: usize>(at: &str, fields: [(&str, Option<&str>); N]) -> Result<(), ApiError> {
    fields.into_iter().try_for_each(|(field, name)| text(&format!("{at}.{field}"), name, MAX_NAME))
}

/// # Errors
/// 400 for a list or an object of more than `most` entries.
pub fn entries(param: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count > most {
        let message =
            format!("Invalid '{param}': it has {count} entries, at most {most} are allowed; send fewer.");
        return Err(ApiError::invalid_value(param, message));
    }
    Ok(())
}

/// Checks the fields of a chat template other than the messages.
///
/// # Errors
/// 400 with the field that has too many entries.
pub fn template(
    documents: Option<&Vec<Map<String, Value>>>,
    variables: Option<&Map<String, Value>>,
) -> Result<(), ApiError> {
    entries("documents", documents.map_or(0, Vec::len), MAX_DOCUMENTS)?;
    entries("chat_template_kwargs", variables.map_or(0, Map::len), MAX_TEMPLATE_VARIABLES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bound_is_described_where_its_field_is() {
        let recorded: Value = serde_json::from_str(include_str!("../../../fixtures/openapi.json")).unwrap();
        let schemas = &recorded["components"]["schemas"];
        for (names, fields, keyword, bound) in DESCRIBED {
            for (name, field) in names.iter().flat_map(|name| fields.iter().map(move |field| (name, field))) {
                let schema = schemas.pointer(&format!("/{name}{field}"));
                assert_eq!(schema.map(|schema| &schema[*keyword]), Some(&json!(bound)), "{name}{field}");
            }
        }
    }

    proptest! {
        #[test]
        fn texts_are_counted_in_characters(given in ".{0,40}", most in 0usize..40) {
            prop_assert_eq!(text("x", Some(&given), most).is_ok(), given.chars().count() <= most);
        }
    }
}
