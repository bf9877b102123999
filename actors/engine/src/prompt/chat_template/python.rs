//! The traits of Python that templates can see: methods of strings, Jinja2's own tests, and the format of floats.

use std::borrow::Cow;

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

use super::filters::{self, Side};

/// Adds features that minijinja handles otherwise than Jinja2 or leaves out.
pub(super) fn install(environment: &mut Environment) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    filters::install(environment);
    // In Jinja2 every value that has a length and takes an index: strings and maps, too.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
    // None is not iterable in Python.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_filter("string", string);
    environment.add_filter("trim", |text: Cow<'_, str>, characters: Option<Cow<'_, str>>| {
        strip(&text, characters.as_deref(), true, true).to_owned()
    });
}

/// The filter `string`: Python's `str`.
fn string(state: &State, value: &Value) -> Result<String, Error> {
    Ok(text_of(state, value)?.unwrap_or_else(|| value.to_string()))
}

/// Prints a value as Python's `str` does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match text_of(state, value)? {
        Some(text) => out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure)),
        None => escape_formatter(out, state, value),
    }
}

/// Python's `str` of a value that minijinja prints otherwise: of a float, and of a list or map, which may have floats in it.
fn text_of(state: &State, value: &Value) -> Result<Option<String>, Error> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    if !is_float && !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        return Ok(None);
    }
    let mut text = String::new();
    if repr(&mut text, state, value, 0)? { Ok(Some(text)) } else { Ok(None) }
}

/// The maximum nesting of values in `repr`, as in `tojson`.
const MAX_DEPTH: usize = 200;

/// Writes Python's `repr` of a value; `false` if there is one in it whose spelling is minijinja's affair.
fn repr(out: &mut String, state: &State, value: &Value, depth: usize) -> Result<bool, Error> {
    // Values can be shared, so a small value can be a large text: pay while it is written.
    state.consume_fuel(1)?;
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value nests too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&float_repr(f64::try_from(value.clone())?)),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            text_repr(out, text);
        }
        ValueKind::Seq => {
            let is_tuple = value.is_tuple();
            out.push(if is_tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                count += 1;
                if !repr(out, state, &item?, depth + 1)? {
                    return Ok(false);
                }
            }
            out.push_str(match (is_tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if index > 0 {
                    out.push_str(", ");
                }
                if !repr(out, state, &key, depth + 1)? {
                    return Ok(false);
                }
                out.push_str(": ");
                if !repr(out, state, &value.get_item(&key)?, depth + 1)? {
                    return Ok(false);
                }
            }
            out.push('}');
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `repr` of a text: in double quotes where it has single ones alone.
fn text_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            ' ' => out.push(c),
            _ if c.is_control() || c.is_whitespace() || is_format(c) => match u32::from(c) {
                code @ ..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            _ => out.push(c),
        }
    }
    out.push(quote);
}

/// Returns whether it is one of the invisible characters of Unicode's category Cf that texts have.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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
        match (name, args) {
            // Values never change, so that any is its copy.
            ("copy", []) if matches!(value.kind(), ValueKind::Map | ValueKind::Seq) => {
                return Ok(value.clone());
            }
            ("index", [item]) if value.kind() == ValueKind::Seq => {
                let at = value.try_iter()?.position(|one| one == *item);
                let missing = || Error::new(ErrorKind::InvalidOperation, "the item is not in the list");
                return at.map(Value::from).ok_or_else(missing);
            }
            _ => {}
        }
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
        "splitlines" if args.is_empty() => return Ok(filters::lines(text).into_iter().collect()),
        "center" | "ljust" | "rjust" => {
            let (width, with): (i64, Option<&str>) = from_args(args)?;
            let side = match name {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            let width = usize::try_from(width).unwrap_or(0);
            return Ok(Value::from(filters::pad(text, width, with.unwrap_or(" "), side)));
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let width = usize::try_from(width).unwrap_or(0);
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            let padded = filters::pad(digits, width.saturating_sub(sign.len()), "0", Side::Left);
            return Ok(Value::from([sign, &padded].concat()));
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            return Ok(Value::from(text[..at].chars().count()));
        }
        "title" => {
            let () = from_args(args)?;
            let mut titled = String::with_capacity(text.len());
            let mut inside = false;
            for c in text.chars() {
                match inside {
                    true => titled.extend(c.to_lowercase()),
                    false => titled.extend(c.to_uppercase()),
                }
                inside = c.is_alphabetic();
            }
            return Ok(Value::from(titled));
        }
        "split" if args.first().is_some_and(|separator| separator.as_str() == Some("")) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator"));
        }
        "casefold" => {
            let () = from_args(args)?;
            return Ok(Value::from(text.to_lowercase().replace('ß', "ss")));
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            return Ok(Value::from(text.chars().map(swap).collect::<String>()));
        }
        "isdecimal" => {
            let () = from_args(args)?;
            return Ok(Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())));
        }
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
