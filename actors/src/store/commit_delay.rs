//! Adaptive commit delay: how long a batch waits for more writers.
//!
//! One sync serves all writes of a batch. Writers that were just answered write again a moment later; a batch that began
//! with the first of them would leave the others to the next batch, and two halves would alternate for ever, each with a
//! sync of its own. So a batch waits for as many writers as the last one had, for a fraction of the time that a sync
//! takes: where syncs are instant there is nothing to gain, and nothing is lost.

use std::time::Duration;

/// The delay is at most the duration of the last sync divided by this.
const SYNC_FRACTION: u32 = 4;

/// The delay is at most this, however long a sync takes.
const MAX_DELAY: Duration = Duration::from_millis(2);

/// The delay, as it follows from the last batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitDelay {
    writers: usize,
    sync: Duration,
}

impl CommitDelay {
    /// Records that a batch of `writes` took `sync` to become durable and that `queued` more arrived meanwhile.
    pub const fn record(&mut self, writes: usize, queued: usize, sync: Duration) {
        self.writers = writes + queued;
        self.sync = sync;
    }

    /// The remaining time that a batch of `writes` waits for another write; it has been idle for `idle`.
    #[must_use]
    pub fn remaining(&self, writes: usize, idle: Duration) -> Option<Duration> {
        if writes == 0 || writes >= self.writers {
            return None;
        }
        (self.sync / SYNC_FRACTION).min(MAX_DELAY).checked_sub(idle).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lone_writer_never_waits() {
        let mut delay = CommitDelay::default();
        assert_eq!(delay.remaining(1, Duration::ZERO), None);
        delay.record(1, 0, 4 * MS);
        assert_eq!(delay.remaining(1, Duration::ZERO), None);
    }

    #[test]
    fn alternating_halves_are_joined() {
        let mut delay = CommitDelay::default();
        delay.record(32, 32, 4 * MS);
        assert_eq!(delay.remaining(32, Duration::ZERO), Some(MS));
        assert_eq!(delay.remaining(33, MS / 4), Some(MS - MS / 4));
        assert_eq!(delay.remaining(64, Duration::ZERO), None);
        // All but one have stopped: the batch waits for them once.
        delay.record(1, 0, 4 * MS);
        assert_eq!(delay.remaining(1, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn delay_is_a_fraction_of_a_sync(writes in 0usize..100, noted in 0usize..100, queued in 0usize..100, sync in 0u64..1_000_000, idle in 0u64..1_000_000) {
            let mut delay = CommitDelay::default();
            let (sync, idle) = (Duration::from_micros(sync), Duration::from_micros(idle));
            delay.record(noted, queued, sync);
            if let Some(wait) = delay.remaining(writes, idle) {
                prop_assert!(wait + idle <= sync / 4 && wait <= MAX_DELAY);
                prop_assert!(0 < writes && writes < noted + queued);
            }
        }
    }
}
