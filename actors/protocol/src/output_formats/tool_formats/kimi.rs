//! `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, all calls in one section:
//! Kimi K2.

use super::super::json_calls::{Calls, object};
use super::{Blocks, CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "kimi",
    template: TemplateMarks { priority: 60, any_of: &[&["<|tool_call_begin|>"]] },
    control_tokens: &[
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_end|>",
        "<|tool_call_argument_begin|>",
    ],
    reader: CallReader::Blocks(Blocks {
        open: "<|tool_calls_section_begin|>",
        close: Some("<|tool_calls_section_end|>"),
        bare: None,
        parse: |block, _| kimi_calls(block),
    }),
    syntax: CallSyntax {
        open: "<|tool_calls_section_begin|>",
        before: "<|tool_call_begin|>functions.",
        between: "<|tool_call_argument_begin|>",
        after: "<|tool_call_end|>",
        separator: Some(""),
        close: "<|tool_calls_section_end|>",
        numbered: true,
        trigger: Some("<|tool_calls_section_begin|>"),
        ..CallSyntax::EMPTY
    },
    examples: &["<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0\
         <|tool_call_argument_begin|>{\"city\": \"Hà Nội\"}<|tool_call_end|><|tool_calls_section_end|>"],
};

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
