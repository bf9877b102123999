//! Assembly of a response's output as items, and of their events; both are independent of how the deltas arrive.

use jan_actors::responses::{Delta, DeltaKind, End, EndStatus, Progress, ResponseId, ResponseRecord};
use jan_actors::web_search::WebSource;
use serde_json::{Value, json};

use super::events::Event;
use super::items::ItemStatus;
use super::object::{ResponseObject, ResponseStatus};
use super::output_item::{
    OutputCall, OutputItem, OutputMessage, OutputPart, OutputReasoning, OutputSearch, OutputText,
    ReasoningText,
};
use crate::api::inference::logprobs::ChatTokenLogprob;
use crate::api::inference::web_search::citations::citations;

/// Assembles the items of a response.
#[derive(Clone, Debug)]
pub struct Output {
    /// The digits of the response's id, which its items' ids have as well.
    digits: String,
    /// The id of its first message.
    message_id: String,
    items: Vec<OutputItem>,
    /// Set while the last item may continue.
    open: bool,
    /// The sources of all searches, in the order of the numbers by which they are cited.
    sources: Vec<WebSource>,
    /// Set if searches show their sources.
    with_sources: bool,
}

impl Output {
    /// Creates an empty output.
    pub fn of(shown: &ResponseObject) -> Self {
        Self::new(&shown.id, shown.message_id(), shown.with_sources)
    }

    fn new(response: &str, message_id: String, with_sources: bool) -> Self {
        let digits = response.trim_start_matches(ResponseId::PREFIX).to_owned();
        Self { digits, message_id, items: Vec::new(), open: false, sources: Vec::new(), with_sources }
    }

    /// Returns the output of a response with the given end.
    pub fn whole(mut self, deltas: &[Delta], end: &End) -> Vec<OutputItem> {
        let mut events = Vec::new();
        for delta in deltas {
            self.push(delta, &mut events);
        }
        self.end(end, &mut events);
        self.items
    }

    /// Returns the items so far.
    pub fn items(&self) -> Vec<OutputItem> {
        self.items.clone()
    }

    /// Adds a delta.
    pub fn push(&mut self, delta: &Delta, events: &mut Vec<Event>) {
        let goes_on = self.open && self.items.last().is_some_and(|item| item.continues(&delta.kind));
        if !goes_on {
            // Arguments without a call and results without a search belong to no item.
            if matches!(delta.kind, DeltaKind::Arguments | DeltaKind::Searched { .. }) {
                return;
            }
            self.close(ItemStatus::Completed, events);
            self.begin(&delta.kind, &delta.text, events);
        }
        let output_index = self.last_index();
        let Some(item) = self.items.last_mut() else { return };
        let (item_id, content_index) = (item.id(), 0);
        let text = delta.text.clone();
        match (item, &delta.kind) {
            (OutputItem::Message(message), DeltaKind::Text) => {
                let logprobs: Vec<ChatTokenLogprob> =
                    delta.logprobs.iter().cloned().map(Into::into).collect();
                if let Some(part) = message.content.first_mut() {
                    part.text.push_str(&text);
                    part.logprobs.extend(logprobs.iter().cloned());
                }
                events.push(Event::TextDelta { item_id, output_index, content_index, delta: text, logprobs });
            }
            (OutputItem::Reasoning(reasoning), DeltaKind::Reasoning) => {
                if let Some(part) = reasoning.content.first_mut() {
                    part.text.push_str(&text);
                }
                events.push(Event::ReasoningDelta { item_id, output_index, content_index, delta: text });
            }
            (OutputItem::Call(call), DeltaKind::Arguments) => {
                call.arguments.push_str(&text);
                events.push(Event::ArgumentsDelta { item_id, output_index, delta: text });
            }
            (OutputItem::Search(search), DeltaKind::Searched { sources }) => {
                search.end(sources.as_deref(), self.with_sources);
                if let Some(found) = sources {
                    self.sources.extend(found.iter().cloned());
                    events.push(Event::SearchCompleted { item_id, output_index });
                }
                events.push(Event::ItemDone { output_index, item: OutputItem::Search(search.clone()) });
                self.open = false;
            }
            _ => {}
        }
    }

    fn last_index(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }

    fn begin(&mut self, kind: &DeltaKind, name: &str, events: &mut Vec<Event>) {
        let number = self.items.len();
        let id = |prefix: &str| format!("{prefix}_{}o{number:x}", self.digits);
        let status = ItemStatus::InProgress;
        let (item, part) = match kind {
            DeltaKind::Text => {
                let first = !self.items.iter().any(|item| matches!(item, OutputItem::Message(_)));
                let id = if first { self.message_id.clone() } else { id("msg") };
                let part = OutputText::new(String::new(), Vec::new());
                (
                    OutputItem::Message(OutputMessage::new(id, status, vec![part.clone()])),
                    Some(OutputPart::Text(part)),
                )
            }
            DeltaKind::Reasoning => {
                let part = ReasoningText::new(String::new());
                let item = OutputReasoning {
                    id: id("rs"),
                    kind: "reasoning".to_owned(),
                    status,
                    summary: Vec::new(),
                    content: vec![part.clone()],
                };
                (OutputItem::Reasoning(item), Some(OutputPart::Reasoning(part)))
            }
            DeltaKind::Call { call_id } => {
                let item = OutputCall {
                    id: id("fc"),
                    kind: "function_call".to_owned(),
                    status,
                    call_id: call_id.clone(),
                    name: name.to_owned(),
                    arguments: String::new(),
                };
                (OutputItem::Call(item), None)
            }
            DeltaKind::Search => (OutputItem::Search(OutputSearch::new(id("ws"), name)), None),
            DeltaKind::Arguments | DeltaKind::Searched { .. } => return,
        };
        let item_id = item.id();
        self.items.push(item.clone());
        self.open = true;
        let output_index = self.last_index();
        // The item is added without its parts.
        let mut bare = item;
        match &mut bare {
            OutputItem::Message(message) => message.content.clear(),
            OutputItem::Reasoning(reasoning) => reasoning.content.clear(),
            OutputItem::Call(_) | OutputItem::Search(_) => {}
        }
        let searches = matches!(bare, OutputItem::Search(_));
        events.push(Event::ItemAdded { output_index, item: bare });
        if searches {
            events.push(Event::SearchInProgress { item_id: item_id.clone(), output_index });
            events.push(Event::Searching { item_id: item_id.clone(), output_index });
        }
        if let Some(part) = part {
            events.push(Event::PartAdded { item_id, output_index, content_index: 0, part });
        }
    }

    fn close(&mut self, status: ItemStatus, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let output_index = self.last_index();
        let Some(item) = self.items.last_mut() else { return };
        item.with_status(status);
        let (item_id, content_index) = (item.id(), 0);
        let part = match item {
            OutputItem::Message(message) => message.content.first_mut().map(|part| {
                part.annotations = citations(&part.text, &self.sources);
                let part = part.clone();
                for (annotation_index, annotation) in (0..).zip(part.annotations.iter().cloned()) {
                    let item_id = item_id.clone();
                    events.push(Event::AnnotationAdded {
                        item_id,
                        output_index,
                        content_index,
                        annotation_index,
                        annotation,
                    });
                }
                let OutputText { text, logprobs, .. } = part.clone();
                let item_id = item_id.clone();
                events.push(Event::TextDone { item_id, output_index, content_index, text, logprobs });
                OutputPart::Text(part)
            }),
            OutputItem::Reasoning(reasoning) => reasoning.content.first().cloned().map(|part| {
                let (item_id, text) = (item_id.clone(), part.text.clone());
                events.push(Event::ReasoningDone { item_id, output_index, content_index, text });
                OutputPart::Reasoning(part)
            }),
            OutputItem::Call(call) => {
                let (name, arguments) = (call.name.clone(), call.arguments.clone());
                events.push(Event::ArgumentsDone { item_id: item_id.clone(), name, output_index, arguments });
                None
            }
            // The search ended together with its response, without results.
            OutputItem::Search(search) => {
                search.end(None, false);
                None
            }
        };
        if let Some(part) = part {
            events.push(Event::PartDone { item_id, output_index, content_index, part });
        }
        events.push(Event::ItemDone { output_index, item: item.clone() });
    }

    /// Ends the response.
    pub fn end(&mut self, end: &End, events: &mut Vec<Event>) {
        let status = match end.status {
            EndStatus::Completed => ItemStatus::Completed,
            EndStatus::Incomplete | EndStatus::Failed | EndStatus::Cancelled => ItemStatus::Incomplete,
        };
        // A model that ended without output has produced an empty text.
        let says_something = matches!(end.status, EndStatus::Completed | EndStatus::Incomplete);
        let silent = self.items.iter().all(|item| matches!(item, OutputItem::Search(_)));
        if silent && says_something {
            self.close(ItemStatus::Incomplete, events);
            self.begin(&DeltaKind::Text, "", events);
        }
        self.close(status, events);
    }
}

/// Returns the output of a stored response as items of a later turn.
pub fn output_items(record: &ResponseRecord) -> Vec<Value> {
    let given = record.shown["_message_id"].as_str().map(str::to_owned);
    let id = given.unwrap_or_else(|| super::items::message_id(record.id));
    let Some(end) = &record.end else { return Vec::new() };
    let with_sources = record.shown["_with_sources"] == true;
    let output = Output::new(&record.id.to_string(), id, with_sources);
    output.whole(&record.deltas, end).into_iter().map(|item| json!(item)).collect()
}

impl ResponseObject {
    /// Returns the response in the given state of progress.
    #[must_use]
    pub fn at(&self, progress: &Progress) -> Self {
        let mut response = self.bare();
        match &progress.end {
            None if progress.started || !self.background => response.status = ResponseStatus::InProgress,
            None => response.status = ResponseStatus::Queued,
            Some(end) => {
                response.ended(end);
                response.output = Output::of(self).whole(&progress.deltas, end);
            }
        }
        response
    }
}
