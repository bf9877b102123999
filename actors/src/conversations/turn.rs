//! A turn: a user's message and its answer. From the turn's beginning on, the message and the place of the answer are on disk;
//! the answer's text follows.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::actor::Writer;
use super::commands::{self, AnswerContents, Begun};
use super::error::ConversationError;
use super::ids::ConversationId;
use super::leases::Lease;
use super::types::{Ending, Item, NewItem};

/// A turn that has begun. Dropping it aborts it: the partial answer is stored as `incomplete`.
///
/// Its end goes to the store directly and not through the actor: the answer must not be lost while the actor is restarted or the
/// server stops.
#[derive(Debug)]
pub struct Turn {
    /// `None` once it has ended.
    open: Option<Open>,
    id: ConversationId,
    answer_id: String,
    history: Vec<Item>,
}

#[derive(Debug)]
struct Open {
    writer: Writer,
    /// Released when the end is stored.
    lease: Lease,
    begun: Begun,
    text: String,
    /// The tool calls of the answer.
    calls: Vec<NewItem>,
    /// The references of its text.
    annotations: Vec<Value>,
    every: Duration,
    stored_at: Instant,
    stored_len: usize,
}

impl Turn {
    pub(super) fn new(writer: Writer, lease: Lease, begun: Begun, history: Vec<Item>) -> Self {
        let every = Duration::from_millis(writer.limits.checkpoint_ms);
        Self {
            id: lease.conversation(),
            answer_id: begun.answer.node.id.clone(),
            history,
            open: Some(Open {
                writer,
                lease,
                begun,
                text: String::new(),
                calls: Vec::new(),
                annotations: Vec::new(),
                every,
                stored_at: Instant::now(),
                stored_len: 0,
            }),
        }
    }

    /// Returns the conversation.
    #[must_use]
    pub const fn conversation(&self) -> ConversationId {
        self.id
    }

    /// Returns the id of the answer's item.
    #[must_use]
    pub fn answer_id(&self) -> &str {
        &self.answer_id
    }

    /// Returns the messages to be answered: the branch up to the turn, oldest first.
    #[must_use]
    pub fn history(&self) -> &[Item] {
        &self.history
    }

    /// Adds text to the answer. It is stored periodically, so that little is lost if the server is killed.
    pub fn push(&mut self, text: &str) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        if open.stored_at.elapsed() < open.every || open.text.len() == open.stored_len {
            return;
        }
        open.stored_at = Instant::now();
        open.stored_len = open.text.len();
        let (id, answer, text) = (self.id, open.begun.answer.clone(), open.text.clone());
        open.writer.carry_out(
            move |stores, _| async move { commands::checkpoint(&*stores, id, &answer, text).await },
            |_| {},
        );
    }

    /// Adds a tool call. It is stored at the turn's end.
    pub fn push_call(&mut self, call_id: &str, name: &str, arguments: &str) {
        self.push_item(json!({
            "type": "function_call", "status": "completed", "call_id": call_id, "name": name, "arguments": arguments,
        }));
    }

    /// Adds another item of the answer, such as a search. It is stored at the turn's end.
    pub fn push_item(&mut self, item: Value) {
        if let (Some(open), Value::Object(body)) = (&mut self.open, item) {
            open.calls.push(NewItem { id: None, body });
        }
    }

    /// Sets the references of the answer's text, as OpenAI's annotations. They are stored at the turn's end.
    pub fn annotate(&mut self, annotations: Vec<Value>) {
        if let Some(open) = &mut self.open {
            open.annotations = annotations;
        }
    }

    /// Completes the answer. It is durable when this returns.
    ///
    /// # Errors
    /// The store failed. It is not known then whether the answer is stored.
    pub async fn finish(&mut self) -> Result<(), ConversationError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (sender, receiver) = oneshot::channel();
        end(open, self.id, Ending::Completed, move |outcome| {
            let _ = sender.send(outcome);
        });
        match receiver.await.unwrap_or_else(|_| Err(ConversationError::unavailable())) {
            // The user has deleted the conversation or the answer meanwhile.
            Err(ConversationError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Reverts the turn, as if it had not begun.
    ///
    /// # Errors
    /// The store failed; the turn's items remain then, and the answer is `incomplete`.
    pub async fn take_back(mut self) -> Result<(), ConversationError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { writer, lease, begun, .. } = open;
        let (sender, receiver) = oneshot::channel();
        let id = self.id;
        writer.carry_out(
            move |stores, rules| async move { commands::take_back(&*stores, id, &begun, &rules).await },
            move |outcome| {
                drop(lease);
                let _ = sender.send(outcome);
            },
        );
        match receiver.await.unwrap_or_else(|_| Err(ConversationError::unavailable())) {
            Err(ConversationError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            end(open, self.id, Ending::Incomplete, |outcome| match outcome {
                Ok(()) | Err(ConversationError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, "what there was of an answer could not be stored"),
            });
        }
    }
}

/// Stores the end; the next turn begins after that.
fn end(
    open: Open,
    id: ConversationId,
    ending: Ending,
    done: impl FnOnce(Result<(), ConversationError>) + Send + 'static,
) {
    let Open { writer, lease, begun, text, annotations, calls, .. } = open;
    let said = AnswerContents { text, annotations, calls };
    let answer = begun.answer;
    writer.carry_out(
        move |stores, rules| async move { commands::finish(&*stores, id, &answer, said, ending, &rules).await },
        move |outcome| {
            drop(lease);
            done(outcome);
        },
    );
}
