//! Every kind of record in one table, for what concerns all of them: export, import and forgetting a user.
//!
//! A new tree of records is one line in [`KINDS`]. Trees that only lead to records (by address, by user) are no
//! kinds: they are named by their kind's `indexes`, or known to its [`Form`], and made again from the record itself.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sled::{Db, Tree};

use super::accounts::KeyHash;
use super::conversations::{ConversationsStore, SledConversations};
use super::db::{decode, encode, id_bytes};
use super::doomed::{Doomed, Notes};
use super::item_record::{self, ItemRecord};
use super::responses::{ResponseChange, ResponsesStore, SledResponses, Staged};
use super::sessions::StoredSession;
use super::usage::UsageRow;
use super::{StoreError, audit, readable};
use crate::conversations::ConversationId;
use crate::conversations::types::ConversationRecord;
use crate::identity::{ApiKeyRecord, ExternalId, UserId, UserRecord, now_s};
use crate::responses::{End, ResponseId, ResponseRecord};

/// Bytes of a key's hash.
const HASH: usize = size_of::<KeyHash>();

/// An entry that leads to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its tree.
    pub tree: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A kind of record.
#[derive(Debug)]
pub struct Kind {
    /// Its name in exports.
    pub name: &'static str,
    /// Its tree.
    pub tree: &'static str,
    /// Where a record says whose it is; items say it through their conversation.
    owner: &'static str,
    /// What leads to a record of that key and value, where its form does not know.
    indexes: fn(&[u8], &Value) -> Vec<IndexEntry>,
    /// How it lies in the store.
    form: Form,
    /// What is wrong with a record of that key and value.
    check: fn(&[u8], &[u8]) -> Result<(), String>,
}

/// How records lie in the store. In an export each is one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As they are in an export.
    Plain,
    /// The same, with the items of [`Form::Item`].
    Conversation,
    /// In chunks, behind where they hang.
    Item,
    /// In parts.
    Response,
}

/// Every kind, in the order of an export: what others refer to comes first.
pub static KINDS: &[Kind] = &[
    plain("user", "user", "id", user_indexes, check_user),
    plain("key", "key", "user", key_indexes, check_key),
    plain("session", "session", "user", session_indexes, check_session),
    plain("usage", "usage", "user", no_indexes, check_usage),
    formed("conversation", "conv", Form::Conversation, check_conversation),
    formed("item", "item", Form::Item, item_record::check),
    formed("response", "response", Form::Response, check_response),
    // Nobody's: it stays when its users go, and is in no export of one user.
    plain("audit", "audit", "", no_indexes, audit::check),
];

const fn plain(
    name: &'static str,
    tree: &'static str,
    owner: &'static str,
    indexes: fn(&[u8], &Value) -> Vec<IndexEntry>,
    check: fn(&[u8], &[u8]) -> Result<(), String>,
) -> Kind {
    Kind { name, tree, owner, indexes, form: Form::Plain, check }
}

const fn formed(
    name: &'static str,
    tree: &'static str,
    form: Form,
    check: fn(&[u8], &[u8]) -> Result<(), String>,
) -> Kind {
    Kind { name, tree, owner: "user", indexes: no_indexes, form, check }
}

fn check_user(key: &[u8], value: &[u8]) -> Result<(), String> {
    let user: UserRecord = parse(value)?;
    if user.email.as_ref().is_some_and(|email| *email != email.to_lowercase() || email.is_empty()) {
        return Err("its email address is empty or not in lower case".to_owned());
    }
    same_key(key, &user.id.to_bytes(), "user")
}

fn check_key(key: &[u8], value: &[u8]) -> Result<(), String> {
    parse::<ApiKeyRecord>(value)?;
    match key.len() {
        HASH => Ok(()),
        length => Err(format!("its key is a hash of {length} bytes, expected {HASH}")),
    }
}

fn check_session(key: &[u8], value: &[u8]) -> Result<(), String> {
    let session: StoredSession = parse(value)?;
    same_key(key, &session.id.to_bytes(), "session")
}

fn check_usage(key: &[u8], value: &[u8]) -> Result<(), String> {
    let row: UsageRow = parse(value)?;
    same_key(key, &super::usage::key_bytes(&row.key), "row")
}

fn same_key(key: &[u8], expected: &[u8], what: &str) -> Result<(), String> {
    if key == expected { Ok(()) } else { Err(format!("its key is another {what}'s")) }
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn check_conversation(key: &[u8], value: &[u8]) -> Result<(), String> {
    let record: ConversationRecord = parse(value)?;
    let heads = [record.head, record.share.and_then(|share| share.head)];
    same_key(key, &record.id.to_bytes(), "conversation")?;
    match heads.into_iter().flatten().find(|&head| head >= record.next) {
        Some(head) => Err(format!("it has no item {head}")),
        None => Ok(()),
    }
}

fn check_response(key: &[u8], value: &[u8]) -> Result<(), String> {
    let record: ResponseRecord = parse(value)?;
    same_key(key, &record.id.to_bytes(), "response")
}

/// The kind of that name, as its place in [`KINDS`].
pub fn kind(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.name == name)
}

fn id(value: &Value) -> Option<UserId> {
    value.as_str()?.parse().ok()
}

fn no_indexes(_: &[u8], _: &Value) -> Vec<IndexEntry> {
    Vec::new()
}

fn user_indexes(key: &[u8], value: &Value) -> Vec<IndexEntry> {
    let entry = |tree, name: Vec<u8>| IndexEntry { tree, key: name, value: key.to_vec() };
    let email = value["email"].as_str().map(|email| entry("user_by_email", email.as_bytes().to_vec()));
    let external: Option<ExternalId> = serde_json::from_value(value["external"].clone()).ok();
    let external = external
        .map(|id| entry("user_by_external", [id.issuer.as_bytes(), &[0], id.subject.as_bytes()].concat()));
    email.into_iter().chain(external).collect()
}

fn key_indexes(key: &[u8], value: &Value) -> Vec<IndexEntry> {
    by_user("key_by_user", "key_", key, value)
}

fn session_indexes(_: &[u8], value: &Value) -> Vec<IndexEntry> {
    by_user("session_by_user", "sess_", &[], value)
}

/// An index whose keys are a user's id and a record's.
fn by_user(tree: &'static str, prefix: &str, target: &[u8], value: &Value) -> Vec<IndexEntry> {
    let own = value["id"].as_str().and_then(|id| uuid::Uuid::try_parse(id.strip_prefix(prefix)?).ok());
    let (Some(user), Some(own)) = (id(&value["user"]), own) else { return Vec::new() };
    let key = [user.to_bytes().as_slice(), own.as_bytes()].concat();
    vec![IndexEntry { tree, key, value: target.to_vec() }]
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in [`KINDS`].
    pub kind: usize,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value: JSON.
    pub value: Vec<u8>,
}

impl Record {
    /// Its kind and key, for people to read.
    pub fn key_text(&self) -> String {
        let key = self.key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{} {key}", KINDS[self.kind].name)
    }

    /// What is in it.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<Value, StoreError> {
        decode(|| self.key_text(), &self.value)
    }

    /// Looks whether it is what this program writes, before anything of an import is put in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        (KINDS[self.kind].check)(&self.key, &self.value)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        decode(|| self.key_text(), &self.value)
    }

    /// The entries that lead to it, where its form does not know.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn entries(&self) -> Result<Vec<IndexEntry>, StoreError> {
        Ok((KINDS[self.kind].indexes)(&self.key, &self.json()?))
    }
}

/// A record that is about to be put in, with the part of the work done that needs no turn on the store's thread.
#[derive(Clone, Debug)]
pub struct Ready {
    record: Record,
    /// A response's bodies.
    staged: Option<Staged>,
}

impl Ready {
    /// The same with another record of the same key; for those that have nothing written beforehand.
    #[must_use]
    pub fn with(self, record: Record) -> Self {
        Self { record, ..self }
    }

    /// The record.
    pub const fn record(&self) -> &Record {
        &self.record
    }
}

/// All records, whatever their kind. Reads are for any thread.
pub trait RecordsStore: Debug + Send + Sync {
    /// The store's own id.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn store_id(&self) -> Result<String, StoreError>;

    /// Up to `limit` records of a kind, or fewer that have about `bytes`, in order of their keys, behind `after`.
    ///
    /// # Errors
    /// The database failed.
    fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Does what can be done on any thread before a record is put in.
    ///
    /// # Errors
    /// The database failed.
    fn ready(&self, record: Record) -> Result<Ready, StoreError>;

    /// Puts a record in, in place of the one of the same key, with what leads to it.
    ///
    /// # Errors
    /// The database failed, or what had its id is still [being removed](StoreError::Removing).
    fn put_ready(&self, ready: &Ready) -> Result<(), StoreError>;

    /// The same for several records that nobody waits behind.
    ///
    /// # Errors
    /// The database failed.
    fn put(&self, records: &[Record]) -> Result<(), StoreError> {
        records.iter().try_for_each(|record| self.put_ready(&self.ready(record.clone())?))
    }

    /// A key of a record that an index entry of this one would be taken from, if there is one.
    ///
    /// # Errors
    /// The database failed.
    fn taken(&self, record: &Record) -> Result<Option<IndexEntry>, StoreError>;

    /// The value at a record's key, for kinds that lie as they are in an export.
    ///
    /// # Errors
    /// The database failed.
    fn stored(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError>;

    /// Whose a record is.
    ///
    /// # Errors
    /// The database failed.
    fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError>;

    /// Whether there is any record.
    ///
    /// # Errors
    /// The database failed.
    fn is_empty(&self) -> Result<bool, StoreError> {
        for kind in 0..KINDS.len() {
            if !self.page(kind, None, 1, 0)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The trees.
#[derive(Debug)]
pub struct SledRecords {
    db: Db,
    trees: Vec<Tree>,
    conversations: SledConversations,
    responses: SledResponses,
    forget: Tree,
    notes: Notes,
}

impl SledRecords {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db, notes: &Notes) -> Result<Self, StoreError> {
        Ok(Self {
            db: db.clone(),
            trees: KINDS.iter().map(|kind| db.open_tree(kind.tree)).collect::<Result<_, _>>()?,
            conversations: SledConversations::noting(db, notes.clone())?,
            responses: SledResponses::open(db, notes.clone())?,
            forget: db.open_tree("forget")?,
            notes: notes.clone(),
        })
    }

    /// The record whose first piece lies at that key, or nothing: the piece belongs to one before.
    fn record(&self, kind: usize, key: &[u8], value: &[u8]) -> Result<Option<Record>, StoreError> {
        let record = |key: &[u8], value: Vec<u8>| Some(Record { kind, key: key.to_vec(), value });
        Ok(match KINDS[kind].form {
            Form::Plain | Form::Conversation => record(key, value.to_vec()),
            Form::Item => {
                let item = item_record::at(&self.conversations, key)?;
                let item = match item {
                    Some(item) if self.notes.has(Doomed::Conversation(item.conversation.to_bytes()))? => None,
                    item => item,
                };
                item.and_then(|item| record(&item.key(), encode(&item)))
            }
            Form::Response => {
                let id = ResponseId::from_bytes(id_bytes("a response", key)?);
                self.responses.response(id)?.and_then(|response| record(key, encode(&response)))
            }
        })
    }

    fn put_item(&self, item: ItemRecord) -> Result<(), StoreError> {
        self.check_removed(item.conversation)?;
        // An export is no snapshot: it may have items of a turn that came after its conversation.
        let conversation = self.conversations.conversation(item.conversation)?;
        match conversation.is_some_and(|conversation| item.number < conversation.next) {
            true => self.conversations.put_imported_item(item.conversation, &item.into_item()),
            false => Ok(()),
        }
    }

    /// What is left of one that was deleted must not take the new one's items with it.
    fn check_removed(&self, id: ConversationId) -> Result<(), StoreError> {
        let left = self.notes.has(Doomed::Conversation(id.to_bytes()))?;
        if left { Err(StoreError::Removing) } else { Ok(()) }
    }

    fn put_plain(&self, record: &Record) -> Result<(), StoreError> {
        // Read first: what cannot be read is not half put in.
        let entries = record.entries()?;
        let before = self.trees[record.kind].insert(&record.key, record.value.as_slice())?;
        if let Some(before) = before {
            let before = Record { value: before.to_vec(), ..record.clone() };
            // What a damaged one led to, if anything, is not known any more.
            for entry in readable(before.entries())?.into_iter().flatten() {
                self.db.open_tree(entry.tree)?.remove(entry.key)?;
            }
        }
        for entry in entries {
            self.db.open_tree(entry.tree)?.insert(entry.key, entry.value)?;
        }
        Ok(())
    }
}

impl RecordsStore for SledRecords {
    fn store_id(&self) -> Result<String, StoreError> {
        let id = self.db.open_tree("meta")?.get("store_id")?;
        Ok(id.map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default())
    }

    fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, |after| {
            Bound::Excluded(if KINDS[kind].form == Form::Item {
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

    fn ready(&self, record: Record) -> Result<Ready, StoreError> {
        if KINDS[record.kind].form != Form::Response {
            return Ok(Ready { record, staged: None });
        }
        let mut response: ResponseRecord = record.read()?;
        // It runs elsewhere if at all.
        if response.end.is_none() && self.responses.owner(response.id)?.is_none() {
            response.end = Some(End::lost(now_s()));
        }
        let staged = self.responses.stage(&response)?;
        Ok(Ready { record, staged: Some(staged) })
    }

    fn put_ready(&self, ready: &Ready) -> Result<(), StoreError> {
        let record = &ready.record;
        if let Some(staged) = &ready.staged {
            return self.responses.commit(&[ResponseChange::PutStaged(staged.clone())]);
        }
        match KINDS[record.kind].form {
            Form::Item => self.put_item(record.read()?),
            Form::Conversation => {
                let conversation: ConversationRecord = record.read()?;
                self.check_removed(conversation.id)?;
                self.conversations.put_imported(&conversation)
            }
            Form::Plain | Form::Response => {
                if KINDS[record.kind].name == "user" && self.forget.contains_key(&record.key)? {
                    return Err(StoreError::Removing);
                }
                self.put_plain(record)
            }
        }
    }

    fn taken(&self, record: &Record) -> Result<Option<IndexEntry>, StoreError> {
        for entry in record.entries()? {
            if let Some(there) = self.db.open_tree(entry.tree)?.get(&entry.key)?
                && there.as_ref() != entry.value.as_slice()
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn stored(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.trees[record.kind].get(&record.key)?.map(|value| value.to_vec()))
    }

    fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError> {
        let kind = &KINDS[record.kind];
        if kind.form != Form::Item {
            return Ok(id(&record.json()?[kind.owner]));
        }
        let Some(key) = record.key.first_chunk::<16>() else { return Ok(None) };
        let conversation = self.conversations.conversation(ConversationId::from_bytes(*key))?;
        Ok(conversation.map(|conversation| conversation.user))
    }
}
