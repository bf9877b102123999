//! Keywords of objects that speak of several properties at once.

use serde_json::{Map, Value, json};

use super::disjoint::Judge;
use super::ecma::{Translated, translate};

/// Maximum number of combinations of optional properties that are written out.
const MAX_COMBINATIONS: usize = 64;

/// Maximum number of names and schemas that are looked at for `unevaluatedProperties`.
const MAX_NAMES: usize = 5_000;

/// Applies `propertyNames` to the properties of `out`. Returns `false` if that is not all of it.
pub fn names(names: &Value, out: &mut Map<String, Value>) -> bool {
    let closed = |out: &mut Map<String, Value>| {
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
    };
    let fields = match names {
        Value::Bool(true) => return true,
        Value::Bool(false) => {
            out.remove("properties");
            out.remove("patternProperties");
            closed(out);
            return true;
        }
        Value::Object(fields) => fields,
        _ => return false,
    };
    const KNOWN: [&str; 6] = ["type", "enum", "const", "pattern", "minLength", "maxLength"];
    let mut whole = fields.keys().all(|keyword| KNOWN.contains(&keyword.as_str()));
    let textual = match fields.get("type") {
        None => true,
        Some(Value::Array(types)) => types.contains(&json!("string")),
        Some(name) => name == "string",
    };
    if !textual {
        return self::names(&Value::Bool(false), out);
    }
    let patterned =
        out.get("patternProperties").and_then(Value::as_object).is_some_and(|named| !named.is_empty());
    let rest = out.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
    let only = fields.get("const").map(|value| vec![value]);
    let listed = only.or_else(|| Some(fields.get("enum")?.as_array()?.iter().collect()));
    if let Some(values) = listed {
        if patterned {
            return false;
        }
        let length = |text: &str| {
            let count = text.chars().count() as u64;
            let bound = |keyword: &str| fields.get(keyword).and_then(Value::as_u64);
            bound("minLength").is_none_or(|least| count >= least)
                && bound("maxLength").is_none_or(|most| count <= most)
        };
        let allowed: Vec<&str> =
            values.into_iter().filter_map(Value::as_str).filter(|text| length(text)).collect();
        let mut properties = out.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        properties.retain(|name, _| allowed.contains(&name.as_str()));
        for name in allowed {
            properties.entry(name.to_owned()).or_insert_with(|| rest.clone());
        }
        out.insert("properties".to_owned(), Value::Object(properties));
        closed(out);
        return whole && !fields.contains_key("pattern");
    }
    let pattern = fields.get("pattern").and_then(Value::as_str);
    let lengths = fields.contains_key("minLength") || fields.contains_key("maxLength");
    let pattern = match (pattern, lengths) {
        (None, false) => return whole,
        (Some(pattern), _) => {
            whole &= !lengths;
            pattern.to_owned()
        }
        (None, true) => {
            let bound = |keyword: &str| fields.get(keyword).and_then(Value::as_u64);
            let most = bound("maxLength").map_or_else(String::new, |most| most.to_string());
            format!(r"^[\u0000-\u{{10FFFF}}]{{{},{most}}}$", bound("minLength").unwrap_or(0))
        }
    };
    if patterned || !matches!(translate(&pattern), Ok(Translated::Pattern(_))) {
        return false;
    }
    // Whether the names of `properties` match is left to the final check.
    whole &= out.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty);
    out.insert("patternProperties".to_owned(), json!({pattern: rest}));
    closed(out);
    whole
}

/// Applies `minProperties` and `maxProperties` to `out`; the result is a further condition.
///
/// # Errors
/// The keyword that has no form.
pub fn counts(
    fields: &Map<String, Value>,
    out: &mut Map<String, Value>,
) -> Result<Option<Value>, &'static str> {
    let bound = |keyword: &str| fields.get(keyword).and_then(Value::as_u64);
    let (least, most) = (bound("minProperties").unwrap_or(0), bound("maxProperties"));
    if least == 0 && most.is_none() {
        return Ok(None);
    }
    if most.is_some_and(|most| most < least) {
        // Of other types than objects nothing is demanded.
        return Ok(Some(json!({"type": ["null", "boolean", "number", "string", "array"]})));
    }
    let required: Vec<&str> = out
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = out.get("properties").and_then(Value::as_object);
    let optional: Vec<String> = properties
        .into_iter()
        .flatten()
        .filter(|(name, schema)| !required.contains(&name.as_str()) && **schema != Value::Bool(false))
        .map(|(name, _)| name.clone())
        .collect();
    let patterned =
        out.get("patternProperties").and_then(Value::as_object).is_some_and(|named| !named.is_empty());
    let closed = !patterned && out.get("additionalProperties") == Some(&Value::Bool(false));
    let applied = ["$ref", "allOf", "anyOf", "oneOf", "if", "not", "dependentRequired", "dependentSchemas"];
    let alone = !applied.iter().any(|keyword| fields.contains_key(*keyword));
    let least = least.saturating_sub(required.len() as u64);
    let most = most.map(|most| most.checked_sub(required.len() as u64));
    let most = match most {
        // More are required than allowed.
        Some(None) => return Ok(Some(json!({"type": ["null", "boolean", "number", "string", "array"]}))),
        Some(Some(most)) => Some(most),
        None => None,
    };
    let most = most.filter(|most| !(closed && *most >= optional.len() as u64));
    if least == 0 && most.is_none() {
        return Ok(None);
    }
    if closed && least > optional.len() as u64 {
        return Ok(Some(json!({"type": ["null", "boolean", "number", "string", "array"]})));
    }
    let keyword = if least > 0 { "minProperties" } else { "maxProperties" };
    if optional.is_empty() && alone {
        for keyword in ["minProperties", "maxProperties"] {
            if let Some(count) = fields.get(keyword) {
                out.insert(keyword.to_owned(), count.clone());
            }
        }
        return Ok(None);
    }
    let absent = |names: &[&String]| {
        Value::Object(names.iter().map(|name| ((*name).clone(), Value::Bool(false))).collect::<Map<_, _>>())
    };
    if most == Some(0) {
        let mut none = json!({"type": "object", "properties": absent(&optional.iter().collect::<Vec<_>>())});
        if !closed {
            none["additionalProperties"] = json!(false);
            if patterned {
                return Err(keyword);
            }
            // The required ones are named, so that they are not additional.
            for name in &required {
                none["properties"][name] = json!(true);
            }
        }
        return Ok(Some(or_no_object(fields, vec![none])));
    }
    if closed {
        let options =
            combinations(optional.len(), least as usize, most.map(|most| most as usize)).ok_or(keyword)?;
        let options = options.into_iter().map(|(chosen, free)| {
            let names: Vec<&String> = chosen.iter().map(|&index| &optional[index]).collect();
            let others: Vec<&String> = (0..optional.len())
                .filter(|index| !chosen.contains(index) && !free.contains(index))
                .map(|index| &optional[index])
                .collect();
            json!({"type": "object", "required": names, "properties": absent(&others)})
        });
        return Ok(Some(or_no_object(fields, options.collect())));
    }
    if most.is_some() || least != 1 || optional.len() >= MAX_COMBINATIONS || !alone {
        return Err(keyword);
    }
    // At least one: one that is named, or any other.
    let mut options: Vec<Value> = optional
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let before: Vec<&String> = optional[..index].iter().collect();
            json!({"type": "object", "required": [name], "properties": absent(&before)})
        })
        .collect();
    let all: Vec<&String> = optional.iter().collect();
    options.push(json!({
        "type": "object", "properties": absent(&all), "minProperties": required.len() + 1,
    }));
    Ok(Some(or_no_object(fields, options)))
}

/// A condition on objects only.
fn or_no_object(fields: &Map<String, Value>, mut options: Vec<Value>) -> Value {
    if fields.get("type") != Some(&json!("object")) {
        options.push(json!({"type": ["null", "boolean", "number", "string", "array"]}));
    }
    super::negation::any_of(options)
}

/// Combinations of `count` places of which `least` to `most` are taken: those that are taken, and those that may be.
/// `None` if they are too many.
fn combinations(count: usize, least: usize, most: Option<usize>) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let mut found = Vec::new();
    let sizes = match most {
        Some(most) => least..=most.min(count),
        None => least..=least,
    };
    for size in sizes {
        let mut chosen: Vec<usize> = (0..size).collect();
        if size > count {
            break;
        }
        loop {
            if found.len() >= MAX_COMBINATIONS {
                return None;
            }
            let free = match (most, chosen.last()) {
                (None, Some(last)) => (last + 1..count).collect(),
                _ => Vec::new(),
            };
            found.push((chosen.clone(), free));
            // The next combination in lexical order.
            let Some(place) = (0..size).rev().find(|&place| chosen[place] < count - size + place) else {
                break;
            };
            chosen[place] += 1;
            for next in place + 1..size {
                chosen[next] = chosen[next - 1] + 1;
            }
        }
    }
    Some(found)
}

/// Applies `unevaluatedProperties` with the schema `rest` to `out`. Returns `false` if more is allowed then.
pub fn unevaluated(
    fields: &Map<String, Value>,
    rest: Value,
    judge: &Judge<'_>,
    out: &mut Map<String, Value>,
) -> bool {
    if fields.contains_key("additionalProperties") {
        return true;
    }
    let mut seen =
        Evaluated { names: Vec::new(), patterns: Vec::new(), open: false, conditional: false, visits: 0 };
    seen.applied(fields, judge, 0);
    judge.spend(seen.visits + seen.names.len() * seen.names.len() / 64);
    if seen.open || seen.visits > MAX_NAMES {
        return !seen.conditional && seen.visits <= MAX_NAMES;
    }
    let add = |out: &mut Map<String, Value>, keyword: &str, names: Vec<String>| {
        if names.is_empty() {
            return;
        }
        let named = out.entry(keyword).or_insert_with(|| json!({}));
        if let Value::Object(named) = named {
            for name in names {
                named.entry(name).or_insert(Value::Bool(true));
            }
        }
    };
    add(out, "properties", seen.names);
    add(out, "patternProperties", seen.patterns);
    out.insert("additionalProperties".to_owned(), rest);
    !seen.conditional
}

/// Properties that other keywords evaluate.
struct Evaluated {
    names: Vec<String>,
    patterns: Vec<String>,
    /// Set if all are.
    open: bool,
    /// Set if some are under conditions.
    conditional: bool,
    visits: usize,
}

impl Evaluated {
    /// Collects those of the schemas that apply in place.
    fn applied(&mut self, fields: &Map<String, Value>, judge: &Judge<'_>, depth: usize) {
        if let Some(target) = fields.get("$ref").and_then(Value::as_str).and_then(|to| judge.target(to)) {
            self.schema(target, judge, depth + 1);
        }
        let list = |keyword: &str| fields.get(keyword).and_then(Value::as_array).into_iter().flatten();
        list("allOf").for_each(|schema| self.schema(schema, judge, depth + 1));
        let branches = ["if", "then", "else"].into_iter().filter_map(|keyword| fields.get(keyword));
        let dependent = fields.get("dependentSchemas").and_then(Value::as_object).into_iter().flatten();
        let conditional: Vec<&Value> = ["anyOf", "oneOf"]
            .into_iter()
            .flat_map(list)
            .chain(branches)
            .chain(dependent.map(|(_, schema)| schema))
            .collect();
        let before = (self.names.len(), self.patterns.len(), self.open);
        conditional.into_iter().for_each(|schema| self.schema(schema, judge, depth + 1));
        self.conditional |= before != (self.names.len(), self.patterns.len(), self.open);
    }

    fn schema(&mut self, schema: &Value, judge: &Judge<'_>, depth: usize) {
        self.visits += 1;
        if depth > 16 || self.visits > MAX_NAMES {
            self.visits = MAX_NAMES + 1;
            return;
        }
        let Value::Object(fields) = schema else { return };
        self.open |=
            fields.contains_key("additionalProperties") || fields.contains_key("unevaluatedProperties");
        let keys =
            |keyword: &str| fields.get(keyword).and_then(Value::as_object).into_iter().flat_map(Map::keys);
        for name in keys("properties") {
            self.visits += 1;
            if !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
        self.patterns.extend(keys("patternProperties").cloned());
        self.applied(fields, judge, depth);
    }
}
