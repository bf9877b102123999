//! gpt-oss: everything is a message with a header, and the header's channel says what it is.
//!
//! Source: <https://cookbook.openai.com/articles/openai-harmony>. The prompt ends with `<|start|>assistant`, so an answer
//! begins within a header.

use super::Tool;
use super::output_parser::{Part, held_prefix};

/// The control tokens that give the text its structure. Those that end an answer end it here, too, and never come.
pub(super) const MARKERS: [&str; 5] = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"];

/// What thinking lies between, and what is put into an answer to end it.
#[must_use]
pub fn harmony_thinking() -> ((&'static str, &'static str), String) {
    let tags = ("<|channel|>analysis<|message|>", "<|end|>");
    (tags, "<|end|><|start|>assistant<|channel|>final<|message|>".to_owned())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come: an answer without a header is text.
    Begin,
    Header,
    Reasoning,
    Content,
    /// A call of this tool, whose arguments are passed on at once, or held until they are whole.
    Call {
        name: String,
        header: String,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Harmony {
    names: Vec<String>,
    /// Whether arguments can be relied on.
    enforced: bool,
    stage: Stage,
    buffer: String,
}

impl Harmony {
    pub(super) fn new(tools: &[Tool], enforced: bool) -> Self {
        let names = tools.iter().map(|tool| tool.name.clone()).collect();
        Self { names, enforced, stage: Stage::Begin, buffer: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        self.buffer.push_str(text);
        while self.step(parts) {}
    }

    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match &self.stage {
            Stage::Begin => {
                let said = self.buffer.trim_start();
                let begins = ["<|channel|>", "<|message|>", "<|start|>"];
                if begins.iter().any(|mark| said.starts_with(mark)) {
                    self.stage = Stage::Header;
                    return true;
                }
                if said.is_empty() || begins.iter().any(|mark| mark.starts_with(said)) {
                    return false;
                }
                self.stage = Stage::Content;
                true
            }
            Stage::Header => {
                let Some(at) = self.buffer.find("<|message|>") else { return false };
                let header = self.buffer[..at].to_owned();
                self.buffer.drain(..at + "<|message|>".len());
                self.stage = self.stage_of(header);
                if self.enforced
                    && let Stage::Call { name, .. } = &self.stage
                {
                    parts.push(Part::Call(name.clone()));
                }
                true
            }
            Stage::Reasoning | Stage::Content | Stage::Call { .. } => {
                let ends = ["<|end|>", "<|start|>", "<|channel|>"];
                let found = ends.iter().filter_map(|end| Some((self.buffer.find(end)?, *end))).min();
                let certain = match found {
                    Some((at, _)) => at,
                    None => self.buffer.len() - held_prefix(&self.buffer, &ends),
                };
                if found.is_none() && !self.enforced && matches!(self.stage, Stage::Call { .. }) {
                    return false;
                }
                let text: String = self.buffer.drain(..certain).collect();
                self.pass(text, parts);
                let Some((_, end)) = found else { return false };
                if end != "<|channel|>" {
                    self.buffer.drain(..end.len());
                }
                self.stage = Stage::Header;
                true
            }
        }
    }

    /// What a message with this header is.
    fn stage_of(&self, header: String) -> Stage {
        let channel = header.split("<|channel|>").nth(1).unwrap_or_default().trim_start();
        let recipient = header.split("to=functions.").nth(1).map(|rest| {
            rest.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default().to_owned()
        });
        match recipient.filter(|name| self.names.contains(name)) {
            Some(name) => Stage::Call { name, header },
            None if channel.starts_with("analysis") => Stage::Reasoning,
            None => Stage::Content,
        }
    }

    fn pass(&mut self, text: String, parts: &mut Vec<Part>) {
        match &self.stage {
            Stage::Reasoning => Part::reasoning(text, parts),
            Stage::Call { .. } if self.enforced => Part::arguments(&text, parts),
            Stage::Call { name, header } => {
                let is_object =
                    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok();
                if is_object {
                    Part::calls(vec![(name.clone(), text.trim().to_owned())], parts);
                } else {
                    Part::content(format!("{header}<|message|>{text}"), parts);
                }
            }
            _ => Part::content(text, parts),
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let rest = std::mem::take(&mut self.buffer);
        match self.stage {
            // A header without a message says nothing.
            Stage::Header => {}
            Stage::Begin => Part::content(rest, parts),
            _ => self.pass(rest, parts),
        }
    }
}
