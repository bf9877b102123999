//! The batches that a step is computed in.
//!
//! llama.cpp's attention on a CPU takes a batch of 64 rows or more in tiles of 64 rows by 64 cells
//! (`ggml_compute_forward_flash_attn_ext_tiled`). A tile in which one row needs a cell is computed for all of its rows, so a few
//! rows that decode make tiles of prompt rows as dear as if these looked at the cells of those sequences, too. Another batch costs
//! one more reading of all weights, which is less as soon as the sequences that decode have some hundred tokens.

use std::collections::HashMap;

use crate::scheduler::{BatchToken, Seat};

/// Rows of a batch from which on attention is computed in tiles.
const TILED: usize = 64;

/// Cells' worth of weights that are read in the time in which one cell is computed in a tile. Measured on two cores: a tile of 64
/// cells takes about 50 us for each head and layer.
const TILE_COST: u64 = 40;

/// The facts that the batches depend on.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The number of cells as large as the weights.
    pub weights: u32,
    /// `true` if large batches are computed in tiles.
    pub is_tiled: bool,
}

/// Orders the tokens of a step by batches, and returns these: the lanes in their order, as llama.cpp wants it, and the unified
/// cache, in one or, where that is faster, with the prompts behind the sequences that decode.
pub fn divide(batch: &mut [BatchToken], attention: Attention) -> Vec<&[BatchToken]> {
    // A sequence that decodes wants logits of its first row, and of drafts behind it.
    let mut decodes: HashMap<Seat, bool> = HashMap::new();
    for entry in batch.iter() {
        decodes.entry(entry.seat).or_insert(entry.sample_for.is_some());
    }
    let is_chunk = |entry: &BatchToken| decodes.get(&entry.seat).is_some_and(|decodes| !decodes);
    batch.sort_by_key(|entry| match entry.seat {
        Seat::Lane(lane) => (0, lane.0),
        Seat::Slot(_) => (1, u16::from(is_chunk(entry))),
    });
    let in_lanes = batch.partition_point(|entry| entry.seat.slot().is_none());
    let (lanes, slots) = batch.split_at(in_lanes);
    let decoding = slots.partition_point(|entry| !is_chunk(entry));
    let cells: u64 = slots[..decoding].iter().map(|entry| u64::from(entry.position)).sum();
    let pays = attention.is_tiled && slots.len() >= TILED && cells * TILE_COST > u64::from(attention.weights);
    let (decoding, chunks) = if pays { slots.split_at(decoding) } else { (slots, &slots[slots.len()..]) };
    [lanes, decoding, chunks].into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::{Lane, SequenceId, Slot};

    fn entry(seat: Seat, position: u32) -> BatchToken {
        BatchToken { token: 0, position, seat, sample_for: None, score_for: None }
    }

    /// A prompt of some rows, or a sequence that decodes.
    fn rows(seat: Seat, position: u32, count: u32) -> Vec<BatchToken> {
        let mut rows: Vec<_> = (position..position + count).map(|position| entry(seat, position)).collect();
        if let Some(last) = rows.last_mut() {
            last.sample_for = Some(SequenceId(1));
        }
        rows
    }

    const TILES: Attention = Attention { weights: 4000, is_tiled: true };

    #[test]
    fn long_prompts_are_read_apart_from_decoding() {
        let mut batch = [rows(Seat::Slot(Slot(1)), 0, 100), rows(Seat::Slot(Slot(0)), 500, 1)].concat();
        assert_eq!(divide(&mut batch, TILES).iter().map(|part| part.len()).collect::<Vec<_>>(), [1, 100]);
        let vectors = Attention { is_tiled: false, ..TILES };
        assert_eq!(divide(&mut batch, vectors).len(), 1);
        // Short ones are not, and none beside sequences with few tokens.
        let mut batch = [rows(Seat::Slot(Slot(1)), 0, 62), rows(Seat::Slot(Slot(0)), 500, 1)].concat();
        assert_eq!(divide(&mut batch, TILES).len(), 1);
        let mut batch = [rows(Seat::Slot(Slot(1)), 0, 100), rows(Seat::Slot(Slot(0)), 50, 1)].concat();
        assert_eq!(divide(&mut batch, TILES).len(), 1);
    }

    fn seats() -> impl Strategy<Value = Vec<(bool, u16, u32, u32)>> {
        prop::collection::vec(
            (any::<bool>(), 0u16..12, 0u32..2000, prop_oneof![Just(1u32), 2u32..100]),
            1..12,
        )
    }

    proptest! {
        /// Nothing is lost, each part is of one context, lanes are in order, and the tokens of a sequence stay in order and together.
        #[test]
        fn parts_are_valid_batches(seats in seats(), is_tiled: bool, weights in 0u32..100_000) {
            let mut all: HashMap<Seat, Vec<BatchToken>> = HashMap::new();
            for (lane, number, position, count) in seats {
                let seat = if lane { Seat::Lane(Lane(number)) } else { Seat::Slot(Slot(number)) };
                all.insert(seat, rows(seat, position, count));
            }
            let mut batch: Vec<BatchToken> = all.values().flatten().copied().collect();
            let mut found: HashMap<Seat, Vec<BatchToken>> = HashMap::new();
            let parts = divide(&mut batch, Attention { weights, is_tiled });
            prop_assert!(parts.len() <= 3);
            for part in parts {
                let in_lanes = part[0].seat.slot().is_none();
                let seats: Vec<Seat> = part.iter().map(|entry| entry.seat).collect();
                prop_assert!(seats.iter().all(|seat| seat.slot().is_none() == in_lanes));
                prop_assert!(!in_lanes || seats.is_sorted());
                let mut here: HashMap<Seat, Vec<BatchToken>> = HashMap::new();
                part.iter().for_each(|entry| here.entry(entry.seat).or_default().push(*entry));
                for (seat, rows) in here {
                    prop_assert!(found.insert(seat, rows).is_none(), "{:?} is in two parts", seat);
                }
            }
            prop_assert_eq!(found, all);
        }
    }
}
