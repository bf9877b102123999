//! From a chat to the prompt's text, with the model's own template or around what it does not know.

use serde_json::{Value, json};

use super::fallback::{describe_tools, read_arguments, spell_out_calls};
use super::template::{ChatInput, ChatTemplate, TemplateError};
use crate::model::formats::{Formats, detect};
use crate::model::types::{ChatPrompt, PromptEnding};

/// A chat template and what it knows.
#[derive(Clone, Debug)]
pub struct Renderer {
    template: ChatTemplate,
    /// What the model writes beside plain text, as the template tells.
    pub formats: Formats,
    /// Whether it shows earlier calls.
    shows_calls: bool,
}

impl Renderer {
    /// Parses a template and tries what it shows.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        const PROBE: &str = "zqx_probe";
        let template = ChatTemplate::new(source, bos, eos)?;
        let question = json!({"role": "user", "content": "?"});
        let function =
            json!({"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}});
        let tools = [json!({"type": "function", "function": function})];
        let arguments = json!({});
        let call = json!({"id": "abcdefghi", "type": "function", "function": {"name": PROBE, "arguments": arguments}});
        let called = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        let result = json!({"role": "tool", "tool_call_id": "abcdefghi", "content": "!"});
        let shows = |messages: &[Value], tools: Option<&[Value]>| {
            let input = ChatInput {
                messages,
                tools,
                documents: None,
                add_generation_prompt: true,
                extra: None,
                now: jiff::Zoned::now(),
            };
            template.render(&input).is_ok_and(|text| text.contains(PROBE))
        };
        let shows_tools = shows(std::slice::from_ref(&question), Some(&tools));
        let shows_calls =
            shows(&[question.clone(), called.clone()], None) || shows(&[question, called, result], None);
        let formats = detect(source, shows_tools);
        Ok(Self { template, formats, shows_calls })
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// What the template says of these messages.
    pub fn render(&self, chat: &ChatPrompt) -> Result<String, TemplateError> {
        let mut messages = chat.messages.clone();
        read_arguments(&mut messages);
        let mut tools = &chat.tools[..];
        if !self.shows_calls {
            messages = spell_out_calls(messages);
        }
        if self.formats.tools.is_none() && !tools.is_empty() {
            messages = describe_tools(messages, tools);
            tools = &[];
        }
        let render = |messages: &[Value]| {
            self.template.render(&ChatInput {
                messages,
                tools: Some(tools).filter(|tools| !tools.is_empty()),
                documents: Some(&chat.documents[..]).filter(|documents| !documents.is_empty()),
                add_generation_prompt: chat.ending == PromptEnding::Answer,
                extra: Some(&chat.template_kwargs),
                now: jiff::Zoned::now(),
            })
        };
        let mut text = render(&messages);
        // A message that only calls tools has no content. Templates that know nothing of tools add it to a text, and
        // fail; to them it is one that says nothing.
        if text.is_err() && messages.iter().any(|message| message["content"].is_null()) {
            for message in messages.iter_mut().filter(|message| message["content"].is_null()) {
                message["content"] = Value::String(String::new());
            }
            text = render(&messages);
        }
        let text = text?;
        if chat.ending != PromptEnding::LastMessage {
            return Ok(text);
        }
        // As transformers does: up to the end of what the last message says.
        let last = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
        let last = last.trim();
        match text.rfind(last).filter(|_| !last.is_empty()) {
            Some(at) => Ok(text[..at + last.len()].to_owned()),
            None => Err(TemplateError::Refused(
                "the last message cannot be continued: the template does not show its text".to_owned(),
            )),
        }
    }
}
