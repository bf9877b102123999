//! A turn: somebody says something, and an answer is made. From its beginning on, what was said and the answer's place
//! are on disk; its text follows.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::actor::Writer;
use super::decide::{self, Begun, Said};
use super::error::ConversationError;
use super::ids::ConversationId;
use super::leases::Lease;
use super::types::{Ending, Item, NewItem};

/// A turn that has begun. Dropping it is how it breaks off: what there is of the answer is kept as `incomplete`.
///
/// Its end goes to the store directly and not through the actor: the answer must not be lost while that is restarted
/// or the server stops.
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
    /// Given back when the end is stored.
    lease: Lease,
    begun: Begun,
    text: String,
    /// The tools that the answer calls.
    calls: Vec<NewItem>,
    /// What its text refers to.
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

    /// The conversation.
    #[must_use]
    pub const fn conversation(&self) -> ConversationId {
        self.id
    }

    /// The id of the answer's item.
    #[must_use]
    pub fn answer_id(&self) -> &str {
        &self.answer_id
    }

    /// What is to be answered: the branch up to it, oldest first.
    #[must_use]
    pub fn history(&self) -> &[Item] {
        &self.history
    }

    /// More of the answer's text. Stored from time to time, so that not much is lost with the server.
    pub fn push(&mut self, text: &str) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        if open.stored_at.elapsed() < open.every || open.text.len() == open.stored_len {
            return;
        }
        open.stored_at = Instant::now();
        open.stored_len = open.text.len();
        let (id, answer, text) = (self.id, open.begun.answer.clone(), open.text.clone());
        open.writer.carry_out(move |stores, _| decide::checkpoint(stores, id, &answer, text), |_| {});
    }

    /// The answer calls a tool. Stored with its end.
    pub fn push_call(&mut self, call_id: &str, name: &str, arguments: &str) {
        self.push_item(json!({
            "type": "function_call", "status": "completed", "call_id": call_id, "name": name, "arguments": arguments,
        }));
    }

    /// Something else that goes with the answer, such as a search. Stored with its end.
    pub fn push_item(&mut self, item: Value) {
        if let (Some(open), Value::Object(body)) = (&mut self.open, item) {
            open.calls.push(NewItem { id: None, body });
        }
    }

    /// What the answer's text refers to, as OpenAI's annotations. Stored with its end.
    pub fn annotate(&mut self, annotations: Vec<Value>) {
        if let Some(open) = &mut self.open {
            open.annotations = annotations;
        }
    }

    /// The answer is whole. Durable when this returns.
    ///
    /// # Errors
    /// The store. Whether the answer is kept is not known then.
    pub async fn finish(&mut self) -> Result<(), ConversationError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (sender, receiver) = oneshot::channel();
        end(open, self.id, Ending::Completed, move |outcome| {
            let _ = sender.send(outcome);
        });
        match receiver.await.unwrap_or_else(|_| Err(ConversationError::unavailable())) {
            // Its user has deleted the conversation or the answer meanwhile.
            Err(ConversationError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// The turn has come to nothing: takes back what it stored, as if it had not begun.
    ///
    /// # Errors
    /// The store; what was stored stays then, and the answer is `incomplete`.
    pub async fn take_back(mut self) -> Result<(), ConversationError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { writer, lease, begun, .. } = open;
        let (sender, receiver) = oneshot::channel();
        let id = self.id;
        writer.carry_out(
            move |stores, rules| decide::take_back(stores, id, &begun, rules),
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
    let said = Said { text, annotations, calls };
    let answer = begun.answer;
    writer.carry_out(
        move |stores, rules| decide::finish(stores, id, &answer, said, ending, rules),
        move |outcome| {
            drop(lease);
            done(outcome);
        },
    );
}
