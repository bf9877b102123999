//! The request fields that constrain answers.

use jan_actors::model::Constraint;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{MAX_TEXT_BYTES, Structured, json_object};
use crate::api::inference::bounds::{self, MAX_CHOICES};
use crate::http::ApiError;

/// Maximum size of a list of choices, in bytes.
const MAX_CHOICE_BYTES: usize = 64 * 1024;

/// Maximum size of a grammar that embeds a schema, in bytes: such a schema is not checked before it is compiled.
const MAX_EMBEDDING_BYTES: usize = 4 * 1024;

/// The format of the answer, as in vLLM; exactly one of these.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"choice": ["red", "green"]}))]
pub struct StructuredOutputs {
    /// A JSON Schema.
    #[schema(value_type = Option<Object>)]
    json: Option<Map<String, Value>>,
    /// A regular expression that the whole answer must match, without look-around.
    regex: Option<String>,
    /// Texts of which the answer must be one.
    #[schema(min_items = 1)]
    choice: Option<Vec<String>>,
    /// A grammar in Lark's notation or llama.cpp's.
    grammar: Option<String>,
    /// Any JSON object.
    json_object: Option<bool>,
    /// Not supported.
    #[schema(value_type = Option<String>, max_length = 0)]
    structural_tag: Option<Value>,
    /// Not supported: JSON is written on one line.
    #[schema(value_type = Option<String>, max_length = 0)]
    whitespace_pattern: Option<Value>,
}

/// Returns the one constraint of a request; `None` for free text. Fields with the same constraint are names of one: some
/// clients send it under each.
///
/// # Errors
/// 400 that names the second field if there are several.
pub fn at_most_one(found: Vec<Structured>) -> Result<Option<Structured>, ApiError> {
    let mut found = found.into_iter();
    let Some(first) = found.next() else { return Ok(None) };
    match found.find(|other| !is_same(&first.constraint, &other.constraint)) {
        None => Ok(Some(first)),
        Some(second) => {
            let message =
                format!("'{}' and '{}' are mutually exclusive; send only one.", first.field, second.field);
            Err(ApiError::invalid_value(second.field, message))
        }
    }
}

/// Returns whether two constraints are the same; the order of a schema's keys does not count.
fn is_same(first: &Constraint, second: &Constraint) -> bool {
    match (first, second) {
        (Constraint::JsonSchema(first), Constraint::JsonSchema(second)) => {
            let value = |text: &str| serde_json::from_str::<Value>(text).ok();
            first == second || value(first) == value(second)
        }
        (first, second) => first == second,
    }
}

/// Checks `structured_outputs`.
pub fn structured_outputs(
    _field: &'static str,
    wanted: StructuredOutputs,
) -> Result<Option<Structured>, ApiError> {
    wanted.check().map(Some)
}

/// Checks a field that is a JSON Schema.
pub fn schema(field: &'static str, schema: Map<String, Value>) -> Result<Option<Structured>, ApiError> {
    Structured::json(field, field, Value::Object(schema), false).map(Some)
}

/// Checks a field that is a regular expression.
pub fn regex(field: &'static str, regex: String) -> Result<Option<Structured>, ApiError> {
    expression(field, regex).map(Some)
}

/// Checks a field that is a list of texts to choose from.
pub fn choice(field: &'static str, choices: Vec<String>) -> Result<Option<Structured>, ApiError> {
    one_of(field, choices).map(Some)
}

/// Checks a field that is a grammar in either notation.
pub fn grammar(field: &'static str, text: String) -> Result<Option<Structured>, ApiError> {
    any_grammar(field, text).map(Some)
}

/// Checks a field that is a grammar in llama.cpp's notation. Clients of llama-server send an empty text for no grammar.
pub fn llama_grammar(field: &'static str, text: String) -> Result<Option<Structured>, ApiError> {
    if text.is_empty() { Ok(None) } else { gbnf_grammar(field, text).map(Some) }
}

impl StructuredOutputs {
    fn check(self) -> Result<Structured, ApiError> {
        const FIELD: &str = "structured_outputs";
        for (given, field) in
            [(self.structural_tag, "structural_tag"), (self.whitespace_pattern, "whitespace_pattern")]
        {
            if given.is_some() {
                let param = format!("{FIELD}.{field}");
                let message = format!(
                    "Unsupported parameter: '{param}'; 'json', 'regex', 'choice', 'grammar' and 'json_object' are."
                );
                return Err(ApiError::unsupported(param, message));
            }
        }
        let mut found = Vec::new();
        if let Some(schema) = self.json {
            found.push(Structured::json(
                "structured_outputs.json",
                "structured_outputs.json",
                Value::Object(schema),
                false,
            )?);
        }
        if let Some(regex) = self.regex {
            found.push(expression("structured_outputs.regex", regex)?);
        }
        if let Some(choices) = self.choice {
            found.push(one_of("structured_outputs.choice", choices)?);
        }
        if let Some(text) = self.grammar {
            found.push(any_grammar("structured_outputs.grammar", text)?);
        }
        if self.json_object == Some(true) {
            found.push(json_object("structured_outputs.json_object")?);
        }
        match found.pop() {
            Some(only) if found.is_empty() => Ok(only),
            _ => {
                let message = "Invalid 'structured_outputs': expected exactly one of 'json', 'regex', 'choice', \
                               'grammar' and 'json_object'.";
                Err(ApiError::invalid_value(FIELD, message))
            }
        }
    }
}

/// # Errors
/// 400 for a text that is empty or too long.
fn bounded(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    length(field, text.len(), most)
}

fn length(field: &str, bytes: usize, most: usize) -> Result<(), ApiError> {
    if bytes == 0 || bytes > most {
        let message = format!("Invalid '{field}': expected 1 to {most} bytes, got {bytes}.");
        return Err(ApiError::invalid_value(field, message));
    }
    Ok(())
}

fn expression(field: &'static str, regex: String) -> Result<Structured, ApiError> {
    bounded(field, &regex, MAX_TEXT_BYTES)?;
    Ok(Structured::text(field, Constraint::Regex(regex)))
}

/// Returns the constraint to exactly one of these texts.
fn one_of(field: &'static str, choices: Vec<String>) -> Result<Structured, ApiError> {
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        let message = format!("Invalid '{field}': expected at least one text, and none that is empty.");
        return Err(ApiError::invalid_value(field, message));
    }
    bounds::entries(field, choices.len(), MAX_CHOICES)?;
    // Their length as an expression, since a backend may convert them to one.
    let escaped = choices.iter().map(|choice| regex_syntax::escape(choice).len());
    length(field, escaped.sum::<usize>() + choices.len() - 1, MAX_CHOICE_BYTES)?;
    Ok(Structured::text(field, Constraint::Choice(choices)))
}

/// Returns whether a grammar is in llama.cpp's notation; Lark's does not contain `::=`.
fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// Returns the constraint of a grammar in either notation.
fn any_grammar(field: &'static str, text: String) -> Result<Structured, ApiError> {
    if is_gbnf(&text) {
        return gbnf_grammar(field, text);
    }
    bounded(field, &text, if text.contains("%json") { MAX_EMBEDDING_BYTES } else { MAX_TEXT_BYTES })?;
    Ok(Structured::text(field, Constraint::Lark(text)))
}

fn gbnf_grammar(field: &'static str, text: String) -> Result<Structured, ApiError> {
    bounded(field, &text, MAX_TEXT_BYTES)?;
    Ok(Structured::text(field, Constraint::Gbnf(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::completions::request::CompletionRequest;

    fn check(mut request: Value) -> Result<Option<Structured>, ApiError> {
        request["model"] = json!("m");
        request["prompt"] = json!("p");
        serde_json::from_value::<CompletionRequest>(request).unwrap().take_constraint()
    }

    #[test]
    fn only_one_may_be_given_and_it_must_be_something() {
        for (request, param) in [
            (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice"),
            (json!({"guided_regex": "a", "grammar": "root ::= \"a\""}), "grammar"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_regex": ""}), "guided_regex"),
            (json!({"guided_grammar": "start: \"a\"".repeat(2000)}), "guided_grammar"),
            (json!({"grammar": "root ::= \"a\" ".repeat(2000)}), "grammar"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"structured_outputs": {"json_object": false}}), "structured_outputs"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs"),
            (json!({"structured_outputs": {"choice": [""]}}), "structured_outputs.choice"),
            (json!({"structured_outputs": {"json": {"type": "x"}}}), "structured_outputs.json"),
            (json!({"structured_outputs": {"structural_tag": "a"}}), "structured_outputs.structural_tag"),
        ] {
            assert_eq!(check(request.clone()).unwrap_err().param(), Some(param), "{request}");
        }
    }

    #[test]
    fn choices_are_bounded_as_an_expression() {
        let structured = check(json!({"structured_outputs": {"choice": ["a.b", "c|d"]}})).unwrap().unwrap();
        let texts = ["a.b", "c|d"].map(str::to_owned).to_vec();
        assert_eq!(*structured.constraint, Constraint::Choice(texts));
        // Two bytes each, and one between them.
        assert!(check(json!({"guided_choice": ["..".repeat(8192), "a".repeat(32_767)]})).unwrap().is_some());
        let error = check(json!({"guided_choice": ["..".repeat(8192), "a".repeat(32_768)]})).unwrap_err();
        assert_eq!(error.message(), "Invalid 'guided_choice': expected 1 to 65536 bytes, got 65537.");
    }

    #[test]
    fn both_notations_are_distinguished() {
        let lark = check(json!({"guided_grammar": "start: \"a\""})).unwrap().unwrap();
        assert_eq!(*lark.constraint, Constraint::Lark("start: \"a\"".to_owned()));
        for field in ["guided_grammar", "grammar"] {
            let llama = check(json!({field: "root ::= \"a\""})).unwrap().unwrap();
            assert_eq!(*llama.constraint, Constraint::Gbnf("root ::= \"a\"".to_owned()));
        }
        // llama-server's field always has its own notation.
        let llama = check(json!({"grammar": "start: \"a\""})).unwrap().unwrap();
        assert_eq!(*llama.constraint, Constraint::Gbnf("start: \"a\"".to_owned()));
    }
}
