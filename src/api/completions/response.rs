//! `POST /completions`: the response, whole and in chunks.
//!
//! Source: `CreateCompletionResponse` in OpenAI's API description.

use std::borrow::Cow;

use jan_actors::model::TokenUsage;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::inference::choices::ChoiceEvent;
use crate::api::inference::logprobs::CompletionLogprobs;
use crate::api::inference::streaming::Encoder;
use crate::api::inference::usage::{Finish, ResponseHeader, StreamedUsage, Usage};
use crate::http::sse;

/// A text completion, or one event of a streamed one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion<'a> {
    /// A unique id, the same in all chunks of one response.
    #[schema(example = "cmpl-2f1c6a8e0d5b4f7f9a3c1e2d4b6f8a01")]
    id: &'a str,
    /// Always `text_completion`.
    object: &'static str,
    /// Unix seconds.
    created: i64,
    /// The model as requested.
    model: &'a str,
    /// The answers; in a chunk, the increment of one answer.
    choices: Vec<CompletionChoice<'a>>,
    /// Token counts. In chunks with `stream_options.include_usage`: null except in the last one; with
    /// `continuous_usage_stats`: the counts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// Identifies the build and the model.
    system_fingerprint: &'a str,
}

impl<'a> Completion<'a> {
    /// Creates a completion with these answers.
    pub fn new(
        head: &'a ResponseHeader,
        choices: Vec<CompletionChoice<'a>>,
        usage: Option<Option<Usage>>,
    ) -> Self {
        Self {
            id: &head.id,
            object: "text_completion",
            created: head.created,
            model: &head.model,
            choices,
            usage,
            system_fingerprint: &head.system_fingerprint,
        }
    }
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice<'a> {
    /// Its index.
    pub index: u32,
    /// The text, after its prompt with `echo`.
    pub text: Cow<'a, str>,
    /// Log-probabilities of its tokens, in a chunk of the new ones; null unless `logprobs` requests them.
    pub logprobs: Option<CompletionLogprobs>,
    /// The reason why it ended; null in chunks until then.
    pub finish_reason: Option<Finish>,
}

/// An answer in progress, without streaming.
#[derive(Debug)]
pub struct Answer {
    text: String,
    /// The number of characters of the prompt before it.
    behind: u64,
    logprobs: CompletionLogprobs,
    /// The sum of its own tokens' log-probabilities, if known, and their number.
    score: (f64, u32),
    finish: Finish,
}

impl Answer {
    /// Creates an answer that begins with `echo`.
    pub fn new(echo: String) -> Self {
        let behind = echo.chars().count() as u64;
        let logprobs = CompletionLogprobs::default();
        Self { text: echo, behind, logprobs, score: (0.0, 0), finish: Finish::Stop }
    }

    /// Creates an answer with that likelihood.
    #[cfg(test)]
    pub fn scored(score: f64) -> Self {
        Self { score: (score, 1), ..Self::new(String::new()) }
    }

    /// Adds an event.
    pub fn take(&mut self, event: ChoiceEvent) {
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                self.text.push_str(&text);
                for token in &logprobs {
                    self.score.0 += f64::from(token.chosen.logprob);
                    self.score.1 += 1;
                }
                self.logprobs.extend(logprobs, self.behind);
            }
            ChoiceEvent::Prompt(scores) => self.logprobs = CompletionLogprobs::of_prompt(scores),
            ChoiceEvent::Finished(reason, _) => self.finish = reason.into(),
            // A prompt that is not a chat has no reasoning and no tools.
            ChoiceEvent::Reasoning(_)
            | ChoiceEvent::Call { .. }
            | ChoiceEvent::Arguments { .. }
            | ChoiceEvent::Citations(_) => {}
        }
    }

    /// Returns the mean of its tokens' log-probabilities; an answer without tokens is the least likely.
    pub fn likelihood(&self) -> f64 {
        let (sum, tokens) = self.score;
        if tokens == 0 { f64::NEG_INFINITY } else { sum / f64::from(tokens) }
    }

    /// Converts the answer to its wire type.
    pub fn into_choice(self, index: u32, with_logprobs: bool) -> CompletionChoice<'static> {
        CompletionChoice {
            index,
            text: Cow::Owned(self.text),
            logprobs: with_logprobs.then_some(self.logprobs),
            finish_reason: Some(self.finish),
        }
    }
}

/// Encodes answers as events.
pub struct ChunkEncoder {
    /// The common fields of all events.
    head: ResponseHeader,
    /// The usage so far, and the chunks that report it.
    usage: StreamedUsage,
    /// Each answer's prompt; empty without `echo`.
    echoes: Vec<String>,
    /// Set while the prompts wait for their log-probabilities.
    scored: bool,
}

impl ChunkEncoder {
    /// Creates an encoder of answers that begin with `echoes`; with `scored`, the echoes include their
    /// log-probabilities.
    pub fn new(head: ResponseHeader, usage: StreamedUsage, echoes: Vec<String>, scored: bool) -> Self {
        Self { head, usage, echoes, scored }
    }

    /// Returns the number of characters of the prompt before an answer.
    fn behind(&self, index: usize) -> u64 {
        self.echoes.get(index).map_or(0, |echo| echo.chars().count() as u64)
    }

    fn write(&self, choices: Vec<CompletionChoice<'_>>, usage: Option<Option<Usage>>, buffer: &mut Vec<u8>) {
        sse::write_event(buffer, &Completion::new(&self.head, choices, usage));
    }

    fn write_choice(
        &self,
        index: usize,
        text: &str,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<Finish>,
        buffer: &mut Vec<u8>,
    ) {
        let index = u32::try_from(index).expect("there are at most 1024 answers");
        let choice = CompletionChoice { index, text: Cow::Borrowed(text), logprobs, finish_reason };
        self.write(vec![choice], self.usage.of_chunk(), buffer);
    }
}

impl Encoder for ChunkEncoder {
    fn so_far(&mut self, answers: &[TokenUsage]) {
        self.usage.so_far(answers);
    }

    fn opening(&mut self, buffer: &mut Vec<u8>) {
        if self.scored {
            return;
        }
        for (index, echo) in self.echoes.iter().enumerate() {
            if !echo.is_empty() {
                self.write_choice(index, echo, None, None, buffer);
            }
        }
    }

    fn event(&mut self, index: usize, event: ChoiceEvent, buffer: &mut Vec<u8>) {
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                let behind = if logprobs.is_empty() { 0 } else { self.behind(index) };
                let logprobs = CompletionLogprobs::of_chunk(logprobs, behind);
                self.write_choice(index, &text, logprobs, None, buffer);
            }
            ChoiceEvent::Prompt(scores) => {
                let logprobs = Some(CompletionLogprobs::of_prompt(scores));
                self.write_choice(index, &self.echoes[index], logprobs, None, buffer);
            }
            ChoiceEvent::Finished(reason, usage) => {
                self.usage.finished(index, usage);
                self.write_choice(index, "", None, Some(reason.into()), buffer);
            }
            // A prompt that is not a chat has no reasoning and no tools.
            ChoiceEvent::Reasoning(_)
            | ChoiceEvent::Call { .. }
            | ChoiceEvent::Arguments { .. }
            | ChoiceEvent::Citations(_) => {}
        }
    }

    fn closing(&mut self, buffer: &mut Vec<u8>) {
        if let usage @ Some(_) = self.usage.of_last() {
            self.write(Vec::new(), usage, buffer);
        }
    }
}
