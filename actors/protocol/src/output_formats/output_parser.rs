//! Takes an answer apart while it is made.

use super::call_syntax::ConstrainedCalls;
use super::part::Part;
use super::reasoning::Thinking;
use super::tagged::BlockParser;
use super::tool_formats::{CallReader, Harmony};
use super::{Layout, ReasoningFormat, Tool, ToolFormat};

#[derive(Clone, Debug)]
enum Calls {
    None,
    Free(BlockParser),
    Constrained(ConstrainedCalls),
}

#[derive(Clone, Debug)]
enum Inner {
    Tagged { thinking: Option<Thinking>, calls: Calls },
    Harmony(Harmony),
}

/// Takes one answer apart. Its output, put together, does not depend on how the text was cut.
#[derive(Clone, Debug)]
pub struct OutputParser {
    inner: Inner,
}

impl OutputParser {
    /// For an answer of this layout, in which these tools can be called.
    #[must_use]
    pub fn new(layout: &Layout, tools: &[Tool]) -> Self {
        let spec = layout.tools.filter(|_| !tools.is_empty()).map(ToolFormat::spec);
        let reasons_in_messages = layout.reasoning.is_some_and(|format| format.spec().messages);
        let calls = match spec.map(|spec| (spec, spec.reader)) {
            _ if reasons_in_messages => return Self::of_messages(layout, tools),
            Some((_, CallReader::Messages)) => return Self::of_messages(layout, tools),
            Some((spec, CallReader::Blocks(_))) if layout.enforced => {
                Calls::Constrained(ConstrainedCalls::new(spec.syntax, tools))
            }
            Some((_, CallReader::Blocks(blocks))) => Calls::Free(BlockParser::new(blocks, tools)),
            None => Calls::None,
        };
        let thinking = layout.reasoning.and_then(ReasoningFormat::tags);
        let thinking = thinking.map(|tags| Thinking::new(tags, layout.thinking_open));
        Self { inner: Inner::Tagged { thinking, calls } }
    }

    fn of_messages(layout: &Layout, tools: &[Tool]) -> Self {
        Self { inner: Inner::Harmony(Harmony::new(tools, layout.enforced)) }
    }

    /// Declares that the answer has to be a call: then no part of a constrained call that broke off is text.
    #[must_use]
    pub fn requiring_call(mut self) -> Self {
        match &mut self.inner {
            Inner::Harmony(harmony) => harmony.require(),
            Inner::Tagged { calls: Calls::Constrained(calls), .. } => calls.require(),
            Inner::Tagged { .. } => {}
        }
        self
    }

    /// Returns `true` if every text passes as it is.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        matches!(self.inner, Inner::Tagged { thinking: None, calls: Calls::None })
    }

    /// Returns the output that is certain with this text.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        match &mut self.inner {
            Inner::Harmony(harmony) => harmony.push(text, &mut parts),
            Inner::Tagged { thinking, calls } => {
                let rest = match thinking {
                    Some(thinking) => thinking.push(text, &mut parts),
                    None => text.to_owned(),
                };
                calls.push(rest, &mut parts);
            }
        }
        parts
    }

    /// Returns the rest at the end of the answer.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        match &mut self.inner {
            Inner::Harmony(harmony) => harmony.finish(&mut parts),
            Inner::Tagged { thinking, calls } => {
                if let Some(thinking) = thinking {
                    let rest = thinking.finish(&mut parts);
                    calls.push(rest, &mut parts);
                }
                match calls {
                    Calls::None => {}
                    Calls::Free(blocks) => blocks.finish(&mut parts),
                    Calls::Constrained(calls) => calls.finish(&mut parts),
                }
            }
        }
        parts
    }
}

impl Calls {
    fn push(&mut self, text: String, parts: &mut Vec<Part>) {
        match self {
            Self::None => Part::content(text, parts),
            Self::Free(blocks) => blocks.push(&text, parts),
            Self::Constrained(calls) => calls.push(&text, parts),
        }
    }
}
