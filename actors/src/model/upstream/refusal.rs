//! The meaning of an upstream's refusals, by status and body.
//!
//! Pure. What is the caller's fault is told to the caller, with the upstream's words; what is not, is told without them.

use std::time::Duration;

use jan_protocol::types::{GenerationError, GenerationRequest};
use serde_json::Value;

use super::breaker::Failure;
use super::chunks::message_of;
use super::retry;
use crate::model::backend::RETRY_AFTER;

/// Fields that an upstream may name, with ours.
const PARAMS: &[(&str, &str)] = &[
    ("messages", "messages"),
    ("prompt", "prompt"),
    ("input", "input"),
    ("max_tokens", "max_tokens"),
    ("max_completion_tokens", "max_tokens"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("seed", "seed"),
    ("stop", "stop"),
    ("logit_bias", "logit_bias"),
    ("logprobs", "logprobs"),
    ("top_logprobs", "top_logprobs"),
    ("tools", "tools"),
    ("tool_choice", "tool_choice"),
    ("response_format", "response_format"),
    ("structured_outputs", "response_format"),
    ("dimensions", "dimensions"),
];

/// A try that failed before it yielded anything.
#[derive(Clone, Debug, PartialEq)]
pub struct TryError {
    /// The error for the caller, if no other try follows.
    pub error: GenerationError,
    /// The failure of the upstream that it shows, if it shows one.
    pub failure: Option<Failure>,
    /// `true` if another try may succeed.
    pub is_worth_another: bool,
    /// `Retry-After` of the upstream.
    pub retry_after: Option<Duration>,
    /// The reason, for the log.
    pub reason: String,
    /// The status of a refusal.
    pub status: Option<u16>,
}

impl TryError {
    /// Returns it as one for which the request may be to blame, rather than the upstream: a silence alone shows no stall.
    #[must_use]
    pub fn suspected(mut self) -> Self {
        if self.failure == Some(Failure::Stalled) {
            self.failure = Some(Failure::Suspect);
        }
        self
    }

    /// Returns `true` if a route is refused, as one is that the model is not for: a chat by a model without a template, or by one
    /// that makes embeddings.
    #[must_use]
    pub const fn refuses_route(&self) -> bool {
        matches!(self.status, Some(400 | 403 | 404 | 405 | 422 | 501))
    }
}

/// The request that was refused, as far as its refusal needs it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The model's id here.
    pub model: &'a str,
    /// Tokens of an answer: `max_tokens`, or 1.
    pub requested: u32,
}

impl<'a> Asked<'a> {
    /// Returns that of a generation.
    #[must_use]
    pub fn of(model: &'a str, request: &GenerationRequest) -> Self {
        Self { model, requested: request.max_tokens.unwrap_or(1) }
    }

    /// No answer, or none in time.
    #[must_use]
    pub fn unreachable(&self, failure: Failure, reason: String) -> TryError {
        TryError {
            error: self.unavailable("its upstream cannot be reached", None),
            failure: Some(failure),
            is_worth_another: true,
            retry_after: None,
            reason,
            status: None,
        }
    }

    /// An answer that is none.
    #[must_use]
    pub fn broken(&self, reason: String) -> TryError {
        let (model, told) = (self.model.to_owned(), "its upstream sent what is no answer".to_owned());
        TryError {
            error: GenerationError::UpstreamFailed { model, reason: told },
            failure: Some(Failure::Suspect),
            is_worth_another: true,
            retry_after: None,
            reason,
            status: None,
        }
    }

    fn unavailable(&self, reason: &str, retry_after: Option<Duration>) -> GenerationError {
        GenerationError::ModelUnavailable {
            model: self.model.to_owned(),
            reason: reason.to_owned(),
            retry_after: retry_after.unwrap_or(RETRY_AFTER),
        }
    }

    /// The meaning of a status other than 200 with its body.
    #[must_use]
    pub fn refused(&self, status: u16, retry_after: Option<Duration>, body: &[u8]) -> TryError {
        let error = serde_json::from_slice::<Value>(body).map(error_object).unwrap_or_default();
        let said = if error.is_null() { String::new() } else { message_of(&error) };
        let (told, failure) = match status {
            400 | 413 | 422 => (self.callers_fault(&error, &said), None),
            401 | 403 => (
                self.unavailable("its upstream refuses the key that this server has for it", None),
                Some(Failure::Unreachable),
            ),
            404 => (self.unavailable("its upstream does not serve it", None), Some(Failure::Unreachable)),
            429 => (self.unavailable("its upstream is overloaded", retry_after), None),
            502..=504 => {
                (self.unavailable("its upstream is unavailable", retry_after), Some(Failure::Failed))
            }
            _ => {
                let (model, reason) = (self.model.to_owned(), format!("its upstream answered {status}"));
                (GenerationError::UpstreamFailed { model, reason }, Some(Failure::Suspect))
            }
        };
        TryError {
            error: told,
            failure,
            is_worth_another: retry::is_worth_it(status),
            retry_after,
            reason: match status {
                // A key may be part of what is said about it.
                401 | 403 => format!("status {status}: it refuses the key"),
                _ => format!("status {status}: {said}"),
            },
            status: Some(status),
        }
    }

    fn callers_fault(&self, error: &Value, said: &str) -> GenerationError {
        if is_too_long(error, said)
            && let Some((limit, prompt_tokens)) = lengths(error, said)
        {
            return GenerationError::ContextLengthExceeded {
                limit,
                prompt_tokens,
                requested: self.requested,
            };
        }
        let message = match said {
            "" => "the upstream of this model refuses the request".to_owned(),
            said => format!("the upstream of this model refuses the request: {said}"),
        };
        let named =
            error["param"].as_str().and_then(|name| PARAMS.iter().find(|(theirs, _)| *theirs == name));
        match named {
            Some((_, param)) => GenerationError::InvalidParameter { param, message },
            None => GenerationError::InvalidPrompt { message },
        }
    }
}

/// Returns the error of a body: `{"error": …}`, or the body itself in older versions of vLLM and SGLang.
fn error_object(mut body: Value) -> Value {
    match body.get_mut("error").map(Value::take) {
        Some(error) if !error.is_null() => error,
        _ => body,
    }
}

fn is_too_long(error: &Value, said: &str) -> bool {
    error["code"] == "context_length_exceeded"
        || error["type"] == "exceed_context_size_error"
        || ["maximum context length", "context length", "context size", "maximum model length"]
            .iter()
            .any(|words| said.contains(words))
}

/// Returns the context and the length of the prompt, in tokens, that a refusal names.
fn lengths(error: &Value, said: &str) -> Option<(u32, u32)> {
    let member = |name: &str| error[name].as_u64().and_then(|number| u32::try_from(number).ok());
    if let Some(found) = member("n_ctx").zip(member("n_prompt_tokens")) {
        return Some(found);
    }
    // vLLM and OpenAI, SGLang, llama-server.
    let limit = [
        "context length is ",
        "context length of ",
        "context length (",
        "context size (",
        "model length of ",
    ];
    let limit = limit.iter().find_map(|words| number_behind(said, words))?;
    let before = [" in the messages", " in the prompt", " input tokens"];
    let behind =
        ["resulted in ", "The input (", "request (", "(length ", "your request has ", "prompt contains "];
    let prompt = before.iter().find_map(|words| number_before(said, words));
    let prompt = prompt.or_else(|| behind.iter().find_map(|words| number_behind(said, words)))?;
    Some((limit, prompt))
}

fn number_behind(text: &str, words: &str) -> Option<u32> {
    let rest = &text[text.find(words)? + words.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn number_before(text: &str, words: &str) -> Option<u32> {
    let head = &text[..text.find(words)?];
    let begin = head
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + head[at..].chars().next().map_or(1, char::len_utf8));
    head[begin..].parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ASKED: Asked<'_> = Asked { model: "m", requested: 8 };

    fn told(status: u16, body: &Value) -> GenerationError {
        ASKED.refused(status, None, body.to_string().as_bytes()).error
    }

    #[test]
    fn prompts_that_are_too_long_are_recognised() {
        let messages = [
            "This model's maximum context length is 4096 tokens. However, you requested 5008 tokens (5000 in the messages, 8 in the completion). Please reduce the length.",
            "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. Please reduce the length of the input messages.",
            "This model's maximum context length is 4096 tokens. However, you requested 8 output tokens and your prompt contains at least 5000 input tokens, for a total of at least 5008 tokens.",
            "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
            "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that it is no smaller.",
            "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        ];
        let expected =
            GenerationError::ContextLengthExceeded { limit: 4096, prompt_tokens: 5000, requested: 8 };
        for message in messages {
            let body =
                json!({"error": {"message": message, "type": "BadRequestError", "param": null, "code": 400}});
            assert_eq!(told(400, &body), expected, "{message}");
            assert_eq!(told(400, &json!({"object": "error", "message": message})), expected, "{message}");
        }
        let llama = json!({"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long",
            "n_prompt_tokens": 5000, "n_ctx": 4096}});
        assert_eq!(told(400, &llama), expected);
    }

    #[test]
    fn faults_are_the_callers_or_the_upstreams() {
        let body = |param: &str| json!({"error": {"message": "bad", "param": param}});
        let GenerationError::InvalidParameter { param, message } = told(400, &body("top_k")) else {
            panic!()
        };
        assert_eq!(
            (param, message.as_str()),
            ("top_k", "the upstream of this model refuses the request: bad")
        );
        assert!(matches!(told(422, &body("x")), GenerationError::InvalidPrompt { .. }));
        assert!(matches!(told(500, &body("x")), GenerationError::UpstreamFailed { .. }));
        // A key may be part of what is said about it.
        let leak = json!({"error": {"message": "Incorrect API key provided: sk-secret"}});
        for status in [401, 403] {
            let refused = ASKED.refused(status, None, leak.to_string().as_bytes());
            assert!(!refused.error.to_string().contains("sk-secret"), "{refused:?}");
            assert!(!refused.reason.contains("sk-secret"), "administrators and the log: {refused:?}");
        }
        let wait = Some(Duration::from_secs(7));
        let busy = ASKED.refused(429, wait, b"{}");
        assert_eq!((busy.retry_after, busy.failure, busy.is_worth_another), (wait, None, true));
        for status in [502, 503, 504] {
            let refused = ASKED.refused(status, None, b"<html>");
            assert!(refused.is_worth_another && refused.failure == Some(Failure::Failed));
        }
        for status in [302, 400, 401, 404, 500, 501] {
            assert!(!ASKED.refused(status, None, b"").is_worth_another);
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(status in 300u16..600, text in ".{0,80}", body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = ASKED.refused(status, None, &body);
            for words in ["context length is ", "maximum context length", " in the messages", "(length "] {
                let message = format!("{text}{words}{text}");
                let _ = told(400, &json!({"error": {"message": message, "code": "context_length_exceeded"}}));
            }
        }
    }
}
