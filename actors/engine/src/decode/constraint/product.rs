//! A bound on the number of expressions that have to hold at once.
//!
//! Expressions that a text has to match all at once (`&` in a grammar; `pattern` and `format` that meet through `allOf`) are
//! compiled by multiplying out the continuations of each of them. That product is what makes a constraint explode, as late as in
//! the middle of an answer; so it is estimated from the text and bounded. Alternatives are not multiplied.

use std::collections::HashSet;

use serde_json::Value;

use super::source::Source;

/// Largest product of the parts of expressions that have to hold at once.
const MAX_PRODUCT: u64 = 1_000_000;

/// The maximum number of `&` in a grammar. They can stand in each other, which doubles the multiplied parts each time.
const MAX_CONJUNCTIONS: usize = 4;

/// Parts of a named format's expression.
const FORMAT_PARTS: u64 = 16;

/// The maximum number of places that are looked at; schemas with more are left to the limits on processor time.
const MAX_VISITS: usize = 300_000;

/// Checks a constraint.
///
/// # Errors
/// The part that is too much.
pub fn check(source: &Source) -> Result<(), String> {
    match source {
        // An expression alone has nothing to be multiplied.
        Source::Regex(_) => Ok(()),
        Source::Lark(grammar) => check_grammar(grammar),
        Source::JsonSchema(schema) => match serde_json::from_str(schema) {
            Ok(schema) => check_schema(&schema),
            // The compiler reports the defect.
            Err(_) => Ok(()),
        },
    }
}

fn too_much() -> String {
    "too many expressions have to hold at once for the same text: their parts multiply to more than 1,000,000"
        .to_owned()
}

fn check_grammar(grammar: &str) -> Result<(), String> {
    for (at, mark) in grammar.match_indices("%json") {
        let mut values = serde_json::Deserializer::from_str(&grammar[at + mark.len()..]).into_iter();
        if let Some(Ok(schema)) = values.next() {
            check_schema(&schema)?;
        }
    }
    let (conjunctions, mut parts) = conjunctions(grammar);
    if conjunctions == 0 {
        return Ok(());
    }
    if conjunctions > MAX_CONJUNCTIONS {
        return Err(format!("it has {conjunctions} '&', and {MAX_CONJUNCTIONS} are allowed"));
    }
    parts.sort_unstable_by(|a, b| b.cmp(a));
    match product(parts.into_iter().take(conjunctions + 1)) {
        Some(_) => Ok(()),
        None => Err(too_much()),
    }
}

/// Returns the number of `&` in a grammar outside of texts, expressions and comments, and the parts of each of its expressions.
fn conjunctions(grammar: &str) -> (usize, Vec<u64>) {
    let (mut count, mut parts) = (0, Vec::new());
    let mut rest = grammar.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '&' => count += 1,
            '#' => while rest.next_if(|&next| next != '\n').is_some() {},
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|&next| next != '\n').is_some() {},
            // The name of a token.
            '<' => {
                while rest.next_if(|&next| !next.is_whitespace() && !matches!(next, '<' | '>')).is_some() {}
            }
            // JSON in a grammar has texts of its own, and no `&` outside of them.
            '"' | '/' => {
                let mut text = String::new();
                while let Some(next) = rest.next() {
                    if next == '\\' {
                        text.push(next);
                        text.extend(rest.next());
                    } else if next == character {
                        break;
                    } else {
                        text.push(next);
                    }
                }
                if character == '/' {
                    parts.push(parts_of(&text));
                }
            }
            _ => {}
        }
    }
    (count, parts)
}

/// Returns the maximum number of continuations of an expression: its distinct characters and classes, and its end.
fn parts_of(expression: &str) -> u64 {
    let mut seen = HashSet::new();
    let mut rest = expression.chars().peekable();
    while let Some(character) = rest.next() {
        let mut part = String::from(character);
        match character {
            '\\' => part.extend(rest.next()),
            '[' => {
                while let Some(next) = rest.next() {
                    part.push(next);
                    match next {
                        '\\' => part.extend(rest.next()),
                        ']' => break,
                        _ => {}
                    }
                }
            }
            // A repetition's numbers.
            '{' => {
                while rest.next_if(|next| next.is_ascii_digit() || matches!(next, ',' | '}')).is_some() {}
                continue;
            }
            '^' | '$' | '*' | '+' | '?' | '|' | '(' | ')' => continue,
            _ => {}
        }
        seen.insert(part);
    }
    seen.len() as u64 + 1
}

fn product(mut parts: impl Iterator<Item = u64>) -> Option<u64> {
    parts
        .try_fold(1u64, |product, parts| product.checked_mul(parts).filter(|product| *product <= MAX_PRODUCT))
}

/// The schemas that apply to one place of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place<'a> {
    Schema(&'a Value),
    /// All of these.
    All(Vec<Place<'a>>),
    /// One of these.
    Any(Vec<Place<'a>>),
}

struct Walk<'a> {
    root: &'a Value,
    visits: usize,
}

fn check_schema(root: &Value) -> Result<(), String> {
    let mut walk = Walk { root, visits: 0 };
    let mut seen = HashSet::new();
    let mut left = vec![Place::Schema(root)];
    while let Some(place) = left.pop() {
        let Some(parts) = walk.parts(&place, 0) else { return Ok(()) };
        if parts > MAX_PRODUCT {
            return Err(too_much());
        }
        let mut steps = HashSet::new();
        walk.steps(&place, 0, &mut steps);
        for step in steps {
            if let Some(next) = walk.follow(&place, &step, 0)
                && seen.insert(addresses(&next))
            {
                left.push(next);
            }
        }
        if walk.visits > MAX_VISITS {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the addresses of a place's schemas, so that recursive schemas come to an end.
fn addresses(place: &Place<'_>) -> Vec<usize> {
    let mut found = Vec::new();
    let mut left = vec![place];
    while let Some(place) = left.pop() {
        match place {
            Place::Schema(schema) => found.push(std::ptr::from_ref(*schema) as usize),
            Place::All(places) | Place::Any(places) => left.extend(places),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A step from a value to one in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step<'a> {
    Property(&'a str),
    Item(usize),
    Rest(&'static str),
}

impl<'a> Walk<'a> {
    /// Enters a place: not when it is too deep, or too much was looked at.
    fn enters(&mut self, depth: usize) -> bool {
        self.visits += 1;
        depth < 64 && self.visits <= MAX_VISITS
    }

    /// Returns the conditions of a schema on the same value: those that have to hold, and lists of which one has to.
    fn same(&self, schema: &'a Value) -> (Vec<&'a Value>, Vec<Vec<&'a Value>>) {
        let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array).into_iter().flatten();
        let mut all: Vec<&Value> = list("allOf").collect();
        if let Some(target) = schema.get("$ref").and_then(Value::as_str)
            && let Some(target) = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
        {
            all.push(target);
        }
        let any = ["anyOf", "oneOf"].map(|keyword| list(keyword).collect::<Vec<_>>());
        (all, any.into_iter().filter(|options| !options.is_empty()).collect())
    }

    /// The product of the conditions on a text at this place; `None` if it is unknown.
    fn parts(&mut self, place: &Place<'a>, depth: usize) -> Option<u64> {
        if !self.enters(depth) {
            return None;
        }
        match place {
            Place::All(places) => places
                .iter()
                .try_fold(1u64, |product, place| Some(product.saturating_mul(self.parts(place, depth + 1)?))),
            Place::Any(places) => {
                places.iter().try_fold(1u64, |most, place| Some(most.max(self.parts(place, depth + 1)?)))
            }
            Place::Schema(schema) => {
                let pattern = schema.get("pattern").and_then(Value::as_str).map_or(1, parts_of);
                let format =
                    if schema.get("format").is_some_and(Value::is_string) { FORMAT_PARTS } else { 1 };
                let (all, any) = self.same(schema);
                let mut product = pattern.saturating_mul(format);
                for schema in all {
                    product = product.saturating_mul(self.parts(&Place::Schema(schema), depth + 1)?);
                }
                for options in any {
                    let options = Place::Any(options.into_iter().map(Place::Schema).collect());
                    product = product.saturating_mul(self.parts(&options, depth + 1)?);
                }
                Some(product)
            }
        }
    }

    /// The steps that are spoken of at a place.
    fn steps(&mut self, place: &Place<'a>, depth: usize, into: &mut HashSet<Step<'a>>) {
        if !self.enters(depth) {
            return;
        }
        match place {
            Place::All(places) | Place::Any(places) => {
                places.iter().for_each(|place| self.steps(place, depth + 1, into));
            }
            Place::Schema(schema) => {
                let names = schema.get("properties").and_then(Value::as_object);
                into.extend(
                    names.into_iter().flat_map(|names| names.keys()).map(|name| Step::Property(name)),
                );
                let items = schema.get("prefixItems").and_then(Value::as_array);
                into.extend((0..items.map_or(0, Vec::len)).map(Step::Item));
                let rest = ["items", "additionalProperties"].into_iter();
                into.extend(rest.filter(|keyword| schema.get(*keyword).is_some()).map(Step::Rest));
                let (all, any) = self.same(schema);
                for schema in all.into_iter().chain(any.into_iter().flatten()) {
                    self.steps(&Place::Schema(schema), depth + 1, into);
                }
            }
        }
    }

    /// Returns the schemas that apply one step further.
    fn follow(&mut self, place: &Place<'a>, step: &Step<'a>, depth: usize) -> Option<Place<'a>> {
        if !self.enters(depth) {
            return None;
        }
        match place {
            Place::All(places) => some(
                places.iter().filter_map(|place| self.follow(place, step, depth + 1)).collect(),
                Place::All,
            ),
            Place::Any(places) => some(
                places.iter().filter_map(|place| self.follow(place, step, depth + 1)).collect(),
                Place::Any,
            ),
            Place::Schema(schema) => {
                let own = match step {
                    Step::Property(name) => schema
                        .get("properties")
                        .and_then(|properties| properties.get(name))
                        .or_else(|| schema.get("additionalProperties")),
                    Step::Item(index) => schema
                        .get("prefixItems")
                        .and_then(|items| items.get(index))
                        .or_else(|| schema.get("items")),
                    Step::Rest(keyword) => schema.get(*keyword),
                };
                let mut found: Vec<Place> = own.into_iter().map(Place::Schema).collect();
                let (all, any) = self.same(schema);
                for schema in all {
                    found.extend(self.follow(&Place::Schema(schema), step, depth + 1));
                }
                for options in any {
                    let options = Place::Any(options.into_iter().map(Place::Schema).collect());
                    found.extend(self.follow(&options, step, depth + 1));
                }
                some(found, Place::All)
            }
        }
    }
}

fn some<'a>(
    mut places: Vec<Place<'a>>,
    together: impl FnOnce(Vec<Place<'a>>) -> Place<'a>,
) -> Option<Place<'a>> {
    match places.len() {
        0 => None,
        1 => places.pop(),
        _ => Some(together(places)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(schema: Value) -> Result<(), String> {
        check(&Source::JsonSchema(schema.to_string()))
    }

    fn patterns(count: usize) -> Vec<Value> {
        (0..count).map(|n| json!({"pattern": format!("^(y|x.*a.{{{n}}}b.*)$")})).collect()
    }

    #[test]
    fn expressions_at_one_place_multiply_and_alternatives_do_not() {
        assert!(schema(json!({"type": "string", "allOf": patterns(5)})).is_ok());
        assert!(schema(json!({"type": "string", "allOf": patterns(20)})).is_err());
        assert!(schema(json!({"type": "string", "anyOf": patterns(200)})).is_ok());
        let option = |n: usize| json!({"anyOf": [{"type": "null"}, patterns(n + 1)[n]]});
        assert!(schema(json!({"allOf": (0..20).map(option).collect::<Vec<_>>()})).is_err());
        let reference = json!({"$defs": {"p": {"allOf": patterns(10)}}, "allOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/p"}]});
        assert!(schema(reference).is_err());
    }

    #[test]
    fn expressions_that_meet_in_a_property_or_an_item_multiply() {
        for wrap in [
            (|p: Value| json!({"properties": {"a": p}})) as fn(Value) -> Value,
            |p| json!({"items": p}),
            |p| json!({"prefixItems": [p]}),
            |p| json!({"additionalProperties": {"properties": {"b": p}}}),
        ] {
            let meet = patterns(20).into_iter().map(wrap).collect::<Vec<_>>();
            assert!(schema(json!({"allOf": meet})).is_err());
        }
        let apart: serde_json::Map<String, Value> =
            patterns(200).into_iter().enumerate().map(|(n, pattern)| (format!("p{n}"), pattern)).collect();
        assert!(schema(json!({"properties": apart})).is_ok());
        // Everyday rules for a password, and a schema that contains itself.
        let rules = ["[0-9]", "[a-z]", "[A-Z]", "[!-/]", "^.{8,64}$"].map(|rule| json!({"pattern": rule}));
        assert!(schema(json!({"type": "string", "allOf": rules})).is_ok());
        let tree =
            json!({"type": "object", "properties": {"next": {"$ref": "#"}, "name": {"pattern": "^[a-z]+$"}}});
        assert!(schema(tree).is_ok());
    }

    #[test]
    fn grammars_have_few_conjunctions() {
        let grammar = |count: usize| {
            let terms: Vec<String> = (0..=count).map(|n| format!("/x.*a.{{{n}}}b.*/")).collect();
            check(&Source::Lark(format!("start: T\nT: {}", terms.join(" & "))))
        };
        assert!(grammar(0).is_ok() && grammar(4).is_ok());
        assert!(grammar(5).is_err() && grammar(24).is_err());
        let texts =
            "start: \"a && b &&& c\" /[&]&&&&/ // & & & & &\n# & & & & &\n | %json {\"const\": \"&&&&&&\"}";
        assert!(check(&Source::Lark(texts.to_owned())).is_ok());
        let long = "abcdefghijklmnopqrstuvwxyz0123456789".repeat(2);
        assert!(check(&Source::Lark(format!("T: /{long}/ & /{long}!/ & /{long}?/ & /{long};-/"))).is_err());
    }
}
