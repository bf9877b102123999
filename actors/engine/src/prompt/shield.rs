//! Callers' input stays text: a `<|im_end|>` in a message ends no message.
//!
//! The rendered prompt is tokenized with control tokens, since those of the template are meant. If a text of the chat has the
//! text of one, a mark goes in behind its first character before the template sees it. No template looks for the mark, so that it
//! survives trimming, splitting and `tojson`; the rendered prompt is cut at the marks, and in no piece the control token can be
//! recognised. Texts without control tokens are not touched at all.

use aho_corasick::AhoCorasick;
use jan_protocol::types::ChatPrompt;
use serde_json::{Map, Value};

/// Marks to choose from: private use characters (Unicode 16, 23.5), of which one is not in the chat.
const MARKS: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

/// The texts of a vocabulary's control tokens.
#[derive(Clone, Debug)]
pub struct Shield {
    /// All control tokens.
    control: AhoCorasick,
    /// Those that an assistant's message may have: without the marks of thinking and calls, which templates take apart.
    spoken: AhoCorasick,
}

/// A chat whose texts are no control tokens, and the mark in them.
#[derive(Clone, Debug)]
pub struct Shielded {
    /// The chat.
    pub chat: ChatPrompt,
    /// The mark at which a rendered prompt has to be cut.
    pub mark: char,
}

impl Shield {
    /// `control`: the texts of the control tokens; `markers`: those of thinking and calls.
    ///
    /// # Errors
    /// Texts that are too large together for an automaton.
    pub fn new(control: &[String], markers: &[&str]) -> Result<Self, aho_corasick::BuildError> {
        // A text of one character has no inside to put a mark into.
        let control: Vec<&str> =
            control.iter().map(String::as_str).filter(|text| text.chars().nth(1).is_some()).collect();
        let spoken: Vec<&str> = control.iter().copied().filter(|text| !markers.contains(text)).collect();
        Ok(Self { control: AhoCorasick::new(&control)?, spoken: AhoCorasick::new(&spoken)? })
    }

    /// The chat with its texts shielded; `None` where no text of it has a control token.
    pub fn shield(&self, chat: &ChatPrompt) -> Option<Shielded> {
        let kwargs = Value::Object(chat.template_kwargs.clone());
        let documents = chat.documents.iter().chain(&chat.tools);
        if !chat.messages.iter().any(|message| any_text(message, &|text| self.of(message).is_match(text)))
            && !documents.chain([&kwargs]).any(|value| any_text(value, &|text| self.control.is_match(text)))
        {
            return None;
        }
        let all = || chat.messages.iter().chain(&chat.tools).chain(&chat.documents).chain([&kwargs]);
        let mark =
            MARKS.into_iter().find(|&mark| !all().any(|value| any_text(value, &|t| t.contains(mark))))?;
        let mut shielded = chat.clone();
        for message in &mut shielded.messages {
            let texts = self.of(message).clone();
            each_text(message, &|text| marked(&texts, text, mark));
        }
        for value in shielded.tools.iter_mut().chain(&mut shielded.documents) {
            each_text(value, &|text| marked(&self.control, text, mark));
        }
        for value in shielded.template_kwargs.values_mut() {
            each_text(value, &|text| marked(&self.control, text, mark));
        }
        Some(Shielded { chat: shielded, mark })
    }

    /// The texts that are to be shielded in a message.
    fn of(&self, message: &Value) -> &AhoCorasick {
        if message["role"] == "assistant" { &self.spoken } else { &self.control }
    }
}

/// The text with a mark behind the first character of each control token's text; `None` where it has none.
fn marked(control: &AhoCorasick, text: &str, mark: char) -> Option<String> {
    let mut starts: Vec<usize> = control.find_overlapping_iter(text).map(|found| found.start()).collect();
    if starts.is_empty() {
        return None;
    }
    starts.sort_unstable();
    starts.dedup();
    let mut marked = String::with_capacity(text.len() + 4 * starts.len());
    let mut rest = 0;
    for start in starts {
        let inside = start + text[start..].chars().next().map_or(0, char::len_utf8);
        marked.push_str(&text[rest..inside]);
        marked.push(mark);
        rest = inside;
    }
    marked.push_str(&text[rest..]);
    Some(marked)
}

/// Returns `true` if the predicate holds for any text in a value, names of fields included.
fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(values) => values.iter().any(|value| any_text(value, is)),
        Value::Object(fields) => fields.iter().any(|(name, value)| is(name) || any_text(value, is)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Puts another text in place of each text in a value, names of fields included, that has one.
fn each_text(value: &mut Value, other: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(new) = other(text) {
                *text = new;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| each_text(value, other)),
        Value::Object(fields) => {
            if fields.keys().any(|name| other(name).is_some()) {
                let renamed = std::mem::take(fields).into_iter();
                *fields =
                    renamed.map(|(name, value)| (other(&name).unwrap_or(name), value)).collect::<Map<_, _>>();
            }
            fields.values_mut().for_each(|value| each_text(value, other));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const CONTROL: [&str; 5] = ["<|im_start|>", "<|im_end|>", "</s>", "<think>", "s>"];

    fn shield() -> Shield {
        Shield::new(&CONTROL.map(str::to_owned), &["<think>"]).unwrap()
    }

    #[test]
    fn harmless_chats_are_left_alone() {
        let chat = ChatPrompt::from(vec![json!({"role": "user", "content": "a < b |im_end|> <|im_ end|>"})]);
        assert!(shield().shield(&chat).is_none());
        let thought = vec![json!({"role": "assistant", "content": "<think>hm</think>"})];
        assert!(shield().shield(&thought.into()).is_none());
    }

    #[test]
    fn every_text_is_shielded() {
        let tool = json!({"function": {"description": "</s>", "parameters": {"properties": {"</s>": {}}}}});
        let chat = ChatPrompt {
            tools: vec![tool],
            ..ChatPrompt::from(vec![
                json!({"role": "user", "content": [{"type": "text", "text": "<think>\u{f0000}"}]}),
                json!({"role": "assistant", "content": "<think></s>", "tool_calls": [{"function": {"arguments": "{\"a\": \"<|im_end|>\"}"}}]}),
            ])
        };
        let Shielded { chat, mark } = shield().shield(&chat).unwrap();
        assert_eq!(mark, '\u{f0001}');
        let text = serde_json::to_string(&(&chat.messages, &chat.tools)).unwrap();
        assert_eq!(text.matches(mark).count(), 8, "{text}");
        assert_eq!(chat.messages[1]["content"], "<think><\u{f0001}/s\u{f0001}>");
    }

    proptest! {
        /// Without its marks the text is unchanged, and no piece between them has a control token.
        #[test]
        fn pieces_have_no_control_tokens(parts in prop::collection::vec(prop::sample::select(vec!["<", "|im_end|>", "<|im_end|>", "</s>", "s", ">", "<think>", "é", " "]), 0..12)) {
            let text = parts.concat();
            let chat = ChatPrompt::from(vec![json!({"role": "user", "content": text})]);
            match shield().shield(&chat) {
                None => prop_assert!(CONTROL.iter().all(|control| !text.contains(control))),
                Some(Shielded { chat, mark }) => {
                    let marked = chat.messages[0]["content"].as_str().unwrap();
                    prop_assert_eq!(marked.replace(mark, ""), text);
                    prop_assert!(marked.split(mark).all(|piece| CONTROL.iter().all(|control| !piece.contains(control))));
                }
            }
        }
    }
}
