//! The actors that write conversations: each has the users of one shard.
//!
//! Like the actor of users, they decide nothing in their mailboxes: each message becomes a decision on the store's
//! thread, which answers once the change is durable. A restart loses only calls that were not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::decide::{self, Begun, Decision, Opening};
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
    /// Begin a conversation.
    Create(UserId, NewConversation, Vec<PreparedItem>, Call<ConversationRecord>),
    /// Change title, model or notes.
    Update(UserId, ConversationId, ConversationUpdate, Call<ConversationRecord>),
    /// Delete a conversation.
    Delete(UserId, ConversationId, Call<()>),
    /// Add items.
    Append(UserId, ConversationId, Vec<PreparedItem>, Anchor, Call<Vec<Placed>>),
    /// Begin a turn.
    Begin(UserId, ConversationId, Opening, Call<Option<Begun>>),
    /// Delete an item.
    DeleteItem(UserId, ConversationId, String, Call<ConversationRecord>),
    /// Go on from another item.
    Pick(UserId, ConversationId, String, Call<ConversationRecord>),
    /// Make a link that anybody can read until then, of that token if there is none.
    Share(UserId, ConversationId, String, Option<u64>, Call<Share>),
    /// Make the link lead nowhere.
    Unshare(UserId, ConversationId, Call<()>),
}

/// The service that writes the conversations of one shard's users.
#[derive(Clone, Debug)]
pub struct ConversationStore {
    /// Where decisions are carried out.
    pub writer: Writer,
}

/// Has decisions carried out.
#[derive(Clone, Debug)]
pub struct Writer {
    /// What is kept.
    pub store: Arc<Store>,
    /// How large conversations may be.
    pub limits: Arc<ConversationsConfig>,
    /// The time of the last decision (epoch microseconds).
    pub last_us: Arc<AtomicU64>,
}

impl Writer {
    /// What decisions go by, now. No two have the same time, so that a list by last change is in the order of changes.
    pub fn rules(&self) -> Rules {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let later = |last: u64| now.max(last.saturating_add(1));
        let last = self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        // It always gets through.
        let last = last.unwrap_or_else(|last| last);
        Rules { limits: (*self.limits).clone(), now_us: later(last) }
    }

    /// Answers a call once its changes are durable; one that nobody waits for is not begun.
    fn decide<T: Send + 'static>(
        &self,
        call: Call<T>,
        decide: impl FnOnce(&dyn Stores, &Rules) -> Decision<T> + Clone + Send + 'static,
    ) {
        if !call.is_abandoned() {
            self.carry_out(decide, move |answer| call.answer(answer));
        }
    }

    /// Carries out a decision; `done` is told once its changes are durable.
    pub fn carry_out<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&dyn Stores, &Rules) -> Decision<T> + Clone + Send + 'static,
        done: impl FnOnce(Result<T, ConversationError>) + Send + 'static,
    ) {
        let rules = self.rules();
        let decide = move |stores: &dyn Stores| {
            let (answer, changes) = decide(stores, &rules)?;
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
            writer.decide(call, move |stores, rules| decide::create(stores, user, new, items, rules));
        }
        Message::Update(user, id, update, call) => {
            writer.decide(call, move |stores, rules| decide::update(stores, user, id, update, rules));
        }
        Message::Delete(user, id, call) => {
            writer.decide(call, move |stores, _| decide::delete(stores, user, id));
        }
        Message::Append(user, id, items, anchor, call) => {
            writer.decide(call, move |stores, rules| decide::append(stores, user, id, items, &anchor, rules))
        }
        Message::Begin(user, id, opening, call) => {
            writer.decide(call, move |stores, rules| decide::begin(stores, user, id, opening, rules));
        }
        Message::DeleteItem(user, id, item, call) => {
            writer.decide(call, move |stores, rules| decide::delete_item(stores, user, id, &item, rules));
        }
        Message::Pick(user, id, item, call) => {
            writer.decide(call, move |stores, rules| decide::pick(stores, user, id, &item, rules));
        }
        Message::Share(user, id, token, until, call) => {
            writer.decide(call, move |stores, rules| decide::share(stores, user, id, token, until, rules));
        }
        Message::Unshare(user, id, call) => {
            writer.decide(call, move |stores, _| decide::unshare(stores, user, id));
        }
    }
}
