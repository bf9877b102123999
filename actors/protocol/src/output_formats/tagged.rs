//! Reads calls out of free text: a block is a call where it is one as a whole, and text otherwise.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::call_syntax::JsonEnd;
use super::output_parser::{Part, held_prefix};
use super::pythonic::{begins_calls, python_calls};
use super::{Tool, ToolFormat};

/// What sets blocks off in one format.
#[derive(Clone, Copy, Debug)]
struct Marks {
    /// What begins one.
    open: &'static str,
    /// What ends one; `None` where that is the end of the answer.
    close: Option<&'static str>,
}

impl Marks {
    const fn of(format: ToolFormat) -> Self {
        match format {
            ToolFormat::Hermes | ToolFormat::Glm | ToolFormat::QwenXml | ToolFormat::Harmony => {
                Self { open: "<tool_call>", close: Some("</tool_call>") }
            }
            ToolFormat::Llama3 => Self { open: "<|python_tag|>", close: None },
            ToolFormat::Llama4 => Self { open: "<|python_start|>", close: Some("<|python_end|>") },
            ToolFormat::Lfm2 => Self { open: "<|tool_call_start|>", close: Some("<|tool_call_end|>") },
            ToolFormat::Mistral | ToolFormat::MistralArgs => Self { open: "[TOOL_CALLS]", close: None },
            ToolFormat::DeepseekV3 | ToolFormat::DeepseekV31 => {
                Self { open: "<｜tool▁calls▁begin｜>", close: Some("<｜tool▁calls▁end｜>") }
            }
            ToolFormat::Kimi => {
                Self { open: "<|tool_calls_section_begin|>", close: Some("<|tool_calls_section_end|>") }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing but whitespace has come.
    Begin,
    Text,
    Block,
}

/// Reads one answer. Whitespace around calls is theirs.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    format: ToolFormat,
    marks: Marks,
    tools: Vec<Tool>,
    buffer: String,
    stage: Stage,
    /// How the block began, for when it is text.
    opened: &'static str,
    /// How much of the block has been looked through.
    searched: usize,
    /// A call was the last thing.
    behind_call: bool,
}

impl Blocks {
    pub(super) fn new(format: ToolFormat, tools: &[Tool]) -> Self {
        Self {
            format,
            marks: Marks::of(format),
            tools: tools.to_vec(),
            buffer: String::new(),
            stage: Stage::Begin,
            opened: "",
            searched: 0,
            behind_call: false,
        }
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        self.buffer.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as the buffer leads; whether it may lead further.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.stage {
            Stage::Begin => {
                let said = self.buffer.trim_start();
                if said.is_empty() {
                    return false;
                }
                // Llamas write their calls without any mark; then they are the whole answer.
                let llama = matches!(self.format, ToolFormat::Llama3 | ToolFormat::Llama4);
                let bare = if self.format == ToolFormat::Llama4 && said.starts_with('[') {
                    let names = self.tools.iter().map(|tool| tool.name.as_str());
                    let Some(bare) = begins_calls(said, names) else { return false };
                    bare
                } else {
                    llama && said.starts_with('{')
                };
                self.stage = if bare { Stage::Block } else { Stage::Text };
                true
            }
            Stage::Text => {
                if self.behind_call {
                    let white = self.buffer.len() - self.buffer.trim_start().len();
                    self.buffer.drain(..white);
                }
                if let Some(at) = self.buffer.find(self.marks.open) {
                    self.content(at, parts);
                    let white = self.buffer.len() - self.buffer.trim_start().len();
                    self.buffer.drain(..white + self.marks.open.len());
                    (self.stage, self.opened, self.searched) = (Stage::Block, self.marks.open, 0);
                    return true;
                }
                let held = self.buffer.len() - held_prefix(&self.buffer, &[self.marks.open]);
                self.content(held, parts);
                false
            }
            Stage::Block => {
                let Some(close) = self.marks.close else { return false };
                let from = self.searched;
                let Some(at) = self.buffer[from..].find(close).map(|at| from + at) else {
                    // The mark may be cut; a character may not.
                    let end = self.buffer.len() - held_prefix(&self.buffer, &[close]);
                    self.searched = end.max(from);
                    return false;
                };
                let block = &self.buffer[..at];
                if inside_string(block) {
                    self.searched = at + close.len();
                    return true;
                }
                match calls(self.format, block, &self.tools) {
                    Some(calls) => {
                        Part::calls(calls, parts);
                        self.behind_call = true;
                    }
                    None => {
                        Part::content([self.opened, block, close].concat(), parts);
                        self.behind_call = false;
                    }
                }
                self.buffer.drain(..at + close.len());
                self.stage = Stage::Text;
                true
            }
        }
    }

    /// Passes on the text before `end`, but for whitespace at its end: that may turn out to be a call's.
    fn content(&mut self, end: usize, parts: &mut Vec<Part>) {
        let certain = self.buffer[..end].trim_end().len();
        if certain > 0 {
            self.behind_call = false;
            Part::content(self.buffer.drain(..certain).collect(), parts);
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let rest = std::mem::take(&mut self.buffer);
        if self.stage != Stage::Block {
            if !self.behind_call || !rest.trim().is_empty() {
                Part::content(rest, parts);
            }
            return;
        }
        match calls(self.format, &rest, &self.tools) {
            Some(calls) => Part::calls(calls, parts),
            None => Part::content([self.opened, &rest].concat(), parts),
        }
    }
}

/// Whether a text ends inside a JSON string that it began within an object: then what looks like a mark is part of it.
fn inside_string(text: &str) -> bool {
    if !text.trim_start().starts_with(['{', '[']) {
        return false;
    }
    let mut scanner = JsonEnd::default();
    !text.chars().any(|c| scanner.push(c)) && scanner.in_string()
}

/// Names and arguments, these as JSON.
pub(super) type Calls = Vec<(String, String)>;

/// The calls that a block consists of; `None` where it is anything else. A call of a tool that there is not is none.
fn calls(format: ToolFormat, block: &str, tools: &[Tool]) -> Option<Calls> {
    let block = block.trim();
    let calls = match format {
        ToolFormat::Hermes | ToolFormat::Harmony => json_calls(block)?,
        ToolFormat::Llama3 => json_calls(block)?,
        ToolFormat::Llama4 | ToolFormat::Lfm2 => json_calls(block).or_else(|| python_calls(block))?,
        ToolFormat::Glm => json_calls(block).or_else(|| glm_call(block, tools))?,
        ToolFormat::QwenXml => json_calls(block).or_else(|| xml_calls(block, tools))?,
        ToolFormat::Mistral | ToolFormat::MistralArgs => {
            json_calls(block).or_else(|| named_calls(block, "[TOOL_CALLS]"))?
        }
        ToolFormat::DeepseekV3 | ToolFormat::DeepseekV31 => deepseek_calls(block)?,
        ToolFormat::Kimi => kimi_calls(block)?,
    };
    let known = |name: &str| tools.iter().any(|tool| tool.name == name);
    (!calls.is_empty() && calls.iter().all(|(name, _)| known(name))).then_some(calls)
}

/// A JSON value at the beginning of a text and what follows it; `None` where there is none.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(text.split_at(values.byte_offset()))
}

/// The members of a JSON object, their values as they are written.
fn members(object: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = object.trim().strip_prefix('{')?.trim_start();
    let mut members = Vec::new();
    if rest == "}" {
        return Some(members);
    }
    loop {
        let (key, behind) = value(rest)?;
        let key: String = serde_json::from_str(key).ok()?;
        let (member, behind) = value(behind.trim_start().strip_prefix(':')?)?;
        members.push((key, member));
        rest = behind.trim_start();
        if rest == "}" {
            return Some(members);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// One call as an object with a name and its arguments.
fn json_call(object: &str) -> Option<(String, String)> {
    let members = members(object)?;
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    // OpenAI's own form nests them.
    if let Some(function) = member("function").filter(|function| function.starts_with('{')) {
        return json_call(function);
    }
    let name: String = serde_json::from_str(member("name").or_else(|| member("function"))?).ok()?;
    let arguments = match member("arguments").or_else(|| member("parameters")) {
        None | Some("null") => "{}".to_owned(),
        Some(object) if object.starts_with('{') => object.to_owned(),
        // Some write the object as a text.
        Some(text) => {
            let text: String = serde_json::from_str(text).ok()?;
            let (object, rest) = value(&text)?;
            if !object.starts_with('{') || !rest.trim().is_empty() {
                return None;
            }
            object.to_owned()
        }
    };
    Some((name, arguments))
}

/// Objects or arrays of them, one after the other, with `;` or `,` between them.
fn json_calls(text: &str) -> Option<Calls> {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (first, behind) = value(rest)?;
        match first.as_bytes() {
            [b'{', ..] => calls.push(json_call(first)?),
            [b'[', .., b']'] => calls.extend(json_calls(first[1..first.len() - 1].trim())?),
            _ => return None,
        }
        rest = behind.trim_start().trim_start_matches([';', ',']).trim_start();
        rest = rest.strip_prefix("<|python_tag|>").unwrap_or(rest).trim_start();
    }
    Some(calls)
}

/// `name[ARGS]{…}` or `name{…}`, with `between` between them.
fn named_calls(text: &str, between: &str) -> Option<Calls> {
    let call = |text: &str| {
        let (name, arguments) = text.split_at(text.find('{')?);
        let name = name.trim().trim_end_matches("[ARGS]");
        let name = name.split("[CALL_ID]").next().unwrap_or(name).trim();
        Some((name.to_owned(), object(arguments)?))
    };
    text.split(between).map(str::trim).filter(|text| !text.is_empty()).map(call).collect()
}

/// A text that is a JSON object.
fn object(text: &str) -> Option<String> {
    let (object, rest) = value(text)?;
    (object.starts_with('{') && rest.trim().is_empty()).then(|| object.to_owned())
}

fn deepseek_calls(block: &str) -> Option<Calls> {
    let call = |text: &str| {
        let text = text.trim().trim_end_matches("<｜tool▁call▁end｜>");
        let (kind, rest) = text.split_once("<｜tool▁sep｜>")?;
        // V3: the kind, then the name and a code block. V3.1: the name, then the arguments.
        match rest.split_once("```json") {
            Some((name, arguments)) => {
                Some((name.trim().to_owned(), object(arguments.trim().trim_end_matches("```"))?))
            }
            None => Some((kind.trim().to_owned(), object(rest)?)),
        }
    };
    let calls = block.split("<｜tool▁call▁begin｜>").map(str::trim).filter(|text| !text.is_empty());
    calls.map(call).collect()
}

fn kimi_calls(block: &str) -> Option<Calls> {
    let call = |text: &str| {
        let text = text.trim().trim_end_matches("<|tool_call_end|>");
        let (id, arguments) = text.split_once("<|tool_call_argument_begin|>")?;
        let id = id.trim();
        let name = id.strip_prefix("functions.").unwrap_or(id);
        let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
        Some((name.to_owned(), object(arguments)?))
    };
    let calls = block.split("<|tool_call_begin|>").map(str::trim).filter(|text| !text.is_empty());
    calls.map(call).collect()
}

/// An argument that is written without JSON's quotes: a text where the schema says so or it is nothing else.
fn loose(value: &str, tool: Option<&Tool>, key: &str) -> Value {
    let declared = tool.map(|tool| &tool.parameters["properties"][key]["type"]);
    if declared.and_then(Value::as_str) == Some("string") {
        return Value::from(value);
    }
    serde_json::from_str(value.trim()).unwrap_or_else(|_| Value::from(value))
}

fn glm_call(block: &str, tools: &[Tool]) -> Option<Calls> {
    let (name, mut rest) = block.split_at(block.find("<arg_key>").unwrap_or(block.len()));
    let name = name.trim();
    let tool = tools.iter().find(|tool| tool.name == name);
    let mut arguments = serde_json::Map::new();
    while !rest.trim().is_empty() {
        let (key, behind) = rest.trim_start().strip_prefix("<arg_key>")?.split_once("</arg_key>")?;
        let (value, behind) = behind.trim_start().strip_prefix("<arg_value>")?.split_once("</arg_value>")?;
        arguments.insert(key.trim().to_owned(), loose(value, tool, key.trim()));
        rest = behind;
    }
    Some(vec![(name.to_owned(), Value::Object(arguments).to_string())])
}

fn xml_calls(block: &str, tools: &[Tool]) -> Option<Calls> {
    let mut calls = Vec::new();
    let mut rest = block;
    while !rest.trim().is_empty() {
        let (name, behind) = rest.trim_start().strip_prefix("<function=")?.split_once('>')?;
        let (body, behind) = behind.split_once("</function>")?;
        let tool = tools.iter().find(|tool| tool.name == name);
        let mut arguments = serde_json::Map::new();
        let mut body = body.trim();
        while !body.is_empty() {
            let (key, behind) = body.strip_prefix("<parameter=")?.split_once('>')?;
            let (value, behind) = behind.split_once("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.to_owned(), loose(value, tool, key));
            body = behind.trim_start();
        }
        calls.push((name.to_owned(), Value::Object(arguments).to_string()));
        rest = behind;
    }
    Some(calls)
}
