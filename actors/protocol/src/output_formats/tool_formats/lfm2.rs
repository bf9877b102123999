//! `<|tool_call_start|>[name(key="…")]<|tool_call_end|>`, or JSON between these tags: LFM2.

use super::super::json_calls::json_calls;
use super::super::pythonic::python_calls;
use super::{Blocks, CallReader, CallSyntax, NamedArguments, TemplateMarks, ToolFormatSpec, llama4};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "lfm2",
    template: TemplateMarks { priority: 80, any_of: &[&["<|tool_call_start|>"]] },
    control_tokens: &["<|tool_call_start|>", "<|tool_call_end|>"],
    reader: CallReader::Blocks(Blocks {
        open: "<|tool_call_start|>",
        close: Some("<|tool_call_end|>"),
        bare: None,
        parse: |block, _| json_calls(block).or_else(|| python_calls(block)),
    }),
    syntax: CallSyntax {
        open: "<|tool_call_start|>[",
        before: "{\"name\": \"",
        between: "\", \"arguments\": ",
        after: "}",
        separator: Some(", "),
        close: "]<|tool_call_end|>",
        trigger: Some("<|tool_call_start|>"),
        named: Some(&NamedArguments {
            open: "<|tool_call_start|>[",
            close: "]<|tool_call_end|>",
            ..llama4::PYTHON
        }),
        ..CallSyntax::EMPTY
    },
    examples: &[
        r#"<|tool_call_start|>[{"name": "get_weather", "arguments": {"city": "Hà Nội"}}]<|tool_call_end|>"#,
        r#"<|tool_call_start|>[get_weather(city="Hà Nội")]<|tool_call_end|>"#,
    ],
};
