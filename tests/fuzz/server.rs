//! Targets of what callers write: grammars, schemas, the bodies and queries of requests.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::accounts::types::CreateApiKey;
use super::accounts::users::{CreateUser, UpdateUser};
use super::chat::request::{self as chat_request, ChatRequest};
use super::completions::request::{self as completion_request, CompletionRequest};
use super::conversations::items::CreateItems;
use super::conversations::{CreateConversation, UpdateConversation};
use super::embeddings::EmbeddingsRequest;
use super::inference::structured_output;
use super::responses::query::{ListQuery, RetrieveQuery};
use super::responses::request::{self as response_request, CountTokens, CreateResponse};
use super::tokenize::{DetokenizeRequest, TemplateRequest, TokenizeRequest};
use crate::http::ApiError;
use crate::http::json::{self, Unsupported};

#[path = "../../tests/fuzz/driver.rs"]
mod driver;
use driver::Target;

/// Reads a body as its handler does; what is refused has an error that names what is wrong.
fn read<T: DeserializeOwned, R>(
    input: &[u8],
    unsupported: &'static [Unsupported],
    check: impl FnOnce(T) -> Result<R, ApiError>,
) {
    let read = json::parse::<T>(input, unsupported).and_then(|parsed| check(parsed.value));
    if let Err(error) = read {
        assert!(error.status().is_client_error(), "{error:?}");
        assert!(!error.message().is_empty(), "{error:?}");
    }
}

const BODY_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "1e999",
    "-1",
    "18446744073709551616",
    "\"\"",
    "\"a\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"messages\":",
    "\"role\":\"user\"",
    "\"role\":\"tool\"",
    "\"content\":",
    "\"type\":\"text\"",
    "\"tools\":",
    "\"functions\":",
    "\"function_call\":",
    "\"role\":\"function\"",
    "\"function\":",
    "\"parameters\":",
    "\"response_format\":",
    "\"json_schema\":",
    "\"stop\":",
    "\"logit_bias\":{\"1\":",
    "\"n\":128",
    "\"stream\":true",
    "\"input\":",
    "\"prompt\":",
    "\"grammar\":",
    "\"reasoning\":",
    "\"metadata\":",
];

#[test]
fn schema_validator() {
    let words = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"$ref\":\"#\"",
        "\"$ref\":\"#/$defs/a\"",
        "\"$defs\":{\"a\":",
        "\"allOf\":[",
        "\"anyOf\":[",
        "\"unevaluatedProperties\":false",
        "\"items\":",
        "\"properties\":{\"a\":",
        "\"pattern\":\"(a*)*\"",
        "\"$dynamicRef\":\"#a\"",
        "\"$id\":\"a\"",
        "true",
    ];
    Target::new("schema_validator", words).run(|input| {
        let Ok(schema) = serde_json::from_slice::<Value>(input) else { return };
        if let Ok(schema) = structured_output::CheckedSchema::new(&schema) {
            for text in ["{}", "[]", "1", "null", "{\"a\":[{}]}"] {
                let _ = structured_output::satisfies(text, &schema.validator);
            }
        }
    });
}

#[test]
fn chat() {
    Target::new("chat", BODY_WORDS).run(|input| read(input, chat_request::UNSUPPORTED, ChatRequest::check));
}

#[test]
fn completion() {
    Target::new("completion", BODY_WORDS)
        .run(|input| read(input, completion_request::UNSUPPORTED, CompletionRequest::check));
}

#[test]
fn response() {
    Target::new("response", BODY_WORDS).run(|input| {
        read(input, response_request::UNSUPPORTED, |mut request: CreateResponse| request.check());
        read::<CountTokens, _>(input, response_request::UNSUPPORTED, Ok);
    });
}

#[test]
fn other_bodies() {
    Target::new("other_bodies", BODY_WORDS).run(|input| {
        read(input, &[], |request: CreateApiKey| request.check(0));
        read::<EmbeddingsRequest, _>(input, &[], Ok);
        read::<TokenizeRequest, _>(input, &[], Ok);
        read::<DetokenizeRequest, _>(input, &[], Ok);
        read::<TemplateRequest, _>(input, &[], Ok);
        read::<CreateItems, _>(input, &[], Ok);
        read::<CreateConversation, _>(input, &[], Ok);
        read::<UpdateConversation, _>(input, &[], Ok);
        read::<CreateUser, _>(input, &[], Ok);
        read::<UpdateUser, _>(input, &[], Ok);
    });
}

#[test]
fn queries() {
    let words = &[
        "&",
        "=",
        "limit=",
        "after=",
        "order=asc",
        "include[]=",
        "stream=true",
        "starting_after=",
        "%00",
        "%ff",
        "+",
        "-1",
        "99999999999999999999",
    ];
    Target::new("queries", words).run(|input| {
        let text = String::from_utf8_lossy(input);
        let refused = [RetrieveQuery::parse(&text).err(), ListQuery::parse(&text).err()];
        for error in refused.into_iter().flatten() {
            assert!(error.status().is_client_error() && !error.message().is_empty(), "{error:?}");
        }
    });
}
