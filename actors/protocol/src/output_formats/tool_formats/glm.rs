//! `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`: GLM 4.5 and later.

use serde_json::{Map, Value};

use super::super::Tool;
use super::super::json_calls::{Calls, json_calls, unquoted};
use super::{Blocks, CallReader, CallSyntax, NamedArguments, TemplateMarks, ToolFormatSpec, hermes};

pub(super) const FORMAT: ToolFormatSpec = ToolFormatSpec {
    name: "glm",
    template: TemplateMarks { priority: 55, any_of: &[&["<arg_key>"]] },
    control_tokens: hermes::CONTROL_TOKENS,
    reader: CallReader::Blocks(Blocks {
        parse: |block, tools| json_calls(block).or_else(|| glm_call(block, tools)),
        ..hermes::BLOCKS
    }),
    syntax: CallSyntax {
        named: Some(&NamedArguments {
            open: "<tool_call>",
            before: "",
            between: "\n",
            argument: ["<arg_key>", "</arg_key>\n<arg_value>", "", "</arg_value>\n"],
            after: "",
            comma: "",
            separator: None,
            close: "</tool_call>",
            raw: true,
        }),
        ..hermes::SYNTAX
    },
    examples: &[
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Hà Nội\"}}\n</tool_call>",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Hà Nội</arg_value>\n</tool_call>",
    ],
};

fn glm_call(block: &str, tools: &[Tool]) -> Option<Calls> {
    let (name, mut rest) = block.split_at(block.find("<arg_key>").unwrap_or(block.len()));
    let name = name.trim();
    let tool = tools.iter().find(|tool| tool.name == name);
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, behind) = rest.trim_start().strip_prefix("<arg_key>")?.split_once("</arg_key>")?;
        let (value, behind) = behind.trim_start().strip_prefix("<arg_value>")?.split_once("</arg_value>")?;
        arguments.insert(key.trim().to_owned(), unquoted(value, tool, key.trim()));
        rest = behind;
    }
    Some(vec![(name.to_owned(), Value::Object(arguments).to_string())])
}
