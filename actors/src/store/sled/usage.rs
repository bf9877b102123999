//! Token usage in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `usage` | owner (16 bytes), day, API key's id or zeros, model | [`UsageRow`] |
//! | `usage_batch` | nothing | the last batch added: its buffer's id and number |

use std::collections::BTreeMap;

use sled::transaction::{ConflictableTransactionError, Transactional};
use sled::{Db, Tree};

use super::codec::{decode, encode, transaction_error};
use crate::identity::UserId;
use crate::store::usage::{UsageRow, day_bytes, key_bytes};
use crate::store::{StoreError, UsageStore, readable};
use crate::usage::{BatchId, Day, Payer, UsageCounts, UsageFilter, UsageKey};

/// Maximum number of rows reassigned in one transaction.
const ROWS: usize = 64;

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

    /// Adds rows and removes others in one transaction.
    fn change(
        &self,
        batch: Option<BatchId>,
        add: &[(UsageKey, UsageCounts)],
        remove: &[UsageKey],
    ) -> Result<(), StoreError> {
        // Each row is read and written once.
        let mut totals: BTreeMap<&UsageKey, UsageCounts> = BTreeMap::new();
        add.iter().for_each(|(key, counts)| totals.entry(key).or_default().add(counts));
        let outcome = (&self.usage, &self.batch).transaction(|(usage, last)| {
            if let Some(id) = batch {
                let id = batch_bytes(id);
                if last.insert(&[], id.as_slice())?.is_some_and(|before| before.as_ref() == id.as_slice()) {
                    return Ok(());
                }
            }
            for key in remove {
                usage.remove(key_bytes(key))?;
            }
            for (&key, counts) in &totals {
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
        });
        outcome.map_err(transaction_error)
    }
}

impl UsageStore for SledUsage {
    fn add(&self, batch: BatchId, rows: &[(UsageKey, UsageCounts)]) -> Result<(), StoreError> {
        self.change(Some(batch), rows, &[])
    }

    fn rows(
        &self,
        filter: &UsageFilter,
        visit: &mut dyn FnMut(&UsageKey, &UsageCounts),
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

    fn reassign_some(&self, from: UserId, to: Payer) -> Result<bool, StoreError> {
        let (mut rows, mut gone, mut seen) = (Vec::new(), Vec::new(), 0);
        for entry in self.usage.scan_prefix(Payer::User(from).to_bytes()).take(ROWS) {
            let (key, value) = entry?;
            let Some(row) = readable(decode::<UsageRow>(|| "a row of usage".to_owned(), &value))? else {
                self.usage.remove(key)?;
                continue;
            };
            seen += 1;
            rows.push((UsageKey { user: to, key: None, ..row.key.clone() }, row.counts));
            gone.push(row.key);
        }
        if !gone.is_empty() {
            self.change(None, &rows, &gone)?;
        }
        Ok(seen < ROWS)
    }
}

/// Sorts after every key of that user and day: no id is all ones.
fn upper_bytes(user: Payer, day: Day) -> Vec<u8> {
    [&day_bytes(user, day), [0xff; 17].as_slice()].concat()
}

fn batch_bytes(id: BatchId) -> Vec<u8> {
    [id.book.as_bytes().as_slice(), &id.number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(user: Payer, day: u32, model: &str) -> UsageKey {
        UsageKey { user, day: Day::from_number(day), key: None, model: model.into() }
    }

    fn counts(completion_tokens: u64) -> UsageCounts {
        UsageCounts { requests: 1, completion_tokens, ..UsageCounts::default() }
    }

    fn all(store: &SledUsage, user: Option<Payer>) -> Vec<(UsageKey, u64)> {
        let filter = UsageFilter { user, start: Day::FIRST, end: Day::last() };
        let mut rows = Vec::new();
        store.rows(&filter, &mut |key, counts| rows.push((key.clone(), counts.completion_tokens))).unwrap();
        rows
    }

    #[test]
    fn batches_are_added_once_and_users_are_told_apart() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let store = SledUsage::open(&db).unwrap();
        let (ann, bob) = (UserId::new(), UserId::new());
        let book = Uuid::new_v4();
        let first = [
            (key(Payer::User(ann), 5, "m"), counts(1)),
            (key(Payer::User(ann), 5, "m"), counts(2)),
            (key(Payer::User(bob), 5, "m"), counts(4)),
            (key(Payer::Anonymous, 5, "m"), counts(8)),
        ];
        for _ in 0..2 {
            store.add(BatchId { book, number: 1 }, &first).unwrap();
        }
        store.add(BatchId { book, number: 2 }, &first[..1]).unwrap();
        assert_eq!(all(&store, Some(Payer::User(ann))), [(key(Payer::User(ann), 5, "m"), 4)]);
        assert_eq!(all(&store, None).iter().map(|(_, tokens)| tokens).sum::<u64>(), 16);

        assert!(store.reassign_some(ann, Payer::Deleted).unwrap());
        assert!(store.reassign_some(bob, Payer::Deleted).unwrap());
        assert_eq!(all(&store, Some(Payer::Deleted)), [(key(Payer::Deleted, 5, "m"), 8)]);
        assert_eq!(all(&store, Some(Payer::User(ann))), []);
        assert_eq!(all(&store, None).iter().map(|(_, tokens)| tokens).sum::<u64>(), 16);
    }

    #[test]
    fn days_are_cut_where_they_are_told_to() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let store = SledUsage::open(&db).unwrap();
        let rows: Vec<_> = (0..10).map(|day| (key(Payer::Anonymous, day, "ÿ"), counts(1))).collect();
        store.add(BatchId { book: Uuid::new_v4(), number: 1 }, &rows).unwrap();
        for user in [None, Some(Payer::Anonymous)] {
            let filter = UsageFilter { user, start: Day::from_number(3), end: Day::from_number(5) };
            let mut days = Vec::new();
            store.rows(&filter, &mut |key, _| days.push(key.day.number())).unwrap();
            assert_eq!(days, [3, 4, 5], "{user:?}");
        }
    }
}
