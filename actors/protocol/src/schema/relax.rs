//! Wider forms of a schema, for compilers that cannot enforce the normalised one either.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::exact;

/// Number of steps of [`relaxed`].
pub const RELAXATIONS: usize = 2;

/// Keywords that can be left out: the schema accepts more without them.
const NARROWING: [&str; 15] = [
    "pattern",
    "format",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "oneOf",
];

/// Keywords of a normalised schema that the last step leaves out as well.
const STRUCTURE: [&str; 10] = [
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "items",
    "prefixItems",
    "properties",
    "required",
];

/// Returns a schema that accepts more, and the keywords that it leaves out. With step 0, expressions and ranges are left
/// out; with step 1, everything but the type of the whole.
#[must_use]
pub fn relaxed(enforced: &Value, step: usize) -> (Value, BTreeSet<&'static str>) {
    let mut enforced = enforced.clone();
    let mut dropped = exact::unmarked(&mut enforced);
    let schema = match step {
        0 => without_ranges(&enforced, &mut dropped),
        _ => {
            named(&enforced, &mut dropped);
            match enforced.get("type") {
                Some(own) => json!({"type": own}),
                None => json!({}),
            }
        }
    };
    (schema, dropped)
}

fn without_ranges(schema: &Value, dropped: &mut BTreeSet<&'static str>) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (keyword, value) in fields {
        if let Some(name) = NARROWING.iter().find(|name| *name == keyword) {
            dropped.insert(name);
            continue;
        }
        let value = match (keyword.as_str(), value) {
            ("properties" | "$defs", Value::Object(named)) => {
                let each = named.iter().map(|(name, schema)| (name.clone(), without_ranges(schema, dropped)));
                Value::Object(each.collect())
            }
            ("allOf" | "anyOf" | "prefixItems", Value::Array(schemas)) => {
                Value::Array(schemas.iter().map(|schema| without_ranges(schema, dropped)).collect())
            }
            // Names that the expressions matched are additional now.
            ("additionalProperties", _) if fields.contains_key("patternProperties") => continue,
            ("additionalProperties" | "items", schema) => without_ranges(schema, dropped),
            (_, value) => value.clone(),
        };
        out.insert(keyword.clone(), value);
    }
    Value::Object(out)
}

/// Collects the keywords of a schema.
fn named(schema: &Value, found: &mut BTreeSet<&'static str>) {
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                for (keyword, value) in fields {
                    found.extend(NARROWING.iter().chain(&STRUCTURE).find(|name| *name == keyword));
                    left.push(value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relaxed_schemas_keep_their_structure_first() {
        let schema = json!({
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "x", "minLength": 2}},
            "patternProperties": {"b": {"type": "null"}},
            "additionalProperties": false,
            "required": ["a"],
        });
        let (wider, dropped) = relaxed(&schema, 0);
        assert_eq!(
            wider,
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
        );
        assert_eq!(dropped.into_iter().collect::<Vec<_>>(), ["minLength", "pattern", "patternProperties"]);
        assert_eq!(relaxed(&schema, 1).0, json!({"type": "object"}));
    }
}
