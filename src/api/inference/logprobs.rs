//! Log-probabilities in the formats of OpenAI's two APIs.
//!
//! Source: `ChatCompletionTokenLogprob` and `CreateCompletionResponse.choices[].logprobs` in OpenAI's API description.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jan_actors::model::{Candidate, PromptLogprobs, TokenLogprob};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Log-probabilities of the tokens of an answer, or of a chunk.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    content: Vec<ChatTokenLogprob>,
    /// Always null.
    #[schema(value_type = Option<Vec<Object>>)]
    refusal: (),
}

/// The log-probability of one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    #[serde(flatten)]
    chosen: ChatCandidate,
    /// The most likely tokens at this position, in descending order; as many as `top_logprobs` requests.
    top_logprobs: Vec<ChatCandidate>,
}

/// A token and its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCandidate {
    /// Its text, with U+FFFD for bytes that are not complete characters.
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
    /// Appends those of more tokens.
    pub fn extend(&mut self, more: impl IntoIterator<Item = TokenLogprob>) {
        self.content.extend(more.into_iter().map(ChatTokenLogprob::from));
    }

    /// Returns those of a chunk; `None` if it has no tokens.
    pub fn of_chunk(tokens: Vec<TokenLogprob>) -> Option<Self> {
        let mut logprobs = Self::default();
        logprobs.extend(tokens);
        (!logprobs.content.is_empty()).then_some(logprobs)
    }
}

/// Log-probabilities of the tokens of a completion, or of a chunk: four lists of equal length.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The offset of each token in the answer's text, in characters.
    text_offset: Vec<u64>,
    /// The natural logarithm of each token's probability; null for the first of an echoed prompt.
    token_logprobs: Vec<Option<f32>>,
    /// The tokens' texts; `bytes:` and the bytes in hexadecimal if they are not complete characters.
    tokens: Vec<String>,
    /// The most likely tokens and the selected one at each position, with their log-probabilities; null for
    /// the first of an echoed prompt.
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}

impl CompletionLogprobs {
    /// Returns those of a prompt.
    pub fn of_prompt(scores: PromptLogprobs) -> Self {
        let mut logprobs = Self {
            text_offset: vec![0],
            token_logprobs: vec![None],
            tokens: vec![text_or_bytes(&scores.first)],
            top_logprobs: vec![None],
        };
        logprobs.extend(scores.rest, 0);
        logprobs
    }

    /// Appends those of more tokens, whose text starts at the offset `behind`, in characters.
    pub fn extend(&mut self, more: impl IntoIterator<Item = TokenLogprob>, behind: u64) {
        for token in more {
            let chosen = completion_token(&token.chosen);
            // Of two tokens with the same text the likelier one counts; it comes first.
            let mut top = BTreeMap::new();
            for candidate in token.top.iter().chain([&token.chosen]) {
                top.entry(completion_token(candidate)).or_insert(candidate.logprob);
            }
            self.text_offset.push(behind + token.text_offset);
            self.token_logprobs.push(Some(token.chosen.logprob));
            self.tokens.push(chosen);
            self.top_logprobs.push(Some(top));
        }
    }

    /// Returns those of a chunk; `None` if it has no tokens.
    pub fn of_chunk(tokens: Vec<TokenLogprob>, behind: u64) -> Option<Self> {
        let mut logprobs = Self::default();
        logprobs.extend(tokens, behind);
        (!logprobs.tokens.is_empty()).then_some(logprobs)
    }
}

/// Returns a token's text in the form of OpenAI's completions.
fn completion_token(candidate: &Candidate) -> String {
    text_or_bytes(&candidate.bytes)
}

fn text_or_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
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
            serde_json::to_value(CompletionLogprobs::of_chunk(vec![token()], 3)).unwrap(),
            json!({
                "text_offset": [7], "token_logprobs": [-1.5], "tokens": ["bytes:\\xc3"],
                "top_logprobs": [{"a": -0.5, "bytes:\\xc3": -1.5}],
            })
        );
        assert_eq!(ChatLogprobs::of_chunk(Vec::new()), None);
        assert_eq!(CompletionLogprobs::of_chunk(Vec::new(), 0), None);
        let prompt = PromptLogprobs { first: b"Hi".to_vec(), rest: vec![token()] };
        assert_eq!(
            serde_json::to_value(CompletionLogprobs::of_prompt(prompt)).unwrap(),
            json!({
                "text_offset": [0, 4], "token_logprobs": [null, -1.5], "tokens": ["Hi", "bytes:\\xc3"],
                "top_logprobs": [null, {"a": -0.5, "bytes:\\xc3": -1.5}],
            })
        );
    }
}
