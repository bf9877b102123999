//! Every principal's buckets in this process's memory, in shards that outlive the actors.
//!
//! A check is arithmetic of some ten nanoseconds, so it locks its shard directly: a message to an actor and back would cost a
//! hundred times that, on every request. The [`RateLimiter`](super::actor::RateLimiter) actors, one for each group of shards,
//! remove idle principals; a check never depends on them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bucket::Rate;
use super::rate_buckets::{Charge, Charged, Entry, Limits, PARTS, RateBuckets, Subject};

/// Milliseconds without a request after which every bucket is full, whatever its limit
/// ([`Bucket`](super::bucket::Bucket) owes at most an hour), so that it can be removed.
pub const IDLE_MS: u64 = Rate::HOUR_MS;

fn is_idle(entry: &Entry, now_ms: u64) -> bool {
    entry.streams == 0 && now_ms.abs_diff(entry.last_ms) >= IDLE_MS
}

type Shard = HashMap<Subject, Entry>;

/// The buckets of all principals, for one server.
#[derive(Debug)]
pub struct Table {
    shards: Vec<Mutex<Shard>>,
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

impl Table {
    /// Returns the number of principals.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        (0..PARTS).map(|shard| self.lock(shard).len()).sum()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RateBuckets for Table {
    fn charge(&self, subject: Subject, now_ms: u64, limits: &Limits, charge: Charge) -> Charged {
        let mut shard = self.lock(subject.part());
        let entry = shard.entry(subject).or_insert(Entry { last_ms: now_ms, ..Entry::default() });
        entry.pass(now_ms, limits);
        let made = entry.charge(limits, charge);
        Charged { made, entry: *entry }
    }

    fn peek(&self, subject: Subject, now_ms: u64, limits: &Limits) -> Entry {
        let mut entry = self.lock(subject.part()).get(&subject).copied().unwrap_or_default();
        entry.pass(now_ms, limits);
        entry
    }

    fn end_stream(&self, subject: Subject) {
        if let Some(entry) = self.lock(subject.part()).get_mut(&subject) {
            entry.streams = entry.streams.saturating_sub(1);
        }
    }

    fn forget_idle(&self, part: usize, now_ms: u64) -> usize {
        let mut shard = self.lock(part);
        let before = shard.len();
        shard.retain(|_, entry| !is_idle(entry, now_ms));
        let forgotten = before - shard.len();
        if shard.capacity() > 4 * shard.len() + 64 {
            shard.shrink_to_fit();
        }
        forgotten
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
