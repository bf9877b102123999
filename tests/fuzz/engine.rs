//! Targets of what a worker process reads: constraints, and the messages of the worker protocol.

use std::time::Instant;

use jan_protocol::types::Constraint;
use jan_protocol::worker_protocol::{FromWorker, ToWorker, from_worker, to_worker};
use llguidance::toktrie::ApproximateTokEnv;
use prost::Message;

use super::decode::constraint::{Grammars, gbnf};
use super::worker::held_parts::HeldParts;

#[path = "driver.rs"]
mod driver;
use driver::Target;

/// Longest constraint: what one costs grows with its length, and this is about faults, not about cost.
const CONSTRAINT: usize = 600;

fn grammars() -> Grammars {
    Grammars::with_vocabulary(ApproximateTokEnv::single_byte_env()).unwrap()
}

/// Compiles a constraint under the worker's limits, and follows it for some bytes.
fn compile(grammars: &Grammars, constraint: &Constraint) {
    let began = Instant::now();
    if let Ok(mut guide) = grammars.guide(constraint) {
        let mut logits = Vec::new();
        for _ in 0..8 {
            if guide.is_complete() || guide.restrict(&[0.0; 262], &mut logits).is_err() {
                break;
            }
            let Some(token) = logits.iter().position(|logit| logit.is_finite()) else { break };
            if guide.accept(i32::try_from(token).unwrap()).is_err() {
                break;
            }
        }
    }
    // The limits depend on no clock; ten seconds are a hundred times what they allow on a slow machine.
    assert!(began.elapsed().as_secs() < 60, "it took {:?}", began.elapsed());
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

#[test]
fn gbnf() {
    let words = &[
        "root ::= ",
        "a ::= ",
        "|",
        "(",
        ")",
        "[a-z]",
        "[^\\x00-\\u10ff]",
        "\"a\"",
        "*",
        "+",
        "?",
        "{2,3}",
        "{1000}",
        "\n",
        "#",
        ".",
        " a",
        "\\",
    ];
    Target::new("gbnf", words).up_to(16 << 10).run(|input| {
        let text = String::from_utf8_lossy(input);
        if let Err(problem) = gbnf::source(&text) {
            assert!(!problem.is_empty());
        }
    });
}

#[test]
fn lark() {
    let grammars = grammars();
    let words = &[
        "start: ",
        "|",
        "(",
        ")",
        "[",
        "]",
        "{1,99}",
        "*",
        "+",
        "?",
        "&",
        "~",
        "\n",
        "A: ",
        "/a*/",
        "\"a\"",
        "%json {",
        "}",
        "%lark {",
        "%regex {",
        "\"type\":\"string\"",
        "[stop=",
        "[capture]",
        "[lazy]",
        "<[1-9]>",
        "%ignore ",
        "%llguidance {",
        "start",
    ];
    Target::new("lark", words)
        .up_to(CONSTRAINT)
        .run(|input| compile(&grammars, &Constraint::Lark(text(input))));
}

#[test]
fn regex() {
    let grammars = grammars();
    let words = &[
        "(",
        ")",
        "(?:",
        "(?i:",
        "[",
        "]",
        "[^",
        "\\p{L}",
        "\\d",
        "\\w",
        ".",
        "*",
        "+",
        "?",
        "{3}",
        "{0,99}",
        "|",
        "^",
        "$",
        "&&",
        "\\b",
        "\\u{10ffff}",
        "-",
    ];
    Target::new("regex", words)
        .up_to(CONSTRAINT)
        .run(|input| compile(&grammars, &Constraint::Regex(text(input))));
}

#[test]
fn json_schema() {
    let grammars = grammars();
    let words = SCHEMA_WORDS;
    Target::new("json_schema", words)
        .up_to(CONSTRAINT)
        .run(|input| compile(&grammars, &Constraint::JsonSchema(text(input))));
}

const SCHEMA_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"$ref\":\"#\"",
    "\"allOf\":[",
    "\"anyOf\":[",
    "\"oneOf\":[",
    "\"type\":\"object\"",
    "\"type\":\"array\"",
    "\"type\":\"integer\"",
    "\"properties\":{\"a\":",
    "\"patternProperties\":{\"^a\":",
    "\"additionalProperties\":false",
    "\"required\":[\"a\"]",
    "\"items\":",
    "\"prefixItems\":[",
    "\"multipleOf\":7",
    "\"minimum\":1e300",
    "\"maxLength\":99",
    "\"minItems\":9",
    "\"pattern\":\"a*\"",
    "\"format\":\"date-time\"",
    "\"enum\":[1]",
    "\"const\":null",
    "\"$defs\":{\"a\":",
    "\"not\":",
    "true",
];

#[test]
fn worker_protocol() {
    let words = &["\u{8}", "\u{12}", "\u{1a}", "\"", "\n", "{\"messages\":[]}", "\0", "\u{7f}"];
    Target::new("worker_protocol", words).run(|input| {
        let mut held = HeldParts::default();
        // A worker gets several messages: parts, and requests that refer to them.
        for chunk in input.chunks(input.len().div_ceil(3).max(1)) {
            match ToWorker::decode(chunk).ok().and_then(|message| message.message) {
                Some(to_worker::Message::Part(part)) => held.keep(part),
                Some(to_worker::Message::Submit(submit)) => drop(held.draft(submit)),
                Some(to_worker::Message::Inspect(inspect)) => drop(inspect.into_question()),
                Some(to_worker::Message::Embed(embed)) => drop(embed.into_draft()),
                Some(to_worker::Message::Forget(forget)) => held.forget(forget.id),
                _ => {}
            }
        }
        if let Some(from_worker::Message::Inspected(inspected)) =
            FromWorker::decode(input).ok().and_then(|message| message.message)
        {
            drop(inspected.into_result());
        }
    });
}
