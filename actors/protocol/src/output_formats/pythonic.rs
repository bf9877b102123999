//! Calls as Python writes them: `[get_weather(city="Hanoi", days=[1, 2])]`.
//!
//! Only literals can be arguments, and only by name, as the models that write this were taught
//! (Llama 4's and LFM2's model cards).

use serde_json::{Map, Value};

use super::json_calls::Calls;

/// The maximum nesting of lists and dictionaries.
const DEPTH: usize = 32;

/// One call, or several as a list; `None` where the text is anything else.
pub(super) fn python_calls(text: &str) -> Option<Calls> {
    let mut reader = Reader { rest: text };
    let mut calls = Vec::new();
    if reader.take('[') {
        reader.sequence(']', |reader| {
            calls.push(reader.call()?);
            Some(())
        })?;
    } else {
        calls.push(reader.call()?);
    }
    reader.rest.trim().is_empty().then_some(calls)
}

/// Reads a list of calls while it is written: the calls of it that are complete.
#[derive(Clone, Debug, Default)]
pub(super) struct PythonList {
    /// The text behind the last complete call.
    text: String,
    place: Place,
    attempts: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Beginning,
    Text,
    List,
}

impl PythonList {
    /// Takes more of the answer. Returns the calls that are complete with it.
    pub(super) fn push(&mut self, text: &str) -> Calls {
        /// Maximum number of attempts to read a call, each of which reads it from its beginning.
        const MAX_ATTEMPTS: usize = 1000;
        self.text.push_str(text);
        if self.place != Place::List {
            // A list begins an answer, or stands behind the tag that opens it.
            let said = self.text.trim_start();
            let open = match self.place == Place::Beginning && said.starts_with('[') {
                true => Some(self.text.len() - said.len()),
                false => self.text.find("|>[").map(|at| at + 2),
            };
            let Some(open) = open else {
                if !said.is_empty() {
                    self.place = Place::Text;
                    let kept = ["|>", "|"].into_iter().find(|end| self.text.ends_with(*end));
                    self.text = kept.unwrap_or_default().to_owned();
                }
                return Calls::new();
            };
            self.text.drain(..=open);
            self.place = Place::List;
        }
        let mut calls = Calls::new();
        while self.text.contains(')') && self.attempts < MAX_ATTEMPTS {
            self.attempts += 1;
            let mut reader = Reader { rest: self.text.trim_start_matches([',', ' ', '\n']) };
            let Some(call) = reader.call() else { break };
            self.text = reader.rest.to_owned();
            calls.push(call);
        }
        calls
    }
}

/// Reports whether a text that begins with `[` may still become calls of these tools: `None` if more of it must be seen.
pub(super) fn begins_calls<'a>(text: &str, mut names: impl Iterator<Item = &'a str>) -> Option<bool> {
    let said = text.strip_prefix('[')?.trim_start();
    let name = identifier(said);
    match said[name.len()..].trim_start().chars().next() {
        None if name.len() == said.len() => names.all(|known| !known.starts_with(name)).then_some(false),
        None => None,
        Some(next) => Some(next == '(' && names.any(|known| known == name)),
    }
}

/// The name that a text begins with.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)));
    &text[..end.unwrap_or(text.len())]
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Goes past this character and the whitespace before it, if it is next.
    fn take(&mut self, wanted: char) -> bool {
        let behind = self.rest.trim_start().strip_prefix(wanted);
        if let Some(behind) = behind {
            self.rest = behind;
        }
        behind.is_some()
    }

    /// Everything that `one` reads, with commas between, up to `close`.
    fn sequence(&mut self, close: char, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        while !self.take(close) {
            one(self)?;
            if !self.take(',') {
                return self.take(close).then_some(());
            }
        }
        Some(())
    }

    fn name(&mut self) -> Option<String> {
        let text = self.rest.trim_start();
        let name = identifier(text);
        self.rest = &text[name.len()..];
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn call(&mut self) -> Option<(String, String)> {
        let name = self.name()?;
        let mut arguments = Map::new();
        self.take('(').then_some(())?;
        self.sequence(')', |reader| {
            let key = reader.name()?;
            reader.take('=').then_some(())?;
            arguments.insert(key, reader.value(0)?);
            Some(())
        })?;
        Some((name, Value::Object(arguments).to_string()))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        for (open, close) in [('[', ']'), ('(', ')')] {
            if self.take(open) {
                let mut items = Vec::new();
                self.sequence(close, |reader| {
                    items.push(reader.value(depth + 1)?);
                    Some(())
                })?;
                return Some(Value::Array(items));
            }
        }
        if self.take('{') {
            let mut members = Map::new();
            self.sequence('}', |reader| {
                let key = reader.string()?;
                reader.take(':').then_some(())?;
                members.insert(key, reader.value(depth + 1)?);
                Some(())
            })?;
            return Some(Value::Object(members));
        }
        if self.rest.trim_start().starts_with(['"', '\'']) {
            return self.string().map(Value::from);
        }
        let text = self.rest.trim_start();
        let end =
            text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(text.len());
        self.rest = &text[end..];
        match &text[..end] {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            // JSON's own words, too, which models mix up with Python's.
            other => serde_json::from_str(other).ok(),
        }
    }

    fn string(&mut self) -> Option<String> {
        let text = self.rest.trim_start();
        let quote = text.chars().next().filter(|c| "\"'".contains(*c))?;
        let mut characters = text[1..].char_indices();
        let mut said = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next()?.1 {
                    'n' => said.push('\n'),
                    't' => said.push('\t'),
                    'r' => said.push('\r'),
                    'x' => said.push(code(&mut characters, 2)?),
                    'u' => said.push(code(&mut characters, 4)?),
                    'U' => said.push(code(&mut characters, 8)?),
                    other if "\\'\"".contains(other) => said.push(other),
                    // Unknown ones stay as they are.
                    other => said.extend(['\\', other]),
                },
                _ if character == quote => {
                    self.rest = &text[at + 2..];
                    return Some(said);
                }
                _ => said.push(character),
            }
        }
        None
    }
}

/// The character with the number that so many hexadecimal digits give.
fn code(characters: &mut std::str::CharIndices<'_>, digits: usize) -> Option<char> {
    let text: String = characters.take(digits).map(|(_, character)| character).collect();
    if text.len() != digits {
        return None;
    }
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
}
