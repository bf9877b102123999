//! `◁think▷…◁/think▷`: Kimi-VL and Kimi K1.5.

use super::{ReasoningFormatSpec, TemplateMarks};

pub(super) const FORMAT: ReasoningFormatSpec = ReasoningFormatSpec {
    name: "kimi",
    template: TemplateMarks { priority: 20, any_of: &[&["◁think▷"]] },
    tags: ("◁think▷", "◁/think▷"),
    closing: "\n◁/think▷\n\n",
    control_tokens: &["◁think▷", "◁/think▷"],
    messages: false,
};
