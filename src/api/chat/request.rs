//! `POST /chat/completions`: the request and its checks.
//!
//! Source: `CreateChatCompletionRequest` in OpenAI's API description.

use std::sync::Arc;

use jan_actors::model::{ChatPrompt, Constraint, PromptEnding, SamplingParams};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::conversation::{ConversationParam, ConversationTarget};
use super::message::{self, Message, message_objects};
use crate::api::inference::bounds::{self, MAX_MESSAGES};
use crate::api::inference::fields::inference_request;
use crate::api::inference::params::{
    self, Metadata, ServiceTier, Stop, StopShape, StreamOptions, UsageChunks,
};
use crate::api::inference::reasoning::{self, Effort};
use crate::api::inference::structured_output::Structured;
use crate::api::inference::tools::{
    ChatTool, ChatTools, FunctionCallShape, FunctionObject, ToolChoiceShape, Tools,
};
use crate::api::inference::web_search::{SearchOptions, WebSearchOptions};
use crate::http::ApiError;
use crate::http::json::{Unsupported, ValueShape};

/// Fields of later API versions, and those of vLLM that have no counterpart here.
pub static UNSUPPORTED: &[Unsupported] = &[
    // A preference of style; an answer without it is right.
    Unsupported::ignored("verbosity", &[ValueShape::Word("medium")]),
    Unsupported::new("audio", &[]),
    Unsupported::new("modalities", &[ValueShape::ListOf("text")]),
    // It makes answers faster, and changes none.
    Unsupported::ignored("prediction", &[]),
    Unsupported::new("moderation", &[]),
    // Chat completions are not listed.
    Unsupported::ignored("store", &[ValueShape::Bool(false)]),
    Unsupported::new("best_of", &[ValueShape::Number(1.0)]),
    Unsupported::new("suffix", &[ValueShape::Word("")]),
    Unsupported::new("chat_template", &[]),
    Unsupported::misplaced("max_output_tokens", "'max_completion_tokens'"),
    Unsupported::misplaced("input", "'messages'"),
    Unsupported::misplaced("prompt", "'messages'"),
    Unsupported::misplaced("instructions", "a message with the role 'system' in 'messages'"),
    Unsupported::misplaced("previous_response_id", "'conversation', or POST /responses"),
];

inference_request! { chat:
    /// A chat completion request.
    #[derive(Debug, Deserialize, ToSchema)]
    #[schema(example = json!({"model": "jan-v1-4b", "messages": [{"role": "user", "content": "Hello"}]}))]
    pub struct ChatRequest {
        /// A model's id or alias, see `GET /models`.
        pub model: String,
        /// The messages of the conversation. With `conversation`: the new ones; none regenerates the last answer.
        #[schema(value_type = Vec<Message>)]
        pub messages: Option<Vec<Message>>,
        /// A stored conversation to continue: its history precedes `messages`, and both these and the answer are
        /// stored in it. Its id, or an object.
        #[schema(value_type = Option<ConversationTarget>)]
        pub conversation: Option<ConversationParam>,
        /// Maximum number of tokens of each answer; by default, and with -1, the rest of the context. More than that is cut
        /// to it (`engine.max_tokens_overflow`).
        #[schema(minimum = 1)]
        pub max_completion_tokens: Option<i64>,
        /// The older name of `max_completion_tokens`.
        #[schema(minimum = 1)]
        pub max_tokens: Option<i64>,
        /// Another name of it, as in llama-server.
        #[schema(minimum = 1)]
        pub n_predict: Option<i64>,
        /// The number of answers.
        #[schema(minimum = 1, maximum = 128, default = 1)]
        pub n: Option<i64>,
        /// Up to four texts that end the answer and are not part of it.
        #[schema(value_type = Option<StopShape>)]
        pub stop: Option<Stop>,
        /// Send the answer as server-sent events while it is generated.
        #[schema(default = false)]
        pub stream: Option<bool>,
        /// Only with `stream`.
        pub stream_options: Option<StreamOptions>,
        /// Return the log-probabilities of the answer's tokens.
        #[schema(default = false)]
        pub logprobs: Option<bool>,
        /// With `logprobs`: the number of most likely tokens to return at each position.
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<i64>,
        /// Up to 128 functions that the model may call.
        #[schema(max_items = 128)]
        pub tools: Option<Vec<ChatTool>>,
        /// The choice of tool calls.
        #[schema(value_type = Option<ToolChoiceShape>)]
        pub tool_choice: Option<Value>,
        /// Permit several calls in one answer.
        #[schema(default = true)]
        pub parallel_tool_calls: Option<bool>,
        /// The form of `tools` until 2023, which excludes `tools`. An answer has at most one call, in `function_call`.
        #[schema(max_items = 128, deprecated)]
        pub functions: Option<Vec<FunctionObject>>,
        /// The choice of a call of `functions`.
        #[schema(value_type = Option<FunctionCallShape>, deprecated)]
        pub function_call: Option<Value>,
        /// Search the web with the last user message before answering; the answer cites its sources.
        pub web_search_options: Option<WebSearchOptions>,
        /// The reasoning effort, for models that support it.
        pub reasoning_effort: Option<Effort>,
        /// Maximum number of reasoning tokens. `0` disables reasoning.
        #[schema(minimum = 0)]
        pub thinking_budget: Option<i64>,
        /// Another name of `thinking_budget`, as in vLLM.
        #[schema(minimum = 0)]
        pub thinking_token_budget: Option<i64>,
        /// Let a model reason that can do both, as `enable_thinking` of `chat_template_kwargs`.
        pub enable_thinking: Option<bool>,
        /// Additional variables of the model's chat template, such as `enable_thinking`.
        #[schema(value_type = Option<Object>)]
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// Documents for models whose chat template supports them.
        #[schema(value_type = Option<Vec<Object>>)]
        pub documents: Option<Vec<Map<String, Value>>>,
        /// End the prompt with the beginning of the assistant's message.
        #[schema(default = true)]
        pub add_generation_prompt: Option<bool>,
        /// Continue the last message instead of answering it. Excludes `add_generation_prompt`.
        #[schema(default = false)]
        pub continue_final_message: Option<bool>,
        /// The caller's id for its user; has no effect.
        pub user: Option<String>,
        /// The caller's id for its user; has no effect.
        #[schema(max_length = 64)]
        pub safety_identifier: Option<String>,
        /// Prefixes are always cached; those of requests with different keys are not shared.
        pub prompt_cache_key: Option<String>,
        /// Up to 16 pairs of custom metadata; have no effect.
        pub metadata: Option<Metadata>,
        /// The only tier is `default`.
        #[allow(dead_code, reason = "its type is checked")]
        pub service_tier: Option<ServiceTier>,
    }
}

/// A request that has passed all checks.
#[derive(Debug)]
pub struct CheckedChat {
    pub model: String,
    pub cache_key: Option<String>,
    /// Contents are one string each.
    pub prompt: ChatPrompt,
    pub tools: Tools,
    pub web: Option<SearchOptions>,
    pub thinking_budget: Option<u32>,
    pub sampling: SamplingParams,
    pub stop: Arc<[String]>,
    pub max_tokens: Option<u32>,
    /// The field that `max_tokens` comes from.
    pub length_field: &'static str,
    pub n: u32,
    pub stream: bool,
    pub usage_chunks: UsageChunks,
    pub logprobs: Option<u32>,
    pub structured: Option<Structured>,
    pub conversation: Option<ConversationParam>,
}

impl ChatRequest {
    /// Checks the range of every field.
    pub fn check(mut self) -> Result<CheckedChat, ApiError> {
        params::model(&self.model)?;
        let names = [
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
            ("n_predict", self.n_predict),
        ];
        let (length_field, max_tokens) = params::one_length(names, 1)?.unwrap_or(("max_tokens", None));
        let n = params::choice_count(self.n)?;
        let sampling = self.sampling()?;
        let logprobs = params::chat_logprobs(self.logprobs, self.top_logprobs)?;
        let stop = params::stops(self.stop.take())?;
        let stream = self.stream.unwrap_or(false);
        let usage_chunks = params::usage_chunks(stream, self.stream_options)?;
        params::descriptive(self.metadata.as_ref(), self.safety_identifier.as_deref())?;
        params::labels(self.user.as_deref(), self.prompt_cache_key.as_deref())?;
        bounds::template(self.documents.as_ref(), self.chat_template_kwargs.as_ref())?;
        let structured = self.take_constraint()?;
        if self.conversation.is_some() && n != 1 {
            let message = "'n' must be 1 with 'conversation', which one answer continues.";
            return Err(ApiError::invalid_value("n", message));
        }
        let messages = match (self.messages, &self.conversation) {
            (None, None) => return Err(ApiError::missing("messages")),
            (messages, _) => messages.unwrap_or_default(),
        };
        if messages.is_empty() && self.conversation.is_none() {
            return Err(ApiError::invalid_value("messages", "Invalid 'messages': at least one is needed."));
        }
        bounds::entries("messages", messages.len(), MAX_MESSAGES)?;
        if self.conversation.is_some() {
            message::check_results_have_calls(&messages)?;
        }
        let messages = message_objects(messages)?;
        let tools = ChatTools {
            tools: self.tools,
            tool_choice: self.tool_choice,
            parallel: self.parallel_tool_calls,
            functions: self.functions,
            function_call: self.function_call,
        };
        let tools = tools.check()?;
        exclude(structured.as_ref(), &tools)?;
        let web = self.web_search_options.as_ref().map(WebSearchOptions::check).transpose()?;
        let mut prompt = ChatPrompt {
            messages,
            tools: tools.shown.clone(),
            documents: self.documents.unwrap_or_default().into_iter().map(Value::Object).collect(),
            ending: ending(self.add_generation_prompt, self.continue_final_message)?,
            ..ChatPrompt::default()
        };
        let budgets = [
            ("thinking_budget", self.thinking_budget),
            ("thinking_token_budget", self.thinking_token_budget),
        ];
        let budget = params::one_of_names(budgets)?;
        let budget =
            budget.map(|(name, value)| params::token_count(name, Some(value), 0)).transpose()?.flatten();
        // A template without such a variable does not end the reasoning by itself.
        let budget = budget.or(self.enable_thinking.filter(|thinks| !thinks).map(|_| 0));
        let kwargs = reasoning::with_thinking(self.chat_template_kwargs, self.enable_thinking);
        let thinking_budget = reasoning::apply(self.reasoning_effort, budget, kwargs, &mut prompt);
        Ok(CheckedChat {
            model: self.model,
            cache_key: self.prompt_cache_key,
            prompt,
            tools,
            web,
            thinking_budget,
            sampling,
            stop,
            max_tokens,
            length_field,
            n,
            stream,
            usage_chunks,
            logprobs,
            structured,
            conversation: self.conversation,
        })
    }
}

/// Returns the ending of the prompt.
pub fn ending(begin_answer: Option<bool>, go_on: Option<bool>) -> Result<PromptEnding, ApiError> {
    match (begin_answer, go_on.unwrap_or(false)) {
        (Some(true), true) => Err(ApiError::invalid_value(
            "continue_final_message",
            "'continue_final_message' and 'add_generation_prompt' are mutually exclusive; send only one.",
        )),
        (_, true) => Ok(PromptEnding::LastMessage),
        (Some(false), false) => Ok(PromptEnding::Messages),
        (_, false) => Ok(PromptEnding::Answer),
    }
}

/// Rejects tools together with an expression or a grammar: tool calls can be distinguished from JSON answers only.
fn exclude(structured: Option<&Structured>, tools: &Tools) -> Result<(), ApiError> {
    match structured {
        Some(structured)
            if tools.plan.is_some() && !matches!(*structured.constraint, Constraint::JsonSchema(_)) =>
        {
            let list = tools.field();
            let message =
                format!("'{}' and '{list}' are mutually exclusive; send only one.", structured.field);
            Err(ApiError::invalid_value(structured.field, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
