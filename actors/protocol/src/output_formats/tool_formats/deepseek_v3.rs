//! `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a code block: DeepSeek V3 and R1.

use super::super::json_calls::{Calls, object};
use super::{Blocks, CallReader, CallSyntax, TemplateMarks, ToolFormatSpec};

/// Control tokens of both of DeepSeek's formats.
pub(super) const CONTROL_TOKENS: &[&str] = &[
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
];

/// Blocks of both of DeepSeek's formats.
pub(super) const BLOCKS: Blocks = Blocks {
    open: "<｜tool▁calls▁begin｜>",
    close: Some("<｜tool▁calls▁end｜>"),
    bare: None,
    parse: |block, _| deepseek_calls(block),
};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "deepseek-v3",
    template: TemplateMarks { priority: 100, any_of: &[&["<｜tool▁call▁begin｜>", "```json"]] },
    control_tokens: CONTROL_TOKENS,
    reader: CallReader::Blocks(BLOCKS),
    syntax: CallSyntax {
        open: "<｜tool▁calls▁begin｜>",
        before: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        between: "\n```json\n",
        after: "\n```<｜tool▁call▁end｜>",
        separator: Some("\n"),
        close: "<｜tool▁calls▁end｜>",
        trigger: Some("<｜tool▁calls▁begin｜>"),
        ..CallSyntax::EMPTY
    },
    examples: &["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n\
         {\"city\": \"Hà Nội\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"],
};

fn deepseek_calls(block: &str) -> Option<Calls> {
    let call = |text: &str| {
        let text = text.trim().trim_end_matches("<｜tool▁call▁end｜>");
        let (kind, rest) = text.split_once("<｜tool▁sep｜>")?;
        // V3: the kind, then the name and a code block. V3.1: the name, then the arguments.
        match rest.split_once("```json") {
            Some((name, arguments)) => {
                Some((name.trim().to_owned(), object(arguments.trim().trim_end_matches("```"))?))
            }
            None => Some((kind.trim().to_owned(), object(rest)?)),
        }
    };
    let calls = block.split("<｜tool▁call▁begin｜>").map(str::trim).filter(|text| !text.is_empty());
    calls.map(call).collect()
}
