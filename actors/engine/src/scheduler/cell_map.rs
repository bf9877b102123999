//! Exact accounting of the KV cache's cells: which slot holds which cell, and which cells are free.
//!
//! A cell of llama.cpp's unified KV cache holds one token position and the set of sequence ids (here: slots) that see it.
//! `llama_memory_seq_cp` adds a slot to cells, `llama_memory_seq_rm` removes one, and a cell is free again when no slot sees it.
//! [`CellMap`] mirrors that with counters, so that the scheduler knows before each decode whether its batch fits. The cell
//! numbers are the map's own: llama.cpp places tokens as it likes, only the counts have to agree.
//!
//! If cells have to stay in order ([`CellMap::in_order`]), a cell that no slot holds any more is *spent*: it is free again only
//! when all are ([`CellMap::clear`]).

use std::fmt;

/// A llama.cpp sequence id (`llama_seq_id`): a place for one token sequence in the context's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot as an index into tables with one entry a slot.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of slots that hold a cell.
#[derive(Clone, Copy, Debug, Default)]
struct Holders {
    all: u16,
    /// Those of them that are pinned.
    pinned: u16,
}

#[derive(Clone, Debug, Default)]
struct SlotCells {
    /// The cell of each position, from position 0 without a gap.
    cells: Vec<u32>,
    pinned: bool,
}

/// The cells of one context and the slots that hold them.
///
/// A slot is *pinned* while a live sequence uses it. A cell that only unpinned slots hold is *evictable*.
#[derive(Clone, Debug)]
pub struct CellMap {
    holders: Vec<Holders>,
    free: Vec<u32>,
    /// Cells that are free only after [`clear`](Self::clear); `None` if each cell is free as soon as no slot holds it.
    spent: Option<Vec<u32>>,
    slots: Vec<SlotCells>,
    evictable: u32,
}

impl CellMap {
    /// `cells` free cells and `slots` empty, unpinned slots.
    pub fn new(cells: u32, slots: u16) -> Self {
        Self {
            holders: vec![Holders::default(); cells as usize],
            free: (0..cells).rev().collect(),
            spent: None,
            slots: vec![SlotCells::default(); usize::from(slots)],
            evictable: 0,
        }
    }

    /// Creates the same map, but cells that no slot holds any more are spent rather than free.
    pub fn in_order(cells: u32, slots: u16) -> Self {
        Self { spent: Some(Vec::new()), ..Self::new(cells, slots) }
    }

    /// Tokens that `slot` holds.
    pub fn len(&self, slot: Slot) -> u32 {
        // A slot never holds more than all cells, whose number is a u32.
        self.slots[slot.index()].cells.len() as u32
    }

    /// Cells that no slot holds.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Returns the number of cells that no slot holds but that are not free yet.
    pub fn spent(&self) -> u32 {
        self.spent.as_ref().map_or(0, Vec::len) as u32
    }

    /// Cells that only unpinned slots hold.
    pub fn evictable(&self) -> u32 {
        self.evictable
    }

    /// Cells that at least one pinned slot holds.
    pub fn pinned(&self) -> u32 {
        self.holders.len() as u32 - self.free() - self.spent() - self.evictable
    }

    /// Cells a pinned slot could get: the free and the evictable.
    pub fn available(&self) -> u32 {
        self.free() + self.evictable
    }

    /// Returns the number of the first `len` cells of `slot` that no pinned slot holds.
    pub fn unpinned_in(&self, slot: Slot, len: u32) -> u32 {
        let cells = &self.slots[slot.index()].cells;
        let unpinned =
            cells.iter().take(len as usize).filter(|&&cell| self.holders[cell as usize].pinned == 0);
        unpinned.count() as u32
    }

    /// Cells that would become free or evictable if the pinned `slot` were unpinned.
    pub fn only_pinned_by(&self, slot: Slot) -> u32 {
        let entry = &self.slots[slot.index()];
        if !entry.pinned {
            return 0;
        }
        entry.cells.iter().filter(|&&cell| self.holders[cell as usize].pinned == 1).count() as u32
    }

    /// Returns the number of distinct cells that these slots hold.
    pub fn distinct(&self, slots: impl IntoIterator<Item = Slot>) -> u32 {
        let mut seen = vec![false; self.holders.len()];
        let mut count = 0;
        for &cell in slots.into_iter().flat_map(|slot| &self.slots[slot.index()].cells) {
            count += u32::from(!std::mem::replace(&mut seen[cell as usize], true));
        }
        count
    }

    /// The longest length to which `slot` can be cut so that at least `want` cells become free; 0 where it
    /// holds too few cells alone.
    pub fn length_that_frees(&self, slot: Slot, want: u32) -> u32 {
        let cells = &self.slots[slot.index()].cells;
        let mut freed = 0;
        for (position, &cell) in cells.iter().enumerate().rev() {
            freed += u32::from(self.holders[cell as usize].all == 1);
            if freed >= want {
                return position as u32;
            }
        }
        0
    }

    /// Gives `slot` `count` more cells at its end. False, and nothing done, where fewer are free.
    #[must_use]
    pub fn append(&mut self, slot: Slot, count: u32) -> bool {
        if self.free() < count {
            return false;
        }
        let taken = self.free.split_off(self.free.len() - count as usize);
        let entry = &mut self.slots[slot.index()];
        let holders = Holders { all: 1, pinned: u16::from(entry.pinned) };
        for &cell in &taken {
            self.holders[cell as usize] = holders;
        }
        if !entry.pinned {
            self.evictable += count;
        }
        entry.cells.extend(taken);
        true
    }

    /// Lets the empty slot `to` hold the first `len` cells of `from` too.
    pub fn share(&mut self, from: Slot, to: Slot, len: u32) {
        debug_assert_eq!(self.len(to), 0, "only an empty slot can take another's cells");
        let shared: Vec<u32> = self.slots[from.index()].cells.iter().take(len as usize).copied().collect();
        let entry = &mut self.slots[to.index()];
        for &cell in &shared {
            let holders = &mut self.holders[cell as usize];
            holders.all += 1;
            if entry.pinned {
                self.evictable -= u32::from(holders.pinned == 0);
                holders.pinned += 1;
            }
        }
        entry.cells = shared;
    }

    /// Takes from `slot` all but its first `len` cells.
    pub fn truncate(&mut self, slot: Slot, len: u32) {
        let entry = &mut self.slots[slot.index()];
        if entry.cells.len() <= len as usize {
            return;
        }
        for cell in entry.cells.split_off(len as usize) {
            let holders = &mut self.holders[cell as usize];
            let was_evictable = holders.pinned == 0;
            holders.all -= 1;
            holders.pinned -= u16::from(entry.pinned);
            let is_evictable = holders.all > 0 && holders.pinned == 0;
            self.evictable = self.evictable + u32::from(is_evictable) - u32::from(was_evictable);
            if holders.all == 0 {
                self.spent.as_mut().unwrap_or(&mut self.free).push(cell);
            }
        }
    }

    /// Takes everything from all slots, and unpins them.
    pub fn clear(&mut self) {
        // As many as when they were made, as u32 and u16.
        let (cells, slots) = (self.holders.len() as u32, self.slots.len() as u16);
        let spent = self.spent.as_ref().map(|_| Vec::new());
        *self = Self { spent, ..Self::new(cells, slots) };
    }

    /// Says whether a live sequence uses `slot`.
    pub fn set_pinned(&mut self, slot: Slot, pinned: bool) {
        let entry = &mut self.slots[slot.index()];
        if entry.pinned == pinned {
            return;
        }
        entry.pinned = pinned;
        for &cell in &entry.cells {
            let holders = &mut self.holders[cell as usize];
            if pinned {
                self.evictable -= u32::from(holders.pinned == 0);
                holders.pinned += 1;
            } else {
                holders.pinned -= 1;
                self.evictable += u32::from(holders.pinned == 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
