//! `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}`: DeepSeek V3.1.

use super::{CallReader, CallSyntax, TemplateMarks, ToolFormatSpec, deepseek_v3};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "deepseek-v31",
    template: TemplateMarks { priority: 90, any_of: &[&["<｜tool▁call▁begin｜>"]] },
    control_tokens: deepseek_v3::CONTROL_TOKENS,
    reader: CallReader::Blocks(deepseek_v3::BLOCKS),
    syntax: CallSyntax {
        open: "<｜tool▁calls▁begin｜>",
        before: "<｜tool▁call▁begin｜>",
        between: "<｜tool▁sep｜>",
        after: "<｜tool▁call▁end｜>",
        separator: Some(""),
        close: "<｜tool▁calls▁end｜>",
        trigger: Some("<｜tool▁calls▁begin｜>"),
        ..CallSyntax::EMPTY
    },
    examples: &["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Hà Nội\"}\
         <｜tool▁call▁end｜><｜tool▁calls▁end｜>"],
};
