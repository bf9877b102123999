//! The memory of a context: what of a sequence can be cut, copied, saved and restored.
//!
//! llama.cpp drops what a sliding window hides at a sequence's end, in two places: a new token may take a cell that is
//! held by one sequence alone and hidden at that sequence's end (`llama_kv_cache::find_slot`), and saving a sequence leaves
//! such cells out (`llama_kv_cache::state_write`). Both are right for the sequence as it is, and wrong for one that is cut
//! there later. So where a model has windows, every slot is two sequences of llama.cpp that hold the same cells, which
//! keeps them; and a slot is saved in pieces no longer than the window, each of which is a sequence of its own for that
//! moment, which leaves nothing out.

use jan_protocol::types::Token;

use super::{BatchEntry, Context, ContextSizes, LlamaError, Model, sys};

/// Maximum number of sequence ids (`LLAMA_MAX_SEQ`).
const MAX_SEQUENCES: u16 = 256;

/// The kind of a model's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Keys and values of all positions: any prefix of a sequence can be taken over.
    Full,
    /// The same, with layers that look back `window` positions alone.
    Windowed {
        /// Positions.
        window: u32,
    },
    /// A state of fixed size, in some layers or all, which is that of the last position: recurrent and hybrid models. A
    /// sequence can be taken over as a whole.
    Fixed,
    /// Another one that cannot be cut, of which nothing else is known: no sequence is taken over.
    Opaque,
}

impl Memory {
    /// Returns whether sequences can be cut at any position.
    pub const fn can_be_cut(self) -> bool {
        matches!(self, Self::Full | Self::Windowed { .. })
    }

    /// Maximum number of slots of a context.
    pub const fn max_slots(self, reproducible: bool) -> u16 {
        let ids = SequenceIds { slots: 0, memory: self, reproducible };
        (MAX_SEQUENCES - ids.count()) / ids.per_slot()
    }
}

/// The sequence ids of a context's slots.
#[derive(Clone, Copy, Debug)]
pub struct SequenceIds {
    pub slots: u16,
    pub memory: Memory,
    pub reproducible: bool,
}

impl SequenceIds {
    const fn per_slot(self) -> u16 {
        if matches!(self.memory, Memory::Windowed { .. }) { 2 } else { 1 }
    }

    /// The number of all of them.
    pub const fn count(self) -> u16 {
        let scratch = self.per_slot() - 1;
        let spent = if self.reproducible { self.per_slot() } else { 0 };
        self.slots * self.per_slot() + scratch + spent
    }

    /// The ids of a slot.
    pub fn of(self, slot: u16) -> impl Iterator<Item = sys::llama_seq_id> {
        assert!(slot < self.slots, "slot {slot} is beyond the context's {}", self.slots);
        (0..self.per_slot()).map(move |number| (slot + number * self.slots).into())
    }

    /// The ids for cells that no slot holds; of a reproducible context.
    fn spent(self) -> impl Iterator<Item = sys::llama_seq_id> {
        (0..self.per_slot()).map(move |number| (self.count() - 1 - number).into())
    }

    /// The id that is always empty between two operations; of a memory with windows.
    fn scratch(self) -> sys::llama_seq_id {
        (self.slots * self.per_slot()).into()
    }
}

/// A copy of a slot's tokens and their keys and values.
#[derive(Debug)]
pub struct SavedState {
    /// In the order of their positions.
    pub(super) pieces: Vec<Piece>,
}

impl SavedState {
    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes.capacity() as u64).sum()
    }

    /// One of so many zero bytes.
    #[cfg(test)]
    pub(crate) fn of_len(len: usize) -> Self {
        Self { pieces: vec![Piece { start: 0, bytes: vec![0; len] }] }
    }
}

#[derive(Debug)]
pub(super) struct Piece {
    /// The position of its first token.
    pub start: u32,
    pub bytes: Vec<u8>,
}

impl SavedState {
    /// Its parts, each with the position of its first token.
    pub fn into_pieces(self) -> Vec<(u32, Vec<u8>)> {
        self.pieces.into_iter().map(|piece| (piece.start, piece.bytes)).collect()
    }

    /// The state of such parts. They have to be what [`into_pieces`](Self::into_pieces) gave of a context with the same model,
    /// memory and settings: llama.cpp does not check all that it is given.
    pub fn of_pieces(pieces: Vec<(u32, Vec<u8>)>) -> Self {
        Self { pieces: pieces.into_iter().map(|(start, bytes)| Piece { start, bytes }).collect() }
    }
}

impl Model {
    /// Returns whether its memory is a state of fixed size, in some layers or all.
    pub fn has_fixed_memory(&self) -> bool {
        self.inner.is_recurrent() || self.inner.is_hybrid()
    }

    /// The kind of its memory, as a small context with a few tokens shows it.
    ///
    /// # Errors
    /// The context cannot be created, or cannot decode.
    pub fn find_memory(&self) -> Result<Memory, LlamaError> {
        if self.has_fixed_memory() {
            return Ok(Memory::Fixed);
        }
        let sizes = ContextSizes {
            cells: 256,
            slots: 1,
            batch: 16,
            outputs: 16,
            threads: 1,
            embeddings: false,
            reproducible: false,
            streams: false,
        };
        let mut context = Context::new(self, Memory::Full, sizes)?;
        if context.can_generate() {
            let entry = |position| BatchEntry { token: 0, position, slot: 0, logits: position == 1 };
            context.decode(&[entry(0), entry(1)], 1)?;
            if !context.try_truncate(0, 1) {
                return Ok(Memory::Opaque);
            }
        }
        // SAFETY: the model is alive.
        let window = unsafe { sys::llama_model_n_swa(self.as_ptr()) };
        Ok(match u32::try_from(window) {
            Ok(window) if window > 0 => Memory::Windowed { window },
            _ => Memory::Full,
        })
    }
}

impl Model {
    /// Returns whether a token's logits are the same to the last bit alone and beside others, in a reproducible context. Some
    /// kernels for weights of 16 and 32 bits distinguish one token from several.
    ///
    /// # Errors
    /// The context cannot be created, or cannot decode.
    pub fn computes_alike(&self) -> Result<bool, LlamaError> {
        /// More than any kernel takes at once.
        const MANY: u32 = 17;
        let sizes = ContextSizes {
            cells: 256,
            slots: 1,
            batch: MANY,
            outputs: MANY,
            threads: 1,
            embeddings: false,
            reproducible: true,
            streams: false,
        };
        let mut context = Context::new(self, self.find_memory()?, sizes)?;
        let mut first_of = |count: u32| -> Result<Vec<u32>, LlamaError> {
            let token = |position| Token::try_from(position % self.vocabulary().max(1)).unwrap_or(0);
            let entry = |position| BatchEntry { token: token(position), position, slot: 0, logits: true };
            let entries: Vec<BatchEntry> = (0..count).map(entry).collect();
            context.clear();
            context.decode(&entries, 1)?;
            Ok(context.logits(0).iter().map(|logit| logit.to_bits()).collect())
        };
        let alone = first_of(1)?;
        Ok(alone == first_of(2)? && alone == first_of(MANY)?)
    }
}

impl Context<'_> {
    pub(super) fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Lets `to` share the cells of `from` for positions below `len`. No cell is used up.
    pub fn copy(&mut self, from: u16, to: u16, len: u32) {
        // A memory that cannot be cut has whole sequences copied: `len` is then all there is.
        let end = if self.ids.memory.can_be_cut() { position(len) } else { -1 };
        let from = self.ids.of(from).next().unwrap_or_default();
        self.ids.of(to).for_each(|to| self.share(from, to, 0, end));
    }

    /// Keeps only positions below `len` of a slot. In a reproducible context its other cells stay taken.
    pub fn truncate(&mut self, slot: u16, len: u32) {
        let cut = self.try_truncate(slot, len);
        assert!(cut, "the scheduler cut a memory that cannot be cut at {len}");
    }

    fn try_truncate(&mut self, slot: u16, len: u32) -> bool {
        if self.sizes.reproducible {
            for (own, spent) in self.ids.of(slot).zip(self.ids.spent()) {
                self.share(own, spent, position(len), -1);
            }
        }
        let mut cut = true;
        for id in self.ids.of(slot) {
            // All of them, also after one that could not be cut.
            cut &= self.remove(id, position(len));
        }
        cut
    }

    /// Empties all slots, and frees all cells.
    pub fn clear(&mut self) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(self.memory(), false) }
    }

    /// A copy of a slot, for [`restore`](Self::restore).
    ///
    /// # Errors
    /// [`LlamaError::State`]: the context is not to be used any more.
    pub fn save(&mut self, slot: u16) -> Result<SavedState, LlamaError> {
        let own = self.ids.of(slot).next().unwrap_or_default();
        let Memory::Windowed { window } = self.ids.memory else {
            return Ok(SavedState { pieces: vec![Piece { start: 0, bytes: self.save_sequence(own)? }] });
        };
        // SAFETY: the context is alive and the id is below `n_seq_max`.
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), own) };
        let len = u32::try_from(last + 1).unwrap_or(0);
        let scratch = self.ids.scratch();
        let mut pieces = Vec::new();
        for start in (0..len).step_by(window as usize) {
            self.share(own, scratch, position(start), position(start.saturating_add(window)));
            pieces.push(Piece { start, bytes: self.save_sequence(scratch)? });
            self.remove(scratch, 0);
        }
        Ok(SavedState { pieces })
    }

    /// Puts the first `len` tokens of what [`save`](Self::save) gave into the empty `slot`. It needs as many free cells as
    /// all of it has tokens; in a reproducible context they stay taken.
    ///
    /// # Errors
    /// [`LlamaError::State`]: the context is not to be used any more.
    pub fn restore(&mut self, slot: u16, state: &SavedState, len: u32) -> Result<(), LlamaError> {
        let is_windowed = matches!(self.ids.memory, Memory::Windowed { .. });
        for piece in &state.pieces {
            if is_windowed {
                if piece.start >= len && !self.sizes.reproducible {
                    break;
                }
                let scratch = self.ids.scratch();
                self.restore_sequence(scratch, &piece.bytes)?;
                self.ids.of(slot).for_each(|id| self.share(scratch, id, 0, -1));
                self.remove(scratch, 0);
            } else {
                let own = self.ids.of(slot).next().unwrap_or_default();
                self.restore_sequence(own, &piece.bytes)?;
            }
        }
        let own = self.ids.of(slot).next().unwrap_or_default();
        // SAFETY: the context is alive and the id is below `n_seq_max`.
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), own) };
        let held = u32::try_from(last.saturating_add(1)).unwrap_or(0);
        if held < len && len != u32::MAX {
            return Err(LlamaError::state("find all tokens in"));
        }
        self.truncate(slot, len);
        Ok(())
    }

    /// Lets `to` hold the cells of `from` from position `start` up to `end`, which is excluded; -1: all behind it.
    fn share(&self, from: sys::llama_seq_id, to: sys::llama_seq_id, start: i32, end: i32) {
        // SAFETY: the context is alive and both are below `n_seq_max`.
        unsafe { sys::llama_memory_seq_cp(self.memory(), from, to, start, end) }
    }

    /// Removes the positions from `start` on. False where the memory cannot be cut there.
    fn remove(&self, id: sys::llama_seq_id, start: i32) -> bool {
        // SAFETY: the context is alive and the id is below `n_seq_max`.
        unsafe { sys::llama_memory_seq_rm(self.memory(), id, start, -1) }
    }

    pub(super) fn save_sequence(&self, id: sys::llama_seq_id) -> Result<Vec<u8>, LlamaError> {
        let mut state = Vec::new();
        self.save_sequence_within(id, &mut state, 0, 0)?;
        Ok(state)
    }

    /// Puts the saved state into `state`, with room for so many bytes before and behind it, whose contents are left open.
    pub(super) fn save_sequence_within(
        &self,
        id: sys::llama_seq_id,
        state: &mut Vec<u8>,
        before: usize,
        behind: usize,
    ) -> Result<(), LlamaError> {
        // SAFETY: the context is alive and the id is below `n_seq_max`.
        let size = unsafe { sys::llama_state_seq_get_size(self.raw.as_ptr(), id) };
        state.resize(before + size + behind, 0);
        let to = state[before..before + size].as_mut_ptr();
        // SAFETY: as above, and there are `size` bytes.
        let written = unsafe { sys::llama_state_seq_get_data(self.raw.as_ptr(), to, size, id) };
        if size > 0 && written == size { Ok(()) } else { Err(LlamaError::state("copy")) }
    }

    pub(super) fn restore_sequence(&self, id: sys::llama_seq_id, state: &[u8]) -> Result<(), LlamaError> {
        // SAFETY: the context is alive, the id is below `n_seq_max`, and the state came from a context of this model.
        let read =
            unsafe { sys::llama_state_seq_set_data(self.raw.as_ptr(), state.as_ptr(), state.len(), id) };
        if read == state.len() { Ok(()) } else { Err(LlamaError::state("put back")) }
    }
}

fn position(len: u32) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sequence_ids_are_distinct_and_in_range(slots in 1u16..300, windowed: bool, reproducible: bool) {
            let memory = if windowed { Memory::Windowed { window: 512 } } else { Memory::Full };
            let slots = slots.min(memory.max_slots(reproducible));
            let ids = SequenceIds { slots, memory, reproducible };
            prop_assert!(ids.count() <= MAX_SEQUENCES);
            let mut all: Vec<i32> = (0..slots).flat_map(|slot| ids.of(slot)).collect();
            if windowed {
                all.push(ids.scratch());
            }
            if reproducible {
                all.extend(ids.spent());
            }
            let distinct: BTreeSet<i32> = all.iter().copied().collect();
            prop_assert_eq!(distinct.len(), all.len());
            prop_assert_eq!(distinct, (0..i32::from(ids.count())).collect::<BTreeSet<_>>());
        }
    }
}
