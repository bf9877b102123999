//! The digits of numbers in answers that are held to a schema, with a vocabulary of single bytes.

use jan_protocol::output_formats::{GrammarMode, ToolFormat, tool_grammar};
use llguidance::toktrie::ApproximateTokEnv;

use super::*;

/// The token behind the bytes' own that ends an answer.
const END: Token = 261;
const VOCABULARY: usize = 262;

/// The answer of a model that always prefers the first of `order` that is allowed, else the end, else the first token of all.
/// `None` if it does not end.
fn answer(constraint: &Constraint, order: &str) -> Option<String> {
    let grammars = Grammars::with_vocabulary(ApproximateTokEnv::single_byte_env()).unwrap();
    let mut guide = grammars.guide(constraint).unwrap_or_else(|error| panic!("{error}"));
    let (mut text, mut open) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        guide.restrict(&[0.0; VOCABULARY], &mut open).unwrap();
        let is_open = |token: Token| usize::try_from(token).is_ok_and(|token| open[token] == 0.0);
        let wanted = order.bytes().map(Token::from).find(|token| is_open(*token));
        let wanted = wanted.or_else(|| Some(END).filter(|token| is_open(*token)));
        let token = wanted.or_else(|| (0..END).find(|token| is_open(*token))).expect("a token is open");
        if token == END {
            return Some(String::from_utf8(text).unwrap());
        }
        guide.accept(token).unwrap();
        text.push(u8::try_from(token).unwrap());
        if guide.is_complete() {
            return Some(String::from_utf8(text).unwrap());
        }
    }
    None
}

fn of_schema(schema: &Value, order: &str) -> Option<String> {
    answer(&Constraint::JsonSchema(schema.to_string()), order)
}

fn digits_behind_the_point(text: &str) -> usize {
    let behind = text.split_once('.').map_or("", |(_, behind)| behind);
    behind.bytes().take_while(u8::is_ascii_digit).count()
}

#[test]
fn numbers_end_however_much_a_model_likes_digits() {
    let number = json!({"type": "number"});
    assert_eq!(of_schema(&number, "3.").as_deref(), Some(&*("3".repeat(40) + "." + &"3".repeat(17))));
    assert_eq!(of_schema(&number, "0.").as_deref(), Some(&*("0.".to_owned() + &"0".repeat(17))));
    assert_eq!(of_schema(&number, "7e").as_deref(), Some(&*("7".repeat(40) + "e77")));
    assert_eq!(
        of_schema(&json!({"type": "integer"}), "-1").as_deref(),
        Some(&*("-".to_owned() + &"1".repeat(40)))
    );
    for schema in [
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "number", "minimum": -1.5}),
        json!({"type": ["number", "null"]}),
        json!({}),
    ] {
        for order in ["1.", "0.1", "9."] {
            let text = of_schema(&schema, order).unwrap_or_else(|| panic!("{schema} {order}"));
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(jsonschema::is_valid(&schema, &value), "{schema}: {text}");
            assert!(digits_behind_the_point(&text) <= 17, "{schema}: {text}");
        }
    }
    let cents = json!({"type": "number", "multipleOf": 0.01, "maximum": 99});
    assert_eq!(of_schema(&cents, "1.0").as_deref(), Some("11.11"));
    assert_eq!(of_schema(&cents, "0.").as_deref(), Some("0.00"));
}

#[test]
fn zeros_do_not_put_off_the_end_of_a_number() {
    let schema = json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.001});
    let text = of_schema(&schema, "0.1").unwrap();
    assert!(jsonschema::is_valid(&schema, &serde_json::from_str(&text).unwrap()), "{text}");
    assert_eq!(digits_behind_the_point(&text), 18, "{text}");
}

#[test]
fn every_number_of_an_answer_is_bounded() {
    let schema = json!({
        "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "number"}, "minItems": 2,
        "maxItems": 2}}, "required": ["a", "b"], "additionalProperties": false,
    });
    let value: Value = serde_json::from_str(&of_schema(&schema, "5.").unwrap()).unwrap();
    assert!(jsonschema::is_valid(&schema, &value), "{value}");
}

#[test]
fn digits_that_a_schema_wants_are_kept() {
    // Longer than the bound: there is nothing else that it could be.
    let long = json!({"type": "integer", "x-exact": ["[1-9][0-9]{49}", ["minimum"]]});
    assert_eq!(of_schema(&long, "1").as_deref(), Some(&*"1".repeat(50)));
    let least = json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-15});
    let text = of_schema(&least, "0.1").unwrap();
    assert!(jsonschema::is_valid(&least, &serde_json::from_str(&text).unwrap()), "{text}");
    let pattern = json!({"type": "string", "pattern": "^[0-9]\\.[0-9]{60}$"});
    assert_eq!(of_schema(&pattern, "1").map(|text| text.len()), Some(64));
}

#[test]
fn texts_and_other_notations_have_any_number_of_digits() {
    let text = json!({"type": "string", "minLength": 100, "maxLength": 100});
    assert_eq!(of_schema(&text, "1").as_deref(), Some(&*format!("\"{}\"", "1".repeat(100))));
    let regex = Constraint::Regex("[0-9]\\.[0-9]{0,100}".to_owned());
    assert_eq!(answer(&regex, "1.").map(|text| text.len()), Some(102));
    let lark = Constraint::Lark("start: /[0-9]\\.[0-9]{0,100}/".to_owned());
    assert_eq!(answer(&lark, "1.").map(|text| text.len()), Some(102));
}

#[test]
fn arguments_of_calls_are_bounded_in_every_format() {
    let schema = json!({
        "type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": false,
    });
    let tools = [("f".to_owned(), with_layout(&schema))];
    for format in ToolFormat::ALL {
        let syntax = format.syntax();
        let quotes = syntax.trigger().unwrap_or_default().matches('"').count();
        assert_eq!(quotes % 2, 0, "text behind the trigger of {format:?} begins inside of a string");
        for mode in [GrammarMode::Whole, GrammarMode::BehindTrigger] {
            if mode == GrammarMode::BehindTrigger && syntax.trigger().is_none() {
                continue;
            }
            let rules = tool_grammar(syntax, &tools, false, mode, None, &|_| None);
            // A text in front of the calls may have any digits.
            if rules.contains("\npreamble: ") {
                continue;
            }
            let text =
                answer(&Constraint::Lark(rules), "3.").unwrap_or_else(|| panic!("{format:?} {mode:?}"));
            assert_eq!(digits_behind_the_point(&text[text.find("{\"x\"").unwrap()..]), 17, "{text}");
        }
    }
}

/// llguidance allows an open bound itself if it is whole and the other bound has the same whole part.
#[test]
fn open_bounds_are_not_reached() {
    let grammars = Grammars::with_vocabulary(ApproximateTokEnv::single_byte_env()).unwrap();
    let ends = |schema: &Value, text: &str| {
        let enforced = jan_protocol::schema::normalize(schema).unwrap().enforced;
        let mut guide = grammars.guide(&Constraint::JsonSchema(enforced.to_string())).unwrap();
        let mut open = Vec::new();
        guide.accept_bytes(text.as_bytes()).is_ok() && {
            guide.restrict(&[0.0; VOCABULARY], &mut open).unwrap();
            open[usize::try_from(END).unwrap()] == 0.0
        }
    };
    for (schema, wrong, right) in [
        (json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}), ["0", "0.0", "0.6"], "0.25"),
        (
            json!({"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3.5}),
            ["3", "3.0", "3.5"],
            "3.4",
        ),
        (json!({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}), ["0", "-0.0", "-0.6"], "-0.25"),
        (json!({"type": "number", "exclusiveMaximum": -2, "minimum": -2.5}), ["-2", "-2.0", "-2.6"], "-2.5"),
        (json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), ["0", "0.0", "1"], "0.5"),
        (
            json!({"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 0}),
            ["-1", "-1.0", "0"],
            "-0.5",
        ),
    ] {
        for text in wrong {
            assert!(!ends(&schema, text), "{schema}: {text}");
        }
        assert!(ends(&schema, right), "{schema}: {right}");
    }
}
