//! Parts that several requests have in common, on the wire.

use super::{Infill, LogitBias, LogitBiases, Part, Texts, Tokens, part};
use crate::{parts, types};

impl Part {
    /// The message for a part.
    pub fn new(id: u64, part: &parts::Part) -> Self {
        let json = "JSON values always serialise: their keys are strings";
        let part = match part {
            parts::Part::Prompt(prompt) => match &**prompt {
                types::Prompt::Chat(chat) => part::Part::Chat(serde_json::to_string(chat).expect(json)),
                types::Prompt::Text(text) => part::Part::Text(text.clone()),
                types::Prompt::Tokens(tokens) => part::Part::Tokens(Tokens { tokens: tokens.clone() }),
                types::Prompt::Infill { prefix, suffix } => {
                    part::Part::Infill(Infill { prefix: prefix.clone(), suffix: suffix.clone() })
                }
            },
            parts::Part::Tokens(tokens) => part::Part::Tokens(Tokens { tokens: tokens.to_vec() }),
            parts::Part::Stop(texts) => part::Part::Stop(Texts { texts: texts.to_vec() }),
            parts::Part::LogitBias(biases) => part::Part::LogitBias(LogitBiases {
                biases: biases.iter().map(|&(token, bias)| LogitBias { token, bias }).collect(),
            }),
            parts::Part::Constraint(constraint) => match (**constraint).clone() {
                types::Constraint::JsonSchema(schema) => part::Part::JsonSchema(schema),
                types::Constraint::Regex(regex) => part::Part::Regex(regex),
                types::Constraint::Choice(texts) => part::Part::Choice(Texts { texts }),
                types::Constraint::Lark(grammar) => part::Part::Lark(grammar),
                types::Constraint::Gbnf(grammar) => part::Part::Gbnf(grammar),
            },
            parts::Part::Tools(tools) => part::Part::Tools(serde_json::to_string(&**tools).expect(json)),
        };
        Self { id, part: Some(part) }
    }
}
