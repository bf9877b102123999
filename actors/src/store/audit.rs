//! The audit log on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `audit` | [class](Class) (a byte), record's id | [`AuditRecord`] |
//!
//! Ids are in the order of time, so a class is a range whose beginning is what goes first.

use std::fmt::Debug;
use std::iter::Peekable;
use std::ops::Bound;

use sled::{Batch, Db, IVec, Tree};

use super::db::{decode, encode, id_bytes};
use super::{StoreError, readable};
use crate::audit::{AuditFilter, AuditId, AuditPage, AuditRecord, Class};

/// Bytes of a key.
const KEY: usize = 17;

/// The audit log. What a read gives includes changes that are not durable yet.
pub trait AuditStore: Debug + Send + Sync {
    /// Adds records; one of the same id is the same.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError>;

    /// Up to `limit` of the records that a filter lets through, newest first, of the first `look` that it looks at.
    ///
    /// # Errors
    /// The database failed.
    fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError>;

    /// How many there are of each class. Looks at all of them: not for the store's thread.
    ///
    /// # Errors
    /// The database failed.
    fn count(&self) -> Result<[usize; 2], StoreError>;

    /// Removes up to `most` of the oldest of a class, those before `before`, and returns how many.
    ///
    /// # Errors
    /// The database failed.
    fn remove_oldest(&self, class: Class, before: Option<AuditId>, most: usize) -> Result<usize, StoreError>;
}

/// The tree.
#[derive(Debug)]
pub struct SledAudit {
    audit: Tree,
}

impl SledAudit {
    /// Opens the tree, or makes it.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self { audit: db.open_tree("audit")? })
    }

    fn range(
        &self,
        class: Class,
        low: AuditId,
        high: Option<AuditId>,
    ) -> impl DoubleEndedIterator<Item = sled::Result<(IVec, IVec)>> + use<> {
        let low = Bound::Included(key(class, low).to_vec());
        let high = match high {
            Some(high) => Bound::Excluded(key(class, high).to_vec()),
            None => Bound::Excluded(vec![class as u8 + 1]),
        };
        self.audit.range::<Vec<u8>, _>((low, high))
    }
}

impl AuditStore for SledAudit {
    fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for record in records {
            batch.insert(&key(record.class(), record.id), encode(record));
        }
        Ok(self.audit.apply_batch(batch)?)
    }

    fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError> {
        let (low, high) = filter.bounds();
        let mut page = AuditPage::default();
        if high.is_some_and(|high| high <= low) {
            return Ok(page);
        }
        let [mut done, mut minor] = Class::ALL.map(|class| self.range(class, low, high).rev().peekable());
        let mut looked = 0;
        let mut last = None;
        loop {
            let from_done = match (newest(&mut done)?, newest(&mut minor)?) {
                (None, None) => return Ok(page),
                (done, minor) => done >= minor,
            };
            // There is more, so where to go on is behind what was looked at last.
            if page.records.len() >= limit || looked >= look {
                page.next = last;
                return Ok(page);
            }
            let entry = if from_done { done.next() } else { minor.next() };
            let Some((key, value)) = entry.transpose()? else { continue };
            looked += 1;
            last = Some(AuditId::from_bytes(id_bytes("a record of the audit log", &key)?));
            let record = decode::<AuditRecord>(|| "a record of the audit log".to_owned(), &value);
            let record = readable(record)?;
            page.records.extend(record.filter(|record| filter.lets_through(record)));
        }
    }

    fn count(&self) -> Result<[usize; 2], StoreError> {
        let mut counts = [0; 2];
        for key in self.audit.iter().keys() {
            let class = usize::from(key?.first() != Some(&(Class::Done as u8)));
            counts[class] += 1;
        }
        Ok(counts)
    }

    fn remove_oldest(&self, class: Class, before: Option<AuditId>, most: usize) -> Result<usize, StoreError> {
        let (mut batch, mut removed) = (Batch::default(), 0);
        for entry in self.range(class, AuditId::from_bytes([0; 16]), before).take(most) {
            batch.remove(entry?.0);
            removed += 1;
        }
        if removed > 0 {
            self.audit.apply_batch(batch)?;
        }
        Ok(removed)
    }
}

/// The id of the newest that was not taken yet.
fn newest<I>(range: &mut Peekable<I>) -> Result<Option<AuditId>, StoreError>
where
    I: Iterator<Item = sled::Result<(IVec, IVec)>>,
{
    match range.peek() {
        None => Ok(None),
        Some(Ok((key, _))) => {
            id_bytes("a record of the audit log", key).map(|id| Some(AuditId::from_bytes(id)))
        }
        Some(Err(error)) => Err(error.clone().into()),
    }
}

fn key(class: Class, id: AuditId) -> [u8; KEY] {
    let mut key = [class as u8; KEY];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

/// What is wrong with a record that lies at that key.
pub fn check(at: &[u8], value: &[u8]) -> Result<(), String> {
    let record: AuditRecord = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    // Anything beside what is known would be kept and exported unseen.
    let known = serde_json::to_value(&record).ok();
    if known != serde_json::from_slice(value).ok() {
        return Err("it has something that this program does not write".to_owned());
    }
    if at != key(record.class(), record.id) {
        return Err("its key is another record's".to_owned());
    }
    record.check()
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
