//! The memory of an engine: how much there is of each kind, and what an idle engine gives back.

use std::time::{Duration, Instant};

use jan_protocol::memory_use::{Amount, MemoryUse};

use super::Engine;
use crate::decode::draft_model::DraftModel;
use crate::types::EngineSettings;
use crate::upkeep::{Caretaker, GiveBack};

/// Bytes of a token's copy in host memory beside its keys and values: its position, and its share of what describes the copy.
const COPY_OVERHEAD: u64 = 32;

/// The number of tokens whose copies take at most so many bytes.
pub(super) fn tokens_within(bytes: u64, bytes_per_cell: u64) -> u32 {
    u32::try_from(bytes / (bytes_per_cell + COPY_OVERHEAD)).unwrap_or(u32::MAX)
}

/// Bounds that are set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    host_cache: u64,
    max_sequences: u64,
}

impl Limits {
    pub(super) fn of(settings: &EngineSettings) -> Self {
        Self { host_cache: settings.archive_bytes, max_sequences: settings.max_sequences.into() }
    }
}

impl Engine<'_> {
    fn memory_use(&self) -> MemoryUse {
        let unified = self.context.buffers();
        let (lanes, lane_cells) = self.lanes.memory();
        let embeddings = self.embedder.memory();
        let lanes_limit = u64::from(lane_cells) * self.context.bytes_per_cell();
        let copies = self.masks.logits_bytes();
        let row = u64::from(self.model.vocabulary()) * size_of::<f32>() as u64;
        let outputs = unified.outputs + lanes.outputs;
        // In lanes, one row a sequence is wanted.
        let lanes_outputs = if lane_cells > 0 { self.limits.max_sequences * row } else { 0 };
        let (draft_weights, draft) = self.draft_model.as_ref().map(DraftModel::memory).unwrap_or_default();
        MemoryUse {
            draft_model: Amount::fixed(draft_weights + draft.of_context()),
            kv: Amount::fixed(unified.cells),
            kv_lanes: Amount::within(lanes.cells, lanes_limit.max(lanes.cells)),
            host_cache: Amount::within(self.shelves.bytes(), self.limits.host_cache),
            compute: Amount::of(unified.compute + lanes.compute),
            logits: Amount::within(outputs, outputs.max(self.context.max_output_bytes() + lanes_outputs)),
            embeddings: Amount::of(embeddings.of_context()),
            constrained_answers: Amount::within(copies, self.limits.max_sequences * row),
            device: unified.device + lanes.device + embeddings.device + draft.device,
            ..MemoryUse::default()
        }
    }

    /// Reports the memory if it is time to.
    pub(super) fn report_memory(&mut self, caretaker: &mut impl Caretaker) {
        if self.upkeep.reports(Instant::now()) {
            self.embedder.close_if_idle();
            caretaker.report(self.memory_use());
        }
    }

    /// The time after which an idle engine has something to look after.
    pub(super) fn rests_for(&self) -> Duration {
        let upkeep = self.upkeep.next(Instant::now());
        upkeep.into_iter().chain(self.lanes.closes_in()).min().unwrap_or(Duration::MAX)
    }

    /// Gives back what an idle engine does not need. Copies in host memory stay: the next turn of a conversation needs them.
    pub(super) fn give_back(&mut self, caretaker: &mut impl Caretaker) {
        let had_lanes = self.lanes.closes_in().is_some();
        self.lanes.close_if_idle(&mut self.scheduler);
        match self.upkeep.gives_back(Instant::now()) {
            None if had_lanes && self.lanes.closes_in().is_none() => self.upkeep.changed(),
            None => return,
            Some(GiveBack::Tidy) => self.masks.give_back(),
            Some(GiveBack::Rest) => {
                self.embedder.close();
                caretaker.rest();
            }
        }
        caretaker.tidy();
    }
}
