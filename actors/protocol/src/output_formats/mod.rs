//! Formats of the parts of a model's answer that are not plain text: reasoning and tool calls.
//!
//! Every family of models was trained on its own. [`tool_formats`] and [`reasoning_formats`] are registries with a file per
//! format, from which the names in the configuration, detection, control tokens and tests follow. [`detect`] determines a model's
//! formats from its chat template, [`OutputParser`] parses an answer while it is generated, [`tool_grammar`] constrains calls to
//! their [`CallSyntax`] where the caller wants a guarantee. All of it is pure.
//!
//! **The reason for own parsers.** The maintained crates were compared in November 2026. `tool-parser` 1.10 parses its whole
//! buffer again for every piece, drops text between calls and blocks that it cannot parse, and returns other arguments for a
//! whole text than for a streamed one, so its result depends on how the text was cut. `dynamo-parsers` 11 brings an HTTP client,
//! an image library and a Python parser with it (through `openai-harmony`). Here the same text gives the same parts however it is
//! cut, and unparsable input is text: property tests hold both.

mod bare_call;
mod begun_calls;
mod call_syntax;
mod json_calls;
mod output_parser;
mod part;
mod pythonic;
mod reasoning;
mod reasoning_formats;
mod registry;
mod repeats;
mod tagged;
mod tool_formats;
mod value_types;

use serde_json::Value;

pub use self::bare_call::{BareCall, Rest};
pub use self::begun_calls::CallMark;
pub use self::call_syntax::{CallSyntax, GrammarMode, is_calls_of_json, tool_grammar};
pub use self::output_parser::OutputParser;
pub use self::part::Part;
pub use self::reasoning_formats::ReasoningFormat;
pub use self::repeats::RepeatedCalls;
pub use self::tool_formats::ToolFormat;

/// Formats of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Format of tool calls; `None`: the chat template supports no tools.
    pub tools: Option<ToolFormat>,
    /// Format of reasoning; `None`: the model does not reason.
    pub reasoning: Option<ReasoningFormat>,
}

impl Formats {
    /// Returns the texts of the syntax that are control tokens in the model's vocabulary, if it has them as such.
    #[must_use]
    pub fn markers(&self) -> Vec<&'static str> {
        let mut markers = self.tools.map_or(Vec::new(), |format| format.spec().control_tokens.to_vec());
        for marker in self.reasoning.map_or(&[][..], |format| format.spec().control_tokens) {
            if !markers.contains(marker) {
                markers.push(marker);
            }
        }
        markers
    }

    /// Returns those of the markers that a chat template takes from the text of messages. A format of messages with headers
    /// has none: its templates write reasoning and calls from the fields of a message alone.
    #[must_use]
    pub fn markers_in_text(&self) -> Vec<&'static str> {
        match self.reasoning {
            Some(format) if format.spec().messages => Vec::new(),
            _ => self.markers(),
        }
    }
}

/// Detects the formats of a model from the source of its chat template. `shows_tools`: whether the template puts the tools
/// that it is given into the prompt.
#[must_use]
pub fn detect(template: &str, shows_tools: bool) -> Formats {
    let tools = || ToolFormat::detect(template).unwrap_or(ToolFormat::DEFAULT);
    Formats { tools: shows_tools.then(tools), reasoning: ReasoningFormat::detect(template) }
}

/// Formats of one answer, known once its prompt is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Format of its tool calls; `None`: it can have none.
    pub tools: Option<ToolFormat>,
    /// `true` if calls are constrained to their [`CallSyntax`], so that they can be passed on while they are generated.
    pub enforced: bool,
    /// Format of its reasoning.
    pub reasoning: Option<ReasoningFormat>,
    /// `true` if the prompt ends within the reasoning.
    pub thinking_open: bool,
}

/// A tool as parsers and grammars need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

#[cfg(test)]
mod tests;
