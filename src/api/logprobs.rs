//! Log-probabilities as OpenAI's two APIs show them.
//!
//! Source: `ChatCompletionTokenLogprob` and `CreateCompletionResponse.choices[].logprobs` in OpenAI's API description.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jan_actors::model::{Candidate, TokenLogprob};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Log-probabilities of an answer's tokens, or of a chunk's.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    content: Vec<ChatTokenLogprob>,
    /// Always null.
    #[schema(value_type = Option<Vec<Object>>)]
    refusal: (),
}

/// How likely one token was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    #[serde(flatten)]
    chosen: ChatCandidate,
    /// The likeliest tokens at this position, the likeliest first; as many as `top_logprobs` asks for.
    top_logprobs: Vec<ChatCandidate>,
}

/// A token and its likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCandidate {
    /// Its text, with U+FFFD where its bytes are not whole characters.
    token: String,
    /// The natural logarithm of its probability.
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

impl From<Candidate> for ChatCandidate {
    fn from(candidate: Candidate) -> Self {
        let token = String::from_utf8_lossy(&candidate.bytes).into_owned();
        Self { token, logprob: candidate.logprob, bytes: candidate.bytes }
    }
}

impl From<TokenLogprob> for ChatTokenLogprob {
    fn from(token: TokenLogprob) -> Self {
        let top_logprobs = token.top.into_iter().map(ChatCandidate::from).collect();
        Self { chosen: token.chosen.into(), top_logprobs }
    }
}

impl ChatLogprobs {
    /// Adds those of more tokens.
    pub fn extend(&mut self, more: impl IntoIterator<Item = TokenLogprob>) {
        self.content.extend(more.into_iter().map(ChatTokenLogprob::from));
    }

    /// Those of a chunk; `None` where it has none.
    pub fn of_chunk(tokens: Vec<TokenLogprob>) -> Option<Self> {
        let mut logprobs = Self::default();
        logprobs.extend(tokens);
        (!logprobs.content.is_empty()).then_some(logprobs)
    }
}

/// Log-probabilities of a completion's tokens, or of a chunk's: four lists of equal length.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Where each token begins in the answer's text, in characters.
    text_offset: Vec<u64>,
    /// The natural logarithm of each token's probability.
    token_logprobs: Vec<f32>,
    /// The tokens' texts; `bytes:` and the bytes in hexadecimal where they are not whole characters.
    tokens: Vec<String>,
    /// At each position the likeliest tokens and the chosen one, with their log-probabilities.
    top_logprobs: Vec<BTreeMap<String, f32>>,
}

impl CompletionLogprobs {
    /// Adds those of more tokens.
    pub fn extend(&mut self, more: impl IntoIterator<Item = TokenLogprob>) {
        for token in more {
            let chosen = completion_token(&token.chosen);
            // Of two tokens with one text the likelier one counts, which comes first.
            let mut top = BTreeMap::new();
            for candidate in token.top.iter().chain([&token.chosen]) {
                top.entry(completion_token(candidate)).or_insert(candidate.logprob);
            }
            self.text_offset.push(token.text_offset);
            self.token_logprobs.push(token.chosen.logprob);
            self.tokens.push(chosen);
            self.top_logprobs.push(top);
        }
    }

    /// Those of a chunk; `None` where it has none.
    pub fn of_chunk(tokens: Vec<TokenLogprob>) -> Option<Self> {
        let mut logprobs = Self::default();
        logprobs.extend(tokens);
        (!logprobs.tokens.is_empty()).then_some(logprobs)
    }
}

/// A token's text as OpenAI's completions show it.
fn completion_token(candidate: &Candidate) -> String {
    match std::str::from_utf8(&candidate.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => candidate.bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate(bytes: &[u8], logprob: f32) -> Candidate {
        Candidate { token: 7, bytes: bytes.to_vec(), logprob }
    }

    fn token() -> TokenLogprob {
        TokenLogprob {
            chosen: candidate(b"\xc3", -1.5),
            top: vec![candidate(b"a", -0.5), candidate(b"\xc3", -1.5)],
            text_offset: 4,
        }
    }

    #[test]
    fn shapes_are_openais() {
        assert_eq!(
            serde_json::to_value(ChatLogprobs::of_chunk(vec![token()])).unwrap(),
            json!({"refusal": null, "content": [{
                "token": "\u{fffd}", "logprob": -1.5, "bytes": [0xc3],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [97]},
                    {"token": "\u{fffd}", "logprob": -1.5, "bytes": [0xc3]},
                ],
            }]})
        );
        assert_eq!(
            serde_json::to_value(CompletionLogprobs::of_chunk(vec![token()])).unwrap(),
            json!({
                "text_offset": [4], "token_logprobs": [-1.5], "tokens": ["bytes:\\xc3"],
                "top_logprobs": [{"a": -0.5, "bytes:\\xc3": -1.5}],
            })
        );
        assert_eq!(ChatLogprobs::of_chunk(Vec::new()), None);
        assert_eq!(CompletionLogprobs::of_chunk(Vec::new()), None);
    }
}
