//! `<|channel|>commentary to=functions.name<|message|>{…}`: gpt-oss.
//!
//! Everything is a message with a header, whose channel distinguishes reasoning, calls and text. Source:
//! <https://cookbook.openai.com/articles/openai-harmony>. The prompt ends with `<|start|>assistant`, so an answer begins within a
//! header.

use super::super::Tool;
use super::super::part::{Part, held_prefix};
use super::{CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

/// Control tokens that structure the text. Those that end an answer end it here, too, and are never part of it.
pub(in super::super) const CONTROL_TOKENS: &[&str] =
    &["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"];

/// Marks in chat templates, of calls and of reasoning.
pub(in super::super) const TEMPLATE: TemplateMarks =
    TemplateMarks { priority: 110, any_of: &[&["<|channel|>", "<|message|>"]] };

/// Texts that enclose a message of reasoning.
pub(in super::super) const ANALYSIS: (&str, &str) = ("<|channel|>analysis<|message|>", "<|end|>");

/// Text that ends reasoning and begins the answer.
pub(in super::super) const CLOSING: &str = "<|end|><|start|>assistant<|channel|>final<|message|>";

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "harmony",
    template: TEMPLATE,
    control_tokens: CONTROL_TOKENS,
    reader: CallReader::Messages,
    syntax: CallSyntax {
        preamble: Some((ANALYSIS.0, "<|end|><|start|>assistant")),
        before: "<|channel|>commentary to=functions.",
        between: " <|constrain|>json<|message|>",
        trigger: Some("<|channel|>commentary to="),
        ..CallSyntax::EMPTY
    },
    examples: &[
        r#"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Hà Nội"}"#,
    ],
};

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

/// Parser of one answer.
#[derive(Clone, Debug)]
pub(in super::super) struct Harmony {
    names: Vec<String>,
    /// `true` if arguments can be relied on.
    enforced: bool,
    /// `true` if the answer has to be a call.
    required: bool,
    stage: Stage,
    buffer: String,
}

impl Harmony {
    pub(in super::super) fn new(tools: &[Tool], enforced: bool) -> Self {
        let names = tools.iter().map(|tool| tool.name.clone()).collect();
        Self { names, enforced, required: false, stage: Stage::Begin, buffer: String::new() }
    }

    /// Declares that the answer has to be a call.
    pub(in super::super) fn require(&mut self) {
        self.required = self.enforced;
    }

    pub(in super::super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
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

    /// Returns the stage of a message with this header.
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

    pub(in super::super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let rest = std::mem::take(&mut self.buffer);
        match self.stage {
            // A header without a message has no text.
            Stage::Header => {}
            Stage::Begin if self.required => {}
            Stage::Begin => Part::content(rest, parts),
            _ => self.pass(rest, parts),
        }
    }
}
