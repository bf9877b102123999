//! `[TOOL_CALLS]name[ARGS]{…}`: Mistral since late 2025.

use super::{CallReader, CallSyntax, TemplateMarks, ToolFormatSpec, mistral};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "mistral-args",
    template: TemplateMarks { priority: 40, any_of: &[&["[TOOL_CALLS]", "[ARGS]"]] },
    control_tokens: mistral::CONTROL_TOKENS,
    reader: CallReader::Blocks(mistral::BLOCKS),
    syntax: CallSyntax {
        before: "[TOOL_CALLS]",
        between: "[ARGS]",
        separator: Some(""),
        trigger: Some("[TOOL_CALLS]"),
        ..CallSyntax::EMPTY
    },
    examples: &[
        r#"[TOOL_CALLS]get_weather[ARGS]{"city": "Hà Nội"}"#,
        r#"[TOOL_CALLS]get_weather[CALL_ID]abc[ARGS]{"city": "Hà Nội"}"#,
    ],
};
