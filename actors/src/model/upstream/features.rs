//! The features of requests that each kind of upstream has: one table, from which refusals, requests and docs/scaling.md follow.
//!
//! A request that asks for what an upstream lacks is refused by name; nothing is left out of it.

use jan_protocol::types::{Constraint, GenerationRequest, Prompt, PromptEnding};
use serde_json::Value;

use crate::config::UpstreamKind;
use crate::model::backend::{Capabilities, Notations};

/// A feature that not every kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Prompts of token ids.
    TokenPrompts,
    /// Filling a gap in a text.
    Infill,
    /// `top_k`.
    TopK,
    /// `min_p`.
    MinP,
    /// `typical_p`.
    TypicalP,
    /// `repeat_penalty`.
    RepeatPenalty,
    /// `min_tokens`.
    MinTokens,
    /// `ignore_eos`.
    IgnoreEos,
    /// A limit on thinking.
    ThinkingBudget,
    /// Variables of the chat template.
    TemplateVariables,
    /// Documents.
    Documents,
    /// Continuing the last message.
    ContinueMessage,
    /// A prompt that ends with the last message.
    BareMessages,
    /// An answer behind an assistant's message.
    AfterAssistant,
    /// Reading a prompt without answering it.
    NoTokens,
    /// A completion to the end of the context.
    EndlessCompletion,
    /// JSON Schema for completions (for chats all have it).
    CompletionSchema,
    /// Regular expressions.
    Regex,
    /// One of several texts.
    Choice,
    /// Lark grammars.
    Lark,
    /// GBNF grammars.
    Gbnf,
    /// Log-probabilities of a prompt.
    PromptLogprobs,
    /// The text of a prompt of token ids.
    TokenEcho,
    /// Counting the tokens of a prompt.
    CountTokens,
}

/// A line of the table.
#[derive(Debug)]
struct Row {
    feature: Feature,
    /// The field of a request that asks for it.
    param: &'static str,
    name: &'static str,
    /// vLLM, SGLang, llama-server, Jan, OpenAI.
    kinds: [bool; 5],
}

const fn row(feature: Feature, param: &'static str, name: &'static str, kinds: [u8; 5]) -> Row {
    let [vllm, sglang, llama, jan, openai] = kinds;
    Row { feature, param, name, kinds: [vllm == 1, sglang == 1, llama == 1, jan == 1, openai == 1] }
}

/// Sources: vLLM `entrypoints/openai/{chat_completion,completion}/protocol.py`, SGLang `entrypoints/openai/protocol.py`,
/// llama.cpp `tools/server/README.md`, this server's own description, OpenAI's API description.
const TABLE: &[Row] = &[
    row(Feature::TokenPrompts, "prompt", "prompts of token ids", [1, 1, 1, 1, 0]),
    row(Feature::Infill, "suffix", "filling a gap in a text", [0, 0, 0, 1, 0]),
    row(Feature::TopK, "top_k", "`top_k`", [1, 1, 1, 1, 0]),
    row(Feature::MinP, "min_p", "`min_p`", [1, 1, 1, 1, 0]),
    row(Feature::TypicalP, "typical_p", "`typical_p`", [0, 0, 1, 1, 0]),
    row(Feature::RepeatPenalty, "repeat_penalty", "`repeat_penalty`", [1, 1, 1, 1, 0]),
    row(Feature::MinTokens, "min_tokens", "`min_tokens`", [1, 1, 0, 1, 0]),
    row(Feature::IgnoreEos, "ignore_eos", "`ignore_eos`", [1, 1, 1, 1, 0]),
    row(Feature::ThinkingBudget, "thinking_budget", "a limit on reasoning tokens", [1, 0, 0, 1, 0]),
    row(
        Feature::TemplateVariables,
        "chat_template_kwargs",
        "variables of the chat template",
        [1, 1, 1, 1, 0],
    ),
    row(Feature::Documents, "documents", "documents", [1, 0, 0, 1, 0]),
    row(Feature::ContinueMessage, "continue_final_message", "continuing the last message", [1, 1, 1, 1, 0]),
    row(
        Feature::BareMessages,
        "add_generation_prompt",
        "a prompt without the beginning of an answer",
        [1, 0, 1, 1, 0],
    ),
    row(Feature::AfterAssistant, "messages", "an answer behind an assistant's message", [1, 1, 0, 1, 1]),
    row(Feature::NoTokens, "max_tokens", "answers without tokens (`max_tokens` 0)", [0, 0, 0, 1, 0]),
    row(Feature::EndlessCompletion, "max_tokens", "completions without a limit", [1, 0, 1, 1, 0]),
    row(
        Feature::CompletionSchema,
        "response_format",
        "completions that satisfy a JSON Schema",
        [1, 1, 1, 1, 0],
    ),
    row(Feature::Regex, "response_format", "answers that match a regular expression", [1, 1, 0, 1, 0]),
    row(Feature::Choice, "response_format", "answers that are one of several texts", [1, 0, 0, 1, 0]),
    row(Feature::Lark, "response_format", "answers of a grammar in Lark's notation", [0, 0, 0, 1, 0]),
    row(Feature::Gbnf, "response_format", "answers of a grammar in llama.cpp's notation", [1, 1, 1, 1, 0]),
    row(Feature::PromptLogprobs, "echo", "log-probabilities of a prompt", [0, 0, 0, 0, 0]),
    row(Feature::TokenEcho, "echo", "the text of a prompt of token ids", [0, 0, 0, 0, 0]),
    row(Feature::CountTokens, "model", "counting tokens", [1, 0, 1, 1, 0]),
];

fn row_of(feature: Feature) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.feature == feature)
}

const fn column(kind: UpstreamKind) -> Option<usize> {
    match kind {
        UpstreamKind::Auto => None,
        UpstreamKind::Vllm => Some(0),
        UpstreamKind::Sglang => Some(1),
        UpstreamKind::LlamaServer => Some(2),
        UpstreamKind::Jan => Some(3),
        UpstreamKind::Openai => Some(4),
    }
}

impl UpstreamKind {
    /// Returns `true` if upstreams of this kind have a feature; `false` for all of them while the kind is not known.
    #[must_use]
    pub fn has(self, feature: Feature) -> bool {
        row_of(feature).zip(column(self)).is_some_and(|(row, column)| row.kinds[column])
    }

    /// Returns the field of a request that asks for a feature that this kind lacks, and the name of the feature.
    #[must_use]
    pub fn lacking(self, request: &GenerationRequest) -> Option<(&'static str, &'static str)> {
        let missing = needed(request).into_iter().find(|feature| !self.has(*feature));
        if missing == Some(Feature::TemplateVariables) && self == Self::Openai && is_effort_alone(request) {
            return None;
        }
        missing.and_then(row_of).map(|row| (row.param, row.name))
    }
}

/// Returns the features that a request needs, in the order of the table.
#[must_use]
pub fn needed(request: &GenerationRequest) -> Vec<Feature> {
    let sampling = &request.sampling;
    let is_needed = |feature: Feature| match feature {
        Feature::TokenPrompts => matches!(&*request.prompt, Prompt::Tokens(_)),
        Feature::Infill => matches!(&*request.prompt, Prompt::Infill { .. }),
        Feature::TopK => sampling.top_k != 0,
        Feature::MinP => sampling.min_p != 0.0,
        Feature::TypicalP => sampling.typical_p != 1.0,
        Feature::RepeatPenalty => sampling.repeat_penalty != 1.0,
        Feature::MinTokens => sampling.min_tokens != 0,
        Feature::IgnoreEos => sampling.ignore_eos,
        Feature::ThinkingBudget => request.thinking_budget.is_some() && !is_budget_of_effort(request),
        Feature::TemplateVariables => is_chat(request, |chat| !chat.template_kwargs.is_empty()),
        Feature::Documents => is_chat(request, |chat| !chat.documents.is_empty()),
        Feature::ContinueMessage => is_chat(request, |chat| chat.ending == PromptEnding::LastMessage),
        Feature::BareMessages => is_chat(request, |chat| chat.ending == PromptEnding::Messages),
        Feature::AfterAssistant => is_chat(request, |chat| {
            let is_last = chat.messages.last().is_some_and(|message| message["role"] == "assistant");
            is_last && chat.ending == PromptEnding::Answer
        }),
        Feature::NoTokens => request.max_tokens == Some(0),
        Feature::EndlessCompletion => request.max_tokens.is_none() && !is_chat(request, |_| true),
        Feature::CompletionSchema => {
            matches!(request.constraint.as_deref(), Some(Constraint::JsonSchema(_)))
                && !is_chat(request, |_| true)
        }
        Feature::Regex => matches!(request.constraint.as_deref(), Some(Constraint::Regex(_))),
        Feature::Choice => matches!(request.constraint.as_deref(), Some(Constraint::Choice(_))),
        Feature::Lark => matches!(request.constraint.as_deref(), Some(Constraint::Lark(_))),
        Feature::Gbnf => matches!(request.constraint.as_deref(), Some(Constraint::Gbnf(_))),
        Feature::PromptLogprobs => request.score_prompt,
        Feature::TokenEcho => request.want_prompt_text && matches!(&*request.prompt, Prompt::Tokens(_)),
        // A call of its own asks for it.
        Feature::CountTokens => false,
    };
    TABLE.iter().map(|row| row.feature).filter(|feature| is_needed(*feature)).collect()
}

fn is_chat(request: &GenerationRequest, fits: impl Fn(&jan_protocol::types::ChatPrompt) -> bool) -> bool {
    matches!(&*request.prompt, Prompt::Chat(chat) if fits(chat))
}

/// Returns the word of `reasoning_effort`, which the edge passes on as a variable of the template.
#[must_use]
pub fn effort(request: &GenerationRequest) -> Option<&str> {
    let Prompt::Chat(chat) = &*request.prompt else { return None };
    chat.template_kwargs.get("reasoning_effort").and_then(Value::as_str)
}

/// Returns `true` if the limit on thinking is merely what the edge derives from an effort, which is passed on as such.
fn is_budget_of_effort(request: &GenerationRequest) -> bool {
    match effort(request) {
        Some("low") => matches!(request.thinking_budget, Some(0 | 1024)),
        Some("medium") => request.thinking_budget == Some(8192),
        _ => false,
    }
}

/// Returns `true` if the variables of the template are those that the edge derives from an effort, which OpenAI's API has as a field.
fn is_effort_alone(request: &GenerationRequest) -> bool {
    let derived = ["enable_thinking", "thinking", "reasoning_effort"];
    effort(request).is_some()
        && is_chat(request, |chat| chat.template_kwargs.keys().all(|name| derived.contains(&name.as_str())))
}

/// Returns the field of a request that asks for a feature that no upstream of these kinds has, and the name of the feature; if each
/// lacks another one, of the first's. `None` where one has all, and while nothing is known of them: that they are not there is
/// another refusal.
#[must_use]
pub fn lacking(kinds: &[UpstreamKind], request: &GenerationRequest) -> Option<(&'static str, &'static str)> {
    let first = kinds.first()?.lacking(request)?;
    if kinds.iter().any(|kind| kind.lacking(request).is_none()) {
        return None;
    }
    let lacks_all = |feature: &Feature| !kinds.iter().any(|kind| kind.has(*feature));
    let row = needed(request).into_iter().find(lacks_all).and_then(row_of);
    Some(row.map_or(first, |row| (row.param, row.name)))
}

/// Returns what upstreams of these kinds can do together; each request goes to those that have all it needs.
#[must_use]
pub fn capabilities(kinds: impl Iterator<Item = UpstreamKind> + Clone) -> Capabilities {
    let any = |feature| kinds.clone().any(|kind| kind.has(feature));
    Capabilities {
        embeddings: true,
        // Only some have routes for it, with results of different kinds.
        inspect: false,
        token_prompts: any(Feature::TokenPrompts),
        infill: any(Feature::Infill),
        constraints: Notations {
            json_schema: true,
            regex: any(Feature::Regex),
            choice: any(Feature::Choice),
            lark: any(Feature::Lark),
            gbnf: any(Feature::Gbnf),
        },
        prompt_logprobs: any(Feature::PromptLogprobs),
        resumes: false,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use jan_protocol::types::{ChatPrompt, SamplingParams};
    use serde_json::json;

    use super::*;
    use crate::model::upstream::test_requests::{chat, text};

    const KINDS: [UpstreamKind; 5] = [
        UpstreamKind::Vllm,
        UpstreamKind::Sglang,
        UpstreamKind::LlamaServer,
        UpstreamKind::Jan,
        UpstreamKind::Openai,
    ];

    #[test]
    fn plain_requests_need_nothing() {
        let messages = vec![json!({"role": "user", "content": "Hello"})];
        for request in [text("Hello"), chat(messages.into())] {
            assert_eq!(needed(&request), []);
            assert!(KINDS.iter().all(|kind| kind.lacking(&request).is_none()));
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let sampling = SamplingParams { typical_p: 0.5, ..SamplingParams::default() };
        let typical = GenerationRequest { sampling, ..text("a") };
        assert_eq!(UpstreamKind::Vllm.lacking(&typical), Some(("typical_p", "`typical_p`")));
        assert_eq!(UpstreamKind::Jan.lacking(&typical), None);
        let lark = Constraint::Lark("start: \"a\"".to_owned());
        let lark = GenerationRequest { constraint: Some(lark.into()), ..text("a") };
        let lacking = UpstreamKind::Vllm.lacking(&lark);
        assert_eq!(lacking, Some(("response_format", "answers of a grammar in Lark's notation")));
        let tokens = GenerationRequest { prompt: Prompt::Tokens(vec![1]).into(), ..text("a") };
        assert_eq!(UpstreamKind::Openai.lacking(&tokens), Some(("prompt", "prompts of token ids")));
        assert_eq!(UpstreamKind::Auto.lacking(&tokens), Some(("prompt", "prompts of token ids")));
        let scored = GenerationRequest { score_prompt: true, ..text("a") };
        assert!(KINDS.iter().all(|kind| kind.lacking(&scored).is_some_and(|(param, _)| param == "echo")));
    }

    #[test]
    fn an_effort_is_no_variable_and_no_budget() {
        let variables = json!({"enable_thinking": true, "thinking": true, "reasoning_effort": "low"});
        let template_kwargs = variables.as_object().unwrap().clone();
        let prompt = ChatPrompt { template_kwargs, ..ChatPrompt::default() };
        let effort = GenerationRequest { thinking_budget: Some(1024), ..chat(prompt) };
        assert!(KINDS.iter().all(|kind| kind.lacking(&effort).is_none()));
        let budget = GenerationRequest { thinking_budget: Some(99), ..effort };
        assert_eq!(UpstreamKind::Sglang.lacking(&budget).unwrap().0, "thinking_budget");
        assert_eq!(UpstreamKind::Vllm.lacking(&budget), None);
    }

    #[test]
    fn the_table_is_in_the_documentation() {
        let mut table =
            "| feature | vLLM | SGLang | llama-server | Jan | OpenAI |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for Row { name, kinds, .. } in TABLE {
            let marks = kinds.map(|has| if has { "yes" } else { "–" }).join(" | ");
            writeln!(table, "| {name} | {marks} |").unwrap();
        }
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scaling.md");
        let written = std::fs::read_to_string(page).unwrap_or_default();
        assert!(written.contains(&table), "docs/scaling.md lacks this table:\n{table}");
    }
}
