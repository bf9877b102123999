use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    #[serde(default)]
    items: Vec<Item>,
    limit: Option<i64>,
    ratio: Option<f64>,
    size: Option<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Size {
    Low,
    High,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[allow(dead_code)]
    name: Option<String>,
}

static FIELDS: &[Unsupported] = &[
    Unsupported::new("tools", &[ValueShape::EmptyList]),
    Unsupported::new("format", &[ValueShape::ObjectOfType("text")]),
    Unsupported::new("modalities", &[ValueShape::ListOf("text")]),
    Unsupported::new("choice", &[ValueShape::Word("none"), ValueShape::Bool(false)]),
];

fn read(body: &str) -> Result<Parsed<Request>, ApiError> {
    parse(body.as_bytes(), FIELDS)
}

fn refused(body: &str) -> (&'static str, Option<String>, String) {
    let error = read(body).unwrap_err();
    assert_eq!(error.status(), 400, "{body}");
    (error.code(), error.param().map(str::to_owned), error.message().to_owned())
}

#[test]
fn wrong_types_name_the_field() {
    for (body, param, words) in [
        (r#"{"model": 1}"#, "model", "expected a string"),
        (r#"{"model": "m", "limit": "x"}"#, "limit", "expected an integer"),
        (r#"{"model": "m", "limit": 1.5}"#, "limit", "expected an integer"),
        (r#"{"model": "m", "limit": 99999999999999999999}"#, "limit", "expected an integer"),
        (r#"{"model": "m", "ratio": []}"#, "ratio", "expected a number"),
        (r#"{"model": "m", "items": {}}"#, "items", "expected an array"),
        (r#"{"model": "m", "size": 5}"#, "size", "expected `low` or `high`"),
        (r#"{"model": "m", "items": [{}, 3]}"#, "items[1]", "expected an object"),
        (r#"{"model": "m", "items": [{"name": "n"}, {"name": false}]}"#, "items[1].name", "a string"),
    ] {
        let (code, got, message) = refused(body);
        assert_eq!((code, got.as_deref()), ("invalid_type", Some(param)), "{body}");
        assert!(message.contains(words) && message.contains(param), "{message}");
    }
}

#[test]
fn allowed_names_are_listed_for_other_types_too() {
    for value in ["5", "-1.5e3", "true", "null5", "[true]", "[\"low\"]", "[[], {}]"] {
        for body in [
            format!(r#"{{"model": "m", "size": {value}}}"#),
            format!("{{\"size\":{value},\"model\":\"m\"}}"),
            format!("{{\n\t\"model\": \"ü\",\n\t\"size\":\n {value} \n}}"),
        ] {
            let (code, param, message) = refused(&body);
            if value == "null5" {
                assert_eq!(code, "invalid_json", "{body}");
                continue;
            }
            assert_eq!((code, param.as_deref()), ("invalid_type", Some("size")), "{body}: {message}");
            assert!(message.contains("`low` or `high`"), "{body}: {message}");
        }
    }
}

#[test]
fn allowed_names_are_listed() {
    for value in [r#""huge""#, r#"{"a": 1}"#, "{}", r#"{"low": 1}"#, r#"{"low": null, "high": null}"#] {
        let (code, param, message) = refused(&format!(r#"{{"model": "m", "size": {value}}}"#));
        assert!(matches!(code, "invalid_value" | "invalid_type"), "{value}: {code}");
        assert!(param.is_some_and(|param| param.starts_with("size")), "{value}");
        assert!(message.contains("size"), "{message}");
    }
    assert!(matches!(read(r#"{"model": "m", "size": "low"}"#).unwrap().value.size, Some(Size::Low)));
    assert!(matches!(read(r#"{"model": "m", "size": "high"}"#).unwrap().value.size, Some(Size::High)));
}

#[test]
fn missing_fields_are_named() {
    let (code, param, _) = refused("{}");
    assert_eq!((code, param.as_deref()), ("missing_required_parameter", Some("model")));
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in ["[]", "1", "\"x\"", "null", "true"] {
        assert_eq!(refused(body).0, "invalid_type", "{body}");
    }
}

#[test]
fn syntax_errors_have_positions_even_in_unknown_fields() {
    let deep = format!(r#"{{"model": "m", "x": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_known = format!(r#"{{"items": {}"#, r#"[{"a":"#.repeat(100_000));
    for body in [
        "",
        "{",
        r#"{"model": "m",}"#,
        r#"{"model": "m"} x"#,
        r#"{"model": "\ud800"}"#,
        r#"{"model": "m", "x": "\ud800"}"#,
        r#"{"model": "m", "x": 1e400}"#,
        r#"{"model": "m", "ratio": 1e400}"#,
        "{\"model\": \"a\0b\"}",
        "{\"model\": \"a\nb\"}",
        r#"{"model": NaN}"#,
        &deep,
        &deep_known,
    ] {
        let (code, _, message) = refused(body);
        assert_eq!(code, "invalid_json", "{message}");
        assert!(message.contains(" at line ") && message.contains(" column "), "{message}");
    }
    let error = parse::<Request>(b"{\n\"model\": \"\xff\"}", FIELDS).unwrap_err();
    assert!(error.message().contains("line 2 column 11"), "{}", error.message());
}

#[test]
fn unknown_fields_are_named_and_known_ones_are_not() {
    let body = r#"{"model": "m", "a": 1, "tools": [], "items": [{"b": {}, "name": null}], "c,ü": 1}"#;
    assert_eq!(read(body).unwrap().ignored, ["a", "items[0].b", "c???"]);
}

#[test]
fn many_unknown_fields_are_summed_up() {
    let fields: Vec<String> = (0..1000).map(|i| format!("\"f{i}{}\": 1", "x".repeat(200))).collect();
    let parsed = read(&format!(r#"{{"model": "m", {}}}"#, fields.join(","))).unwrap();
    assert_eq!(parsed.ignored.len(), MAX_NAMED_FIELDS + 1);
    assert!(parsed.ignored.join(", ").len() < 5000);
}

#[test]
fn unsupported_fields_are_refused_unless_harmless() {
    for harmless in [
        r#""tools": []"#,
        r#""tools": null"#,
        r#""format": {"type": "text"}"#,
        r#""modalities": ["text"]"#,
        r#""choice": "none""#,
        r#""choice": false"#,
    ] {
        assert!(read(&format!(r#"{{"model": "m", {harmless}}}"#)).is_ok(), "{harmless}");
    }
    for (wrong, param) in [
        (r#""tools": [{}]"#, "tools"),
        (r#""tools": {}"#, "tools"),
        (r#""tools": false"#, "tools"),
        (r#""format": {"type": "json_object"}"#, "format"),
        (r#""format": {"type": "text", "x": 1}"#, "format"),
        (r#""format": {"kind": "text"}"#, "format"),
        (r#""format": {}"#, "format"),
        (r#""modalities": ["text", "audio"]"#, "modalities"),
        (r#""modalities": ["audio"]"#, "modalities"),
        (r#""choice": "auto""#, "choice"),
        (r#""choice": true"#, "choice"),
    ] {
        let (code, got, _) = refused(&format!(r#"{{"model": "m", {wrong}}}"#));
        assert_eq!((code, got.as_deref()), ("unsupported_parameter", Some(param)), "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_a_400(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = parse::<Request>(&body, FIELDS) {
            prop_assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn ignored_names_fit_a_header(name in any::<String>()) {
        let body = serde_json::json!({"model": "m", name: 1}).to_string();
        if let Ok(parsed) = read(&body) {
            prop_assert!(http::HeaderValue::from_str(&parsed.ignored.join(", ")).is_ok());
        }
    }
}

#[test]
fn values_arrive() {
    let parsed = read(r#"{"model": "m", "items": [{}], "limit": 3, "ratio": 1}"#).unwrap().value;
    assert_eq!((parsed.model.as_str(), parsed.items.len()), ("m", 1));
    assert_eq!((parsed.limit, parsed.ratio), (Some(3), Some(1.0)));
}

#[test]
fn whole_numbers_are_integers_however_they_are_written() {
    for (number, expected) in [("10.0", 10), ("1e1", 10), ("-3.00", -3), ("-0.0", 0), ("1E+2", 100)] {
        let parsed = read(&format!(r#"{{"model": "m 1.0", "ratio": 2.0, "limit": {number}}}"#)).unwrap();
        let Request { model, limit, ratio, .. } = parsed.value;
        assert_eq!((model.as_str(), limit, ratio), ("m 1.0", Some(expected), Some(2.0)), "{number}");
    }
    for number in ["1.5", "1e-1", "1e300", "9007199254740993.0"] {
        let (code, param, message) = refused(&format!(r#"{{"model": "m", "limit": {number}}}"#));
        assert_eq!((code, param.as_deref()), ("invalid_type", Some("limit")), "{number}: {message}");
    }
    // Fields that nobody knows are named as ever.
    let parsed = read(r#"{"model": "m", "limit": 1.0, "more": 2.0}"#).unwrap();
    assert_eq!(parsed.ignored, ["more"]);
}

#[test]
fn byte_order_mark_is_skipped() {
    assert_eq!(read("\u{feff}{\"model\": \"m\"}").unwrap().value.model, "m");
    assert_eq!(refused("\u{feff}").0, "invalid_json");
    assert_eq!(refused("\u{feff}\u{feff}{\"model\": \"m\"}").0, "invalid_json");
}

#[test]
fn fields_given_twice_are_named() {
    for (body, field) in [
        (r#"{"model": "m", "limit": 1, "limit": 2}"#, "limit"),
        (r#"{"model": "m", "model": "m"}"#, "model"),
        (r#"{"model": "m", "items": [{}, {"name": "a", "name": "b"}]}"#, "items[1].name"),
    ] {
        let (code, param, message) = refused(body);
        assert_eq!((code, param.as_deref()), ("invalid_type", Some(field)), "{message}");
        assert!(message.contains("twice"), "{message}");
    }
}
