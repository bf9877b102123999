//! `POST /chat/completions`: the request and its checks.
//!
//! Source: `CreateChatCompletionRequest` in OpenAI's API description.

use std::collections::BTreeMap;
use std::fmt;

use jan_actors::model::SamplingParams;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::chat_conversation::{ConversationParam, ConversationTarget};
use super::params::{self, Metadata, Sampling, ServiceTier, Stop, StopShape, StreamOptions};
use super::structured::{ResponseFormat, Structured, Wishes};
use crate::http::ApiError;
use crate::http::json::{Checked, Given, Unsupported};

/// Fields that later versions bring, and vLLM's that have no counterpart here.
pub static UNSUPPORTED: &[Unsupported] = &[
    Unsupported { field: "tools", harmless: &[Given::EmptyList] },
    Unsupported { field: "tool_choice", harmless: &[Given::Word("none"), Given::Word("auto")] },
    Unsupported { field: "parallel_tool_calls", harmless: &[Given::Bool(true), Given::Bool(false)] },
    Unsupported { field: "functions", harmless: &[Given::EmptyList] },
    Unsupported { field: "function_call", harmless: &[Given::Word("none"), Given::Word("auto")] },
    Unsupported { field: "reasoning_effort", harmless: &[Given::Word("none")] },
    Unsupported { field: "verbosity", harmless: &[Given::Word("medium")] },
    Unsupported { field: "web_search_options", harmless: &[] },
    Unsupported { field: "audio", harmless: &[] },
    Unsupported { field: "modalities", harmless: &[Given::ListOf("text")] },
    Unsupported { field: "prediction", harmless: &[] },
    Unsupported { field: "moderation", harmless: &[] },
    Unsupported { field: "store", harmless: &[Given::Bool(false)] },
    Unsupported { field: "best_of", harmless: &[Given::Number(1.0)] },
    Unsupported { field: "suffix", harmless: &[Given::Word("")] },
    Unsupported { field: "structured_outputs", harmless: &[] },
    Unsupported { field: "grammar", harmless: &[] },
    Unsupported { field: "chat_template", harmless: &[] },
    Unsupported { field: "chat_template_kwargs", harmless: &[Given::EmptyObject] },
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
    /// A grammar of the answer in Lark's notation.
    pub guided_grammar: Option<String>,
    /// The caller's own name for its user; has no effect.
    #[allow(dead_code, reason = "its type is checked")]
    pub user: Option<String>,
    /// The caller's own name for its user; has no effect.
    #[schema(max_length = 64)]
    pub safety_identifier: Option<String>,
    /// Has no effect: prefixes are always cached.
    #[allow(dead_code, reason = "its type is checked")]
    pub prompt_cache_key: Option<String>,
    /// The caller's own notes, up to 16 pairs; have no effect.
    pub metadata: Option<Metadata>,
    /// There is one tier, `default`.
    #[allow(dead_code, reason = "its type is checked")]
    pub service_tier: Option<ServiceTier>,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; only an assistant message with `tool_calls` may go without.
    #[serde(default)]
    #[schema(value_type = Option<ContentShape>)]
    content: Option<Content>,
    /// Tells participants of one role apart.
    name: Option<String>,
    /// Assistant messages: the tools that it called.
    tool_calls: Option<Vec<ToolCall>>,
    /// Tool messages: the call that is answered.
    tool_call_id: Option<String>,
    /// Assistant messages: what it refused with.
    refusal: Option<String>,
    /// Assistant messages: accepted, because responses carry it, and left out.
    #[serde(default)]
    #[schema(ignore)]
    #[allow(dead_code, reason = "its syntax is checked")]
    annotations: Checked,
    #[serde(default = "null")]
    #[schema(ignore)]
    function_call: Given,
    #[serde(default = "null")]
    #[schema(ignore)]
    audio: Given,
}

fn null() -> Given {
    Given::Null
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = MessageRole)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by their newer name.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// A call that the assistant made earlier.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its id.
    id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    kind: ToolCallKind,
    /// What was called.
    function: CalledFunction,
}

/// The kind of a tool.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolCallKind {
    /// A function with JSON arguments.
    Function,
}

/// What was called.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct CalledFunction {
    /// The function's name.
    name: String,
    /// Its arguments as JSON text.
    arguments: String,
}

/// A text, or parts of one.
#[derive(ToSchema)]
#[schema(as = MessageContent)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what Content reads")]
pub enum ContentShape {
    /// A text.
    Text(String),
    /// Its parts.
    Parts(Vec<PartShape>),
}

/// A part of a text.
#[derive(ToSchema)]
#[schema(as = ContentPart)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what Content reads")]
pub enum PartShape {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// Assistant messages: what it refused with.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// A message's content: a text or parts.
#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// A request that has passed every check.
#[derive(Debug)]
pub struct CheckedChat {
    pub model: String,
    /// One JSON object a message, contents as one string.
    pub messages: Vec<Value>,
    pub sampling: SamplingParams,
    pub stop: Vec<String>,
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
        let structured = Wishes {
            response_format: self.response_format,
            guided_json: self.guided_json,
            guided_regex: self.guided_regex,
            guided_choice: self.guided_choice,
            guided_grammar: self.guided_grammar,
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
        let messages = messages.into_iter().enumerate().map(message_object).collect::<Result<_, _>>()?;
        Ok(CheckedChat {
            model: self.model,
            messages,
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

/// A message as the chat templates take it: OpenAI's object with the content as one string.
fn message_object((index, message): (usize, Message)) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = message.role;
    for (field, given) in [("function_call", &message.function_call), ("audio", &message.audio)] {
        if *given != Given::Null {
            let param = at(field);
            let message = format!("Unsupported parameter: '{param}' is not supported by this server.");
            return Err(ApiError::unsupported(param, message));
        }
    }
    let tool_calls = message.tool_calls.filter(|calls| !calls.is_empty());
    if tool_calls.is_some() && role != Role::Assistant {
        return Err(ApiError::invalid_value(
            at("tool_calls"),
            format!("Invalid '{}': only assistant messages have tool calls.", at("tool_calls")),
        ));
    }
    let content = match (message.content, message.refusal) {
        (Some(content), _) => Some(flatten(content, role, index)?),
        (None, Some(refusal)) if role == Role::Assistant => Some(refusal),
        (None, _) if tool_calls.is_some() => None,
        (None, _) => {
            let wants =
                if role == Role::Assistant { "a string, or 'tool_calls' beside it" } else { "a string" };
            return Err(ApiError::invalid_type(
                Some(at("content")),
                format!("Invalid value for '{}': expected {wants}, got null or nothing.", at("content")),
            ));
        }
    };
    let mut object = Map::new();
    object.insert("role".to_owned(), json!(role));
    object.insert("content".to_owned(), json!(content));
    if let Some(name) = message.name {
        object.insert("name".to_owned(), Value::String(name));
    }
    if let Some(calls) = tool_calls {
        object.insert("tool_calls".to_owned(), json!(calls));
    }
    match (role, message.tool_call_id) {
        (Role::Tool, Some(id)) => {
            object.insert("tool_call_id".to_owned(), Value::String(id));
        }
        (Role::Tool, None) => return Err(ApiError::missing(at("tool_call_id"))),
        (_, Some(_)) => {
            return Err(ApiError::invalid_value(
                at("tool_call_id"),
                format!("Invalid '{}': only tool messages have it.", at("tool_call_id")),
            ));
        }
        (_, None) => {}
    }
    Ok(Value::Object(object))
}

/// A content's text; parts are joined by line breaks, as llama.cpp and vLLM join them.
fn flatten(content: Content, role: Role, message: usize) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let at = format!("messages[{message}].content");
    if parts.is_empty() {
        return Err(ApiError::invalid_value(&at, format!("Invalid '{at}': at least one part is needed.")));
    }
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (field, text) = match part.kind.as_str() {
            "text" => ("text", part.text),
            "refusal" if role == Role::Assistant => ("refusal", part.refusal),
            kind @ ("image_url" | "input_audio" | "file") => {
                return Err(ApiError::invalid_value(
                    format!("{at}.type"),
                    format!("Invalid '{at}.type': '{kind}', but this model only takes text."),
                ));
            }
            kind => {
                return Err(ApiError::invalid_value(
                    format!("{at}.type"),
                    format!("Invalid '{at}.type': '{kind}' is not one of the content types, such as 'text'."),
                ));
            }
        };
        texts.push(text.ok_or_else(|| ApiError::missing(format!("{at}.{field}")))?);
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
#[path = "chat_request_tests.rs"]
mod tests;
