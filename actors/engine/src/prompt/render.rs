//! The rendering of a chat to the prompt's text, with the model's own template or around features that it lacks.

use std::borrow::Cow;

use jan_protocol::output_formats::{Formats, detect};
use jan_protocol::types::{ChatPrompt, PromptEnding};
use serde_json::{Map, Value, json};

use super::chat_template::{ChatInput, ChatTemplate, TemplateError};
use super::fallback_tools::{describe_tools, read_arguments, separate_calls, spell_out_calls};
use super::roles::Roles;

/// A chat template and its features.
#[derive(Clone, Debug)]
pub struct Renderer {
    template: ChatTemplate,
    /// The formats that the model writes beside plain text, according to the template.
    pub formats: Formats,
    calls: Calls,
    roles: Roles,
    /// `true` if it takes the tools and the time as texts, without which it fails.
    needs_texts: bool,
}

/// The forms of calls and results that a template shows.
#[derive(Clone, Copy, Debug)]
struct Calls {
    /// Earlier calls.
    shown: bool,
    /// Several calls of one message.
    several: bool,
    /// Arguments as JSON text, not as an object.
    as_text: bool,
    /// Results, be it behind calls that it does not show.
    results: bool,
    /// It prints the content of a message without one, as `None` or `null`.
    null_printed: bool,
}

impl Calls {
    /// Tries a template. `render`: its output, if it can deal with the messages.
    fn find(render: impl Fn(&[Value]) -> Option<String>) -> Self {
        const RESULT: &str = "zqx_result";
        let question = json!({"role": "user", "content": "?"});
        // Nine letters and digits, which Mistral's demands.
        let ids = ["abcdefgh1", "abcdefgh2"];
        let called = |names: &[&str], arguments: &Value, content: &Value| {
            let call = |(id, name): (&str, &&str)| {
                let function = json!({"name": name, "arguments": arguments});
                json!({"id": id, "type": "function", "function": function})
            };
            let calls: Vec<Value> = ids.into_iter().zip(names).map(call).collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        };
        let [got, got_too] = ids.map(|id| json!({"role": "tool", "tool_call_id": id, "content": RESULT}));
        let (first, second) = ("zqx_first", "zqx_second");
        let (key, text) = ("zqx_key", r#"{"zqx_key": "zqx_value"}"#);
        let object = json!({key: "zqx_value"});
        let (text_form, empty) = (json!(text), json!(""));
        let one = |arguments: &Value, content: &Value| {
            let with_result = [question.clone(), called(&[first], arguments, content), got.clone()];
            render(&with_result).or_else(|| render(&with_result[..2])).filter(|prompt| prompt.contains(first))
        };
        let of_object = one(&object, &empty).filter(|prompt| !prompt.contains(&format!("'{key}'")));
        let of_text = one(&text_form, &empty).filter(|prompt| prompt.contains(text));
        let as_text = of_object.is_none() && of_text.is_some();
        let arguments = if as_text { &text_form } else { &object };
        let shown = as_text || one(&object, &empty).is_some();
        let several = [question.clone(), called(&[first, second], arguments, &empty), got.clone(), got_too];
        let nothings = |content: &Value| {
            one(arguments, content)
                .map(|prompt| prompt.matches("None").count() + prompt.matches("null").count())
        };
        let behind_text = [question.clone(), json!({"role": "assistant", "content": "!"}), got.clone()];
        Self {
            shown,
            several: render(&several)
                .is_some_and(|prompt| [first, second].iter().all(|name| prompt.contains(name))),
            as_text,
            results: render(&behind_text).is_some_and(|prompt| prompt.contains(RESULT)),
            null_printed: matches!((nothings(&Value::Null), nothings(&empty)), (Some(null), Some(empty)) if null > empty),
        }
    }
}

impl Renderer {
    /// Parses a template and determines its features.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        const PROBE: &str = "zqx_probe";
        let template = ChatTemplate::new(source, bos, eos)?;
        let question = [json!({"role": "user", "content": "?"})];
        let function =
            json!({"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}});
        let tools = [json!({"type": "function", "function": function})];
        let render = |messages: &[Value], tools: Option<&[Value]>, extra: Option<&Map<String, Value>>| {
            let (documents, add_generation_prompt, now) = (None, true, jiff::Zoned::now());
            template.render(&ChatInput { messages, tools, documents, add_generation_prompt, extra, now }).ok()
        };
        let texts = as_texts();
        let needs_texts =
            render(&question, None, None).is_none() && render(&question, None, Some(&texts)).is_some();
        let extra = Some(&texts).filter(|_| needs_texts);
        let shows_tools = render(&question, Some(&tools), extra).is_some_and(|prompt| prompt.contains(PROBE));
        let formats = detect(source, shows_tools);
        let calls = Calls::find(|messages| render(messages, None, extra));
        let roles = Roles::find(source, |messages, texts| {
            render(messages, None, extra).is_some_and(|prompt| texts.iter().all(|text| prompt.contains(text)))
        });
        Ok(Self { template, formats, calls, roles, needs_texts })
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// The template's complaint about these messages.
    pub fn render(&self, chat: &ChatPrompt) -> Result<String, TemplateError> {
        let mut messages = chat.messages.clone();
        if !(self.calls.shown && self.calls.as_text) {
            read_arguments(&mut messages);
        }
        if !self.calls.shown {
            let keep_results = self.formats.tools.is_some() && self.calls.results;
            messages = spell_out_calls(messages, self.formats.tools, keep_results);
        } else if !self.calls.several {
            messages = separate_calls(messages);
        }
        let mut tools = &chat.tools[..];
        if self.formats.tools.is_none() && !tools.is_empty() {
            messages = describe_tools(messages, tools);
            tools = &[];
        }
        // Last, since what stands for calls and tools are messages of other roles.
        let mut messages = self.roles.adapt(messages);
        if self.calls.null_printed {
            empty_contents(&mut messages);
        }
        let mut variables = Cow::Borrowed(&chat.template_kwargs);
        if self.needs_texts {
            let missing = as_texts().into_iter().filter(|(name, _)| !chat.template_kwargs.contains_key(name));
            variables.to_mut().extend(missing);
        }
        let render = |messages: &[Value]| {
            self.template.render(&ChatInput {
                messages,
                tools: Some(tools).filter(|tools| !tools.is_empty()),
                documents: Some(&chat.documents[..]).filter(|documents| !documents.is_empty()),
                add_generation_prompt: chat.ending == PromptEnding::Answer,
                extra: Some(&variables),
                now: jiff::Zoned::now(),
            })
        };
        let mut text = render(&messages);
        // A message that only calls tools has no content. Templates that know nothing of tools add it to a text, and
        // fail; to them it is an empty one.
        if text.is_err() && messages.iter().any(|message| message["content"].is_null()) {
            empty_contents(&mut messages);
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

/// The variables of templates that take texts instead of lists (Firefunction).
fn as_texts() -> Map<String, Value> {
    let now = jiff::Zoned::now().strftime("%b %d %Y %H:%M:%S %Z").to_string();
    Map::from_iter([("functions".to_owned(), json!("")), ("datetime".to_owned(), json!(now))])
}

fn empty_contents(messages: &mut [Value]) {
    for message in messages.iter_mut().filter(|message| message["content"].is_null()) {
        message["content"] = Value::String(String::new());
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
