//! The edge's handle to conversations.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ractor::RpcReplyPort;
use tokio::sync::Semaphore;

use super::actor::{Call, ConversationMessage, ConversationStore, Writer};
use super::commands::{self, Begun, Opening, find};
use super::error::{ConversationError, RETRY_AFTER};
use super::ids::ConversationId;
use super::leases::{Lease, Leases, LocalLeases};
use super::prepared::PreparedItems;
use super::queries::{self, Viewer};
use super::turn::Turn;
use super::types::{
    Anchor, BranchView, ConversationPage, ConversationQuery, ConversationRecord, ConversationUpdate, Item,
    ItemPage, NewConversation, NewItem, Position, Share, WholeConversation,
};
use crate::config::ConversationsConfig;
use crate::identity::UserId;
use crate::service::{self, ActorAddress};
use crate::store::{Scope, Store, Stores};
use crate::supervisor::ChildSpec;

/// Number of actors that the users are divided among.
const SHARDS: usize = 8;

/// Maximum number of concurrent calls and reads; one more is refused.
const MAX_CONCURRENT_CALLS: usize = 4096;

/// Maximum time that a call waits for an actor that is being restarted.
const RESTART_WAIT: Duration = Duration::from_secs(2);

/// Maximum time of a call. A call is answered within the time of a disk write; one that takes this long is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of attempts to begin a turn, because items were added between its read and its beginning.
const MAX_BEGINS: usize = 100;

/// Handle to conversations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Conversations {
    writer: Writer,
    shards: Arc<[Arc<ActorAddress<ConversationMessage>>]>,
    places: Arc<Semaphore>,
    running: Arc<dyn Leases>,
}

/// The input of a turn.
#[derive(Clone, Debug, Default)]
pub struct TurnRequest {
    /// The user's items. Empty: the last user message is answered once more.
    pub items: Vec<NewItem>,
    /// The position of the items.
    pub anchor: Anchor,
    /// The model that answers; it becomes the model of a conversation that has none yet.
    pub model: Option<String>,
}

impl Conversations {
    pub(crate) fn new(store: Arc<Store>, limits: ConversationsConfig) -> Self {
        Self {
            writer: Writer { store, limits: Arc::new(limits), last_us: Arc::default() },
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            places: Arc::new(Semaphore::new(MAX_CONCURRENT_CALLS)),
            running: Arc::new(LocalLeases::default()),
        }
    }

    /// Returns its actors, for a supervisor to start.
    pub(crate) fn children(&self) -> Vec<ChildSpec> {
        let child = |(number, address): (usize, &Arc<ActorAddress<ConversationMessage>>)| {
            let service = ConversationStore { writer: self.writer.clone() };
            service::child(format!("conversation store #{number}"), service, Arc::clone(address))
        };
        self.shards.iter().enumerate().map(child).collect()
    }

    /// Returns the limits of conversations.
    #[must_use]
    pub fn limits(&self) -> &ConversationsConfig {
        &self.writer.limits
    }

    /// Creates a conversation.
    ///
    /// # Errors
    /// An invalid field, or the store.
    pub async fn create(
        &self,
        user: UserId,
        mut new: NewConversation,
    ) -> Result<ConversationRecord, ConversationError> {
        let NewConversation { items, .. } = &mut new;
        let prepared = self.prepare(user, None, std::mem::take(items)).await?;
        self.ask(user, |call| ConversationMessage::Create(user, new, prepared.items, call)).await
    }

    /// Returns a conversation with the items of its active branch, oldest first.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn get(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<(ConversationRecord, Vec<Item>), ConversationError> {
        self.look(Scope::Conversation(id), move |stores, running| async move {
            queries::get(&**stores.conversations(), &*running, user, id).await
        })
        .await
    }

    /// Returns a conversation without its items.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn record(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<ConversationRecord, ConversationError> {
        self.look(Scope::Conversation(id), move |stores, _| async move {
            find(&**stores.conversations(), user, id).await
        })
        .await
    }

    /// Returns the items of the active branch, oldest first.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn history(&self, user: UserId, id: ConversationId) -> Result<Vec<Item>, ConversationError> {
        Ok(self.get(user, id).await?.1)
    }

    /// Returns a part of a user's conversations.
    ///
    /// # Errors
    /// The store.
    pub async fn list(
        &self,
        user: UserId,
        query: ConversationQuery,
    ) -> Result<ConversationPage, ConversationError> {
        // A search for text reads megabytes, and would meet a change of a user with many answers under way every time.
        let scope = query.text.is_none().then_some(Scope::User(user));
        self.look(scope, move |stores, _| async move {
            queries::list(&**stores.conversations(), user, &query).await
        })
        .await
    }

    /// Returns the position where a list continues: after a cursor, or after a conversation as it stands now.
    ///
    /// # Errors
    /// The text is neither, or the store.
    pub async fn position(&self, user: UserId, cursor: &str) -> Result<Position, ConversationError> {
        if let Some(position) = Position::from_cursor(cursor) {
            return Ok(position);
        }
        let id =
            cursor.parse().map_err(|_| ConversationError::not_found("conversation or cursor", cursor))?;
        Ok(self.record(user, id).await?.position())
    }

    /// Changes title, model or metadata.
    ///
    /// # Errors
    /// Not found, an invalid field, or the store.
    pub async fn update(
        &self,
        user: UserId,
        id: ConversationId,
        update: ConversationUpdate,
    ) -> Result<ConversationRecord, ConversationError> {
        self.ask(user, |call| ConversationMessage::Update(user, id, update, call)).await
    }

    /// Deletes a conversation with all its items.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn delete(&self, user: UserId, id: ConversationId) -> Result<(), ConversationError> {
        self.ask(user, |call| ConversationMessage::Delete(user, id, call)).await
    }

    /// Appends items, which become the end of the active branch. They are durable when this returns.
    ///
    /// # Errors
    /// Not found, an id that is taken, too many or too large, or the store.
    pub async fn append(
        &self,
        user: UserId,
        id: ConversationId,
        items: Vec<NewItem>,
        anchor: Anchor,
    ) -> Result<Vec<Item>, ConversationError> {
        let mut prepared = self.prepare(user, Some(id), items).await?;
        let items = std::mem::take(&mut prepared.items);
        let placed =
            self.ask(user, |call| ConversationMessage::Append(user, id, items, anchor, call)).await?;
        Ok(prepared.show_all(placed))
    }

    /// Returns a part of the active branch: `limit` items after `after`.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn items(
        &self,
        user: UserId,
        id: ConversationId,
        after: Option<String>,
        limit: usize,
        oldest_first: bool,
    ) -> Result<ItemPage, ConversationError> {
        self.look(Scope::Conversation(id), move |stores, running| async move {
            let store = &**stores.conversations();
            let record = find(store, user, id).await?;
            Viewer::new(store, id, &*running).page(record.head, after.as_deref(), limit, oldest_first).await
        })
        .await
    }

    /// Returns one item of any branch.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn item(
        &self,
        user: UserId,
        id: ConversationId,
        item: String,
    ) -> Result<Item, ConversationError> {
        self.look(Scope::Conversation(id), move |stores, running| async move {
            let store = &**stores.conversations();
            find(store, user, id).await?;
            Viewer::new(store, id, &*running).item(&item).await
        })
        .await
    }

    /// Deletes an item. The items that answer it remain, and now answer the item before it.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn delete_item(
        &self,
        user: UserId,
        id: ConversationId,
        item: String,
    ) -> Result<ConversationRecord, ConversationError> {
        self.ask(user, |call| ConversationMessage::DeleteItem(user, id, item, call)).await
    }

    /// Returns all branches, ordered by their beginning.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn branches(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Vec<BranchView>, ConversationError> {
        self.look(Scope::Conversation(id), move |stores, running| async move {
            let store = &**stores.conversations();
            let record = find(store, user, id).await?;
            Viewer::new(store, id, &*running).branches(record.head).await
        })
        .await
    }

    /// Selects the item that the active branch ends with: the head of another branch, or an earlier item.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn pick(
        &self,
        user: UserId,
        id: ConversationId,
        item: String,
    ) -> Result<ConversationRecord, ConversationError> {
        self.ask(user, |call| ConversationMessage::Pick(user, id, item, call)).await
    }

    /// Returns a conversation with all its branches.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn whole(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<WholeConversation, ConversationError> {
        self.look(Scope::Conversation(id), move |stores, running| async move {
            queries::whole(&**stores.conversations(), &*running, user, id).await
        })
        .await
    }

    /// Creates a link through which the active branch can be read publicly in its current state, until the expiry (epoch
    /// seconds). There is one link at a time; an existing one keeps its token.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn share(
        &self,
        user: UserId,
        id: ConversationId,
        expires_at: Option<u64>,
    ) -> Result<Share, ConversationError> {
        let mut secret = [0; 24];
        getrandom::fill(&mut secret).map_err(|_| ConversationError::unavailable())?;
        let token = format!("share_{}", URL_SAFE_NO_PAD.encode(secret));
        self.ask(user, |call| ConversationMessage::Share(user, id, token, expires_at, call)).await
    }

    /// Removes the public link.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn unshare(&self, user: UserId, id: ConversationId) -> Result<(), ConversationError> {
        self.ask(user, |call| ConversationMessage::Unshare(user, id, call)).await
    }

    /// Returns the contents of a share link.
    ///
    /// # Errors
    /// Not found, or the store.
    pub async fn shared(&self, token: String) -> Result<(ConversationRecord, Vec<Item>), ConversationError> {
        let (of_token, place) = (token.clone(), self.place()?);
        let find = move |stores: Arc<dyn Stores>| async move {
            let _place = place;
            Ok::<_, ConversationError>(stores.conversations().shared(&of_token).await?)
        };
        let id = self.writer.store.look(find).await?.ok_or_else(queries::no_share)?;
        self.look(Scope::Conversation(id), move |stores, running| async move {
            queries::shared(&**stores.conversations(), &*running, id, &token).await
        })
        .await
    }

    /// Waits for the exclusive right to answer in a conversation: there is one answer at a time, so that each takes the earlier
    /// ones into account. Dropping the lease ends the right.
    ///
    /// # Errors
    /// Earlier answers took longer than `conversations.turn_wait_ms`.
    pub async fn lease(&self, id: ConversationId) -> Result<Lease, ConversationError> {
        let limit = Duration::from_millis(self.writer.limits.turn_wait_ms);
        let turn = tokio::time::timeout(limit, self.running.acquire(id)).await;
        turn.map_err(|_| ConversationError::TurnTimeout { waited: limit })
    }

    /// Begins a turn: waits for the lease, then stores the user's items and the pending answer durably.
    ///
    /// # Errors
    /// Not found, nothing to answer, too many or too large items, earlier answers that took too long, or the store.
    pub async fn begin(
        &self,
        user: UserId,
        id: ConversationId,
        request: TurnRequest,
    ) -> Result<Turn, ConversationError> {
        // Before waiting: the conversation may not exist.
        self.record(user, id).await?;
        let lease = self.lease(id).await?;
        let again = request.items.is_empty();
        let prepared = self.prepare(user, Some(id), request.items).await?;
        for _ in 0..MAX_BEGINS {
            let anchor = request.anchor.clone();
            let seen = self.look(Scope::Conversation(id), move |stores, running| async move {
                queries::before_turn(&**stores.conversations(), &*running, user, id, &anchor, again).await
            });
            let seen = seen.await?;
            let new = super::chat::without_repeated_instructions(&prepared.bodies, &seen.history);
            let items = new.iter().map(|&at| prepared.items[at].clone()).collect();
            let opening =
                Opening { seen_head: seen.head, parent: seen.parent, items, model: request.model.clone() };
            lease.answers_from(seen.next);
            let begun: Option<Begun> =
                self.ask(user, |call| ConversationMessage::Begin(user, id, opening, call)).await?;
            if let Some(begun) = begun {
                let mut history = seen.history;
                history.extend(prepared.show(&new, begun.items.clone()));
                return Ok(Turn::new(self.writer.clone(), lease, begun, history));
            }
        }
        Err(ConversationError::Busy { retry_after: RETRY_AFTER })
    }

    /// Prepares items to be added to a conversation or, without `id`, to a new one.
    async fn prepare(
        &self,
        user: UserId,
        id: Option<ConversationId>,
        items: Vec<NewItem>,
    ) -> Result<PreparedItems, ConversationError> {
        let place = self.place()?;
        let limits = Arc::clone(&self.writer.limits);
        let prepare = move |stores: Arc<dyn Stores>| async move {
            let _place = place;
            let prepared = PreparedItems::new(items, &limits);
            if prepared.has_large() {
                commands::check_room(&*stores, user, id, prepared.bytes(), &limits).await?;
            }
            Ok(prepared.place(stores.conversations()).await?)
        };
        self.writer.store.look(prepare).await
    }

    /// Reads one state of a scope, if there is one, beside the store's thread, so that no read waits for an `fsync`.
    async fn look<T: Send + 'static, F>(
        &self,
        scope: impl Into<Option<Scope>>,
        look: impl FnOnce(Arc<dyn Stores>, Arc<dyn Leases>) -> F + Clone + Send + 'static,
    ) -> Result<T, ConversationError>
    where
        F: Future<Output = Result<T, ConversationError>> + Send + 'static,
    {
        let place = Arc::new(self.place()?);
        let running = Arc::clone(&self.running);
        let look = move |stores| {
            let looked = look(stores, running);
            async move {
                let _place = place;
                looked.await
            }
        };
        match scope.into() {
            Some(scope) => self.writer.store.look_at(scope, look).await,
            None => self.writer.store.look(look).await,
        }
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, ConversationError> {
        let busy = ConversationError::Busy { retry_after: RETRY_AFTER };
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy)
    }

    async fn ask<T: Send + 'static>(
        &self,
        user: UserId,
        message: impl FnOnce(Call<T>) -> ConversationMessage,
    ) -> Result<T, ConversationError> {
        // The place is taken before sending: a mailbox has no bound of its own.
        let place = self.place()?;
        // The last bytes of a version 7 UUID are random.
        let shard = usize::from(user.to_bytes()[15]) % self.shards.len();
        let actor =
            self.shards[shard].running(RESTART_WAIT).await.ok_or_else(ConversationError::unavailable)?;
        let ask = |reply: RpcReplyPort<Result<T, ConversationError>>| message(Call::new(reply, place));
        let answer = actor.call(ask, Some(CALL_TIMEOUT)).await;
        let answer = answer.ok().and_then(|answer| answer.success_or(()).ok());
        answer.unwrap_or_else(|| Err(ConversationError::unavailable()))
    }
}
