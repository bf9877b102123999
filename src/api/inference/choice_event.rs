//! The events of an answer, as the endpoints encode them.

use jan_actors::model::{FinishReason, PromptLogprobs, TokenLogprob, TokenUsage};

use super::web_search::citations::UrlCitation;

/// An event of an answer, after all answers have started.
#[derive(Debug, PartialEq)]
pub enum ChoiceEvent {
    /// More text, with its tokens' log-probabilities if requested; either can be empty.
    Text(String, Vec<TokenLogprob>),
    /// The log-probabilities of the prompt's tokens, before any other event.
    Prompt(PromptLogprobs),
    /// More reasoning.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Its number in the answer.
        number: u32,
        /// Its id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call's number.
        number: u32,
        /// The increment.
        text: String,
    },
    /// The citations in its text; only if there are sources.
    Citations(Vec<UrlCitation>),
    /// The end of this answer.
    Finished(FinishReason, TokenUsage),
}
