//! Parsing of JSON request bodies: two passes, neither of which builds a tree of the body.
//!
//! The first checks the syntax of everything, including unknown fields, and inspects the fields that are part of the
//! API but not supported by this server. The second deserializes the typed request, names the field if a type is wrong
//! and collects unknown fields.

mod elements;
mod scan;
mod whole_numbers;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde_ignored::Path;

use super::ApiError;
pub use elements::Elements;
use scan::BodyScan;
use scan::Other;
pub use scan::{Checked, Unsupported, ValueShape};

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Maximum number of ignored fields that are named; the rest is summarised as `…`.
const MAX_NAMED_FIELDS: usize = 32;
/// Maximum length of a reported name, in bytes.
const MAX_NAME_LENGTH: usize = 100;

/// A request, and its unknown fields.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The request.
    pub value: T,
    /// The unknown fields' paths, printable ASCII, for the response header `X-Ignored-Fields`.
    pub ignored: Vec<String>,
}

/// Parses a request.
///
/// # Errors
/// 400 `invalid_json` with line and column; `unsupported_parameter`, `missing_required_parameter` or
/// `invalid_type` with the field.
pub fn parse<T: DeserializeOwned>(
    body: &[u8],
    unsupported: &'static [Unsupported],
) -> Result<Parsed<T>, ApiError> {
    // RFC 8259 permits parsers to skip it; Windows tools write it.
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    check_utf8(body)?;
    let given = scan(body, unsupported)?;
    let mut without_effect = Vec::new();
    for (Unsupported { field, harmless, other }, given) in &given {
        if given == &ValueShape::Null || harmless.iter().any(|harmless| given.is(harmless)) {
            continue;
        }
        let message = match other {
            Other::Ignored => {
                without_effect.push((*field).to_owned());
                continue;
            }
            Other::Refused => format!("Unsupported parameter: '{field}' is not supported by this server."),
            Other::Misplaced(instead) => {
                format!("Unsupported parameter: '{field}' is not a field of this API; use {instead}.")
            }
        };
        return Err(ApiError::unsupported(*field, message));
    }
    let mut outcome = typed(body, unsupported);
    if matches!(outcome, Err(Refused::Fraction(_))) {
        outcome = typed(&whole_numbers::as_integers(body), unsupported);
    }
    if let Ok(parsed) = &mut outcome {
        parsed.ignored.append(&mut without_effect);
    }
    outcome.map_err(|refused| match refused {
        Refused::Error(error) | Refused::Fraction(error) => error,
        Refused::NotAName { field, error } => {
            let known = known_names::<T>(body, &error, unsupported);
            let message = known.map_or_else(
                || format!("Invalid value for '{field}': expected a string, one of its known names"),
                |known| known.message().to_owned(),
            );
            ApiError::invalid_type(Some(field), message)
        }
    })
}

/// Errors of deserializing a typed request.
enum Refused {
    Error(ApiError),
    /// An integer is written with a fraction or an exponent.
    Fraction(ApiError),
    /// The field takes one of several names and got a value that is not a text.
    NotAName {
        field: String,
        error: serde_json::Error,
    },
}

/// Returns the error for the case that the value at the error's position were an unknown name: only the deserializer of
/// `T` knows the names, and it reports them only for a text.
fn known_names<T: DeserializeOwned>(
    body: &[u8],
    error: &serde_json::Error,
    unsupported: &'static [Unsupported],
) -> Option<ApiError> {
    let lines = body.split_inclusive(|&byte| byte == b'\n');
    let before: usize = lines.take(error.line().checked_sub(1)?).map(<[u8]>::len).sum();
    // Columns count from 1.
    let start = before + error.column().checked_sub(1)?;
    let mut values = serde_json::Deserializer::from_slice(body.get(start..)?).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let end = start + values.byte_offset();
    let value = String::from_utf8_lossy(&body[start..end.min(start + MAX_NAME_LENGTH)]);
    let text = serde_json::Value::from(value).to_string();
    let changed = [&body[..start], text.as_bytes(), &body[end..]].concat();
    match typed::<T>(&changed, unsupported) {
        Err(Refused::Error(known)) if known.code() == "invalid_value" => Some(known),
        _ => None,
    }
}

fn check_utf8(body: &[u8]) -> Result<(), ApiError> {
    let Err(error) = std::str::from_utf8(body) else { return Ok(()) };
    let before = &body[..error.valid_up_to()];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    Err(ApiError::invalid_json(format!(
        "We could not parse the JSON body of your request: invalid UTF-8 at line {line} column {column}"
    )))
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    // OpenAI's words.
    ApiError::invalid_json(format!("We could not parse the JSON body of your request: {error}"))
}

fn scan(
    body: &[u8],
    unsupported: &'static [Unsupported],
) -> Result<Vec<(&'static Unsupported, ValueShape)>, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let scan = json.deserialize_any(BodyScan(unsupported)).and_then(|given| json.end().map(|()| given));
    match scan {
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
) -> Result<Parsed<T>, Refused> {
    let mut ignored = Vec::new();
    let mut more = false;
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value = serde_ignored::deserialize(tracked, |path: Path<'_>| {
        if is_listed(&path, unsupported) {
            return;
        }
        more = ignored.len() == MAX_NAMED_FIELDS;
        if !more {
            ignored.push(printable(&shown(&path)));
        }
    });
    if more {
        ignored.push("...".to_owned());
    }
    match value {
        Ok(value) => Ok(Parsed { value, ignored }),
        Err(error) if error.is_data() => {
            let refused = type_error(&error, &track.path().to_string());
            let is_fraction = error.to_string().starts_with("invalid type: floating point");
            Err(if is_fraction { Refused::Fraction(refused) } else { Refused::Error(refused) })
        }
        Err(error) if wants_name(&error) => Err(Refused::NotAName { field: track.path().to_string(), error }),
        Err(error) => Err(Refused::Error(syntax_error(&error))),
    }
}

/// Returns whether an error is about a field that takes one of several names. For these, `serde_json` reports any value
/// but a text as a syntax error. The syntax has been checked before, so it is the type that is wrong.
fn wants_name(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    ["expected value at", "expected `:` at", "expected `,` or `}` at", "expected `\"` at"]
        .iter()
        .any(|what| text.starts_with(what))
}

fn type_error(error: &serde_json::Error, path: &str) -> ApiError {
    let text = error.to_string();
    // serde_json appends the position; the field is more precise.
    let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let parent = if path == "." { "" } else { path };
    let inside = |field: &str| format!("{parent}{}{field}", if parent.is_empty() { "" } else { "." });
    if let Some(field) = text.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
        // The path ends in the field if its value was reached.
        let field = if parent.ends_with(field) { parent.to_owned() } else { inside(field) };
        let message = format!("The field '{field}' is given twice; give it once");
        return ApiError::invalid_type(Some(field), message);
    }
    let field = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    if let Some(field) = field {
        return ApiError::missing(inside(field));
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

/// Replaces Rust's names of types with JSON's.
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

/// Formats a path such as `messages[0].name`.
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

/// Converts a name to printable ASCII without commas, since it becomes part of a header with a list.
fn printable(name: &str) -> String {
    let mut shown: String = name
        .bytes()
        .take(MAX_NAME_LENGTH)
        .map(|byte| if byte.is_ascii_graphic() && byte != b',' { char::from(byte) } else { '?' })
        .collect();
    if name.len() > MAX_NAME_LENGTH {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;
