//! Copies between a context with a unified KV cache and one with a stream of cells for each sequence.
//!
//! llama.cpp's saved state of a sequence begins with a mark and the number of the sequence, 4 bytes each, which is ignored
//! (`llama_context::state_seq_get_data`). Behind them stand the number of streams, as a `u32`, and the cells of each
//! (`llama_kv_cache::state_write`): their number, also a `u32`, which is 0 for the streams of other sequences, and behind it, unless
//! it is 0, their content. So the states of both kinds of context differ only in numbers before and behind one and the same content. That
//! holds for a memory of one cache ([`Memory::Full`]); [`Context::check_streams`] sees whether it still does.

use super::memory::{Memory, Piece, SavedState};
use super::{BatchEntry, Context, ContextSizes, LlamaError, Model};

/// Bytes of a number.
const NUMBER: usize = size_of::<u32>();

/// Bytes of the mark and the number of the sequence.
const HEADER: usize = 2 * NUMBER;

/// Turns a state of a unified cache, behind space for the numbers of `stream` streams and before that for the others', into one of
/// that stream.
fn spread(state: &mut [u8], stream: u16, streams: u16) {
    let own = usize::from(stream) * NUMBER;
    state.copy_within(own..own + HEADER, 0);
    state[HEADER..own + HEADER + NUMBER].fill(0);
    state[HEADER..HEADER + NUMBER].copy_from_slice(&u32::from(streams).to_ne_bytes());
}

/// Turns a state of one stream into one of a unified cache: the part of it that [`unified_part`] gives.
fn gather(state: &mut [u8], stream: u16) {
    let own = usize::from(stream) * NUMBER;
    state.copy_within(..HEADER, own);
    state[own + HEADER..own + HEADER + NUMBER].copy_from_slice(&1_u32.to_ne_bytes());
}

/// The part of a gathered state that is one of a unified cache.
fn unified_part(len: usize, stream: u16, streams: u16) -> std::ops::Range<usize> {
    let behind = usize::from(streams - 1 - stream) * NUMBER;
    usize::from(stream) * NUMBER..len - behind
}

/// Turns a state of one stream into one of another.
fn transfer(state: &mut [u8], from: u16, to: u16, streams: u16) {
    let (own, new) = (usize::from(from) * NUMBER, usize::from(to) * NUMBER);
    // The numbers of the streams between the two are all 0, and go to the other side of the content.
    let range = own.min(new)..state.len() - usize::from(streams - 1 - from.max(to)) * NUMBER;
    gather(state, from);
    if new < own {
        state[new..own].fill(0);
        state[range].rotate_left(own - new);
    } else {
        state[range].rotate_right(new - own);
    }
    spread(state, to, streams);
}

impl<'model> Context<'model> {
    /// Creates a context of `count` streams of `cells` cells each, for batches of up to `batch` tokens, and checks that sequences
    /// can be moved to it and back.
    ///
    /// # Errors
    /// There is no memory for it, or llama.cpp's format of states is another than the one described above.
    pub fn with_streams(
        model: &'model Model,
        count: u16,
        cells: u32,
        batch: u32,
        threads: usize,
    ) -> Result<Self, LlamaError> {
        let sizes = ContextSizes {
            cells,
            slots: count,
            batch,
            outputs: batch,
            threads,
            embeddings: false,
            reproducible: false,
            streams: true,
        };
        let mut streams = Self::new(model, Memory::Full, sizes)?;
        let sizes = ContextSizes { cells: 256, slots: 1, batch: 16, outputs: 16, streams: false, ..sizes };
        let mut unified = Self::new(model, Memory::Full, sizes)?;
        streams.check_streams(&mut unified)?;
        Ok(streams)
    }

    /// Moves a short sequence to the last stream and back, which must not change its state.
    fn check_streams(&mut self, unified: &mut Self) -> Result<(), LlamaError> {
        let entry = |position| BatchEntry { token: 0, position, slot: 0, logits: position == 2 };
        unified.decode(&[entry(0), entry(1), entry(2)], 1)?;
        let before = unified.save_sequence(0)?;
        let last = self.sizes.slots - 1;
        unified.copy_to_stream(0, self, last)?;
        let copied = self.save_stream(last)?;
        self.truncate(last, 0);
        unified.truncate(0, 0);
        // The copy has another number of the sequence in each cell, which is ignored.
        unified.restore(0, &copied, u32::MAX)?;
        if unified.save_sequence(0)? == before { Ok(()) } else { Err(LlamaError::state("move")) }
    }

    /// Lets the empty `stream` of `to` hold all tokens of a slot of this unified context.
    ///
    /// # Errors
    /// [`LlamaError::State`]: the contexts are not to be used any more.
    pub fn copy_to_stream(&self, slot: u16, to: &mut Self, stream: u16) -> Result<(), LlamaError> {
        let streams = to.sizes.slots;
        let (before, behind) = (usize::from(stream) * NUMBER, usize::from(streams - 1 - stream) * NUMBER);
        // Several sequences often move in one step: fresh pages for each would take as long as the copy.
        let mut state = std::mem::take(&mut to.moved);
        self.save_sequence_within(slot.into(), &mut state, before, behind)?;
        spread(&mut state, stream, streams);
        let end = state.len() - behind;
        state[end..].fill(0);
        to.restore_sequence(stream.into(), &state)?;
        to.moved = state;
        Ok(())
    }

    /// A copy of a stream, for [`restore`](Self::restore) in a unified context.
    ///
    /// # Errors
    /// [`LlamaError::State`]: the context is not to be used any more.
    pub fn save_stream(&self, stream: u16) -> Result<SavedState, LlamaError> {
        let mut state = self.save_sequence(stream.into())?;
        gather(&mut state, stream);
        let part = unified_part(state.len(), stream, self.sizes.slots);
        state.truncate(part.end);
        state.drain(..part.start);
        Ok(SavedState { pieces: vec![Piece { start: 0, bytes: state }] })
    }

    /// Moves all tokens of a stream to another one, which is empty.
    ///
    /// # Errors
    /// [`LlamaError::State`]: the context is not to be used any more.
    pub fn shift_stream(&mut self, from: u16, to: u16) -> Result<(), LlamaError> {
        let streams = self.sizes.slots;
        let mut state = self.save_sequence(from.into())?;
        transfer(&mut state, from, to, streams);
        self.restore_sequence(to.into(), &state)?;
        self.truncate(from, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARK: [u8; HEADER] = [9, 8, 7, 6, 5, 0, 0, 0];

    /// The state of a stream as llama.cpp writes it.
    fn state(content: &[u8], stream: u16, streams: u16) -> Vec<u8> {
        let zeros = |count: u16| vec![0; usize::from(count) * NUMBER];
        let count = u32::from(streams).to_ne_bytes();
        [&MARK, &count[..], &zeros(stream), content, &zeros(streams - 1 - stream)].concat()
    }

    proptest! {
        /// From the unified form to that of a stream and back.
        #[test]
        fn all_forms_hold_the_same(content in prop::collection::vec(any::<u8>(), 1..50), streams in 1u16..20, stream in 0u16..20, to in 0u16..20) {
            let stream = stream % streams;
            let unified = state(&content, 0, 1);
            let (before, behind) = (usize::from(stream) * NUMBER, usize::from(streams - 1 - stream) * NUMBER);
            let mut bytes = [vec![0; before], unified.clone(), vec![0; behind]].concat();
            spread(&mut bytes, stream, streams);
            prop_assert_eq!(&bytes, &state(&content, stream, streams));
            let mut other = bytes.clone();
            transfer(&mut other, stream, to % streams, streams);
            prop_assert_eq!(&other, &state(&content, to % streams, streams));
            gather(&mut bytes, stream);
            prop_assert_eq!(&bytes[unified_part(bytes.len(), stream, streams)], &unified[..]);
        }
    }
}
