//! Formats of tool calls. Each is a file with everything that is particular to it, and a line of the registry below.

use super::Tool;
use super::call_syntax::{CallSyntax, NamedArguments};
use super::json_calls::Calls;
use super::registry::{TemplateMarks, registry};

pub(super) use self::harmony::{ANALYSIS, CLOSING, CONTROL_TOKENS, Harmony, TEMPLATE};

registry! {
    /// Format of a model's tool calls.
    ToolFormat of ToolFormatSpec {
        Hermes = hermes,
        Llama3 = llama3,
        Llama4 = llama4,
        Lfm2 = lfm2,
        Mistral = mistral,
        MistralArgs = mistral_args,
        DeepseekV3 = deepseek_v3,
        DeepseekV31 = deepseek_v31,
        Glm = glm,
        QwenXml = qwen_xml,
        Kimi = kimi,
        Harmony = harmony,
    }
}

/// Everything that is particular to one format.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToolFormatSpec {
    /// Name in the configuration and the worker protocol.
    pub name: &'static str,
    /// Marks in chat templates that identify it.
    pub template: TemplateMarks,
    /// Texts of the syntax that are control tokens in the vocabularies of its models.
    pub control_tokens: &'static [&'static str],
    /// Recognition of calls in free text.
    pub reader: CallReader,
    /// Syntax that constrained calls follow. A format that writes arguments without JSON takes that of Hermes, which its
    /// models and its reader know as well.
    pub syntax: CallSyntax,
    /// Answers that are one call of `get_weather` with `{"city": "Hà Nội"}`; one of them is written as `syntax` has it.
    pub examples: &'static [&'static str],
}

/// Recognition of calls in free text.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallReader {
    /// Calls are in blocks, with text around them.
    Blocks(Blocks),
    /// The whole answer consists of messages with headers.
    Messages,
}

/// Reports whether an answer that begins so is one block without an opening text; `None`: undecided until more text arrives.
pub(super) type IsBare = fn(&str, &[Tool]) -> Option<bool>;

/// Blocks of calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Text that begins a block.
    pub open: &'static str,
    /// Text that ends it; `None`: the end of the answer does.
    pub close: Option<&'static str>,
    /// The test that recognizes an answer of one block without `open` by its beginning; `None`: there is no such answer.
    pub bare: Option<IsBare>,
    /// Parses the trimmed contents of a block; `None`: it is text.
    pub parse: fn(&str, &[Tool]) -> Option<Calls>,
}

impl ToolFormat {
    /// The format of models that are not recognised: those that can call tools at all have mostly learnt it, too.
    pub const DEFAULT: Self = Self::Hermes;

    /// Returns the syntax that constrained calls follow.
    #[must_use]
    pub const fn syntax(self) -> &'static CallSyntax {
        &self.spec().syntax
    }

    /// Returns answers that are one call of `get_weather` with `{"city": "Hà Nội"}`.
    #[must_use]
    pub const fn examples(self) -> &'static [&'static str] {
        self.spec().examples
    }
}
