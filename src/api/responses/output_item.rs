//! The items of a response's output.
//!
//! Source: `OutputItem`, `OutputMessage`, `FunctionToolCall` and `ReasoningItem` in OpenAI's API description.

use jan_actors::responses::DeltaKind;
use jan_actors::web_search::WebSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::items::ItemStatus;
use crate::api::inference::logprobs::ChatTokenLogprob;
use crate::api::inference::web_search::citations::UrlCitation;

/// An output item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OutputItem {
    /// A function call.
    Call(OutputCall),
    /// A message.
    Message(OutputMessage),
    /// Reasoning.
    Reasoning(OutputReasoning),
    /// A web search.
    Search(OutputSearch),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputMessage {
    /// Its id.
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub status: ItemStatus,
    /// Always `assistant`.
    pub role: String,
    /// One text.
    pub content: Vec<OutputText>,
}

/// A text of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputText {
    /// Always `output_text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// The pages that the text cites, after a web search.
    pub annotations: Vec<UrlCitation>,
    /// Log-probabilities of its tokens, if `include` requests them.
    pub logprobs: Vec<ChatTokenLogprob>,
}

/// A function call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputCall {
    /// The item's id.
    pub id: String,
    /// Always `function_call`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub status: ItemStatus,
    /// The id that its result refers to.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// The reasoning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputReasoning {
    /// Its id.
    pub id: String,
    /// Always `reasoning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub status: ItemStatus,
    /// Always empty: the reasoning is in `content`.
    #[schema(value_type = Vec<Object>)]
    pub summary: Vec<Value>,
    /// One text.
    pub content: Vec<ReasoningText>,
}

/// A text of the reasoning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReasoningText {
    /// Always `reasoning_text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
}

/// A web search by the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputSearch {
    /// The item's id.
    pub id: String,
    /// Always `web_search_call`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub status: ItemStatus,
    /// The action.
    pub action: SearchAction,
}

/// A search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchAction {
    /// Always `search`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The query.
    pub query: String,
    /// The queries, as a list.
    pub queries: Vec<String>,
    /// The results, if `include` requests them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SearchSource>>,
}

/// A search result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchSource {
    /// Always `url`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its address.
    pub url: String,
}

/// A content part of an item.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OutputPart {
    /// A content part of a message.
    Text(OutputText),
    /// A content part of reasoning.
    Reasoning(ReasoningText),
}

impl OutputText {
    /// Creates a text with its tokens' log-probabilities.
    pub fn new(text: String, logprobs: Vec<ChatTokenLogprob>) -> Self {
        Self { kind: "output_text".to_owned(), text, annotations: Vec::new(), logprobs }
    }
}

impl ReasoningText {
    pub(super) fn new(text: String) -> Self {
        Self { kind: "reasoning_text".to_owned(), text }
    }
}

impl OutputSearch {
    /// Creates a search that has yet to begin.
    pub fn new(id: String, query: &str) -> Self {
        let action = SearchAction {
            kind: "search".to_owned(),
            query: query.to_owned(),
            queries: vec![query.to_owned()],
            sources: None,
        };
        Self { id, kind: "web_search_call".to_owned(), status: ItemStatus::InProgress, action }
    }

    /// Ends the search; `None` if it failed.
    pub fn end(&mut self, found: Option<&[WebSource]>, with_sources: bool) {
        self.status = if found.is_some() { ItemStatus::Completed } else { ItemStatus::Failed };
        let source = |source: &WebSource| SearchSource { kind: "url".to_owned(), url: source.url.clone() };
        self.action.sources = found.filter(|_| with_sources).map(|found| found.iter().map(source).collect());
    }
}

impl OutputItem {
    pub(super) fn id(&self) -> String {
        match self {
            Self::Call(call) => call.id.clone(),
            Self::Message(message) => message.id.clone(),
            Self::Reasoning(reasoning) => reasoning.id.clone(),
            Self::Search(search) => search.id.clone(),
        }
    }

    /// Returns whether a delta of this kind continues the item.
    pub(super) const fn continues(&self, kind: &DeltaKind) -> bool {
        matches!(
            (self, kind),
            (Self::Message(_), DeltaKind::Text)
                | (Self::Reasoning(_), DeltaKind::Reasoning)
                | (Self::Call(_), DeltaKind::Arguments)
                | (Self::Search(_), DeltaKind::Searched { .. })
        )
    }

    pub(super) fn with_status(&mut self, new: ItemStatus) {
        match self {
            Self::Call(OutputCall { status, .. })
            | Self::Message(OutputMessage { status, .. })
            | Self::Reasoning(OutputReasoning { status, .. })
            | Self::Search(OutputSearch { status, .. }) => *status = new,
        }
    }
}

impl OutputMessage {
    /// Creates a message with these texts.
    pub fn new(id: String, status: ItemStatus, content: Vec<OutputText>) -> Self {
        Self { id, kind: "message".to_owned(), status, role: "assistant".to_owned(), content }
    }
}
