//! The events of a response, derived from the output of the model without a clock, a socket or a model.
//!
//! A response always has the same events with the same numbers, whether they are sent during generation or rebuilt from
//! the stored response, so that a stream can be resumed at any number.
//!
//! Source: `ResponseStreamEvent` in OpenAI's API description.

use serde::Serialize;
use utoipa::ToSchema;

use super::object::ResponseObject;
use super::output_item::{OutputItem, OutputPart};
use crate::api::inference::logprobs::ChatTokenLogprob;
use crate::api::inference::web_search::citations::UrlCitation;

/// An event with its number.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ResponseStreamEvent {
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// Consecutive, from 0.
    pub sequence_number: u64,
}

/// An event of a streamed response.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum Event {
    /// The response was created.
    #[serde(rename = "response.created")]
    Created {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// The response is queued; in the background only.
    #[serde(rename = "response.queued")]
    Queued {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// The response is being generated.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// An item was added: a message, reasoning or a tool call.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// The item's index in the output.
        output_index: u32,
        /// Still empty.
        item: OutputItem,
    },
    /// A content part was added to the item.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// Still empty.
        part: OutputPart,
    },
    /// More text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// The increment.
        delta: String,
        /// Log-probabilities of its tokens, if `include` requests them.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// The text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// The text.
        text: String,
        /// Log-probabilities of its tokens, if `include` requests them.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// The text cites a page.
    #[serde(rename = "response.output_text.annotation.added")]
    AnnotationAdded {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// Its index in the text.
        annotation_index: u32,
        /// The citation.
        annotation: UrlCitation,
    },
    /// A web search is about to start.
    #[serde(rename = "response.web_search_call.in_progress")]
    SearchInProgress {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
    },
    /// A web search is running.
    #[serde(rename = "response.web_search_call.searching")]
    Searching {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
    },
    /// The web search succeeded.
    #[serde(rename = "response.web_search_call.completed")]
    SearchCompleted {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
    },
    /// More reasoning.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// The increment.
        delta: String,
    },
    /// The reasoning is complete.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// The text.
        text: String,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// The increment.
        delta: String,
    },
    /// A call's arguments are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// The item's id.
        item_id: String,
        /// The function.
        name: String,
        /// The item's index in the output.
        output_index: u32,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// The same, as a content part.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// The item's id.
        item_id: String,
        /// The item's index in the output.
        output_index: u32,
        /// Always 0.
        content_index: u32,
        /// The text.
        part: OutputPart,
    },
    /// The item is complete, or was ended early.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// The item's index in the output.
        output_index: u32,
        /// The item.
        item: OutputItem,
    },
    /// The response is complete.
    #[serde(rename = "response.completed")]
    Completed {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// The response reached its maximum length or was cancelled, as its `status` says.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// The response failed.
    #[serde(rename = "response.failed")]
    Failed {
        /// The response object.
        response: Box<ResponseObject>,
    },
    /// An error.
    #[serde(rename = "error")]
    Error {
        /// A stable code for programs.
        code: Option<String>,
        /// A description of the error.
        message: String,
        /// The invalid field, if any.
        param: Option<String>,
    },
}

impl Event {
    /// Returns its `type`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::Queued { .. } => "response.queued",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::AnnotationAdded { .. } => "response.output_text.annotation.added",
            Self::SearchInProgress { .. } => "response.web_search_call.in_progress",
            Self::Searching { .. } => "response.web_search_call.searching",
            Self::SearchCompleted { .. } => "response.web_search_call.completed",
            Self::ReasoningDelta { .. } => "response.reasoning_text.delta",
            Self::ReasoningDone { .. } => "response.reasoning_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::Error { .. } => "error",
        }
    }
}
