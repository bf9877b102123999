//! The conversion of a request to tokens: chat templates, tools in prompts, tokens, constraints.

pub mod chat_template;
pub mod fallback_tools;
pub mod prepare;
pub mod render;
pub mod roles;
pub mod sharing;
pub mod shield;
