//! The slots of the context: their contents, those kept as cache, and the operations that bring llama.cpp's KV cache to the same
//! state.

use std::collections::VecDeque;

use super::cell_map::{CellMap, Slot};
use super::host_cache::{Archive, Shelf};
use super::lanes::{Lane, Lanes};
use super::prefix_tree::{Key, PrefixTree};
use super::{KvOp, PrefixReuse, SchedulerConfig};

/// Fewest cells freed at once when a cached slot is cut: each cut walks all of llama.cpp's cells.
const EVICT_CHUNK: u32 = 64;

/// The use of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Empty,
    /// A live sequence computes in it.
    Live,
    /// No sequence computes in it; its tokens are kept for a later request with the same beginning. A higher value is more
    /// recently used.
    Cached(u64),
}

/// The place of a computed beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A slot in the context's cells.
    Slot(Slot),
    /// A shelf in host memory.
    Shelf(Shelf),
    /// A lane in which a sequence runs.
    Lane(Lane),
}

impl Place {
    fn shelf(self) -> Option<Shelf> {
        match self {
            Self::Shelf(shelf) => Some(shelf),
            Self::Slot(_) | Self::Lane(_) => None,
        }
    }
}

/// A beginning of a request's tokens that is already computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub place: Place,
    /// Tokens to take from it: 1 to all but the last of the request.
    pub len: u32,
}

/// The KV cache as the scheduler sees it. All changes are made here and queued as operations at once, so
/// that the two can't differ.
#[derive(Clone, Debug)]
pub(super) struct KvCache {
    reuse: PrefixReuse,
    /// See [`SchedulerConfig::in_order`].
    in_order: bool,
    /// Maximum number of evictable cells to keep.
    cache_cells: u32,
    /// Fewest tokens that are worth a copy to or from host memory.
    copy_min: u32,
    /// See [`SchedulerConfig::spill`].
    spill: bool,
    /// The tokens of copies that are to be spilled, in the order of the operations.
    spilled: VecDeque<Vec<Key>>,
    cells: CellMap,
    tree: PrefixTree,
    archive: Archive,
    /// `None` where there are none, now or ever.
    pub(super) lanes: Option<Lanes>,
    /// The slot whose tokens lie in the cells of their positions: all cells were free when it was opened, and no other slot has
    /// taken one since.
    in_place: Option<Slot>,
    uses: Vec<Use>,
    clock: u64,
    ops: Vec<KvOp>,
}

impl KvCache {
    pub fn new(config: &SchedulerConfig) -> Self {
        let SchedulerConfig { reuse, slots, cells, .. } = *config;
        let in_order = config.in_order && reuse == PrefixReuse::Partial;
        Self {
            reuse,
            in_order,
            cache_cells: if reuse == PrefixReuse::None { 0 } else { config.cache_cells },
            copy_min: config.share_min.max(1),
            spill: config.spill,
            spilled: VecDeque::new(),
            cells: if in_order { CellMap::in_order(cells, slots) } else { CellMap::new(cells, slots) },
            tree: PrefixTree::new(slots),
            archive: Archive::new(if reuse == PrefixReuse::Partial { config.archive_tokens } else { 0 }),
            lanes: None,
            in_place: None,
            uses: vec![Use::Empty; usize::from(slots)],
            clock: 0,
            ops: Vec::new(),
        }
    }

    /// The counts of cells.
    pub fn cells(&self) -> &CellMap {
        &self.cells
    }

    /// See [`SchedulerConfig::in_order`].
    pub const fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// Tokens of the copies in host memory.
    pub fn archived_tokens(&self) -> u32 {
        self.archive.used()
    }

    /// Cells that a sequence can get now.
    pub fn available(&self) -> u32 {
        if self.in_order { self.cells.free() } else { self.cells.available() }
    }

    /// Cells that become available only by [`tidy`](Self::tidy), beside those of live sequences.
    pub fn idle(&self) -> u32 {
        if self.in_order { self.cells.spent() + self.cells.evictable() } else { 0 }
    }

    /// Returns `true` if so many cells are idle that decoding suffers from it more than from moving the others.
    pub fn is_cluttered(&self) -> bool {
        self.idle() > self.cache_cells.saturating_add(2 * self.cells.pinned())
    }

    /// Cells that are taken from the available ones when a request of `len` tokens begins from `source`.
    pub fn needed(&self, source: Source, len: u32) -> u32 {
        match source.place {
            Place::Slot(_) if self.in_order => len - source.len,
            // Cells that are cut off the copy are spent.
            Place::Shelf(shelf) if self.in_order => len - source.len + self.archive.len(shelf),
            Place::Slot(slot) => len - source.len + self.cells.unpinned_in(slot, source.len),
            // The whole copy has to fit for a moment.
            Place::Shelf(_) | Place::Lane(_) => len.max(self.held(source.place)),
        }
    }

    /// Tokens that lie in a place.
    fn held(&self, place: Place) -> u32 {
        match place {
            Place::Slot(slot) => self.cells.len(slot),
            Place::Shelf(shelf) => self.archive.len(shelf),
            Place::Lane(lane) => self.lane_len(lane),
        }
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
    pub fn find(&self, tokens: &[Key]) -> Option<Source> {
        match self.reuse {
            PrefixReuse::None => None,
            PrefixReuse::WholeSequence => {
                let (slot, len) = self.tree.longest_whole(tokens)?;
                Some(Source { place: Place::Slot(slot), len })
            }
            PrefixReuse::Partial => {
                let all = tokens.len() as u32;
                let tokens = &tokens[..tokens.len() - 1];
                let in_cells = self.longest_in_cells(tokens);
                let least = in_cells.map_or(0, |source| source.len) + self.copy_min;
                match self.longest_copy(tokens) {
                    Some(source) if source.len >= least => {
                        let needed =
                            if self.in_order { self.needed(source, all) } else { self.held(source.place) };
                        if needed <= self.available() { Some(source) } else { in_cells }
                    }
                    _ => in_cells,
                }
            }
        }
    }

    /// The longest beginning that can only be copied; of equal ones that of the smaller whole.
    fn longest_copy(&self, tokens: &[Key]) -> Option<Source> {
        let shelf =
            self.archive.longest(tokens).map(|(shelf, len)| Source { place: Place::Shelf(shelf), len });
        let lane = self.lanes.as_ref().and_then(|lanes| lanes.longest(tokens));
        let lane = lane.map(|(lane, len)| Source { place: Place::Lane(lane), len });
        let copies = shelf.into_iter().chain(lane);
        copies.max_by_key(|source| (source.len, std::cmp::Reverse(self.held(source.place))))
    }

    fn longest_in_cells(&self, tokens: &[Key]) -> Option<Source> {
        let found = self.tree.longest(tokens)?;
        // Equal tokens may lie in different cells: rather share those that stay in use anyhow.
        let slot = found.slots.iter().copied().max_by_key(|slot| match self.uses[slot.index()] {
            Use::Empty => (0, 0),
            Use::Cached(used) => (1, used),
            Use::Live => (2, 0),
        })?;
        Some(Source { place: Place::Slot(slot), len: found.len })
    }

    /// Gives a sequence a slot that holds `tokens` up to the source's length and no more; an empty one where
    /// there is no source. None where every slot is live.
    pub fn open(&mut self, tokens: &[Key], source: Option<Source>) -> Option<Slot> {
        let from = source.and_then(|source| match source.place {
            Place::Slot(slot) => Some((slot, source.len)),
            Place::Shelf(_) | Place::Lane(_) => None,
        });
        let spare = self.spare_slot(from.map(|(slot, _)| slot));
        if let Some((slot, len)) = from
            && self.is_cached(slot)
            && (self.is_worth_moving(slot, len) || self.is_alone_in_place(slot) || spare.is_none())
        {
            self.archive_slot(slot, None);
            self.truncate(slot, len);
            self.make_live(slot);
            return Some(slot);
        }
        let slot = spare?;
        let copy = source.filter(|source| !matches!(source.place, Place::Slot(_)));
        self.archive_slot(slot, copy.and_then(|copy| copy.place.shelf()));
        self.truncate(slot, 0);
        self.make_live(slot);
        if self.cells.pinned() + self.cells.evictable() == 0 {
            self.in_place = Some(slot);
        }
        if let Some((from, len)) = from {
            self.cells.share(from, slot, len);
            self.tree.extend(slot, &tokens[..len as usize]);
            self.ops.push(KvOp::Copy { from, to: slot, len });
            if self.is_cached(from) {
                self.uses[from.index()] = Use::Cached(self.tick());
            }
        }
        if let Some(copy) = copy {
            self.restore(copy.place, slot, &tokens[..copy.len as usize]);
        }
        Some(slot)
    }

    fn make_live(&mut self, slot: Slot) {
        self.uses[slot.index()] = Use::Live;
        self.cells.set_pinned(slot, true);
    }

    /// Lets the empty live `slot` hold `tokens`, the beginning of a copy in host memory or in a lane.
    fn restore(&mut self, place: Place, slot: Slot, tokens: &[Key]) {
        let (len, held) = (tokens.len() as u32, self.held(place));
        if let Some(shelf) = place.shelf() {
            self.archive.touch(shelf);
        }
        // `find` has seen that so many cells are available. If they are not, the tokens are read again.
        if self.make_free(held, place.shelf())
            && self.cells.append(slot, if self.in_order { held } else { len })
        {
            self.cells.truncate(slot, len);
            self.note_append(slot);
            self.tree.extend(slot, tokens);
            match place {
                Place::Slot(_) => {}
                Place::Shelf(shelf) => self.push(KvOp::Restore { shelf, to: slot, len, held }),
                Place::Lane(lane) => self.push(KvOp::Fetch { lane, to: slot, len, held }),
            }
        }
    }

    /// Keeps a copy of a slot's tokens in host memory, if it is large enough to be worth it.
    fn archive_slot(&mut self, slot: Slot, keep: Option<Shelf>) {
        let tokens = self.tree.tokens(slot);
        // A lane's copy is kept when its sequence ends.
        let is_in_lane = self.lanes.as_ref().and_then(|lanes| lanes.longest(&tokens));
        if is_in_lane.is_none_or(|(_, len)| (len as usize) < tokens.len())
            && let Some(shelf) = self.shelf_for(&tokens, keep)
        {
            self.push(KvOp::Save { slot, shelf });
        }
    }

    /// Makes a place for a copy of these tokens in host memory, if it is to be made.
    pub(super) fn shelf_for(&mut self, tokens: &[Key], keep: Option<Shelf>) -> Option<Shelf> {
        if tokens.len() < self.copy_min as usize {
            return None;
        }
        self.make_shelf(tokens, keep)
    }

    /// Returns `true` if host memory can hold a copy of so many tokens.
    pub(super) fn has_room_for_copy(&self, tokens: usize) -> bool {
        self.archive.capacity() as usize >= tokens
    }

    /// Returns the tokens that a slot holds.
    pub(super) fn tokens(&self, slot: Slot) -> Vec<Key> {
        self.tree.tokens(slot)
    }

    /// Drops a cached slot.
    pub(super) fn drop_cached_slot(&mut self, slot: Slot) {
        if self.is_cached(slot) {
            self.truncate(slot, 0);
        }
    }

    pub(super) fn push(&mut self, op: KvOp) {
        self.ops.push(op);
    }

    /// Makes a place for `tokens` in host memory, if there is one for them.
    fn make_shelf(&mut self, tokens: &[Key], keep: Option<Shelf>) -> Option<Shelf> {
        let saving = self.archive.save(tokens, keep);
        let mut spilled = saving.spilled.into_iter().filter(|_| self.spill).peekable();
        for shelf in saving.dropped {
            if let Some((_, tokens)) = spilled.next_if(|(spilled, _)| *spilled == shelf) {
                self.ops.push(KvOp::Spill { shelf });
                self.spilled.push_back(tokens);
            }
            self.ops.push(KvOp::Discard { shelf });
        }
        saving.to
    }

    /// Makes a place in host memory for a copy that comes from elsewhere. All operations up to then are returned as well, to be
    /// executed before it is put there: they may concern the same shelf. `None`: there is no place, or a copy of these tokens.
    pub fn adopt(&mut self, tokens: &[Key]) -> (Option<Shelf>, Vec<KvOp>) {
        let shelf = self.shelf_for(tokens, None);
        (shelf, self.take_ops())
    }

    /// The tokens of the next copy that is spilled.
    pub fn next_spilled(&mut self) -> Option<Vec<Key>> {
        self.spilled.pop_front()
    }

    /// All that is computed and worth a copy, live and most recently used sequences first; none that another one begins with.
    pub fn contents(&self) -> Vec<(Place, Vec<Key>)> {
        if self.reuse != PrefixReuse::Partial {
            return Vec::new();
        }
        let cached = self.by_last_use().into_iter().rev();
        let slots = self.live().chain(cached).map(|slot| (Place::Slot(slot), self.tree.tokens(slot)));
        let lanes = self
            .lanes
            .iter()
            .flat_map(|lanes| lanes.busy().map(|lane| (Place::Lane(lane), lanes.tokens(lane))));
        let shelves = self.archive.contents().into_iter();
        let all: Vec<_> =
            slots.chain(lanes).chain(shelves.map(|(shelf, tokens)| (Place::Shelf(shelf), tokens))).collect();
        let is_covered = |index: usize, tokens: &[Key]| {
            all.iter().enumerate().any(|(other, (_, held))| {
                held.starts_with(tokens) && (held.len() > tokens.len() || other < index)
            })
        };
        let worth_it = all.iter().enumerate().filter(|(index, (_, tokens))| {
            tokens.len() >= self.copy_min as usize && !is_covered(*index, tokens)
        });
        worth_it.map(|(_, content)| content.clone()).collect()
    }

    /// The number of `tokens`, at their beginning, that are computed.
    pub fn computed(&self, tokens: &[Key]) -> u32 {
        let in_cells = self.tree.longest(tokens).map_or(0, |found| found.len);
        in_cells.max(self.longest_copy(tokens).map_or(0, |source| source.len))
    }

    /// Appends computed tokens to a live slot, after the evictions that this needs. False, and nothing appended, if there are not
    /// enough cells.
    #[must_use]
    pub fn append(&mut self, slot: Slot, tokens: &[Key]) -> bool {
        let count = tokens.len() as u32;
        let fits = self.make_free(count, None) && self.cells.append(slot, count);
        if fits {
            self.tree.extend(slot, tokens);
            self.note_append(slot);
        }
        fits
    }

    /// Ends the live use of a slot; its tokens become cache.
    pub fn release(&mut self, slot: Slot) {
        self.cells.set_pinned(slot, false);
        self.uses[slot.index()] =
            if self.cells.len(slot) == 0 { Use::Empty } else { Use::Cached(self.tick()) };
        if self.reuse == PrefixReuse::None {
            self.truncate(slot, 0);
        }
        while !self.in_order
            && self.cells.evictable() > self.cache_cells
            && self.evict(self.cells.evictable() - self.cache_cells, None)
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
        if self.in_order && !self.uses.contains(&Use::Live) {
            self.tidy();
        }
        let dropped = self.archive.clear();
        self.ops.extend(dropped.into_iter().map(|shelf| KvOp::Discard { shelf }));
    }

    /// Tokens of all live slots, counted for each.
    pub fn live_tokens(&self) -> u32 {
        self.live().map(|slot| self.cells.len(slot)).sum()
    }

    fn live(&self) -> impl Iterator<Item = Slot> {
        let live = self.uses.iter().enumerate().filter(|(_, used)| **used == Use::Live);
        // There are as many uses as slots, and slots are counted in u16.
        live.map(|(index, _)| Slot(index as u16))
    }

    /// Takes everything out of the cells, and puts back the live slots' tokens, for which there is room. Of the rest, copies are
    /// kept if they are worth it.
    pub fn tidy(&mut self) {
        for slot in self.by_last_use() {
            self.archive_slot(slot, None);
            self.tree.truncate(slot, 0);
            self.uses[slot.index()] = Use::Empty;
        }
        let live: Vec<(Slot, u32)> = self.live().map(|slot| (slot, self.cells.len(slot))).collect();
        self.cells.clear();
        let held = live.iter().filter(|(_, len)| *len > 0);
        self.ops.extend(held.clone().map(|&(slot, _)| KvOp::Lift { slot }));
        self.ops.push(KvOp::Clear);
        self.ops.extend(held.map(|&(slot, _)| KvOp::Lay { slot }));
        for (slot, len) in live {
            self.cells.set_pinned(slot, true);
            let fits = self.cells.append(slot, len);
            debug_assert!(fits, "there is no room for the live slots");
        }
    }

    /// Makes room at the beginning of the cells for a sequence that begins from `source`, when none is live: moves cached tokens to
    /// host memory, unless the source lies there already. Attention sums up in the order of the cells, some of its kernels in groups
    /// of them, and looks at all up to the last one in use; so a sequence that runs alone gets the same logits each time, and in the
    /// shortest time. Without room in host memory nothing is moved.
    pub fn make_place(&mut self, source: Option<Source>) {
        if self.in_order || self.archive.capacity() < self.cells.evictable() {
            return;
        }
        let source = source.map(|source| source.place);
        let stays = self.in_place.filter(|slot| source == Some(Place::Slot(*slot)));
        for slot in self.by_last_use() {
            if Some(slot) != stays {
                self.archive_slot(slot, None);
                self.truncate(slot, 0);
            }
        }
    }

    fn note_append(&mut self, slot: Slot) {
        self.in_place = self.in_place.filter(|in_place| *in_place == slot);
    }

    /// Evicts until `count` cells are free, without throwing away the copy on `keep`.
    fn make_free(&mut self, count: u32, keep: Option<Shelf>) -> bool {
        if self.in_order {
            return self.cells.free() >= count;
        }
        while self.cells.free() < count {
            if !self.evict((count - self.cells.free()).max(EVICT_CHUNK), keep) {
                return false;
            }
        }
        true
    }

    /// Cuts the least recently used cached slot that holds any evictable cell, so that `want` cells become
    /// free or the whole slot is gone. False where there is none.
    fn evict(&mut self, want: u32, keep_shelf: Option<Shelf>) -> bool {
        let mut cached = self.by_last_use().into_iter();
        let Some(slot) = cached.find(|&slot| self.cells.unpinned_in(slot, u32::MAX) > 0) else {
            return false;
        };
        let keep = match self.reuse {
            PrefixReuse::Partial => self.cells.length_that_frees(slot, want),
            PrefixReuse::WholeSequence | PrefixReuse::None => 0,
        };
        self.archive_slot(slot, keep_shelf);
        self.truncate(slot, keep);
        true
    }

    /// Keeps the first `len` tokens of a slot; an emptied cached slot is empty from then on.
    pub fn truncate(&mut self, slot: Slot, len: u32) {
        if self.cells.len(slot) > len {
            self.cells.truncate(slot, len);
            self.tree.truncate(slot, len);
            self.ops.push(KvOp::Truncate { slot, len });
        }
        if len == 0 {
            self.in_place = self.in_place.filter(|in_place| *in_place != slot);
            if self.is_cached(slot) {
                self.uses[slot.index()] = Use::Empty;
            }
        }
    }

    /// A slot for a new sequence: an empty one, else the least recently used cached one, but not `except`.
    fn spare_slot(&self, except: Option<Slot>) -> Option<Slot> {
        let empty = self.uses.iter().position(|&used| used == Use::Empty).map(|index| Slot(index as u16));
        empty.or_else(|| self.by_last_use().into_iter().find(|&slot| Some(slot) != except))
    }

    /// Returns `true` if the cached source slot itself should be continued, since nothing of it would be lost by that. A state
    /// that cannot be truncated is copied instead: it serves the same request sent again.
    fn is_worth_moving(&self, slot: Slot, len: u32) -> bool {
        self.reuse == PrefixReuse::Partial && len == self.cells.len(slot)
    }

    /// Returns `true` if the cells hold nothing but a slot's tokens, each in the cell of its position, and there is room for a copy.
    fn is_alone_in_place(&self, slot: Slot) -> bool {
        let held = self.cells.len(slot);
        let is_alone = self.cells.pinned() == 0 && self.cells.evictable() == held;
        is_alone && self.in_place == Some(slot) && self.archive.capacity() >= held
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
