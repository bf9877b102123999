//! `<think>…</think>`: Qwen3, DeepSeek R1, GLM 4.5 and most others.

use super::{ReasoningFormatSpec, TemplateMarks};

pub(super) const FORMAT: ReasoningFormatSpec = ReasoningFormatSpec {
    name: "think",
    template: TemplateMarks { priority: 10, any_of: &[&["<think>"], &["</think>"]] },
    tags: ("<think>", "</think>"),
    closing: "\n</think>\n\n",
    control_tokens: &["<think>", "</think>"],
    messages: false,
};
