//! Requests for tests.

use jan_protocol::types::{ChatPrompt, GenerationRequest, Prompt, SamplingParams};

/// A request that continues a text.
pub fn text(text: &str) -> GenerationRequest {
    of(Prompt::Text(text.to_owned()))
}

/// A request that answers a chat.
pub fn chat(chat: ChatPrompt) -> GenerationRequest {
    of(Prompt::Chat(chat))
}

fn of(prompt: Prompt) -> GenerationRequest {
    GenerationRequest {
        request_id: "r".to_owned(),
        model: "m".to_owned(),
        user: "ann".to_owned(),
        tenant: "ann".to_owned(),
        cache_key: None,
        prompt: prompt.into(),
        sampling: SamplingParams::default(),
        stop: Vec::new().into(),
        max_tokens: Some(16),
        want_prompt_text: false,
        logprobs: None,
        score_prompt: false,
        constraint: None,
        tools: None,
        thinking_budget: None,
    }
}
