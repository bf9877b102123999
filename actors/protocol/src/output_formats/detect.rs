//! Which formats a model has, as its chat template tells.

use super::{Formats, ReasoningFormat, ToolFormat};

/// Looks for the marks of each family in a template's source. `shows_tools`: whether the template puts the tools that it
/// is given into the prompt.
#[must_use]
pub fn detect(template: &str, shows_tools: bool) -> Formats {
    let has = |mark: &str| template.contains(mark);
    let harmony = has("<|channel|>") && has("<|message|>");
    let tools = if harmony {
        ToolFormat::Harmony
    } else if has("<｜tool▁call▁begin｜>") {
        // V3 writes the kind of the tool before its name, and the arguments as a code block.
        if has("```json") { ToolFormat::DeepseekV3 } else { ToolFormat::DeepseekV31 }
    } else if has("<|tool_call_start|>") {
        ToolFormat::Lfm2
    } else if has("<|python_start|>") {
        ToolFormat::Llama4
    } else if has("<|tool_call_begin|>") {
        ToolFormat::Kimi
    } else if has("<arg_key>") {
        ToolFormat::Glm
    } else if has("<function=") {
        ToolFormat::QwenXml
    } else if has("[TOOL_CALLS]") {
        if has("[ARGS]") { ToolFormat::MistralArgs } else { ToolFormat::Mistral }
    } else if has("<tool_call>") {
        ToolFormat::Hermes
    } else if has("<|python_tag|>") || (has("<|start_header_id|>") && has("\"parameters\"")) {
        ToolFormat::Llama3
    } else {
        // Unknown to us: models that can call at all mostly learnt Hermes' form, too.
        ToolFormat::Hermes
    };
    let reasoning = if harmony {
        Some(ReasoningFormat::Harmony)
    } else if has("<seed:think>") {
        Some(ReasoningFormat::Seed)
    } else if has("[THINK]") {
        Some(ReasoningFormat::Bracket)
    } else if has("◁think▷") {
        Some(ReasoningFormat::Kimi)
    } else if has("<think>") || has("</think>") {
        Some(ReasoningFormat::Think)
    } else {
        None
    };
    Formats { tools: shows_tools.then_some(tools), reasoning }
}
