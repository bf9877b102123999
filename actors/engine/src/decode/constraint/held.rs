//! The memory of constraints.
//!
//! llguidance does not tell it. What compiling a constraint took is measured by the helper ([`crate::vetting`]), and counts for the
//! compiled one and for each copy of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jan_protocol::memory_use::Amount;

use llguidance::toktrie::TokTrie;

use super::{Grammars, MAX_KEPT_KIB};

/// Prefix trees of the vocabulary, or of large parts of it, that llguidance makes: the vocabulary's own and those of its slices
/// (`SlicedBiasComputer::general_slices`).
const TRIES: u64 = 8;

/// An estimate of the memory that the vocabulary takes.
pub(super) fn of_vocabulary(trie: &TokTrie) -> u64 {
    let tokens = u32::try_from(trie.vocab_size()).unwrap_or(u32::MAX);
    let bytes: u64 = (0..tokens).map(|token| trie.token(token).len() as u64).sum();
    // Of each token its place and its rank; of each byte itself and a node of 8 bytes, half of which tokens share.
    TRIES * (u64::from(tokens) * 12 + bytes * 5)
}

/// Memory that is counted in a total for as long as this lives.
#[derive(Debug)]
pub(super) struct Held {
    total: Arc<AtomicU64>,
    kib: u64,
}

impl Held {
    pub(super) fn new(total: &Arc<AtomicU64>, kib: u64) -> Self {
        total.fetch_add(kib, Ordering::Relaxed);
        Self { total: Arc::clone(total), kib }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(&self.total, self.kib)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.kib, Ordering::Relaxed);
    }
}

/// The memory of a model's constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstraintsMemory {
    /// The constraints that are kept, and the vocabulary.
    pub kept: Amount,
    /// Bytes of those of running answers.
    pub in_use: u64,
    /// Bytes of the helper process; `None`: it is working.
    pub helper: Option<u64>,
}

impl Grammars {
    /// The memory of constraints, without waiting for those who compile some. Compiling one takes up to `constraint_kib`.
    pub fn memory(&self, constraint_kib: u64) -> ConstraintsMemory {
        let vocabulary = self.vocabulary_bytes;
        let kept = self.kept_kib.load(Ordering::Relaxed);
        // One that is larger than all together may be is kept alone.
        let limit = MAX_KEPT_KIB.max(constraint_kib);
        let kept = Amount::within((kept << 10) + vocabulary, (limit << 10) + vocabulary);
        let in_use = self.in_use.load(Ordering::Relaxed) << 10;
        let helper = match self.vetter.as_ref().map(|vetter| vetter.try_lock()) {
            None => Some(0),
            Some(vetter) => vetter.ok().map(|vetter| vetter.helper_bytes()),
        };
        ConstraintsMemory { kept, in_use, helper }
    }

    /// Ends the helper that compiles constraints first, unless it is working; the next new constraint starts another one.
    pub fn end_helper(&self) {
        if let Some(Ok(mut vetter)) = self.vetter.as_ref().map(|vetter| vetter.try_lock()) {
            vetter.end_helper();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_counted() {
        let total = Arc::default();
        let first = Held::new(&total, 5);
        let second = first.clone();
        assert_eq!(total.load(Ordering::Relaxed), 10);
        drop(first);
        assert_eq!(total.load(Ordering::Relaxed), 5);
        drop(second);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
