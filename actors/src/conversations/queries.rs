//! Views of conversations, derived from the stored state. Runs on any thread.

use super::commands::{find, find_item};
use super::error::ConversationError;
use super::ids::ConversationId;
use super::item;
use super::leases::Leases;
use super::tree::{Node, Tree};
use super::types::{
    BranchView, ConversationPage, ConversationQuery, ConversationRecord, Item, ItemPage, Position,
    StoredItem, WholeConversation,
};
use crate::identity::{UserId, now_s};
use crate::store::{ConversationsStore, StoreError};

/// Maximum number of conversations that a search examines at a time.
const SEARCH_CONVERSATIONS: usize = 20_000;
/// Maximum number of bytes of items that a search examines at a time.
const SEARCH_BYTES: u64 = 16 << 20;

/// Maximum number of conversations that are read at a time.
const MAX_PAGE: usize = 128;

type View<T> = Result<T, ConversationError>;

/// View of the items of one conversation.
pub struct Viewer<'a> {
    store: &'a dyn ConversationsStore,
    id: ConversationId,
    /// The number from which on pending items are running.
    running_from: Option<u32>,
}

impl<'a> Viewer<'a> {
    /// Returns the view of a conversation.
    pub fn new(store: &'a dyn ConversationsStore, id: ConversationId, running: &dyn Leases) -> Self {
        // Looked up before anything is read: an answer counts as running until its end is stored.
        Self { store, id, running_from: running.answering_from(id) }
    }

    fn show(&self, stored: StoredItem, parent: Option<&Node>) -> Item {
        let StoredItem { node, mut body } = stored;
        if node.pending && self.running_from.is_none_or(|from| node.number < from) {
            body.insert("status".to_owned(), "incomplete".into());
        }
        let parent = parent.map(|node| node.id.clone());
        Item { id: node.id, parent, created_at: node.created_at, body }
    }

    /// Returns the items of `nodes`; an item deleted meanwhile is left out.
    async fn load(&self, tree: &Tree<'_>, nodes: &[&Node]) -> View<Vec<Item>> {
        let numbers: Vec<_> = nodes.iter().map(|node| node.number).collect();
        let stored = self.store.items(self.id, &numbers).await?;
        let live = stored.into_iter().filter(|item| !item.node.deleted);
        let parent = |number| tree.node(number).and_then(|node| tree.parent(node));
        Ok(live
            .map(|item| {
                let parent = parent(item.node.number);
                self.show(item, parent)
            })
            .collect())
    }

    /// Returns the items from the beginning to `head`.
    pub async fn path(&self, head: Option<u32>) -> View<Vec<Item>> {
        let nodes = self.store.nodes(self.id).await?;
        let tree = Tree::new(&nodes);
        self.load(&tree, &tree.path(head)).await
    }

    /// Returns the items of all branches.
    pub async fn all(&self) -> View<Vec<Item>> {
        let nodes = self.store.nodes(self.id).await?;
        let tree = Tree::new(&nodes);
        let live: Vec<_> = nodes.iter().filter(|node| !node.deleted).collect();
        self.load(&tree, &live).await
    }

    /// Returns a part of the path to `head`.
    pub async fn page(
        &self,
        head: Option<u32>,
        after: Option<&str>,
        limit: usize,
        oldest_first: bool,
    ) -> View<ItemPage> {
        // Also if the item was deleted meanwhile: its place is known.
        let after = match after {
            Some(item) => {
                let number = self.store.item_number(self.id, item).await?;
                Some(number.ok_or_else(|| ConversationError::not_found("item", item))?)
            }
            None => None,
        };
        let nodes = self.store.nodes(self.id).await?;
        let tree = Tree::new(&nodes);
        let is_behind = |node: &&Node| match after {
            None => true,
            Some(after) if oldest_first => node.number > after,
            Some(after) => node.number < after,
        };
        let mut path: Vec<_> = tree.back_from(head).filter(is_behind).collect();
        if oldest_first {
            path.reverse();
        }
        let has_more = path.len() > limit;
        path.truncate(limit);
        Ok(ItemPage { data: self.load(&tree, &path).await?, has_more })
    }

    /// Returns one item.
    pub async fn item(&self, item: &str) -> View<Item> {
        let stored = find_item(self.store, self.id, item).await?;
        let nodes = self.store.nodes(self.id).await?;
        let tree = Tree::new(&nodes);
        let parent = tree.parent(&stored.node);
        Ok(self.show(stored, parent))
    }

    /// Returns all branches.
    pub async fn branches(&self, head: Option<u32>) -> View<Vec<BranchView>> {
        let nodes = self.store.nodes(self.id).await?;
        let tree = Tree::new(&nodes);
        let active = tree.back_from(head).next().map(|node| node.number);
        // The active branch may end before the point where others continue.
        let mut views = Vec::new();
        for branch in tree.branches() {
            let Some(node) = tree.node(branch.head) else { continue };
            let Some(head) = self.load(&tree, &[node]).await?.pop() else { continue };
            let fork = branch.fork.and_then(|number| tree.node(number)).map(|node| node.id.clone());
            views.push(BranchView { head, fork, items: branch.items, active: active == Some(branch.head) });
        }
        Ok(views)
    }
}

/// The state that a turn reads before it begins: the end of the active branch, the parent of its items, and the path to it.
#[derive(Debug)]
pub struct Seen {
    /// The end of the active branch.
    pub head: Option<u32>,
    /// The number of the next item.
    pub next: u32,
    /// The parent of the turn's items.
    pub parent: Option<u32>,
    /// The items from the beginning to the parent.
    pub history: Vec<Item>,
}

/// Reads the state that a turn needs. `again`: it has no new message, so the last one is answered once more.
pub async fn before_turn(
    store: &dyn ConversationsStore,
    running: &dyn Leases,
    user: UserId,
    id: ConversationId,
    anchor: &super::types::Anchor,
    again: bool,
) -> View<Seen> {
    use super::types::Anchor;
    let record = find(store, user, id).await?;
    let mut parent = match anchor {
        Anchor::Head => record.head,
        Anchor::Beginning => None,
        Anchor::After(item) => Some(find_item(store, id, item).await?.node.number),
    };
    let viewer = Viewer::new(store, id, running);
    let mut history = viewer.path(parent).await?;
    if again {
        while history.last().is_some_and(|item| item::is_from_model(&item.body)) {
            history.pop();
        }
        let Some(last) = history.last() else {
            let problem = "must have at least one: the conversation has nothing that could be answered";
            return Err(ConversationError::invalid("messages", problem));
        };
        parent = store.item_number(id, &last.id).await?;
    }
    Ok(Seen { head: record.head, next: record.next, parent, history })
}

/// Returns a conversation and the path to the end of its active branch.
pub async fn get(
    store: &dyn ConversationsStore,
    running: &dyn Leases,
    user: UserId,
    id: ConversationId,
) -> View<(ConversationRecord, Vec<Item>)> {
    let record = find(store, user, id).await?;
    let items = Viewer::new(store, id, running).path(record.head).await?;
    Ok((record, items))
}

/// Returns a conversation with all its branches.
pub async fn whole(
    store: &dyn ConversationsStore,
    running: &dyn Leases,
    user: UserId,
    id: ConversationId,
) -> View<WholeConversation> {
    let record = find(store, user, id).await?;
    let viewer = Viewer::new(store, id, running);
    let head = match record.head {
        Some(number) => viewer.path(Some(number)).await?.pop().map(|item| item.id),
        None => None,
    };
    Ok(WholeConversation { items: viewer.all().await?, head, record })
}

/// Returns the error that there is no such share link. Its token is a secret, and is not repeated.
pub fn no_share() -> ConversationError {
    ConversationError::not_found("share link", "of that token")
}

/// Returns the contents of a share link to a conversation.
pub async fn shared(
    store: &dyn ConversationsStore,
    running: &dyn Leases,
    id: ConversationId,
    token: &str,
) -> View<(ConversationRecord, Vec<Item>)> {
    let record = store.conversation(id).await?.ok_or_else(no_share)?;
    let share = record.share.as_ref().filter(|share| share.token == token && !share.is_over(now_s()));
    let share = share.ok_or_else(no_share)?;
    let items = Viewer::new(store, id, running).path(share.head).await?;
    Ok((record, items))
}

/// Returns a part of a user's conversations.
pub async fn list(
    store: &dyn ConversationsStore,
    user: UserId,
    query: &ConversationQuery,
) -> View<ConversationPage> {
    // Towards the beginning of the list if only its other end is given.
    let backwards = query.before.is_some() && query.after.is_none();
    let (mut newer_than, mut older_than) = match query.newest_first {
        true => (query.before, query.after),
        false => (query.after, query.before),
    };
    let mut search = Search::new(query);
    let mut data = Vec::new();
    let mut next: Option<Position> = None;
    let mut has_more = false;
    let forward = query.newest_first != backwards;
    let page = query.limit.clamp(1, MAX_PAGE);
    'pages: loop {
        let part = store.list(user, newer_than, older_than, forward, page).await?;
        for (position, record) in part.listed {
            if data.len() == query.limit || search.is_over() {
                has_more = true;
                break 'pages;
            }
            next = Some(position);
            if let Some(record) = record
                && search.matches(store, &record).await?
            {
                data.push(record);
            }
        }
        if !part.has_more {
            break;
        }
        if data.len() == query.limit || search.is_over() {
            has_more = true;
            break;
        }
        if forward {
            older_than = next;
        } else {
            newer_than = next;
        }
    }
    if backwards {
        data.reverse();
    }
    Ok(ConversationPage { data, has_more, next: next.filter(|_| has_more) })
}

struct Search<'a> {
    shared: bool,
    model: Option<&'a str>,
    text: Option<String>,
    conversations_left: usize,
    bytes_left: u64,
}

impl<'a> Search<'a> {
    fn new(query: &'a ConversationQuery) -> Self {
        Self {
            shared: query.shared,
            model: query.model.as_deref(),
            text: query.text.as_ref().map(|text| text.to_lowercase()),
            conversations_left: SEARCH_CONVERSATIONS,
            bytes_left: SEARCH_BYTES,
        }
    }

    const fn is_over(&self) -> bool {
        self.conversations_left == 0 || self.bytes_left == 0
    }

    async fn matches(
        &mut self,
        store: &dyn ConversationsStore,
        record: &ConversationRecord,
    ) -> Result<bool, StoreError> {
        self.conversations_left = self.conversations_left.saturating_sub(1);
        if self.shared && record.share.is_none() {
            return Ok(false);
        }
        if self.model.is_some_and(|model| record.model.as_deref() != Some(model)) {
            return Ok(false);
        }
        let Some(text) = &self.text else { return Ok(true) };
        if record.title.as_ref().is_some_and(|title| title.to_lowercase().contains(text)) {
            return Ok(true);
        }
        self.bytes_left = self.bytes_left.saturating_sub(record.bytes);
        for node in store.nodes(record.id).await?.iter().filter(|node| !node.deleted) {
            if let Some(stored) = store.item(record.id, node.number).await?
                && item::text_of(&stored.body).to_lowercase().contains(text)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
