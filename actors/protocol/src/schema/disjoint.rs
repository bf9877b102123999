//! Judgement of whether two schemas exclude each other, by their meaning and not by their spelling.
//!
//! All answers are conservative: `true` only if no value satisfies both.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::accepts_all;
use super::decimal::{Decimal, equal};

/// Maximum depth of values that are compared.
const MAX_DEPTH: usize = 8;

/// Maximum number of schemas that all comparisons for one document look at.
const MAX_VISITS: usize = 200_000;

/// Maximum amount of work of all rewrites of one document, in schemas that are looked at and values that are copied. Rewrites
/// copy what is rewritten again, so without it a few kilobytes could be work for hours.
const MAX_WORK: usize = 400_000;

/// Types of values; whole numbers are told from others.
const KINDS: [&str; 7] = ["null", "boolean", "integer", "fraction", "string", "array", "object"];

/// Judges the schemas of one document, which is in the canonical form.
pub struct Judge<'a> {
    root: &'a Value,
    visits: Cell<usize>,
    work: Cell<usize>,
}

/// The conditions on one value, flattened: each of the parts holds.
#[derive(Default)]
struct Conditions<'a> {
    parts: Vec<&'a Map<String, Value>>,
    /// Lists of which one holds.
    choices: Vec<&'a Vec<Value>>,
    /// Set if nothing satisfies them.
    never: bool,
}

impl<'a> Judge<'a> {
    /// Creates a judge.
    pub const fn new(root: &'a Value) -> Self {
        Self { root, visits: Cell::new(0), work: Cell::new(0) }
    }

    /// Returns the target of a canonical reference.
    pub fn target(&self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// Returns `true` if no value satisfies all of `a` and all of `b`.
    pub fn disjoint(&self, a: &[&'a Value], b: &[&'a Value]) -> bool {
        self.excludes(a, b, 0)
    }

    /// Counts work of rewrites. Returns `false` once there was more than is allowed.
    pub fn spend(&self, amount: usize) -> bool {
        self.work.set(self.work.get().saturating_add(amount));
        self.work.get() <= MAX_WORK
    }

    fn enter(&self) -> bool {
        self.visits.set(self.visits.get() + 1);
        self.visits.get() <= MAX_VISITS
    }

    fn conditions(&self, schemas: &[&'a Value]) -> Conditions<'a> {
        let mut found = Conditions::default();
        let mut left: Vec<&Value> = schemas.iter().rev().copied().collect();
        let mut followed: Vec<&str> = Vec::new();
        while let Some(schema) = left.pop() {
            if !self.enter() {
                break;
            }
            let fields = match schema {
                Value::Bool(all) => {
                    found.never |= !all;
                    continue;
                }
                Value::Object(fields) => fields,
                _ => continue,
            };
            found.parts.push(fields);
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str)
                && !followed.contains(&reference)
                && followed.len() < 32
            {
                followed.push(reference);
                left.extend(self.target(reference));
            }
            if let Some(Value::Array(all)) = fields.get("allOf") {
                left.extend(all);
            }
            for keyword in ["anyOf", "oneOf"] {
                if let Some(Value::Array(options)) = fields.get(keyword) {
                    found.choices.push(options);
                }
            }
            found.never |= fields.get("not").is_some_and(accepts_all);
        }
        found
    }

    fn excludes(&self, a: &[&'a Value], b: &[&'a Value], depth: usize) -> bool {
        depth <= MAX_DEPTH && self.opposed(&self.conditions(a), &self.conditions(b), depth)
    }

    fn opposed(&self, a: &Conditions<'a>, b: &Conditions<'a>, depth: usize) -> bool {
        if depth > MAX_DEPTH || !self.enter() {
            return false;
        }
        if a.never || b.never || self.flat(a, b, depth) {
            return true;
        }
        // Each option of one side excludes the other side.
        [(a, b), (b, a)].into_iter().any(|(own, other)| {
            own.choices.iter().enumerate().filter(|(_, options)| options.len() <= 64).any(
                |(index, options)| {
                    options.iter().all(|option| {
                        let mut with = self.conditions(&[option]);
                        with.parts.extend(&own.parts);
                        let rest = own.choices.iter().enumerate().filter(|(other, _)| *other != index);
                        with.choices.extend(rest.map(|(_, options)| *options));
                        self.opposed(&with, other, depth + 1)
                    })
                },
            )
        })
    }

    /// Compares conditions without their choices.
    fn flat(&self, a: &Conditions<'a>, b: &Conditions<'a>, depth: usize) -> bool {
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| a.allows(kind) && b.allows(kind)).collect();
        for (one, other) in [(a, b), (b, a)] {
            if let Some(values) = one.values()
                && values
                    .iter()
                    .all(|value| one.rejects(self, value, depth + 1) || other.rejects(self, value, depth + 1))
            {
                return true;
            }
        }
        kinds.into_iter().all(|kind| match kind {
            "integer" | "fraction" => {
                let ([low, low_open], [high, high_open]) = (bounds(a, b, true), bounds(a, b, false));
                match (low.max(low_open.clone()), min(high, high_open.clone())) {
                    (Some(low), Some(high)) => {
                        low > high
                            || (low == high
                                && (low_open.as_ref() == Some(&low) || high_open.as_ref() == Some(&high)))
                    }
                    _ => false,
                }
            }
            "string" => counts(a, b, "minLength", "maxLength"),
            "array" => {
                counts(a, b, "minItems", "maxItems")
                    || (least(a, b, "minItems") > 0 && self.excludes(&a.item(0), &b.item(0), depth + 1))
            }
            "object" => {
                counts(a, b, "minProperties", "maxProperties")
                    || a.required()
                        .chain(b.required())
                        .any(|name| self.excludes(&a.property(name), &b.property(name), depth + 1))
            }
            _ => false,
        })
    }
}

fn min(a: Option<Decimal>, b: Option<Decimal>) -> Option<Decimal> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The strictest closed and open bound of both.
fn bounds(a: &Conditions<'_>, b: &Conditions<'_>, low: bool) -> [Option<Decimal>; 2] {
    let keywords = if low { ["minimum", "exclusiveMinimum"] } else { ["maximum", "exclusiveMaximum"] };
    keywords.map(|keyword| {
        let all = a.parts.iter().chain(&b.parts);
        let bounds = all.filter_map(|part| part.get(keyword)).filter_map(Decimal::of_value);
        if low { bounds.max() } else { bounds.min() }
    })
}

fn least(a: &Conditions<'_>, b: &Conditions<'_>, keyword: &str) -> u64 {
    let all = a.parts.iter().chain(&b.parts);
    all.filter_map(|part| part.get(keyword)?.as_u64()).max().unwrap_or(0)
}

/// Returns `true` if no count is in the ranges of both.
fn counts(a: &Conditions<'_>, b: &Conditions<'_>, low: &str, high: &str) -> bool {
    let all = a.parts.iter().chain(&b.parts);
    let most = all.filter_map(|part| part.get(high)?.as_u64()).min();
    most.is_some_and(|most| most < least(a, b, low))
}

impl<'a> Conditions<'a> {
    /// Returns `false` if no value of this kind satisfies them.
    fn allows(&self, kind: &str) -> bool {
        let named = |name: &Value| match name.as_str() {
            Some("number") => kind == "integer" || kind == "fraction",
            Some(name) => name == kind,
            None => false,
        };
        let by_type = self.parts.iter().all(|part| match part.get("type") {
            Some(Value::Array(names)) => names.iter().any(named),
            Some(name) => named(name),
            None => true,
        });
        by_type && self.values().is_none_or(|values| values.iter().any(|value| kind_of(value) == kind))
    }

    /// The shortest list of values that are possible; `None` if there is no list.
    fn values(&self) -> Option<Vec<&'a Value>> {
        let lists = self.parts.iter().filter_map(|part| match (part.get("const"), part.get("enum")) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(Value::Array(values))) => Some(values.iter().collect()),
            _ => None,
        });
        lists.min_by_key(Vec::len)
    }

    fn required(&self) -> impl Iterator<Item = &'a str> {
        let lists = self.parts.iter().filter_map(|part| part.get("required")?.as_array());
        lists.flatten().filter_map(Value::as_str).collect::<Vec<_>>().into_iter()
    }

    /// The schemas of a property.
    fn property(&self, name: &str) -> Vec<&'a Value> {
        let each = self.parts.iter().filter_map(|part| {
            let named = part.get("properties").and_then(|properties| properties.get(name));
            // A pattern may apply instead of the rest.
            named.or_else(|| {
                part.get("additionalProperties").filter(|_| !part.contains_key("patternProperties"))
            })
        });
        each.collect()
    }

    /// The schemas of an item.
    fn item(&self, index: usize) -> Vec<&'a Value> {
        let each = self.parts.iter().filter_map(|part| {
            let prefix = part.get("prefixItems").and_then(|items| items.get(index));
            prefix.or_else(|| part.get("items"))
        });
        each.collect()
    }

    fn rejects(&self, judge: &Judge<'a>, value: &Value, depth: usize) -> bool {
        if self.never {
            return true;
        }
        if depth > MAX_DEPTH || !judge.enter() {
            return false;
        }
        let kind = kind_of(value);
        self.parts.iter().any(|part| {
            let named =
                |name: &Value| name == kind || (name == "number" && matches!(kind, "integer" | "fraction"));
            let by_type = match part.get("type") {
                Some(Value::Array(names)) => !names.iter().any(named),
                Some(name) => !named(name),
                None => false,
            };
            let by_value = part.get("const").is_some_and(|only| !equal(only, value))
                || part
                    .get("enum")
                    .and_then(Value::as_array)
                    .is_some_and(|values| !values.iter().any(|one| equal(one, value)));
            by_type || by_value || outside(part, value)
        }) || match value {
            Value::Object(fields) => {
                self.required().any(|name| !fields.contains_key(name))
                    || fields.iter().any(|(name, value)| {
                        let schemas = self.property(name);
                        judge.conditions(&schemas).rejects(judge, value, depth + 1)
                    })
            }
            Value::Array(items) => items
                .iter()
                .enumerate()
                .any(|(index, value)| judge.conditions(&self.item(index)).rejects(judge, value, depth + 1)),
            _ => false,
        } || self.choices.iter().any(|options| {
            options.iter().all(|option| judge.conditions(&[option]).rejects(judge, value, depth + 1))
        })
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if Decimal::of(number).is_integer() => "integer",
        Value::Number(_) => "fraction",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Returns `true` if a value is outside of a range of its type.
fn outside(part: &Map<String, Value>, value: &Value) -> bool {
    let count = |low: &str, high: &str, count: usize| {
        let bound = |keyword: &str| part.get(keyword).and_then(Value::as_u64);
        bound(low).is_some_and(|low| (count as u64) < low)
            || bound(high).is_some_and(|high| count as u64 > high)
    };
    match value {
        Value::Number(number) => {
            let number = Decimal::of(number);
            let bound = |keyword: &str| part.get(keyword).and_then(Decimal::of_value);
            bound("minimum").is_some_and(|low| number < low)
                || bound("exclusiveMinimum").is_some_and(|low| number <= low)
                || bound("maximum").is_some_and(|high| number > high)
                || bound("exclusiveMaximum").is_some_and(|high| number >= high)
        }
        Value::String(text) => count("minLength", "maxLength", text.chars().count()),
        Value::Array(items) => count("minItems", "maxItems", items.len()),
        Value::Object(fields) => count("minProperties", "maxProperties", fields.len()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn disjoint(definitions: Value, a: Value, b: Value) -> bool {
        let root = json!({"$defs": definitions, "a": a, "b": b});
        let judge = Judge::new(&root);
        let one = judge.disjoint(&[&root["a"]], &[&root["b"]]);
        assert_eq!(one, judge.disjoint(&[&root["b"]], &[&root["a"]]), "{root}");
        one
    }

    #[test]
    fn alternatives_that_exclude_each_other_are_found() {
        let tag = |tag: Value| json!({"type": "object", "properties": {"kind": {"const": tag}}, "required": ["kind"]});
        let defs = json!({
            "x": tag(json!("a")), "y": tag(json!("b")), "s": {"type": "string"}, "e": {"enum": ["a", "b"]},
            "loop": {"$ref": "#/$defs/loop"},
        });
        let to = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
        for (a, b) in [
            (to("x"), to("y")),
            (json!({"type": "null"}), to("x")),
            (to("s"), json!({"type": "null"})),
            (to("e"), json!({"enum": ["c", "d"]})),
            (to("x"), tag(json!(7))),
            (json!({"const": 1}), json!({"const": 2})),
            (json!({"const": 1}), json!({"const": "1"})),
            (json!({"type": "integer", "maximum": 3}), json!({"type": "integer", "minimum": 4})),
            (json!({"type": "number", "exclusiveMaximum": 3}), json!({"type": "number", "minimum": 3})),
            (json!({"type": "integer"}), json!({"enum": [1.5, "a"]})),
            (json!({"type": "string", "maxLength": 2}), json!({"type": "string", "minLength": 3})),
            (json!({"anyOf": [to("x"), {"type": "null"}]}), json!({"anyOf": [to("y"), {"type": "string"}]})),
            (json!({"allOf": [to("x"), {"properties": {"n": true}}]}), to("y")),
            (
                json!({"type": "object", "properties": {"a": true}, "additionalProperties": false}),
                json!({"type": "object", "required": ["b"]}),
            ),
            (json!({"const": {"a": 1}}), json!({"const": {"a": 2}})),
            (json!({"const": 9_007_199_254_740_993_u64}), json!({"const": 9_007_199_254_740_992_u64})),
            (
                json!({"type": "array", "prefixItems": [{"const": 1}], "minItems": 1}),
                json!({"type": "array", "prefixItems": [{"const": 2}]}),
            ),
        ] {
            assert!(disjoint(defs.clone(), a.clone(), b.clone()), "{a} {b}");
        }
        for (a, b) in [
            (to("x"), to("x")),
            (to("loop"), to("s")),
            (json!({"const": 1}), json!({"const": 1.0})),
            (json!({"type": "integer"}), json!({"type": "number"})),
            (json!({"type": "string"}), json!({"pattern": "a"})),
            (json!({"properties": {"kind": {"const": 1}}}), json!({"properties": {"kind": {"const": 2}}})),
            (json!({"required": ["a"]}), json!({"required": ["b"]})),
            (json!({"maximum": 3}), json!({"minimum": 4})),
            (json!({"type": "number", "maximum": 3}), json!({"type": "number", "minimum": 3})),
            (json!(true), json!({"type": "null"})),
            (
                json!({"type": "object", "patternProperties": {"b": true}, "additionalProperties": false}),
                json!({"type": "object", "required": ["b"]}),
            ),
        ] {
            assert!(!disjoint(defs.clone(), a.clone(), b.clone()), "{a} {b}");
        }
    }
}
