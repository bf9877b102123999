//! The audit log in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `audit` | [class](Class) (a byte), record id | [`AuditRecord`] |
//!
//! Ids sort by time, so each class is a range with its oldest records first.

use std::iter::Peekable;
use std::ops::Bound;

use async_trait::async_trait;
use sled::{Batch, Db, IVec, Tree};

use super::codec::{decode, encode, id_bytes};
use crate::audit::{AuditFilter, AuditId, AuditPage, AuditRecord, Class};
use crate::store::audit::key;
use crate::store::{AuditStore, StoreError, readable};

/// The tree of the audit log.
#[derive(Debug)]
pub struct SledAudit {
    audit: Tree,
}

impl SledAudit {
    /// Opens the tree, or creates it.
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

#[async_trait]
impl AuditStore for SledAudit {
    async fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for record in records {
            batch.insert(&key(record.class(), record.id), encode(record));
        }
        Ok(self.audit.apply_batch(batch)?)
    }

    async fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError> {
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
            // There is more: the next page begins after the record that was read last.
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

    async fn count(&self) -> Result<[usize; 2], StoreError> {
        let mut counts = [0; 2];
        for key in self.audit.iter().keys() {
            let class = usize::from(key?.first() != Some(&(Class::Done as u8)));
            counts[class] += 1;
        }
        Ok(counts)
    }

    async fn remove_oldest(
        &self,
        class: Class,
        before: Option<AuditId>,
        most: usize,
    ) -> Result<usize, StoreError> {
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

/// The id of the next record of a range, without taking it.
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
