//! A model's raw text, taken apart before it leaves through the seam.

use std::collections::VecDeque;
use std::time::Instant;

use futures_util::stream::{Stream, unfold};
use jan_protocol::embeddings::Embedding;
use jan_protocol::output_formats::{OutputParser, Tool};
use jan_protocol::types::{GenerationError, RawEvent, ToolPlan};
use tokio::sync::mpsc;

use super::in_flight::SharedTable;
use crate::model::backend::{GenerationEvent, OutputPart};

/// Events of a request in the table. Dropping it cancels: its sequence is free within one decode step.
pub struct RawGeneration {
    events: mpsc::Receiver<RawEvent>,
    id: u64,
    table: SharedTable,
}

impl RawGeneration {
    /// Creates the output of the request of that id, which need not be in the table yet.
    pub const fn new(events: mpsc::Receiver<RawEvent>, id: u64, table: SharedTable) -> Self {
        Self { events, id, table }
    }
}

impl Drop for RawGeneration {
    fn drop(&mut self) {
        // Closed first: a submission still in the mailbox then sees that no caller waits for it.
        self.events.close();
        self.table.lock().cancel(self.id, Instant::now());
    }
}

/// Embeddings of a request in the table. Dropping it cancels.
pub struct RawEmbeddings {
    events: mpsc::UnboundedReceiver<Result<Embedding, GenerationError>>,
    id: u64,
    table: SharedTable,
}

impl RawEmbeddings {
    /// Creates the output of the request of that id.
    pub const fn new(
        events: mpsc::UnboundedReceiver<Result<Embedding, GenerationError>>,
        id: u64,
        table: SharedTable,
    ) -> Self {
        Self { events, id, table }
    }

    /// One by one.
    pub fn into_stream(self) -> impl Stream<Item = Result<Embedding, GenerationError>> + Send + Sync {
        unfold(self, async |mut embeddings| Some((embeddings.events.recv().await?, embeddings)))
    }
}

impl Drop for RawEmbeddings {
    fn drop(&mut self) {
        // As of a generation.
        self.events.close();
        self.table.lock().cancel(self.id, Instant::now());
    }
}

/// The events of a generation, parsed; the last of them is `Finished` or `Failed`.
pub fn parsed(
    generation: RawGeneration,
    plan: Option<&ToolPlan>,
) -> impl Stream<Item = GenerationEvent> + Send + Sync + use<> {
    let reader = Reader {
        tools: plan.map(ToolPlan::tools).unwrap_or_default(),
        required: plan.is_some_and(|plan| plan.required),
        ..Reader::default()
    };
    unfold(Some((generation, reader)), async |running| {
        let (mut generation, mut reader) = running?;
        let event = loop {
            if let Some(event) = reader.ready.pop_front() {
                break event;
            }
            match generation.events.recv().await {
                Some(event) => reader.read(event),
                None => {
                    let without = "a generation ended without a result".to_owned();
                    break GenerationEvent::Failed(GenerationError::Internal(without));
                }
            }
        };
        let last = event.is_last();
        Some((event, (!last).then_some((generation, reader))))
    })
}

/// Takes one answer apart.
#[derive(Debug, Default)]
struct Reader {
    tools: Vec<Tool>,
    /// `true` if the answer has to be a call.
    required: bool,
    /// `None` where the answer's text is all there is.
    parser: Option<OutputParser>,
    ready: VecDeque<GenerationEvent>,
}

impl Reader {
    fn read(&mut self, event: RawEvent) {
        let event = match event {
            RawEvent::Accepted { prompt_tokens, prompt_text, layout } => {
                let parser = OutputParser::new(&layout, &self.tools);
                let parser = if self.required { parser.requiring_call() } else { parser };
                self.parser = Some(parser).filter(|parser| !parser.is_plain());
                GenerationEvent::Accepted { prompt_tokens, prompt_text }
            }
            RawEvent::Started { cached_tokens } => GenerationEvent::Started { cached_tokens },
            RawEvent::PromptScored(scores) => GenerationEvent::PromptScored(scores),
            RawEvent::Delta { text, tokens, logprobs } => {
                let parts = match &mut self.parser {
                    _ if text.is_empty() => Vec::new(),
                    None => vec![OutputPart::Content(text)],
                    Some(parser) => parser.push(&text),
                };
                let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                GenerationEvent::Output { parts, tokens, logprobs }
            }
            RawEvent::Finished { reason, usage } => {
                let parts = self.parser.as_mut().map(OutputParser::finish).unwrap_or_default();
                if !parts.is_empty() {
                    let logprobs = Vec::new();
                    self.ready.push_back(GenerationEvent::Output { parts, tokens: 0, logprobs });
                }
                GenerationEvent::Finished { reason, usage }
            }
            RawEvent::Failed(error) => GenerationEvent::Failed(error),
        };
        self.ready.push_back(event);
    }
}
