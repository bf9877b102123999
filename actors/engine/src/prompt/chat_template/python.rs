//! The traits of Python that templates can see: methods of strings, Jinja2's own tests, and the format of floats.

use std::borrow::Cow;

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

/// Adds features that minijinja handles otherwise than Jinja2 or leaves out.
pub(super) fn install(environment: &mut Environment) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    // In Jinja2 every value that has a length and takes an index: strings and maps, too.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
    // None is not iterable in Python.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_filter("trim", |text: Cow<'_, str>, characters: Option<Cow<'_, str>>| {
        strip(&text, characters.as_deref(), true, true).to_owned()
    });
}

/// Prints a value as Python's `str` does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        let text = float_repr(f64::try_from(value.clone())?);
        return out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure));
    }
    escape_formatter(out, state, value)
}

/// A float as Python's `repr` and `str` have it: the shortest digits that are this float, with an exponent below 1e-4
/// and from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    // Debug always has a decimal point, but for these magnitudes no exponent.
    let text = value.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// `str.strip`, `lstrip` and `rstrip`: without `characters` it is whitespace, to which Python counts the four separators
/// of ASCII that Unicode does not.
fn strip<'a>(text: &'a str, characters: Option<&str>, start: bool, end: bool) -> &'a str {
    let stripped = |c: char| match characters {
        Some(characters) => characters.contains(c),
        None => c.is_whitespace() || ('\x1c'..='\x1f').contains(&c),
    };
    let text = if start { text.trim_start_matches(stripped) } else { text };
    if end { text.trim_end_matches(stripped) } else { text }
}

/// Methods of Python's strings, lists and maps: minijinja-contrib's, those that it lacks, and a price on those that can
/// make much out of little.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            return Ok(Value::from(strip(text, characters, name != "rstrip", name != "lstrip")));
        }
        "replace" => {
            if let [from, to, ..] = args
                && let (Some(from), Some(to)) = (from.as_str(), to.as_str())
                && to.len() > from.len()
            {
                let places = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
                state.consume_fuel((places.saturating_mul(to.len()) / 64) as u64)?;
            }
        }
        "join" => {
            if let [items] = args {
                let items = items.len().unwrap_or(0);
                state.consume_fuel((items.saturating_mul(text.len()) / 64) as u64)?;
            }
        }
        // A width of many digits would be padded to that many bytes.
        "format" if text.as_bytes().windows(5).any(|run| run.iter().all(u8::is_ascii_digit)) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "format: the width is too large"));
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, found, after) = match text.split_once(separator) {
                Some((before, after)) => (before, separator, after),
                None => (text, "", ""),
            };
            return Ok(Value::from(Tuple::from([before, found, after].map(Value::from))));
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, found, after) = match text.rsplit_once(separator) {
                Some((before, after)) => (before, separator, after),
                None => ("", "", text),
            };
            return Ok(Value::from(Tuple::from([before, found, after].map(Value::from))));
        }
        "rsplit" => return rsplit(text, args),
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// `str.rsplit(sep=None, maxsplit=-1)`.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = text;
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator")),
        Some(separator) => {
            while parts.len() < most
                && let Some((before, after)) = rest.rsplit_once(separator)
            {
                parts.push(after);
                rest = before;
            }
            parts.push(rest);
        }
        None => {
            rest = rest.trim_end();
            while parts.len() < most
                && let Some((before, after)) = rest.rsplit_once(char::is_whitespace)
            {
                parts.push(after);
                rest = before.trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
        }
    }
    Ok(parts.into_iter().rev().collect())
}
