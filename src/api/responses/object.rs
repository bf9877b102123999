//! The response object. Source: `Response` in OpenAI's API description.

use jan_actors::model::TokenUsage;
use jan_actors::responses::{End, EndStatus, ResponseId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::format::TextFormat;
use super::output_item::OutputItem;
use super::request::{CacheRetention, CreateResponse, Truncation};
use crate::api::inference::params::Metadata;
use crate::api::inference::tools::{ResponseTool, shown_choice};

/// A response. The request's fields are repeated, including defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Its id.
    #[schema(example = "resp_019ab0c5d3c47a01b5b0c4a1d2e3f405")]
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Its state.
    pub status: ResponseStatus,
    /// True if it runs in the background.
    pub background: bool,
    /// Unix seconds; null unless it is completed.
    pub completed_at: Option<u64>,
    /// The error; null unless it failed.
    pub error: Option<ResponseError>,
    /// The reason why it is incomplete; null otherwise.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As requested.
    pub instructions: Option<String>,
    /// As requested.
    pub max_output_tokens: Option<i64>,
    /// As requested.
    pub max_tool_calls: Option<i64>,
    /// The model as requested.
    pub model: String,
    /// The output of the model: reasoning, a message, function calls; and web searches.
    pub output: Vec<OutputItem>,
    /// As requested.
    pub parallel_tool_calls: bool,
    /// As requested.
    pub previous_response_id: Option<String>,
    /// As requested.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// As requested.
    pub prompt_cache_key: Option<String>,
    /// As requested.
    pub prompt_cache_retention: Option<CacheRetention>,
    /// The reasoning options, as requested.
    #[schema(value_type = Object)]
    pub reasoning: Value,
    /// As requested.
    pub safety_identifier: Option<String>,
    /// Always `default`.
    pub service_tier: String,
    /// True if it is stored.
    pub store: bool,
    /// As requested.
    pub temperature: f64,
    /// The format of the text.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As requested.
    #[schema(value_type = Object)]
    pub tool_choice: Value,
    /// As requested.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As requested.
    pub top_logprobs: i64,
    /// As requested.
    pub top_p: f64,
    /// As requested.
    pub truncation: Truncation,
    /// Token counts; absent until it has ended, and if it was cancelled or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResponseUsage>,
    /// As requested; absent if it was not set, because OpenAI's description does not allow null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As requested.
    pub metadata: Metadata,
    /// The id of its message, if a conversation assigned it; stored, and not part of the API.
    #[serde(rename = "_message_id", default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub message_id: Option<String>,
    /// Set if searches show all their sources; stored, and not part of the API.
    #[serde(rename = "_with_sources", default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(ignore)]
    pub with_sources: bool,
}

/// The state of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It waits in the queue.
    Queued,
    /// It is being generated.
    InProgress,
    /// The model ended it.
    Completed,
    /// It reached its maximum length.
    Incomplete,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The reason why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseError {
    /// `invalid_prompt` or `server_error`.
    pub code: String,
    /// A description of the error.
    pub message: String,
}

/// The reason why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`: that limit or the end of the context was reached.
    pub reason: String,
}

/// Exact token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Details of the prompt tokens.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Details of the answer's tokens.
    pub output_tokens_details: OutputTokensDetails,
    /// The sum.
    pub total_tokens: u32,
}

/// Details of the prompt tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Tokens that came from the prefix cache.
    pub cached_tokens: u32,
    /// Always 0: cache writes are free.
    pub cache_write_tokens: u32,
}

/// Details of the answer's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Reasoning tokens.
    pub reasoning_tokens: u32,
}

impl From<TokenUsage> for ResponseUsage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
        }
    }
}

impl ResponseObject {
    /// Creates a response that has yet to be generated.
    pub fn new(
        id: ResponseId,
        created_at: u64,
        request: &CreateResponse,
        store: bool,
        background: bool,
    ) -> Self {
        let format = request.text.as_ref().and_then(|text| text.format.as_ref());
        let format = format.map_or_else(|| json!({"type": "text"}), TextFormat::shown);
        Self {
            id: id.to_string(),
            object: "response".to_owned(),
            created_at,
            status: if background { ResponseStatus::Queued } else { ResponseStatus::InProgress },
            background,
            completed_at: None,
            error: None,
            incomplete_details: None,
            instructions: request.instructions.clone(),
            max_output_tokens: request.max_output_tokens,
            max_tool_calls: request.max_tool_calls,
            model: request.model.clone(),
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            previous_response_id: request.previous_response_id.clone(),
            conversation: request.conversation.as_ref().map(|conversation| json!({"id": conversation.0})),
            prompt_cache_key: request.prompt_cache_key.clone(),
            prompt_cache_retention: request.prompt_cache_retention,
            reasoning: request.reasoning.as_ref().map_or_else(
                || json!({"effort": null, "summary": null}),
                |reasoning| json!({"effort": reasoning.effort, "summary": reasoning.summary}),
            ),
            safety_identifier: request.safety_identifier.clone(),
            service_tier: "default".to_owned(),
            store,
            temperature: request.temperature.unwrap_or(1.0),
            text: json!({"format": format, "verbosity": "medium"}),
            tool_choice: shown_choice(request.tool_choice.as_ref()),
            tools: request.tools.iter().flatten().map(ResponseTool::shown).collect(),
            top_logprobs: request.top_logprobs.unwrap_or(0),
            top_p: request.top_p.unwrap_or(1.0),
            truncation: request.truncation.unwrap_or_default(),
            usage: None,
            user: request.user.clone(),
            metadata: request.metadata.clone().unwrap_or_default(),
            message_id: None,
            with_sources: false,
        }
    }

    /// Returns the response as clients see it, without the fields that are only stored.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { message_id: None, with_sources: false, ..self.clone() }
    }

    /// Returns the response after the given end, but without its output.
    pub fn ended_as(&self, end: &End) -> Self {
        let mut response = self.bare();
        response.ended(end);
        response
    }

    pub(super) fn ended(&mut self, end: &End) {
        self.status = match end.status {
            EndStatus::Completed => ResponseStatus::Completed,
            EndStatus::Incomplete => ResponseStatus::Incomplete,
            EndStatus::Failed => ResponseStatus::Failed,
            EndStatus::Cancelled => ResponseStatus::Cancelled,
        };
        self.completed_at = (end.status == EndStatus::Completed).then_some(end.at);
        let too_long = end.status == EndStatus::Incomplete;
        self.incomplete_details =
            too_long.then(|| IncompleteDetails { reason: "max_output_tokens".to_owned() });
        self.error = end.problem.as_ref().map(|problem| {
            // OpenAI's list of codes is closed; the `error` event of a stream has the exact one.
            let prompt = matches!(problem.code.as_str(), "invalid_prompt" | "context_length_exceeded");
            let code = if prompt { "invalid_prompt" } else { "server_error" };
            ResponseError { code: code.to_owned(), message: problem.message.clone() }
        });
        self.usage = end.usage.map(Into::into);
    }

    /// Returns the id of its message.
    pub fn message_id(&self) -> String {
        match &self.message_id {
            Some(id) => id.clone(),
            None => format!("msg_{}", self.id.trim_start_matches(ResponseId::PREFIX)),
        }
    }
}
