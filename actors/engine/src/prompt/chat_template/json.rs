//! JSON in and out of templates: wire objects become template values, and `tojson` is Python's `json.dumps`.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::float_repr;

/// The maximum nesting of values in `tojson`; wire objects nest at most 128 levels (serde_json's limit).
const MAX_DEPTH: usize = 200;

/// A wire object as the template sees it; keys keep their order.
pub(super) fn to_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => Value::from(value),
            (None, Some(value), _) => Value::from(value),
            (None, None, value) => Value::from(value.unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(to_value).collect(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), to_value(value))))
        }
    }
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, which transformers puts in
/// place of Jinja's own: [`json.dumps`] without HTML escapes.
///
/// [`json.dumps`]: https://docs.python.org/3/library/json.html#json.dumps
pub(super) fn tojson(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let argument = |index: usize, name| match positional.get(index) {
        Some(value) => Ok(Some(value.clone()).filter(|value| !value.is_none())),
        None => named.get::<Option<Value>>(name),
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            // No wider than is of use, so that depth times width stays small. Negative is 0 in Python.
            None => " ".repeat(usize::try_from(i64::try_from(indent)?.clamp(0, 64)).unwrap_or(0)),
        }),
    };
    let (item_separator, key_separator) = match argument(2, "separators")? {
        Some(separators) => {
            let separator = |index| separators.get_item_by_index(index).map(|text| text.to_string());
            (separator(0)?, separator(1)?)
        }
        // With an indent the line's end follows the comma.
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|flag| flag.is_true());
    named.assert_all_used()?;
    let mut writer =
        Writer { out: String::new(), ensure_ascii, sort_keys, indent, item_separator, key_separator, state };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    state: &'a State<'a, 'a>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        // Values can be shared, so a small value can be a large text: pay while it is written.
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(unserializable("it nests too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let text = number(value)?;
                self.out.push_str(&text);
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                self.out.push('[');
                for item in value.try_iter()?.checked() {
                    self.separate(empty, depth + 1)?;
                    empty = false;
                    self.value(&item?, depth + 1)?;
                }
                self.close(']', empty, depth)?;
            }
            ValueKind::Map => self.map(value, depth)?,
            kind => return Err(unserializable(&format!("it is {kind}"))),
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut pairs = Vec::new();
        for key in map.try_iter()?.checked() {
            let key = key?;
            let value = map.get_item(&key)?;
            pairs.push((self::key(&key)?, value));
        }
        if self.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        for (index, (key, value)) in pairs.iter().enumerate() {
            self.separate(index == 0, depth + 1)?;
            self.string(key)?;
            self.out.push_str(&self.key_separator);
            self.value(value, depth + 1)?;
        }
        self.close('}', pairs.is_empty(), depth)
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.out.push_str(&self.item_separator);
        }
        self.line(depth)
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<(), Error> {
        if !empty {
            self.line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            self.state.consume_fuel((depth * indent.len()) as u64 / 64)?;
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(character),
                _ if character >= ' ' && !self.ensure_ascii => self.out.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A number as JSON has it: Python's spelling, and its names for values that JSON has no number for.
fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let float = f64::try_from(value.clone())?;
    Ok(match float {
        _ if float.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => float_repr(float),
    })
}

/// A map's key as JSON's string.
fn key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => number(key),
        kind => Err(unserializable(&format!("a key is {kind}"))),
    }
}

fn unserializable(why: &str) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson cannot write this value: {why}"))
}
