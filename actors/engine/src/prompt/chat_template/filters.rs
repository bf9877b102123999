//! Filters of Jinja2 that minijinja lacks or handles otherwise.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Maximum width of what pads a text, so that it stays small.
const MAX_WIDTH: usize = 1024;

pub(super) fn install(environment: &mut Environment) {
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("center", |text: Cow<'_, str>, width: Option<usize>| {
        pad(&text, width.unwrap_or(80), " ", Side::Both)
    });
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", |text: Cow<'_, str>| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
    });
}

/// Python's `str.splitlines`.
pub(super) fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    while let Some(at) = rest.find(is_end) {
        let (line, behind) = rest.split_at(at);
        lines.push(line);
        let first = behind.chars().next().map_or(0, char::len_utf8);
        rest = behind.strip_prefix("\r\n").unwrap_or(&behind[first..]);
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Arguments as Python passes them: by position or by name.
struct Arguments {
    positional: Rest<Value>,
    named: Kwargs,
}

impl Arguments {
    /// The argument, if it is given.
    fn value(&self, index: usize, name: &str) -> Result<Option<Value>, Error> {
        match self.positional.get(index) {
            Some(given) => Ok(Some(given.clone())),
            None => self.named.get(name),
        }
    }

    /// The same as a Rust value.
    fn get<T: TryFrom<Value, Error = Error>>(&self, index: usize, name: &str) -> Result<Option<T>, Error> {
        self.value(index, name)?.map(T::try_from).transpose()
    }

    /// # Errors
    /// There are others than those asked for.
    fn end(&self) -> Result<(), Error> {
        self.named.assert_all_used()
    }
}

/// `indent(width=4, first=False, blank=False)`: a line end at the end of the text stays.
fn indent(
    state: &State,
    text: Cow<'_, str>,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let given = Arguments { positional, named };
    let indention = match given.value(0, "width")? {
        None => "    ".to_owned(),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(width)?.max(0)).unwrap_or(0).min(MAX_WIDTH)),
        },
    };
    let first = given.get(1, "first")?.unwrap_or(false);
    let blank = given.get(2, "blank")?.unwrap_or(false);
    given.end()?;
    let text = [&*text, "\n"].concat();
    let lines = lines(&text);
    state.consume_fuel((lines.len().saturating_mul(indention.len()) / 64) as u64)?;
    let mut indented = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            indented.push_str(&indention);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// `int(default=0, base=10)`.
fn int(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let given = Arguments { positional, named };
    let default = given.value(0, "default")?.unwrap_or_else(|| Value::from(0));
    let base = given.get::<u32>(1, "base")?.unwrap_or(10);
    given.end()?;
    let whole = |float: f64| if float.is_finite() { Value::from(float as i128) } else { default.clone() };
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => whole(f64::try_from(value.clone())?),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim();
            let digits = match base {
                16 => text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")),
                8 => text.strip_prefix("0o").or_else(|| text.strip_prefix("0O")),
                2 => text.strip_prefix("0b").or_else(|| text.strip_prefix("0B")),
                _ => None,
            };
            match i128::from_str_radix(digits.unwrap_or(text), base.clamp(2, 36)) {
                Ok(number) => Value::from(number),
                Err(_) => text.parse().map_or(default.clone(), whole),
            }
        }
        _ => default,
    })
}

/// `float(default=0.0)`.
fn float(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let given = Arguments { positional, named };
    let default = given.value(0, "default")?.unwrap_or_else(|| Value::from(0.0));
    given.end()?;
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Value::from(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => Value::from(f64::try_from(value.clone())?),
        ValueKind::String => {
            value.as_str().unwrap_or_default().trim().parse::<f64>().map_or(default, Value::from)
        }
        _ => default,
    })
}

/// `truncate(length=255, killwords=False, end='...', leeway=5)`.
fn truncate(text: Cow<'_, str>, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let given = Arguments { positional, named };
    let length = given.get::<usize>(0, "length")?.unwrap_or(255);
    let kill_words = given.get(1, "killwords")?.unwrap_or(false);
    let end = given.value(2, "end")?.map_or_else(|| "...".to_owned(), |end| end.to_string());
    let leeway = given.get::<usize>(3, "leeway")?.unwrap_or(5);
    given.end()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into_owned());
    }
    let kept = length.checked_sub(end.chars().count()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, "truncate: the length is less than that of the end")
    })?;
    let cut: String = text.chars().take(kept).collect();
    let words = if kill_words { &*cut } else { cut.rsplit_once(' ').map_or(&*cut, |(words, _)| words) };
    Ok([words, &*end].concat())
}

/// The side at which a text is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// `str.rjust`, `ljust` and `center`.
pub(super) fn pad(text: &str, width: usize, with: &str, side: Side) -> String {
    let width = width.min(MAX_WIDTH.max(text.len()));
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        // As Python rounds it.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let mut padded = with.repeat(left);
    padded.push_str(text);
    padded.push_str(&with.repeat(missing - left));
    padded
}
