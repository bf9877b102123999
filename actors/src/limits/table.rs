//! Every principal's buckets, in shards that outlive the actors.
//!
//! A check is arithmetic of some ten nanoseconds, so it locks its shard directly: a message to an actor and back would cost a
//! hundred times that, on every request. The [`RateLimiter`](super::actor::RateLimiter) actors, one for each group of shards,
//! remove idle principals; a check never depends on them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bucket::{Bucket, Rate};
use crate::identity::{ClientNet, KeyId, Party, UserId};

/// Number of shards.
pub const SHARDS: usize = 64;

/// Milliseconds without a request after which every bucket is full, whatever its limit ([`Bucket`] owes at most an hour), so that
/// it can be removed.
pub const IDLE_MS: u64 = Rate::HOUR_MS;

/// The owner of buckets: a user, a key or a network. 16 bytes for all three: ids are UUIDs of version 7, whose version is in the
/// seventh byte, where a network has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject([u8; 16]);

impl From<UserId> for Subject {
    fn from(id: UserId) -> Self {
        Self(id.to_bytes())
    }
}

impl From<KeyId> for Subject {
    fn from(id: KeyId) -> Self {
        Self(id.to_bytes())
    }
}

impl From<ClientNet> for Subject {
    fn from(net: ClientNet) -> Self {
        let mut bytes = [0; 16];
        match net {
            ClientNet::V4(octets) => bytes[12..].copy_from_slice(&octets),
            ClientNet::V6(prefix) => {
                bytes[7] = 1;
                bytes[8..].copy_from_slice(&prefix);
            }
        }
        Self(bytes)
    }
}

impl From<Party> for Subject {
    fn from(party: Party) -> Self {
        match party {
            Party::User(user) => user.into(),
            Party::Net(net) => net.into(),
        }
    }
}

impl Subject {
    /// Returns the number of the shard. The last bytes are the random ones of an id and the distinguishing ones of a network.
    fn shard(self) -> usize {
        let mix = self.0[8..].iter().fold(0u32, |mix, &byte| mix.wrapping_mul(31).wrapping_add(byte.into()));
        mix as usize % SHARDS
    }
}

/// One principal's buckets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// Time of the last refill (milliseconds).
    last_ms: u64,
    /// Requests per hour.
    pub requests: Bucket,
    /// Inference requests per minute.
    pub inference: Bucket,
    /// Answers per minute.
    pub answers: Bucket,
    /// Tokens per minute.
    pub tokens: Bucket,
    /// Failed sign-ins per hour.
    pub failures: Bucket,
    /// Number of open streams.
    pub streams: u32,
}

/// The limits that apply to one principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per hour.
    pub requests: Rate,
    /// Inference requests per minute.
    pub inference: Rate,
    /// Answers per minute.
    pub answers: Rate,
    /// Tokens per minute.
    pub tokens: Rate,
    /// Failed sign-ins per hour.
    pub failures: Rate,
    /// Maximum number of concurrent streams; 0: unlimited.
    pub streams: u32,
}

impl Entry {
    /// Refills the buckets up to `now_ms`. If the clock was set back, time continues from there: the bucket neither fills nor
    /// waits for the clock to catch up.
    pub fn pass(&mut self, now_ms: u64, limits: &Limits) {
        let elapsed = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        self.requests.refill(elapsed, limits.requests);
        self.inference.refill(elapsed, limits.inference);
        self.answers.refill(elapsed, limits.answers);
        self.tokens.refill(elapsed, limits.tokens);
        self.failures.refill(elapsed, limits.failures);
    }

    fn is_idle(&self, now_ms: u64) -> bool {
        self.streams == 0 && now_ms.abs_diff(self.last_ms) >= IDLE_MS
    }
}

type Shard = HashMap<Subject, Entry>;

/// The buckets of all principals.
#[derive(Debug)]
pub struct Table {
    shards: Vec<Mutex<Shard>>,
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Table {
    /// Calls a function with a principal's buckets as they are at `now_ms`.
    pub fn with<T>(
        &self,
        who: Subject,
        now_ms: u64,
        limits: &Limits,
        work: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let mut shard = self.lock(who.shard());
        let entry = shard.entry(who).or_insert(Entry { last_ms: now_ms, ..Entry::default() });
        entry.pass(now_ms, limits);
        work(entry)
    }

    /// Returns a copy of a principal's buckets as they are at `now_ms`, without creating an entry.
    pub fn peek(&self, who: Subject, now_ms: u64, limits: &Limits) -> Entry {
        let mut entry = self.lock(who.shard()).get(&who).copied().unwrap_or_default();
        entry.pass(now_ms, limits);
        entry
    }

    /// Ends a stream of that principal.
    pub fn end_stream(&self, who: Subject) {
        if let Some(entry) = self.lock(who.shard()).get_mut(&who) {
            entry.streams = entry.streams.saturating_sub(1);
        }
    }

    /// Removes the idle principals of one shard; returns how many.
    pub fn forget_idle(&self, shard: usize, now_ms: u64) -> usize {
        let mut shard = self.lock(shard);
        let before = shard.len();
        shard.retain(|_, entry| !entry.is_idle(now_ms));
        let forgotten = before - shard.len();
        if shard.capacity() > 4 * shard.len() + 64 {
            shard.shrink_to_fit();
        }
        forgotten
    }

    /// Returns the number of principals.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        (0..SHARDS).map(|shard| self.lock(shard).len()).sum()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
