//! All kinds of records over sled's trees.
//!
//! The trees of indexes have the names of [`UniqueKey::index`]; those of conversations and responses are known to their
//! encoding.

use std::ops::Bound;

use async_trait::async_trait;
use sled::{Db, Tree};

use super::bodies::Bodies;
use super::codec::{encode, id_bytes};
use super::conversations::SledConversations;
use super::item_record;
use super::responses::SledResponses;
use super::tombstones::Tombstone;
use super::watchers::Watchers;
use crate::conversations::ConversationId;
use crate::conversations::types::{ConversationRecord, StoredItem};
use crate::identity::{UserId, now_s};
use crate::responses::{End, ResponseId, ResponseRecord};
use crate::store::conversations::MAX_INLINE_BYTES;
use crate::store::item_record::ItemRecord;
use crate::store::records::{KINDS, PreparedRecord, Record, RecordsStore, StagedRecord, UniqueKey};
use crate::store::{ConversationChange, ConversationsStore, ResponseChange, Scope, StoreError, readable};

/// The encoding of records in a tree. In an export each is one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordEncoding {
    /// The encoding of an export.
    Plain,
    /// The encoding of an export, with the items of [`RecordEncoding::Item`].
    Conversation,
    /// Chunks, after a header.
    Item,
    /// Parts.
    Response,
}

/// The tree and the encoding of a kind of record.
fn layout(kind: &str) -> (&str, RecordEncoding) {
    match kind {
        "conversation" => ("conv", RecordEncoding::Conversation),
        "item" => ("item", RecordEncoding::Item),
        "response" => ("response", RecordEncoding::Response),
        plain => (plain, RecordEncoding::Plain),
    }
}

/// An entry of an index that leads to a record.
struct IndexEntry {
    unique: UniqueKey,
    value: Vec<u8>,
}

fn index_entries(record: &Record) -> Result<Vec<IndexEntry>, StoreError> {
    // The keys of this index hold all there is.
    let value = |index| if index == "session_by_user" { Vec::new() } else { record.key.clone() };
    let unique = record.unique_keys()?.into_iter();
    Ok(unique.map(|unique| IndexEntry { value: value(unique.index), unique }).collect())
}

fn encoding(kind: usize) -> RecordEncoding {
    layout(KINDS[kind].name).1
}

/// The trees of all records.
#[derive(Debug)]
pub struct SledRecords {
    db: Db,
    trees: Vec<Tree>,
    conversations: SledConversations,
    responses: SledResponses,
    forget: Tree,
    bodies: Bodies,
    watchers: Watchers,
}

impl SledRecords {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db, bodies: &Bodies, watchers: &Watchers) -> Result<Self, StoreError> {
        Ok(Self {
            db: db.clone(),
            trees: KINDS.iter().map(|kind| db.open_tree(layout(kind.name).0)).collect::<Result<_, _>>()?,
            conversations: SledConversations::open(db, bodies.clone(), watchers.clone())?,
            responses: SledResponses::open(db, bodies.clone())?,
            forget: db.open_tree("forget")?,
            bodies: bodies.clone(),
            watchers: watchers.clone(),
        })
    }

    /// The record whose first piece is at that key; `None` where the piece is a later one.
    fn record(&self, kind: usize, key: &[u8], value: &[u8]) -> Result<Option<Record>, StoreError> {
        let record = |key: &[u8], value: Vec<u8>| Some(Record { kind, key: key.to_vec(), value });
        Ok(match encoding(kind) {
            RecordEncoding::Plain | RecordEncoding::Conversation => record(key, value.to_vec()),
            RecordEncoding::Item => {
                let item = item_record::at(&self.conversations, key)?;
                let item = match item {
                    Some(item)
                        if self
                            .bodies
                            .tombstones
                            .contains(Tombstone::Conversation(item.conversation.to_bytes()))? =>
                    {
                        None
                    }
                    item => item,
                };
                item.and_then(|item| record(&item.key(), encode(&item)))
            }
            RecordEncoding::Response => {
                let id = ResponseId::from_bytes(id_bytes("a response", key)?);
                self.responses.response(id)?.and_then(|response| record(key, encode(&response)))
            }
        })
    }

    /// Stores an item; `None`: it belongs to no stored conversation. An export is no snapshot: it may have items of a turn
    /// that came after its conversation.
    fn put_item(&self, id: ConversationId, change: &ConversationChange) -> Result<Option<()>, StoreError> {
        self.check_removed(id)?;
        let conversation = self.conversations.conversation(id)?;
        let Some(number) = change
            .item_number()
            .filter(|&number| conversation.is_some_and(|conversation| number < conversation.next))
        else {
            return Ok(None);
        };
        self.conversations.put_imported_item(id, number, change).map(Some)
    }

    /// Refuses an id whose deleted items are still being removed, since that would remove the new ones, too.
    fn check_removed(&self, id: ConversationId) -> Result<(), StoreError> {
        let left = self.bodies.tombstones.contains(Tombstone::Conversation(id.to_bytes()))?;
        if left { Err(StoreError::Removing) } else { Ok(()) }
    }

    fn put_plain(&self, record: &Record) -> Result<(), StoreError> {
        // Decoded first, so that a damaged record is not half stored.
        let entries = index_entries(record)?;
        let before = self.trees[record.kind].get(&record.key)?;
        let before = before.map(|before| Record { value: before.to_vec(), ..record.clone() });
        let owners = [Some(record), before.as_ref()].into_iter().flatten();
        let owners = owners.filter_map(|record| record.named_owner().ok().flatten());
        let mut scopes: Vec<_> = owners.map(Scope::User).collect();
        if KINDS[record.kind].name == "user" {
            scopes.push(Scope::Users);
        }
        self.watchers.changing(scopes, || self.replace_plain(record, before, entries))
    }

    fn replace_plain(
        &self,
        record: &Record,
        before: Option<Record>,
        entries: Vec<IndexEntry>,
    ) -> Result<(), StoreError> {
        self.trees[record.kind].insert(&record.key, record.value.as_slice())?;
        if let Some(before) = before {
            // The entries of a damaged record are unknown.
            for IndexEntry { unique, .. } in readable(index_entries(&before))?.into_iter().flatten() {
                self.db.open_tree(unique.index)?.remove(unique.key)?;
            }
        }
        for IndexEntry { unique, value } in entries {
            self.db.open_tree(unique.index)?.insert(unique.key, value)?;
        }
        Ok(())
    }
}

#[async_trait]
impl RecordsStore for SledRecords {
    async fn store_id(&self) -> Result<String, StoreError> {
        let id = self.db.open_tree("meta")?.get("store_id")?;
        Ok(id.map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default())
    }

    async fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let start = after.map_or(Bound::Unbounded, |after| {
            Bound::Excluded(if encoding(kind) == RecordEncoding::Item {
                item_record::last_key(after)
            } else {
                after.to_vec()
            })
        });
        let (mut records, mut size) = (Vec::new(), 0);
        for entry in self.trees[kind].range::<Vec<u8>, _>((start, Bound::Unbounded)) {
            let (key, value) = entry?;
            let Some(record) = readable(self.record(kind, &key, &value))?.flatten() else { continue };
            size += record.value.len();
            records.push(record);
            if records.len() >= limit || size >= bytes {
                break;
            }
        }
        Ok(records)
    }

    async fn prepare(&self, record: Record) -> Result<PreparedRecord, StoreError> {
        match encoding(record.kind) {
            RecordEncoding::Item if record.value.len() > MAX_INLINE_BYTES => {
                let item: ItemRecord = record.parse()?;
                let id = item.conversation;
                let StoredItem { node, body } = item.into_item();
                let staged = StagedRecord::Item(id, node, self.conversations.stage(&body)?);
                return Ok(PreparedRecord { record: record.without_value(), staged: Some(staged) });
            }
            RecordEncoding::Response => {}
            _ => return Ok(PreparedRecord { record, staged: None }),
        }
        let mut response: ResponseRecord = record.parse()?;
        // It may run in another server, but not in this one.
        if response.end.is_none() && self.responses.owner(response.id)?.is_none() {
            response.end = Some(End::lost(now_s()));
        }
        let staged = self.responses.stage(&response)?;
        Ok(PreparedRecord { record: record.without_value(), staged: Some(StagedRecord::Response(staged)) })
    }

    async fn put_prepared(&self, prepared: &PreparedRecord) -> Result<(), StoreError> {
        let record = &prepared.record;
        match &prepared.staged {
            Some(StagedRecord::Response(staged)) => {
                let put = ResponseChange::PutStaged(staged.clone());
                return self.responses.apply(&self.responses.prepare(&put)?);
            }
            Some(StagedRecord::Item(id, node, body)) => {
                let put = ConversationChange::PutStaged(*id, node.clone(), body.clone());
                return match self.put_item(*id, &put)? {
                    Some(()) => Ok(()),
                    None => self.conversations.discard(body),
                };
            }
            None => {}
        }
        match encoding(record.kind) {
            RecordEncoding::Item => {
                let item: ItemRecord = record.parse()?;
                let id = item.conversation;
                self.put_item(id, &ConversationChange::PutItem(id, item.into_item())).map(|_| ())
            }
            RecordEncoding::Conversation => {
                let conversation: ConversationRecord = record.parse()?;
                self.check_removed(conversation.id)?;
                self.conversations.put_imported(&conversation)
            }
            RecordEncoding::Plain | RecordEncoding::Response => {
                if KINDS[record.kind].name == "user" && self.forget.contains_key(&record.key)? {
                    return Err(StoreError::Removing);
                }
                self.put_plain(record)
            }
        }
    }

    async fn conflict(&self, record: &Record) -> Result<Option<UniqueKey>, StoreError> {
        for IndexEntry { unique, value } in index_entries(record)? {
            if let Some(there) = self.db.open_tree(unique.index)?.get(&unique.key)?
                && there.as_ref() != value.as_slice()
            {
                return Ok(Some(unique));
            }
        }
        Ok(None)
    }

    async fn stored(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.trees[record.kind].get(&record.key)?.map(|value| value.to_vec()))
    }

    async fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError> {
        if encoding(record.kind) != RecordEncoding::Item {
            return record.named_owner();
        }
        let Some(key) = record.key.first_chunk::<16>() else { return Ok(None) };
        let conversation = self.conversations.conversation(ConversationId::from_bytes(*key))?;
        Ok(conversation.map(|conversation| conversation.user))
    }
}
