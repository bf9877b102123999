//! Chat templates: the Jinja programs in models' metadata that turn messages into the prompt the model was trained on.
//!
//! They are written for Hugging Face transformers, which renders them with Python's Jinja2, so that is the behaviour to
//! match ([`apply_chat_template`]): `trim_blocks` and `lstrip_blocks`, loop controls, no escaping, a `tojson` that is
//! Python's `json.dumps`, Python's string methods, the functions `raise_exception` and `strftime_now`, and the tag
//! `{% generation %}`. The engine here is minijinja; `fixtures/templates` holds what Jinja2 itself printed, and the
//! tests compare with that.
//!
//! Known differences, none of them in templates that we have met: `%` on strings, a unary plus, `varargs` and `kwargs` in
//! macros, the test `callable`, and changing a list in place (`append`, `pop`), which transformers' sandbox forbids, are missing;
//! looping over `none` does nothing where Python fails; `safe` marks nothing, as nothing is escaped; `~` and `join` print floats
//! below 1e-4 and from 1e16 on without an exponent; `e` writes `&quot;` where Jinja2 writes `&#34;`; the argument `boolean` of
//! `default` has no name, `dict` takes no list of pairs, `startswith` no position, `format` no `!r`, and texts no `\U…`.
//! `tests/python/test_chat_templates.py` compares whole conversations with about 80 templates.
//!
//! Rendering is pure (the time is an input) and bounded: a template that loops or grows without end fails with
//! [`TemplateError::TooCostly`]. One hole is left: a template made to do so can nest lists so deeply that dropping them
//! overflows the stack, which ends the process. Messages can't cause it, only a malicious model file.
//!
//! [`apply_chat_template`]: https://huggingface.co/docs/transformers/chat_templating

mod filters;
mod json;
mod python;

use std::borrow::Cow;
use std::fmt;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

/// The template for models that carry none: ChatML, the most common format, as in [OpenAI's description].
///
/// [OpenAI's description]: https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
pub const CHATML: &str = "\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}{{ part.text }}{% endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// The maximum cost of one render, in minijinja's fuel: an instruction costs 1, and so do 64 bytes of data made or read. It pays
/// for a prompt of tens of megabytes or of tens of thousands of messages, and ends an endless loop in about a second and within
/// 640 MB.
const FUEL: u64 = 10_000_000;

/// The reason why a template could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template does not parse: the model's fault.
    #[error("the chat template is not valid: {0}")]
    Invalid(String),
    /// The template refused the messages with `raise_exception`: the caller's fault, in the template's own words.
    #[error("{0}")]
    Refused(String),
    /// The template could not deal with these messages, e.g. it looked for a field that is missing.
    #[error("the chat template failed on these messages: {0}")]
    Failed(String),
    /// Rendering took more than it may.
    #[error("rendering the chat template of these messages takes too much work")]
    TooCostly,
}

/// The input of a template's rendering.
#[derive(Clone, Debug)]
pub struct ChatInput<'a> {
    /// Chat messages as OpenAI's wire objects.
    pub messages: &'a [serde_json::Value],
    /// Tools as OpenAI's wire objects; the template sees `none` where there are none.
    pub tools: Option<&'a [serde_json::Value]>,
    /// Documents for retrieval, as transformers has them; the template sees `none` where there are none.
    pub documents: Option<&'a [serde_json::Value]>,
    /// `true` if the prompt ends with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// More variables, e.g. `enable_thinking`. They come before `bos_token` and `eos_token`, but not before the fields
    /// above.
    pub extra: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// The current time of `strftime_now`.
    pub now: Zoned,
}

/// A parsed chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("bos", &self.bos).field("eos", &self.eos).finish_non_exhaustive()
    }
}

/// The name under which an environment holds its one template.
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are the texts of the model's tokens, empty where it has none.
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] where it is not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| TemplateError::Invalid(describe(&error)))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_debug(false);
        python::install(&mut environment);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, replace_generation_tags(&normalize_newlines(source)).into_owned())
            .map_err(|error| TemplateError::Invalid(describe(&error)))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders the prompt's text.
    ///
    /// # Errors
    /// [`TemplateError::Refused`], [`TemplateError::Failed`] or [`TemplateError::TooCostly`].
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        let list = |items: &[serde_json::Value]| items.iter().map(json::to_value).collect::<Value>();
        let list_or_none = |items: Option<&[serde_json::Value]>| items.map_or(Value::from(()), list);
        let now = input.now.clone();
        let fixed = [
            ("messages", list(input.messages)),
            ("tools", list_or_none(input.tools)),
            ("documents", list_or_none(input.documents)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("strftime_now", Value::from_function(move |format: &str| strftime(format, &now))),
        ];
        let tokens = [("bos_token", Value::from(&*self.bos)), ("eos_token", Value::from(&*self.eos))];
        let extra =
            input.extra.into_iter().flatten().map(|(name, value)| (name.as_str(), json::to_value(value)));
        let context = Value::from_pairs(tokens.into_iter().chain(extra).chain(fixed));
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| classify(&error))
    }
}

/// `raise_exception(message)`: marks the error, so that it can be distinguished from a failure.
fn raise_exception(message: Value) -> Result<Value, minijinja::Error> {
    let refusal = Refusal(message.to_string());
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception was called").with_source(refusal))
}

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// `strftime_now(format)`: Python's `datetime.now().strftime(format)`.
fn strftime(format: &str, now: &Zoned) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

fn classify(error: &minijinja::Error) -> TemplateError {
    // An error inside a macro or a filter is the source of the error outside.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        if error.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::TooCostly;
        }
        cause = error.source();
    }
    TemplateError::Failed(describe(error))
}

fn describe(error: &minijinja::Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text
}

/// Jinja2 reads every kind of line end as a line feed.
fn normalize_newlines(source: &str) -> Cow<'_, str> {
    if !source.contains('\r') {
        return Cow::Borrowed(source);
    }
    Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Replaces `{% generation %}` … `{% endgeneration %}` by `{% with %}` … `{% endwith %}`.
///
/// transformers' tag marks the assistant's text, for training masks, and prints its body. Like `with` it has a scope of its own,
/// so a tag of the same kind stands in for it: that keeps the effect of the tag's dashes and place on the whitespace around it.
fn replace_generation_tags(source: &str) -> Cow<'_, str> {
    let mut replaced = String::new();
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        replaced.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inside = &tag[..end];
        let name = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let with = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        replaced.push_str(&inside.replace(name, with));
        rest = &tag[end..];
    }
    if replaced.is_empty() {
        return Cow::Borrowed(source);
    }
    replaced.push_str(rest);
    Cow::Owned(replaced)
}

#[cfg(test)]
#[path = "chat_template_tests.rs"]
mod tests;
