//! Answers that consist of one call as a JSON object, fenced or not, without the marks of any format.
//!
//! Some small models write every call so. [`BareCall`] holds an answer's text back as long as it can still be one, and reads it
//! at the end. Whether the arguments satisfy the tool's schema is for the caller to decide.

use super::json_calls::json_calls;

/// Keys of the object of a call, in any of the spellings that are read.
const KEYS: [&str; 6] = ["name", "arguments", "parameters", "function", "type", "id"];

/// Texts that may open a fence, from the longest.
const FENCES: [&str; 3] = ["```tool_call", "```json", "```"];

/// Text of an answer's content that is held back.
#[derive(Clone, Debug)]
pub struct BareCall {
    names: Vec<String>,
    held: String,
    at: At,
    /// The key or text that is being read.
    word: String,
    key: String,
    fenced: bool,
}

/// A position in the text of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing but whitespace has come.
    Begin,
    /// In a line that may open a fence.
    Fence,
    /// Behind a fence's line, before the object.
    Object,
    /// In the object, before a key or its end.
    Key,
    /// Inside a key's quotes.
    InKey {
        escaped: bool,
    },
    Colon,
    Value,
    /// Inside the quotes of a value of the object itself.
    InText {
        escaped: bool,
    },
    /// Inside an object or array.
    Nested {
        depth: usize,
        in_text: bool,
        escaped: bool,
    },
    /// Inside a number or a word.
    Scalar,
    /// Behind a value.
    Comma,
    /// Behind the object: whitespace, and what closes the fence.
    Tail {
        ticks: usize,
    },
    /// The text is no call.
    No,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The text that was held back.
    pub text: String,
    /// The call that the whole answer is: the tool's name and arguments, a JSON object. Then `text` is its text.
    pub call: Option<(String, String)>,
}

impl BareCall {
    /// Creates the reader of an answer in which these tools can be called.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self {
            names: names.into_iter().collect(),
            held: String::new(),
            at: At::Begin,
            word: String::new(),
            key: String::new(),
            fenced: false,
        }
    }

    /// Takes more text. Returns what is no part of such a call.
    #[must_use]
    pub fn push(&mut self, text: &str) -> String {
        if self.at == At::No {
            return text.to_owned();
        }
        self.held.push_str(text);
        for character in text.chars() {
            self.at = self.next(character);
            if self.at == At::No {
                return std::mem::take(&mut self.held);
            }
        }
        String::new()
    }

    /// Gives up: something else than text is part of the answer. Returns the text that was held back.
    #[must_use]
    pub fn give_up(&mut self) -> String {
        self.at = At::No;
        std::mem::take(&mut self.held)
    }

    /// Returns `true` if text is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns `true` if nothing can be held back any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.at == At::No
    }

    /// Ends the answer.
    #[must_use]
    pub fn finish(&mut self) -> Rest {
        let at = std::mem::replace(&mut self.at, At::No);
        let text = std::mem::take(&mut self.held);
        let complete = match at {
            At::Tail { ticks } => ticks == if self.fenced { 3 } else { 0 },
            _ => false,
        };
        let call = complete.then(|| self.read(&text)).flatten();
        Rest { text, call }
    }

    fn read(&self, text: &str) -> Option<(String, String)> {
        let mut object = text.trim();
        if let Some(fence) = FENCES.iter().find(|fence| object.starts_with(**fence)) {
            object = object[fence.len()..].strip_suffix("```")?.trim();
        }
        let mut calls = json_calls(object)?;
        let (name, arguments) = calls.pop().filter(|_| calls.is_empty())?;
        self.names.contains(&name).then_some((name, arguments))
    }

    /// Returns the position behind a character.
    fn next(&mut self, c: char) -> At {
        match self.at {
            At::Begin if c.is_whitespace() => At::Begin,
            At::Begin | At::Object if c == '{' => At::Key,
            At::Object if c.is_whitespace() => At::Object,
            At::Begin if c == '`' => {
                self.word.push(c);
                At::Fence
            }
            At::Fence if c == '\n' => {
                let opens = FENCES.contains(&self.word.trim_end());
                self.fenced = true;
                if opens { At::Object } else { At::No }
            }
            At::Fence => {
                self.word.push(c);
                let word = self.word.as_str();
                let begins = FENCES.iter().any(|fence| fence.starts_with(word));
                if begins || (c.is_whitespace() && FENCES.contains(&word.trim_end())) {
                    At::Fence
                } else {
                    At::No
                }
            }
            At::Key | At::Colon | At::Value | At::Comma if c.is_ascii_whitespace() => self.at,
            At::Key if c == '"' => {
                self.key.clear();
                At::InKey { escaped: false }
            }
            At::InKey { escaped: false } if c == '"' => {
                if KEYS.contains(&self.key.as_str()) {
                    At::Colon
                } else {
                    At::No
                }
            }
            // No such key needs an escape.
            At::InKey { .. } if c == '\\' => At::No,
            At::InKey { escaped } => {
                self.key.push(c);
                let begins = KEYS.iter().any(|key| key.starts_with(self.key.as_str()));
                if begins { At::InKey { escaped } } else { At::No }
            }
            At::Colon if c == ':' => At::Value,
            At::Value => {
                self.word.clear();
                match c {
                    '"' => At::InText { escaped: false },
                    // The arguments are an object, and so is a function that has them.
                    '{' if self.names_tool() => At::No,
                    '{' => At::Nested { depth: 1, in_text: false, escaped: false },
                    'n' if self.key == "arguments" || self.key == "parameters" => At::Scalar,
                    _ => At::No,
                }
            }
            At::InText { escaped: false } if c == '"' => {
                let named = !self.names_tool() || self.names.contains(&self.word);
                if named { At::Comma } else { At::No }
            }
            At::InText { escaped } => {
                self.word.push(c);
                // A name has no character that is escaped.
                let named = !self.names_tool() || self.names.iter().any(|name| name.starts_with(&*self.word));
                if !named {
                    return At::No;
                }
                if !self.names_tool() {
                    self.word.clear();
                }
                At::InText { escaped: !escaped && c == '\\' }
            }
            At::Nested { depth, in_text: true, escaped } => {
                let in_text = escaped || c != '"';
                At::Nested { depth, in_text, escaped: !escaped && c == '\\' }
            }
            At::Nested { depth, .. } => match c {
                '"' => At::Nested { depth, in_text: true, escaped: false },
                '{' | '[' => At::Nested { depth: depth + 1, in_text: false, escaped: false },
                '}' | ']' if depth == 1 => At::Comma,
                '}' | ']' => At::Nested { depth: depth - 1, in_text: false, escaped: false },
                _ => self.at,
            },
            At::Scalar => {
                self.word.push(c);
                match c {
                    ',' => At::Key,
                    '}' => At::Tail { ticks: 0 },
                    _ if "ull".starts_with(self.word.trim_end()) => At::Scalar,
                    _ => At::No,
                }
            }
            At::Comma => match c {
                ',' => At::Key,
                '}' => At::Tail { ticks: 0 },
                _ => At::No,
            },
            At::Tail { ticks } if c == '`' && self.fenced && ticks < 3 => At::Tail { ticks: ticks + 1 },
            // The fence's three marks stand together.
            At::Tail { ticks: 0 | 3 } if c.is_whitespace() => self.at,
            _ => At::No,
        }
    }

    /// Returns `true` if the value of this key is the tool's name where it is a text.
    fn names_tool(&self) -> bool {
        self.key == "name"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader() -> BareCall {
        BareCall::new(["get_weather", "get", "add"].map(str::to_owned))
    }

    /// The text that passes at once, and the rest.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a str>) -> (String, Rest) {
        let mut reader = reader();
        let mut passed = String::new();
        for piece in pieces {
            passed.push_str(&reader.push(piece));
        }
        (passed, reader.finish())
    }

    const CALL: &str = r#"{"name": "get_weather", "arguments": {"city": "a } \" ``` b", "x": [{}]}}"#;
    const ARGUMENTS: &str = r#"{"city": "a } \" ``` b", "x": [{}]}"#;

    #[test]
    fn calls_are_held_back_and_read() {
        for text in [
            CALL.to_owned(),
            format!("\n {CALL}\n"),
            format!("```json\n{CALL}\n```"),
            format!("```\n{CALL}```\n"),
            format!("```tool_call \r\n {CALL} \n``` \n"),
            CALL.replace("arguments", "parameters"),
            format!(r#"{{"arguments": {ARGUMENTS}, "name": "get_weather"}}"#),
            format!(
                r#"{{"type": "function", "function": {{"name": "get_weather", "arguments": {ARGUMENTS}}}}}"#
            ),
            format!(r#"{{"id":"1","type":"function","name":"get_weather","parameters":{ARGUMENTS}}}"#),
        ] {
            let (passed, rest) = read([text.as_str()]);
            assert_eq!(passed, "", "{text}");
            assert_eq!(rest.call, Some(("get_weather".to_owned(), ARGUMENTS.to_owned())), "{text}");
            assert_eq!(rest.text, text);
        }
        for (text, arguments) in [
            (r#"{"name": "add"}"#, "{}"),
            (r#"{"name": "add", "arguments": null}"#, "{}"),
            (r#"{"name": "add", "arguments": "{\"a\": 1}"}"#, r#"{"a": 1}"#),
        ] {
            assert_eq!(read([text]).1.call, Some(("add".to_owned(), arguments.to_owned())), "{text}");
        }
    }

    #[test]
    fn other_text_passes_as_soon_as_it_is_none() {
        // Each up to the character that decides it.
        for text in [
            "H",
            "[",
            "` ",
            "``a",
            "```p",
            "```json{",
            "```json\nx",
            r#"{"na "#,
            r#"{"answer"#.get(..4).unwrap(),
            r#"{"name": "B"#,
            r#"{"name": "get_w "#,
            r#"{"name": "get_weathe""#,
            r#"{"name": 1"#,
            r#"{"name": {"#,
            r#"{"arguments": ["#,
            r#"{"arguments": 1"#,
            r#"{"arguments": {}x"#,
            r#"{"name": "add"} a"#,
            r#"{"name": "add"}`"#,
            "```\n{\"name\": \"add\"}` ",
            "{}",
            "{a",
        ] {
            let (before, last) = text.split_at(text.len() - 1);
            let mut reader = reader();
            assert_eq!(reader.push(before), "", "{text}");
            assert_eq!(reader.push(last), text);
            assert_eq!(reader.push("more"), "more");
            assert_eq!(reader.finish(), Rest { text: String::new(), call: None });
        }
    }

    #[test]
    fn what_does_not_end_as_a_call_is_text() {
        let cut: Vec<&str> = (0..CALL.len()).filter_map(|end| CALL.get(..end)).collect();
        for text in cut.into_iter().chain([
            "",
            " ",
            "```json",
            "```json\n{\"name\": \"add\"}",
            "```json\n{\"name\": \"add\"}\n``",
            r#"{"arguments": {}}"#,
            r#"{"name": "add", "arguments": {a}}"#,
            r#"{"name": "add", "arguments": "x"}"#,
            r#"{"name": "add", "arguments": nul}"#,
            r#"{"type": "function", "function": {"name": "nobody", "arguments": {}}}"#,
        ]) {
            let (passed, rest) = read([text]);
            assert_eq!(passed + &rest.text, text);
            assert_eq!(rest.call, None, "{text}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        let pieces = [
            CALL,
            "{",
            "}",
            "\"",
            "name",
            "arguments",
            "\": ",
            "\"add\"",
            ", ",
            "```",
            "json",
            "\n",
            "{}",
            " ",
            "\\",
            "é",
            "{\"name\": \"add\", \"arguments\": ",
            "function",
            "null",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&cut| text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (passed, rest) = read(cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]));
            prop_assert_eq!(format!("{passed}{}", rest.text), text.clone());
            let (whole, end) = read([text.as_str()]);
            prop_assert_eq!(&rest, &end);
            prop_assert_eq!(passed, whole);
            // Held to the end, or passed on whole.
            prop_assert!(rest.call.is_none() || rest.text == text);
            if let Some((name, arguments)) = rest.call {
                prop_assert!(["get_weather", "get", "add"].contains(&name.as_str()));
                prop_assert!(serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&arguments).is_ok());
            }
        }
    }
}
