//! Every kind of record in one table, for what concerns all of them: export, import and forgetting a user.
//!
//! A new tree of records is one line in [`KINDS`]. Trees that only lead to records (by address, by user) are no
//! kinds: they are named by their kind's `indexes` and made again from the record itself.

use std::fmt::Debug;

use serde_json::Value;
use sled::{Batch, Db, Tree};

use super::StoreError;
use super::db::decode;
use crate::identity::{ExternalId, UserId};

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
    /// Whose a record is.
    pub owner: fn(&Value) -> Option<UserId>,
    /// What leads to a record of that key and value.
    pub indexes: fn(&[u8], &Value) -> Vec<IndexEntry>,
    /// Whether records are removed with their owner by looking through the tree; the others' own stores see to it.
    pub swept: bool,
}

/// Every kind, in the order of an export: what others refer to comes first.
pub static KINDS: &[Kind] = &[
    Kind { name: "user", tree: "user", owner: |v| id(&v["id"]), indexes: user_indexes, swept: false },
    Kind { name: "key", tree: "key", owner: |v| id(&v["user"]), indexes: key_indexes, swept: false },
    Kind {
        name: "session",
        tree: "session",
        owner: |v| id(&v["user"]),
        indexes: session_indexes,
        swept: false,
    },
    Kind { name: "usage", tree: "usage", owner: |v| id(&v["user"]), indexes: no_indexes, swept: false },
];

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
        decode(|| format!("a record of kind {}", KINDS[self.kind].name), &self.value)
    }
}

/// All records, whatever their kind.
pub trait RecordsStore: Debug + Send {
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

    /// Puts records in, in place of those of the same keys, with what leads to them.
    ///
    /// # Errors
    /// The database failed.
    fn put(&self, records: &[Record]) -> Result<(), StoreError>;

    /// A key of a record that an index entry of this one would be taken from, if there is one.
    ///
    /// # Errors
    /// The database failed.
    fn taken(&self, record: &Record) -> Result<Option<IndexEntry>, StoreError>;

    /// Removes what a user has in the kinds that are swept.
    ///
    /// # Errors
    /// The database failed.
    fn sweep(&self, user: UserId) -> Result<(), StoreError>;

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
}

impl SledRecords {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        let trees = KINDS.iter().map(|kind| db.open_tree(kind.tree)).collect::<Result<_, _>>()?;
        Ok(Self { db: db.clone(), trees })
    }

    fn entries(&self, kind: usize, key: &[u8], value: &[u8]) -> Result<Vec<IndexEntry>, StoreError> {
        let value: Value = decode(|| format!("a record of kind {}", KINDS[kind].name), value)?;
        Ok((KINDS[kind].indexes)(key, &value))
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
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_vec()));
        let (mut records, mut size) = (Vec::new(), 0);
        for entry in self.trees[kind].range::<Vec<u8>, _>((start, Bound::Unbounded)) {
            let (key, value) = entry?;
            size += value.len();
            records.push(Record { kind, key: key.to_vec(), value: value.to_vec() });
            if records.len() >= limit || size >= bytes {
                break;
            }
        }
        Ok(records)
    }

    fn put(&self, records: &[Record]) -> Result<(), StoreError> {
        for record in records {
            // Read first: what cannot be read is not half put in.
            let entries = self.entries(record.kind, &record.key, &record.value)?;
            let before = self.trees[record.kind].insert(&record.key, record.value.as_slice())?;
            if let Some(before) = before {
                for entry in self.entries(record.kind, &record.key, &before)? {
                    self.db.open_tree(entry.tree)?.remove(entry.key)?;
                }
            }
            for entry in entries {
                self.db.open_tree(entry.tree)?.insert(entry.key, entry.value)?;
            }
        }
        Ok(())
    }

    fn taken(&self, record: &Record) -> Result<Option<IndexEntry>, StoreError> {
        for entry in self.entries(record.kind, &record.key, &record.value)? {
            if let Some(there) = self.db.open_tree(entry.tree)?.get(&entry.key)?
                && there.as_ref() != entry.value.as_slice()
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn sweep(&self, user: UserId) -> Result<(), StoreError> {
        for (number, kind) in KINDS.iter().enumerate().filter(|(_, kind)| kind.swept) {
            let mut batch = Batch::default();
            for entry in &self.trees[number] {
                let (key, value) = entry?;
                let json: Value = decode(|| format!("a record of kind {}", kind.name), &value)?;
                if (kind.owner)(&json) == Some(user) {
                    for entry in (kind.indexes)(&key, &json) {
                        self.db.open_tree(entry.tree)?.remove(entry.key)?;
                    }
                    batch.remove(key);
                }
            }
            self.trees[number].apply_batch(batch)?;
        }
        Ok(())
    }
}
