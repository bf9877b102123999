//! The same schema in one dialect: JSON Schema 2020-12 without annotations, ids, anchors and older spellings.
//!
//! Metadata is ignored whatever its type, null is an absent keyword, and the dialect that `$schema` names matters in
//! nothing but the spelling of its keywords: `const` means what it says under draft 4, too, and what stands beside
//! `$ref` holds as well.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::ecma::{Translated, translate};
use super::references::Targets;
use super::{MAX_DEPTH, MAX_VALUES, SchemaError, accepts_all, formats};

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

/// Counts above this are no bound in practice.
const MAX_COUNT: f64 = 9_007_199_254_740_992.0;

/// Rewrites a schema. Definitions that are referred to become entries of `$defs` with plain names.
///
/// # Errors
/// See [`SchemaError`].
pub fn canonical(root: &Value) -> Result<Value, SchemaError> {
    let annotated = mentions_unevaluated(root);
    let schema = rewritten(root, annotated)?;
    // What is not referred to is gone.
    if annotated && !mentions_unevaluated(&schema) { rewritten(root, false) } else { Ok(schema) }
}

fn rewritten(root: &Value, annotated: bool) -> Result<Value, SchemaError> {
    let mut walk = Canonical {
        targets: Targets::new(root),
        root,
        names: HashMap::new(),
        found: Vec::new(),
        values: 0,
        annotated,
    };
    let mut schema = walk.schema(root, &mut Place::default(), true)?;
    let mut definitions = Map::new();
    let mut next = 0;
    while let Some(&target) = walk.found.get(next) {
        let mut place = Place::default();
        definitions.insert(name(next), walk.schema(target, &mut place, false)?);
        next += 1;
    }
    if !definitions.is_empty() {
        if let Value::Bool(all) = schema {
            schema = if all { json!({}) } else { json!({"not": {}}) };
        }
        if let Value::Object(fields) = &mut schema {
            fields.insert("$defs".to_owned(), Value::Object(definitions));
        }
    }
    Ok(schema)
}

fn name(index: usize) -> String {
    format!("d{index}")
}

/// The path to the schema that is read, for errors.
#[derive(Default)]
struct Place(Vec<String>);

impl Place {
    fn error(&self, message: impl Into<String>) -> SchemaError {
        let mut at = String::new();
        for part in &self.0 {
            at.push('/');
            at.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        if at.len() > 200 {
            let cut = at.char_indices().map(|(index, _)| index).take_while(|index| *index <= 200).last();
            at.truncate(cut.unwrap_or(0));
            at.push('…');
        }
        SchemaError { at, message: message.into() }
    }

    fn within<T>(&mut self, part: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.0.push(part.to_owned());
        let result = walk(self);
        self.0.pop();
        result
    }
}

struct Canonical<'a> {
    targets: Targets<'a>,
    root: &'a Value,
    /// Numbers of the definitions by the address of their source.
    names: HashMap<usize, usize>,
    found: Vec<&'a Value>,
    values: usize,
    /// Set if other keywords matter for what they evaluate, even if they allow everything.
    annotated: bool,
}

impl<'a> Canonical<'a> {
    fn visit(&mut self, place: &Place) -> Result<(), SchemaError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(place.error(format!("the schema has more than {MAX_VALUES} values")));
        }
        if place.0.len() > MAX_DEPTH {
            return Err(place.error("it is nested too deeply"));
        }
        Ok(())
    }

    fn schema(&mut self, schema: &'a Value, place: &mut Place, is_root: bool) -> Result<Value, SchemaError> {
        self.visit(place)?;
        let fields = match schema {
            Value::Bool(all) => return Ok(Value::Bool(*all)),
            Value::Object(fields) => fields,
            _ => return Err(place.error("a schema is an object or a boolean")),
        };
        let mut out = Map::new();
        for (keyword, value) in fields {
            // Generators write null for what is absent.
            if value.is_null() && keyword != "const" {
                continue;
            }
            place.within(keyword, |place| self.keyword(fields, keyword, value, place, &mut out))?;
        }
        tidy(&mut out, self.annotated);
        if out.is_empty() && !is_root {
            return Ok(Value::Bool(true));
        }
        Ok(Value::Object(out))
    }

    fn keyword(
        &mut self,
        fields: &'a Map<String, Value>,
        keyword: &str,
        value: &'a Value,
        place: &mut Place,
        out: &mut Map<String, Value>,
    ) -> Result<(), SchemaError> {
        let canonical = match keyword {
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let target = self.reference(value, place)?;
                add(out, "$ref", target);
                return Ok(());
            }
            "type" => types(value, place)?,
            "const" => {
                check_numbers(value, place)?;
                value.clone()
            }
            "enum" => {
                let values = value.as_array().ok_or_else(|| place.error("expected an array of values"))?;
                self.values += values.len();
                check_numbers(value, place)?;
                Value::Array(values.clone())
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
            | "minContains" | "maxContains" => match count(value, place)? {
                Some(count) => json!(count),
                None => return Ok(()),
            },
            "minimum" | "maximum" => {
                if !value.is_number() {
                    return Err(place.error("expected a number"));
                }
                let exclusive = if keyword == "minimum" { "exclusiveMinimum" } else { "exclusiveMaximum" };
                if fields.get(exclusive) == Some(&Value::Bool(true)) {
                    out.insert(exclusive.to_owned(), value.clone());
                    return Ok(());
                }
                value.clone()
            }
            "exclusiveMinimum" | "exclusiveMaximum" => match value {
                // Draft 4's, read with the bound that it belongs to.
                Value::Bool(_) => return Ok(()),
                Value::Number(_) => value.clone(),
                _ => return Err(place.error("expected a number")),
            },
            "multipleOf" => match value.as_f64() {
                Some(factor) if factor > 0.0 => value.clone(),
                _ => return Err(place.error("expected a number above 0")),
            },
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| place.error("expected a regular expression"))?;
                json!(expression(pattern, place)?)
            }
            "format" => match value.as_str() {
                Some(format) if formats::is_checked(format) => value.clone(),
                // An annotation.
                _ => return Ok(()),
            },
            "uniqueItems" => match value {
                Value::Bool(true) => value.clone(),
                Value::Bool(false) => return Ok(()),
                _ => return Err(place.error("expected a boolean")),
            },
            "required" => strings(value, place)?,
            "properties" | "patternProperties" | "dependentSchemas" => {
                let schemas =
                    value.as_object().ok_or_else(|| place.error("expected an object of schemas"))?;
                let mut named = Map::new();
                for (name, schema) in schemas {
                    let key = match keyword {
                        "patternProperties" => place.within(name, |place| expression(name, place))?,
                        _ => name.clone(),
                    };
                    let schema = place.within(name, |place| self.schema(schema, place, false))?;
                    named.insert(key, schema);
                }
                Value::Object(named)
            }
            "dependentRequired" => names_by_name(value, place)?,
            "dependencies" => {
                let all = value.as_object().ok_or_else(|| place.error("expected an object"))?;
                let (mut names, mut schemas) = (Map::new(), Map::new());
                for (name, dependency) in all {
                    place.within(name, |place| {
                        match dependency {
                            Value::Array(_) => {
                                names.insert(name.clone(), strings(dependency, place)?);
                            }
                            // Draft 3's.
                            Value::String(one) => {
                                names.insert(name.clone(), json!([one]));
                            }
                            _ => {
                                schemas.insert(name.clone(), self.schema(dependency, place, false)?);
                            }
                        }
                        Ok(())
                    })?;
                }
                add(out, "dependentRequired", Value::Object(names));
                add(out, "dependentSchemas", Value::Object(schemas));
                return Ok(());
            }
            "items" => match value {
                Value::Array(items) => {
                    let items = self.list(items, place)?;
                    add(out, "prefixItems", Value::Array(items));
                    return Ok(());
                }
                _ => self.schema(value, place, false)?,
            },
            "additionalItems" => match fields.get("items") {
                Some(Value::Array(_)) => {
                    let rest = self.schema(value, place, false)?;
                    add(out, "items", rest);
                    return Ok(());
                }
                _ => return Ok(()),
            },
            "prefixItems" | "allOf" | "anyOf" | "oneOf" => match value {
                Value::Array(schemas) if !schemas.is_empty() => Value::Array(self.list(schemas, place)?),
                Value::Array(_) if keyword == "prefixItems" => return Ok(()),
                _ => return Err(place.error("expected an array of at least one schema")),
            },
            "then" | "else" if !fields.contains_key("if") => return Ok(()),
            "if" if !fields.contains_key("then") && !fields.contains_key("else") => return Ok(()),
            "not"
            | "if"
            | "then"
            | "else"
            | "contains"
            | "propertyNames"
            | "additionalProperties"
            | "unevaluatedProperties"
            | "unevaluatedItems" => self.schema(value, place, false)?,
            // Metadata, and keywords that nobody knows.
            _ => return Ok(()),
        };
        add(out, keyword, canonical);
        Ok(())
    }

    fn list(&mut self, schemas: &'a [Value], place: &mut Place) -> Result<Vec<Value>, SchemaError> {
        let each = schemas.iter().enumerate();
        each.map(|(index, schema)| {
            place.within(&index.to_string(), |place| self.schema(schema, place, false))
        })
        .collect()
    }

    fn reference(&mut self, reference: &Value, place: &Place) -> Result<Value, SchemaError> {
        let text = reference.as_str().ok_or_else(|| place.error("expected a reference, a text"))?;
        let Some(target) = self.targets.find(text) else {
            let shown: String = text.chars().take(100).collect();
            return Err(place.error(format!(
                "the reference '{shown}' leads nowhere in this schema; other documents are not fetched"
            )));
        };
        let address = |value: &Value| std::ptr::from_ref(value) as usize;
        if address(target) == address(self.root) {
            return Ok(json!("#"));
        }
        let next = self.found.len();
        let index = *self.names.entry(address(target)).or_insert(next);
        if index == next {
            self.found.push(target);
        }
        Ok(json!(format!("#/$defs/{}", name(index))))
    }
}

/// Adds a keyword. If the schema has it already under an older name, both hold.
fn add(out: &mut Map<String, Value>, keyword: &str, value: Value) {
    if value.as_object().is_some_and(Map::is_empty) {
        return;
    }
    if let Some(all) = out.get_mut("allOf").filter(|_| keyword == "allOf") {
        if let (Value::Array(all), Value::Array(more)) = (all, value) {
            all.extend(more);
        }
        return;
    }
    if out.contains_key(keyword) {
        let also = json!({keyword: value});
        return add(out, "allOf", json!([also]));
    }
    out.insert(keyword.to_owned(), value);
}

/// Removes keywords that demand nothing.
fn tidy(out: &mut Map<String, Value>, annotated: bool) {
    let open = [
        "items",
        "additionalProperties",
        "unevaluatedProperties",
        "unevaluatedItems",
        "propertyNames",
        "then",
        "else",
    ];
    for keyword in open {
        let evaluates = annotated && !matches!(keyword, "propertyNames" | "then" | "else");
        if !evaluates && out.get(keyword).is_some_and(accepts_all) {
            out.remove(keyword);
        }
    }
    if !out.contains_key("then") && !out.contains_key("else") {
        out.remove("if");
    }
    for keyword in ["minLength", "minItems", "minProperties"] {
        if out.get(keyword) == Some(&json!(0)) {
            out.remove(keyword);
        }
    }
    for keyword in ["required", "allOf"] {
        if out.get(keyword).and_then(Value::as_array).is_some_and(|list| list.iter().all(accepts_all)) {
            out.remove(keyword);
        }
    }
    let one = json!(1);
    if out.get("uniqueItems").is_some() && out.get("maxItems").is_some_and(|most| *most == 0 || *most == one)
    {
        out.remove("uniqueItems");
    }
    if !out.contains_key("contains") {
        out.remove("minContains");
        out.remove("maxContains");
    }
    if !annotated
        && out.get("contains").is_some()
        && out.get("minContains") == Some(&json!(0))
        && !out.contains_key("maxContains")
    {
        out.remove("contains");
        out.remove("minContains");
    }
    // Every name is a text.
    let text = |names: &Value| match names {
        Value::Object(fields) => fields.len() == 1 && fields.get("type") == Some(&json!("string")),
        _ => false,
    };
    if out.get("propertyNames").is_some_and(text) {
        out.remove("propertyNames");
    }
    for keyword in ["dependentRequired", "dependentSchemas"] {
        if let Some(Value::Object(named)) = out.get_mut(keyword) {
            named.retain(|_, value| match value {
                Value::Array(names) => !names.is_empty(),
                schema => !accepts_all(schema),
            });
            if named.is_empty() {
                out.remove(keyword);
            }
        }
    }
}

/// Returns `true` if a schema has `unevaluatedProperties` or `unevaluatedItems` somewhere.
fn mentions_unevaluated(root: &Value) -> bool {
    let mut left = vec![root];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                if fields.contains_key("unevaluatedProperties") || fields.contains_key("unevaluatedItems") {
                    return true;
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    false
}

fn types(value: &Value, place: &Place) -> Result<Value, SchemaError> {
    let wrong = || place.error(format!("expected one or several of {}", TYPES.join(", ")));
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value {
        Value::String(_) if known(value) => Ok(value.clone()),
        Value::Array(names) if !names.is_empty() && names.iter().all(known) => {
            let mut distinct: Vec<Value> = Vec::new();
            for name in names {
                if !distinct.contains(name) {
                    distinct.push(name.clone());
                }
            }
            if distinct.contains(&json!("number")) {
                distinct.retain(|name| name != "integer");
            }
            Ok(if distinct.len() == 1 { distinct.remove(0) } else { Value::Array(distinct) })
        }
        _ => Err(wrong()),
    }
}

/// Checks that the numbers of a value are the ones that were written.
fn check_numbers(value: &Value, place: &Place) -> Result<(), SchemaError> {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Number(number)
                if !number.is_i64()
                    && !number.is_u64()
                    && number.as_f64().is_some_and(|number| number.abs() >= MAX_COUNT) =>
            {
                return Err(place.error(
                    "integers beyond 64 bits, and numbers as large as that, cannot be kept exactly; write them as texts",
                ));
            }
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    Ok(())
}

/// A count; `None` if it is so large that it bounds nothing.
fn count(value: &Value, place: &Place) -> Result<Option<u64>, SchemaError> {
    match value.as_f64() {
        Some(count) if count >= 0.0 && count.fract() == 0.0 => {
            Ok(if count <= MAX_COUNT { Some(count as u64) } else { value.as_u64() })
        }
        _ => Err(place.error("expected a whole number of at least 0")),
    }
}

fn strings(value: &Value, place: &Place) -> Result<Value, SchemaError> {
    let wrong = || place.error("expected an array of names");
    let names = value.as_array().ok_or_else(wrong)?;
    let mut distinct: Vec<Value> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if seen.insert(name.as_str().ok_or_else(wrong)?) {
            distinct.push(name.clone());
        }
    }
    Ok(Value::Array(distinct))
}

fn names_by_name(value: &Value, place: &mut Place) -> Result<Value, SchemaError> {
    let all = value.as_object().ok_or_else(|| place.error("expected an object of arrays of names"))?;
    let mut named = Map::new();
    for (name, names) in all {
        named.insert(name.clone(), place.within(name, |place| strings(names, place))?);
    }
    Ok(Value::Object(named))
}

/// The common form of an expression; what no automaton can enforce stays as it is.
fn expression(pattern: &str, place: &Place) -> Result<String, SchemaError> {
    match translate(pattern) {
        Ok(Translated::Pattern(pattern)) => Ok(pattern),
        Ok(Translated::NotRegular) => Ok(pattern.to_owned()),
        Err(defect) => Err(place.error(defect)),
    }
}
