//! The channel `analysis`, `<|channel|>analysis<|message|>…<|end|>`: gpt-oss.

use super::super::tool_formats::{ANALYSIS, CLOSING, CONTROL_TOKENS, TEMPLATE};
use super::ReasoningFormatSpec;

pub(super) const FORMAT: ReasoningFormatSpec = ReasoningFormatSpec {
    name: "harmony",
    template: TEMPLATE,
    tags: ANALYSIS,
    closing: CLOSING,
    control_tokens: CONTROL_TOKENS,
    messages: true,
};
