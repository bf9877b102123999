//! A stand-in for llama.cpp with a toy model: cells with a position, a token and the slots that see them. It refuses all that
//! llama.cpp would refuse or get wrong, and puts tokens where llama.cpp would put them.

use std::collections::BTreeMap;

use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use crate::scheduler::*;

#[derive(Clone, Debug)]
struct Cell {
    position: u32,
    token: Token,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
pub struct Backend {
    reuse: PrefixReuse,
    in_order: bool,
    /// A cell without slots is spent: llama.cpp has them in a sequence of their own.
    cells: Vec<Option<Cell>>,
    /// The position at which llama.cpp begins to look for a free cell.
    head: usize,
    shelves: BTreeMap<Shelf, Vec<Token>>,
    lifted: BTreeMap<Slot, Vec<Token>>,
    lanes: BTreeMap<Lane, Vec<Token>>,
    /// The number of lanes, and the cells of each.
    lane_sizes: (u16, u32),
    /// Maximum number of tokens on all shelves.
    archive_tokens: u32,
}

impl Backend {
    pub fn new(config: &SchedulerConfig) -> Self {
        Self {
            reuse: config.reuse,
            in_order: config.in_order && config.reuse == PrefixReuse::Partial,
            cells: vec![None; config.cells as usize],
            head: 0,
            shelves: BTreeMap::new(),
            lifted: BTreeMap::new(),
            lanes: BTreeMap::new(),
            lane_sizes: (0, 0),
            archive_tokens: config.archive_tokens,
        }
    }

    pub fn open_lanes(&mut self, count: u16, cells: u32) {
        self.lane_sizes = (count, cells);
    }

    /// Tokens in lanes.
    pub fn in_lanes(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }

    fn fill_lane(&mut self, lane: Lane, tokens: Vec<Token>) -> Result<(), TestCaseError> {
        let (count, cells) = self.lane_sizes;
        prop_assert!(lane.0 < count && tokens.len() <= cells as usize && !tokens.is_empty(), "{:?}", lane);
        prop_assert!(self.lanes.insert(lane, tokens).is_none(), "a copy over other tokens");
        Ok(())
    }

    fn lane(&self, lane: Lane) -> Vec<Token> {
        self.lanes.get(&lane).cloned().unwrap_or_default()
    }

    /// The tokens of a seat.
    pub fn seat(&self, seat: Seat) -> Result<Vec<Token>, TestCaseError> {
        match seat {
            Seat::Slot(slot) => self.content(slot),
            Seat::Lane(lane) => Ok(self.lane(lane)),
        }
    }

    /// Cells that some slot holds.
    pub fn used(&self) -> usize {
        self.cells.iter().flatten().filter(|cell| !cell.slots.is_empty()).count()
    }

    pub fn spent(&self) -> usize {
        self.cells.iter().flatten().count() - self.used()
    }

    /// Takes `count` free cells as llama.cpp's `find_slot` does.
    fn take(&mut self, count: usize) -> Result<Vec<usize>, TestCaseError> {
        let size = self.cells.len();
        let taken = self.cells.iter().flatten().count();
        if self.head > taken + 2 * count {
            self.head = 0;
        }
        let around = (0..size).map(|step| (self.head + step) % size);
        let free: Vec<usize> = around.filter(|&index| self.cells[index].is_none()).take(count).collect();
        prop_assert_eq!(free.len(), count, "no free cells");
        if let Some(last) = free.last() {
            self.head = last + 1;
        }
        Ok(free)
    }

    /// The cells of a slot lie in the order of its positions.
    fn check_order(&self, slot: Slot) -> Result<(), TestCaseError> {
        let seen = self.cells.iter().flatten().filter(|cell| cell.slots.contains(&slot));
        let positions: Vec<u32> = seen.map(|cell| cell.position).collect();
        prop_assert!(positions.is_sorted(), "the cells of slot {} are out of order: {:?}", slot, positions);
        Ok(())
    }

    /// Returns `true` if the cells in use are those of one slot, each token in the cell of its position.
    pub fn is_in_place(&self, slot: Slot) -> bool {
        let mut cells = self.cells.iter().flatten().zip(0..);
        let taken = self.cells.iter().flatten().count();
        cells.all(|(cell, index)| cell.position == index && cell.slots == [slot])
            && self.cells.iter().take(taken).all(Option::is_some)
    }

    pub fn archived(&self) -> usize {
        self.shelves.values().map(Vec::len).sum()
    }

    /// The tokens of a copy.
    pub fn shelf(&self, shelf: Shelf) -> Vec<Token> {
        self.shelves.get(&shelf).cloned().unwrap_or_default()
    }

    /// Puts a copy from elsewhere on an empty shelf.
    pub fn adopt(&mut self, shelf: Shelf, tokens: &[Token]) -> Result<(), TestCaseError> {
        prop_assert!(self.shelves.insert(shelf, tokens.to_vec()).is_none(), "a copy over another");
        prop_assert!(self.archived() <= self.archive_tokens as usize, "too much on the shelves");
        Ok(())
    }

    /// The tokens of a slot in the order of their positions, which must be 0, 1, 2, …
    pub fn content(&self, slot: Slot) -> Result<Vec<Token>, TestCaseError> {
        let seen = self.cells.iter().flatten().filter(|cell| cell.slots.contains(&slot));
        let mut tokens = BTreeMap::new();
        for cell in seen {
            prop_assert!(tokens.insert(cell.position, cell.token).is_none(), "two tokens at one position");
        }
        prop_assert!(tokens.keys().copied().eq(0..tokens.len() as u32), "a gap in slot {}", slot);
        Ok(tokens.into_values().collect())
    }

    pub fn execute(&mut self, op: KvOp) -> Result<(), TestCaseError> {
        match op {
            KvOp::Copy { from, to, len } => {
                let held = self.content(from)?.len() as u32;
                prop_assert!(from != to && len > 0 && len <= held, "{:?} of {}", op, held);
                prop_assert!(self.reuse != PrefixReuse::None);
                prop_assert!(self.reuse == PrefixReuse::Partial || len == held, "a part of a state");
                prop_assert!(self.content(to)?.is_empty(), "a copy over other tokens");
                for cell in self.cells.iter_mut().flatten() {
                    if cell.slots.contains(&from) && cell.position < len {
                        cell.slots.push(to);
                    }
                }
            }
            KvOp::Truncate { slot, len } => {
                prop_assert!(self.reuse == PrefixReuse::Partial || len == 0, "a state was cut");
                prop_assert!((self.content(slot)?.len() as u32) > len, "nothing to cut");
                self.cut(slot, len);
            }
            KvOp::Lift { slot } => {
                let held = self.content(slot)?;
                prop_assert!(self.in_order && !held.is_empty(), "{:?}", op);
                prop_assert!(self.lifted.insert(slot, held).is_none(), "lifted twice");
            }
            KvOp::Lay { slot } => {
                prop_assert!(self.content(slot)?.is_empty(), "a copy over other tokens");
                let held = self.lifted.remove(&slot).unwrap_or_default();
                prop_assert!(!held.is_empty(), "{:?}", op);
                self.put(slot, held)?;
            }
            KvOp::Clear => {
                prop_assert!(self.in_order);
                self.cells.fill(None);
                self.head = 0;
            }
            KvOp::Save { slot, shelf } => {
                let held = self.content(slot)?;
                prop_assert!(self.reuse == PrefixReuse::Partial && !held.is_empty(), "{:?}", op);
                prop_assert!(self.shelves.insert(shelf, held).is_none(), "a copy over another");
                prop_assert!(self.archived() <= self.archive_tokens as usize, "too much on the shelves");
            }
            KvOp::Restore { shelf, to, len, held } => {
                prop_assert!(self.content(to)?.is_empty(), "a copy over other tokens");
                let copy = self.shelves.get(&shelf).cloned().unwrap_or_default();
                prop_assert!(copy.len() as u32 == held && len > 0 && len <= held, "{:?} of {:?}", op, copy);
                self.put(to, copy)?;
                self.cut(to, len);
            }
            KvOp::Enter { slot, lane } => {
                let held = self.content(slot)?;
                self.fill_lane(lane, held)?;
            }
            KvOp::Fetch { lane, to, len, held } => {
                prop_assert!(self.content(to)?.is_empty(), "a copy over other tokens");
                let copy = self.lane(lane);
                prop_assert!(copy.len() as u32 == held && len > 0 && len <= held, "{:?} of {:?}", op, copy);
                self.put(to, copy)?;
                self.cut(to, len);
            }
            KvOp::Stow { lane, shelf } => {
                let held = self.lane(lane);
                prop_assert!(!held.is_empty(), "{:?}", op);
                prop_assert!(self.shelves.insert(shelf, held).is_none(), "a copy over another");
                prop_assert!(self.archived() <= self.archive_tokens as usize, "too much on the shelves");
            }
            KvOp::Vacate { lane } => {
                prop_assert!(self.lanes.remove(&lane).is_some(), "nothing to vacate");
            }
            KvOp::Shift { from, to } => {
                let held = self.lanes.remove(&from).unwrap_or_default();
                prop_assert!(to < from, "{:?}", op);
                self.fill_lane(to, held)?;
            }
            KvOp::Spill { shelf } => {
                prop_assert!(self.shelves.contains_key(&shelf), "nothing to spill");
            }
            KvOp::Discard { shelf } => {
                prop_assert!(self.shelves.remove(&shelf).is_some(), "nothing to discard");
            }
        }
        Ok(())
    }

    fn put(&mut self, slot: Slot, tokens: Vec<Token>) -> Result<(), TestCaseError> {
        for ((index, position), token) in self.take(tokens.len())?.into_iter().zip(0..).zip(tokens) {
            self.cells[index] = Some(Cell { position, token, slots: vec![slot] });
        }
        Ok(())
    }

    fn cut(&mut self, slot: Slot, len: u32) {
        for index in (0..self.cells.len()).rev() {
            if let Some(cell) = &mut self.cells[index] {
                if cell.position >= len {
                    cell.slots.retain(|&other| other != slot);
                }
                if cell.slots.is_empty() && !self.in_order {
                    self.cells[index] = None;
                    self.head = self.head.min(index);
                }
            }
        }
    }

    /// Puts the batch in cells and returns, for each token with logits, all tokens these depend on.
    pub fn decode(&mut self, batch: &[BatchToken]) -> Result<Vec<(SequenceId, Vec<Token>)>, TestCaseError> {
        let mut sampled = Vec::new();
        let in_slots = batch.iter().filter(|entry| entry.seat.slot().is_some()).count();
        let mut cells = self.take(in_slots)?.into_iter();
        for entry in batch {
            prop_assert_eq!(self.seat(entry.seat)?.len() as u32, entry.position, "a token out of place");
            match entry.seat {
                Seat::Slot(slot) => {
                    let cell = Cell { position: entry.position, token: entry.token, slots: vec![slot] };
                    let index = cells.next().unwrap();
                    self.cells[index] = Some(cell);
                    if self.in_order {
                        self.check_order(slot)?;
                    }
                }
                Seat::Lane(lane) => {
                    let cells = self.lane_sizes.1;
                    let held = self.lanes.get_mut(&lane).unwrap();
                    held.push(entry.token);
                    prop_assert!(held.len() <= cells as usize, "lane {:?} is too full", lane);
                }
            }
            if let Some(id) = entry.sample_for {
                sampled.push((id, self.seat(entry.seat)?));
            }
        }
        Ok(sampled)
    }
}

/// The toy model's next token, which depends on all tokens before; None is the end.
pub fn next_token(tokens: &[Token]) -> Option<Token> {
    // FNV-1a
    let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &token| {
        (hash ^ (token as u64 + 1)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = hash ^ (hash >> 29);
    (!hash.is_multiple_of(23)).then_some((hash >> 7 & 1) as Token)
}

/// Returns the expected result of a request: one at a time, without any cache.
pub fn reference(tokens: &[Token], generated: u32, max_tokens: u32, context: u32) -> Vec<Token> {
    let mut tokens = tokens.to_vec();
    let mut generated = generated;
    // As many as there are positions, and one more that is only sampled.
    while generated < max_tokens && tokens.len() <= context as usize {
        let Some(token) = next_token(&tokens) else { break };
        tokens.push(token);
        generated += 1;
    }
    tokens
}
