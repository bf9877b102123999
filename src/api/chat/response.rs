//! `POST /chat/completions`: the response, whole and in chunks.
//!
//! Source: `CreateChatCompletionResponse` and `CreateChatCompletionStreamResponse` in OpenAI's API description;
//! `reasoning_content` as in DeepSeek's API, vLLM and llama-server.

use std::borrow::Cow;

use jan_actors::model::TokenUsage;
use serde::Serialize;
use utoipa::ToSchema;

use super::conversation::ConversationRef;
use super::message::{CalledFunction, ToolCall, ToolCallKind};
use crate::api::inference::choices::ChoiceEvent;
use crate::api::inference::logprobs::ChatLogprobs;
use crate::api::inference::streaming::Encoder;
use crate::api::inference::usage::{Finish, ResponseHeader, StreamedUsage, Usage};
use crate::api::inference::web_search::citations::{ChatCitation, UrlCitation};
use crate::http::sse;

/// The only service tier.
pub const TIER: &str = "default";

/// A chat completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion<'a> {
    /// A unique id.
    #[schema(example = "chatcmpl-2f1c6a8e0d5b4f7f9a3c1e2d4b6f8a01")]
    pub id: &'a str,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: i64,
    /// The model as requested.
    pub model: &'a str,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Always `default`.
    pub service_tier: &'static str,
    /// Identifies the build and the model.
    pub system_fingerprint: &'a str,
    /// The stored item; only with `conversation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationRef>,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its index.
    index: u32,
    /// The model's message.
    message: AssistantMessage,
    /// Log-probabilities of its tokens; null unless `logprobs` requests them.
    logprobs: Option<ChatLogprobs>,
    /// The reason why it ended.
    finish_reason: Finish,
    /// Set if a call is one of `functions`.
    #[serde(skip)]
    old_form: bool,
}

impl ChatChoice {
    /// Creates an empty answer; with `old_form`, its call is one of `functions`.
    pub fn new(index: u32, with_logprobs: bool, old_form: bool) -> Self {
        let message = AssistantMessage {
            role: "assistant",
            content: Some(String::new()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            function_call: None,
            refusal: (),
            annotations: Vec::new(),
        };
        let logprobs = with_logprobs.then(ChatLogprobs::default);
        Self { index, message, logprobs, finish_reason: Finish::Stop, old_form }
    }

    /// Adds an event. The caller tracks the end of the answer.
    pub fn take(&mut self, event: ChoiceEvent) {
        let message = &mut self.message;
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                message.content.get_or_insert_default().push_str(&text);
                if let Some(all) = &mut self.logprobs {
                    all.extend(logprobs);
                }
            }
            // Chat does not echo its prompt.
            ChoiceEvent::Prompt(_) => {}
            ChoiceEvent::Reasoning(text) => {
                message.reasoning_content.get_or_insert_default().push_str(&text);
            }
            ChoiceEvent::Call { id, name, .. } => {
                let function = CalledFunction { name, arguments: String::new() };
                message.tool_calls.push(ToolCall { id, kind: ToolCallKind::Function, function });
            }
            ChoiceEvent::Arguments { text, .. } => {
                if let Some(call) = message.tool_calls.last_mut() {
                    call.function.arguments.push_str(&text);
                }
            }
            ChoiceEvent::Citations(cited) => message.annotations = of_chat(cited),
            ChoiceEvent::Finished(reason, _) => {
                let called = !message.tool_calls.is_empty();
                self.finish_reason = Finish::of(reason, called, self.old_form);
                if self.old_form {
                    message.function_call = message.tool_calls.pop().map(|call| call.function);
                }
                // As in OpenAI's API: a message with calls only has no content.
                if called {
                    message.content = message.content.take().filter(|text| !text.is_empty());
                }
            }
        }
    }
}

fn of_chat(cited: Vec<UrlCitation>) -> Vec<ChatCitation> {
    cited.into_iter().map(Into::into).collect()
}

/// The model's message.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    role: &'static str,
    /// The text; null if the message only has tool calls.
    content: Option<String>,
    /// The reasoning before the text; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// The tool calls; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    /// The call of one of `functions`; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(deprecated)]
    function_call: Option<CalledFunction>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: (),
    /// The pages that the text cites, after `web_search_options`.
    annotations: Vec<ChatCitation>,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk<'a> {
    /// The same in all chunks of one response.
    id: &'a str,
    /// Always `chat.completion.chunk`.
    object: &'static str,
    /// Unix seconds, the same in all chunks of one response.
    created: i64,
    /// The model as requested.
    model: &'a str,
    /// Always `default`.
    service_tier: &'static str,
    /// Identifies the build and the model.
    system_fingerprint: &'a str,
    /// The increment of one answer; empty in the chunk with the usage.
    choices: Vec<ChunkChoice<'a>>,
    /// With `stream_options.include_usage`: null except in the last chunk. With `continuous_usage_stats`: the usage so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// The stored item; only with `conversation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<&'a ConversationRef>,
}

/// The increment of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice<'a> {
    /// The answer's index.
    index: u32,
    /// The increment.
    delta: Delta<'a>,
    /// Log-probabilities of the new tokens; null if there are none, or if `logprobs` does not request them.
    logprobs: Option<ChatLogprobs>,
    /// The reason why it ended; null until then.
    finish_reason: Option<Finish>,
}

/// The increment of an answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta<'a> {
    /// Only in the first chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Cow<'a, str>>,
    /// More reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// More of the tool calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta; 1]>,
    /// More of the call of one of `functions`: its name in its first chunk, more of its arguments in the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(deprecated)]
    function_call: Option<FunctionDelta>,
    /// The pages that the text cites, in one of the last chunks of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Vec<ChatCitation>>,
    /// Null in the first chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    refusal: Option<()>,
}

impl Delta<'_> {
    fn call(call: CallDelta, old_form: bool) -> Self {
        match old_form {
            true => Self { function_call: Some(call.function), ..Self::default() },
            false => Self { tool_calls: Some([call]), ..Self::default() },
        }
    }
}

/// The increment of a call: its id, type and name in its first chunk, more of its arguments in the others.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallDelta {
    /// The call's index in the answer.
    index: u32,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<ToolCallKind>,
    /// The function.
    function: FunctionDelta,
}

/// The increment of a called function.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// More of its arguments as JSON text.
    arguments: String,
}

/// Encodes the chunks of a stream.
pub struct ChunkEncoder {
    /// The common fields of all chunks.
    pub head: ResponseHeader,
    /// The usage so far, and the chunks that report it.
    pub usage: StreamedUsage,
    /// For each answer, whether it has called tools.
    pub called: Vec<bool>,
    /// Set if calls are those of `functions`.
    pub old_form: bool,
    /// The conversation that the answer is stored in.
    pub conversation: Option<ConversationRef>,
}

impl ChunkEncoder {
    fn write(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Option<Usage>>, buffer: &mut Vec<u8>) {
        let chunk = ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            service_tier: TIER,
            system_fingerprint: &self.head.system_fingerprint,
            choices,
            usage,
            conversation: self.conversation.as_ref(),
        };
        sse::write_event(buffer, &chunk);
    }

    fn write_choice(
        &self,
        index: usize,
        delta: Delta<'_>,
        logprobs: Option<ChatLogprobs>,
        end: Option<Finish>,
        buffer: &mut Vec<u8>,
    ) {
        let index = u32::try_from(index).expect("there are at most 128 answers");
        let choice = ChunkChoice { index, delta, logprobs, finish_reason: end };
        self.write(vec![choice], self.usage.of_chunk(), buffer);
    }
}

impl Encoder for ChunkEncoder {
    fn so_far(&mut self, answers: &[TokenUsage]) {
        self.usage.so_far(answers);
    }

    fn opening(&mut self, buffer: &mut Vec<u8>) {
        for index in 0..self.called.len() {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(Cow::Borrowed("")),
                refusal: Some(()),
                ..Delta::default()
            };
            self.write_choice(index, delta, None, None, buffer);
        }
    }

    fn event(&mut self, index: usize, event: ChoiceEvent, buffer: &mut Vec<u8>) {
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                let delta = Delta { content: Some(Cow::Owned(text)), ..Delta::default() };
                self.write_choice(index, delta, ChatLogprobs::of_chunk(logprobs), None, buffer);
            }
            // Chat does not echo its prompt.
            ChoiceEvent::Prompt(_) => {}
            ChoiceEvent::Reasoning(text) => {
                let delta = Delta { reasoning_content: Some(text), ..Delta::default() };
                self.write_choice(index, delta, None, None, buffer);
            }
            ChoiceEvent::Call { number, id, name } => {
                self.called[index] = true;
                let function = FunctionDelta { name: Some(name), arguments: String::new() };
                let kind = Some(ToolCallKind::Function);
                let call = CallDelta { index: number, id: Some(id), kind, function };
                self.write_choice(index, Delta::call(call, self.old_form), None, None, buffer);
            }
            ChoiceEvent::Arguments { number, text } => {
                let function = FunctionDelta { name: None, arguments: text };
                let call = CallDelta { index: number, id: None, kind: None, function };
                self.write_choice(index, Delta::call(call, self.old_form), None, None, buffer);
            }
            ChoiceEvent::Citations(cited) => {
                let delta = Delta { annotations: Some(of_chat(cited)), ..Delta::default() };
                self.write_choice(index, delta, None, None, buffer);
            }
            ChoiceEvent::Finished(reason, usage) => {
                self.usage.finished(index, usage);
                let end = Finish::of(reason, self.called[index], self.old_form);
                self.write_choice(index, Delta::default(), None, Some(end), buffer);
            }
        }
    }

    fn closing(&mut self, buffer: &mut Vec<u8>) {
        if let usage @ Some(_) = self.usage.of_last() {
            self.write(Vec::new(), usage, buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use jan_actors::model::FinishReason;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::inference::params::UsageChunks;
    use crate::api::inference::usage::UsageSum;

    fn encoder(include_usage: bool, answers: usize) -> ChunkEncoder {
        ChunkEncoder {
            head: ResponseHeader {
                id: "chatcmpl-1".to_owned(),
                created: 7,
                model: "m".to_owned(),
                system_fingerprint: "fp".to_owned(),
            },
            usage: StreamedUsage::new(
                UsageChunks { last: include_usage, all: false },
                UsageSum::new(1, answers),
            ),
            called: vec![false; answers],
            old_form: false,
            conversation: None,
        }
    }

    fn chunks(buffer: &[u8]) -> Vec<Value> {
        std::str::from_utf8(buffer)
            .unwrap()
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    fn play(encoder: &mut ChunkEncoder) -> Vec<Value> {
        let usage =
            TokenUsage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 1, reasoning_tokens: 0 };
        let mut buffer = Vec::new();
        encoder.opening(&mut buffer);
        encoder.event(0, ChoiceEvent::Text("Hi".to_owned(), Vec::new()), &mut buffer);
        encoder.event(0, ChoiceEvent::Finished(FinishReason::Length, usage), &mut buffer);
        encoder.closing(&mut buffer);
        chunks(&buffer)
    }

    #[test]
    fn chunks_are_openais() {
        let base = |choice: Value| {
            json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
                "service_tier": "default", "system_fingerprint": "fp", "choices": [choice],
            })
        };
        let choice = |delta: Value, finish: Value| {
            base(json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}))
        };
        assert_eq!(
            play(&mut encoder(false, 1)),
            [
                choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null),
                choice(json!({"content": "Hi"}), Value::Null),
                choice(json!({}), json!("length")),
            ]
        );
    }

    #[test]
    fn calls_are_openais_deltas() {
        let mut encoder = encoder(false, 1);
        let mut buffer = Vec::new();
        let call = ChoiceEvent::Call { number: 0, id: "c".to_owned(), name: "f".to_owned() };
        encoder.event(0, ChoiceEvent::Reasoning("hm".to_owned()), &mut buffer);
        encoder.event(0, call, &mut buffer);
        encoder.event(0, ChoiceEvent::Arguments { number: 0, text: "{}".to_owned() }, &mut buffer);
        encoder.event(0, ChoiceEvent::Finished(FinishReason::Stop, TokenUsage::default()), &mut buffer);
        let chunks = chunks(&buffer);
        let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        let function = json!({"name": "f", "arguments": ""});
        assert_eq!(deltas[0], &json!({"reasoning_content": "hm"}));
        assert_eq!(
            deltas[1]["tool_calls"],
            json!([{"index": 0, "id": "c", "type": "function", "function": function}])
        );
        assert_eq!(deltas[2]["tool_calls"], json!([{"index": 0, "function": {"arguments": "{}"}}]));
        assert_eq!(chunks[3]["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn calls_of_functions_have_the_old_form() {
        let mut encoder = ChunkEncoder { old_form: true, ..encoder(false, 1) };
        let mut whole = ChatChoice::new(0, false, true);
        let mut buffer = Vec::new();
        let event = |number| match number {
            0 => ChoiceEvent::Call { number: 0, id: "c".to_owned(), name: "f".to_owned() },
            1 => ChoiceEvent::Arguments { number: 0, text: "{}".to_owned() },
            _ => ChoiceEvent::Finished(FinishReason::Stop, TokenUsage::default()),
        };
        for number in 0..3 {
            encoder.event(0, event(number), &mut buffer);
            whole.take(event(number));
        }
        let chunks = chunks(&buffer);
        let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        assert_eq!(deltas[0], &json!({"function_call": {"name": "f", "arguments": ""}}));
        assert_eq!(deltas[1], &json!({"function_call": {"arguments": "{}"}}));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "function_call");
        let whole = json!(whole);
        assert_eq!(whole["finish_reason"], "function_call");
        let message = &whole["message"];
        assert_eq!(message["function_call"], json!({"name": "f", "arguments": "{}"}));
        assert!(message["content"].is_null() && message.get("tool_calls").is_none(), "{message}");
        assert!(whole.get("old_form").is_none());
    }

    #[test]
    fn usage_is_null_until_the_last_chunk_which_has_no_choices() {
        let chunks = play(&mut encoder(true, 1));
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(others.len(), 3);
        assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["total_tokens"], 6);
        assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
        assert_eq!(last["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    }

    #[test]
    fn every_answer_opens_with_its_role() {
        let mut buffer = Vec::new();
        encoder(false, 3).opening(&mut buffer);
        let indexes: Vec<u64> =
            chunks(&buffer).iter().map(|chunk| chunk["choices"][0]["index"].as_u64().unwrap()).collect();
        assert_eq!(indexes, [0, 1, 2]);
    }
}
