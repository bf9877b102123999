//! The answer of an upstream, read from the data of its events.
//!
//! Pure. Chunks have OpenAI's shape, with the additions of vLLM (`token_ids`, usage in every chunk, `reasoning`), SGLang
//! (`reasoning_content`) and llama-server (`prompt_progress`). Members that are not known are ignored, and everything that counts is
//! bounded.

use jan_protocol::output_formats::Part;
use jan_protocol::types::{Candidate, FinishReason, TokenLogprob, TokenUsage};
use serde::Deserialize;
use serde_json::Value;

use super::logprobs;

/// Maximum length of the text of an answer in bytes, calls and thinking included.
const MAX_TEXT: usize = 16 << 20;
/// Bytes that a call counts as besides its name: it takes memory, however short it is.
const CALL: usize = 64;
/// Maximum number of tokens of a prompt or an answer.
const MAX_TOKENS: u32 = 1 << 24;
/// Maximum size of the log-probabilities of an answer in memory, in bytes.
const MAX_LOGPROBS: usize = 256 << 20;

/// The reason why an answer cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// An event is no chunk.
    #[error("an event of its stream is no chunk of an answer")]
    Malformed,
    /// The upstream reports an error: OpenAI's object, or a text.
    #[error("it reports: {}", message_of(.0))]
    Reported(Value),
    /// The upstream gave the answer up.
    #[error("it gave the answer up")]
    Aborted,
    /// Arguments of a call behind the beginning of another.
    #[error("the arguments of its calls are interleaved")]
    Interleaved,
    /// A call without a name.
    #[error("it calls a tool without a name")]
    Nameless,
    /// More than [`MAX_TEXT`], [`MAX_TOKENS`] or [`MAX_LOGPROBS`].
    #[error("its answer is too long")]
    TooLong,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    prompt_progress: Option<PromptProgress>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    token_ids: Option<Vec<i64>>,
    #[serde(default)]
    logprobs: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct PromptProgress {
    total: u32,
    #[serde(default)]
    cache: u32,
}

/// More of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Its parts.
    pub parts: Vec<Part>,
    /// Tokens that were generated for them; of upstreams that do not say it, one for a chunk.
    pub tokens: u32,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl Piece {
    /// Returns `true` if it has nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tokens == 0 && self.logprobs.is_empty()
    }
}

/// The answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    usage: TokenUsage,
    /// `true` once the upstream has reported the length of the prompt.
    knows_prompt: bool,
    /// Tokens of pieces.
    counted: u32,
    /// `true` once the upstream has reported the tokens of its answer.
    knows_completion: bool,
    finish: Option<FinishReason>,
    is_done: bool,
    calls: usize,
    /// Bytes of text.
    length: usize,
    /// Characters of the tokens with log-probabilities.
    offset: u64,
    /// Bytes of log-probabilities.
    listed: usize,
}

impl Answer {
    /// An answer that continues so many characters.
    #[must_use]
    pub fn behind(characters: u64) -> Self {
        Self { offset: characters, ..Self::default() }
    }

    /// Reads the data of an event.
    ///
    /// # Errors
    /// See [`BadChunk`].
    pub fn read(&mut self, data: &str) -> Result<Piece, BadChunk> {
        if data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(Piece::default());
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|_| BadChunk::Malformed)?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(BadChunk::Reported(error));
        }
        if let Some(PromptProgress { total, cache }) = chunk.prompt_progress {
            self.usage.prompt_tokens = total.min(MAX_TOKENS);
            self.usage.cached_tokens = cache.min(self.usage.prompt_tokens);
            self.knows_prompt = true;
        }
        let mut piece = Piece::default();
        let mut ids = None;
        // One answer is asked for.
        if let Some(choice) = chunk.choices.into_iter().next() {
            ids = choice.token_ids.map(|ids| ids.len());
            let found = choice.logprobs.as_ref().map(logprobs::read);
            for (chosen, top) in found.unwrap_or_default() {
                let size = |candidate: &Candidate| size_of::<TokenLogprob>() + candidate.bytes.len();
                let listed = size(&chosen) + top.iter().map(size).sum::<usize>();
                self.listed = self.listed.saturating_add(listed);
                if self.listed > MAX_LOGPROBS {
                    return Err(BadChunk::TooLong);
                }
                let text_offset = self.offset;
                self.offset += String::from_utf8_lossy(&chosen.bytes).chars().count() as u64;
                piece.logprobs.push(TokenLogprob { chosen, top, text_offset });
            }
            self.read_parts(choice.delta.unwrap_or_default(), choice.text, &mut piece.parts)?;
            if let Some(reason) = choice.finish_reason.as_deref() {
                self.finish = Some(finish(reason)?);
            }
        }
        self.count(chunk.usage, ids, &mut piece);
        if self.counted > MAX_TOKENS { Err(BadChunk::TooLong) } else { Ok(piece) }
    }

    fn read_parts(
        &mut self,
        delta: Delta,
        text: Option<String>,
        parts: &mut Vec<Part>,
    ) -> Result<(), BadChunk> {
        // vLLM has had both names, and some versions send both.
        let thought = delta.reasoning_content.or(delta.reasoning);
        let mut push = |text: Option<String>, part: fn(String) -> Part| {
            let Some(text) = text.filter(|text| !text.is_empty()) else { return };
            self.length = self.length.saturating_add(text.len());
            parts.push(part(text));
        };
        push(thought, Part::Reasoning);
        push(delta.content, Part::Content);
        push(delta.refusal, Part::Content);
        push(text, Part::Content);
        for call in delta.tool_calls.unwrap_or_default() {
            let FunctionDelta { name, arguments } = call.function.unwrap_or_default();
            let name = name.filter(|name| !name.is_empty());
            // Servers that send whole calls may leave the number out.
            let index =
                call.index.unwrap_or(if name.is_some() { self.calls } else { self.calls.saturating_sub(1) });
            if index >= self.calls {
                let name = name.ok_or(BadChunk::Nameless)?;
                self.calls = index.saturating_add(1);
                self.length = self.length.saturating_add(name.len() + CALL);
                parts.push(Part::Call(name));
            }
            if let Some(arguments) = arguments.filter(|text| !text.is_empty()) {
                if index.checked_add(1) != Some(self.calls) {
                    return Err(BadChunk::Interleaved);
                }
                self.length = self.length.saturating_add(arguments.len());
                parts.push(Part::Arguments(arguments));
            }
        }
        if self.length > MAX_TEXT { Err(BadChunk::TooLong) } else { Ok(()) }
    }

    /// Counts the tokens of a piece: by the usage so far, by token ids, or as one.
    fn count(&mut self, usage: Option<Usage>, ids: Option<usize>, piece: &mut Piece) {
        if let Some(usage) = usage {
            if let Some(prompt_tokens) = usage.prompt_tokens {
                self.usage.prompt_tokens = prompt_tokens.min(MAX_TOKENS);
                self.knows_prompt = true;
            }
            if let Some(cached) = usage.prompt_tokens_details.and_then(|details| details.cached_tokens) {
                self.usage.cached_tokens = cached;
            }
            if let Some(thought) =
                usage.completion_tokens_details.and_then(|details| details.reasoning_tokens)
            {
                self.usage.reasoning_tokens = thought;
            }
            if let Some(completion) = usage.completion_tokens {
                self.usage.completion_tokens = completion;
                self.knows_completion = true;
                piece.tokens = completion.saturating_sub(self.counted);
                self.counted = self.counted.max(completion);
                return;
            }
        }
        let has_text = u32::from(!piece.parts.is_empty());
        piece.tokens = ids.map_or(has_text, |ids| u32::try_from(ids).unwrap_or(u32::MAX));
        self.counted = self.counted.saturating_add(piece.tokens);
    }

    /// Returns the tokens of the prompt and of those the cached ones, once the upstream has reported them.
    #[must_use]
    pub fn prompt(&self) -> Option<(u32, u32)> {
        self.knows_prompt.then_some((self.usage.prompt_tokens, self.usage.cached_tokens))
    }

    /// Returns `true` behind the end of the stream.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// Returns the reason of the end and the tokens used, once the answer has ended. Those that the upstream has not reported are
    /// counted, `prompt` for the prompt.
    #[must_use]
    pub fn end(&self, prompt: u32) -> Option<(FinishReason, TokenUsage)> {
        let mut usage = self.usage;
        if !self.knows_prompt {
            usage.prompt_tokens = prompt;
        }
        if !self.knows_completion {
            usage.completion_tokens = self.counted;
        }
        self.finish.map(|reason| (reason, usage))
    }
}

fn finish(reason: &str) -> Result<FinishReason, BadChunk> {
    match reason {
        "length" => Ok(FinishReason::Length),
        "abort" | "error" => Err(BadChunk::Aborted),
        // `stop`, `tool_calls`, `function_call`, `content_filter`, and what may be added.
        _ => Ok(FinishReason::Stop),
    }
}

/// Returns the text of an error object, shortened.
#[must_use]
pub fn message_of(error: &Value) -> String {
    let text = match error {
        Value::String(text) => text.as_str(),
        error => error["message"].as_str().unwrap_or("an error without a message"),
    };
    // Control characters would let an upstream write lines of its own into the log.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// A candidate whose number is not known.
#[must_use]
pub fn candidate(bytes: Vec<u8>, logprob: f32) -> Candidate {
    Candidate { token: -1, bytes, logprob }
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
