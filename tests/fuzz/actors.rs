//! Targets of what [`crate`] reads.

use std::time::Instant;

use llguidance::toktrie::ApproximateTokEnv;
use prost::Message;

use super::backup::format::Importer;
use super::conversations::{ConversationId, Position};
use super::identity::signing::KeyRing;
use super::identity::token::{Parties, TokenType};
use super::identity::{KeyId, SessionId, UserId};
use super::model::engine::grammar::Grammars;
use super::model::types::Constraint;
use super::model::worker::protocol::{FromWorker, HeldParts, ToWorker, from_worker, to_worker};

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

/// What is read as an id is the same id when it is written and read again.
fn same<T: std::str::FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert!(id.to_string().parse().is_ok_and(|again: T| again == id), "{text}");
    }
}

#[test]
fn cursors() {
    let words = &["cur_", "conv_", "user_", "sess_", "key_", "=", "_", "-", "A", "é"];
    Target::new("cursors", words).run(|input| {
        let text = text(input);
        if let Some(position) = Position::from_cursor(&text) {
            assert_eq!(Position::from_cursor(&position.to_cursor()), Some(position));
        }
        same::<ConversationId>(&text);
        same::<UserId>(&text);
        same::<SessionId>(&text);
        same::<KeyId>(&text);
    });
}

#[test]
fn tokens() {
    let folder = tempfile::tempdir().unwrap();
    let ring = KeyRing::load(folder.path(), 0, u64::MAX).unwrap();
    let parties = Parties { issuer: "us".to_owned(), audience: "them".to_owned() };
    let words = &[
        ".",
        "eyJ",
        "e30",
        "=",
        "-",
        "_",
        "eyJhbGciOiJFZERTQSJ9",
        "eyJhbGciOiJub25lIn0",
        "{\"alg\":\"none\"}",
    ];
    Target::new("tokens", words).run(|input| {
        let text = text(input);
        for kind in [TokenType::Access, TokenType::Refresh] {
            assert!(parties.check(&ring, kind, &text).is_err(), "nothing of this was signed");
        }
    });
}

#[test]
fn import_lines() {
    let words = &[
        "{",
        "}",
        "\n",
        "\"kind\":",
        "\"key\":\"",
        "\"value\":\"",
        "\"user\"",
        "\"trailer\"",
        "00",
        "ff",
        "null",
        "\\u0000",
    ];
    Target::new("import_lines", words).run(|input| {
        let mut importer = Importer::default();
        for line in input.split(|byte| *byte == b'\n') {
            let Ok(record) = importer.line(line) else { return };
            if let Some(record) = record {
                drop(record.check());
            }
        }
        assert!(
            importer.finish().is_err() || input.ends_with(b"}") || input.ends_with(b"}\n"),
            "a trailer was made"
        );
    });
}
