//! What is gone and still takes room: noted together with its end, and removed piece by piece.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `doomed` | kind (1 byte), id (16 bytes) | nothing; `s`: it is being written and nobody refers to it yet |
//!
//! A deletion that takes long would hold the store's thread for everybody. So it removes what leads to the thing and
//! leaves a note in the same transaction: nobody finds it any more, and what is left of it goes in short steps between
//! other jobs. A note is removed after the removals that it stands for are on disk, so a crash leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, Tree};

use super::StoreError;

/// Keys that are looked up at a time.
const KEYS: usize = 64;

/// The value of what is being written.
pub const STAGED: &[u8] = b"s";

/// Something that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doomed {
    /// A conversation: its items are left.
    Conversation([u8; 16]),
    /// A part of a response: its pieces are left.
    Body([u8; 16]),
}

impl Doomed {
    /// The key of its note.
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

/// The notes. All clones are of one database.
#[derive(Clone, Debug)]
pub struct Notes {
    tree: Tree,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether there may be notes that no pass has seen.
    waiting: AtomicBool,
    pass: Mutex<Pass>,
}

/// One walk over all notes.
#[derive(Debug, Default)]
struct Pass {
    /// The last one looked at.
    at: Option<Vec<u8>>,
    /// Those of which nothing is left.
    done: BTreeSet<Vec<u8>>,
}

/// How far the removal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// There is nothing to remove.
    Nothing,
    /// There is more.
    More,
    /// What was removed has to be made durable, and then the notes can go.
    Finish,
}

impl Notes {
    /// Opens the tree, or makes it. What was being written when a process ended is nobody's.
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
        let notes = Self { tree, shared: Arc::default() };
        notes.shared.waiting.store(!notes.tree.is_empty(), Ordering::Relaxed);
        Ok(notes)
    }

    /// The tree, for transactions; [`added`](Self::added) is to be called behind them.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Something may have been noted.
    pub fn added(&self) {
        self.shared.waiting.store(true, Ordering::Release);
    }

    /// Notes that something is being written.
    pub fn stage(&self, what: Doomed) -> Result<(), StoreError> {
        self.tree.insert(what.key(), STAGED)?;
        Ok(())
    }

    /// Notes outside of a transaction that something is gone.
    pub fn doom(&self, what: Doomed) -> Result<(), StoreError> {
        self.tree.insert(what.key(), &[])?;
        self.added();
        Ok(())
    }

    /// Whether something of that kind and id is still to be removed.
    pub fn has(&self, what: Doomed) -> Result<bool, StoreError> {
        Ok(self.tree.get(what.key())?.is_some_and(|value| value.is_empty()))
    }

    /// Whether there may be anything to remove.
    pub fn waiting(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire)
    }

    /// Removes some of what is left, until then. `remove` says whether nothing of one is left.
    pub fn sweep(
        &self,
        until: Instant,
        mut remove: impl FnMut(Doomed, Instant) -> Result<bool, StoreError>,
    ) -> Result<Swept, StoreError> {
        if !self.waiting() {
            return Ok(Swept::Nothing);
        }
        let mut pass = self.shared.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.at.is_none() {
            // Whatever is noted from here on may lie before the place that this pass has come to.
            self.shared.waiting.store(false, Ordering::Release);
        }
        loop {
            let from = pass.at.clone().unwrap_or_default();
            let start =
                if pass.at.is_some() { std::ops::Bound::Excluded(from) } else { std::ops::Bound::Unbounded };
            let next = self.tree.range::<Vec<u8>, _>((start, std::ops::Bound::Unbounded)).next();
            let Some(entry) = next else {
                pass.at = None;
                if pass.done.is_empty() {
                    return Ok(if self.waiting() { Swept::More } else { Swept::Nothing });
                }
                self.added();
                return Ok(Swept::Finish);
            };
            let (key, value) = entry?;
            let gone = value.is_empty().then(|| Doomed::from_key(&key)).flatten();
            if let Some(doomed) = gone {
                if !remove(doomed, until)? {
                    self.added();
                    return Ok(Swept::More);
                }
                pass.done.insert(key.to_vec());
            }
            pass.at = Some(key.to_vec());
            if Instant::now() >= until {
                self.added();
                return Ok(Swept::More);
            }
        }
    }

    /// Removes the notes of which nothing is left; to be called once that is on disk.
    pub fn finish(&self) -> Result<(), StoreError> {
        let done = std::mem::take(&mut self.shared.pass.lock().unwrap_or_else(PoisonError::into_inner).done);
        for key in done {
            self.tree.remove(key)?;
        }
        Ok(())
    }
}

/// Notes in a transaction that something is gone.
pub fn doom(notes: &TransactionalTree, what: Doomed) -> ConflictableTransactionResult<(), StoreError> {
    notes.insert(&what.key(), &[])?;
    Ok(())
}

/// Notes in a transaction that what was being written is referred to now.
pub fn keep(notes: &TransactionalTree, what: Doomed) -> ConflictableTransactionResult<(), StoreError> {
    notes.remove(&what.key())?;
    Ok(())
}

/// Removes keys of that beginning, until then. `true`: there is none left.
pub fn remove_prefix(tree: &Tree, prefix: &[u8], until: Instant) -> Result<bool, StoreError> {
    loop {
        let keys = tree.scan_prefix(prefix).keys().take(KEYS).collect::<Result<Vec<_>, _>>()?;
        let all = keys.len() < KEYS;
        for key in keys {
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

    fn run(notes: &Notes, pieces: &Tree, steps: usize) {
        // Each step has no time at all, which is one key.
        for _ in 0..steps {
            let swept = notes
                .sweep(Instant::now(), |doomed, until| remove_prefix(pieces, &doomed.key()[1..], until))
                .unwrap();
            match swept {
                Swept::More => {}
                Swept::Finish => notes.finish().unwrap(),
                Swept::Nothing => return,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// However a removal is cut off, the next start ends it, and what nobody noted stays.
        #[test]
        fn removals_are_resumed(pieces in prop::collection::vec(0usize..200, 1..6), doomed in prop::collection::vec(any::<bool>(), 6), steps in 0usize..300) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let tree = db.open_tree("pieces").unwrap();
            let notes = Notes::open(&db).unwrap();
            let mut kept = 0;
            for (index, &count) in pieces.iter().enumerate() {
                let id = [index as u8; 16];
                for piece in 0..count {
                    tree.insert([id.as_slice(), &(piece as u32).to_be_bytes()].concat(), b"x").unwrap();
                }
                // What is being written counts as gone at the next start alone.
                match (doomed[index], index % 2) {
                    (true, 0) => notes.doom(Doomed::Body(id)).unwrap(),
                    (true, _) => notes.stage(Doomed::Conversation(id)).unwrap(),
                    (false, _) => kept += count,
                }
            }
            run(&notes, &tree, steps);
            let again = Notes::open(&db).unwrap();
            run(&again, &tree, 10_000);
            prop_assert_eq!(tree.len(), kept);
            prop_assert!(again.tree().is_empty());
            prop_assert!(!again.waiting());
            let whole = again.sweep(Instant::now() + Duration::from_secs(1), |_, _| Ok(true)).unwrap();
            prop_assert_eq!(whole, Swept::Nothing);
        }
    }
}
