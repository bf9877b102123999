//! Schemas of callers: the part that is enforced during generation, and the check of finished texts.

use std::collections::BTreeSet;

use jan_actors::model::schema::{self, Normalized};
use jsonschema::{Draft, Validator};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{MAX_TEXT_BYTES, applications, nesting};

/// Maximum number of pattern properties in a schema; compiling them takes more than quadratic time.
const MAX_PATTERN_PROPERTIES: usize = 100;

/// Maximum number of properties in a schema, as in OpenAI's API.
const MAX_PROPERTIES: usize = 5000;

/// Maximum number of optional properties in one object. Each could be the next one, so compiling them takes quadratic
/// time.
const MAX_OPTIONAL: usize = 500;

/// A schema that passed all checks.
#[derive(Debug)]
pub struct CheckedSchema {
    /// The check of finished texts.
    pub validator: Validator,
    /// The part that is enforced during generation.
    pub enforced: Value,
    /// The keywords that only the final check covers.
    pub unenforced: BTreeSet<&'static str>,
}

impl CheckedSchema {
    /// Checks a schema, within the bounds on schemas.
    ///
    /// # Errors
    /// A text that says what is wrong with the schema, or which bound it exceeds.
    pub fn new(schema: &Value) -> Result<Self, String> {
        check_properties(schema)?;
        nesting::check(schema)?;
        nesting::on_large_stack(|| {
            let Normalized { checked, enforced, unenforced } =
                schema::normalize(schema).map_err(|error| error.to_string())?;
            nesting::check(&checked)?;
            applications::check(&checked)?;
            let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
            let validator = options.build(&checked).map_err(|error| {
                let place = error.instance_path().to_string();
                if place.ends_with("/pattern") || place.contains("/patternProperties/") {
                    return format!("at '{place}': the expression is too large");
                }
                tracing::info!(%error, "a schema was refused by the validator");
                "it cannot be read as JSON Schema 2020-12".to_owned()
            })?;
            Ok(Self { validator, enforced, unenforced })
        })?
    }

    /// Returns the parts of schemas that are enforced where enforcing is no promise; `None` for a schema that cannot be read.
    pub fn enforceable<'a>(schemas: impl Iterator<Item = &'a Value> + Send) -> Vec<Option<Value>> {
        let enforceable = |schema: &Value| {
            check_properties(schema).ok()?;
            nesting::check(schema).ok()?;
            schema::normalize(schema).ok().map(|normalized| normalized.enforced)
        };
        nesting::on_large_stack(|| schemas.map(enforceable).collect()).unwrap_or_default()
    }

    /// Checks that all of the schema is enforced during generation, which its caller demands.
    ///
    /// # Errors
    /// A text that names the other keywords.
    pub fn require_all(&self) -> Result<(), String> {
        if self.unenforced.is_empty() {
            return Ok(());
        }
        Err(format!(
            "with 'strict' all of it is enforced during generation, which cannot be done for {}; rewrite it, or leave \
             out 'strict' to have that checked when the answer has ended",
            quoted(&self.unenforced)
        ))
    }
}

/// Returns names in quotation marks, for messages.
fn quoted(names: &BTreeSet<&'static str>) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// Checks that a schema has few enough properties to be enforced.
///
/// # Errors
/// The exceeded bound.
fn check_properties(schema: &Value) -> Result<(), String> {
    let mut left = vec![schema];
    let (mut total, mut patterns, mut pattern_bytes) = (0, 0, 0);
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                if let Some(Value::Object(properties)) = fields.get("properties") {
                    let required = fields.get("required").and_then(Value::as_array).map_or(0, Vec::len);
                    let optional = properties.len().saturating_sub(required);
                    total += properties.len();
                    if optional > MAX_OPTIONAL {
                        return Err(format!(
                            "an object has {optional} properties that are not required, and {MAX_OPTIONAL} are allowed"
                        ));
                    }
                }
                if let Some(Value::Object(named)) = fields.get("patternProperties") {
                    patterns += named.len();
                    pattern_bytes += named.keys().map(String::len).sum::<usize>();
                }
                if let Some(Value::String(pattern)) = fields.get("pattern") {
                    pattern_bytes += pattern.len();
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    if patterns > MAX_PATTERN_PROPERTIES {
        return Err(format!("it has {patterns} patternProperties, and {MAX_PATTERN_PROPERTIES} are allowed"));
    }
    if pattern_bytes > MAX_TEXT_BYTES {
        return Err(format!("its patterns have {pattern_bytes} bytes, and {MAX_TEXT_BYTES} are allowed"));
    }
    if total > MAX_PROPERTIES {
        return Err(format!("it has {total} properties, and {MAX_PROPERTIES} are allowed"));
    }
    Ok(())
}

/// Checks that a text is JSON that satisfies a schema.
///
/// JSON's numbers are unbounded, but those that can be compared here are not. A text with larger ones is well-formed
/// and was held to its schema during generation, so it is accepted.
///
/// # Errors
/// The violation.
pub fn satisfies(text: &str, validator: &Validator) -> Result<(), String> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            nesting::on_large_stack(|| validator.validate(&value).map_err(|error| error.to_string()))?
        }
        Err(_) if serde_json::from_str::<IgnoredAny>(text).is_ok() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn properties_are_bounded() {
        let object = |count: usize, required: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
            let properties: Map<String, Value> =
                names.iter().map(|name| (name.clone(), json!(true))).collect();
            json!({"type": "object", "properties": properties, "required": names[..required]})
        };
        assert!(check_properties(&object(500, 0)).is_ok());
        assert!(check_properties(&object(5000, 5000)).is_ok());
        let patterns: Map<String, Value> = (0..101).map(|n| (format!("^p{n}$"), json!(true))).collect();
        let too_much = [
            object(501, 0),
            object(5001, 5001),
            json!({"items": [object(900, 1)]}),
            json!({"patternProperties": patterns}),
            json!({"items": {"pattern": "a?".repeat(9000)}}),
        ];
        for schema in too_much {
            assert!(check_properties(&schema).is_err());
        }
    }

    #[test]
    fn enforceable_parts_are_normalised() {
        let by_reference = json!({"$defs": {"A": {"const": 1}, "B": {"const": 2}},
            "properties": {"x": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}}});
        let [Some(first), None] = &CheckedSchema::enforceable([&by_reference, &json!(1)].into_iter())[..]
        else {
            panic!("a schema and none");
        };
        assert!(first.to_string().contains("anyOf") && !first.to_string().contains("oneOf"), "{first}");
    }

    #[test]
    fn strict_schemas_are_enforced_or_refused() {
        let unique = json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true});
        let checked = CheckedSchema::new(&unique).unwrap();
        assert!(checked.unenforced.contains("uniqueItems"));
        assert!(satisfies(r#"["a", "a"]"#, &checked.validator).is_err());
        assert!(checked.require_all().unwrap_err().contains("'uniqueItems'"));
    }
}
