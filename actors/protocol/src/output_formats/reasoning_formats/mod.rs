//! Formats of reasoning. Each is a file and a line of the registry below.

use super::registry::{TemplateMarks, registry};

registry! {
    /// Format of a model's reasoning.
    ReasoningFormat of ReasoningFormatSpec {
        Think = think,
        Bracket = bracket,
        Seed = seed,
        Kimi = kimi,
        Harmony = harmony,
    }
}

/// Everything that is particular to one format.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReasoningFormatSpec {
    /// Name in the configuration and the worker protocol.
    pub name: &'static str,
    /// Marks in chat templates that identify it.
    pub template: TemplateMarks,
    /// Texts that begin and end the reasoning.
    pub tags: (&'static str, &'static str),
    /// Text that ends the reasoning when its budget is exhausted.
    pub closing: &'static str,
    /// Texts of the syntax that are control tokens in the vocabularies of its models.
    pub control_tokens: &'static [&'static str],
    /// `true` if the whole answer consists of messages with headers, rather than reasoning between tags and the rest.
    pub messages: bool,
}

impl ReasoningFormat {
    /// Returns the tags around the reasoning at the beginning of an answer; `None` where the answer consists of messages.
    #[must_use]
    pub const fn tags(self) -> Option<(&'static str, &'static str)> {
        let spec = self.spec();
        if spec.messages { None } else { Some(spec.tags) }
    }

    /// Returns the texts that begin and end the reasoning, and the one that ends it when its budget is exhausted.
    #[must_use]
    pub const fn enclosure(self) -> ((&'static str, &'static str), &'static str) {
        (self.spec().tags, self.spec().closing)
    }
}
