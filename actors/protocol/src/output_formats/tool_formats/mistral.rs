//! `[TOOL_CALLS][{"name": …, "arguments": …}]`: Mistral.

use super::super::json_calls::{Calls, json_calls, object};
use super::{Blocks, CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

/// Control tokens of both of Mistral's formats.
pub(super) const CONTROL_TOKENS: &[&str] = &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"];

/// Blocks of both of Mistral's formats.
pub(super) const BLOCKS: Blocks = Blocks {
    open: "[TOOL_CALLS]",
    close: None,
    bare: None,
    parse: |block, _| json_calls(block).or_else(|| named_calls(block)),
};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "mistral",
    template: TemplateMarks { priority: 30, any_of: &[&["[TOOL_CALLS]"]] },
    control_tokens: CONTROL_TOKENS,
    reader: CallReader::Blocks(BLOCKS),
    syntax: CallSyntax {
        open: "[TOOL_CALLS][",
        before: "{\"name\": \"",
        between: "\", \"arguments\": ",
        after: "}",
        separator: Some(", "),
        close: "]",
        trigger: Some("[TOOL_CALLS]"),
        ..CallSyntax::EMPTY
    },
    examples: &[
        r#"[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Hà Nội"}}]"#,
        r#"[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Hà Nội"}}]"#,
        r#"[TOOL_CALLS]get_weather{"city": "Hà Nội"}"#,
    ],
};

/// `name[ARGS]{…}` or `name{…}`, with `[TOOL_CALLS]` between several.
fn named_calls(text: &str) -> Option<Calls> {
    let call = |text: &str| {
        let (name, arguments) = text.split_at(text.find('{')?);
        let name = name.trim().trim_end_matches("[ARGS]");
        let name = name.split("[CALL_ID]").next().unwrap_or(name).trim();
        Some((name.to_owned(), object(arguments)?))
    };
    text.split("[TOOL_CALLS]").map(str::trim).filter(|text| !text.is_empty()).map(call).collect()
}
