//! Schemas that are strict by themselves, for tools of Responses that do not say whether they are.
//!
//! Source: "Structured outputs" in OpenAI's documentation: every object is closed and all of its properties are required.

use serde_json::{Map, Value};

/// Maximum number of schemas within one that are looked at.
const MAX_SCHEMAS: usize = 5000;

/// Maximum absolute value of a bound.
const MAX_BOUND: f64 = 1e15;

/// Keywords that restrict nothing.
const ANNOTATIONS: [&str; 5] = ["title", "description", "default", "examples", "$comment"];

/// Keywords with a number.
const BOUNDS: [&str; 9] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
];

/// Returns whether these parameters have the form that OpenAI requires of strict tools, and no keyword that may not be
/// enforceable.
pub fn is_compatible(parameters: Option<&Map<String, Value>>) -> bool {
    let Some(parameters) = parameters.filter(|parameters| !parameters.is_empty()) else { return true };
    let mut left = vec![parameters];
    let mut seen = 0;
    while let Some(schema) = left.pop() {
        seen += 1;
        if seen > MAX_SCHEMAS || !is_closed(schema) {
            return false;
        }
        for (keyword, value) in schema {
            let inner: Option<Vec<&Value>> = match keyword.as_str() {
                "properties" | "$defs" | "definitions" => value.as_object().map(|all| all.values().collect()),
                "items" => Some(vec![value]),
                "anyOf" => value.as_array().map(|all| all.iter().collect()),
                "$ref" => is_local(value).then(Vec::new),
                "additionalProperties" => (*value == Value::Bool(false)).then(Vec::new),
                "type" | "required" | "enum" | "const" => Some(Vec::new()),
                bound if BOUNDS.contains(&bound) => {
                    value.as_f64().filter(|number| number.abs() <= MAX_BOUND).map(|_| Vec::new())
                }
                annotation if ANNOTATIONS.contains(&annotation) => Some(Vec::new()),
                _ => None,
            };
            let Some(inner) = inner else { return false };
            for schema in inner {
                let Some(schema) = schema.as_object() else { return false };
                left.push(schema);
            }
        }
    }
    true
}

/// Returns whether a schema is of no object, or of one that is closed and has all of its properties.
fn is_closed(schema: &Map<String, Value>) -> bool {
    let is_object = |kind: &Value| kind == "object";
    let kind = schema.get("type");
    let of_objects = kind
        .is_some_and(|kind| is_object(kind) || kind.as_array().is_some_and(|all| all.iter().any(is_object)));
    let properties = schema.get("properties").and_then(Value::as_object);
    if !of_objects && properties.is_none() {
        return true;
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let all =
        properties.is_none_or(|properties| properties.keys().all(|name| required.contains(&name.as_str())));
    all && schema.get("additionalProperties") == Some(&Value::Bool(false))
}

fn is_local(reference: &Value) -> bool {
    reference.as_str().is_some_and(|text| text.starts_with("#/$defs/") || text.starts_with("#/definitions/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compatible(schema: Value) -> bool {
        is_compatible(schema.as_object())
    }

    #[test]
    fn schemas_of_strict_tools_are_recognized() {
        let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": false});
        assert!(is_compatible(None) && compatible(json!({})) && compatible(city.clone()));
        let with = |key: &str, value: Value| {
            let mut schema = city.clone();
            schema[key] = value;
            compatible(schema)
        };
        assert!(!with("required", json!([])));
        assert!(!with("additionalProperties", json!(true)));
        assert!(!with("patternProperties", json!({})));
        assert!(with("description", json!("x")));
        let property = |schema: Value| with("properties", json!({"city": schema}));
        for fine in [
            json!({"type": ["string", "null"], "enum": ["a", null]}),
            json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}),
            json!({"type": "array", "items": city, "maxItems": 3}),
            json!({"$ref": "#/$defs/X"}),
        ] {
            assert!(property(fine.clone()), "{fine}");
        }
        for not in [
            json!({"type": "object"}),
            json!({"type": "object", "properties": {}}),
            json!({"type": ["object", "null"]}),
            json!({"type": "array", "items": {"type": "object"}}),
            json!({"type": "array", "uniqueItems": true}),
            json!({"type": "string", "format": "my"}),
            json!({"type": "string", "pattern": "a"}),
            json!({"oneOf": []}),
            json!({"not": {}}),
            json!({"$ref": "https://example.com"}),
            json!({"minimum": 1e20}),
            json!(true),
        ] {
            assert!(!property(not.clone()), "{not}");
        }
    }
}
