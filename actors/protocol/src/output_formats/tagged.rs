//! Reads calls out of free text: a block is a call where it is one as a whole, and text otherwise.

use super::Tool;
use super::call_syntax::JsonEnd;
use super::json_calls::Calls;
use super::part::{Part, held_prefix};
use super::tool_formats::Blocks;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing but whitespace has come.
    Begin,
    Text,
    Block,
}

/// Reads one answer. Whitespace around calls is theirs.
#[derive(Clone, Debug)]
pub(super) struct BlockParser {
    format: Blocks,
    tools: Vec<Tool>,
    buffer: String,
    stage: Stage,
    /// The beginning of the block, for when it is text.
    opened: &'static str,
    /// The length of the part of the block that has been looked through.
    searched: usize,
    /// A call was the last thing.
    behind_call: bool,
}

impl BlockParser {
    pub(super) fn new(format: Blocks, tools: &[Tool]) -> Self {
        Self {
            format,
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
                // Some formats write their calls without any mark; then they are the whole answer.
                let bare = match self.format.bare {
                    None => false,
                    Some(bare) => {
                        let Some(bare) = bare(said, &self.tools) else { return false };
                        bare
                    }
                };
                self.stage = if bare { Stage::Block } else { Stage::Text };
                true
            }
            Stage::Text => {
                if self.behind_call {
                    let white = self.buffer.len() - self.buffer.trim_start().len();
                    self.buffer.drain(..white);
                }
                if let Some(at) = self.buffer.find(self.format.open) {
                    self.content(at, parts);
                    let white = self.buffer.len() - self.buffer.trim_start().len();
                    self.buffer.drain(..white + self.format.open.len());
                    (self.stage, self.opened, self.searched) = (Stage::Block, self.format.open, 0);
                    return true;
                }
                let held = self.buffer.len() - held_prefix(&self.buffer, &[self.format.open]);
                self.content(held, parts);
                false
            }
            Stage::Block => {
                let Some(close) = self.format.close else { return false };
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
                match calls(&self.format, block, &self.tools) {
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
        match calls(&self.format, &rest, &self.tools) {
            Some(calls) => Part::calls(calls, parts),
            None => Part::content([self.opened, &rest].concat(), parts),
        }
    }
}

/// Returns `true` if a text ends inside a JSON string that it began within an object: then a seeming mark is part of it.
fn inside_string(text: &str) -> bool {
    if !text.trim_start().starts_with(['{', '[']) {
        return false;
    }
    let mut scanner = JsonEnd::default();
    !text.chars().any(|c| scanner.push(c)) && scanner.in_string()
}

/// Returns the calls that a block consists of; `None` where it is anything else. A call of an unknown tool is none.
fn calls(format: &Blocks, block: &str, tools: &[Tool]) -> Option<Calls> {
    let calls = (format.parse)(block.trim(), tools)?;
    let known = |name: &str| tools.iter().any(|tool| tool.name == name);
    (!calls.is_empty() && calls.iter().all(|(name, _)| known(name))).then_some(calls)
}
