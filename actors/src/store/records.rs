//! All kinds of records in one table, for export, import and deletion of a user.
//!
//! A new kind is one line in [`KINDS`]. An index is no kind: it follows from the records.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::accounts::KeyHash;
use super::conversations::StagedBody;
use super::item_record;
use super::responses::Staged;
use super::sessions::StoredSession;
use super::usage::UsageRow;
use super::{StoreError, audit};
use crate::conversations::types::ConversationRecord;
use crate::conversations::{ConversationId, Node};
use crate::identity::{ApiKeyRecord, ExternalId, UserId, UserRecord};
use crate::responses::ResponseRecord;

/// Bytes of an API key's hash.
const HASH: usize = size_of::<KeyHash>();

/// A key that at most one record may have in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    /// The name of the index.
    pub index: &'static str,
    /// The key.
    pub key: Vec<u8>,
}

/// A kind of record.
#[derive(Debug)]
pub struct Kind {
    /// Its name in exports.
    pub name: &'static str,
    /// The field with a record's owner; empty where records have none. An item has the owner of its conversation.
    pub owner: &'static str,
    /// The unique keys of a record of that key and value.
    unique: fn(&[u8], &Value) -> Vec<UniqueKey>,
    /// Checks a record's key and value.
    check: fn(&[u8], &[u8]) -> Result<(), String>,
}

/// Every kind, in the order of an export: a record comes after those that it refers to.
pub static KINDS: &[Kind] = &[
    kind_of("user", "id", user_keys, check_user),
    kind_of("key", "user", key_keys, check_key),
    kind_of("session", "user", session_keys, check_session),
    kind_of("usage", "user", no_keys, check_usage),
    kind_of("conversation", "user", no_keys, check_conversation),
    kind_of("item", "user", no_keys, item_record::check),
    kind_of("response", "user", no_keys, check_response),
    // Without an owner: it stays when its users are deleted, and is in no export of one user.
    kind_of("audit", "", no_keys, audit::check),
];

const fn kind_of(
    name: &'static str,
    owner: &'static str,
    unique: fn(&[u8], &Value) -> Vec<UniqueKey>,
    check: fn(&[u8], &[u8]) -> Result<(), String>,
) -> Kind {
    Kind { name, owner, unique, check }
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

/// The position in [`KINDS`] of the kind of that name.
pub fn kind(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.name == name)
}

/// A user's id in a record.
fn user_id(value: &Value) -> Option<UserId> {
    value.as_str()?.parse().ok()
}

fn no_keys(_: &[u8], _: &Value) -> Vec<UniqueKey> {
    Vec::new()
}

fn user_keys(_: &[u8], value: &Value) -> Vec<UniqueKey> {
    let key = |index, key: Vec<u8>| UniqueKey { index, key };
    let email = value["email"].as_str().map(|email| key("user_by_email", email.as_bytes().to_vec()));
    let external: Option<ExternalId> = serde_json::from_value(value["external"].clone()).ok();
    let external = external
        .map(|id| key("user_by_external", [id.issuer.as_bytes(), &[0], id.subject.as_bytes()].concat()));
    email.into_iter().chain(external).collect()
}

fn key_keys(_: &[u8], value: &Value) -> Vec<UniqueKey> {
    by_user("key_by_user", "key_", value)
}

fn session_keys(_: &[u8], value: &Value) -> Vec<UniqueKey> {
    by_user("session_by_user", "sess_", value)
}

/// A key of a user's id and a record's.
fn by_user(index: &'static str, prefix: &str, value: &Value) -> Vec<UniqueKey> {
    let own = value["id"].as_str().and_then(|id| uuid::Uuid::try_parse(id.strip_prefix(prefix)?).ok());
    let (Some(user), Some(own)) = (user_id(&value["user"]), own) else { return Vec::new() };
    vec![UniqueKey { index, key: [user.to_bytes().as_slice(), own.as_bytes()].concat() }]
}

/// A record in the form of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position of its kind in [`KINDS`].
    pub kind: usize,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value: JSON.
    pub value: Vec<u8>,
}

impl Record {
    /// Its kind and key as text.
    pub fn key_text(&self) -> String {
        let key = self.key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{} {key}", KINDS[self.kind].name)
    }

    /// Returns the same without its value.
    pub fn without_value(self) -> Self {
        Self { value: Vec::new(), ..self }
    }

    /// Its value.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<Value, StoreError> {
        self.parse()
    }

    /// Checks that this program could have written it, before anything of an import is stored.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self) -> Result<(), String> {
        (KINDS[self.kind].check)(&self.key, &self.value)
    }

    /// Its value as a struct.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.value)
            .map_err(|error| StoreError::Value { what: self.key_text(), problem: error.to_string() })
    }

    /// The keys that no other record may have.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn unique_keys(&self) -> Result<Vec<UniqueKey>, StoreError> {
        Ok((KINDS[self.kind].unique)(&self.key, &self.json()?))
    }

    /// The user that it names as its owner. Items name none.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn named_owner(&self) -> Result<Option<UserId>, StoreError> {
        Ok(user_id(&self.json()?[KINDS[self.kind].owner]))
    }
}

/// A record that is about to be stored, with the work done that needs no turn on the commit thread.
#[derive(Clone, Debug)]
pub struct PreparedRecord {
    /// The record; without its value where that is staged.
    pub record: Record,
    /// The record that is written already.
    pub staged: Option<StagedRecord>,
}

/// A record whose large parts are written, but not referred to yet.
#[derive(Clone, Debug)]
pub enum StagedRecord {
    /// A response.
    Response(Staged),
    /// An item with a body of more than [`MAX_INLINE_BYTES`](super::conversations::MAX_INLINE_BYTES).
    Item(ConversationId, Node, StagedBody),
}

impl PreparedRecord {
    /// Returns the same with another record of the same key, for kinds without staged bodies.
    #[must_use]
    pub fn with(self, record: Record) -> Self {
        Self { record, ..self }
    }
}

/// All records of all kinds. Reads may run on any thread.
#[async_trait]
pub trait RecordsStore: Debug + Send + Sync {
    /// The store's own id.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn store_id(&self) -> Result<String, StoreError>;

    /// Up to `limit` records of a kind, or fewer with about `bytes` in all, in the order of their keys, after `after`.
    ///
    /// # Errors
    /// The database failed.
    async fn page(
        &self,
        kind: usize,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Prepares a record to be stored. May run on any thread.
    ///
    /// # Errors
    /// The database failed.
    async fn prepare(&self, record: Record) -> Result<PreparedRecord, StoreError>;

    /// Stores a record with its index entries, in place of the one of the same key.
    ///
    /// # Errors
    /// The database failed, or a deleted record of the same id is still [being removed](StoreError::Removing).
    async fn put_prepared(&self, record: &PreparedRecord) -> Result<(), StoreError>;

    /// Prepares and stores several records.
    ///
    /// # Errors
    /// As [`put_prepared`](Self::put_prepared).
    async fn put(&self, records: &[Record]) -> Result<(), StoreError> {
        for record in records {
            self.put_prepared(&self.prepare(record.clone()).await?).await?;
        }
        Ok(())
    }

    /// A unique key of this record that belongs to another record.
    ///
    /// # Errors
    /// The database failed.
    async fn conflict(&self, record: &Record) -> Result<Option<UniqueKey>, StoreError>;

    /// The stored value of a record, for kinds that are stored in the form of an export.
    ///
    /// # Errors
    /// The database failed.
    async fn stored(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError>;

    /// A record's owner.
    ///
    /// # Errors
    /// The database failed.
    async fn owner(&self, record: &Record) -> Result<Option<UserId>, StoreError>;

    /// Returns `true` if there is no record.
    ///
    /// # Errors
    /// The database failed.
    async fn is_empty(&self) -> Result<bool, StoreError> {
        for kind in 0..KINDS.len() {
            if !self.page(kind, None, 1, 0).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
