//! The rendering of a chat to the prompt's text, with the model's own template or around features that it lacks.

use jan_protocol::output_formats::{Formats, detect};
use jan_protocol::types::{ChatPrompt, PromptEnding};
use serde_json::{Value, json};

use super::chat_template::{ChatInput, ChatTemplate, TemplateError};
use super::fallback_tools::{describe_tools, read_arguments, spell_out_calls};
use super::roles::Roles;

/// A chat template and its features.
#[derive(Clone, Debug)]
pub struct Renderer {
    template: ChatTemplate,
    /// The formats that the model writes beside plain text, according to the template.
    pub formats: Formats,
    /// `true` if it shows earlier calls.
    shows_calls: bool,
    roles: Roles,
}

impl Renderer {
    /// Parses a template and determines its features.
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
        let shows_texts = |messages: &[Value], tools: Option<&[Value]>, texts: &[&str]| {
            let input = ChatInput {
                messages,
                tools,
                documents: None,
                add_generation_prompt: true,
                extra: None,
                now: jiff::Zoned::now(),
            };
            template.render(&input).is_ok_and(|prompt| texts.iter().all(|text| prompt.contains(text)))
        };
        let shows = |messages: &[Value], tools: Option<&[Value]>| shows_texts(messages, tools, &[PROBE]);
        let shows_tools = shows(std::slice::from_ref(&question), Some(&tools));
        let shows_calls =
            shows(&[question.clone(), called.clone()], None) || shows(&[question, called, result], None);
        let formats = detect(source, shows_tools);
        let roles = Roles::find(source, |messages, texts| shows_texts(messages, None, texts));
        Ok(Self { template, formats, shows_calls, roles })
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// The template's complaint about these messages.
    pub fn render(&self, chat: &ChatPrompt) -> Result<String, TemplateError> {
        let mut messages = self.roles.adapt(chat.messages.clone());
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
        // fail; to them it is an empty one.
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
        // As transformers does: up to the end of the last message's text, with the white space there, which many templates leave
        // out.
        let last = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
        let space = &last[last.trim_end().len()..];
        let last = last.trim();
        match text.rfind(last).filter(|_| !last.is_empty()) {
            Some(at) => Ok(format!("{}{space}", &text[..at + last.len()])),
            None => Err(TemplateError::Refused(
                "the last message cannot be continued: the template does not show its text".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jan_protocol::output_formats::{ReasoningFormat, ToolFormat};

    fn renderer(name: &str) -> Renderer {
        let path = format!("{}/../../fixtures/templates/{name}", env!("CARGO_MANIFEST_DIR"));
        Renderer::new(&std::fs::read_to_string(path).unwrap(), "", "<|im_end|>").unwrap()
    }

    fn turn() -> ChatPrompt {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        ChatPrompt {
            tools: vec![
                json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}),
            ],
            ..ChatPrompt::from(vec![
                json!({"role": "user", "content": "q"}),
                json!({"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [call]}),
                json!({"role": "tool", "tool_call_id": "c", "content": "r"}),
            ])
        }
    }

    #[test]
    fn qwen3_thinking_opens_its_thinking_and_shows_calls() {
        let renderer = renderer("qwen3-thinking.jinja");
        let formats = Formats { tools: Some(ToolFormat::Hermes), reasoning: Some(ReasoningFormat::Think) };
        assert_eq!(renderer.formats, formats);
        let text = renderer.render(&turn()).unwrap();
        let told = "<|im_start|>assistant\n<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n\
                    </tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n\
                    <|im_start|>assistant\n<think>\n";
        assert!(text.contains("<tools>\n{\"type\": \"function\"") && text.ends_with(told), "{text}");
    }

    #[test]
    fn templates_that_know_no_tools_are_told() {
        let renderer = renderer("smollm2.jinja");
        assert_eq!(renderer.formats, Formats::default());
        let text = renderer.render(&turn()).unwrap();
        assert!(text.contains("<tools>\n{\"type\":\"function\""), "{text}");
        assert!(
            text.contains("<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>"),
            "{text}"
        );
        assert!(text.contains("<tool_response>\nr\n</tool_response>"), "{text}");
    }

    /// Every text is shown, in its order, for all sequences of roles.
    #[test]
    fn no_template_loses_a_message() {
        let chats: &[&[&str]] = &[
            &["system", "user"],
            &["developer", "user"],
            &["system", "developer", "user", "assistant", "user"],
            &["system"],
            &["developer"],
            &["user", "user", "user"],
            &["user", "system", "user"],
            &["user", "assistant", "developer", "user"],
            &["user", "assistant", "user", "system"],
            &["system", "user", "assistant", "assistant", "user"],
            &["system", "system", "user", "user", "assistant", "user", "user"],
        ];
        let chatml = ("CHATML", super::super::chat_template::CHATML.to_owned());
        let files = ["gemma", "llama3", "mistral", "qwen3", "qwen3-thinking", "smollm2"];
        let path = |name| format!("{}/../../fixtures/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
        let files = files.map(|name| (name, std::fs::read_to_string(path(name)).unwrap()));
        for (name, source) in files.into_iter().chain([chatml]) {
            let renderer = Renderer::new(&source, "<s>", "</s>").unwrap();
            for roles in chats {
                let message = |(number, role): (usize, &&str)| json!({"role": role, "content": format!("text {number}.")});
                let prompt = ChatPrompt::from(roles.iter().enumerate().map(message).collect::<Vec<_>>());
                let text =
                    renderer.render(&prompt).unwrap_or_else(|error| panic!("{name} {roles:?}: {error}"));
                let places: Vec<_> =
                    (0..roles.len()).map(|number| text.find(&format!("text {number}."))).collect();
                assert!(places.iter().all(Option::is_some), "{name} {roles:?}: {text}");
                // Mistral's puts the system's text into the last turn.
                assert!(places.is_sorted() || name == "mistral", "{name} {roles:?}: {text}");
                assert!(!text.contains("developer"), "{name} {roles:?}: {text}");
            }
        }
    }

    #[test]
    fn a_message_goes_on() {
        let messages = vec![
            json!({"role": "user", "content": "q"}),
            json!({"role": "assistant", "content": "Once upon "}),
        ];
        let prompt = ChatPrompt { ending: PromptEnding::LastMessage, ..ChatPrompt::from(messages) };
        assert!(renderer("qwen3.jinja").render(&prompt).unwrap().ends_with("Once upon "));
        let nothing = ChatPrompt { messages: vec![json!({"role": "user", "content": ""})], ..prompt };
        assert!(renderer("qwen3.jinja").render(&nothing).is_err());
    }
}
