//! The engine's dealings with the prefix cache on disk.

use std::sync::mpsc::Sender;
use std::time::Instant;

use jan_protocol::prefix_files::Channel;
use jan_protocol::report::StepReport;

use super::{Command, Engine};
use crate::disk::{Disk, DiskSettings, Found, Loaded, fingerprint};
use crate::llama::{LlamaError, Memory, SavedState};
use crate::scheduler::{Place, Shelf};
use crate::types::{EngineSettings, Sequence};

/// The size of a file beyond its keys and values at F16, as a factor: the rest is a few bytes a cell and layer.
const SLACK: u64 = 2;

impl Engine<'_> {
    /// Lets the engine use the files that come through `channel`, where the model's memory allows it and there is host memory for
    /// copies. What files hold goes to `to_engine`.
    #[must_use]
    pub fn with_disk(
        mut self,
        channel: Channel,
        settings: &EngineSettings,
        gpu_layers: u32,
        file_name: &str,
        to_engine: Sender<Command>,
    ) -> Self {
        if !self.memory.can_be_cut() || settings.archive_bytes == 0 {
            tracing::debug!("prefixes of this model are not kept on disk");
            return self;
        }
        let bytes = settings.archive_bytes;
        let most = super::memory::tokens_within(bytes, self.context.bytes_per_cell());
        let settings = DiskSettings {
            fingerprint: fingerprint(self.model, self.memory, settings, gpu_layers, file_name),
            copy_min: settings.share_min_tokens,
            tokens: most.min(settings.context_length),
            bytes: bytes.saturating_mul(SLACK).saturating_add(1 << 20),
        };
        match Disk::start(channel, &settings, to_engine) {
            Ok(disk) => self.disk = disk,
            Err(error) => tracing::warn!(%error, "prefixes are not kept on disk"),
        }
        self
    }

    /// Takes a sequence in, at once or when it is known whether a file holds its beginning.
    pub(super) fn submit_or_hold(&mut self, sequence: Sequence, report: &mut impl FnMut(StepReport)) {
        let scheduler = &self.scheduler;
        let computed = |sequence: &Sequence| {
            let tokens = sequence.prompt.iter().chain(&sequence.generated).copied();
            scheduler.computed(sequence.tenant, sequence.common, tokens)
        };
        if let Some(sequence) = self.disk.hold(sequence, computed) {
            self.submit_now(sequence, report);
        }
    }

    fn submit_now(&mut self, sequence: Sequence, report: &mut impl FnMut(StepReport)) {
        let id = sequence.id;
        if let Some(event) = self.submit(sequence) {
            report(StepReport { events: vec![(id, event)], load: self.load() });
        }
    }

    /// Takes in sequences that have waited for a file long enough.
    pub(super) fn submit_overdue(&mut self, report: &mut impl FnMut(StepReport)) {
        for sequence in self.disk.overdue() {
            tracing::warn!(sequence = sequence.id, "a prefix on disk was not there in time");
            self.submit_now(sequence, report);
        }
        if self.disk.patience().is_some() && !self.scheduler.has_work() {
            // The server expects a step soon.
            report(StepReport { events: Vec::new(), load: self.load() });
        }
    }

    /// Puts what a file holds into host memory, and takes in the sequence that waited for it. One that was cancelled or waited for
    /// too long leaves no use for the file.
    pub(super) fn take_found(
        &mut self,
        found: Found,
        report: &mut impl FnMut(StepReport),
    ) -> Result<(), LlamaError> {
        let Some(sequence) = self.disk.release(found.id) else {
            if let Some(Loaded { owner, file, .. }) = found.loaded {
                self.disk.dismiss(owner, file);
            }
            return Ok(());
        };
        if let Some(loaded) = found.loaded {
            self.adopt(&sequence, loaded)?;
        }
        self.submit_now(sequence, report);
        Ok(())
    }

    fn adopt(&mut self, sequence: &Sequence, loaded: Loaded) -> Result<(), LlamaError> {
        let Loaded { owner, file, tokens, common, pieces } = loaded;
        // Of the file's tokens, all tenants may share those that they may share of this prompt, and no more.
        let shared = sequence.common.min(common);
        let (shelf, ops) = self.scheduler.adopt(sequence.tenant, shared, tokens);
        for op in ops {
            self.execute(op)?;
        }
        if let Some(shelf) = shelf {
            self.shelves.insert(shelf, SavedState::of_pieces(pieces));
            self.disk.put(shelf, owner, file);
        } else {
            self.disk.dismiss(owner, file);
        }
        Ok(())
    }

    /// Has a copy written that leaves host memory.
    pub(super) fn spill(&mut self, shelf: Shelf) {
        let spilled = self.scheduler.next_spilled();
        if self.disk.is_on()
            && let Some((tenant, tokens)) = spilled
            && let Some(state) = self.shelves.remove(&shelf)
        {
            self.disk.keep(tenant, tokens, state.into_pieces());
        }
    }

    /// Writes all that is worth it to disk before the end, the most recently used first, and drops it. Returns the number of
    /// prefixes written since the start.
    pub(super) fn keep_on_disk(&mut self, until: Instant) -> Result<u32, LlamaError> {
        if !self.disk.is_on() || matches!(self.memory, Memory::Fixed | Memory::Opaque) {
            return Ok(0);
        }
        for op in self.scheduler.take_ops() {
            self.execute(op)?;
        }
        for (place, tenant, tokens) in self.scheduler.contents() {
            if Instant::now() >= until {
                break;
            }
            let state = match place {
                Place::Slot(slot) => self.context.save(slot.0)?,
                Place::Lane(lane) => self.lanes.context().save_stream(lane.0)?,
                Place::Shelf(shelf) => match self.shelves.remove(&shelf) {
                    Some(state) => state,
                    None => continue,
                },
            };
            if !self.disk.keep_until(tenant, tokens, state.into_pieces(), until) {
                break;
            }
        }
        // Copies were taken away that the scheduler still counts on.
        self.scheduler.drop_cached();
        Ok(self.disk.finish(until))
    }
}
