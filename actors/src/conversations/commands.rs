//! Decisions about conversations: from the stored state to an answer and the changes that it needs.
//!
//! They have no clock, no actor and no disk access of their own: the store's thread runs them one after the other, so none is
//! based on state that another one is about to change.

use serde_json::{Map, Value, json};

use super::draft::{Draft, nearest};
use super::error::ConversationError;
use super::fields::{check_metadata, valid_model, valid_title};
use super::ids::ConversationId;
use super::item;
use super::prepared::{PreparedBody, PreparedItem};
use super::rules::Rules;
use super::tree::Node;
use super::types::{
    Anchor, ConversationRecord, ConversationUpdate, Ending, NewConversation, NewItem, Placed, Share,
    StoredItem,
};
use crate::config::ConversationsConfig;
use crate::identity::{IdentityError, UserId};
use crate::store::{ConversationChange, ConversationsStore, Stores, Used};

/// An answer and the changes that it needs.
pub type Decision<T> = Result<(T, Vec<ConversationChange>), ConversationError>;

/// Returns a conversation of that user; another user's is not found.
pub async fn find(
    store: &dyn ConversationsStore,
    user: UserId,
    id: ConversationId,
) -> Result<ConversationRecord, ConversationError> {
    let record = store.conversation(id).await?.filter(|record| record.user == user);
    record.ok_or_else(|| ConversationError::not_found("conversation", &id.to_string()))
}

/// Refuses changes that exceed the user's quota.
async fn check_quota(
    stores: &dyn Stores,
    before: Option<&ConversationRecord>,
    after: &ConversationRecord,
) -> Result<(), ConversationError> {
    let before = before.map(Used::of_conversation).unwrap_or_default();
    Ok(stores.check_quota(after.user, Used::of_conversation(after).and(before.less())).await?)
}

/// Refuses items that a conversation, or a new one, has no room for, before their bodies are staged. The decision about them
/// checks it again.
pub async fn check_room(
    stores: &dyn Stores,
    user: UserId,
    id: Option<ConversationId>,
    bytes: u64,
    limits: &ConversationsConfig,
) -> Result<(), ConversationError> {
    stores.check_space().await?;
    let there = match id {
        Some(id) => find(&**stores.conversations(), user, id).await?.bytes,
        None => 0,
    };
    if there.saturating_add(bytes) > limits.max_bytes {
        return Err(ConversationError::Full { limit: limits.max_bytes, unit: "bytes of items" });
    }
    Ok(stores.check_quota(user, Used::of_body(bytes)).await?)
}

/// Creates a conversation with `items`.
pub async fn create(
    stores: &dyn Stores,
    user: UserId,
    new: NewConversation,
    items: Vec<PreparedItem>,
    rules: &Rules,
) -> Decision<ConversationRecord> {
    // A request may have arrived before its user was deleted; data stored after that would never be deleted.
    if stores.accounts().user(user).await?.is_none() {
        return Err(ConversationError::Store(IdentityError::NotFound { what: "user", id: user.to_string() }));
    }
    let record = ConversationRecord {
        id: ConversationId::new(),
        user,
        title: new.title.map(|title| valid_title(&title, &rules.limits)).transpose()?,
        model: new.model.map(valid_model).transpose()?,
        metadata: new.metadata,
        created_at: rules.now_s(),
        updated_us: rules.now_us,
        items: 0,
        bytes: 0,
        next: 0,
        head: None,
        share: None,
    };
    check_metadata(&record.metadata, &rules.limits)?;
    let mut draft = Draft::new(record);
    draft.add(items, None, rules)?;
    check_quota(stores, None, &draft.record).await?;
    Ok((draft.record.clone(), draft.into_changes()))
}

/// Changes title, model or metadata.
pub async fn update(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    update: ConversationUpdate,
    rules: &Rules,
) -> Decision<ConversationRecord> {
    let before = find(&**stores.conversations(), user, id).await?;
    let mut record = before.clone();
    if let Some(title) = update.title {
        record.title = title.map(|title| valid_title(&title, &rules.limits)).transpose()?;
    }
    if let Some(model) = update.model {
        record.model = model.map(valid_model).transpose()?;
    }
    if let Some(metadata) = update.metadata {
        record.metadata = metadata;
        check_metadata(&record.metadata, &rules.limits)?;
    }
    check_quota(stores, Some(&before), &record).await?;
    rules.touch(&mut record);
    Ok((record.clone(), vec![ConversationChange::Put(record)]))
}

/// Deletes a conversation with all its items.
pub async fn delete(stores: &dyn Stores, user: UserId, id: ConversationId) -> Decision<()> {
    find(&**stores.conversations(), user, id).await?;
    Ok(((), vec![ConversationChange::Delete(id)]))
}

/// Appends items, which become the end of the active branch.
pub async fn append(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    items: Vec<PreparedItem>,
    anchor: &Anchor,
    rules: &Rules,
) -> Decision<Vec<Placed>> {
    let store = &**stores.conversations();
    let before = find(store, user, id).await?;
    let mut draft = Draft::new(before.clone());
    let parent = draft.parent_of(store, anchor).await?;
    check_new_ids(store, id, &items).await?;
    draft.add(items, parent, rules)?;
    check_quota(stores, Some(&before), &draft.record).await?;
    Ok((draft.placed.clone(), draft.into_changes()))
}

/// The input of a turn's beginning.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The end of the branch that the turn read, checked again here.
    pub seen_head: Option<u32>,
    /// The parent of the turn's items.
    pub parent: Option<u32>,
    /// The user's items.
    pub items: Vec<PreparedItem>,
    /// The model that answers.
    pub model: Option<String>,
}

/// The result of a turn's beginning.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The positions of the user's items.
    pub items: Vec<Placed>,
    /// The pending answer.
    pub answer: StoredItem,
    /// The numbers of all items that the turn added.
    pub added: Vec<u32>,
    /// The previous end of the branch.
    pub head_before: Option<u32>,
    /// The previous title.
    pub title_before: Option<String>,
}

/// Stores a turn's user items together with the pending answer, whose text is missing until it ends. `None`: the branch has
/// another end than the turn has read.
pub async fn begin(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    opening: Opening,
    rules: &Rules,
) -> Decision<Option<Begun>> {
    let store = &**stores.conversations();
    let before = find(store, user, id).await?;
    let mut draft = Draft::new(before.clone());
    if draft.record.head != opening.seen_head {
        return Ok((None, Vec::new()));
    }
    let (head_before, title_before) = (draft.record.head, draft.record.title.clone());
    // The id of the item that the first new item answers.
    draft.nearest = nearest(store, id, opening.parent).await?;
    draft.add(opening.items, opening.parent, rules)?;
    let items = draft.placed.clone();
    let parent = if items.is_empty() { opening.parent } else { draft.record.head };
    let body = json!({"type": "message", "status": "in_progress", "role": "assistant", "content": []});
    let Value::Object(body) = body else { unreachable!("it is written as an object") };
    draft.add_one(PreparedItem::inline(NewItem { id: None, body }, &rules.limits), parent, true, rules)?;
    if draft.record.model.is_none() {
        draft.record.model = opening.model.map(valid_model).transpose()?;
    }
    check_quota(stores, Some(&before), &draft.record).await?;
    let Some((node, PreparedBody::Inline(body))) = draft.stored.last().cloned() else {
        return Err(ConversationError::unavailable());
    };
    let answer = StoredItem { node, body };
    let added = draft.stored.iter().map(|(node, _)| node.number).collect();
    let begun = Begun { items, answer, added, head_before, title_before };
    Ok((Some(begun), draft.into_changes()))
}

/// Stores the answer's text so far. The answer remains pending, and the conversation keeps its place in the list.
pub async fn checkpoint(
    stores: &dyn Stores,
    id: ConversationId,
    answer: &StoredItem,
    text: String,
) -> Decision<()> {
    let (record, item) = replace(stores, id, answer, answer_body(answer, text, "in_progress")).await?;
    Ok(((), vec![ConversationChange::PutItem(id, item), ConversationChange::Put(record)]))
}

/// The contents of an answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerContents {
    /// The text.
    pub text: String,
    /// The references of the text, as OpenAI's annotations.
    pub annotations: Vec<Value>,
    /// The tool calls.
    pub calls: Vec<NewItem>,
}

/// Stores the final answer and its tool calls.
pub async fn finish(
    stores: &dyn Stores,
    id: ConversationId,
    answer: &StoredItem,
    said: AnswerContents,
    ending: Ending,
    rules: &Rules,
) -> Decision<()> {
    let status = match ending {
        Ending::Completed => "completed",
        Ending::Incomplete => "incomplete",
    };
    let AnswerContents { text, annotations, calls } = said;
    let mut body = answer_body(answer, text, status);
    if let Some(part) = body.get_mut("content").and_then(|content| content.get_mut(0)) {
        part["annotations"] = Value::Array(annotations);
    }
    let (mut record, mut item) = replace(stores, id, answer, body).await?;
    rules.touch(&mut record);
    item.node.pending = false;
    // Items added meanwhile follow the answer and remain the end of the branch; otherwise the calls are the end.
    let (number, head) = (item.node.number, record.head);
    let mut draft = Draft::new(record);
    draft.nearest = Some(item.node.id.clone());
    let calls = calls.into_iter().map(|call| PreparedItem::inline(call, &rules.limits)).collect();
    draft.add(calls, Some(number), rules)?;
    if head != Some(number) {
        draft.record.head = head;
    }
    let mut changes = vec![ConversationChange::PutItem(id, item)];
    changes.extend(draft.into_changes());
    Ok(((), changes))
}

/// Returns a pending answer with another body, and the record with its new size.
async fn replace(
    stores: &dyn Stores,
    id: ConversationId,
    answer: &StoredItem,
    body: Map<String, Value>,
) -> Result<(ConversationRecord, StoredItem), ConversationError> {
    let store = &**stores.conversations();
    let mut record = store
        .conversation(id)
        .await?
        .ok_or_else(|| ConversationError::not_found("conversation", &id.to_string()))?;
    let stored = store.item(id, answer.node.number).await?;
    let stored = stored.filter(|stored| !stored.node.deleted && stored.node.pending);
    let stored = stored.ok_or_else(|| ConversationError::not_found("item", &answer.node.id))?;
    let bytes = |body| item::size(body) as u64;
    record.bytes = record.bytes.saturating_sub(bytes(&stored.body)).saturating_add(bytes(&body));
    Ok((record, StoredItem { node: stored.node, body }))
}

fn answer_body(answer: &StoredItem, text: String, status: &str) -> Map<String, Value> {
    let mut body = answer.body.clone();
    body.insert("status".to_owned(), json!(status));
    let content = if text.is_empty() { Vec::new() } else { vec![item::text_part("assistant", text)] };
    body.insert("content".to_owned(), Value::Array(content));
    body
}

/// Reverts the additions of a turn that was abandoned.
pub async fn take_back(
    stores: &dyn Stores,
    id: ConversationId,
    begun: &Begun,
    rules: &Rules,
) -> Decision<()> {
    let store = &**stores.conversations();
    let mut record = store
        .conversation(id)
        .await?
        .ok_or_else(|| ConversationError::not_found("conversation", &id.to_string()))?;
    let mut changes = Vec::new();
    for &number in &begun.added {
        if let Some((node, size)) = store.node_and_size(id, number).await?.filter(|(node, _)| !node.deleted) {
            changes.push(erase(&mut record, node, size));
        }
    }
    if record.head == Some(begun.answer.node.number) {
        record.head = begun.head_before;
        record.title.clone_from(&begun.title_before);
    }
    rules.touch(&mut record);
    changes.push(ConversationChange::Put(record));
    Ok(((), changes))
}

/// Deletes an item; the items that answer it remain.
pub async fn delete_item(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    item: &str,
    rules: &Rules,
) -> Decision<ConversationRecord> {
    let store = &**stores.conversations();
    let mut record = find(store, user, id).await?;
    let node = find_node(store, id, item).await?;
    let size = store.node_and_size(id, node.number).await?.map_or(0, |(_, size)| size);
    let change = erase(&mut record, node, size);
    rules.touch(&mut record);
    Ok((record.clone(), vec![change, ConversationChange::Put(record)]))
}

/// Deletes an item whose body has that size.
fn erase(record: &mut ConversationRecord, node: Node, size: u64) -> ConversationChange {
    record.items = record.items.saturating_sub(1);
    record.bytes = record.bytes.saturating_sub(size);
    let node = Node { deleted: true, pending: false, ..node };
    ConversationChange::PutItem(record.id, StoredItem { node, body: Map::new() })
}

/// Makes an item the end of the active branch: the head of another branch, or an earlier item to continue from.
pub async fn pick(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    item: &str,
    rules: &Rules,
) -> Decision<ConversationRecord> {
    let store = &**stores.conversations();
    let mut record = find(store, user, id).await?;
    record.head = Some(find_node(store, id, item).await?.number);
    rules.touch(&mut record);
    Ok((record.clone(), vec![ConversationChange::Put(record)]))
}

/// Creates a link through which the active branch can be read publicly in its current state until the expiry. There is one link
/// at a time; an existing one keeps its token.
pub async fn share(
    stores: &dyn Stores,
    user: UserId,
    id: ConversationId,
    new_token: String,
    expires_at: Option<u64>,
    rules: &Rules,
) -> Decision<Share> {
    let mut record = find(&**stores.conversations(), user, id).await?;
    let now = rules.now_s();
    if expires_at.is_some_and(|end| end <= now) {
        return Err(ConversationError::invalid("expires_at", "must be in the future (Unix seconds)"));
    }
    // A link that has expired or was revoked stays invalid.
    let ended_at = stores.accounts().user(user).await?.and_then(|user| user.shares_ended_at);
    let open = |share: &Share| !share.is_over(now) && ended_at.is_none_or(|ended| share.created_at > ended);
    let token = record.share.take().filter(open).map_or(new_token, |share| share.token);
    let share = Share { token, head: record.head, created_at: now, expires_at };
    record.share = Some(share.clone());
    Ok((share, vec![ConversationChange::Put(record)]))
}

/// Removes the public link.
pub async fn unshare(stores: &dyn Stores, user: UserId, id: ConversationId) -> Decision<()> {
    let mut record = find(&**stores.conversations(), user, id).await?;
    if record.share.take().is_none() {
        return Err(ConversationError::not_found("share link of conversation", &id.to_string()));
    }
    Ok(((), vec![ConversationChange::Put(record)]))
}

/// Returns an item that is not deleted.
pub async fn find_item(
    store: &dyn ConversationsStore,
    id: ConversationId,
    item: &str,
) -> Result<StoredItem, ConversationError> {
    let number = find_node(store, id, item).await?.number;
    let stored = store.item(id, number).await?.filter(|stored| !stored.node.deleted);
    stored.ok_or_else(|| ConversationError::not_found("item", item))
}

/// Returns the node of an item that is not deleted.
async fn find_node(
    store: &dyn ConversationsStore,
    id: ConversationId,
    item: &str,
) -> Result<Node, ConversationError> {
    let number =
        store.item_number(id, item).await?.ok_or_else(|| ConversationError::not_found("item", item))?;
    let node = store.node(id, number).await?.filter(|node| !node.deleted);
    node.ok_or_else(|| ConversationError::not_found("item", item))
}

/// Refuses ids assigned by other components of this server that exist already.
async fn check_new_ids(
    store: &dyn ConversationsStore,
    id: ConversationId,
    items: &[PreparedItem],
) -> Result<(), ConversationError> {
    for PreparedItem { id: item, .. } in items.iter().filter(|item| item.id_is_given) {
        if store.item_number(id, item).await?.is_some() {
            return Err(ConversationError::invalid("id", format!("{item} is already in the conversation")));
        }
    }
    Ok(())
}
