//! Reasoning options of requests.

use jan_actors::model::ChatPrompt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The reasoning effort. `none` and `minimal` disable reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// No reasoning.
    None,
    /// No reasoning.
    Minimal,
    /// At most 1,024 tokens.
    Low,
    /// At most 8,192 tokens.
    Medium,
    /// Unlimited.
    High,
    /// As `high`.
    Xhigh,
    /// As `high`.
    Max,
}

/// Reasoning options, as in Responses.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Reasoning {
    /// The reasoning effort.
    pub effort: Option<Effort>,
    /// Has no effect.
    pub summary: Option<String>,
    /// Has no effect.
    pub generate_summary: Option<String>,
}

impl Effort {
    const fn budget(self) -> Option<u32> {
        match self {
            Self::None | Self::Minimal => Some(0),
            Self::Low => Some(1024),
            Self::Medium => Some(8192),
            Self::High | Self::Xhigh | Self::Max => None,
        }
    }
}

/// Adds `enable_thinking` to a template's variables, under the names that families of models have. Variables that the caller
/// set are kept.
pub fn with_thinking(kwargs: Option<Map<String, Value>>, thinks: Option<bool>) -> Option<Map<String, Value>> {
    let Some(thinks) = thinks else { return kwargs };
    let mut variables = kwargs.unwrap_or_default();
    for name in ["enable_thinking", "thinking"] {
        variables.entry(name).or_insert(json!(thinks));
    }
    Some(variables)
}

/// Sets the template variables that control reasoning, whose names differ between model families, and returns the
/// budget. Variables that the caller set are kept.
pub fn apply(
    effort: Option<Effort>,
    budget: Option<u32>,
    kwargs: Option<Map<String, Value>>,
    prompt: &mut ChatPrompt,
) -> Option<u32> {
    let mut variables = kwargs.unwrap_or_default();
    if let Some(effort) = effort {
        let thinks = effort.budget() != Some(0);
        // Qwen, GLM and others; DeepSeek and Granite; gpt-oss, which has three levels.
        let word = match effort {
            Effort::None | Effort::Minimal | Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High | Effort::Xhigh | Effort::Max => "high",
        };
        for (name, value) in [
            ("enable_thinking", json!(thinks)),
            ("thinking", json!(thinks)),
            ("reasoning_effort", json!(word)),
        ] {
            variables.entry(name).or_insert(value);
        }
    }
    prompt.template_kwargs = variables;
    budget.or(effort.and_then(Effort::budget))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efforts_are_variables_and_budgets() {
        let mut prompt = ChatPrompt::default();
        assert_eq!(apply(None, None, None, &mut prompt), None);
        assert!(prompt.template_kwargs.is_empty());
        assert_eq!(apply(Some(Effort::None), None, None, &mut prompt), Some(0));
        assert_eq!(prompt.template_kwargs["enable_thinking"], false);
        let given = Map::from_iter([("enable_thinking".to_owned(), json!(true))]);
        assert_eq!(apply(Some(Effort::Minimal), Some(7), Some(given), &mut prompt), Some(7));
        assert_eq!(prompt.template_kwargs["enable_thinking"], true);
        assert_eq!(apply(Some(Effort::High), None, None, &mut prompt), None);
        assert_eq!(prompt.template_kwargs["reasoning_effort"], "high");
    }
}
