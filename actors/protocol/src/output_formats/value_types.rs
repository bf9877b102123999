//! Types of the values that a JSON Schema allows, by its keywords alone.

use serde_json::Value;

use crate::schema::type_of;

/// Returns `false` if a schema allows no value of this type, one of JSON Schema's seven. References and other keywords than
/// `type`, `enum`, `const`, `anyOf` and `oneOf` restrict nothing here.
pub(super) fn may_be(schema: &Value, kind: &str) -> bool {
    let Some(schema) = schema.as_object() else { return *schema != Value::Bool(false) };
    let is_kind = |known: &Value| known.as_str().is_some_and(|known| covers(known, kind));
    let declared = schema.get("type").is_none_or(|known| match known {
        Value::Array(known) => known.iter().any(is_kind),
        known => is_kind(known),
    });
    let is_among = |values: &[Value]| values.iter().any(|value| covers(kind, type_of(value)));
    let listed = schema.get("enum").and_then(Value::as_array).is_none_or(|values| is_among(values))
        && schema.get("const").is_none_or(|value| is_among(std::slice::from_ref(value)));
    let alternatives = ["anyOf", "oneOf"].iter().all(|keyword| {
        let alternatives = schema.get(*keyword).and_then(Value::as_array);
        alternatives.is_none_or(|all| all.iter().any(|schema| may_be(schema, kind)))
    });
    declared && listed && alternatives
}

fn covers(known: &str, kind: &str) -> bool {
    known == kind || known == "number" && kind == "integer"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_follow_from_the_keywords() {
        for (schema, allowed, refused) in [
            (json!({}), vec!["string", "null"], vec![]),
            (json!({"type": "number"}), vec!["integer", "number"], vec!["string", "null"]),
            (json!({"type": ["integer", "null"]}), vec!["integer", "null"], vec!["number", "string"]),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
                vec!["string", "null"],
                vec!["integer"],
            ),
            (json!({"enum": ["a", 1]}), vec!["string", "integer"], vec!["null", "boolean"]),
            (json!({"const": 1}), vec!["integer", "number"], vec!["string"]),
            (json!({"$ref": "#/$defs/a"}), vec!["string", "object"], vec![]),
            (json!(false), vec![], vec!["string"]),
        ] {
            assert!(allowed.iter().all(|kind| may_be(&schema, kind)), "{schema}");
            assert!(refused.iter().all(|kind| !may_be(&schema, kind)), "{schema}");
        }
    }
}
