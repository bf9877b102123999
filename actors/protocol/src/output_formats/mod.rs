//! How models write what is not plain text: their thinking and their calls of tools.
//!
//! Every family of models was trained on its own way of doing so. [`detect()`] tells from a chat template which one a model
//! has; [`OutputParser`] takes an answer apart while it is made; [`grammar`](tool_grammar) keeps a call inside its form
//! where the caller wants a guarantee. All of it is pure.
//!
//! **Why these parsers are our own.** The maintained crates were looked at (November 2026). `tool-parser` 1.10 looks at its
//! whole buffer again for every piece, leaves out what stands between calls and blocks that it cannot read, and gives
//! other arguments whole than streamed; what it says therefore depends on how the text was cut. `dynamo-parsers` 11 brings
//! an HTTP client, an image library and a Python parser with it (through `openai-harmony`). Here the same text gives the
//! same parts however it is cut, and what cannot be read is text: property tests hold both.

mod call_syntax;
mod detect;
mod harmony;
mod output_parser;
mod pythonic;
mod reasoning;
mod tagged;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::call_syntax::{Form, GrammarMode, tool_grammar};
pub use self::detect::detect;
pub use self::harmony::harmony_thinking;
pub use self::output_parser::{OutputParser, Part};

/// How a model writes its calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, and many more; also what models are
    /// told to write whose template knows no tools.
    Hermes,
    /// `{"name": …, "parameters": …}` and nothing else, perhaps behind `<|python_tag|>`: Llama 3.
    Llama3,
    /// `[name(key="…")]`, perhaps between `<|python_start|>` and `<|python_end|>`, or as [`Self::Llama3`]: Llama 4.
    Llama4,
    /// `<|tool_call_start|>[name(key="…")]<|tool_call_end|>`: LFM2.
    Lfm2,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`: Mistral.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral since late 2025.
    MistralArgs,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a code block: DeepSeek V3 and R1.
    DeepseekV3,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}`: DeepSeek V3.1.
    DeepseekV31,
    /// `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`: GLM 4.5 and later.
    Glm,
    /// `<tool_call><function=name><parameter=key>…`: Qwen3-Coder.
    QwenXml,
    /// `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}`: Kimi K2.
    Kimi,
    /// `<|channel|>commentary to=functions.name<|message|>{…}`: gpt-oss.
    Harmony,
}

/// How a model sets off its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasoningFormat {
    /// `<think>…</think>`: Qwen3, DeepSeek R1, GLM 4.5 and most others.
    Think,
    /// `[THINK]…[/THINK]`: Magistral.
    Bracket,
    /// `<seed:think>…</seed:think>`: Seed-OSS.
    Seed,
    /// `◁think▷…◁/think▷`: Kimi-VL and Kimi K1.5.
    Kimi,
    /// The channel `analysis`: gpt-oss.
    Harmony,
}

/// Writes both enums' names as settings and the worker protocol have them.
macro_rules! names {
    ($type:ident, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// Every format, by its name.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The format of that name.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
            }
        }
    };
}

names!(
    ToolFormat,
    Hermes = "hermes",
    Llama3 = "llama3",
    Llama4 = "llama4",
    Lfm2 = "lfm2",
    Mistral = "mistral",
    MistralArgs = "mistral-args",
    DeepseekV3 = "deepseek-v3",
    DeepseekV31 = "deepseek-v31",
    Glm = "glm",
    QwenXml = "qwen-xml",
    Kimi = "kimi",
    Harmony = "harmony"
);
names!(
    ReasoningFormat,
    Think = "think",
    Bracket = "bracket",
    Seed = "seed",
    Kimi = "kimi",
    Harmony = "harmony"
);

impl ReasoningFormat {
    /// What begins and what ends the thinking; `None` where it is not between two tags.
    #[must_use]
    pub const fn tags(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Think => Some(("<think>", "</think>")),
            Self::Bracket => Some(("[THINK]", "[/THINK]")),
            Self::Seed => Some(("<seed:think>", "</seed:think>")),
            Self::Kimi => Some(("◁think▷", "◁/think▷")),
            Self::Harmony => None,
        }
    }
}

/// What a model writes beside plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Its calls; `None` where the template knows no tools.
    pub tools: Option<ToolFormat>,
    /// Its thinking; `None` where it does not think.
    pub reasoning: Option<ReasoningFormat>,
}

impl Formats {
    /// The control tokens, if a model has them as such, whose text is needed to take an answer apart.
    #[must_use]
    pub fn markers(&self) -> Vec<&'static str> {
        let tools: &[&str] = match self.tools {
            None => &[],
            Some(ToolFormat::Hermes | ToolFormat::Glm | ToolFormat::QwenXml) => {
                &["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
            }
            Some(ToolFormat::Llama3) => &["<|python_tag|>"],
            Some(ToolFormat::Llama4) => &["<|python_start|>", "<|python_end|>"],
            Some(ToolFormat::Lfm2) => &["<|tool_call_start|>", "<|tool_call_end|>"],
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Some(ToolFormat::DeepseekV3 | ToolFormat::DeepseekV31) => &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁calls▁end｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁sep｜>",
            ],
            Some(ToolFormat::Kimi) => &[
                "<|tool_calls_section_begin|>",
                "<|tool_calls_section_end|>",
                "<|tool_call_begin|>",
                "<|tool_call_end|>",
                "<|tool_call_argument_begin|>",
            ],
            Some(ToolFormat::Harmony) => &[],
        };
        let mut markers = tools.to_vec();
        if let Some((start, end)) = self.reasoning.and_then(ReasoningFormat::tags) {
            markers.extend([start, end]);
        }
        if self.tools == Some(ToolFormat::Harmony) || self.reasoning == Some(ReasoningFormat::Harmony) {
            markers.extend(harmony::MARKERS);
        }
        markers
    }
}

/// How one answer is to be read: known once its prompt is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The form of its calls; `None` where none can come.
    pub tools: Option<ToolFormat>,
    /// Whether calls are kept in their [`Form`], so that they can be passed on while they are made.
    pub enforced: bool,
    /// The form of its thinking.
    pub reasoning: Option<ReasoningFormat>,
    /// Whether the prompt has already begun the thinking.
    pub thinking_open: bool,
}

/// A tool as parsers and grammars need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

#[cfg(test)]
mod tests;
