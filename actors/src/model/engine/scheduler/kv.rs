//! The slots of the context: what each holds, which are kept as cache, and the operations that bring
//! llama.cpp's KV cache to the same state.

use super::{KvOp, PrefixReuse};
use crate::model::Token;
use crate::model::engine::cells::{CellMap, Slot};
use crate::model::engine::prefix::PrefixTree;

/// Fewest cells freed at once when a cached slot is cut: each cut walks all of llama.cpp's cells.
const EVICT_CHUNK: u32 = 64;

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Empty,
    /// A live sequence computes in it.
    Live,
    /// Nobody computes in it; its tokens are kept for a later request with the same beginning. Higher is
    /// more recently used.
    Cached(u64),
}

/// A beginning of a request's tokens that is already computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub slot: Slot,
    /// Tokens to take from it: 1 to all but the last of the request.
    pub len: u32,
}

/// The KV cache as the scheduler sees it. All changes are made here and queued as operations at once, so
/// that the two can't differ.
#[derive(Clone, Debug)]
pub(super) struct KvCache {
    reuse: PrefixReuse,
    /// Most evictable cells to keep.
    cache_cells: u32,
    cells: CellMap,
    tree: PrefixTree,
    uses: Vec<Use>,
    clock: u64,
    ops: Vec<KvOp>,
}

impl KvCache {
    pub fn new(reuse: PrefixReuse, cache_cells: u32, cells: u32, slots: u16) -> Self {
        Self {
            reuse,
            cache_cells: if reuse == PrefixReuse::None { 0 } else { cache_cells },
            cells: CellMap::new(cells, slots),
            tree: PrefixTree::new(slots),
            uses: vec![Use::Empty; usize::from(slots)],
            clock: 0,
            ops: Vec::new(),
        }
    }

    /// The counts of cells.
    pub fn cells(&self) -> &CellMap {
        &self.cells
    }

    /// Slots kept as cache.
    pub fn cached_slots(&self) -> usize {
        self.uses.iter().filter(|used| matches!(used, Use::Cached(_))).count()
    }

    /// The operations since the last call, to be executed in this order.
    pub fn take_ops(&mut self) -> Vec<KvOp> {
        std::mem::take(&mut self.ops)
    }

    /// The longest computed beginning of `tokens` that may be taken over. The last token is never part of
    /// it: it has to be decoded anew for its logits.
    pub fn find(&self, tokens: &[Token]) -> Option<Source> {
        match self.reuse {
            PrefixReuse::None => None,
            PrefixReuse::WholeSequence => {
                self.tree.longest_whole(tokens).map(|(slot, len)| Source { slot, len })
            }
            PrefixReuse::Partial => {
                let found = self.tree.longest(&tokens[..tokens.len() - 1])?;
                // Equal tokens may lie in different cells: rather share those that stay in use anyhow.
                let slot = found.slots.iter().copied().max_by_key(|slot| match self.uses[slot.index()] {
                    Use::Empty => (0, 0),
                    Use::Cached(used) => (1, used),
                    Use::Live => (2, 0),
                })?;
                Some(Source { slot, len: found.len })
            }
        }
    }

    /// Gives a sequence a slot that holds `tokens` up to the source's length and no more; an empty one where
    /// there is no source. None where every slot is live.
    pub fn open(&mut self, tokens: &[Token], source: Option<Source>) -> Option<Slot> {
        let spare = self.spare_slot(source.map(|source| source.slot));
        let slot = match source {
            Some(source)
                if self.is_cached(source.slot) && (self.is_worth_moving(source) || spare.is_none()) =>
            {
                self.truncate(source.slot, source.len);
                self.uses[source.slot.index()] = Use::Live;
                self.cells.set_pinned(source.slot, true);
                source.slot
            }
            _ => {
                let slot = spare?;
                self.truncate(slot, 0);
                self.uses[slot.index()] = Use::Live;
                self.cells.set_pinned(slot, true);
                if let Some(Source { slot: from, len }) = source {
                    self.cells.share(from, slot, len);
                    self.tree.extend(slot, &tokens[..len as usize]);
                    self.ops.push(KvOp::Copy { from, to: slot, len });
                    if self.is_cached(from) {
                        self.uses[from.index()] = Use::Cached(self.tick());
                    }
                }
                slot
            }
        };
        Some(slot)
    }

    /// Appends computed tokens to a live slot, after evicting what has to go for them. False, and nothing
    /// appended, where there are not enough cells.
    #[must_use]
    pub fn append(&mut self, slot: Slot, tokens: &[Token]) -> bool {
        let count = tokens.len() as u32;
        let fits = self.make_free(count) && self.cells.append(slot, count);
        if fits {
            self.tree.extend(slot, tokens);
        }
        fits
    }

    /// Ends the live use of a slot; what it holds becomes cache.
    pub fn release(&mut self, slot: Slot) {
        self.cells.set_pinned(slot, false);
        self.uses[slot.index()] =
            if self.cells.len(slot) == 0 { Use::Empty } else { Use::Cached(self.tick()) };
        if self.reuse == PrefixReuse::None {
            self.truncate(slot, 0);
        }
        while self.cells.evictable() > self.cache_cells
            && self.evict(self.cells.evictable() - self.cache_cells)
        {}
    }

    /// Drops everything that no live sequence uses.
    pub fn drop_cached(&mut self) {
        for index in 0..self.uses.len() {
            if matches!(self.uses[index], Use::Cached(_)) {
                // There are as many uses as slots, and slots are counted in u16.
                self.truncate(Slot(index as u16), 0);
            }
        }
    }

    /// Evicts until `count` cells are free.
    fn make_free(&mut self, count: u32) -> bool {
        while self.cells.free() < count {
            if !self.evict((count - self.cells.free()).max(EVICT_CHUNK)) {
                return false;
            }
        }
        true
    }

    /// Cuts the least recently used cached slot that holds any evictable cell, so that `want` cells become
    /// free or the whole slot is gone. False where there is none.
    fn evict(&mut self, want: u32) -> bool {
        let mut cached = self.by_last_use().into_iter();
        let Some(slot) = cached.find(|&slot| self.cells.unpinned_in(slot, u32::MAX) > 0) else {
            return false;
        };
        let keep = match self.reuse {
            PrefixReuse::Partial => self.cells.length_that_frees(slot, want),
            PrefixReuse::WholeSequence | PrefixReuse::None => 0,
        };
        self.truncate(slot, keep);
        true
    }

    /// Keeps the first `len` tokens of a slot; an emptied cached slot is empty from then on.
    fn truncate(&mut self, slot: Slot, len: u32) {
        if self.cells.len(slot) > len {
            self.cells.truncate(slot, len);
            self.tree.truncate(slot, len);
            self.ops.push(KvOp::Truncate { slot, len });
        }
        if len == 0 && self.is_cached(slot) {
            self.uses[slot.index()] = Use::Empty;
        }
    }

    /// A slot for a new sequence: an empty one, else the least recently used cached one, but not `except`.
    fn spare_slot(&self, except: Option<Slot>) -> Option<Slot> {
        let empty = self.uses.iter().position(|&used| used == Use::Empty).map(|index| Slot(index as u16));
        empty.or_else(|| self.by_last_use().into_iter().find(|&slot| Some(slot) != except))
    }

    /// Whether to go on in the cached source slot itself, since nothing of it would be lost by that. A state
    /// that can't be cut is rather copied: it serves the same request sent again.
    fn is_worth_moving(&self, source: Source) -> bool {
        self.reuse == PrefixReuse::Partial && source.len == self.cells.len(source.slot)
    }

    fn is_cached(&self, slot: Slot) -> bool {
        matches!(self.uses[slot.index()], Use::Cached(_))
    }

    /// Cached slots, the least recently used first.
    fn by_last_use(&self) -> Vec<Slot> {
        let cached = self.uses.iter().enumerate().filter_map(|(index, used)| match used {
            Use::Cached(at) => Some((*at, Slot(index as u16))),
            Use::Empty | Use::Live => None,
        });
        let mut cached: Vec<_> = cached.collect();
        cached.sort_unstable();
        cached.into_iter().map(|(_, slot)| slot).collect()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}
