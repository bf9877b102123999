//! `<tool_call><function=name><parameter=key>…</parameter></function></tool_call>`: Qwen3-Coder.

use serde_json::{Map, Value};

use super::super::Tool;
use super::super::json_calls::{Calls, json_calls, unquoted};
use super::{Blocks, CallReader, CallSyntax, NamedArguments, TemplateMarks, ToolFormatSpec, hermes};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "qwen-xml",
    template: TemplateMarks { priority: 50, any_of: &[&["<function="]] },
    control_tokens: hermes::CONTROL_TOKENS,
    reader: CallReader::Blocks(Blocks {
        parse: |block, tools| json_calls(block).or_else(|| xml_calls(block, tools)),
        ..hermes::BLOCKS
    }),
    syntax: CallSyntax {
        named: Some(&NamedArguments {
            open: "<tool_call>",
            before: "\n<function=",
            between: ">\n",
            argument: ["<parameter=", ">", "\n", "\n</parameter>\n"],
            after: "</function>\n",
            comma: "",
            separator: None,
            close: "</tool_call>",
            raw: true,
        }),
        ..hermes::SYNTAX
    },
    examples: &[
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Hà Nội\"}}\n</tool_call>",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nHà Nội\n</parameter>\n</function>\n</tool_call>",
    ],
};

fn xml_calls(block: &str, tools: &[Tool]) -> Option<Calls> {
    let mut calls = Vec::new();
    let mut rest = block;
    while !rest.trim().is_empty() {
        let (name, behind) = rest.trim_start().strip_prefix("<function=")?.split_once('>')?;
        let (body, behind) = behind.split_once("</function>")?;
        let tool = tools.iter().find(|tool| tool.name == name);
        let mut arguments = Map::new();
        let mut body = body.trim();
        while !body.is_empty() {
            let (key, behind) = body.strip_prefix("<parameter=")?.split_once('>')?;
            let (value, behind) = behind.split_once("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.to_owned(), unquoted(value, tool, key));
            body = behind.trim_start();
        }
        calls.push((name.to_owned(), Value::Object(arguments).to_string()));
        rest = behind;
    }
    Some(calls)
}
