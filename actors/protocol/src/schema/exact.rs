//! Numbers that the schema compiler would round: grammars in which they are written out digit by digit.
//!
//! A normalised schema marks such numbers with [`MARK`]. Where a path of plain objects, arrays and alternatives leads to
//! them, that path becomes rules of llguidance's variant of Lark, and everything beside it stays JSON Schema. Elsewhere
//! the mark is [removed](unmarked), and the numbers are left to the final check.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::numbers;

/// The keyword that marks a number: `true` beside `const` and `enum`, the expression of all allowed numbers otherwise.
pub const MARK: &str = "x-exact";

/// Maximum length of the rules, in bytes.
const MAX_RULES: usize = 64 * 1024;

/// Maximum depth of the path.
const MAX_DEPTH: usize = 40;

/// Maximum number of repetitions that are written out.
const MAX_ITEMS: u64 = 1_000;

/// Returns an expression for the integers of a range; `None` if there are none.
pub fn integers(low: Option<i128>, high: Option<i128>) -> Option<String> {
    let mut parts = Vec::new();
    if low.is_none_or(|low| low < 0) {
        let least = high.map_or(1, |high| (-high).max(1));
        let below = naturals(least, low.map(|low| -low));
        parts.extend(below.into_iter().map(|part| format!("-{part}")));
    }
    if high.is_none_or(|high| high >= 0) {
        parts.extend(naturals(low.unwrap_or(0).max(0), high));
    }
    (!parts.is_empty()).then(|| format!("({})", parts.join("|")))
}

fn naturals(low: i128, high: Option<i128>) -> Vec<String> {
    let digits = |number: i128| number.to_string().into_bytes();
    let first = digits(low);
    let mut parts = Vec::new();
    let longest = high.map_or(first.len(), |high| digits(high).len());
    for length in first.len()..=longest {
        let mut from = if length == first.len() { first.clone() } else { digits(10) };
        from.resize(length, b'0');
        let to = match high.map(digits) {
            Some(high) if high.len() == length => high,
            _ => vec![b'9'; length],
        };
        if high.is_none_or(|high| high >= low) && from <= to {
            parts.push(same_length(&from, &to));
        }
    }
    if high.is_none() {
        parts.push(format!("[1-9][0-9]{{{},}}", first.len()));
    }
    parts
}

/// The numbers from `from` to `to`, which have as many digits.
fn same_length(from: &[u8], to: &[u8]) -> String {
    let (Some((&a, from_rest)), Some((&b, to_rest))) = (from.split_first(), to.split_first()) else {
        return String::new();
    };
    let rest = from_rest.len();
    let any = |count: usize| match count {
        0 => String::new(),
        1 => "[0-9]".to_owned(),
        _ => format!("[0-9]{{{count}}}"),
    };
    let class = |a: u8, b: u8| match a == b {
        true => char::from(a).to_string(),
        false => format!("[{}-{}]", char::from(a), char::from(b)),
    };
    let (lowest, highest) =
        (from_rest.iter().all(|digit| *digit == b'0'), to_rest.iter().all(|digit| *digit == b'9'));
    if lowest && highest {
        return format!("{}{}", class(a, b), any(rest));
    }
    if a == b {
        return format!("{}{}", char::from(a), same_length(from_rest, to_rest));
    }
    let (mut low, mut high) = (a, b);
    let mut parts = Vec::new();
    if !lowest {
        parts.push(format!("{}{}", char::from(a), same_length(from_rest, &vec![b'9'; rest])));
        low += 1;
    }
    if !highest {
        high -= 1;
    }
    if low <= high {
        parts.push(format!("{}{}", class(low, high), any(rest)));
    }
    if !highest {
        parts.push(format!("{}{}", char::from(b), same_length(&vec![b'0'; rest], to_rest)));
    }
    format!("({})", parts.join("|"))
}

/// Returns `true` if a schema has marked numbers.
pub fn is_marked(schema: &Value) -> bool {
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                if fields.contains_key(MARK) {
                    return true;
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    false
}

/// Removes the marks and what they belong to; returns the keywords that are not enforced then.
pub fn unmarked(schema: &mut Value) -> BTreeSet<&'static str> {
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let mut dropped = BTreeSet::new();
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                if let Some(mark) = fields.remove(MARK) {
                    let values = fields.remove("const").map(|value| ("const", vec![value]));
                    let values = values.or_else(|| match fields.remove("enum") {
                        Some(Value::Array(values)) => Some(("enum", values)),
                        _ => None,
                    });
                    match values {
                        Some((keyword, values)) => {
                            dropped.insert(keyword);
                            let mut types: Vec<&str> = values.iter().map(numbers::type_of).collect();
                            types.sort_unstable();
                            types.dedup();
                            fields.insert("type".to_owned(), json!(types));
                        }
                        None => {
                            let names = mark.get(1).and_then(Value::as_array).into_iter().flatten();
                            let names = names.filter_map(Value::as_str);
                            dropped.extend(
                                names.filter_map(|name| BOUNDS.into_iter().find(|bound| *bound == name)),
                            );
                        }
                    }
                }
                left.extend(fields.values_mut());
            }
            _ => {}
        }
    }
    dropped
}

/// Returns the rules for a schema with marked numbers, of which the first is called `name`; `None` if the schema has none,
/// or if the path to them has other keywords than rules can express.
#[must_use]
pub fn rules(name: &str, schema: &Value) -> Option<String> {
    if !is_marked(schema) {
        return None;
    }
    let layout = schema.get("x-guidance");
    let text = |keyword: &str, default: &str| {
        layout.and_then(|layout| layout.get(keyword)?.as_str()).unwrap_or(default).to_owned()
    };
    let mut writer = Writer {
        root: schema,
        name,
        layout: layout.cloned(),
        item_separator: text("item_separator", ", "),
        key_separator: text("key_separator", ": "),
        definitions: HashMap::new(),
        waiting: Vec::new(),
        rules: String::new(),
        count: 0,
    };
    let body = writer.value(schema, 0)?;
    let mut all = format!("{name}: {body}\n");
    while let Some((rule, target)) = writer.waiting.pop() {
        let body = writer.value(target, 0)?;
        let _ = writeln!(writer.rules, "{rule}: {body}");
    }
    all.push_str(&writer.rules);
    (all.len() <= MAX_RULES).then_some(all)
}

struct Writer<'a> {
    root: &'a Value,
    name: &'a str,
    layout: Option<Value>,
    item_separator: String,
    key_separator: String,
    /// Rules of definitions, by their references.
    definitions: HashMap<&'a str, String>,
    waiting: Vec<(String, &'a Value)>,
    rules: String,
    count: usize,
}

impl<'a> Writer<'a> {
    fn rule(&mut self, body: &str) -> String {
        let name = self.next_name();
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        format!("{}_{}", self.name, self.count)
    }

    /// The expression of a value.
    fn value(&mut self, schema: &'a Value, depth: usize) -> Option<String> {
        if depth > MAX_DEPTH || self.rules.len() > MAX_RULES {
            return None;
        }
        let Value::Object(fields) = schema else { return self.plain(schema) };
        if !self.leads_to_mark(schema) {
            return self.plain(schema);
        }
        let known = |names: &[&str]| {
            fields
                .keys()
                .all(|key| names.contains(&key.as_str()) || matches!(key.as_str(), "$defs" | "x-guidance"))
        };
        if let Some(mark) = fields.get(MARK) {
            return if known(&["const", "enum", "type", MARK]) { self.marked(fields, mark) } else { None };
        }
        if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
            return if known(&["$ref"]) { self.definition(reference) } else { None };
        }
        if let Some(Value::Array(options)) = fields.get("anyOf") {
            if !known(&["anyOf"]) {
                return None;
            }
            let options: Option<Vec<String>> = options
                .iter()
                .filter(|option| **option != Value::Bool(false))
                .map(|option| self.value(option, depth + 1))
                .collect();
            let options = options?.join(" | ");
            return Some(self.rule(&options));
        }
        match fields.get("type").and_then(Value::as_str) {
            Some("object") if known(&["type", "properties", "required", "additionalProperties"]) => {
                self.object(fields, depth)
            }
            Some("array") if known(&["type", "items", "minItems", "maxItems"]) => self.array(fields, depth),
            _ => None,
        }
    }

    fn leads_to_mark(&self, schema: &'a Value) -> bool {
        let mut seen: Vec<&str> = Vec::new();
        let mut left = vec![schema];
        let mut visits = 0;
        while let Some(value) = left.pop() {
            visits += 1;
            if visits > 20_000 {
                return true;
            }
            match value {
                Value::Array(values) => left.extend(values),
                Value::Object(fields) => {
                    if fields.contains_key(MARK) {
                        return true;
                    }
                    if let Some(reference) = fields.get("$ref").and_then(Value::as_str)
                        && !seen.contains(&reference)
                    {
                        seen.push(reference);
                        left.extend(self.target(reference));
                    }
                    left.extend(fields.iter().filter(|(key, _)| *key != "$defs").map(|(_, value)| value));
                }
                _ => {}
            }
        }
        false
    }

    fn target(&self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// A schema without marked numbers. References to the root would mean another schema in it.
    fn plain(&self, schema: &Value) -> Option<String> {
        let mut schema = match schema {
            Value::Object(fields) => fields.clone(),
            Value::Bool(true) => Map::new(),
            _ => return None,
        };
        let text = Value::Object(schema.clone()).to_string();
        if text.contains(r##""$ref":"#""##) {
            return None;
        }
        if text.contains("\"$ref\"")
            && let Some(definitions) = self.root.get("$defs")
        {
            if is_marked(definitions) || definitions.to_string().contains(r##""$ref":"#""##) {
                return None;
            }
            schema.insert("$defs".to_owned(), definitions.clone());
        }
        if let Some(layout) = &self.layout {
            schema.insert("x-guidance".to_owned(), layout.clone());
        }
        Some(format!("%json {}", Value::Object(schema)))
    }

    fn marked(&mut self, fields: &Map<String, Value>, mark: &Value) -> Option<String> {
        let own = fields.get("type");
        let allows = |name: &str| match own {
            None => true,
            Some(Value::Array(names)) => {
                names.iter().any(|known| known == name || (known == "number" && name == "integer"))
            }
            Some(known) => known == name || (known == "number" && name == "integer"),
        };
        let values = match (fields.get("const"), fields.get("enum")) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(Value::Array(values))) => Some(values.iter().collect()),
            _ => None,
        };
        if let Some(values) = values {
            let values = values.into_iter().filter(|value| allows(numbers::type_of(value)));
            let texts: Vec<String> = values.map(|value| literal(&self.written(value))).collect();
            return (!texts.is_empty()).then(|| self.rule(&texts.join(" | ")));
        }
        let mut options = vec![format!("/{}/", mark.get(0)?.as_str()?)];
        if let Some(Value::Array(names)) = own {
            let others: Vec<&Value> = names.iter().filter(|name| *name != "integer").collect();
            if !others.is_empty() {
                options.push(self.plain(&json!({"type": others}))?);
            }
        }
        Some(self.rule(&options.join(" | ")))
    }

    /// A value as it is written in an answer.
    fn written(&self, value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| self.written(item)).collect();
                format!("[{}]", items.join(&self.item_separator))
            }
            Value::Object(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| {
                        format!("{}{}{}", json!(name), self.key_separator, self.written(value))
                    })
                    .collect();
                format!("{{{}}}", fields.join(&self.item_separator))
            }
            _ => value.to_string(),
        }
    }

    fn definition(&mut self, reference: &'a str) -> Option<String> {
        if let Some(rule) = self.definitions.get(reference) {
            return Some(rule.clone());
        }
        let target = self.target(reference)?;
        let rule = self.next_name();
        self.definitions.insert(reference, rule.clone());
        self.waiting.push((rule.clone(), target));
        Some(rule)
    }

    fn object(&mut self, fields: &'a Map<String, Value>, depth: usize) -> Option<String> {
        let properties = fields.get("properties").and_then(Value::as_object);
        let required: Vec<&str> = fields
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let named = properties.is_some_and(|properties| !properties.is_empty());
        if required.iter().any(|name| properties.is_none_or(|properties| !properties.contains_key(*name))) {
            return None;
        }
        if !named {
            let rest = self.value(fields.get("additionalProperties")?, depth + 1)?;
            let key = self.plain(&json!({"type": "string"}))?;
            let (colon, comma) = (literal(&self.key_separator), literal(&self.item_separator));
            let member = self.rule(&format!("{key} {colon} {rest}"));
            return Some(self.rule(&format!("\"{{\" ({member} ({comma} {member})*)? \"}}\"")));
        }
        // From the last to the first: the members behind one that is there, and those of which none is there yet.
        let comma = literal(&self.item_separator);
        let (mut behind, mut first) = (String::from("\"\""), String::from("\"\""));
        let members: Vec<(&String, &Value)> =
            properties?.iter().filter(|(_, schema)| **schema != Value::Bool(false)).collect();
        for (name, schema) in members.into_iter().rev() {
            let value = self.value(schema, depth + 1)?;
            let key = literal(&format!("{}{}", json!(name), self.key_separator));
            let member = self.rule(&format!("{key} {value}"));
            (behind, first) = match required.contains(&name.as_str()) {
                true => (
                    self.rule(&format!("{comma} {member} {behind}")),
                    self.rule(&format!("{member} {behind}")),
                ),
                false => (
                    self.rule(&format!("({comma} {member})? {behind}")),
                    self.rule(&format!("{member} {behind} | {first}")),
                ),
            };
        }
        Some(self.rule(&format!("\"{{\" {first} \"}}\"")))
    }

    fn array(&mut self, fields: &'a Map<String, Value>, depth: usize) -> Option<String> {
        let item = self.value(fields.get("items")?, depth + 1)?;
        let item = self.rule(&item);
        let least = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let most = fields.get("maxItems").and_then(Value::as_u64);
        if least > MAX_ITEMS || most.is_some_and(|most| most > MAX_ITEMS || most < least) {
            return None;
        }
        let comma = literal(&self.item_separator);
        let more = |least: u64, most: Option<u64>| match most {
            Some(0) => item.clone(),
            Some(most) => format!("{item} ({comma} {item}){{{least},{most}}}"),
            None => format!("{item} ({comma} {item}){{{least},}}"),
        };
        let body = match (least, most) {
            (_, Some(0)) => "\"[\" \"]\"".to_owned(),
            (0, most) => format!("\"[\" ({})? \"]\"", more(0, most.map(|most| most - 1))),
            (least, most) => format!("\"[\" {} \"]\"", more(least - 1, most.map(|most| most - 1))),
        };
        Some(self.rule(&body))
    }
}

/// Writes a text for a grammar.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn expressions_of_ranges_have_no_other_numbers(low in -3000..3000_i128, width in 0..3000_i128, open in 0..3, number in -7000..7000_i128) {
            let (from, to) = (Some(low).filter(|_| open != 1), Some(low + width).filter(|_| open != 2));
            let pattern = format!("^{}$", integers(from, to).unwrap());
            let inside = from.is_none_or(|from| number >= from) && to.is_none_or(|to| number <= to);
            prop_assert_eq!(jsonschema::is_valid(&json!({"pattern": pattern}), &json!(number.to_string())), inside);
        }
    }

    #[test]
    fn ranges_of_64_bits_are_exact() {
        let matches = |low: i128, high: i128, number: i128| {
            let pattern = format!("^{}$", integers(Some(low), Some(high)).unwrap());
            jsonschema::is_valid(&json!({"pattern": pattern}), &json!(number.to_string()))
        };
        let (low, high) = (i128::from(i64::MIN), i128::from(u64::MAX));
        for number in [low, low + 1, -1, 0, 1, high - 1, high, 9_007_199_254_740_993] {
            assert!(matches(low, high, number), "{number}");
        }
        for number in [low - 1, high + 1] {
            assert!(!matches(low, high, number), "{number}");
        }
        assert!(!matches(9_007_199_254_740_993, 9_007_199_254_740_995, 9_007_199_254_740_992));
        assert_eq!(integers(Some(5), Some(3)), None);
        assert_eq!(integers(Some(-2), Some(-2)).as_deref(), Some("(-2)"));
    }

    #[test]
    fn paths_to_exact_numbers_become_rules() {
        let schema = json!({
            "type": "object",
            "properties": {"id": {"const": 9_007_199_254_740_993_u64, MARK: true}, "name": {"type": "string"}},
            "required": ["id"],
        });
        let rules = rules("start", &schema).unwrap();
        assert!(
            rules.starts_with("start: ") && rules.contains("\"9007199254740993\"") && rules.contains("%json")
        );
        assert_eq!(super::rules("start", &json!({"type": "object"})), None);
        let mut odd = json!({"allOf": [schema]});
        assert_eq!(super::rules("start", &odd), None);
        assert_eq!(unmarked(&mut odd).into_iter().collect::<Vec<_>>(), ["const"]);
        assert_eq!(odd["allOf"][0]["properties"]["id"], json!({"type": ["integer"]}));
    }
}
