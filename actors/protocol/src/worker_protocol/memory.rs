//! The report of a worker's memory.

use super::{FromWorker, MemoryAmount, MemoryUse, from_worker};
use crate::memory_use::{Amount, MemoryUse as Use};

impl From<Amount> for MemoryAmount {
    fn from(Amount { bytes, limit }: Amount) -> Self {
        Self { bytes, limit }
    }
}

impl From<Option<MemoryAmount>> for Amount {
    fn from(amount: Option<MemoryAmount>) -> Self {
        let MemoryAmount { bytes, limit } = amount.unwrap_or_default();
        Self { bytes, limit }
    }
}

impl From<Use> for MemoryUse {
    fn from(used: Use) -> Self {
        Self {
            weights: Some(used.weights.into()),
            draft_model: Some(used.draft_model.into()),
            kv: Some(used.kv.into()),
            kv_lanes: Some(used.kv_lanes.into()),
            host_cache: Some(used.host_cache.into()),
            compute: Some(used.compute.into()),
            logits: Some(used.logits.into()),
            embeddings: Some(used.embeddings.into()),
            grammars: Some(used.grammars.into()),
            constrained_answers: Some(used.constrained_answers.into()),
            device: used.device,
            resident: used.resident,
            resident_files: used.resident_files,
            helper: used.helper,
        }
    }
}

impl From<MemoryUse> for Use {
    fn from(used: MemoryUse) -> Self {
        Self {
            weights: used.weights.into(),
            draft_model: used.draft_model.into(),
            kv: used.kv.into(),
            kv_lanes: used.kv_lanes.into(),
            host_cache: used.host_cache.into(),
            compute: used.compute.into(),
            logits: used.logits.into(),
            embeddings: used.embeddings.into(),
            grammars: used.grammars.into(),
            constrained_answers: used.constrained_answers.into(),
            device: used.device,
            resident: used.resident,
            resident_files: used.resident_files,
            helper: used.helper,
        }
    }
}

/// The message for a report of the memory.
pub fn memory_message(used: Use) -> FromWorker {
    from_worker(from_worker::Message::Memory(used.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_arrives() {
        let mut next = 0;
        let mut amount = || {
            next += 2;
            Amount::within(next, next + 1)
        };
        let sent = Use {
            weights: amount(),
            draft_model: amount(),
            kv: amount(),
            kv_lanes: amount(),
            host_cache: amount(),
            compute: amount(),
            logits: amount(),
            embeddings: amount(),
            grammars: amount(),
            constrained_answers: amount(),
            device: 100,
            resident: 200,
            resident_files: 300,
            helper: 400,
        };
        assert_eq!(Use::from(MemoryUse::from(sent)), sent);
    }
}
