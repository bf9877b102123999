//! `POST /responses`: the request and its checks.
//!
//! Source: `CreateResponse` in OpenAI's API description. The sampling fields that it lacks are those of chat.

use std::fmt;
use std::sync::Arc;

use jan_actors::model::{ChatPrompt, SamplingParams};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::format::TextFormat;
use super::input::{self, Input, InputItem};
use crate::api::inference::bounds::{self, MAX_NAME, MAX_WORDS};
use crate::api::inference::fields::inference_request;
use crate::api::inference::params::{self, Metadata, ServiceTier, Stop};
use crate::api::inference::reasoning::{self, Reasoning};
use crate::api::inference::structured_output::Structured;
use crate::api::inference::tools::{ResponseTool, ToolChoiceShape, Tools};
use crate::http::ApiError;
use crate::http::json::{Unsupported, ValueShape};

/// The field that holds the prompt, for errors about it.
pub const PROMPT: &str = "input";

/// OpenAI's minimum of `max_output_tokens`.
const MIN_OUTPUT: i64 = 16;

/// The allowed values of `include`. Only `SOURCES` and `LOGPROBS` have an effect: the others are never part of a
/// response.
const INCLUDABLE: [&str; 8] = [
    "file_search_call.results",
    "web_search_call.results",
    SOURCES,
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    LOGPROBS,
];
const SOURCES: &str = "web_search_call.action.sources";
const LOGPROBS: &str = "message.output_text.logprobs";

/// Fields of later API versions, and those of vLLM and llama-server that have no counterpart here.
pub static UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("prompt", &[]),
    Unsupported::new("moderation", &[]),
    Unsupported::new("context_management", &[]),
    Unsupported::new("prompt_cache_options", &[ValueShape::EmptyObject]),
    Unsupported::new("guided_json", &[]),
    Unsupported::new("guided_regex", &[]),
    Unsupported::new("guided_choice", &[]),
    Unsupported::new("guided_grammar", &[]),
    Unsupported::new("structured_outputs", &[]),
    Unsupported::new("grammar", &[]),
    Unsupported::new("json_schema", &[]),
    Unsupported::new("personality", &[]),
    Unsupported::misplaced("response_format", "'text.format'"),
    Unsupported::misplaced("max_tokens", "'max_output_tokens'"),
    Unsupported::misplaced("max_completion_tokens", "'max_output_tokens'"),
    Unsupported::misplaced("n_predict", "'max_output_tokens'"),
    Unsupported::misplaced("messages", "'input'"),
    Unsupported::misplaced("reasoning_effort", "'reasoning.effort'"),
    Unsupported::misplaced("functions", "'tools'"),
    Unsupported::misplaced("function_call", "'tool_choice'"),
    Unsupported::misplaced("web_search_options", "a tool of type 'web_search' in 'tools'"),
    Unsupported::misplaced("logprobs", "'include' with 'message.output_text.logprobs'"),
    Unsupported::misplaced("verbosity", "'text.verbosity'"),
];

inference_request! { response:
    /// A response request.
    #[derive(Debug, Default, Deserialize, ToSchema)]
    #[schema(example = json!({"model": "jan-v1-4b", "input": "Hello"}))]
    pub struct CreateResponse {
        /// A model's id or alias, see `GET /models`.
        pub model: String,
        /// A text, or items: messages, function calls and their results, references to earlier items. Optional
        /// with `previous_response_id` or `conversation`.
        #[schema(value_type = Option<Vec<InputItem>>)]
        pub input: Option<Input>,
        /// A system message that precedes everything else; not inherited through `previous_response_id`.
        pub instructions: Option<String>,
        /// Continue this response: its items precede the input. Requires a credential.
        pub previous_response_id: Option<String>,
        /// Continue this conversation: its items precede the input, and the new items are added to it. Requires a
        /// credential; excludes `previous_response_id`.
        #[schema(value_type = Option<String>)]
        pub conversation: Option<ConversationParam>,
        /// Store the response for `GET /responses/{id}`. Without a credential nothing is stored.
        #[schema(default = true)]
        pub store: Option<bool>,
        /// Return at once and generate the response afterwards. Requires `store` and a credential.
        #[schema(default = false)]
        pub background: Option<bool>,
        /// Send the response as server-sent events while it is generated.
        #[schema(default = false)]
        pub stream: Option<bool>,
        /// Only with `stream`.
        pub stream_options: Option<ResponseStreamOptions>,
        /// Up to 16 pairs of custom metadata.
        pub metadata: Option<Metadata>,
        /// Maximum number of tokens of the answer; by default, and with -1, the rest of the context. More than that is cut
        /// to it (`engine.max_tokens_overflow`).
        #[schema(minimum = 16)]
        pub max_output_tokens: Option<i64>,
        /// With `include: ["message.output_text.logprobs"]`: the number of most likely tokens to return at each
        /// position.
        #[schema(minimum = 0, maximum = 20, default = 0)]
        pub top_logprobs: Option<i64>,
        /// Additional output: `message.output_text.logprobs` and `web_search_call.action.sources` have an effect.
        pub include: Option<Vec<String>>,
        /// `auto`: drop the oldest items until the rest fits; `disabled`: refuse input that does not fit.
        pub truncation: Option<Truncation>,
        /// The format of the text: free, JSON, or JSON that satisfies a schema.
        pub text: Option<TextConfig>,
        /// Reasoning options, for models that support it.
        pub reasoning: Option<Reasoning>,
        /// Maximum number of reasoning tokens. `0` disables reasoning.
        #[schema(minimum = 0)]
        pub thinking_budget: Option<i64>,
        /// Additional variables of the model's chat template, such as `enable_thinking`.
        #[schema(value_type = Option<Object>)]
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// The tools that the model may use: functions and web search; up to 128.
        #[schema(max_items = 128)]
        pub tools: Option<Vec<ResponseTool>>,
        /// The choice of tool calls.
        #[schema(value_type = Option<ToolChoiceShape>)]
        pub tool_choice: Option<Value>,
        /// Permit several calls in one answer.
        #[schema(default = true)]
        pub parallel_tool_calls: Option<bool>,
        /// Maximum number of web searches; the server has a limit of its own.
        pub max_tool_calls: Option<i64>,
        /// The caller's id for its user; has no effect.
        pub user: Option<String>,
        /// The caller's id for its user; has no effect.
        #[schema(max_length = 64)]
        pub safety_identifier: Option<String>,
        /// Prefixes are always cached; those of requests with different keys are not shared.
        pub prompt_cache_key: Option<String>,
        /// Has no effect: prefixes are cached as long as there is room.
        pub prompt_cache_retention: Option<CacheRetention>,
        /// The only tier is `default`.
        #[allow(dead_code, reason = "its type is checked")]
        pub service_tier: Option<ServiceTier>,
        /// As for chat completions.
        #[schema(value_type = Option<Vec<String>>, max_items = 4)]
        pub stop: Option<Stop>,
    }
}

/// `POST /responses/input_tokens`: the prompt to count. Source: `TokenCountsBody`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "input": "Hello"}))]
pub struct CountTokens {
    /// A model's id or alias, see `GET /models`.
    pub model: String,
    /// As for `POST /responses`.
    #[schema(value_type = Option<Vec<InputItem>>)]
    pub input: Option<Input>,
    /// As for `POST /responses`.
    pub instructions: Option<String>,
    /// As for `POST /responses`.
    pub previous_response_id: Option<String>,
    /// As for `POST /responses`; nothing is added to it.
    #[schema(value_type = Option<String>)]
    pub conversation: Option<ConversationParam>,
    /// As for `POST /responses`; nothing is excluded from the count.
    #[allow(dead_code, reason = "its type is checked")]
    pub truncation: Option<Truncation>,
    /// As for `POST /responses`.
    pub text: Option<TextConfig>,
    /// As for `POST /responses`.
    pub reasoning: Option<Reasoning>,
    /// As for `POST /responses`; they are part of the prompt.
    pub tools: Option<Vec<ResponseTool>>,
    /// As for `POST /responses`.
    #[schema(value_type = Option<ToolChoiceShape>)]
    pub tool_choice: Option<Value>,
    /// As for `POST /responses`.
    #[allow(dead_code, reason = "its type is checked")]
    pub parallel_tool_calls: Option<bool>,
}

/// The handling of input that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// The oldest items are left out.
    Auto,
    /// It is rejected.
    #[default]
    Disabled,
}

/// Retention of cached prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub enum CacheRetention {
    /// In memory, for a limited time.
    #[serde(rename = "in_memory", alias = "in-memory")]
    InMemory,
    /// One day.
    #[serde(rename = "24h")]
    Day,
}

/// Streaming options.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub struct ResponseStreamOptions {
    /// Accepted and without effect: events carry no padding.
    #[allow(dead_code, reason = "its type is checked")]
    pub include_obfuscation: Option<bool>,
}

/// The format of the text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TextConfig {
    /// Its format.
    pub format: Option<TextFormat>,
    /// `low`, `medium` or `high`; has no effect.
    pub verbosity: Option<String>,
}

impl TextConfig {
    /// Returns the field that is named as ignored, if any.
    pub fn ignored(&self) -> Option<String> {
        self.verbosity.as_deref().filter(|level| *level != "medium").map(|_| "text.verbosity".to_owned())
    }
}

/// `conversation`: an id, or an object that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationParam(pub String);

impl<'de> Deserialize<'de> for ConversationParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            id: String,
        }
        struct ParamVisitor;
        impl<'de> Visitor<'de> for ParamVisitor {
            type Value = ConversationParam;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a conversation's id or an object with it")
            }

            fn visit_str<E>(self, id: &str) -> Result<ConversationParam, E> {
                Ok(ConversationParam(id.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConversationParam, A::Error> {
                let object = Object::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ConversationParam(object.id))
            }
        }
        deserializer.deserialize_any(ParamVisitor)
    }
}

/// Checks that at most one field refers to earlier items, and that its id is not too long.
pub fn check_history(
    previous: Option<&str>,
    conversation: Option<&ConversationParam>,
) -> Result<(), ApiError> {
    bounds::text("previous_response_id", previous, MAX_NAME)?;
    bounds::text("conversation", conversation.map(|conversation| conversation.0.as_str()), MAX_NAME)?;
    match (previous, conversation) {
        (Some(_), Some(_)) => Err(ApiError::invalid_value(
            "conversation",
            "Invalid 'conversation': it cannot be used together with 'previous_response_id'; send only one.",
        )),
        _ => Ok(()),
    }
}

/// A request that has passed all checks that need no other state.
#[derive(Debug)]
pub struct Checked {
    /// This turn's items, without ids if the caller set none.
    pub input: Vec<Value>,
    pub sampling: SamplingParams,
    pub stop: Arc<[String]>,
    pub max_tokens: Option<u32>,
    pub logprobs: Option<u32>,
    /// Set if searches show their sources.
    pub with_sources: bool,
    /// The caller's limit of searches, if any.
    pub max_searches: Option<u32>,
    pub store: bool,
    pub background: bool,
    pub stream: bool,
    /// The constraint on the answer; `None` for free text.
    pub structured: Option<Structured>,
    /// The tools that the model may call.
    pub tools: Tools,
    /// The prompt without its messages.
    pub prompt: ChatPrompt,
    pub thinking_budget: Option<u32>,
}

impl CreateResponse {
    /// Checks the range of every field, and takes out those that are not needed later.
    pub fn check(&mut self) -> Result<Checked, ApiError> {
        params::model(&self.model)?;
        let max_tokens = params::answer_length("max_output_tokens", self.max_output_tokens, MIN_OUTPUT)?;
        let max_searches = params::integer("max_tool_calls", self.max_tool_calls, 0..=i64::from(i32::MAX))?;
        let sampling = self.sampling()?;
        let top = params::integer("top_logprobs", self.top_logprobs, 0..=20)?;
        let include = self.include.take().unwrap_or_default();
        check_include(&include)?;
        let wanted = include.iter().any(|name| name == LOGPROBS);
        let logprobs = wanted.then(|| top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0));
        let stop = params::stops(self.stop.take())?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::invalid_value(
                "stream_options",
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            ));
        }
        params::descriptive(self.metadata.as_ref(), self.safety_identifier.as_deref())?;
        params::labels(self.user.as_deref(), self.prompt_cache_key.as_deref())?;
        bounds::template(None, self.chat_template_kwargs.as_ref())?;
        let structured = check_form(self.text.as_ref(), self.reasoning.as_ref())?;
        check_history(self.previous_response_id.as_deref(), self.conversation.as_ref())?;
        let (store, background) = (self.store.unwrap_or(true), self.background.unwrap_or(false));
        if background && !store {
            return Err(ApiError::invalid_value(
                "background",
                "Invalid 'background': a background response must be stored; omit 'store'.",
            ));
        }
        let tools =
            Tools::of_response(self.tools.as_deref(), self.tool_choice.as_ref(), self.parallel_tool_calls)?;
        let mut prompt = ChatPrompt { tools: tools.shown.clone(), ..ChatPrompt::default() };
        let budget = params::token_count("thinking_budget", self.thinking_budget, 0)?;
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort);
        let kwargs = self.chat_template_kwargs.take();
        let thinking_budget = reasoning::apply(effort, budget, kwargs, &mut prompt);
        let input = input::normalize(self.input.take())?;
        Ok(Checked {
            tools,
            prompt,
            thinking_budget,
            input,
            sampling,
            stop,
            max_tokens,
            logprobs,
            with_sources: include.iter().any(|name| name == SOURCES),
            max_searches: max_searches.and_then(|most| u32::try_from(most).ok()),
            store,
            background,
            stream,
            structured,
        })
    }
}

/// Checks the values of `include`.
pub fn check_include(include: &[String]) -> Result<(), ApiError> {
    bounds::entries("include", include.len(), MAX_WORDS)?;
    match include.iter().find(|name| !INCLUDABLE.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(ApiError::invalid_value(
            "include",
            format!("Invalid 'include': '{name}' is not one of {}.", INCLUDABLE.join(", ")),
        )),
    }
}

/// Checks `text` and `reasoning`; returns the constraint on the text, `None` for free text.
pub fn check_form(
    text: Option<&TextConfig>,
    reasoning: Option<&Reasoning>,
) -> Result<Option<Structured>, ApiError> {
    let invalid = |param: &str, value: &str, allowed: &[&str]| {
        let message = format!("Invalid '{param}': '{value}' is not one of {}.", allowed.join(", "));
        Err(ApiError::invalid_value(param, message))
    };
    let structured = match text.and_then(|text| text.format.as_ref()) {
        Some(format) => format.check()?,
        None => None,
    };
    match text.and_then(|text| text.verbosity.as_deref()) {
        // A preference of style, without effect.
        None | Some("low" | "medium" | "high") => {}
        Some(level) => return invalid("text.verbosity", level, &["low", "medium", "high"]),
    }
    let Some(reasoning) = reasoning else { return Ok(structured) };
    let summaries = [("summary", &reasoning.summary), ("generate_summary", &reasoning.generate_summary)];
    let kinds = ["auto", "concise", "detailed"];
    for (field, kind) in summaries {
        if let Some(kind) = kind.as_deref().filter(|kind| !kinds.contains(kind)) {
            return invalid(&format!("reasoning.{field}"), kind, &kinds);
        }
    }
    Ok(structured)
}
