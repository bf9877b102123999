//! `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, and many more; also models whose chat template
//! supports no tools are instructed to write this.

use super::super::json_calls::json_calls;
use super::{Blocks, CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

/// Control tokens of all formats between these tags, some of which know several.
pub(super) const CONTROL_TOKENS: &[&str] =
    &["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"];

pub(super) const BLOCKS: Blocks = Blocks {
    open: "<tool_call>",
    close: Some("</tool_call>"),
    bare: None,
    parse: |block, _| json_calls(block),
};

pub(super) const SYNTAX: CallSyntax = CallSyntax {
    before: "<tool_call>\n{\"name\": \"",
    between: "\", \"arguments\": ",
    after: "}\n</tool_call>",
    separator: Some("\n"),
    trigger: Some("<tool_call>"),
    ..CallSyntax::EMPTY
};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "hermes",
    template: TemplateMarks { priority: 20, any_of: &[&["<tool_call>"]] },
    control_tokens: CONTROL_TOKENS,
    reader: CallReader::Blocks(BLOCKS),
    syntax: SYNTAX,
    examples: &[
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Hà Nội\"}}\n</tool_call>",
        r#"<tool_call>{"arguments": {"city": "Hà Nội"}, "name": "get_weather"}"#,
    ],
};
