//! Targets of what [`crate`] reads.

use super::backup::format::Importer;
use super::conversations::{ConversationId, Position};
use super::identity::signing::{KeyFolder, SigningKeyStore};
use super::identity::token::{Parties, TokenType};
use super::identity::{KeyId, SessionId, UserId};

#[path = "driver.rs"]
mod driver;
use driver::Target;

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
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
    let ring = KeyFolder::of(folder.path()).load(0, u64::MAX).unwrap();
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
