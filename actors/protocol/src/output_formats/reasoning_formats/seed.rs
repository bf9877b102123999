//! `<seed:think>…</seed:think>`: Seed-OSS.

use super::{ReasoningFormatSpec, TemplateMarks};

pub(super) const FORMAT: ReasoningFormatSpec = ReasoningFormatSpec {
    name: "seed",
    template: TemplateMarks { priority: 40, any_of: &[&["<seed:think>"]] },
    tags: ("<seed:think>", "</seed:think>"),
    closing: "\n</seed:think>\n\n",
    control_tokens: &["<seed:think>", "</seed:think>"],
    messages: false,
};
