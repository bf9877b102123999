//! Negation of schemas whose opposite is finite.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::decimal::Decimal;
use super::disjoint::Judge;
use super::{accepts_all, weight};

/// Maximum number of alternatives of an opposite.
pub const MAX_ALTERNATIVES: usize = 16;

/// Maximum depth of negated schemas.
const MAX_DEPTH: usize = 8;

/// Maximum length of the texts whose complement becomes an expression, in characters.
const MAX_TEXT: usize = 500;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Returns alternatives of which one holds for exactly the values that do not satisfy `schema`; `None` if there is no
/// such list.
pub fn negated(schema: &Value, judge: &Judge<'_>) -> Option<Vec<Value>> {
    let alternatives = negate(schema, judge, 0)?;
    let copied = alternatives.iter().map(weight).sum();
    judge.spend(copied).then_some(alternatives)
}

fn negate(schema: &Value, judge: &Judge<'_>, depth: usize) -> Option<Vec<Value>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let fields = match schema {
        Value::Bool(true) => return Some(Vec::new()),
        Value::Bool(false) => return Some(vec![Value::Bool(true)]),
        Value::Object(fields) => fields,
        _ => return None,
    };
    // Lists are walked, and their contents copied into alternatives.
    let lists: usize = fields.values().filter_map(Value::as_array).map(Vec::len).sum();
    if !judge.spend(1 + fields.len() + lists) {
        return None;
    }
    let mut alternatives = Vec::new();
    for (keyword, value) in fields {
        alternatives.extend(opposite(fields, keyword, value, judge, depth)?);
        if alternatives.len() > MAX_ALTERNATIVES {
            return None;
        }
    }
    Some(alternatives)
}

fn opposite(
    fields: &Map<String, Value>,
    keyword: &str,
    value: &Value,
    judge: &Judge<'_>,
    depth: usize,
) -> Option<Vec<Value>> {
    let one = |alternative: Value| Some(vec![alternative]);
    let count = || value.as_u64();
    match keyword {
        "$defs" => Some(Vec::new()),
        "$ref" => negate(judge.target(value.as_str()?)?, judge, depth + 1),
        "type" => {
            let names: Vec<&str> = match value {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                name => vec![name.as_str()?],
            };
            // Numbers that are not whole have no form of their own.
            if names.contains(&"integer") {
                return None;
            }
            Some(of_types(TYPES.iter().filter(|name| !names.contains(name)).copied().collect()))
        }
        "const" => others(&[value]),
        "enum" => others(&value.as_array()?.iter().collect::<Vec<_>>()),
        "required" => {
            let names = value.as_array()?;
            Some(names.iter().map(|name| absent(name.as_str().unwrap_or_default())).collect())
        }
        "properties" => {
            let mut alternatives = Vec::new();
            for (name, schema) in value.as_object()? {
                let other = negate(schema, judge, depth + 1)?;
                if !other.is_empty() {
                    alternatives.push(
                        json!({"type": "object", "required": [name], "properties": {name: any_of(other)}}),
                    );
                }
            }
            Some(alternatives)
        }
        "minLength" => one(json!({"type": "string", "maxLength": count()?.checked_sub(1)?})),
        "maxLength" => one(json!({"type": "string", "minLength": count()? + 1})),
        "minItems" => one(json!({"type": "array", "maxItems": count()?.checked_sub(1)?})),
        "maxItems" => one(json!({"type": "array", "minItems": count()? + 1})),
        "minProperties" => one(json!({"type": "object", "maxProperties": count()?.checked_sub(1)?})),
        "maxProperties" => one(json!({"type": "object", "minProperties": count()? + 1})),
        "minimum" => one(json!({"type": "number", "exclusiveMaximum": value})),
        "maximum" => one(json!({"type": "number", "exclusiveMinimum": value})),
        "exclusiveMinimum" => one(json!({"type": "number", "maximum": value})),
        "exclusiveMaximum" => one(json!({"type": "number", "minimum": value})),
        "allOf" => {
            let mut alternatives = Vec::new();
            for schema in value.as_array()? {
                alternatives.extend(negate(schema, judge, depth + 1)?);
            }
            Some(alternatives)
        }
        "anyOf" => {
            let mut all = Vec::new();
            for schema in value.as_array()? {
                all.push(any_of(negate(schema, judge, depth + 1)?));
            }
            all.retain(|schema| !accepts_all(schema));
            if all.len() > MAX_ALTERNATIVES {
                return None;
            }
            one(if all.is_empty() { Value::Bool(true) } else { json!({"allOf": all}) })
        }
        "not" => one(value.clone()),
        // Without what it belongs to it says nothing.
        "minContains" | "maxContains" if !fields.contains_key("contains") => Some(Vec::new()),
        _ => None,
    }
}

/// The schema of which one of these holds.
pub fn any_of(mut alternatives: Vec<Value>) -> Value {
    match alternatives.len() {
        0 => Value::Bool(false),
        1 => alternatives.remove(0),
        _ => json!({"anyOf": alternatives}),
    }
}

/// An object without a property.
pub fn absent(name: &str) -> Value {
    json!({"type": "object", "properties": {name: false}})
}

fn of_types(mut names: Vec<&str>) -> Vec<Value> {
    match names.len() {
        0 => Vec::new(),
        1 => vec![json!({"type": names.remove(0)})],
        _ => vec![json!({"type": names})],
    }
}

/// All values but these.
fn others(values: &[&Value]) -> Option<Vec<Value>> {
    let mut types = TYPES.to_vec();
    let mut alternatives = Vec::new();
    let (mut numbers, mut texts, mut booleans) = (BTreeMap::new(), Vec::new(), Vec::new());
    for value in values {
        match value {
            Value::Null => types.retain(|name| *name != "null"),
            Value::Bool(value) => booleans.push(*value),
            Value::Number(number) => {
                numbers.insert(Decimal::of(number), *value);
            }
            Value::String(text) => texts.push(text.as_str()),
            Value::Array(_) | Value::Object(_) => return None,
        }
    }
    if !booleans.is_empty() {
        types.retain(|name| *name != "boolean");
        if !(booleans.contains(&true) && booleans.contains(&false)) {
            alternatives.push(json!({"const": !booleans[0]}));
        }
    }
    if !numbers.is_empty() {
        types.retain(|name| *name != "number");
        let mut below: Option<&Value> = None;
        for number in numbers.values() {
            let mut range = json!({"type": "number", "exclusiveMaximum": number});
            if let Some(below) = below {
                range["exclusiveMinimum"] = below.clone();
            }
            alternatives.push(range);
            below = Some(number);
        }
        alternatives.push(json!({"type": "number", "exclusiveMinimum": below}));
    }
    if !texts.is_empty() {
        types.retain(|name| *name != "string");
        alternatives.push(json!({"type": "string", "pattern": complement(&texts)?}));
    }
    alternatives.extend(of_types(types));
    (alternatives.len() <= MAX_ALTERNATIVES).then_some(alternatives)
}

/// An expression for all texts but these.
fn complement(texts: &[&str]) -> Option<String> {
    if texts.iter().map(|text| text.chars().count()).sum::<usize>() > MAX_TEXT {
        return None;
    }
    let mut sorted: Vec<Vec<char>> = texts.iter().map(|text| text.chars().collect()).collect();
    sorted.sort();
    sorted.dedup();
    if sorted.iter().any(|text| text.len() > 60) {
        return None;
    }
    Some(format!("^{}$", without(&sorted.iter().map(Vec::as_slice).collect::<Vec<_>>())))
}

/// The texts that differ from all of these, which are sorted.
fn without(texts: &[&[char]]) -> String {
    let mut parts = Vec::new();
    let mut children: BTreeMap<char, Vec<&[char]>> = BTreeMap::new();
    let mut ends = false;
    for text in texts {
        match text.split_first() {
            Some((first, rest)) => children.entry(*first).or_default().push(rest),
            None => ends = true,
        }
    }
    if !ends {
        parts.push(String::new());
    }
    let code = |character: char| format!("\\u{{{:X}}}", u32::from(character));
    let known: String = children.keys().fold(String::new(), |mut known, character| {
        let _ = write!(known, "{}", code(*character));
        known
    });
    let any = r"[\u0000-\u{10FFFF}]";
    parts.push(if known.is_empty() { format!("{any}+") } else { format!("[^{known}]{any}*") });
    for (character, rest) in &children {
        parts.push(format!("{}{}", code(*character), without(rest)));
    }
    format!("(?:{})", parts.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schemas() -> impl Strategy<Value = Value> {
        let value = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-3..3i64).prop_map(Value::from),
            Just(json!(1.5)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            prop::sample::subsequence(TYPES.to_vec(), 1..4).prop_map(|names| json!({"type": names})),
            value.clone().prop_map(|value| json!({"const": value})),
            prop::collection::vec(value, 1..4).prop_map(|values| json!({"enum": values})),
            (0..3u32).prop_map(|n| json!({"minLength": n + 1})),
            (0..3u32).prop_map(|n| json!({"maxLength": n})),
            (-2..2i64).prop_map(|n| json!({"minimum": n, "exclusiveMaximum": n + 2})),
            Just(json!({"required": ["a"]})),
            Just(json!({"minItems": 1})),
            Just(json!({"maxProperties": 1})),
        ];
        leaf.prop_recursive(2, 8, 2, |inner| {
            prop_oneof![
                inner.clone().prop_map(|schema| json!({"properties": {"a": schema}})),
                prop::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({"allOf": all})),
                prop::collection::vec(inner.clone(), 1..3).prop_map(|any| json!({"anyOf": any})),
                inner.prop_map(|schema| json!({"not": schema})),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_satisfies_either_a_schema_or_its_opposite(schema in schemas()) {
            let root = json!({});
            let Some(opposite) = negated(&schema, &Judge::new(&root)) else { return Ok(()) };
            let opposite = any_of(opposite);
            for value in super::super::tests::values() {
                prop_assert_ne!(
                    jsonschema::is_valid(&schema, &value), jsonschema::is_valid(&opposite, &value),
                    "{} {} {}", schema, opposite, value
                );
            }
        }
    }
}
