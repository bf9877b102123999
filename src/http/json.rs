//! Request bodies as JSON: two passes, neither of which builds a tree of the body.
//!
//! The first checks the syntax of everything (fields that nobody knows included) and looks at the fields
//! that are part of the API but not of this server. The second reads the typed request, names the field
//! where a type is wrong and collects the fields that nobody knows.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_ignored::Path;

use super::ApiError;

/// Most ignored fields that are named; the rest is summed up as `…`.
const NAMED_FIELDS: usize = 32;
/// Longest name that is shown, in bytes.
const NAME_LENGTH: usize = 100;

/// A field of the API that this server does not have (yet).
#[derive(Debug)]
pub struct Unsupported {
    /// Its name.
    pub field: &'static str,
    /// Values that ask for nothing this server does not do anyway; null is always one.
    pub harmless: &'static [Given],
}

/// The outline of a value: enough to tell a harmless one.
#[derive(Debug, PartialEq)]
pub enum Given {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number
    Number(f64),
    /// Any text
    Text(String),
    /// A text in a table of harmless values.
    Word(&'static str),
    /// `[]`
    EmptyList,
    /// `["…"]`
    ListOf(&'static str),
    /// `{}`
    EmptyObject,
    /// `{"type": "…"}`
    ObjectOfType(&'static str),
    /// Any other list, with its only element where that is a text.
    List(Option<String>),
    /// Any other object, with its `type` where that is a text and its only member.
    Object(Option<String>),
}

impl Given {
    fn is(&self, harmless: &Self) -> bool {
        match (self, harmless) {
            (Self::Text(text), Self::Word(word)) => text == word,
            (Self::List(Some(text)), Self::ListOf(word)) => text == word,
            (Self::Object(Some(text)), Self::ObjectOfType(word)) => text == word,
            (given, harmless) => given == harmless,
        }
    }
}

/// A request, and the fields of it that nobody knows.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The request.
    pub value: T,
    /// The unknown fields' paths, printable ASCII, for the response header `X-Ignored-Fields`.
    pub ignored: Vec<String>,
}

/// Reads a request.
///
/// # Errors
/// 400 `invalid_json` with line and column; `unsupported_parameter`, `missing_required_parameter` or
/// `invalid_type` with the field.
pub fn parse<T: DeserializeOwned>(
    body: &[u8],
    unsupported: &'static [Unsupported],
) -> Result<Parsed<T>, ApiError> {
    check_utf8(body)?;
    let given = outline(body, unsupported)?;
    for (field, given) in &given {
        if given != &Given::Null && !field.harmless.iter().any(|harmless| given.is(harmless)) {
            return Err(ApiError::unsupported(
                field.field,
                format!("Unsupported parameter: '{}' is not supported by this server.", field.field),
            ));
        }
    }
    typed(body, unsupported)
}

fn check_utf8(body: &[u8]) -> Result<(), ApiError> {
    let Err(error) = std::str::from_utf8(body) else { return Ok(()) };
    let before = &body[..error.valid_up_to()];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    Err(ApiError::invalid_json(format!(
        "The request's body is not valid JSON: invalid UTF-8 at line {line} column {column}"
    )))
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    ApiError::invalid_json(format!("The request's body is not valid JSON: {error}"))
}

fn outline(
    body: &[u8],
    unsupported: &'static [Unsupported],
) -> Result<Vec<(&'static Unsupported, Given)>, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let outline = json.deserialize_any(Outline(unsupported)).and_then(|given| json.end().map(|()| given));
    match outline {
        Ok(given) => Ok(given),
        Err(error) if error.is_data() => {
            Err(ApiError::invalid_type(None, "The request's body must be a JSON object."))
        }
        Err(error) => Err(syntax_error(&error)),
    }
}

fn typed<T: DeserializeOwned>(
    body: &[u8],
    unsupported: &'static [Unsupported],
) -> Result<Parsed<T>, ApiError> {
    let mut ignored = Vec::new();
    let mut more = false;
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value = serde_ignored::deserialize(tracked, |path: Path<'_>| {
        if is_listed(&path, unsupported) {
            return;
        }
        more = ignored.len() == NAMED_FIELDS;
        if !more {
            ignored.push(printable(&shown(&path)));
        }
    });
    if more {
        ignored.push("...".to_owned());
    }
    match value {
        Ok(value) => Ok(Parsed { value, ignored }),
        Err(error) if error.is_data() => Err(type_error(&error, &track.path().to_string())),
        Err(error) => Err(syntax_error(&error)),
    }
}

fn type_error(error: &serde_json::Error, path: &str) -> ApiError {
    let text = error.to_string();
    // serde_json adds the place; the field says more.
    let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let parent = if path == "." { "" } else { path };
    let field = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    if let Some(field) = field {
        let dot = if parent.is_empty() { "" } else { "." };
        return ApiError::missing(format!("{parent}{dot}{field}"));
    }
    if parent.is_empty() {
        return ApiError::invalid_type(None, format!("Invalid request: {}", plain(text)));
    }
    let message = format!("Invalid value for '{parent}': {}", plain(text));
    if text.starts_with("invalid type") {
        ApiError::invalid_type(Some(parent.to_owned()), message)
    } else {
        ApiError::invalid_value(parent, message)
    }
}

/// Rust's names for types, as JSON has them.
fn plain(text: &str) -> String {
    let Some((before, expected)) = text.rsplit_once("expected ") else { return text.to_owned() };
    let expected = match expected {
        "f64" => "a number",
        "i64" | "u64" | "u32" | "i32" => "an integer",
        "a sequence" => "an array",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    let before = before
        .replace("invalid type: map", "invalid type: object")
        .replace("invalid type: sequence", "invalid type: array")
        .replace("invalid type: floating point", "invalid type: number");
    format!("{before}expected {expected}")
}

fn is_listed(path: &Path<'_>, unsupported: &[Unsupported]) -> bool {
    match path {
        Path::Map { parent: Path::Root, key } => unsupported.iter().any(|field| field.field == key),
        _ => false,
    }
}

/// `messages[0].name`
fn shown(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", shown(parent)),
        Path::Map { parent, key } => {
            let parent = shown(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            shown(parent)
        }
    }
}

/// A header takes printable ASCII only, and commas separate the names in it.
fn printable(name: &str) -> String {
    let mut shown: String = name
        .bytes()
        .take(NAME_LENGTH)
        .map(|byte| if byte.is_ascii_graphic() && byte != b',' { char::from(byte) } else { '?' })
        .collect();
    if name.len() > NAME_LENGTH {
        shown.push_str("...");
    }
    shown
}

/// Visits the body's top level; everything below is only checked.
struct Outline(&'static [Unsupported]);

impl<'de> Visitor<'de> for Outline {
    type Value = Vec<(&'static Unsupported, Given)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut given = Vec::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.iter().find(|field| field.field == key) {
                Some(field) => given.push((field, map.next_value()?)),
                None => {
                    map.next_value::<Checked>()?;
                }
            }
        }
        Ok(given)
    }
}

/// Any value, fully checked and thrown away. `IgnoredAny` would let bad escapes, numbers out of range and
/// any depth of nesting pass.
#[derive(Debug, Default, PartialEq)]
pub struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        while map.next_key::<Checked>()?.is_some() {
            map.next_value::<Checked>()?;
        }
        Ok(Checked)
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Given, E> {
        Ok(Given::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Given, E> {
        Ok(Given::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Given, E> {
        Ok(Given::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Given, E> {
        Ok(Given::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Given, E> {
        Ok(Given::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Given, E> {
        Ok(Given::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Given, A::Error> {
        let Some(first) = seq.next_element_seed(TextOrAnything)? else { return Ok(Given::EmptyList) };
        let mut alone = true;
        while seq.next_element::<Checked>()?.is_some() {
            alone = false;
        }
        Ok(Given::List(first.filter(|_| alone)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
        let Some(key) = map.next_key::<String>()? else { return Ok(Given::EmptyObject) };
        let first = map.next_value_seed(TextOrAnything)?;
        let mut alone = true;
        while map.next_key::<Checked>()?.is_some() {
            map.next_value::<Checked>()?;
            alone = false;
        }
        Ok(Given::Object(first.filter(|_| alone && key == "type")))
    }
}

/// A text, or `None` for anything else, which is checked.
struct TextOrAnything;

impl<'de> DeserializeSeed<'de> for TextOrAnything {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        Ok(match Given::deserialize(deserializer)? {
            Given::Text(text) => Some(text),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Request {
        model: String,
        #[serde(default)]
        items: Vec<Item>,
        limit: Option<i64>,
        ratio: Option<f64>,
    }

    #[derive(Debug, Deserialize)]
    struct Item {
        #[allow(dead_code)]
        name: Option<String>,
    }

    static FIELDS: &[Unsupported] = &[
        Unsupported { field: "tools", harmless: &[Given::EmptyList] },
        Unsupported { field: "format", harmless: &[Given::ObjectOfType("text")] },
        Unsupported { field: "modalities", harmless: &[Given::ListOf("text")] },
        Unsupported { field: "choice", harmless: &[Given::Word("none"), Given::Bool(false)] },
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
            (r#"{"model": "m", "items": [{}, 3]}"#, "items[1]", "expected an object"),
            (r#"{"model": "m", "items": [{"name": "n"}, {"name": false}]}"#, "items[1].name", "a string"),
        ] {
            let (code, got, message) = refused(body);
            assert_eq!((code, got.as_deref()), ("invalid_type", Some(param)), "{body}");
            assert!(message.contains(words) && message.contains(param), "{message}");
        }
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
    fn bad_json_says_where_even_in_fields_that_nobody_knows() {
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
            "\u{feff}{}",
            &deep,
            &deep_known,
        ] {
            let (code, _, message) = refused(body);
            assert_eq!(code, "invalid_json", "{message}");
            assert!(message.contains("line 1 column"), "{message}");
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
        assert_eq!(parsed.ignored.len(), NAMED_FIELDS + 1);
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
}
