//! Recording of a response's output in its conversation.

use futures_util::StreamExt;
use futures_util::stream::unfold;
use jan_actors::conversations::{ConversationError, Turn};
use jan_actors::model::FinishReason;
use jan_actors::responses::{Delta, DeltaKind, Problem, RunEvent, Source};
use jan_actors::web_search::WebSource;
use serde_json::{Value, json};

use super::output_item::OutputSearch;
use crate::api::inference::web_search::citations::citations;
use crate::http::ApiError;

/// The output so far, which is stored at the end of the turn.
#[derive(Debug, Default)]
struct TurnOutput {
    text: String,
    /// Id, name and arguments.
    calls: Vec<[String; 3]>,
    searches: Vec<OutputSearch>,
    sources: Vec<WebSource>,
}

impl TurnOutput {
    fn push(&mut self, delta: &Delta, turn: &mut Turn, with_sources: bool) {
        match &delta.kind {
            DeltaKind::Text => {
                self.text.push_str(&delta.text);
                turn.push(&delta.text);
            }
            DeltaKind::Reasoning => {}
            DeltaKind::Call { call_id } => {
                self.calls.push([call_id.clone(), delta.text.clone(), String::new()]);
            }
            DeltaKind::Arguments => {
                if let Some([.., arguments]) = self.calls.last_mut() {
                    arguments.push_str(&delta.text);
                }
            }
            DeltaKind::Search => self.searches.push(OutputSearch::new(String::new(), &delta.text)),
            DeltaKind::Searched { sources } => {
                if let Some(search) = self.searches.last_mut() {
                    search.end(sources.as_deref(), with_sources);
                }
                self.sources.extend(sources.iter().flatten().cloned());
            }
        }
    }

    fn store(&self, turn: &mut Turn) {
        turn.annotate(citations(&self.text, &self.sources).iter().map(|one| json!(one)).collect());
        for search in &self.searches {
            let mut item = json!(search);
            // Removed, since the conversation assigns an id to every item.
            if let Value::Object(fields) = &mut item {
                fields.shift_remove("id");
            }
            turn.push_item(item);
        }
        for [call_id, name, arguments] in &self.calls {
            turn.push_call(call_id, name, arguments);
        }
    }
}

/// Returns `source` with its output also recorded in a conversation. The turn is stored before the end is emitted, so
/// that readers who see the end find the answer there; a run that ends otherwise leaves it `incomplete`.
pub fn into_turn(source: Source, turn: Turn, with_sources: bool) -> Source {
    Box::pin(unfold(
        (source, Some(turn), TurnOutput::default()),
        move |(mut source, mut turn, mut output)| async move {
            let mut event = source.next().await?;
            match (&event, &mut turn) {
                (RunEvent::Delta(delta), Some(turn)) => output.push(delta, turn, with_sources),
                (RunEvent::Finished(FinishReason::Stop, _), Some(turn)) => {
                    output.store(turn);
                    if let Err(error) = turn.finish().await {
                        tracing::error!(%error, "an answer could not be added to its conversation");
                        let message = "The answer could not be added to the conversation.".to_owned();
                        event =
                            RunEvent::Failed(Problem { code: "storage_failed".to_owned(), message }, None);
                    }
                }
                (RunEvent::Finished(..) | RunEvent::Failed(..), turn) => *turn = None,
                _ => {}
            }
            Some((event, (source, turn, output)))
        },
    ))
}

/// Maps an error of the response's conversation.
pub fn conversation_error(error: ConversationError) -> ApiError {
    ApiError::from_conversation(error).with_param("conversation")
}
