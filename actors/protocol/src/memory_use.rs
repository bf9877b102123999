//! What the memory of a worker is used for.

/// The memory of one kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes that it takes now.
    pub bytes: u64,
    /// Maximum number of bytes, where the worker can tell it in advance.
    pub limit: Option<u64>,
}

impl Amount {
    /// An amount without a known limit.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self { bytes, limit: None }
    }

    /// An amount that does not grow.
    #[must_use]
    pub const fn fixed(bytes: u64) -> Self {
        Self { bytes, limit: Some(bytes) }
    }

    /// An amount below a limit.
    #[must_use]
    pub const fn within(bytes: u64, limit: u64) -> Self {
        Self { bytes, limit: Some(limit) }
    }
}

/// The memory of a worker process, by kind. The kinds are disjoint, and count what is allocated: pages of it that were never
/// written to are not resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Weights of the model.
    pub weights: Amount,
    /// The draft model: its weights and its context.
    pub draft_model: Amount,
    /// KV cells of the unified cache, or the states of a recurrent model.
    pub kv: Amount,
    /// KV cells of the second context, while it is open.
    pub kv_lanes: Amount,
    /// Copies of finished sequences in host memory.
    pub host_cache: Amount,
    /// Buffers for intermediate results.
    pub compute: Amount,
    /// Logits of a step.
    pub logits: Amount,
    /// The context that makes embeddings, while it is open: cells, intermediate results and vectors.
    pub embeddings: Amount,
    /// Compiled constraints that are kept for later requests, and the vocabulary as constraints need it.
    pub grammars: Amount,
    /// Constraints of running answers, and copies of the logits that they restrict.
    pub constrained_answers: Amount,
    /// Bytes of the kinds above that are not in the machine's memory but in a device's.
    pub device: u64,
    /// The process's resident set.
    pub resident: u64,
    /// The part of it that is pages of files: the mapped model file, the program and its libraries. The kernel takes them back
    /// when memory is short.
    pub resident_files: u64,
    /// The resident set of the helper process that compiles constraints; 0: there is none. It is no part of `resident`.
    pub helper: u64,
}

/// Changes up to this many bytes are not worth a report.
const NEAR: u64 = 64 << 10;

impl MemoryUse {
    /// All kinds.
    #[must_use]
    pub const fn kinds(&self) -> [Amount; 10] {
        let Self { weights, draft_model, kv, kv_lanes, host_cache, compute, logits, .. } = *self;
        let Self { embeddings, grammars, constrained_answers, .. } = *self;
        [
            weights,
            draft_model,
            kv,
            kv_lanes,
            host_cache,
            compute,
            logits,
            embeddings,
            grammars,
            constrained_answers,
        ]
    }

    /// Bytes of the resident set that belong to no kind: the program, its tables, stacks, requests under way, and what the
    /// allocator holds.
    #[must_use]
    pub fn other(&self) -> u64 {
        let sum: u64 = self.kinds().iter().map(|kind| kind.bytes).sum();
        self.resident.saturating_sub(sum.saturating_sub(self.device))
    }

    /// Returns `true` if this says nothing that is worth knowing beyond `other`.
    #[must_use]
    pub fn is_near(&self, other: &Self) -> bool {
        let near = |(a, b): (u64, u64)| a.abs_diff(b) <= NEAR.max(a / 128);
        let bytes = |of: &Self| of.kinds().map(|kind| kind.bytes);
        bytes(self).into_iter().zip(bytes(other)).all(near)
            && near((self.resident, other.resident))
            && near((self.helper, other.helper))
            && self.kinds().map(|kind| kind.limit) == other.kinds().map(|kind| kind.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_kind_explains_is_other() {
        let kinds = MemoryUse { weights: Amount::fixed(50), kv: Amount::of(30), ..MemoryUse::default() };
        assert_eq!(MemoryUse { resident: 100, ..kinds }.other(), 20);
        // Pages that were never touched are allocated and not resident.
        assert_eq!(MemoryUse { resident: 60, ..kinds }.other(), 0);
        assert_eq!(MemoryUse { resident: 60, device: 50, ..kinds }.other(), 30);
    }

    #[test]
    fn small_changes_are_near() {
        let before = MemoryUse { kv: Amount::of(1 << 30), resident: 2 << 30, ..MemoryUse::default() };
        let grown = |bytes| MemoryUse { host_cache: Amount::of(bytes), ..before };
        assert!(before.is_near(&before) && before.is_near(&grown(NEAR)) && !before.is_near(&grown(NEAR + 1)));
        assert!(before.is_near(&MemoryUse { resident: before.resident + (8 << 20), ..before }));
        assert!(!before.is_near(&MemoryUse { kv: Amount::fixed(1 << 30), ..before }));
    }
}
