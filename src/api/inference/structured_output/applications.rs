//! Bound on the number of schemas that a validator may have to apply, references included.
//!
//! A validator follows every reference anew. Definitions of which each refers to the next one twice double the work with each
//! of them, so a few kilobytes would be work for hours, on a thread that nothing can end.

use std::collections::HashMap;

use serde_json::Value;

/// Maximum number of schemas with every reference written out. References that lead back to themselves count once.
const MAX_APPLICATIONS: u64 = 1_000_000;

/// Keywords whose values are no schemas, and definitions, which apply where they are referred to.
const NO_SCHEMAS: [&str; 5] = ["const", "enum", "default", "examples", "$defs"];

/// Checks a schema in the normalised form, on a [large stack](super::nesting::on_large_stack).
///
/// # Errors
/// A text that states the bound and what to change.
pub fn check(schema: &Value) -> Result<(), String> {
    if count(schema, schema, &mut HashMap::new()) <= MAX_APPLICATIONS {
        return Ok(());
    }
    Err(format!(
        "it has more than {MAX_APPLICATIONS} schemas with its references written out; refer less often to definitions that \
         refer to others"
    ))
}

/// The number of schemas in a value. `known`: those of targets of references; `None` while they are counted.
fn count<'a>(value: &'a Value, root: &'a Value, known: &mut HashMap<&'a str, Option<u64>>) -> u64 {
    let mut sum: u64 = 1;
    match value {
        Value::Array(values) => {
            for value in values {
                sum = sum.saturating_add(count(value, root, known));
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let more = match (name.as_str(), value) {
                    ("$ref", Value::String(reference)) => target(reference, root, known),
                    (name, _) if NO_SCHEMAS.contains(&name) => 0,
                    _ => count(value, root, known),
                };
                sum = sum.saturating_add(more);
            }
        }
        _ => {}
    }
    sum
}

fn target<'a>(reference: &'a str, root: &'a Value, known: &mut HashMap<&'a str, Option<u64>>) -> u64 {
    if let Some(found) = known.get(reference) {
        return found.unwrap_or(1);
    }
    let Some(schema) = reference.strip_prefix('#').and_then(|path| root.pointer(path)) else { return 1 };
    known.insert(reference, None);
    let found = count(schema, root, known);
    known.insert(reference, Some(found));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn chain(length: usize, times: usize) -> Value {
        let link = |number: usize| json!({"allOf": vec![json!({"$ref": format!("#/$defs/d{}", number + 1)}); times]});
        let mut definitions: Map<String, Value> =
            (0..length).map(|number| (format!("d{number}"), link(number))).collect();
        definitions.insert(format!("d{length}"), json!({"type": "integer"}));
        json!({"$defs": definitions, "$ref": "#/$defs/d0"})
    }

    #[test]
    fn doubling_references_are_refused() {
        assert!(check(&chain(60, 2)).is_err());
        assert!(check(&chain(300, 1)).is_ok());
        assert!(check(&chain(10, 2)).is_ok());
        let tree = json!({"$defs": {"n": {"properties": {"l": {"$ref": "#/$defs/n"}, "r": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"});
        assert!(check(&tree).is_ok());
    }
}
