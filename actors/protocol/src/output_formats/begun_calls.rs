//! Calls that a model makes of its own accord: the text that shows that one has begun, and the grammar that constrains it.
//!
//! Nothing is promised here, so the grammar follows what the models were taught: besides the JSON of constrained calls that is
//! the form in which each argument is written by name.

use serde_json::{Map, Value, json};

use super::call_syntax::{CallSyntax, GrammarMode, NamedArguments, json_rules, literal, tool_grammar};
use super::tool_formats::{CallReader, ToolFormat};
use super::value_types::may_be;

/// Text that shows that a call has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallMark {
    /// The text.
    pub text: String,
    /// Number of bytes at its beginning that are not part of the constrained text.
    pub unconstrained: usize,
    /// `true` if it counts at the beginning of an answer only.
    pub at_beginning: bool,
}

impl CallMark {
    /// Returns the mark behind which the constrained text begins.
    #[must_use]
    pub fn trigger(text: &str) -> Self {
        Self { text: text.to_owned(), unconstrained: text.len(), at_beginning: false }
    }
}

/// Maximum number of properties of a schema whose order and presence are enforced.
const MAX_PROPERTIES: usize = 128;

/// Maximum size of the definitions of a tool's schema, in bytes, once for each argument that refers to them: each has a schema of
/// its own in the grammar.
const MAX_DEFINITIONS: usize = 64 << 10;

impl ToolFormat {
    /// Returns the texts that show that a call of one of these tools has begun.
    #[must_use]
    pub fn call_marks<'a>(self, names: impl Iterator<Item = &'a str>) -> Vec<CallMark> {
        let syntax = self.syntax();
        if let Some(trigger) = syntax.trigger {
            return vec![CallMark::trigger(trigger)];
        }
        // An answer that begins with `{` or `[` may be anything; with the name of a tool it is a call.
        let begun = |name: &str| {
            let json = format!("{}{name}\"", syntax.opening());
            let named = syntax.named.map(|named| [named.open, named.before, name, named.between].concat());
            std::iter::once(json).chain(named)
        };
        let open = match self.spec().reader {
            CallReader::Blocks(blocks) => blocks.open,
            CallReader::Messages => "",
        };
        let marks = names.flat_map(begun).flat_map(|text| {
            let behind_tag = CallMark {
                text: [open, &text].concat(),
                unconstrained: open.len(),
                at_beginning: open.is_empty(),
            };
            [CallMark { text, unconstrained: 0, at_beginning: true }, behind_tag]
        });
        marks.collect()
    }

    /// Returns the grammar, in llguidance's variant of Lark's notation, of calls of `tools` from the end of the unconstrained
    /// part of a mark on. `token`: the id of a text that is a control token of the model.
    #[must_use]
    pub fn begun_grammar(
        self,
        tools: &[(String, Value)],
        parallel: bool,
        token: &dyn Fn(&str) -> Option<i32>,
    ) -> String {
        let syntax = self.syntax();
        let mode = syntax.trigger.map_or(GrammarMode::Whole, |_| GrammarMode::BehindTrigger);
        // If each call has a mark of its own, the next one's opens it again.
        let many = parallel && (syntax.trigger.is_none() || syntax.has_section());
        let grammar = tool_grammar(syntax, tools, many, mode, None, token);
        let named = syntax.named.and_then(|named| named_rules(named, syntax, tools, parallel, token));
        match named {
            Some(named) => grammar.replacen("start: calls\n", &format!("start: calls | named\n{named}"), 1),
            None => grammar,
        }
    }
}

/// The rule `named` and those that it needs; `None` if no tool can be written so.
fn named_rules(
    named: &NamedArguments,
    syntax: &CallSyntax,
    tools: &[(String, Value)],
    parallel: bool,
    token: &dyn Fn(&str) -> Option<i32>,
) -> Option<String> {
    let text = |text: &str| named.text(text, token);
    let mut rules = String::new();
    let mut calls = Vec::new();
    for (index, (name, schema)) in tools.iter().enumerate().filter(|(_, (name, _))| is_plain(name)) {
        let Some(arguments) = argument_rules(named, &format!("named_{index}"), schema, token) else {
            continue;
        };
        let (name, between, after) = (text(name), text(named.between), text(named.after));
        rules.push_str(&format!("named_{index}: {name} {between} named_{index}_0_0 {after}\n{arguments}"));
        calls.push(format!("named_{index}"));
    }
    if calls.is_empty() {
        return None;
    }
    let open = syntax.trigger.and_then(|trigger| named.open.strip_prefix(trigger)).unwrap_or(named.open);
    let (open, before, close) = (text(open), text(named.before), text(named.close));
    let more = match named.separator.filter(|_| parallel) {
        Some(separator) => format!("({} {before} named_call)*", text(separator)),
        None => String::new(),
    };
    let call = calls.join(" | ");
    Some(format!(
        "named: {open} {before} named_call {more} {close}\nnamed_call: {call}\nline_break: \"\\n\"?\n{rules}"
    ))
}

/// Rules of the arguments of a tool, which begin with the rule `{rule}_0_0`: of the arguments from the first on, with none
/// written yet. `None` if they cannot be written by name.
fn argument_rules(
    named: &NamedArguments,
    rule: &str,
    schema: &Value,
    token: &dyn Fn(&str) -> Option<i32>,
) -> Option<String> {
    let Arguments { declared, others } = arguments(schema)?;
    let text = |text: &str| named.text(text, token);
    let [before, between, ..] = named.argument;
    let (before, between, comma) = (text(before), text(between), text(named.comma));
    let mut rules = String::new();
    let count = declared.len();
    for (index, property) in declared.iter().enumerate() {
        let (value, more) = named.value(&format!("{rule}_value_{index}"), &property.schema, token);
        let key = text(property.name);
        rules.push_str(&format!("{rule}_argument_{index}: {before} {key} {between} {value}\n{more}"));
        for written in [0, 1] {
            let comma = if written == 1 { comma.as_str() } else { "" };
            let next = index + 1;
            let skip = if property.required { String::new() } else { format!(" | {rule}_{next}_{written}") };
            rules.push_str(&format!(
                "{rule}_{index}_{written}: {comma} {rule}_argument_{index} {rule}_{next}_1{skip}\n"
            ));
        }
    }
    let Some(schema) = others else {
        rules.push_str(&format!("{rule}_{count}_0: \"\"\n{rule}_{count}_1: \"\"\n"));
        return Some(rules);
    };
    let (value, more) = named.value(&format!("{rule}_other_value"), &schema, token);
    let key = format!("{}_KEY", rule.to_uppercase());
    rules.push_str(&format!("{rule}_{count}_0: ({rule}_other ({comma} {rule}_other)*)?\n"));
    rules.push_str(&format!("{rule}_{count}_1: ({comma} {rule}_other)*\n"));
    rules.push_str(&format!("{rule}_other: {before} {key} {between} {value}\n{more}"));
    let names: Vec<String> = declared.iter().map(|property| property.name.replace('.', "\\.")).collect();
    let but = if names.is_empty() { String::new() } else { format!(" & ~/({})/", names.join("|")) };
    rules.push_str(&format!("{key}: /[^<>=\\s\"'\\[\\](),\\/]{{1,64}}/{but}\n"));
    Some(rules)
}

impl NamedArguments {
    /// A text of the syntax as terms of the grammar.
    fn text(&self, text: &str, token: &dyn Fn(&str) -> Option<i32>) -> String {
        let term = |part: &str| if part.is_empty() { String::new() } else { literal(part, token) };
        text.split('\n').map(term).collect::<Vec<_>>().join(" line_break ")
    }

    /// Terms of a value and the texts around it, and the rules that they need.
    fn value(&self, rule: &str, schema: &Value, token: &dyn Fn(&str) -> Option<i32>) -> (String, String) {
        let [.., open, close] = self.argument;
        let around = |value: &str| format!("{} {value} {}", self.text(open, token), self.text(close, token));
        let fixed = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| literal(text, &|_| None)).collect();
            (around(&format!("({})", texts.join(" | "))), String::new())
        };
        match written(schema) {
            Written::Text if self.raw => {
                let tag = close.trim();
                let behind = self.text(&close[close.find(tag).unwrap_or_default() + tag.len()..], token);
                // A control token is no text, so it ends one.
                match token(tag) {
                    Some(id) => (format!("{rule}? <[{id}]> {behind}"), format!("{rule}: /(?s:.+)/\n")),
                    None => {
                        let text = format!("{rule}[suffix={}]: /(?s:.*)/\n", Value::from(tag));
                        (format!("{rule} {behind}"), text)
                    }
                }
            }
            Written::Texts(texts) if self.raw => fixed(&texts),
            Written::Boolean if !self.raw => fixed(&["True", "False", "true", "false"]),
            _ => (around(rule), json_rules(rule, schema)),
        }
    }
}

/// Form of an argument's value.
enum Written<'a> {
    /// Any text.
    Text,
    /// One of these texts.
    Texts(Vec<&'a str>),
    Boolean,
    Json,
}

fn written(schema: &Value) -> Written<'_> {
    if !may_be(schema, "string") {
        let is_boolean = schema.get("type").is_some_and(|kind| kind == "boolean");
        let is_listed = ["enum", "const"].iter().any(|keyword| schema.get(*keyword).is_some());
        return if is_boolean && !is_listed { Written::Boolean } else { Written::Json };
    }
    let texts: Option<Vec<&str>> = match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(only), _) => only.as_str().map(|text| vec![text]),
        (None, Some(values)) => values.iter().map(Value::as_str).collect(),
        (None, None) => None,
    };
    let plain = |text: &&str| !text.is_empty() && !text.contains(['<', '>', '\n']) && text.trim() == *text;
    match texts {
        Some(texts) if !texts.is_empty() && texts.iter().all(plain) => Written::Texts(texts),
        _ => Written::Text,
    }
}

struct Property<'a> {
    name: &'a str,
    required: bool,
    /// Its schema, with what it may refer to.
    schema: Value,
}

/// The arguments of a tool.
struct Arguments<'a> {
    declared: Vec<Property<'a>>,
    /// The schema of the values of all others; `None`: there are none.
    others: Option<Value>,
}

/// The arguments that a schema allows; `None`: some that cannot be written by name. Keywords that describe an object in another
/// way than by its properties are not enforced.
fn arguments(schema: &Value) -> Option<Arguments<'_>> {
    const SHAPING: [&str; 9] =
        ["$ref", "allOf", "anyOf", "oneOf", "not", "if", "enum", "const", "patternProperties"];
    let any = Arguments { declared: Vec::new(), others: Some(json!({})) };
    let Some(object) = schema.as_object() else { return Some(any) };
    let listed = object.get("properties").and_then(Value::as_object);
    let required: Vec<&str> = object
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let is_declared = |name: &&str| listed.is_some_and(|properties| properties.contains_key(*name));
    if SHAPING.iter().any(|keyword| object.contains_key(*keyword)) || !required.iter().all(is_declared) {
        return Some(any);
    }
    let shared = |keys: &[&str]| -> Map<String, Value> {
        keys.iter().filter_map(|key| Some(((*key).to_owned(), object.get(*key)?.clone()))).collect()
    };
    let (layout, definitions) = (shared(&["x-guidance"]), shared(&["$defs", "definitions"]));
    let refers = |schema: &Value| !definitions.is_empty() && schema.to_string().contains("\"$ref\"");
    let referring = listed.into_iter().flatten().filter(|(_, schema)| refers(schema)).count();
    if referring > 0 && referring * Value::Object(definitions.clone()).to_string().len() > MAX_DEFINITIONS {
        return None;
    }
    let whole = |property: &Value| {
        let mut whole = layout.clone();
        if refers(property) {
            whole.extend(definitions.clone());
        }
        let named = only_reference(property).and_then(|place| schema.pointer(place));
        whole.extend(named.unwrap_or(property).as_object().cloned().unwrap_or_default());
        Value::Object(whole)
    };
    let mut declared = Vec::new();
    for (name, schema) in listed.into_iter().flatten() {
        if !is_plain(name) {
            return None;
        }
        declared.push(Property { name, required: required.contains(&name.as_str()), schema: whole(schema) });
    }
    if declared.len() > MAX_PROPERTIES {
        return Some(any);
    }
    // Where nothing is said about others, a model that invents some is no help.
    let others = match object.get("additionalProperties") {
        Some(Value::Bool(false)) => None,
        Some(schema) => Some(whole(schema)),
        None => declared.is_empty().then(|| json!({})),
    };
    Some(Arguments { declared, others })
}

/// The place that a schema refers to, if it says nothing else.
fn only_reference(schema: &Value) -> Option<&str> {
    const ANNOTATIONS: [&str; 4] = ["$ref", "title", "description", "default"];
    let object =
        schema.as_object().filter(|object| object.keys().all(|key| ANNOTATIONS.contains(&key.as_str())))?;
    object.get("$ref")?.as_str()?.strip_prefix('#')
}

/// Returns `true` if a name can be written without quotation marks.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|character| character.is_alphanumeric() || "_-.".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_defined_elsewhere_are_written_by_their_type() {
        let schema = json!({
            "type": "object", "properties": {"unit": {"$ref": "#/$defs/unit", "description": "d"}, "n": {"$ref": "#/$defs/n"}},
            "$defs": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}, "n": {"type": "integer"}},
        });
        let Some(Arguments { declared, others: None }) = arguments(&schema) else {
            panic!("they are declared")
        };
        let is_json = |property: &Property<'_>| matches!(written(&property.schema), Written::Json);
        let is_fixed = |property: &Property<'_>| matches!(written(&property.schema), Written::Texts(_));
        assert!(declared.iter().all(|property| if property.name == "n" {
            is_json(property)
        } else {
            is_fixed(property)
        }));
    }

    #[test]
    fn definitions_are_not_repeated_for_every_argument() {
        let schema = |definition: usize, refers: bool| {
            let property = if refers { json!({"$ref": "#/$defs/a"}) } else { json!({"type": "integer"}) };
            let properties: Map<String, Value> =
                (0..100).map(|n| (format!("p{n}"), property.clone())).collect();
            json!({
                "type": "object", "properties": properties, "additionalProperties": false,
                "$defs": {"a": {"type": "integer", "description": "x".repeat(definition)}},
            })
        };
        for (definition, refers, is_named) in
            [(10, true, true), (100_000, false, true), (1_000, true, false), (100_000, true, false)]
        {
            let schema = schema(definition, refers);
            let size = schema.to_string().len();
            let grammar = ToolFormat::QwenXml.begun_grammar(&[("f".to_owned(), schema)], true, &|_| None);
            assert_eq!(grammar.contains("<function="), is_named, "{definition} {refers}");
            assert!(grammar.len() < 3 * size + 200_000, "{} of {size}", grammar.len());
        }
    }
}
