//! `{"name": …, "parameters": …}` and nothing else, perhaps behind `<|python_tag|>`: Llama 3.

use super::super::json_calls::json_calls;
use super::{Blocks, CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

pub(super) const SYNTAX: CallSyntax = CallSyntax {
    before: "{\"name\": \"",
    between: "\", \"parameters\": ",
    after: "}",
    separator: Some("; "),
    trigger: None,
    ..CallSyntax::EMPTY
};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "llama3",
    template: TemplateMarks {
        priority: 10,
        any_of: &[&["<|python_tag|>"], &["<|start_header_id|>", "\"parameters\""]],
    },
    control_tokens: &["<|python_tag|>"],
    reader: CallReader::Blocks(Blocks {
        open: "<|python_tag|>",
        close: None,
        bare: Some(|text, _| Some(text.starts_with('{'))),
        parse: |block, _| json_calls(block),
    }),
    syntax: SYNTAX,
    examples: &[
        r#"{"name": "get_weather", "parameters": {"city": "Hà Nội"}}"#,
        r#"<|python_tag|>{"name": "get_weather", "parameters": {"city": "Hà Nội"}}"#,
    ],
};
