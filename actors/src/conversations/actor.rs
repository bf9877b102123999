//! The actors that write conversations, each for the users of one shard.
//!
//! Like the actor of users, they decide nothing in their mailboxes: each message becomes a decision on the store's thread, which
//! answers once the change is durable. A restart loses only calls that were not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::commands::{self, Begun, Decision, Opening};
use super::error::ConversationError;
use super::ids::ConversationId;
use super::prepared::PreparedItem;
use super::rules::Rules;
use super::types::{Anchor, ConversationRecord, ConversationUpdate, NewConversation, Placed, Share};
use crate::config::ConversationsConfig;
use crate::identity::UserId;
use crate::service::{Request, Service};
use crate::store::{Changes, Store, Stores};

/// A call to one of the actors of conversations.
pub type Call<T> = Request<T, ConversationError>;

/// Messages of a conversation store.
#[derive(Debug)]
pub enum ConversationMessage {
    /// Creates a conversation.
    Create(UserId, NewConversation, Vec<PreparedItem>, Call<ConversationRecord>),
    /// Changes title, model or metadata.
    Update(UserId, ConversationId, ConversationUpdate, Call<ConversationRecord>),
    /// Deletes a conversation.
    Delete(UserId, ConversationId, Call<()>),
    /// Appends items.
    Append(UserId, ConversationId, Vec<PreparedItem>, Anchor, Call<Vec<Placed>>),
    /// Begins a turn.
    Begin(UserId, ConversationId, Opening, Call<Option<Begun>>),
    /// Deletes an item.
    DeleteItem(UserId, ConversationId, String, Call<ConversationRecord>),
    /// Selects the item that the active branch ends with.
    Pick(UserId, ConversationId, String, Call<ConversationRecord>),
    /// Creates a public link with that expiry, with the given token unless there is a link already.
    Share(UserId, ConversationId, String, Option<u64>, Call<Share>),
    /// Removes the public link.
    Unshare(UserId, ConversationId, Call<()>),
}

/// The actor that writes the conversations of one shard's users.
#[derive(Clone, Debug)]
pub struct ConversationStore {
    /// Executes decisions.
    pub writer: Writer,
}

/// Executes decisions about conversations on the store's thread.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The store.
    pub store: Arc<Store>,
    /// The limits of conversations.
    pub limits: Arc<ConversationsConfig>,
    /// The time of the last decision (epoch microseconds).
    pub last_us: Arc<AtomicU64>,
}

impl Writer {
    /// Returns the rules of a decision made now. Each decision has a distinct time, so that a list by last change is in the order
    /// of changes.
    pub fn rules(&self) -> Rules {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let later = |last: u64| now.max(last.saturating_add(1));
        let last = self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        // The update never fails.
        let last = last.unwrap_or_else(|last| last);
        Rules { limits: (*self.limits).clone(), now_us: later(last) }
    }

    /// Answers a call once its changes are durable; a call without a waiting caller is not begun.
    fn decide<T: Send + 'static, F>(
        &self,
        call: Call<T>,
        decide: impl FnOnce(Arc<dyn Stores>, Rules) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = Decision<T>>,
    {
        if !call.is_abandoned() {
            self.carry_out(decide, move |answer| call.answer(answer));
        }
    }

    /// Executes a decision; `done` is called once its changes are durable.
    pub fn carry_out<T: Send + 'static, F>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>, Rules) -> F + Clone + Send + 'static,
        done: impl FnOnce(Result<T, ConversationError>) + Send + 'static,
    ) where
        F: Future<Output = Decision<T>>,
    {
        let rules = self.rules();
        let decide = move |stores: Arc<dyn Stores>| async move {
            let (answer, changes) = decide(stores, rules).await?;
            Ok((answer, Changes::conversations(changes)))
        };
        self.store.decide(decide, move |outcome: Result<_, ConversationError>| {
            done(outcome.map(|(answer, _)| answer));
        });
    }
}

impl Service for ConversationStore {
    type Message = ConversationMessage;

    fn handle(&mut self, message: ConversationMessage) {
        handle(&self.writer, message);
    }
}

fn handle(writer: &Writer, message: ConversationMessage) {
    use ConversationMessage as Message;
    match message {
        Message::Create(user, new, items, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::create(&*stores, user, new, items, &rules).await
            });
        }
        Message::Update(user, id, update, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::update(&*stores, user, id, update, &rules).await
            });
        }
        Message::Delete(user, id, call) => {
            writer.decide(call, move |stores, _| async move { commands::delete(&*stores, user, id).await });
        }
        Message::Append(user, id, items, anchor, call) => writer
            .decide(call, move |stores, rules| async move {
                commands::append(&*stores, user, id, items, &anchor, &rules).await
            }),
        Message::Begin(user, id, opening, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::begin(&*stores, user, id, opening, &rules).await
            });
        }
        Message::DeleteItem(user, id, item, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::delete_item(&*stores, user, id, &item, &rules).await
            });
        }
        Message::Pick(user, id, item, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::pick(&*stores, user, id, &item, &rules).await
            });
        }
        Message::Share(user, id, token, until, call) => {
            writer.decide(call, move |stores, rules| async move {
                commands::share(&*stores, user, id, token, until, &rules).await
            });
        }
        Message::Unshare(user, id, call) => {
            writer.decide(call, move |stores, _| async move { commands::unshare(&*stores, user, id).await });
        }
    }
}
