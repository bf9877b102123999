//! `[name(key="…")]`, perhaps between `<|python_start|>` and `<|python_end|>`, or as Llama 3: Llama 4.

use super::super::Tool;
use super::super::json_calls::json_calls;
use super::super::pythonic::{begins_calls, python_calls};
use super::{Blocks, CallReader, CallSyntax, NamedArguments, TemplateMarks, ToolFormatSpec, llama3};

/// Calls as Python writes them.
pub(super) const PYTHON: NamedArguments = NamedArguments {
    open: "[",
    before: "",
    between: "(",
    argument: ["", "=", "", ""],
    comma: ", ",
    after: ")",
    separator: Some(", "),
    close: "]",
    raw: false,
};

fn bare(text: &str, tools: &[Tool]) -> Option<bool> {
    if text.starts_with('[') {
        return begins_calls(text, tools.iter().map(|tool| tool.name.as_str()));
    }
    Some(text.starts_with('{'))
}

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "llama4",
    template: TemplateMarks { priority: 70, any_of: &[&["<|python_start|>"]] },
    control_tokens: &["<|python_start|>", "<|python_end|>"],
    reader: CallReader::Blocks(Blocks {
        open: "<|python_start|>",
        close: Some("<|python_end|>"),
        bare: Some(bare),
        parse: |block, _| json_calls(block).or_else(|| python_calls(block)),
    }),
    syntax: CallSyntax { named: Some(&PYTHON), ..llama3::SYNTAX },
    examples: &[
        r#"{"name": "get_weather", "parameters": {"city": "Hà Nội"}}"#,
        r#"[get_weather(city="Hà Nội")]"#,
        r#"<|python_start|>[get_weather(city="Hà Nội")]<|python_end|>"#,
    ],
};
