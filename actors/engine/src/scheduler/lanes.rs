//! Lanes: cells of a sequence's own, in a second context with one stream a sequence.
//!
//! In the unified KV cache every sequence looks at the cells of all. A lane holds one sequence and is looked at by that one alone.
//! Nothing can be shared there: tokens are copied in and out. [`Lanes`] does the accounting; the runner holds the context.
//!
//! llama.cpp computes a batch of several streams at once only if their numbers have no gap between them
//! (`llama_batch_allocr::split_equal`), so the busy lanes are to be the first ones.

use super::cell_map::Slot;
use super::prefix_tree::{Key, PrefixTree};

/// Steps that a gap between busy lanes may last: a new sequence may fill it, which costs less than moving another.
const MAX_GAP_STEPS: u32 = 3;

/// A stream of the second context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u16);

/// The place in which a sequence computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seat {
    /// A slot of the unified cache.
    Slot(Slot),
    /// A lane.
    Lane(Lane),
}

impl Seat {
    /// Its slot, if it is one.
    #[must_use]
    pub const fn slot(self) -> Option<Slot> {
        match self {
            Self::Slot(slot) => Some(slot),
            Self::Lane(_) => None,
        }
    }
}

/// The books of all lanes.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Cells of each lane.
    cells: u32,
    busy: Vec<bool>,
    /// What each lane holds; its slots are the lanes.
    tree: PrefixTree,
    /// Steps that the present gap has lasted.
    gap_steps: u32,
}

impl Lanes {
    /// `count` empty lanes of `cells` cells each.
    pub fn new(count: u16, cells: u32) -> Self {
        Self { cells, busy: vec![false; usize::from(count)], tree: PrefixTree::new(count), gap_steps: 0 }
    }

    /// Tokens that a lane holds.
    pub fn len(&self, lane: Lane) -> u32 {
        self.tree.len(Slot(lane.0))
    }

    /// Tokens that a lane could hold beside those it has.
    pub fn room(&self, lane: Lane) -> u32 {
        self.cells - self.len(lane)
    }

    /// Cells of each lane.
    pub const fn cells(&self) -> u32 {
        self.cells
    }

    /// Returns the tokens that a lane holds.
    pub fn tokens(&self, lane: Lane) -> Vec<Key> {
        self.tree.tokens(Slot(lane.0))
    }

    /// The busy lanes in their order.
    pub fn busy(&self) -> impl Iterator<Item = Lane> {
        // There are as many entries as lanes, which are counted in u16.
        let busy = self.busy.iter().enumerate().filter(|(_, busy)| **busy);
        busy.map(|(index, _)| Lane(index as u16))
    }

    /// Tokens in all lanes.
    pub fn used(&self) -> u32 {
        self.busy().map(|lane| self.len(lane)).sum()
    }

    /// Takes the first free lane for a sequence that has computed `tokens`, if there is one and they fit.
    pub fn enter(&mut self, tokens: &[Key]) -> Option<Lane> {
        let free = self.busy.iter().position(|busy| !busy).filter(|_| tokens.len() < self.cells as usize)?;
        self.busy[free] = true;
        let lane = Slot(free as u16);
        self.tree.extend(lane, tokens);
        Some(Lane(lane.0))
    }

    /// Appends computed tokens. False, and nothing appended, where they do not fit.
    #[must_use]
    pub fn append(&mut self, lane: Lane, tokens: &[Key]) -> bool {
        let fits = tokens.len() <= self.room(lane) as usize;
        if fits {
            self.tree.extend(Slot(lane.0), tokens);
        }
        fits
    }

    /// Empties a lane; it is free then.
    pub fn clear(&mut self, lane: Lane) {
        self.tree.truncate(Slot(lane.0), 0);
        self.busy[usize::from(lane.0)] = false;
    }

    /// The longest beginning of `tokens` that a busy lane holds; of equal ones that of the shortest, since all of it is copied.
    pub fn longest(&self, tokens: &[Key]) -> Option<(Lane, u32)> {
        let found = self.tree.longest(tokens)?;
        let lane = found.slots.iter().copied().min_by_key(|&lane| self.tree.len(lane))?;
        Some((Lane(lane.0), found.len))
    }

    /// Moves the last busy lane into the first free one before it, where that has been free for some steps. Returns both; to be
    /// called once a step.
    pub fn close_gap(&mut self) -> Option<(Lane, Lane)> {
        let gap = self.busy.iter().position(|busy| !busy)?;
        let Some(last) = self.busy.iter().rposition(|&busy| busy).filter(|&last| last > gap) else {
            self.gap_steps = 0;
            return None;
        };
        self.gap_steps += 1;
        if self.gap_steps <= MAX_GAP_STEPS {
            return None;
        }
        let (from, to) = (Lane(last as u16), Lane(gap as u16));
        let tokens = self.tokens(from);
        self.clear(from);
        self.busy[gap] = true;
        self.tree.extend(Slot(to.0), &tokens);
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Enter(Vec<Key>),
        Append(usize, Vec<Key>),
        Clear(usize),
        CloseGap,
    }

    fn change() -> impl Strategy<Value = Change> {
        let tokens = || prop::collection::vec(0u128..2, 0..8);
        prop_oneof![
            3 => tokens().prop_map(Change::Enter),
            3 => (any::<usize>(), tokens()).prop_map(|(nth, tokens)| Change::Append(nth, tokens)),
            2 => any::<usize>().prop_map(Change::Clear),
            3 => Just(Change::CloseGap),
        ]
    }

    proptest! {
        /// Against a plain map of contents: nothing over the bounds, nothing lost or mixed up, and gaps close.
        #[test]
        fn keeps_its_books(count in 1u16..5, cells in 1u32..20, changes in prop::collection::vec(change(), 0..80)) {
            let mut lanes = Lanes::new(count, cells);
            let mut model: BTreeMap<Lane, Vec<Key>> = BTreeMap::new();
            let pick = |model: &BTreeMap<Lane, Vec<Key>>, nth: usize| {
                (!model.is_empty()).then(|| *model.keys().nth(nth % model.len()).unwrap())
            };
            for change in changes {
                match change {
                    Change::Enter(tokens) => {
                        let fits = model.len() < usize::from(count) && tokens.len() < cells as usize;
                        let lane = lanes.enter(&tokens);
                        prop_assert_eq!(lane.is_some(), fits);
                        if let Some(lane) = lane {
                            prop_assert!(model.insert(lane, tokens).is_none(), "a busy lane was taken");
                        }
                    }
                    Change::Append(nth, tokens) => {
                        let Some(lane) = pick(&model, nth) else { continue };
                        let held = model.get_mut(&lane).unwrap();
                        let fits = held.len() + tokens.len() <= cells as usize;
                        prop_assert_eq!(lanes.append(lane, &tokens), fits);
                        if fits {
                            held.extend(tokens);
                        }
                    }
                    Change::Clear(nth) => {
                        let Some(lane) = pick(&model, nth) else { continue };
                        lanes.clear(lane);
                        model.remove(&lane);
                    }
                    Change::CloseGap => {
                        for _ in 0..=MAX_GAP_STEPS {
                            if let Some((from, to)) = lanes.close_gap() {
                                let held = model.remove(&from).unwrap();
                                prop_assert!(to < from && model.insert(to, held).is_none());
                            }
                        }
                    }
                }
                for (lane, held) in &model {
                    prop_assert_eq!(&lanes.tokens(*lane), held);
                    prop_assert_eq!(lanes.room(*lane) as usize + held.len(), cells as usize);
                    if let Some((found, len)) = lanes.longest(held) {
                        prop_assert_eq!(len as usize, held.len());
                        prop_assert!(model[&found].starts_with(held));
                    }
                }
                prop_assert_eq!(lanes.busy().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
            }
            for _ in 0..usize::from(count) * (MAX_GAP_STEPS as usize + 1) {
                lanes.close_gap();
            }
            prop_assert!(lanes.busy().map(|lane| usize::from(lane.0)).eq(0..model.len()), "a gap is left");
        }
    }
}
