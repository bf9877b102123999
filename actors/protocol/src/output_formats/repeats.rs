//! Repeated calls: a weak model that has to call a tool may repeat one call until its tokens are used up.

use serde_json::Value;

use super::call_syntax::JsonEnd;
use super::pythonic::PythonList;
use super::{Layout, OutputParser, Part, Tool};

/// Watches the calls of one answer, which are constrained to their form.
#[derive(Clone, Debug)]
pub struct RepeatedCalls {
    /// The readers of the forms that the calls may have.
    readers: Vec<Reader>,
    repeated: bool,
    /// The beginning of a character.
    incomplete: Vec<u8>,
}

/// The calls of one form.
#[derive(Clone, Debug)]
struct Reader {
    form: Form,
    /// Names and arguments of complete calls.
    calls: Vec<(String, Value)>,
}

#[derive(Clone, Debug)]
enum Form {
    /// That of a parser, and the call that is being written.
    Parsed(Box<OutputParser>, Option<(String, String, JsonEnd)>),
    Python(PythonList),
}

impl RepeatedCalls {
    /// Creates the watch of an answer of this layout. `begun`: the model begins its calls of its own accord, in any form that
    /// it was taught.
    #[must_use]
    pub fn new(layout: &Layout, tools: &[Tool], begun: bool) -> Self {
        let named = layout.tools.filter(|_| begun).and_then(|format| format.syntax().named);
        let parsed = |enforced| {
            let parser = OutputParser::new(&Layout { enforced, ..layout.clone() }, tools);
            Form::Parsed(Box::new(parser), None)
        };
        let named = named.map(|named| match named.separator {
            Some(_) => Form::Python(PythonList::default()),
            None => parsed(false),
        });
        let forms = std::iter::once(parsed(true)).chain(named);
        let readers = forms.map(|form| Reader { form, calls: Vec::new() }).collect();
        Self { readers, repeated: false, incomplete: Vec::new() }
    }

    /// Takes more of the answer. Returns `true` once a call is complete that equals an earlier one in name and arguments.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.incomplete.extend_from_slice(bytes);
        let end = match std::str::from_utf8(&self.incomplete) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.incomplete.len(),
        };
        let rest = self.incomplete.split_off(end);
        let text = String::from_utf8_lossy(&std::mem::replace(&mut self.incomplete, rest)).into_owned();
        for reader in &mut self.readers {
            self.repeated |= reader.push(&text);
        }
        self.repeated
    }
}

impl Reader {
    /// Returns `true` if a call is complete that equals an earlier one.
    fn push(&mut self, text: &str) -> bool {
        let complete = match &mut self.form {
            Form::Python(list) => list.push(text),
            Form::Parsed(parser, current) => {
                let mut complete = Vec::new();
                for part in parser.push(text) {
                    match part {
                        Part::Call(name) => *current = Some((name, String::new(), JsonEnd::default())),
                        Part::Arguments(text) => {
                            let Some((_, arguments, end)) = current.as_mut() else { continue };
                            arguments.push_str(&text);
                            if text.chars().any(|character| end.push(character))
                                && let Some((name, arguments, _)) = current.take()
                            {
                                complete.push((name, arguments));
                            }
                        }
                        Part::Content(_) | Part::Reasoning(_) => {}
                    }
                }
                complete
            }
        };
        let mut repeated = false;
        for (name, arguments) in complete {
            let arguments = serde_json::from_str(&arguments).unwrap_or(Value::String(arguments));
            let call = (name, arguments);
            repeated |= self.calls.contains(&call);
            self.calls.push(call);
        }
        repeated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::output_formats::ToolFormat;

    fn watch(format: ToolFormat) -> RepeatedCalls {
        let tools = ["get_weather", "add"].map(|name| Tool { name: name.to_owned(), parameters: json!({}) });
        RepeatedCalls::new(&Layout { tools: Some(format), ..Layout::default() }, &tools, false)
    }

    /// Formats with several calls in an answer.
    fn formats() -> Vec<ToolFormat> {
        ToolFormat::ALL.iter().copied().filter(|format| format.syntax().separator.is_some()).collect()
    }

    proptest! {
        #[test]
        fn a_call_counts_as_repeated_once_it_is_complete(
            format in prop::sample::select(formats()),
            calls in prop::collection::vec((0usize..2, 0usize..3), 0..6),
            size in 1usize..9,
        ) {
            let calls: Vec<(&str, &str)> = calls
                .iter()
                .map(|&(name, arguments)| {
                    (["get_weather", "add"][name], ["{}", "{\"a\": \"}é\"}", "{\"a\": [1, {}]}"][arguments])
                })
                .collect();
            let text = format.syntax().write(&calls);
            let repeats = |calls: &[(&str, &str)]| (1..calls.len()).any(|end| calls[..end].contains(&calls[end]));
            let mut watch = watch(format);
            let mut repeated = false;
            for piece in text.as_bytes().chunks(size) {
                repeated = watch.push(piece);
            }
            prop_assert_eq!(repeated, repeats(&calls), "{:?}: {}", format, text);
        }
    }

    #[test]
    fn the_order_of_keys_does_not_count() {
        let calls = [("add", "{\"a\": 1, \"b\": 2}"), ("add", "{\"b\": 2, \"a\": 1}")];
        assert!(watch(ToolFormat::Hermes).push(ToolFormat::Hermes.syntax().write(&calls).as_bytes()));
        assert!(!watch(ToolFormat::Hermes).push(ToolFormat::Hermes.syntax().write(&calls[..1]).as_bytes()));
    }
}
