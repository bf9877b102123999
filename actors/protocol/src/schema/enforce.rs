//! The part of a canonical schema that the grammar compiler can enforce.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::decimal::Decimal;
use super::disjoint::Judge;
use super::ecma::{Translated, translate};
use super::graph::{places, recursive};
use super::negation::{absent, any_of, negated};
use super::{MAX_DEPTH, MAX_VALUES, SchemaError, accepts_all, exact, formats, numbers, objects, weight};

/// Maximum number of combinations of alternatives that hold for the same value. The compiler multiplies them out.
pub(super) const MAX_COMBINATIONS: usize = 64;

const NOT_OBJECTS: [&str; 5] = ["null", "boolean", "number", "string", "array"];

/// Returns the schema for the compiler, and the keywords that it does not cover.
pub fn enforceable(checked: &Value) -> Result<(Value, BTreeSet<&'static str>), SchemaError> {
    let recursive = recursive(checked);
    let mut walk = Enforce {
        judge: Judge::new(checked),
        recursive,
        unenforced: BTreeSet::new(),
        values: 0,
        places: places(checked),
        own_names: HashMap::new(),
        waiting: Vec::new(),
    };
    let mut root = walk.schema(checked, At { depth: 0, inline: false })?;
    let mut definitions = Map::new();
    if let Some(Value::Object(named)) = checked.get("$defs") {
        for (name, schema) in named {
            let at = At { depth: 1, inline: false };
            definitions.insert(name.clone(), walk.schema(schema, at)?);
        }
    }
    while let Some((name, schema)) = walk.waiting.pop() {
        let at = At { depth: 1, inline: true };
        definitions.insert(name, walk.schema(schema, at)?);
    }
    if !definitions.is_empty()
        && let Value::Object(fields) = &mut root
    {
        fields.insert("$defs".to_owned(), Value::Object(definitions));
    }
    if exact::is_marked(&root) && exact::rules("start", &root).is_none() {
        walk.unenforced.extend(exact::unmarked(&mut root));
    }
    Ok((root, walk.unenforced))
}

/// The place of a schema.
#[derive(Clone, Copy)]
pub(super) struct At {
    depth: usize,
    /// Set if references that contain themselves are replaced by what they refer to.
    inline: bool,
}

impl At {
    const fn below(self) -> Self {
        Self { depth: self.depth + 1, inline: false }
    }

    /// The same value, one schema further inside.
    pub(super) const fn beside(self) -> Self {
        Self { depth: self.depth + 1, inline: self.inline }
    }
}

/// Walks a canonical schema.
pub struct Enforce<'a> {
    pub(super) judge: Judge<'a>,
    /// References that lead to themselves.
    recursive: HashSet<&'a str>,
    unenforced: BTreeSet<&'static str>,
    values: usize,
    /// The schemas of the document that refer to others, by their addresses.
    places: HashMap<usize, &'a Value>,
    /// Definitions made for schemas in which a recursive reference meets other conditions, by their addresses.
    own_names: HashMap<usize, String>,
    waiting: Vec<(String, &'a Value)>,
}

/// The parts that a schema becomes.
struct Parts {
    out: Map<String, Value>,
    /// Further conditions.
    also: Vec<Value>,
    /// Combinations of alternatives so far.
    combinations: usize,
}

impl Parts {
    /// Adds a condition. Returns `false` if that are too many combinations.
    fn also(&mut self, condition: Value) -> bool {
        let alternatives = condition.get("anyOf").and_then(Value::as_array).map_or(1, Vec::len).max(1);
        if self.combinations.saturating_mul(alternatives) > MAX_COMBINATIONS && self.combinations > 1 {
            return false;
        }
        self.combinations = self.combinations.saturating_mul(alternatives);
        if !accepts_all(&condition) {
            self.also.push(condition);
        }
        true
    }
}

impl<'a> Enforce<'a> {
    fn visit(&mut self, at: At) -> Result<(), SchemaError> {
        self.values += 1;
        if self.values > MAX_VALUES || at.depth > MAX_DEPTH * 2 || !self.judge.spend(1) {
            let message = "it is too large with its alternatives and references written out".to_owned();
            return Err(SchemaError { at: String::new(), message });
        }
        Ok(())
    }

    pub(super) fn report(&mut self, keyword: &'static str) {
        self.unenforced.insert(keyword);
    }

    pub(super) fn schema(&mut self, schema: &Value, at: At) -> Result<Value, SchemaError> {
        self.visit(at)?;
        let Value::Object(fields) = schema else { return Ok(schema.clone()) };
        if let Some(name) = self.own_definition(schema, fields, at) {
            return Ok(json!({"$ref": format!("#/$defs/{name}")}));
        }
        let combinations = fields.get("anyOf").and_then(Value::as_array).map_or(1, Vec::len).max(1);
        let mut parts = Parts { out: Map::new(), also: Vec::new(), combinations };
        for (keyword, value) in fields {
            self.keyword(fields, keyword, value, at, &mut parts)?;
        }
        self.bounds(fields, &mut parts);
        self.objects(fields, at, &mut parts)?;
        Ok(self.joined(parts))
    }

    /// The schema as one.
    fn joined(&mut self, Parts { mut out, mut also, .. }: Parts) -> Value {
        if also.contains(&Value::Bool(false)) {
            return Value::Bool(false);
        }
        // A schema of one more condition is that condition.
        if out.is_empty() && also.len() == 1 {
            return also.remove(0);
        }
        if let Some(own) = out.get("type").cloned() {
            also.iter_mut().for_each(|condition| with_type(condition, &own));
        }
        let factors =
            also.iter().filter_map(Value::as_object).filter(|fields| numbers::has_factor(fields)).count();
        if factors + usize::from(numbers::has_factor(&out)) > 1 {
            self.report("multipleOf");
            also.iter_mut().filter_map(Value::as_object_mut).for_each(|fields| {
                fields.remove("multipleOf");
            });
        }
        if !also.is_empty() {
            out.insert("allOf".to_owned(), Value::Array(also));
        }
        if out.is_empty() { Value::Bool(true) } else { Value::Object(out) }
    }

    fn keyword(
        &mut self,
        fields: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        at: At,
        parts: &mut Parts,
    ) -> Result<(), SchemaError> {
        match keyword {
            "$ref" => {
                let reference = value.as_str().unwrap_or_default();
                if at.inline && self.recursive.contains(reference) {
                    let condition = self.inlined(reference, at)?;
                    parts.also(condition);
                } else {
                    parts.out.insert("$ref".to_owned(), value.clone());
                }
            }
            "const" => {
                parts.out.insert("const".to_owned(), value.clone());
                self.mark_values(&[value], parts);
            }
            "enum" => self.values(value, parts),
            "pattern" => match translate(value.as_str().unwrap_or_default()) {
                Ok(Translated::Pattern(pattern)) => {
                    parts.out.insert("pattern".to_owned(), json!(pattern));
                }
                _ => self.report("pattern"),
            },
            "format" => match formats::enforced(value.as_str().unwrap_or_default()) {
                Some(formats::Enforced::Format(name)) => {
                    parts.out.insert("format".to_owned(), json!(name));
                }
                Some(formats::Enforced::Pattern(pattern)) => {
                    parts.also(json!({"pattern": pattern}));
                }
                None => {}
            },
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum"
                if !numbers::is_enforceable_bound(value) => {}
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let (keyword, value) = numbers::closed_bound(keyword, fields)
                    .unwrap_or_else(|| (keyword.to_owned(), value.clone()));
                parts.out.insert(keyword, value);
            }
            "multipleOf" if *value == json!(1) => {
                // The compiler has whole numbers of their own.
                parts.also(json!({"type": ["integer", "null", "boolean", "string", "array", "object"]}));
            }
            "multipleOf" if !numbers::is_enforceable_factor(value) => self.report("multipleOf"),
            "type" | "multipleOf" | "minLength" | "maxLength" | "minItems" | "maxItems" | "required" => {
                parts.out.insert(keyword.to_owned(), value.clone());
            }
            "properties" | "patternProperties" => {
                let mut named = Map::new();
                for (name, schema) in value.as_object().into_iter().flatten() {
                    if keyword == "patternProperties"
                        && !matches!(translate(name), Ok(Translated::Pattern(_)))
                    {
                        // Names that match it can be any.
                        self.report("patternProperties");
                        parts.out.insert("additionalProperties".to_owned(), Value::Bool(true));
                        continue;
                    }
                    named.insert(name.clone(), self.schema(schema, at.below())?);
                }
                parts.out.insert(keyword.to_owned(), Value::Object(named));
            }
            "additionalProperties" => {
                let schema = self.schema(value, at.below())?;
                if parts.out.get(keyword) != Some(&Value::Bool(true)) {
                    parts.out.insert(keyword.to_owned(), schema);
                }
            }
            "items" => {
                let schema = self.schema(value, at.below())?;
                parts.out.insert(keyword.to_owned(), schema);
            }
            "prefixItems" => {
                let items = self.list(value, at.below())?;
                parts.out.insert(keyword.to_owned(), Value::Array(items));
            }
            "allOf" => {
                for schema in value.as_array().into_iter().flatten() {
                    let condition = self.schema(schema, at.beside())?;
                    if !parts.also(condition) {
                        self.report("allOf");
                    }
                }
            }
            "anyOf" => {
                let mut options = self.list(value, at.beside())?;
                if !options.iter().any(accepts_all) {
                    options.retain(|option| *option != Value::Bool(false));
                    match options.len() {
                        0 => {
                            parts.also(Value::Bool(false));
                        }
                        _ => {
                            parts.out.insert("anyOf".to_owned(), Value::Array(options));
                        }
                    }
                }
            }
            "oneOf" => {
                let condition = self.one_of(fields, value, at)?;
                if !parts.also(condition) {
                    self.report("oneOf");
                }
            }
            "not" => match negated(value, &self.judge) {
                Some(alternatives) => {
                    let condition = self.schema(&any_of(alternatives), at.beside())?;
                    if !parts.also(condition) {
                        self.report("not");
                    }
                }
                None => self.report("not"),
            },
            "if" => {
                let condition = self.conditional(fields, value, at)?;
                if !parts.also(condition) {
                    self.report("if");
                }
            }
            "uniqueItems" => self.report("uniqueItems"),
            "contains" => self.contains(fields, value, parts),
            "unevaluatedItems" => {
                let others = ["$ref", "allOf", "anyOf", "oneOf", "if", "contains", "dependentSchemas", "not"];
                if others.iter().any(|other| fields.contains_key(*other)) {
                    self.report("unevaluatedItems");
                } else if !fields.contains_key("items") {
                    let schema = self.schema(value, at.below())?;
                    parts.out.insert("items".to_owned(), schema);
                }
            }
            // With their object or their condition.
            _ => {}
        }
        Ok(())
    }

    fn list(&mut self, schemas: &Value, at: At) -> Result<Vec<Value>, SchemaError> {
        schemas.as_array().into_iter().flatten().map(|schema| self.schema(schema, at)).collect()
    }

    /// A list of values.
    fn values(&mut self, value: &Value, parts: &mut Parts) {
        let values: Vec<&Value> = value.as_array().into_iter().flatten().collect();
        if values.is_empty() {
            parts.also(Value::Bool(false));
            return;
        }
        parts.out.insert("enum".to_owned(), value.clone());
        self.mark_values(&values, parts);
    }

    /// Marks values that the compiler would round.
    fn mark_values(&mut self, values: &[&Value], parts: &mut Parts) {
        if values.iter().any(|value| numbers::is_inexact(value)) {
            parts.out.insert(exact::MARK.to_owned(), Value::Bool(true));
        }
    }

    /// Marks integers with bounds that the compiler would round. Bounds of other numbers are left to the final check.
    fn bounds(&mut self, fields: &Map<String, Value>, parts: &mut Parts) {
        const LOW: [&str; 2] = ["minimum", "exclusiveMinimum"];
        const HIGH: [&str; 2] = ["maximum", "exclusiveMaximum"];
        let given: Vec<&'static str> =
            LOW.into_iter().chain(HIGH).filter(|keyword| fields.contains_key(*keyword)).collect();
        let inexact: Vec<&'static str> = given
            .iter()
            .copied()
            .filter(|keyword| !numbers::is_enforceable_bound(&fields[*keyword]))
            .collect();
        if inexact.is_empty() {
            return;
        }
        let whole = match fields.get("type") {
            Some(Value::Array(names)) => names.contains(&json!("integer")),
            Some(name) => name == "integer",
            None => false,
        };
        let side = |keywords: [&'static str; 2], low: bool| -> Result<Option<i128>, ()> {
            let mut strictest: Option<i128> = None;
            for keyword in keywords {
                let Some(bound) = fields.get(keyword).and_then(Decimal::of_value) else { continue };
                let open = keyword.starts_with("exclusive");
                let edge = match low {
                    true => bound.ceil().map(|edge| if open && bound.is_integer() { edge + 1 } else { edge }),
                    false => {
                        bound.floor().map(|edge| if open && bound.is_integer() { edge - 1 } else { edge })
                    }
                };
                let edge = edge.ok_or(())?;
                strictest = Some(match strictest {
                    Some(other) => {
                        if low {
                            other.max(edge)
                        } else {
                            other.min(edge)
                        }
                    }
                    None => edge,
                });
            }
            Ok(strictest)
        };
        let range = side(LOW, true).and_then(|low| Ok((low, side(HIGH, false)?)));
        let pattern = range.ok().and_then(|(low, high)| exact::integers(low, high));
        if let Some(pattern) = pattern.filter(|_| whole && !fields.contains_key("multipleOf")) {
            for keyword in given {
                parts.out.remove(keyword);
            }
            parts.out.insert(exact::MARK.to_owned(), json!([pattern, inexact]));
            return;
        }
        self.unenforced.extend(inexact);
    }

    fn contains(&mut self, fields: &Map<String, Value>, value: &Value, parts: &mut Parts) {
        if accepts_all(value) {
            // Each item counts.
            for (from, to) in [("minContains", "minItems"), ("maxContains", "maxItems")] {
                let default = (from == "minContains").then(|| json!(1));
                if let Some(count) = fields.get(from).cloned().or(default) {
                    parts.also(json!({to: count}));
                }
            }
            return;
        }
        self.report("contains");
        if let Some(least) = fields.get("minContains").map_or(Some(1), Value::as_u64) {
            parts.also(json!({"minItems": least}));
        }
    }

    /// The keywords of objects that speak of several properties.
    fn objects(&mut self, fields: &Map<String, Value>, at: At, parts: &mut Parts) -> Result<(), SchemaError> {
        let is_object = fields.get("type") == Some(&json!("object"));
        if let Some(value) = fields.get("unevaluatedProperties") {
            let schema = self.schema(value, at.below())?;
            if !objects::unevaluated(fields, schema, &self.judge, &mut parts.out) {
                self.report("unevaluatedProperties");
            }
        }
        if let Some(names) = fields.get("propertyNames")
            && !objects::names(names, &mut parts.out)
        {
            self.report("propertyNames");
        }
        let required: Vec<Value> =
            fields.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let implied = |name: &str, condition: Value| {
            let mut options = vec![absent(name), condition];
            if !is_object {
                options.push(json!({"type": NOT_OBJECTS}));
            }
            json!({"anyOf": options})
        };
        for (name, names) in fields.get("dependentRequired").and_then(Value::as_object).into_iter().flatten()
        {
            let Some(names) = names.as_array() else { continue };
            let missing: Vec<&Value> = names.iter().filter(|name| !required.contains(name)).collect();
            if missing.is_empty() {
                continue;
            }
            let mut all = vec![json!(name)];
            all.extend(missing.into_iter().filter(|other| *other != name.as_str()).cloned());
            let condition = json!({"type": "object", "required": all});
            let condition =
                if required.contains(&json!(name)) { condition } else { implied(name, condition) };
            if !parts.also(condition) {
                self.report("dependentRequired");
            }
        }
        for (name, schema) in fields.get("dependentSchemas").and_then(Value::as_object).into_iter().flatten()
        {
            self.judge.spend(weight(schema));
            let with = json!({"type": "object", "required": [name], "allOf": [schema]});
            let condition = self.schema(&implied(name, with), at.beside())?;
            if !parts.also(condition) {
                self.report("dependentSchemas");
            }
        }
        match objects::counts(fields, &mut parts.out) {
            Ok(Some(condition)) => {
                if !parts.also(condition) {
                    self.report("minProperties");
                }
            }
            Ok(None) => {}
            Err(keyword) => self.report(keyword),
        }
        Ok(())
    }

    /// The target of a reference, with the targets of its own references on the same level.
    fn inlined(&mut self, reference: &str, at: At) -> Result<Value, SchemaError> {
        let target = self.judge.target(reference).filter(|_| at.depth < 32);
        match target {
            Some(target) => self.schema(target, At { inline: true, depth: at.depth + 8 }),
            None => {
                self.report("$ref");
                Ok(Value::Bool(true))
            }
        }
    }

    /// The name of the definition that stands for a schema in which a recursive reference meets other conditions. The
    /// compiler cannot intersect such a reference, but what it refers to.
    fn own_definition(&mut self, schema: &Value, fields: &Map<String, Value>, at: At) -> Option<String> {
        let address = std::ptr::from_ref(schema) as usize;
        let source = *self.places.get(&address).filter(|_| !at.inline)?;
        let list = |keyword: &str| fields.get(keyword).and_then(Value::as_array).map(Vec::as_slice);
        let members = list("allOf").unwrap_or_default();
        let others =
            fields.keys().filter(|keyword| !matches!(keyword.as_str(), "$ref" | "allOf" | "$defs")).count();
        if others + members.len() + usize::from(fields.contains_key("$ref")) < 2 {
            return None;
        }
        let options = ["anyOf", "oneOf"].into_iter().filter_map(list).flatten();
        let references =
            std::iter::once(fields).chain(members.iter().chain(options).filter_map(Value::as_object));
        let mut references = references.filter_map(|fields| fields.get("$ref")?.as_str());
        if !references.any(|reference| self.recursive.contains(reference)) {
            return None;
        }
        if let Some(name) = self.own_names.get(&address) {
            return Some(name.clone());
        }
        let name = format!("c{}", self.own_names.len());
        self.own_names.insert(address, name.clone());
        self.waiting.push((name.clone(), source));
        Some(name)
    }
}

/// Gives a condition the type that its value has anyway: without one, it has six forms.
fn with_type(condition: &mut Value, own: &Value) {
    const OTHERS: [&str; 6] = ["type", "$ref", "const", "enum", "allOf", "oneOf"];
    let Value::Object(fields) = condition else { return };
    if let Some(Value::Array(options)) = fields.get_mut("anyOf") {
        options.iter_mut().for_each(|option| with_type(option, own));
    } else if !OTHERS.iter().any(|keyword| fields.contains_key(*keyword)) {
        fields.insert("type".to_owned(), own.clone());
    }
}
