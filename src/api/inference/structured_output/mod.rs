//! Structured output: the constraints of a request on its answers, and the final check of a finished answer.
//!
//! Sources: `ResponseFormatJsonSchema` in OpenAI's API description; `guided_json`, `guided_regex`, `guided_choice`,
//! `guided_grammar` and `structured_outputs` as in vLLM; `grammar` and `json_schema` as in llama-server.

mod applications;
mod constraints;
mod nesting;
mod schemas;

use std::collections::BTreeSet;
use std::sync::Arc;

use jan_actors::model::schema::{RELAXATIONS, relaxed};
use jan_actors::model::{Constraint, GenerationError};
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub use self::constraints::{
    StructuredOutputs, at_most_one, choice, grammar, llama_grammar, regex, schema, structured_outputs,
};
pub use self::schemas::{CheckedSchema, satisfies};
use crate::http::ApiError;

/// Maximum size of a schema, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Maximum length of an expression or grammar, in bytes, and of all expressions in a schema together. Compiling can
/// take time quadratic in their length and delays other requests: this length takes seconds at worst.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// The format of the answer.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"type": "json_object"}))]
pub struct ResponseFormat {
    /// Free text, any JSON object, or JSON that satisfies a schema.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// With `json_schema`: the schema.
    pub json_schema: Option<JsonSchemaFormat>,
    /// With `json_object`: a JSON Schema of the object, as in llama-server.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
}

/// The type of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// Free text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema,
}

/// A schema with a name.
#[derive(Debug, Deserialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// Its name: letters, digits, `_` and `-`.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9_-]+$")]
    pub name: String,
    /// A description of its purpose; has no effect.
    #[allow(dead_code, reason = "its type is checked")]
    pub description: Option<String>,
    /// A JSON Schema; any object if absent. The response header `X-Unenforced-Schema` names its keywords that are not
    /// enforced during generation.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// All of the schema is enforced during generation; a schema for which that is impossible is refused. Otherwise
    /// the rest of it is checked when an answer has ended.
    pub strict: Option<bool>,
}

/// The constraint on answers.
#[derive(Debug)]
pub struct Structured {
    /// The field that sets the constraint, for errors about it.
    pub field: &'static str,
    /// The constraint that the engine enforces.
    pub constraint: Arc<Constraint>,
    /// The check of finished answers; `None` if they are not checked.
    validator: Option<Validator>,
    /// The keywords of a schema that are not enforced during generation.
    pub unenforced: BTreeSet<&'static str>,
    /// Wider forms of a schema; `None` if only the whole schema will do.
    wider: Option<Wider>,
}

/// The wider forms of a schema.
#[derive(Debug)]
struct Wider {
    enforced: Value,
    /// Number of those that were used.
    step: usize,
}

impl ResponseFormat {
    fn check(self) -> Result<Option<Structured>, ApiError> {
        const FIELD: &str = "response_format";
        if self.schema.is_some() && self.kind != FormatKind::JsonObject {
            return Err(ApiError::invalid_value(
                "response_format.schema",
                "Invalid 'response_format.schema': only the type 'json_object' has it; the schema of 'json_schema' is \
                 'response_format.json_schema.schema'.",
            ));
        }
        match (self.kind, self.json_schema) {
            (FormatKind::Text, None) => Ok(None),
            (FormatKind::JsonObject, None) => match self.schema {
                Some(schema) => {
                    Structured::json(FIELD, "response_format.schema", Value::Object(schema), false).map(Some)
                }
                None => json_object(FIELD).map(Some),
            },
            (FormatKind::JsonSchema, Some(format)) => {
                let (at, strict) = ("response_format.json_schema", format.strict.unwrap_or(false));
                json_schema(FIELD, at, &format.name, format.schema, strict).map(Some)
            }
            (FormatKind::JsonSchema, None) => Err(ApiError::missing("response_format.json_schema")),
            (_, Some(_)) => Err(ApiError::invalid_value(
                "response_format.json_schema",
                "Invalid 'response_format.json_schema': only the type 'json_schema' has it.",
            )),
        }
    }
}

/// Checks `response_format`.
pub fn response_format(_field: &'static str, format: ResponseFormat) -> Result<Option<Structured>, ApiError> {
    format.check()
}

/// Returns the constraint to any JSON object, which `field` requests.
pub fn json_object(field: &'static str) -> Result<Structured, ApiError> {
    Structured::json(field, field, any_object(), false)
}

/// Returns the constraint to JSON that a schema accepts, which `field` requests; its name and the schema are at `at`.
pub fn json_schema(
    field: &'static str,
    at: &str,
    name: &str,
    schema: Option<Map<String, Value>>,
    strict: bool,
) -> Result<Structured, ApiError> {
    let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !named || !(1..=64).contains(&name.len()) {
        let message = format!("Invalid '{at}.name': expected 1 to 64 letters, digits, '_' or '-'.");
        return Err(ApiError::invalid_value(format!("{at}.name"), message));
    }
    let schema = schema.map_or_else(any_object, Value::Object);
    Structured::json(field, &format!("{at}.schema"), schema, strict)
}

fn any_object() -> Value {
    json!({"type": "object"})
}

impl Structured {
    fn json(field: &'static str, place: &str, schema: Value, strict: bool) -> Result<Self, ApiError> {
        let wrong = |error: String| {
            ApiError::invalid_value(place, format!("Invalid '{place}': not a usable JSON Schema: {error}"))
        };
        let bytes = schema.to_string().len();
        if bytes > MAX_BYTES {
            return Err(wrong(format!("it has {bytes} bytes, and {MAX_BYTES} are allowed")));
        }
        let checked = CheckedSchema::new(&schema).map_err(wrong)?;
        if strict {
            checked.require_all().map_err(|error| {
                ApiError::invalid_value(field, format!("Invalid '{field}': cannot be enforced: {error}."))
            })?;
        }
        let CheckedSchema { validator, enforced, unenforced } = checked;
        let constraint = Arc::new(Constraint::JsonSchema(enforced.to_string()));
        let wider = (!strict).then_some(Wider { enforced, step: 0 });
        Ok(Self { field, constraint, validator: Some(validator), unenforced, wider })
    }

    fn text(field: &'static str, constraint: Constraint) -> Self {
        Self {
            field,
            constraint: Arc::new(constraint),
            validator: None,
            unenforced: BTreeSet::new(),
            wider: None,
        }
    }

    /// Replaces the constraint by a wider one, because the engine cannot enforce it; the final check stays. Returns
    /// `false` if there is none.
    pub fn widen(&mut self) -> bool {
        let Some(wider) = self.wider.as_mut().filter(|wider| wider.step < RELAXATIONS) else { return false };
        let (schema, dropped) = relaxed(&wider.enforced, wider.step);
        wider.step += 1;
        self.unenforced.extend(dropped);
        self.constraint = Arc::new(Constraint::JsonSchema(schema.to_string()));
        true
    }

    /// Returns the check of `answers` answers at their end. `cut`: a stop sequence may end them before they are
    /// complete.
    pub fn output_check(self, answers: usize, cut: bool) -> Option<OutputCheck> {
        let validator = self.validator.filter(|_| !cut)?;
        Some(OutputCheck { validator, texts: vec![String::new(); answers] })
    }
}

/// Adds the field that constrains the answers to an error that it caused.
#[must_use]
pub fn named(error: GenerationError, constraining: Option<&'static str>) -> GenerationError {
    match (error, constraining) {
        (GenerationError::MalformedConstraint { field: "", message }, Some(field)) => {
            GenerationError::MalformedConstraint { field, message }
        }
        (GenerationError::InvalidConstraint { field: "", message }, Some(field)) => {
            GenerationError::InvalidConstraint { field, message }
        }
        (GenerationError::ConstraintTooExpensive { field: "", message }, Some(field)) => {
            GenerationError::ConstraintTooExpensive { field, message }
        }
        (error, _) => error,
    }
}

/// Maps an error of the start of a generation; `length_param` is the field with the answer's maximum length.
pub fn start_error(
    error: GenerationError,
    prompt_param: &'static str,
    length_param: &'static str,
    field: Option<&'static str>,
) -> ApiError {
    let param = match error {
        // The prompt alone would fit.
        GenerationError::ContextLengthExceeded { limit, prompt_tokens, .. } if prompt_tokens < limit => {
            length_param
        }
        _ => prompt_param,
    };
    generation_error(error, param, field)
}

/// Maps an error of the engine; `field` is the field that constrains the answers.
pub fn generation_error(
    error: GenerationError,
    prompt_param: &'static str,
    field: Option<&'static str>,
) -> ApiError {
    ApiError::from_generation(named(error, field), prompt_param)
}

/// The final check of finished answers. The engine enforces the schema during generation; an answer is reported as
/// finished only if this check confirms it.
#[derive(Debug)]
pub struct OutputCheck {
    validator: Validator,
    texts: Vec<String>,
}

impl OutputCheck {
    /// Appends more text to an answer.
    pub fn push(&mut self, index: usize, text: &str) {
        self.texts[index].push_str(text);
    }

    /// Discards the text so far, which belonged to a round before the answer.
    pub fn next_round(&mut self) {
        self.texts.iter_mut().for_each(String::clear);
    }

    /// Checks a whole answer.
    ///
    /// # Errors
    /// [`GenerationError::InvalidOutput`] with the violation.
    pub fn passes(&self, text: &str) -> Result<(), GenerationError> {
        satisfies(text, &self.validator).map_err(|message| GenerationError::InvalidOutput { message })
    }

    /// Checks an answer that ended normally.
    ///
    /// # Errors
    /// [`GenerationError::InvalidOutput`] with the violation.
    pub fn finish(&self, index: usize) -> Result<(), GenerationError> {
        self.passes(&self.texts[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(value: Value) -> Result<Option<Structured>, ApiError> {
        serde_json::from_value::<ResponseFormat>(value).unwrap().check()
    }

    fn param(result: Result<Option<Structured>, ApiError>) -> Option<String> {
        result.unwrap_err().param().map(str::to_owned)
    }

    #[test]
    fn text_is_free() {
        assert!(format(json!({"type": "text"})).unwrap().is_none());
        assert!(at_most_one(Vec::new()).unwrap().is_none());
    }

    #[test]
    fn schemas_are_checked() {
        let schema = |schema: Value| {
            format(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))
        };
        assert!(
            schema(json!({"type": "object", "properties": {"a": {"type": "integer"}}})).unwrap().is_some()
        );
        let place = Some("response_format.json_schema.schema".to_owned());
        assert_eq!(param(schema(json!({"type": "nothing"}))), place);
        assert_eq!(param(schema(json!({"$ref": "http://127.0.0.1:1/x.json"}))), place);
        assert_eq!(param(schema(json!({"pattern": "("}))), place);
    }

    #[test]
    fn forms_have_their_parts() {
        assert_eq!(param(format(json!({"type": "json_schema"}))), Some("response_format.json_schema".into()));
        let named = json!({"type": "json_schema", "json_schema": {"name": "a b"}});
        assert_eq!(param(format(named)), Some("response_format.json_schema.name".into()));
    }

    #[test]
    fn finished_answers_are_looked_at() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        let structured = Structured::json("guided_json", "guided_json", schema, false).unwrap();
        let mut check = structured.output_check(4, false).unwrap();
        check.push(0, "{\"a\": ");
        check.push(1, "{}");
        assert!(check.finish(0).is_err());
        check.push(0, "1}");
        assert!(check.finish(0).is_ok());
        assert!(check.finish(1).is_err());
        let large = "9".repeat(400);
        check.push(2, &format!("{{\"a\": {large}}}"));
        check.push(3, &format!("{{\"a\": {large}"));
        assert!(check.finish(2).is_ok());
        assert!(check.finish(3).is_err());
    }
}
