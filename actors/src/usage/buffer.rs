//! Usage that is not on disk yet. Pure: no clock, no store.
//!
//! Added counts wait until they are taken as a batch. A failed batch is returned again under its number, so that a store that
//! remembers the last number it applied applies each once: after a failed `fsync` it is unknown whether the batch is on disk.

use std::collections::HashMap;

use uuid::Uuid;

use super::types::{UsageCounts, UsageKey};

/// The id of a batch: numbers count up within one process's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchId {
    /// The id of the buffer.
    pub buffer: Uuid,
    /// The number of the batch, from 1.
    pub number: u64,
}

/// Rows that are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The id.
    pub id: BatchId,
    /// The counts to be added.
    pub rows: Vec<(UsageKey, UsageCounts)>,
}

/// The usage that is not on disk yet; see the module's documentation.
#[derive(Debug)]
pub struct UsageBuffer {
    id: Uuid,
    pending: HashMap<UsageKey, UsageCounts>,
    /// The batch passed to the store and not known to be durable.
    batch: Option<Batch>,
    /// True while the store is writing the batch.
    under_way: bool,
    /// Number of batches created.
    made: u64,
}

impl Default for UsageBuffer {
    fn default() -> Self {
        Self { id: Uuid::new_v4(), pending: HashMap::new(), batch: None, under_way: false, made: 0 }
    }
}

impl UsageBuffer {
    /// Adds counts.
    pub fn add(&mut self, key: &UsageKey, counts: &UsageCounts) {
        match self.pending.get_mut(key) {
            Some(pending) => pending.add(counts),
            None => {
                self.pending.insert(key.clone(), *counts);
            }
        }
    }

    /// Returns the number of the batch after which all usage so far is on disk; 0: it is already.
    pub fn last_needed(&self) -> u64 {
        match (self.pending.is_empty(), &self.batch) {
            (false, _) => self.made + 1,
            (true, Some(batch)) => batch.id.number,
            (true, None) => 0,
        }
    }

    /// Returns the batch to pass to the store now, if there is one; it counts as being written until [`done`](Self::done).
    pub fn take(&mut self) -> Option<Batch> {
        if self.under_way {
            return None;
        }
        if self.batch.is_none() && !self.pending.is_empty() {
            self.made += 1;
            let id = BatchId { buffer: self.id, number: self.made };
            self.batch = Some(Batch { id, rows: self.pending.drain().collect() });
        }
        self.under_way = self.batch.is_some();
        self.batch.clone()
    }

    /// Records the outcome of the batch being written: on disk, or to be returned again.
    pub fn done(&mut self, durable: bool) {
        self.under_way = false;
        if durable {
            self.batch = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::usage::{Day, UsageOwner};

    #[derive(Clone, Debug)]
    enum Step {
        Add(u32, u64),
        /// A batch goes to the store; `applied` and the outcome that becomes known may differ.
        Flush {
            applied: bool,
            known: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3u32, 1..100u64).prop_map(|(day, tokens)| Step::Add(day, tokens)),
            (any::<bool>(), any::<bool>()).prop_map(|(applied, known)| Step::Flush { applied, known }),
        ]
    }

    fn key(day: u32) -> UsageKey {
        UsageKey { user: UsageOwner::Anonymous, day: Day::from_number(day), key: None, model: "m".into() }
    }

    /// A store that remembers the last batch that it applied.
    #[derive(Default)]
    struct Store {
        last: Option<BatchId>,
        tokens: BTreeMap<u32, u64>,
    }

    impl Store {
        fn apply(&mut self, batch: &Batch) {
            if self.last != Some(batch.id) {
                self.last = Some(batch.id);
                for (key, counts) in &batch.rows {
                    *self.tokens.entry(key.day.number()).or_default() += counts.completion_tokens;
                }
            }
        }
    }

    proptest! {
        /// For any failures, whether or not the batch was applied: all usage is counted once in the end.
        #[test]
        fn usage_is_counted_once(steps in prop::collection::vec(step(), 0..60)) {
            let (mut buffer, mut store, mut truth) = (UsageBuffer::default(), Store::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Add(day, completion_tokens) => {
                        buffer.add(&key(day), &UsageCounts { completion_tokens, ..UsageCounts::default() });
                        *truth.entry(day).or_default() += completion_tokens;
                    }
                    Step::Flush { applied, known } => {
                        if let Some(batch) = buffer.take() {
                            prop_assert_eq!(buffer.take(), None, "one at a time");
                            if applied {
                                store.apply(&batch);
                            }
                            buffer.done(applied && known);
                        }
                    }
                }
            }
            while buffer.last_needed() > 0 {
                let batch = buffer.take().expect("something is needed");
                store.apply(&batch);
                buffer.done(true);
            }
            prop_assert_eq!(store.tokens, truth);
        }
    }

    #[test]
    fn waiters_wait_for_the_right_batch() {
        let mut buffer = UsageBuffer::default();
        assert_eq!(buffer.last_needed(), 0);
        buffer.add(&key(1), &UsageCounts::default());
        assert_eq!(buffer.last_needed(), 1);
        assert_eq!(buffer.take().unwrap().id.number, 1);
        assert_eq!(buffer.last_needed(), 1);
        buffer.add(&key(1), &UsageCounts::default());
        assert_eq!(buffer.last_needed(), 2);
        buffer.done(false);
        assert_eq!(buffer.take().unwrap().id.number, 1, "the same again");
        buffer.done(true);
        assert_eq!(buffer.take().unwrap().id.number, 2);
        buffer.done(true);
        assert_eq!((buffer.last_needed(), buffer.take()), (0, None));
    }
}
