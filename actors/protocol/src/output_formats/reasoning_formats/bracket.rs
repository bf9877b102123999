//! `[THINK]…[/THINK]`: Magistral.

use super::{ReasoningFormatSpec, TemplateMarks};

pub(super) const FORMAT: ReasoningFormatSpec = ReasoningFormatSpec {
    name: "bracket",
    template: TemplateMarks { priority: 30, any_of: &[&["[THINK]"]] },
    tags: ("[THINK]", "[/THINK]"),
    closing: "\n[/THINK]\n\n",
    control_tokens: &["[THINK]", "[/THINK]"],
    messages: false,
};
