//! Log-probabilities in the two shapes of OpenAI's API.

use jan_protocol::types::Candidate;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::chunks::candidate;

/// vLLM's number for a probability of 0.
const IMPOSSIBLE: f32 = -9999.0;
/// Maximum number of candidates at a position; a caller may ask for 20.
const MAX_TOP: usize = 64;

/// A token that was chosen, and the likeliest ones at its position.
type Found = (Candidate, Vec<Candidate>);

#[derive(Deserialize)]
struct ChatToken {
    #[serde(default)]
    token: String,
    #[serde(default)]
    logprob: Option<f32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<ChatToken>,
}

#[derive(Deserialize)]
struct Lists {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

/// Reads the member `logprobs` of a choice: that of chats, which llama-server has in completions, too, or the lists of completions.
/// Anything else has no tokens.
#[must_use]
pub fn read(logprobs: &Value) -> Vec<Found> {
    if let Some(content) = logprobs.get("content") {
        let tokens: Vec<ChatToken> = Deserialize::deserialize(content).unwrap_or_default();
        return tokens.into_iter().map(of_chat).collect();
    }
    let Ok(lists) = Lists::deserialize(logprobs) else { return Vec::new() };
    let mut tops = lists.top_logprobs.unwrap_or_default().into_iter();
    let found = lists.tokens.iter().zip(lists.token_logprobs).map(|(token, logprob)| {
        let top = tops.next().flatten().unwrap_or_default();
        (candidate(bytes_of(token), logprob.unwrap_or(IMPOSSIBLE)), of_map(&top))
    });
    found.collect()
}

fn of_chat(token: ChatToken) -> Found {
    let one = |token: &ChatToken| {
        let bytes = token.bytes.clone().unwrap_or_else(|| bytes_of(&token.token));
        candidate(bytes, token.logprob.unwrap_or(IMPOSSIBLE))
    };
    (one(&token), token.top_logprobs.iter().take(MAX_TOP).map(one).collect())
}

fn of_map(top: &Map<String, Value>) -> Vec<Candidate> {
    let one = |(token, logprob): (&String, &Value)| {
        candidate(bytes_of(token), logprob.as_f64().map_or(IMPOSSIBLE, |logprob| logprob as f32))
    };
    let mut top: Vec<Candidate> = top.iter().take(MAX_TOP).map(one).collect();
    top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    top
}

/// Returns the bytes of a token's text, which is `bytes:` and hexadecimal numbers where they are no characters.
fn bytes_of(token: &str) -> Vec<u8> {
    let hexadecimal = |text: &str| -> Option<Vec<u8>> {
        text.strip_prefix("\\x")?.split("\\x").map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
    };
    token.strip_prefix("bytes:").and_then(hexadecimal).unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_are_read() {
        let chat = json!({"content": [{"token": "\u{fffd}", "logprob": -1.5, "bytes": [195], "top_logprobs": [
            {"token": "a", "logprob": null}, {"token": "b", "logprob": -0.5, "bytes": null},
        ]}]});
        let top = vec![candidate(b"a".to_vec(), IMPOSSIBLE), candidate(b"b".to_vec(), -0.5)];
        assert_eq!(read(&chat), [(candidate(vec![195], -1.5), top)]);
        let lists = json!({"tokens": ["bytes:\\xc3\\xa4", "b"], "token_logprobs": [-1.0, null], "text_offset": [0, 1],
            "top_logprobs": [{"a": -3.0, "b": -1.0}, null]});
        let top = vec![candidate(b"b".to_vec(), -1.0), candidate(b"a".to_vec(), -3.0)];
        let expected =
            [(candidate("ä".into(), -1.0), top), (candidate(b"b".to_vec(), IMPOSSIBLE), Vec::new())];
        assert_eq!(read(&lists), expected);
        for nothing in [json!(null), json!([]), json!({"content": null}), json!({"tokens": 1})] {
            assert_eq!(read(&nothing), []);
        }
        assert_eq!(bytes_of("bytes:\\xzz"), b"bytes:\\xzz");
    }
}
