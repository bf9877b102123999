//! Token usage in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `usage` | owner (16 bytes), day, API key's id or zeros, model | [`UsageRow`] |
//! | `usage_batch` | nothing | the last batch added: its buffer's id and number |

use std::collections::BTreeMap;

use async_trait::async_trait;
use sled::transaction::{
    ConflictableTransactionError, ConflictableTransactionResult, Transactional, TransactionalTree,
};
use sled::{Db, IVec, Tree};

use super::codec::{decode, encode, transaction_error};
use crate::identity::UserId;
use crate::store::usage::{UsageRow, day_bytes, key_bytes};
use crate::store::{StoreError, UsageStore, readable};
use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey, UsageOwner};

/// Maximum number of rows reassigned in one transaction.
const MAX_PER_STEP: usize = 64;

/// The trees of usage.
#[derive(Debug)]
pub struct SledUsage {
    usage: Tree,
    batch: Tree,
}

impl SledUsage {
    /// Opens the trees, or creates them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self { usage: db.open_tree("usage")?, batch: db.open_tree("usage_batch")? })
    }

    /// The trees of a transaction.
    pub const fn trees(&self) -> [&Tree; 1] {
        [&self.usage]
    }

    /// Prepares the move of up to `limit` of a user's rows to another owner, without their API keys.
    pub fn prepare_move(&self, from: UserId, to: UsageOwner, limit: usize) -> Result<UsageMove, StoreError> {
        let mut moved = UsageMove::default();
        for entry in self.usage.scan_prefix(UsageOwner::User(from).to_bytes()).take(limit) {
            let (key, value) = entry?;
            moved.seen += 1;
            if let Some(row) = readable(decode::<UsageRow>(|| "a row of usage".to_owned(), &value))? {
                moved.add.add(UsageKey { user: to, key: None, ..row.key }, &row.counts);
            }
            // Also a damaged row, which would be found again and again.
            moved.remove.push(key);
        }
        Ok(moved)
    }

    /// Moves some of a user's rows to another owner; `false`: there may be more.
    pub fn reassign_some(&self, from: UserId, to: UsageOwner) -> Result<bool, StoreError> {
        let moved = self.prepare_move(from, to, MAX_PER_STEP)?;
        if moved.seen > 0 {
            let outcome = self.usage.transaction(|usage| moved.apply(usage));
            outcome.map_err(transaction_error)?;
        }
        Ok(moved.seen < MAX_PER_STEP)
    }
}

/// Counts by key: each row is read and written once in a transaction.
#[derive(Debug, Default)]
struct Sums(BTreeMap<UsageKey, UsageCounts>);

impl Sums {
    fn add(&mut self, key: UsageKey, counts: &UsageCounts) {
        self.0.entry(key).or_default().add(counts);
    }

    /// Adds the counts to the stored ones.
    fn apply(&self, usage: &TransactionalTree) -> ConflictableTransactionResult<(), StoreError> {
        for (key, counts) in &self.0 {
            let bytes = key_bytes(key);
            let mut row = UsageRow { key: key.clone(), counts: *counts };
            if let Some(value) = usage.get(&bytes)? {
                let before: UsageRow =
                    decode(|| "usage".to_owned(), &value).map_err(ConflictableTransactionError::Abort)?;
                row.counts.add(&before.counts);
            }
            usage.insert(bytes, encode(&row))?;
        }
        Ok(())
    }
}

/// Rows that move to another owner.
#[derive(Debug, Default)]
pub struct UsageMove {
    add: Sums,
    remove: Vec<IVec>,
    seen: usize,
}

impl UsageMove {
    /// Applies the move in a transaction over [`SledUsage::trees`].
    pub fn apply(&self, usage: &TransactionalTree) -> ConflictableTransactionResult<(), StoreError> {
        for key in &self.remove {
            usage.remove(key)?;
        }
        self.add.apply(usage)
    }
}

#[async_trait]
impl UsageStore for SledUsage {
    async fn add(&self, batch: BatchId, rows: &[(UsageKey, UsageCounts)]) -> Result<(), StoreError> {
        let mut sums = Sums::default();
        rows.iter().for_each(|(key, counts)| sums.add(key.clone(), counts));
        let batch = batch_bytes(batch);
        let outcome = (&self.usage, &self.batch).transaction(|(usage, last)| {
            match last.insert(&[], batch.as_slice())? {
                Some(before) if before.as_ref() == batch.as_slice() => Ok(()),
                _ => sums.apply(usage),
            }
        });
        outcome.map_err(transaction_error)
    }

    async fn rows(
        &self,
        filter: &UsageFilter,
        visit: &mut (dyn for<'a> FnMut(&'a UsageKey, &'a UsageCounts) + Send),
    ) -> Result<(), StoreError> {
        if filter.start > filter.end {
            return Ok(());
        }
        let range = match filter.user {
            Some(user) => self.usage.range(day_bytes(user, filter.start)..=upper_bytes(user, filter.end)),
            None => self.usage.range::<Vec<u8>, _>(..),
        };
        for entry in range {
            let Some(row) = readable(decode::<UsageRow>(|| "a row of usage".to_owned(), &entry?.1))? else {
                continue;
            };
            if (filter.start..=filter.end).contains(&row.key.day) {
                visit(&row.key, &row.counts);
            }
        }
        Ok(())
    }
}

/// Sorts after every key of that user and day: no id is all ones.
fn upper_bytes(user: UsageOwner, day: Day) -> Vec<u8> {
    [&day_bytes(user, day), [0xff; 17].as_slice()].concat()
}

fn batch_bytes(id: BatchId) -> Vec<u8> {
    [id.buffer.as_bytes().as_slice(), &id.number.to_be_bytes()].concat()
}
