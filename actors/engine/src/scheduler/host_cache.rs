//! Token sequences in host memory, copied out of the KV cells.
//!
//! Under a unified KV cache every decode step of every sequence looks at all cells in use, those of finished sequences too, so
//! cells are a bad place for prefixes that are kept for later: on a CPU, 4000 cached cells take a tenth of a small model's speed.
//! A copy in host memory costs nothing until it is used, and restoring it costs the time to move its bytes: thousands of times
//! less than reading the tokens again.
//!
//! [`Archive`] only does the accounting; the runner holds the bytes. Each copy lies on a numbered [`Shelf`].

use std::fmt;

use super::cell_map::Slot;
use super::prefix_tree::{Key, PrefixTree};

/// The maximum number of copies kept at a time, regardless of their size.
const SHELVES: u16 = 1024;

/// A place for one copied sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shelf(pub u16);

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The consequences of saving a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saving {
    /// Copies to be thrown away first.
    pub dropped: Vec<Shelf>,
    /// Those of them that are thrown away for lack of room alone, in the same order, with their tokens.
    pub spilled: Vec<(Shelf, Vec<Key>)>,
    /// The place of the new copy; `None` if a copy that holds the sequence exists already, or if it is too large.
    pub to: Option<Shelf>,
}

/// The books of the copies in host memory, within a bound of tokens.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Maximum number of tokens of all copies together.
    capacity: u32,
    used: u32,
    /// The copies by prefix; its slots are the shelves.
    tree: PrefixTree,
    /// The time at which each shelf was last used; 0 if it is empty.
    last_used: Vec<u64>,
    clock: u64,
}

impl Archive {
    /// An empty archive for at most `capacity` tokens; 0 keeps nothing.
    pub fn new(capacity: u32) -> Self {
        let shelves = if capacity == 0 { 0 } else { SHELVES };
        Self {
            capacity,
            used: 0,
            tree: PrefixTree::new(shelves),
            last_used: vec![0; usize::from(shelves)],
            clock: 0,
        }
    }

    /// Maximum number of tokens of all copies together.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Tokens of all copies together.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Tokens of one copy.
    pub fn len(&self, shelf: Shelf) -> u32 {
        self.tree.len(Slot(shelf.0))
    }

    /// The copy with the longest common beginning with `tokens`, and that beginning's length; of equal ones the
    /// shortest copy, since all of it has to be put back.
    pub fn longest(&self, tokens: &[Key]) -> Option<(Shelf, u32)> {
        let found = self.tree.longest(tokens)?;
        let slot = found.slots.iter().copied().min_by_key(|&slot| self.tree.len(slot))?;
        Some((Shelf(slot.0), found.len))
    }

    /// All copies with their tokens, the most recently used first.
    pub fn contents(&self) -> Vec<(Shelf, Vec<Key>)> {
        let mut shelves: Vec<(u64, Slot)> =
            (0..).map(Slot).zip(&self.last_used).map(|(slot, used)| (*used, slot)).collect();
        shelves.retain(|(used, _)| *used > 0);
        shelves.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        shelves.into_iter().map(|(_, slot)| (Shelf(slot.0), self.tree.tokens(slot))).collect()
    }

    /// Keeps a shelf longer.
    pub fn touch(&mut self, shelf: Shelf) {
        self.clock += 1;
        self.last_used[usize::from(shelf.0)] = self.clock;
    }

    /// Makes a place for `tokens`: copies that are a beginning of it give way, then those not used for longest, but
    /// never `keep`.
    pub fn save(&mut self, tokens: &[Key], keep: Option<Shelf>) -> Saving {
        let mut saving = Saving::default();
        let Ok(len) = u32::try_from(tokens.len()) else { return saving };
        if len == 0 || len > self.capacity {
            return saving;
        }
        if let Some((shelf, common)) = self.longest(tokens)
            && common == len
        {
            self.touch(shelf);
            return saving;
        }
        while let Some((slot, _)) = self.tree.longest_whole(tokens)
            && Some(Shelf(slot.0)) != keep
        {
            self.drop_shelf(Shelf(slot.0), &mut saving.dropped);
        }
        let to = loop {
            let empty = self.last_used.iter().position(|&used| used == 0);
            if let Some(empty) = empty
                && self.used + len <= self.capacity
            {
                break Shelf(empty as u16);
            }
            let used =
                self.last_used.iter().enumerate().filter(|(shelf, used)| {
                    **used > 0 && keep.is_none_or(|keep| usize::from(keep.0) != *shelf)
                });
            let Some((oldest, _)) = used.min_by_key(|(_, used)| **used) else { return saving };
            // There are as many entries as shelves, which are counted in u16.
            let oldest = Shelf(oldest as u16);
            saving.spilled.push((oldest, self.tree.tokens(Slot(oldest.0))));
            self.drop_shelf(oldest, &mut saving.dropped);
        };
        self.tree.extend(Slot(to.0), tokens);
        self.used += len;
        self.touch(to);
        saving.to = Some(to);
        saving
    }

    /// Throws everything away; returns the shelves that held something.
    pub fn clear(&mut self) -> Vec<Shelf> {
        let mut dropped = Vec::new();
        for index in 0..self.last_used.len() {
            if self.last_used[index] > 0 {
                self.drop_shelf(Shelf(index as u16), &mut dropped);
            }
        }
        dropped
    }

    fn drop_shelf(&mut self, shelf: Shelf, dropped: &mut Vec<Shelf>) {
        self.used -= self.len(shelf);
        self.tree.truncate(Slot(shelf.0), 0);
        self.last_used[usize::from(shelf.0)] = 0;
        dropped.push(shelf);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::prefix_tree::common_prefix;

    fn tokens() -> impl Strategy<Value = Vec<Key>> {
        prop::collection::vec(0u128..2, 0..12)
    }

    proptest! {
        /// Against a plain map of contents: never over capacity, nothing lost but reported drops, every saved sequence found
        /// again while it is there, `keep` never dropped.
        #[test]
        fn keeps_its_books(capacity in 0u32..60, saves in prop::collection::vec((tokens(), any::<bool>()), 0..60)) {
            let mut archive = Archive::new(capacity);
            let mut model: BTreeMap<Shelf, Vec<Key>> = BTreeMap::new();
            for (tokens, keep) in saves {
                let keep = if keep { model.keys().next().copied() } else { None };
                let saving = archive.save(&tokens, keep);
                for (shelf, spilled) in &saving.spilled {
                    prop_assert!(saving.dropped.contains(shelf));
                    prop_assert_eq!(model.get(shelf), Some(spilled));
                    prop_assert!(!tokens.starts_with(spilled) || Some(*shelf) == keep, "it is covered");
                }
                for shelf in saving.dropped {
                    prop_assert!(Some(shelf) != keep);
                    prop_assert!(model.remove(&shelf).is_some(), "dropped what was not there");
                }
                if let Some(shelf) = saving.to {
                    prop_assert!(model.insert(shelf, tokens.clone()).is_none(), "put over another copy");
                    prop_assert_eq!(archive.longest(&tokens), Some((shelf, tokens.len() as u32)));
                }
                let sum: usize = model.values().map(Vec::len).sum();
                prop_assert_eq!(archive.used() as usize, sum);
                prop_assert!(sum <= capacity as usize);
                for (shelf, held) in &model {
                    prop_assert_eq!(archive.len(*shelf) as usize, held.len());
                }
                let best = model.values().map(|held| common_prefix(held, &tokens)).max().unwrap_or(0);
                prop_assert_eq!(archive.longest(&tokens).map_or(0, |(_, len)| len as usize), best);
            }
            let contents: BTreeMap<Shelf, Vec<Key>> = archive.contents().into_iter().collect();
            prop_assert_eq!(&contents, &model);
            let all: Vec<Shelf> = model.into_keys().collect();
            prop_assert_eq!(archive.clear(), all);
            prop_assert_eq!(archive.used(), 0);
        }
    }

    #[test]
    fn a_longer_copy_replaces_its_beginnings_and_a_shorter_one_is_not_made() {
        let mut archive = Archive::new(100);
        let first = archive.save(&[1, 2, 3], None).to;
        assert!(first.is_some());
        assert_eq!(archive.save(&[1, 2], None), Saving::default());
        let longer = archive.save(&[1, 2, 3, 4], None);
        assert_eq!(longer.dropped, Vec::from_iter(first));
        assert_eq!(archive.used(), 4);
    }

    #[test]
    fn what_was_used_lately_stays() {
        let mut archive = Archive::new(4);
        let first = archive.save(&[1, 1], None).to.unwrap();
        let second = archive.save(&[2, 2], None).to.unwrap();
        archive.touch(first);
        assert_eq!(archive.save(&[3, 3], None).dropped, [second]);
    }
}
