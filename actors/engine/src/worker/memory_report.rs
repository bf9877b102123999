//! Reports of the worker's memory to the server.

use jan_protocol::memory;
use jan_protocol::memory_use::{Amount, MemoryUse};
use jan_protocol::worker_protocol::{ModelSpec, memory_message};

use super::Outgoing;
use crate::llama::{Model, give_back_free_pages};
use crate::prompt::prepare::Preparer;
use crate::types::EngineSettings;
use crate::upkeep::Caretaker;

/// Completes the reports of the engine and sends those that say anything new.
pub struct MemoryReporter<'a> {
    model: &'a Model,
    preparer: &'a Preparer,
    outgoing: &'a Outgoing,
    /// Maximum memory of one constraint.
    constraint_kib: u64,
    max_sequences: u64,
    sent: Option<MemoryUse>,
}

impl<'a> MemoryReporter<'a> {
    /// Nothing is sent yet.
    pub fn new(
        model: &'a Model,
        preparer: &'a Preparer,
        outgoing: &'a Outgoing,
        spec: &ModelSpec,
        settings: &EngineSettings,
    ) -> Self {
        let constraint_kib = u64::from(spec.constraint_memory_mib) << 10;
        let max_sequences = settings.max_sequences.into();
        Self { model, preparer, outgoing, constraint_kib, max_sequences, sent: None }
    }
}

impl Caretaker for MemoryReporter<'_> {
    fn report(&mut self, of_engine: MemoryUse) {
        let constraints = self.preparer.constraints_memory(self.constraint_kib);
        let in_use = constraints.map_or(0, |constraints| constraints.in_use);
        let helper = constraints.map_or(Some(0), |constraints| constraints.helper);
        let (resident, resident_files) = memory::resident().unwrap_or_default();
        let copies = of_engine.constrained_answers;
        let most_in_use = self.max_sequences * (self.constraint_kib << 10);
        let used = MemoryUse {
            weights: Amount::fixed(self.model.size()),
            grammars: constraints.map_or(Amount::of(0), |constraints| constraints.kept),
            constrained_answers: Amount {
                bytes: copies.bytes + in_use,
                limit: copies.limit.map(|limit| limit + most_in_use),
            },
            device: of_engine.device + self.model.device_bytes(),
            resident,
            resident_files,
            helper: helper.or(self.sent.map(|sent| sent.helper)).unwrap_or(0),
            ..of_engine
        };
        // Where the server does not read, the next report does as well.
        if !self.sent.is_some_and(|sent| sent.is_near(&used))
            && self.outgoing.try_send(Ok(memory_message(used))).is_ok()
        {
            self.sent = Some(used);
        }
    }

    fn tidy(&mut self) {
        give_back_free_pages();
    }

    fn rest(&mut self) {
        self.preparer.rest();
    }
}
