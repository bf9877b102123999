//! `POST /chat/completions`: the request and its checks.
//!
//! Source: `CreateChatCompletionRequest` in OpenAI's API description.

use std::collections::BTreeMap;
use std::sync::Arc;

use jan_actors::model::{ChatPrompt, Constraint, PromptEnding, SamplingParams};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::conversation::{ConversationParam, ConversationTarget};
use super::message::{Message, message_object};
use crate::api::inference::bounds::{self, MAX_MESSAGES};
use crate::api::inference::params::{self, Metadata, Sampling, ServiceTier, Stop, StopShape, StreamOptions};
use crate::api::inference::reasoning::{self, Effort};
use crate::api::inference::structured_output::{ResponseFormat, Structured, StructuredOutputs, Wishes};
use crate::api::inference::tools::{ChatTool, ToolChoiceShape, Tools};
use crate::api::inference::web_search::{WebSearchOptions, Wish};
use crate::http::ApiError;
use crate::http::json::{Given, Unsupported};

/// Fields that later versions bring, and vLLM's that have no counterpart here.
pub static UNSUPPORTED: &[Unsupported] = &[
    Unsupported { field: "functions", harmless: &[Given::EmptyList] },
    Unsupported { field: "function_call", harmless: &[Given::Word("none"), Given::Word("auto")] },
    Unsupported { field: "verbosity", harmless: &[Given::Word("medium")] },
    Unsupported { field: "audio", harmless: &[] },
    Unsupported { field: "modalities", harmless: &[Given::ListOf("text")] },
    Unsupported { field: "prediction", harmless: &[] },
    Unsupported { field: "moderation", harmless: &[] },
    Unsupported { field: "store", harmless: &[Given::Bool(false)] },
    Unsupported { field: "best_of", harmless: &[Given::Number(1.0)] },
    Unsupported { field: "suffix", harmless: &[Given::Word("")] },
    Unsupported { field: "chat_template", harmless: &[] },
];

/// A conversation to be continued.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "messages": [{"role": "user", "content": "Hello"}]}))]
pub struct ChatRequest {
    /// A model's id or alias, see `GET /models`.
    pub model: String,
    /// The conversation so far. With `conversation`: what is new; none asks for the last answer once more.
    #[schema(value_type = Vec<Message>)]
    pub messages: Option<Vec<Message>>,
    /// A stored conversation to go on with: its history goes before `messages`, and both these and the answer are
    /// stored in it. Its id, or an object.
    #[schema(value_type = Option<ConversationTarget>)]
    pub conversation: Option<ConversationParam>,
    /// Most tokens of each answer; the end of the context without it.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// 0 always takes the likeliest token; higher is more varied.
    #[schema(minimum = 0, maximum = 2, default = 1)]
    pub temperature: Option<f64>,
    /// Only the likeliest tokens whose probabilities add up to this.
    #[schema(minimum = 0, maximum = 1, default = 1)]
    pub top_p: Option<f64>,
    /// Only the k likeliest tokens; 0 or -1 is off.
    #[schema(minimum = -1, default = 0)]
    pub top_k: Option<i64>,
    /// Only tokens at least this fraction as likely as the likeliest.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    pub min_p: Option<f64>,
    /// Only the most typical tokens, those whose surprise is nearest to the expected one, whose probabilities add up
    /// to this.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 1)]
    pub typical_p: Option<f64>,
    /// Above 1 lowers, below 1 raises the likelihood of tokens that the prompt or the answer already has.
    #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
    pub repeat_penalty: Option<f64>,
    /// Another name of `repeat_penalty`.
    #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
    pub repetition_penalty: Option<f64>,
    /// How many answers.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    pub n: Option<i64>,
    /// The same request with the same seed gets the same answer. Answer `i` of `n` draws from a seed of its
    /// own, made from this one and `i`.
    pub seed: Option<i64>,
    /// A text, or up to four, that end the answer and are not part of it.
    #[schema(value_type = Option<StopShape>)]
    pub stop: Option<Stop>,
    /// Send the answer as server-sent events while it is made.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Lowers the likelihood of tokens that have appeared.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub presence_penalty: Option<f64>,
    /// Lowers the likelihood of tokens with every appearance.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub frequency_penalty: Option<f64>,
    /// Token ids and what is added to their logits, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Say how likely each token of the answer was.
    #[schema(default = false)]
    pub logprobs: Option<bool>,
    /// With `logprobs`: how many of the likeliest tokens to name at each position.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// What the answer has to be: text, JSON, or JSON that a schema accepts.
    pub response_format: Option<ResponseFormat>,
    /// A JSON Schema that the answer has to satisfy, as vLLM takes it.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Map<String, Value>>,
    /// A regular expression that the whole answer has to match, without look-around.
    pub guided_regex: Option<String>,
    /// Texts of which the answer has to be one.
    #[schema(min_items = 1)]
    pub guided_choice: Option<Vec<String>>,
    /// A grammar of the answer in Lark's notation or llama.cpp's.
    pub guided_grammar: Option<String>,
    /// The same wishes in one field, as vLLM takes them.
    pub structured_outputs: Option<StructuredOutputs>,
    /// A grammar of the answer in llama.cpp's notation, as llama-server takes it.
    pub grammar: Option<String>,
    /// A JSON Schema that the answer has to satisfy, as llama-server takes it.
    #[schema(value_type = Option<Object>)]
    pub json_schema: Option<Map<String, Value>>,
    /// Functions that the model may call, up to 128.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<ChatTool>>,
    /// Whether to call, or what.
    #[schema(value_type = Option<ToolChoiceShape>)]
    pub tool_choice: Option<Value>,
    /// Whether one answer may have several calls.
    #[schema(default = true)]
    pub parallel_tool_calls: Option<bool>,
    /// Search the web with the last message of the user before answering; the answer cites what it takes from there.
    pub web_search_options: Option<WebSearchOptions>,
    /// How hard to think, for models that do.
    pub reasoning_effort: Option<Effort>,
    /// Most tokens of thinking; then it is ended. 0: none.
    #[serde(alias = "thinking_token_budget")]
    #[schema(minimum = 0)]
    pub thinking_budget: Option<i64>,
    /// More variables for the model's chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Documents for models whose chat template takes them.
    #[schema(value_type = Option<Vec<Object>>)]
    pub documents: Option<Vec<Map<String, Value>>>,
    /// Whether the prompt ends with the beginning of the assistant's answer.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// Whether the last message is to go on rather than to be answered. Excludes `add_generation_prompt`.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// The caller's own name for its user; has no effect.
    pub user: Option<String>,
    /// The caller's own name for its user; has no effect.
    #[schema(max_length = 64)]
    pub safety_identifier: Option<String>,
    /// Prefixes are always cached; those of requests with different keys are not shared.
    pub prompt_cache_key: Option<String>,
    /// The caller's own notes, up to 16 pairs; have no effect.
    pub metadata: Option<Metadata>,
    /// There is one tier, `default`.
    #[allow(dead_code, reason = "its type is checked")]
    pub service_tier: Option<ServiceTier>,
}

/// A request that has passed every check.
#[derive(Debug)]
pub struct CheckedChat {
    pub model: String,
    pub cache_key: Option<String>,
    /// Contents as one string.
    pub prompt: ChatPrompt,
    pub tools: Tools,
    pub web: Option<Wish>,
    pub thinking_budget: Option<u32>,
    pub sampling: SamplingParams,
    pub stop: Arc<[String]>,
    pub max_tokens: Option<u32>,
    pub n: u32,
    pub stream: bool,
    pub include_usage: bool,
    pub logprobs: Option<u32>,
    pub structured: Option<Structured>,
    pub conversation: Option<ConversationParam>,
}

impl ChatRequest {
    /// Checks every field's range.
    pub fn check(self) -> Result<CheckedChat, ApiError> {
        params::model(&self.model)?;
        let max_tokens = token_limit(self.max_tokens, self.max_completion_tokens)?;
        let n = params::choice_count(self.n)?;
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.as_ref(),
            seed: self.seed,
        }
        .check()?;
        let logprobs = params::chat_logprobs(self.logprobs, self.top_logprobs)?;
        let stop = params::stops(self.stop)?;
        let stream = self.stream.unwrap_or(false);
        let include_usage = params::include_usage(stream, self.stream_options)?;
        params::descriptive(self.metadata.as_ref(), self.safety_identifier.as_deref())?;
        params::labels(self.user.as_deref(), self.prompt_cache_key.as_deref())?;
        bounds::template(self.documents.as_ref(), self.chat_template_kwargs.as_ref())?;
        let structured = Wishes {
            response_format: self.response_format,
            structured_outputs: self.structured_outputs,
            guided_json: self.guided_json,
            guided_regex: self.guided_regex,
            guided_choice: self.guided_choice,
            guided_grammar: self.guided_grammar,
            grammar: self.grammar,
            json_schema: self.json_schema,
        }
        .check()?;
        if self.conversation.is_some() && n != 1 {
            let message = "'n' must be 1 with 'conversation': one answer goes on with it.";
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
        let messages = messages.into_iter().enumerate().map(message_object).collect::<Result<Vec<_>, _>>()?;
        let tools = Tools::of_chat(self.tools, self.tool_choice.as_ref(), self.parallel_tool_calls)?;
        exclude(structured.as_ref(), &tools)?;
        let web = self.web_search_options.as_ref().map(WebSearchOptions::check).transpose()?;
        let mut prompt = ChatPrompt {
            messages,
            tools: tools.shown.clone(),
            documents: self.documents.unwrap_or_default().into_iter().map(Value::Object).collect(),
            ending: ending(self.add_generation_prompt, self.continue_final_message)?,
            ..ChatPrompt::default()
        };
        let budget = params::token_count("thinking_budget", self.thinking_budget, 0)?;
        let thinking_budget =
            reasoning::apply(self.reasoning_effort, budget, self.chat_template_kwargs, &mut prompt);
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
            n,
            stream,
            include_usage,
            logprobs,
            structured,
            conversation: self.conversation,
        })
    }
}

/// How the prompt ends.
pub fn ending(begin_answer: Option<bool>, go_on: Option<bool>) -> Result<PromptEnding, ApiError> {
    match (begin_answer, go_on.unwrap_or(false)) {
        (Some(true), true) => Err(ApiError::invalid_value(
            "continue_final_message",
            "'continue_final_message' and 'add_generation_prompt' exclude each other; give only one.",
        )),
        (_, true) => Ok(PromptEnding::LastMessage),
        (Some(false), false) => Ok(PromptEnding::Messages),
        (_, false) => Ok(PromptEnding::Answer),
    }
}

/// Calls can be told from an answer that is JSON, not from one that an expression or a grammar describes.
fn exclude(structured: Option<&Structured>, tools: &Tools) -> Result<(), ApiError> {
    match structured {
        Some(structured)
            if tools.plan.is_some() && !matches!(*structured.constraint, Constraint::JsonSchema(_)) =>
        {
            let message = format!("'{}' and 'tools' exclude each other; give only one.", structured.field);
            Err(ApiError::invalid_value(structured.field, message))
        }
        _ => Ok(()),
    }
}

fn token_limit(old: Option<i64>, new: Option<i64>) -> Result<Option<u32>, ApiError> {
    let old = params::token_count("max_tokens", old, 1)?;
    let new = params::token_count("max_completion_tokens", new, 1)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::invalid_value(
            "max_tokens",
            "'max_tokens' and 'max_completion_tokens' mean the same and differ; give only one.",
        )),
        (old, new) => Ok(new.or(old)),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
