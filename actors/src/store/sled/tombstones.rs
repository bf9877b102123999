//! Tombstones: deleted records whose contents are removed later, in steps.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `doomed` | kind (1 byte), id (16 bytes) | nothing; `s`: staged, being written and not referred to yet |
//!
//! A long deletion would block the commit thread. So the transaction that deletes removes the record and its index
//! entries and adds a tombstone: reads no longer find it, and its contents are removed in short steps between other
//! jobs. A tombstone is removed once those removals are durable, so a crash leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, Tree};

use crate::store::{CleanupProgress, StoreError};

/// Keys removed between two scans.
const BATCH_SIZE: usize = 64;

/// The value of a staged record's tombstone.
pub const STAGED: &[u8] = b"s";

/// A deleted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// A conversation, of which the items are left.
    Conversation([u8; 16]),
    /// A body of a response, of which the parts are left.
    Body([u8; 16]),
}

impl Tombstone {
    /// Its key.
    pub fn key(self) -> [u8; 17] {
        let (kind, id) = match self {
            Self::Conversation(id) => (b'c', id),
            Self::Body(id) => (b'b', id),
        };
        let mut key = [kind; 17];
        key[1..].copy_from_slice(&id);
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let id = <[u8; 16]>::try_from(id).ok()?;
        match kind {
            b'c' => Some(Self::Conversation(id)),
            b'b' => Some(Self::Body(id)),
            _ => None,
        }
    }
}

/// All tombstones. Clones share one database.
#[derive(Clone, Debug)]
pub struct Tombstones {
    tree: Tree,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `true` if there may be tombstones that no pass has seen.
    pending: AtomicBool,
    pass: Mutex<Pass>,
}

/// One pass over all tombstones.
#[derive(Debug, Default)]
struct Pass {
    /// The last one visited.
    at: Option<Vec<u8>>,
    /// Those with nothing left to remove.
    done: BTreeSet<Vec<u8>>,
}

impl Tombstones {
    /// Opens the tree, or creates it. Records staged by a process that has ended are deleted.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = db.open_tree("doomed")?;
        let mut staged = Vec::new();
        for entry in &tree {
            let (key, value) = entry?;
            if value.as_ref() == STAGED {
                staged.push(key);
            }
        }
        for key in staged {
            tree.insert(key, &[])?;
        }
        let tombstones = Self { tree, shared: Arc::default() };
        tombstones.shared.pending.store(!tombstones.tree.is_empty(), Ordering::Relaxed);
        Ok(tombstones)
    }

    /// The tree, for transactions. Call [`notify`](Self::notify) after one that may have added a tombstone.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Notes that a transaction may have added a tombstone.
    pub fn notify(&self) {
        self.shared.pending.store(true, Ordering::Release);
    }

    /// Marks a record as staged: should the process end, it is removed.
    pub fn stage(&self, what: Tombstone) -> Result<(), StoreError> {
        self.tree.insert(what.key(), STAGED)?;
        Ok(())
    }

    /// Adds a tombstone outside of a transaction.
    pub fn add(&self, what: Tombstone) -> Result<(), StoreError> {
        self.tree.insert(what.key(), &[])?;
        self.notify();
        Ok(())
    }

    /// Returns `true` if a deleted record of that kind and id is still being removed.
    pub fn contains(&self, what: Tombstone) -> Result<bool, StoreError> {
        Ok(self.tree.get(what.key())?.is_some_and(|value| value.is_empty()))
    }

    /// Returns `true` if there may be anything to remove.
    pub fn is_pending(&self) -> bool {
        self.shared.pending.load(Ordering::Acquire)
    }

    /// Removes contents of deleted records until `until`. `remove` returns whether a record has nothing left.
    pub fn cleanup(
        &self,
        until: Instant,
        mut remove: impl FnMut(Tombstone, Instant) -> Result<bool, StoreError>,
    ) -> Result<CleanupProgress, StoreError> {
        if !self.is_pending() {
            return Ok(CleanupProgress::Nothing);
        }
        let mut pass = self.shared.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.at.is_none() {
            // Tombstones added from here on may sort before the position of this pass.
            self.shared.pending.store(false, Ordering::Release);
        }
        loop {
            let from = pass.at.clone().unwrap_or_default();
            let start =
                if pass.at.is_some() { std::ops::Bound::Excluded(from) } else { std::ops::Bound::Unbounded };
            let next = self.tree.range::<Vec<u8>, _>((start, std::ops::Bound::Unbounded)).next();
            let Some(entry) = next else {
                pass.at = None;
                if pass.done.is_empty() {
                    return Ok(if self.is_pending() {
                        CleanupProgress::More
                    } else {
                        CleanupProgress::Nothing
                    });
                }
                self.notify();
                return Ok(CleanupProgress::Finish);
            };
            let (key, value) = entry?;
            let deleted = value.is_empty().then(|| Tombstone::from_key(&key)).flatten();
            if let Some(tombstone) = deleted {
                if !remove(tombstone, until)? {
                    self.notify();
                    return Ok(CleanupProgress::More);
                }
                pass.done.insert(key.to_vec());
            }
            pass.at = Some(key.to_vec());
            if Instant::now() >= until {
                self.notify();
                return Ok(CleanupProgress::More);
            }
        }
    }

    /// Removes the tombstones with nothing left to remove; to be called once the removals are durable.
    pub fn finish(&self) -> Result<(), StoreError> {
        let done = std::mem::take(&mut self.shared.pass.lock().unwrap_or_else(PoisonError::into_inner).done);
        for key in done {
            self.tree.remove(key)?;
        }
        Ok(())
    }
}

/// Adds a tombstone in a transaction.
pub fn add(tree: &TransactionalTree, what: Tombstone) -> ConflictableTransactionResult<(), StoreError> {
    tree.insert(&what.key(), &[])?;
    Ok(())
}

/// Removes a staged record's tombstone in a transaction, since it is referred to from now on.
pub fn clear(tree: &TransactionalTree, what: Tombstone) -> ConflictableTransactionResult<(), StoreError> {
    tree.remove(&what.key())?;
    Ok(())
}

/// Removes keys with that prefix until `until`. `true`: there is none left.
pub fn remove_prefix(tree: &Tree, prefix: &[u8], until: Instant) -> Result<bool, StoreError> {
    remove_prefix_after(tree, prefix, until, |_, _| Ok(()))
}

/// [`remove_prefix`], with an action on each key and value before it is removed.
pub fn remove_prefix_after(
    tree: &Tree,
    prefix: &[u8],
    until: Instant,
    before: impl Fn(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    loop {
        let entries = tree.scan_prefix(prefix).take(BATCH_SIZE).collect::<Result<Vec<_>, _>>()?;
        let all = entries.len() < BATCH_SIZE;
        for (key, value) in entries {
            before(&key, &value)?;
            tree.remove(key)?;
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        if all {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn run(tombstones: &Tombstones, pieces: &Tree, steps: usize) {
        // Each step has no time at all and removes one key.
        for _ in 0..steps {
            let progress = tombstones
                .cleanup(Instant::now(), |tombstone, until| {
                    remove_prefix(pieces, &tombstone.key()[1..], until)
                })
                .unwrap();
            match progress {
                CleanupProgress::More => {}
                CleanupProgress::Finish => tombstones.finish().unwrap(),
                CleanupProgress::Nothing => return,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// A removal that is cut off anywhere is completed by the next start, and nothing else is removed.
        #[test]
        fn removals_are_resumed(pieces in prop::collection::vec(0usize..200, 1..6), deleted in prop::collection::vec(any::<bool>(), 6), steps in 0usize..300) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let tree = db.open_tree("pieces").unwrap();
            let tombstones = Tombstones::open(&db).unwrap();
            let mut kept = 0;
            for (index, &count) in pieces.iter().enumerate() {
                let id = [index as u8; 16];
                for piece in 0..count {
                    tree.insert([id.as_slice(), &(piece as u32).to_be_bytes()].concat(), b"x").unwrap();
                }
                // A staged record is deleted at the next start alone.
                match (deleted[index], index % 2) {
                    (true, 0) => tombstones.add(Tombstone::Body(id)).unwrap(),
                    (true, _) => tombstones.stage(Tombstone::Conversation(id)).unwrap(),
                    (false, _) => kept += count,
                }
            }
            run(&tombstones, &tree, steps);
            let again = Tombstones::open(&db).unwrap();
            run(&again, &tree, 10_000);
            prop_assert_eq!(tree.len(), kept);
            prop_assert!(again.tree().is_empty());
            prop_assert!(!again.is_pending());
            let whole = again.cleanup(Instant::now() + Duration::from_secs(1), |_, _| Ok(true)).unwrap();
            prop_assert_eq!(whole, CleanupProgress::Nothing);
        }
    }
}
