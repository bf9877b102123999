//! Counting the tokens of a prompt on an upstream: `/tokenize` of vLLM and Jan, `/apply-template` and `/tokenize` of llama-server.

use std::time::Instant;

use jan_protocol::types::{ChatPrompt, GenerationError, GenerationRequest, Prompt, PromptEnding};
use serde_json::{Value, json};

use super::Shared;
use super::balancer::{Slot, Wanted};
use super::http::bounded;
use super::refusal::{Asked, TryError};
use super::tries::Tries;
use crate::config::UpstreamKind;

/// Maximum size of an answer: a million tokens with their numbers.
const MAX_ANSWER: usize = 16 << 20;

/// Returns the number of tokens of a prompt.
///
/// # Errors
/// As of answers; `ContextLengthExceeded` where prompt and answer do not fit `limit`.
pub async fn count(
    shared: &Shared,
    request: &GenerationRequest,
    wanted: Wanted,
    limit: impl Fn() -> Option<u32>,
) -> Result<u32, GenerationError> {
    let mut tries = Tries::new(shared, &request.user, &request.request_id, wanted);
    let prompt_tokens = loop {
        let slot = tries.slot().await?;
        match one_try(shared, request, &slot).await {
            Ok(tokens) => break tokens,
            // It may be long: that nothing is generated shows at answers.
            Err(failed) => tries.again(slot, failed.suspected()).await?,
        }
    };
    let requested = request.max_tokens.unwrap_or(1);
    match limit() {
        Some(limit) if prompt_tokens.saturating_add(requested) > limit => {
            Err(GenerationError::ContextLengthExceeded { limit, prompt_tokens, requested })
        }
        _ => Ok(prompt_tokens),
    }
}

async fn one_try(shared: &Shared, request: &GenerationRequest, slot: &Slot) -> Result<u32, TryError> {
    let model = &slot.config.model;
    let asked = Asked::of(&shared.id, request);
    let ask = async |route: &str, body: Value| -> Result<Value, TryError> {
        let deadline = Instant::now() + shared.config.probe_timeout();
        let address = &shared.addresses[slot.place];
        let id = &request.request_id;
        // Jan has these routes within its API, too, whose base may be any.
        let answer = match slot.config.kind {
            UpstreamKind::Jan => address.post(route, &body, id, deadline, asked).await?,
            _ => address.post_to_root(route, &body, id, deadline, asked).await?,
        };
        let body = bounded(answer, MAX_ANSWER, deadline, asked).await?;
        serde_json::from_slice(&body).map_err(|error| asked.broken(error.to_string()))
    };
    let is_llama = slot.config.kind == UpstreamKind::LlamaServer;
    let text = match &*request.prompt {
        Prompt::Tokens(tokens) => return Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX)),
        Prompt::Chat(chat) if is_llama => {
            let rendered = ask("/apply-template", fields_of(chat, model)).await?;
            let text = rendered["prompt"]
                .as_str()
                .ok_or_else(|| asked.broken("it rendered no prompt".to_owned()))?;
            text.to_owned()
        }
        Prompt::Chat(chat) => {
            let tokenized = ask("/tokenize", fields_of(chat, model)).await?;
            return counted(&tokenized, asked);
        }
        Prompt::Text(text) => text.clone(),
        Prompt::Infill { prefix, suffix } => format!("{prefix}{suffix}"),
    };
    let body = if is_llama {
        json!({"content": text, "add_special": true, "parse_special": true})
    } else {
        json!({"model": model, "prompt": text, "add_special_tokens": true})
    };
    counted(&ask("/tokenize", body).await?, asked)
}

fn fields_of(chat: &ChatPrompt, model: &str) -> Value {
    let mut body = json!({"model": model, "messages": chat.messages});
    if !chat.tools.is_empty() {
        body["tools"] = json!(chat.tools);
    }
    if !chat.template_kwargs.is_empty() {
        body["chat_template_kwargs"] = json!(chat.template_kwargs);
    }
    match chat.ending {
        PromptEnding::Answer => {}
        PromptEnding::Messages => body["add_generation_prompt"] = json!(false),
        PromptEnding::LastMessage => {
            body["add_generation_prompt"] = json!(false);
            body["continue_final_message"] = json!(true);
        }
    }
    body
}

fn counted(tokenized: &Value, asked: Asked<'_>) -> Result<u32, TryError> {
    let count = tokenized["count"].as_u64();
    let count = count.or_else(|| tokenized["tokens"].as_array().map(|tokens| tokens.len() as u64));
    let count = count.ok_or_else(|| asked.broken("it counted no tokens".to_owned()))?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}
