//! Splits the thinking off.

use super::part::{Part, held_prefix};

/// Splits an answer into the text between the tags at its beginning and the rest.
#[derive(Clone, Debug)]
pub(super) struct Thinking {
    start: &'static str,
    end: &'static str,
    buffer: String,
    stage: Stage,
    /// Nothing but whitespace has come since the stage began: it belongs to the tags.
    fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No text so far shows whether it thinks.
    Undecided,
    /// Between the tags.
    Inside,
    /// Behind them.
    Behind,
}

impl Thinking {
    /// `open`: the prompt ends with the first tag.
    pub(super) fn new((start, end): (&'static str, &'static str), open: bool) -> Self {
        let stage = if open { Stage::Inside } else { Stage::Undecided };
        Self { start, end, buffer: String::new(), stage, fresh: true }
    }

    /// Takes more text; puts the thinking into `parts` and returns the rest.
    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) -> String {
        if self.stage == Stage::Behind && !self.fresh {
            return text.to_owned();
        }
        self.buffer.push_str(text);
        self.advance(parts)
    }

    fn advance(&mut self, parts: &mut Vec<Part>) -> String {
        if self.stage == Stage::Undecided {
            let said = self.buffer.trim_start();
            if let Some(rest) = said.strip_prefix(self.start) {
                self.buffer = rest.to_owned();
                self.stage = Stage::Inside;
            } else if self.start.starts_with(said) {
                return String::new();
            } else {
                // It does not think: its text is as it stands.
                self.stage = Stage::Behind;
                self.fresh = false;
                return std::mem::take(&mut self.buffer);
            }
        }
        if self.stage == Stage::Inside {
            if self.fresh {
                self.trim_start();
                // A model that repeats the tag that its prompt ended with.
                if let Some(rest) = self.buffer.strip_prefix(self.start) {
                    self.buffer = rest.trim_start().to_owned();
                } else if self.start.starts_with(&self.buffer) {
                    return String::new();
                }
            }
            if let Some(at) = self.buffer.find(self.end) {
                let thought = self.buffer[..at].trim_end().to_owned();
                Part::reasoning(thought, parts);
                self.buffer.drain(..at + self.end.len());
                self.stage = Stage::Behind;
                self.fresh = true;
            } else {
                let held = self.buffer.len() - held_prefix(&self.buffer, &[self.end]);
                let certain = self.buffer[..held].trim_end().len();
                let thought: String = self.buffer.drain(..certain).collect();
                self.fresh &= thought.is_empty();
                Part::reasoning(thought, parts);
                return String::new();
            }
        }
        self.trim_start();
        self.fresh &= self.buffer.is_empty();
        std::mem::take(&mut self.buffer)
    }

    fn trim_start(&mut self) {
        let white = self.buffer.len() - self.buffer.trim_start().len();
        self.buffer.drain(..white);
    }

    /// Ends the answer.
    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) -> String {
        let rest = std::mem::take(&mut self.buffer);
        if self.stage == Stage::Inside {
            // A tag that broke off is no thought, but it is no answer either.
            Part::reasoning(rest.trim_end().to_owned(), parts);
            return String::new();
        }
        rest
    }
}
